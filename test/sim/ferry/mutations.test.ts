/**
 * The test of the histories of the ferry: the code is broken on purpose, in one way after the other, and the histories must
 * notice each within a bounded number. Method: methods of the code are replaced, or the disk lies; what is found is not made
 * shorter, only counted.
 */
import { describe, expect, test } from 'vitest';
import { historyOf } from './draw.ts';
import type { History, Step } from './history.ts';
import { FERRY_MUTATIONS, type FerryMutation } from './mutations.ts';
import { outcomeOf } from './run.ts';

const HISTORIES_MAX = 600;
/** On a machine that is slow and busy. */
const MUTATION_MS_MAX = 300_000;

/** The history of a seed; of reads: with one of a mirror behind every step. */
function playedAt(seed: number, { isOfReads = false }: FerryMutation): History {
  const history = historyOf(seed);
  if (!isOfReads) return history;
  const read = { ms: 0, kind: 'read', mirror: 0 } as const;
  const steps = history.steps.flatMap<Step>((step) => [
    { ...step, ms: Math.min(step.ms, 1) },
    { ...read, salt: 10_000 + step.salt },
    { ...read, salt: 20_000 + step.salt, ms: step.ms },
  ]);
  return { ...history, steps };
}

/** The number of histories until one fails, and how; null when none does. */
async function noticed(mutation: FerryMutation): Promise<{ after: number; what: string } | null> {
  const { patch, wrapDisk, from = 1 } = mutation;
  const mend = patch?.();
  try {
    for (let seed = from; seed < from + HISTORIES_MAX; seed += 1) {
      const { what } = await outcomeOf(playedAt(seed, mutation), wrapDisk);
      if (what !== null) return { after: seed, what };
    }
    return null;
  } finally {
    mend?.();
  }
}

describe('a ferry that is broken on purpose is noticed', () => {
  for (const mutation of FERRY_MUTATIONS) {
    test(mutation.name, { timeout: MUTATION_MS_MAX }, async () => {
      const found = await noticed(mutation);
      expect(found, `${HISTORIES_MAX} histories say nothing`).not.toBeNull();
      // It is the mutation that was noticed: without it the same history is sound.
      expect((await outcomeOf(playedAt(found!.after, mutation))).what).toBeNull();
      console.log(`${mutation.name}: history ${found?.after}: ${found?.what.split('\n')[0]}`);
    });
  }
});
