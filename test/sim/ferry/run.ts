/** Plays histories of the ferry by their seeds; what fails is made shorter while it fails. */
import { freeArena } from '../arena.ts';
import { Wrong } from '../failure.ts';
import { historyOf } from './draw.ts';
import type { History, Step } from './history.ts';
import { Player, type WrapDisk } from './player.ts';

export interface Outcome {
  /** Null: nothing is wrong. */
  readonly what: string | null;
  readonly trace: readonly string[];
}

/** Whatever the code under test throws in its callbacks is wrong too. */
export async function outcomeOf(history: History, wrapDisk?: WrapDisk): Promise<Outcome> {
  let rejected: unknown = null;
  const note = (reason: unknown): void => {
    rejected ??= reason;
  };
  process.on('unhandledRejection', note);
  const player = new Player(history, wrapDisk);
  let what: string | null = null;
  try {
    await player.play();
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  } catch (thrown) {
    what = thrown instanceof Wrong ? thrown.message : `thrown: ${textOf(thrown)}`;
  } finally {
    process.off('unhandledRejection', note);
    freeArena();
  }
  // What follows from it may have been noticed first.
  if (rejected !== null) {
    const thrown = `nobody waits for: ${textOf(rejected)}`;
    what = what === null ? thrown : `${thrown}; ${what}`;
  }
  return { what, trace: player.trace };
}

function textOf(thrown: unknown): string {
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
}

const TRIES_MAX = 150;

/** A history with fewer steps that fails, whatever the words. */
async function shortened(history: History, wrapDisk?: WrapDisk): Promise<History> {
  let best = history;
  let tries = 0;
  for (let size = Math.ceil(history.steps.length / 2); size >= 1; size = Math.floor(size / 2)) {
    for (let at = best.steps.length - size; at >= 0 && tries < TRIES_MAX; at -= size) {
      const steps: readonly Step[] = best.steps.toSpliced(at, size);
      tries += 1;
      const candidate = { ...best, steps };
      if ((await outcomeOf(candidate, wrapDisk)).what !== null) best = candidate;
    }
  }
  return best;
}

export interface Found {
  readonly seed: number;
  readonly what: string;
  readonly steps: number;
  readonly short: History;
  readonly outcome: Outcome;
}

/** Errors are many, and where they come from is asked of those alone that nobody meant. */
async function outcomeWithoutStacks(history: History): Promise<string | null> {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    return (await outcomeOf(history)).what;
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

/** Plays one seed; null when nothing is wrong. */
export async function tryFerry(seed: number): Promise<Found | null> {
  const history = historyOf(seed);
  if ((await outcomeWithoutStacks(history)) === null) return null;
  const what = (await outcomeOf(history)).what ?? 'something, and nothing when it was played again';
  const short = await shortened(history);
  return { seed, what, steps: history.steps.length, short, outcome: await outcomeOf(short) };
}

const TRACE_SHOWN = 80;

export function reportOf({ seed, what, steps, short, outcome }: Found): string {
  const { steps: left, ...machines } = short;
  return [
    `seed ${seed}: ${what}`,
    `  play it again: npm run simulate -- --ferry --seed ${seed} --histories 1`,
    `  of its ${steps} steps these ${left.length} are enough: ${outcome.what ?? 'nothing, this time'}`,
    `  ${JSON.stringify(machines)}`,
    ...left.map((step) => `    ${JSON.stringify(step)}`),
    '  what happened, in milliseconds:',
    ...outcome.trace.slice(-TRACE_SHOWN).map((line) => `  ${line}`),
  ].join('\n');
}
