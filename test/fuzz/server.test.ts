/**
 * Hostile clients against the server: no byte that they send, and none that they leave out, does more than
 * end their own connection. Method: conversations from seeded dice, most of them right but for something, as
 * they are and with their bits damaged; once through the server in memory, where an oracle follows each reply
 * to its byte and looks for what is left behind, and once through the sockets and the TLS of a real node
 * with real volumes, beside a client that behaves and must not notice. 35 s in all; `npm run fuzz` goes on.
 */
import { describe, expect, it } from 'vitest';
import { memoryCase } from '../../scripts/fuzz/memory-case.ts';
import { RECORDINGS } from '../../scripts/fuzz/recordings.ts';
import { chosenSeed, expectNothingFound } from './run.ts';

const play = (seed: number, iteration: number): string =>
  JSON.stringify(memoryCase(seed, iteration, RECORDINGS));

describe('a server with hostile clients', () => {
  it.each([1, chosenSeed()])('in memory, seed %d', async (seed) => {
    await expectNothingFound('server-memory', seed, 8);
  });

  it.each([1, chosenSeed()])('as a process, seed %d', { timeout: 180_000 }, async (seed) => {
    await expectNothingFound('server-process', seed, 9);
  });

  it('is played the same by the same seed and iteration, and otherwise by others', () => {
    expect(play(3, 4)).toBe(play(3, 4));
    expect(play(3, 5)).not.toBe(play(3, 4));
    expect(play(4, 4)).not.toBe(play(3, 4));
  });
});
