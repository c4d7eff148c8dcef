/** The results of drills for a person: a line for each round, and a table for docs/drills.md. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import type { RoundResult } from './frame.ts';
import { blockferryBin } from './node.ts';
import { countText, sizeText } from './timeline.ts';

const HEAD = [
  'drill',
  'mode',
  'client',
  'RPO',
  'RTO',
  'resent / changed',
  'longest wait (calm)',
  'verdict',
];

function lossText({ lostWrites, lostMs }: RoundResult['figures']): string {
  if (lostWrites === null) return '';
  return lostWrites === 0 ? '0' : `${countText(lostWrites)} writes, ${secondsText(lostMs ?? 0)}`;
}

function secondsText(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 100 ? 3 : 2)} s`;
}

function bytesText({ resentBytes, changedBytes }: RoundResult['figures']): string {
  if (resentBytes === null || changedBytes === null) return '';
  return `${sizeText(resentBytes)} / ${sizeText(changedBytes)}`;
}

function waitText({ stallMs, calmStallMs }: RoundResult['figures']): string {
  if (stallMs === null) return '';
  const calm = calmStallMs === null ? '' : ` (${Math.round(calmStallMs)} ms)`;
  return `${Math.round(stallMs)} ms${calm}`;
}

function verdictText({ outcome, why }: RoundResult): string {
  if (outcome === 'skipped') return `skipped: ${why ?? ''}`;
  return outcome === 'sound' ? 'sound' : outcome.toUpperCase();
}

function cells(result: RoundResult): string[] {
  const { figures } = result;
  const recovery = figures.recoveryMs === null ? '' : secondsText(figures.recoveryMs);
  return [
    result.drill,
    result.mode,
    result.client === 'kernel' ? 'kernel' : '',
    lossText(figures),
    recovery,
    bytesText(figures),
    waitText(figures),
    verdictText(result),
  ];
}

/** One round in one line. */
export function summaryLine(result: RoundResult): string {
  const named = ['RPO', 'RTO', 'resent / changed', 'longest wait (calm)'];
  const told = cells(result)
    .slice(3, 7)
    .map((cell, index) => (cell === '' ? null : `${named[index] ?? ''} ${cell}`))
    .filter((cell) => cell !== null);
  const { drill, mode, client, seconds } = result;
  const verdict = verdictText(result);
  const used = client === 'kernel' ? ', kernel client' : '';
  return [`${drill}, ${mode}${used}: ${verdict} in ${seconds.toFixed(1)} s`, ...told].join('; ');
}

/** A table in Markdown, its columns aligned as prettier does it. */
export function report(results: readonly RoundResult[]): string {
  const rows = [HEAD, ...results.map(cells)];
  const widths = HEAD.map((_, column) =>
    Math.max(3, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const line = (row: readonly string[]): string =>
    `| ${widths.map((width, column) => (row[column] ?? '').padEnd(width)).join(' | ')} |`;
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
  return [line(HEAD), rule, ...results.map((result) => line(cells(result)))].join('\n');
}

/** From this heading on docs/drills.md is written by hand, and kept. */
const BY_HAND = '\n## Longer runs\n';

/** Writes docs/drills.md of the checkout. */
export function writeReport(results: readonly RoundResult[], short: boolean): void {
  const root = dirname(dirname(blockferryBin()));
  const [first] = results;
  const machine = `${cpus().length} cores, ${sizeText(totalmem())} of memory`;
  const text = `# What the drills found

Written by \`npm run drill -- all --seed ${first?.seed ?? 0}${short ? ' --short' : ''}\`, which holds every drill once in each of its modes with real processes on one
machine (${machine}). [How to hold them and read the results](operating/drills.md).

- **RPO**: answered writes that the surviving copy lacks, and the time that they span. In sync mode it must be 0, and in a switchover in either.
- **RTO**: from the death of the primary, or the command of the switchover, until the other node takes writes, what notices it included.
- **resent / changed**: bytes that travelled to bring both sides together, and bytes of blocks that had changed (of writes, in \`link-outage\` where no delta run was needed).
- **client**: \`kernel\` where a Linux kernel had the volume attached, with a file system and load on it.
- **longest wait**: of a client that writes 4 KiB at a time, for one answer; of a kernel, for the sync of one line in a file; in brackets while nothing
  was wrong. It is that of a machine that runs both nodes, the load and the judges.

${report(results)}
`;
  const path = join(root, 'docs', 'drills.md');
  const before = existsSync(path) ? readFileSync(path, 'utf8') : '';
  const kept = before.includes(BY_HAND) ? before.slice(before.indexOf(BY_HAND)) : '';
  writeFileSync(path, `${text}${kept}`);
}
