/**
 * How a run cuts frozen content into batches: every wanted block once, data packed without the space between it, nothing past
 * its bounds. Method: random sets and maps, and volumes past 2^32 blocks.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK_BYTES, DELTA_BATCH_BYTES, ZERO_PART_BYTES } from '../../src/io/limits.ts';
import { LOOKS_MAX, nextBatch, type RunBatch } from '../../src/replicator/runs/run-batches.ts';
import type { FrozenSource } from '../../src/replicator/runs/frozen-source.ts';
import { BlockSet } from '../../src/volume/maps/block-set.ts';
import { seeded } from './support/host.ts';

const BATCH_BLOCKS = DELTA_BATCH_BYTES / BLOCK_BYTES;

/** What a map says: `data` blocks hold something. */
function mapOf(data: BlockSet, looked?: () => void): FrozenSource {
  return {
    sizeBytes: data.blockCount * BLOCK_BYTES,
    read: () => {
      throw new Error('nothing is read');
    },
    runAt: (offset, end) => {
      looked?.();
      const first = offset / BLOCK_BYTES;
      const runEnd = data.runEnd(first, Math.ceil(end / BLOCK_BYTES));
      return { end: Math.min(end, runEnd * BLOCK_BYTES), zero: !data.has(first) };
    },
  };
}

function batches(data: BlockSet, set: BlockSet, from = 0): RunBatch[] {
  const all: RunBatch[] = [];
  const source = mapOf(data);
  for (let cursor = from; ;) {
    const batch = nextBatch(source, set, cursor);
    if (batch === null) return all;
    expect(batch.end).toBeGreaterThan(cursor);
    cursor = batch.end;
    all.push(batch);
  }
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

describe('the batches of a run', () => {
  it('hold every wanted block once, before their end, packed in their buffer', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 8000 }), (seed, count) => {
        const random = seeded(seed);
        const data = scattered(count, random, 0.6);
        const set = scattered(count, random, 0.5);
        const left = set.clone();
        let begin = 0;
        for (const batch of batches(data, set)) {
          const inBuffer = new Map<number, number>();
          for (const { first, count: blocks, at } of batch.spans) {
            expect(at).toBe(inBuffer.size);
            for (let index = 0; index < blocks; index += 1) inBuffer.set(first + index, at + index);
          }
          expect(inBuffer.size).toBe(batch.blocks);
          expect(batch.blocks).toBeLessThanOrEqual(BATCH_BLOCKS);
          for (const piece of batch.pieces) {
            expect(left.remove(piece.first, piece.count)).toBe(piece.count);
            for (let index = 0; index < piece.count; index += 1) {
              expect(inBuffer.get(piece.first + index)).toBe(piece.at + index);
            }
          }
          for (const run of batch.zeroes) {
            expect(left.remove(run.first, run.count)).toBe(run.count);
            expect(data.has(run.first)).toBe(false);
            expect(data.runEnd(run.first, count)).toBeGreaterThanOrEqual(run.first + run.count);
          }
          const places = [...batch.pieces, ...batch.zeroes];
          for (const { first, count: blocks } of places) {
            expect(first).toBeGreaterThanOrEqual(begin);
            expect(first + blocks).toBeLessThanOrEqual(batch.end);
          }
          begin = batch.end;
          // Nothing wanted was left behind.
          const next = left.nextRun(0, 1);
          if (next !== null) expect(next.first).toBeGreaterThanOrEqual(batch.end);
        }
        expect(left.count).toBe(0);
      }),
      { numRuns: 80, seed: 4 },
    );
  });

  it('read little beside what is wanted', () => {
    const random = seeded(3);
    const data = scattered(50_000, random, 0.7);
    for (const batch of batches(data, scattered(50_000, random, 0.4))) {
      const wanted = batch.pieces.reduce((sum, { count }) => sum + count, 0);
      expect(batch.blocks - wanted).toBeLessThanOrEqual(8 * batch.pieces.length);
      expect(batch.spans.length).toBeLessThanOrEqual(batch.pieces.length);
    }
  });

  it('are full where the wanted blocks are far apart', () => {
    const count = 400_000;
    const data = new BlockSet(count);
    data.addAll();
    const set = new BlockSet(count);
    for (let block = 50; block < count; block += 400) set.add(block, 1);
    expect(batches(data, set).map(({ blocks }) => blocks)).toEqual([256, 256, 256, 232]);
  });

  it('look at the map no more than so often', () => {
    const count = 4 * LOOKS_MAX;
    const set = new BlockSet(count);
    for (let block = 0; block < count; block += 2) set.add(block, 1);
    let looks = 0;
    const source = mapOf(new BlockSet(count), () => {
      looks += 1;
    });
    const batch = nextBatch(source, set, 0)!;
    expect(looks).toBeLessThanOrEqual(LOOKS_MAX);
    expect(batch.zeroes.length).toBe(LOOKS_MAX);
    expect(batch.end).toBe(2 * LOOKS_MAX - 1);
  });

  it('take holes in large steps, each within its bound', () => {
    const zeroBlocks = ZERO_PART_BYTES / BLOCK_BYTES;
    const count = 3 * zeroBlocks + 5;
    const set = new BlockSet(count);
    set.addAll();
    const found = batches(new BlockSet(count), set).flatMap(({ zeroes }) => zeroes);
    expect(found.map((run) => run.count)).toEqual([zeroBlocks, zeroBlocks, zeroBlocks, 5]);
  });

  it('end where the content ends, also when the set is longer', () => {
    const set = new BlockSet(1000);
    set.addAll();
    const data = new BlockSet(700);
    data.addAll();
    const all = batches(data, set);
    expect(all.at(-1)!.end).toBe(700);
    expect(all.reduce((sum, { blocks }) => sum + blocks, 0)).toBe(700);
    expect(batches(data, new BlockSet(10))).toEqual([]);
  });

  it('reach past 2^32 blocks', () => {
    const count = 2 ** 33;
    const set = new BlockSet(count);
    const data = new BlockSet(count);
    for (const block of [2 ** 31 - 1, 2 ** 31, 2 ** 32, count - 1]) {
      set.add(block, 1);
      data.add(block, 1);
    }
    set.add(2 ** 32 + 70, 3);
    const [batch, ...others] = batches(data, set);
    expect(others).toEqual([]);
    expect(batch).toMatchObject({
      pieces: [
        { first: 2 ** 31 - 1, count: 2, at: 0 },
        { first: 2 ** 32, count: 1, at: 2 },
        { first: count - 1, count: 1, at: 3 },
      ],
      zeroes: [{ first: 2 ** 32 + 70, count: 3 }],
      end: count,
    });
  });
});
