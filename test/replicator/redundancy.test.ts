/**
 * How often each block is staged, counted as writes come and epochs go. Method: the example of a data table with three
 * blocks; random additions and removals against a map; and a table that is too small.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { StagedBlocks } from '../../src/replicator/staging/redundancy.ts';

describe('staged blocks', () => {
  test('nine changes of three blocks are three times what is to be sent', () => {
    const staged = new StagedBlocks(16);
    expect(staged.ratio).toBe(1);
    for (let count = 0; count < 3; count += 1) staged.add(2, 1);
    staged.add(3, 1);
    for (let count = 0; count < 5; count += 1) staged.add(8, 1);
    const blockBytes = 1000;
    expect(staged.total * blockBytes).toBe(9000);
    expect(staged.distinct * blockBytes).toBe(3000);
    expect(staged.ratio).toBe(3);
    for (let count = 0; count < 5; count += 1) staged.remove(8, 1);
    expect([staged.total, staged.distinct]).toEqual([4, 2]);
    staged.clear();
    expect([staged.total, staged.distinct, staged.ratio]).toEqual([0, 0, 1]);
  });

  test('are counted as in a map, whatever comes and goes', () => {
    const range = fc.record({
      // Blocks that collide, and those of the largest volumes.
      first: fc.oneof(
        fc.nat(20),
        fc.nat(20).map((n) => n * 64),
        fc.nat(20).map((n) => 2 ** 38 - n),
      ),
      count: fc.integer({ min: 1, max: 8 }),
      out: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(range, { maxLength: 200 }), (steps) => {
        const staged = new StagedBlocks(512);
        const model = new Map<number, number>();
        const queue: { first: number; count: number }[] = [];
        let total = 0;
        for (const { first, count, out } of steps) {
          const oldest = out ? queue.shift() : undefined;
          const change = oldest ?? { first, count };
          const by = oldest === undefined ? 1 : -1;
          if (by > 0) {
            queue.push(change);
            staged.add(change.first, change.count);
          } else {
            staged.remove(change.first, change.count);
          }
          total += by * change.count;
          for (let block = change.first; block < change.first + change.count; block += 1) {
            const now = (model.get(block) ?? 0) + by;
            if (now === 0) model.delete(block);
            else model.set(block, now);
          }
          expect([staged.total, staged.distinct]).toEqual([total, model.size]);
        }
      }),
      { numRuns: 300 },
    );
  });

  test('beyond the table count as if each came once, until they are gone', () => {
    const staged = new StagedBlocks(8);
    staged.add(0, 8);
    staged.add(100, 4);
    staged.add(100, 4);
    expect([staged.total, staged.distinct]).toEqual([16, 16]);
    staged.add(0, 8);
    expect([staged.total, staged.distinct]).toEqual([24, 16]);
    staged.remove(0, 8);
    staged.remove(0, 8);
    expect([staged.total, staged.distinct]).toEqual([8, 8]);
    staged.add(100, 4);
    staged.remove(100, 4);
    staged.remove(100, 4);
    staged.remove(100, 4);
    expect([staged.total, staged.distinct]).toEqual([0, 0]);
  });

  test('that were not added are not removed', () => {
    const staged = new StagedBlocks(8);
    staged.add(1, 1);
    expect(() => staged.remove(2, 1)).toThrow('what is removed was added');
  });
});
