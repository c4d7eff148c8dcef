/** What the tests of import and export share: images with holes, the space of files, runs that are killed. */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from 'node:fs';
import { randomBytes } from 'node:crypto';
import type { TestNode } from './node.ts';
import { run, start, type ManagedProcess, type RunResult } from './process.ts';
import { BLOCKFERRY_BIN } from './root.ts';
import type { Scope } from './scope.ts';
import { waitUntil } from './wait.ts';

export const MIB: number = 1024 * 1024;

/** Random bytes at the given places, written zeroes at others, holes elsewhere. */
export function makeImage(
  file: string,
  sizeBytes: number,
  parts: {
    readonly data: readonly (readonly [number, number])[];
    readonly zeroes?: readonly (readonly [number, number])[];
  },
): void {
  const handle = openSync(file, 'w');
  ftruncateSync(handle, sizeBytes);
  for (const [offset, length] of parts.zeroes ?? []) {
    writeSync(handle, Buffer.alloc(length), 0, length, offset);
  }
  for (const [offset, length] of parts.data) {
    for (let at = 0; at < length; at += MIB) {
      const bytes = Math.min(MIB, length - at);
      writeSync(handle, randomBytes(bytes), 0, bytes, offset + at);
    }
  }
  closeSync(handle);
}

/** Bytes that a file takes on the disk. */
export const spaceOf = (file: string): number => statSync(file).blocks * 512;

/** What the command line of a test sees of the user: a home of its own, for bookmarks. */
export interface Home {
  readonly env: NodeJS.ProcessEnv;
}

export function homeOf(scope: Scope): Home {
  return { env: { XDG_STATE_HOME: scope.tempDir('bf-state-') } };
}

export interface TransferEvent {
  readonly event: 'begun' | 'progress' | 'done';
  readonly [field: string]: string | number | null;
}

/** The objects of a run with --json; what is cut off at the end is left out. */
export function eventsOf(stdout: string): TransferEvent[] {
  const lines = stdout.split('\n').slice(0, -1);
  return lines.map((line) => JSON.parse(line) as TransferEvent);
}

const argsOf = (node: TestNode, args: readonly string[]): string[] => [
  BLOCKFERRY_BIN,
  'volume',
  ...args,
  '--control',
  `unix:${node.controlSocket}`,
];

/** `blockferry volume ARGS`, to its end. */
export async function transfer(
  node: TestNode,
  home: Home,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<RunResult> {
  const options = { env: { ...home.env, ...env }, allowFailure: true, timeoutMs: 120_000 };
  return await run(process.execPath, argsOf(node, args), options);
}

/** The same, which has to work. The last event of `--json`. */
export async function transferred(
  node: TestNode,
  home: Home,
  args: readonly string[],
): Promise<TransferEvent> {
  const { code, stdout, stderr } = await transfer(node, home, [...args, '--json']);
  const last = eventsOf(stdout).at(-1);
  if (code !== 0 || last?.event !== 'done') {
    throw new Error(`exit ${String(code)}: ${args.join(' ')}\n${stdout}${stderr}`);
  }
  return last;
}

/** The code that a run was refused with, from its one line on stderr. */
export async function refusal(
  node: TestNode,
  home: Home,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  const { code, stderr } = await transfer(node, home, args, env);
  if (code === 0) return 'done';
  return /\[([A-Z_]+)\]\n$/.exec(stderr)?.[1] ?? stderr;
}

/** Runs until its bookmark tells of at least `bytes`, then ends it. Returns where it was. */
export async function interrupt(
  scope: Scope,
  node: TestNode,
  home: Home,
  args: readonly string[],
  options: {
    readonly bookmark: () => string | undefined;
    readonly bytes: number;
    readonly signal: NodeJS.Signals;
  },
): Promise<{ position: number; child: ManagedProcess }> {
  const child = start(scope, process.execPath, argsOf(node, [...args, '--json']), {
    env: home.env,
  });
  await waitUntil(
    'a bookmark',
    () => {
      return !child.running || positionIn(options.bookmark()) >= options.bytes;
    },
    { timeoutMs: 30_000, onTimeout: () => child.output },
  );
  if (!child.running) throw new Error(`it ended before: ${child.output}`);
  child.signal(options.signal);
  await child.waitForExit(10_000);
  return { position: positionIn(options.bookmark()), child };
}

function positionIn(path: string | undefined): number {
  if (path === undefined || !existsSync(path)) return -1;
  return (JSON.parse(readFileSync(path, 'utf8')) as { position: number }).position;
}
