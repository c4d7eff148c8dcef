/**
 * Hostile servers against our client, and against a primary that has them as mirrors: requests are answered
 * once and truly, the host does not feel it, and no mirror is called in step that is not. Method: servers that
 * keep to the protocol up to a byte or a request from seeded dice, and then do one of thirty wrong things;
 * with the client in memory, and with a real primary, whose mirrors come to their senses in the end.
 * 25 s in all; `npm run fuzz -- --target client` goes on.
 */
import { describe, it } from 'vitest';
import { chosenSeed, expectNothingFound } from './run.ts';

describe('a client of hostile servers', () => {
  it.each([1, chosenSeed()])('in memory, seed %d', async (seed) => {
    await expectNothingFound('client-memory', seed, 2);
  });

  it.each([1, chosenSeed()])(
    'in a primary with hostile mirrors, seed %d',
    { timeout: 300_000 },
    async (seed) => {
      await expectNothingFound('client-process', seed, 5);
    },
  );
});
