/** The results as Markdown, for a terminal and for docs/benchmarks.md alike. */
import { execFileSync } from 'node:child_process';
import { cpus, release, totalmem } from 'node:os';
import { median, type Measured, type Series } from './measure.ts';
import type { Workload } from './workloads.ts';

function amount(value: number, unit: Workload['unit']): string {
  if (unit === 'bytes') return `${(value / 1e9).toFixed(2)} GB/s`;
  return `${(value / 1000).toFixed(1)} k/s`;
}

function cell(series: Series, unit: Workload['unit']): string {
  const middle = amount(median(series.samples), unit);
  if (series.samples.length < 2) return middle;
  const [low, high] = [Math.min(...series.samples), Math.max(...series.samples)];
  return `${middle} (${amount(low, unit).split(' ')[0]} - ${amount(high, unit).split(' ')[0]})`;
}

export function ratio(measured: Measured, reference: string): number {
  const of = (name: string): number =>
    median(measured.series.find((series) => series.contender === name)?.samples ?? []);
  return of('blockferry') / of(reference);
}

function markdown(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((text, i) => text.padEnd(widths[i] ?? 0)).join(' | ')} |`;
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`;
  const [head = [], ...body] = rows;
  return [line(head), rule, ...body.map(line)].join('\n');
}

/** One row a workload: medians (least - greatest), and the ratio of medians beside its target. */
export function speedTable(results: readonly Measured[], reference: string): string {
  const names = results[0]?.series.map((series) => series.contender) ?? [];
  const head = ['workload', ...names, `ratio to ${reference}`, 'target'];
  const rows = results.map((measured) => [
    measured.workload.name,
    ...measured.series.map((series) => cell(series, measured.workload.unit)),
    ratio(measured, reference).toFixed(2),
    measured.workload.target === undefined ? '' : `>= ${measured.workload.target}`,
  ]);
  return markdown([head, ...rows]);
}

/** Seconds from the end of a round until the mirror held everything: median and greatest. */
export function catchUpTable(results: readonly Measured[]): string {
  const names = results[0]?.series.map((series) => series.contender) ?? [];
  const rows = results.map((measured) => [
    measured.workload.name,
    ...measured.series.map(({ catchUpSeconds: seconds }) =>
      seconds.length === 0
        ? ''
        : `${median(seconds).toFixed(2)} (${Math.max(...seconds).toFixed(2)})`,
    ),
  ]);
  return markdown([['seconds until the mirror is equal: median (greatest)', ...names], ...rows]);
}

export interface Surroundings {
  readonly time: string;
  readonly node: string;
  readonly kernel: string;
  readonly cpu: string;
  readonly memory_gib: number;
  readonly tools: readonly string[];
}

function firstLine(command: string): string {
  try {
    return (execFileSync(command, ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? '').trim();
  } catch {
    return `${command}: unknown`;
  }
}

export function surroundings(): Surroundings {
  const all = cpus();
  return {
    time: new Date().toISOString(),
    node: process.version,
    kernel: release(),
    cpu: `${all.length} x ${all[0]?.model ?? 'unknown'}`,
    memory_gib: Math.round(totalmem() / 2 ** 30),
    tools: ['fio', 'nbdkit', 'qemu-nbd', 'qemu-storage-daemon'].map(firstLine),
  };
}
