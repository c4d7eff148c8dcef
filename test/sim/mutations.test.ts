/**
 * The test of the histories: the code is broken on purpose, in one way after the other, and the histories must notice
 * each within a bounded number. Method: methods of the code are replaced, or the disk lies; what is found is not made
 * shorter, only counted.
 */
import { describe, expect, test } from 'vitest';
import { historyOf } from './history.ts';
import { MUTATIONS, type Mutation } from './mutations.ts';
import { failureOf } from './run.ts';

/** On a machine that is slow and busy. */
const MUTATION_MS_MAX = 300_000;
const HISTORIES_MAX = 400;

/** The number of histories until one fails, and how; null when none does. */
async function noticed({
  patch,
  wrapDisk,
}: Mutation): Promise<{ after: number; what: string } | null> {
  const mend = patch?.();
  try {
    for (let seed = 1; seed <= HISTORIES_MAX; seed += 1) {
      const what = await failureOf(historyOf(seed), wrapDisk);
      if (what !== null) return { after: seed, what };
    }
    return null;
  } finally {
    mend?.();
  }
}

describe('code that is broken on purpose is noticed', () => {
  for (const mutation of MUTATIONS) {
    test(mutation.name, { timeout: MUTATION_MS_MAX }, async () => {
      const found = await noticed(mutation);
      expect(found, `${HISTORIES_MAX} histories say nothing`).not.toBeNull();
      // It is the mutation that was noticed: without it the same history is sound.
      expect(await failureOf(historyOf(found!.after))).toBeNull();
      console.log(`${mutation.name}: history ${found?.after}: ${found?.what.split('\n')[0]}`);
    });
  }
});
