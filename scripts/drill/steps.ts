/** Steps that several drills take. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { unmount } from './filesystem.ts';
import type { Round } from './frame.ts';
import type { DrilledNode } from './node.ts';
import { run, until } from './process.ts';
import { type Stage, VOLUME } from './stage.ts';
import type { Writer } from './writer.ts';

const EVENT_MS_MAX = 30_000;

/** Writes a configuration file, and returns the options of `serve` that name it. */
export function writeConfig(round: Round, node: string, text: string): string[] {
  const path = join(round.directory, `${node}.toml`);
  writeFileSync(path, text);
  return ['--config', path];
}

/** Waits until a node told of an event of this kind whose message matches, and returns the message. */
export async function waitEvent(
  round: Round,
  node: DrilledNode,
  wanted: { readonly kind: string; readonly message: RegExp },
): Promise<string> {
  const what = `${node.name} to tell of ${wanted.kind}, ${String(wanted.message)}`;
  const { signal } = round;
  return await until({ what, timeoutMs: EVENT_MS_MAX, everyMs: 200, signal }, async () => {
    const lines = (await node.command('events', '--json')).trim().split('\n');
    const events = lines.map((line) => JSON.parse(line) as { kind: string; message: string });
    const found = events.findLast(
      ({ kind, message }) => kind === wanted.kind && wanted.message.test(message),
    );
    return found?.message ?? null;
  });
}

/** What follows after the primary died and came back, or the mirror: equal again, without a command, nothing answered is missing. */
export async function convergeAfter(stage: Stage, writer: Writer): Promise<void> {
  await stage.settle();
  await stage.expectEqual();
  const shown = await stage.state(stage.beta.uri(VOLUME));
  stage.round.expect(
    shown >= writer.writes,
    `the primary answered ${writer.writes} writes, only ${shown} are there`,
  );
}

/** Refused with one line, nothing changed. Returns the line. */
export async function expectRefusal(
  round: Round,
  node: DrilledNode,
  args: readonly string[],
): Promise<string> {
  const { code, stdout, stderr } = await node.attempt(args);
  const refused = code === 1 && stdout === '' && /^blockferry: [^\n]+ \[[A-Z_]+\]\n$/.test(stderr);
  round.expect(refused, `${args.join(' ')} on ${node.name}: exit ${code}, ${stdout}${stderr}`);
  return stderr.trim();
}

/** A disk that can be full: a tmpfs with a file on it that takes what shall not be free. */
export class SmallDisk {
  readonly path: string;
  private readonly ballast: string;

  private constructor(path: string) {
    this.path = path;
    this.ballast = join(path, 'ballast');
  }

  static async mount(round: Round, name: string, sizeBytes: number): Promise<SmallDisk> {
    const path = join(round.directory, name);
    mkdirSync(path);
    await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'tmpfs', path]);
    round.undo.add(`unmount ${path}`, () => unmount(path));
    return new SmallDisk(path);
  }

  /** Leaves so many bytes free. */
  async leave(freeBytes: number): Promise<void> {
    const { bavail, bsize } = await statfs(this.path);
    const bytes = bavail * bsize - freeBytes;
    if (bytes <= 0) throw new Error(`only ${bavail * bsize} bytes are free`);
    await run('fallocate', ['--length', String(bytes), this.ballast]);
  }

  clear(): void {
    rmSync(this.ballast, { force: true });
  }
}
