/** Plays histories by their seeds; what fails is made shorter while it fails in the same way. */
import type { Disk } from '../../src/io/disk.ts';
import { freeArena } from './arena.ts';
import { Wrong } from './failure.ts';
import { historyOf, type History, type Step } from './history.ts';
import { Player } from './player.ts';
import type { SimDisk } from './sim-disk.ts';

export type WrapDisk = (disk: SimDisk) => Disk;

/** What is wrong, or null. Whatever the code under test throws in its callbacks is wrong too. */
export async function failureOf(history: History, wrapDisk?: WrapDisk): Promise<string | null> {
  let rejected: unknown = null;
  const note = (reason: unknown): void => {
    rejected ??= reason;
  };
  process.on('unhandledRejection', note);
  try {
    await new Player(history, wrapDisk).play();
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    return rejected === null ? null : `nobody waits for: ${textOf(rejected)}`;
  } catch (thrown) {
    return thrown instanceof Wrong ? thrown.message : `thrown: ${textOf(thrown)}`;
  } finally {
    process.off('unhandledRejection', note);
    freeArena();
  }
}

function textOf(thrown: unknown): string {
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
}

const TRIES_MAX = 300;

/** A history with fewer steps that fails, whatever the words. */
export async function shortened(history: History, wrapDisk?: WrapDisk): Promise<History> {
  let best = history;
  let tries = 0;
  const attempt = async (steps: readonly Step[]): Promise<boolean> => {
    tries += 1;
    if (tries > TRIES_MAX) return false;
    const candidate = { ...best, steps };
    if ((await failureOf(candidate, wrapDisk)) === null) return false;
    best = candidate;
    return true;
  };
  for (let size = Math.ceil(history.steps.length / 2); size >= 1; size = Math.floor(size / 2)) {
    for (let at = best.steps.length - size; at >= 0; at -= size) {
      await attempt(best.steps.toSpliced(at, size));
    }
  }
  return best;
}

export interface Found {
  readonly seed: number;
  readonly what: string;
  readonly steps: number;
  readonly short: History;
  readonly shortWhat: string;
}

/** Plays one seed; null when nothing is wrong. */
export async function tryHistory(seed: number, wrapDisk?: WrapDisk): Promise<Found | null> {
  const history = historyOf(seed);
  const what = await failureOf(history, wrapDisk);
  if (what === null) return null;
  const short = await shortened(history, wrapDisk);
  const shortWhat = (await failureOf(short, wrapDisk)) ?? what;
  return { seed, what, steps: history.steps.length, short, shortWhat };
}

export function reportOf({ seed, what, steps, short, shortWhat }: Found): string {
  const { traits, volumes, startsFull, compactBytes } = short;
  return [
    `seed ${seed}: ${what}`,
    `  play it again: npm run simulate -- --seed ${seed} --histories 1`,
    `  of its ${steps} steps these ${short.steps.length} are enough: ${shortWhat}`,
    `  volumes of ${volumes.join(' and ')} blocks, ${JSON.stringify({ ...traits, startsFull, compactBytes })}`,
    ...short.steps.map((step) => `    ${JSON.stringify(step)}`),
    `  finally: ${short.finally}`,
  ].join('\n');
}
