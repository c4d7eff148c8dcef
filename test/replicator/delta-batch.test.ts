/**
 * How a delta run cuts blocks into batches: every block of the set once, data and zeroes apart, nothing larger
 * than its limit, reads joined across small gaps. Random sets and maps, and volumes past 2^32 blocks.
 */
import { describe, expect, it } from 'vitest';
import { BLOCK_BYTES, DELTA_BATCH_BYTES, DELTA_ZERO_BYTES_MAX } from '../../src/io/limits.ts';
import {
  BatchPlanner,
  type DataBatch,
  type ZeroBatch,
} from '../../src/replicator/runs/delta-batch.ts';
import { BlockSet } from '../../src/volume/maps/block-set.ts';
import { seeded } from './support/host.ts';

/** What a volume's map says: `data` blocks hold something. */
function planner(data: BlockSet): BatchPlanner {
  return new BatchPlanner({
    runAt: (offset, end) => {
      const first = offset / BLOCK_BYTES;
      const runEnd = data.runEnd(first, Math.ceil(end / BLOCK_BYTES));
      return { end: Math.min(end, runEnd * BLOCK_BYTES), zero: !data.has(first) };
    },
  });
}

function batches(data: BlockSet, set: BlockSet): (DataBatch | ZeroBatch)[] {
  const all: (DataBatch | ZeroBatch)[] = [];
  const plan = planner(data);
  for (let batch = plan.next(set, 0); batch !== null; batch = plan.next(set, batch.end)) {
    expect(batch.end).toBeGreaterThan(batch.first);
    all.push(batch);
  }
  return all;
}

function scattered(count: number, random: () => number, share: number): BlockSet {
  const set = new BlockSet(count);
  for (let at = 0; at < count;) {
    const length = 1 + Math.floor(random() ** 4 * 600);
    if (random() < share) set.add(at, Math.min(length, count - at));
    at += length;
  }
  return set;
}

describe('the batches of a delta run', () => {
  it.each([1, 2, 3, 4])(
    'hold every block of the set once, as data or as zeroes (seed %i)',
    (seed) => {
      const random = seeded(seed);
      const count = 20_000;
      const data = scattered(count, random, 0.6);
      const set = scattered(count, random, 0.5);
      const left = set.clone();
      for (const batch of batches(data, set)) {
        for (const piece of batch.pieces) {
          expect(left.remove(piece.first, piece.count)).toBe(piece.count);
          for (let block = piece.first; block < piece.first + piece.count; block += 1) {
            expect(data.has(block)).toBe(batch.kind === 'data');
          }
          expect(piece.first).toBeGreaterThanOrEqual(batch.first);
          expect(piece.first + piece.count).toBeLessThanOrEqual(batch.end);
        }
      }
      expect(left.count).toBe(0);
    },
  );

  it.each([5, 6])('are bounded, and read no more than a little beside (seed %i)', (seed) => {
    const random = seeded(seed);
    const data = scattered(30_000, random, 0.7);
    for (const batch of batches(data, scattered(30_000, random, 0.4))) {
      const limit = batch.kind === 'data' ? DELTA_BATCH_BYTES : DELTA_ZERO_BYTES_MAX;
      expect((batch.end - batch.first) * BLOCK_BYTES).toBeLessThanOrEqual(limit);
      if (batch.kind === 'zero') continue;
      const wanted = batch.pieces.reduce((sum, { count }) => sum + count, 0);
      const read = batch.spans.reduce((sum, { count }) => sum + count, 0);
      expect(read - wanted).toBeLessThanOrEqual(8 * (batch.pieces.length - 1));
      expect(batch.spans.length).toBeLessThanOrEqual(batch.pieces.length);
      for (const [index, span] of batch.spans.entries()) {
        const before = batch.spans[index - 1];
        if (before !== undefined) {
          expect(span.first - (before.first + before.count)).toBeGreaterThan(8);
        }
      }
    }
  });

  it('take holes in large steps', () => {
    const count = (3 * DELTA_ZERO_BYTES_MAX) / BLOCK_BYTES + 5;
    const set = new BlockSet(count);
    set.addAll();
    expect(batches(new BlockSet(count), set).map(({ kind }) => kind)).toEqual(
      Array(4).fill('zero'),
    );
  });

  it('reach past 2^32 blocks', () => {
    const count = 2 ** 33;
    const set = new BlockSet(count);
    const data = new BlockSet(count);
    for (const block of [2 ** 31 - 1, 2 ** 31, 2 ** 32, count - 1]) {
      set.add(block, 1);
      data.add(block, 1);
    }
    set.add(2 ** 32 + 7, 3);
    const seen = batches(data, set).map(({ kind, pieces }) => [kind, pieces]);
    expect(seen).toEqual([
      ['data', [{ first: 2 ** 31 - 1, count: 2 }]],
      ['data', [{ first: 2 ** 32, count: 1 }]],
      ['zero', [{ first: 2 ** 32 + 7, count: 3 }]],
      ['data', [{ first: count - 1, count: 1 }]],
    ]);
  });
});
