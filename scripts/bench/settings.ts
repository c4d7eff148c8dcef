/** The command line of the benchmark. */
import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';

export const USAGE = `usage: npm run bench -- [options]
  --quick        under ten minutes instead of about half an hour
  --rows REGEX   rows whose name matches, in upper or lower case
  --rounds N     rounds of each row (default 5, quick 2)
  --seconds S    length of a round (default 4, quick 1)
  --size MIB     size of the disks (default 1024, quick 512)
  --dir DIR      where the disks lie (default the directory for temporary files)
  --node V       also under Node V, the npm package node@V; may be repeated. Leaves qemu-nbd out
  --json FILE    every sample, into a file
  --check        exit 1 when a target is missed
  --profile DIR  blockferry runs with --cpu-prof and leaves its profiles there (slower; use it with --rows)`;

export interface Settings {
  readonly quick: boolean;
  readonly check: boolean;
  readonly rows: RegExp;
  readonly rounds: number;
  readonly roundMs: number;
  readonly sizeBytes: number;
  readonly dir: string;
  readonly nodes: readonly string[];
  readonly json: string | null;
  readonly profile: string | null;
}

function numberOf(text: string | undefined, otherwise: number, name: string, max: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!(value > 0) || value > max) throw new Error(`${name} takes a number up to ${max}`);
  return value;
}

function countOf(text: string | undefined, otherwise: number, name: string, max: number): number {
  const value = numberOf(text, otherwise, name, max);
  if (!Number.isInteger(value)) throw new Error(`${name} takes a whole number`);
  return value;
}

function pathOf(text: string | undefined): string | null {
  return text === undefined ? null : resolve(text);
}

/** Null when help was asked for; throws on words that it does not know. */
export function settingsFrom(args: readonly string[]): Settings | null {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      check: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
      rows: { type: 'string', default: '' },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      size: { type: 'string' },
      dir: { type: 'string', default: tmpdir() },
      node: { type: 'string', multiple: true, default: [] },
      json: { type: 'string' },
      profile: { type: 'string' },
    },
  });
  if (values.help) return null;
  const { quick, check } = values;
  for (const version of values.node) {
    if (!/^\d+(\.\d+){0,2}$/.test(version)) throw new Error('--node takes a version: 24, 24.1.0');
  }
  return {
    quick,
    check,
    rows: new RegExp(values.rows, 'i'),
    rounds: countOf(values.rounds, quick ? 2 : 5, '--rounds', 100),
    roundMs: Math.round(numberOf(values.seconds, quick ? 1 : 4, '--seconds', 60) * 1000),
    sizeBytes: countOf(values.size, quick ? 512 : 1024, '--size', 65536) * 2 ** 20,
    dir: resolve(values.dir),
    nodes: values.node,
    json: pathOf(values.json),
    profile: pathOf(values.profile),
  };
}
