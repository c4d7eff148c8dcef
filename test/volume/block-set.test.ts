/**
 * A block set behaves as a plain array of booleans. Method: random operations on both, over sizes that end
 * inside a region, and every question asked after each step.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockSet, RegionState } from '../../src/volume/block-set.ts';

const REGION = 1024;

class Model {
  bits: boolean[];
  constructor(count: number) {
    this.bits = Array.from({ length: count }, () => false);
  }
  change(first: number, count: number, value: boolean): number {
    let changed = 0;
    for (let block = first; block < first + count; block += 1) {
      if (this.bits[block] !== value) changed += 1;
      this.bits[block] = value;
    }
    return changed;
  }
}

function expectEqual(set: BlockSet, model: Model): void {
  expect(set.blockCount).toBe(model.bits.length);
  expect(set.count).toBe(model.bits.filter(Boolean).length);
  for (let region = 0; region * REGION < model.bits.length; region += 1) {
    const bits = model.bits.slice(region * REGION, (region + 1) * REGION);
    const count = bits.filter(Boolean).length;
    const state =
      count === 0 ? RegionState.NONE : count === bits.length ? RegionState.ALL : RegionState.MIXED;
    expect(set.regionState(region)).toBe(state);
    const leaf = new Uint8Array(REGION / 8);
    bits.forEach((bit, block) => {
      if (bit) leaf[block >> 3]! |= 1 << (block & 7);
    });
    expect(Buffer.from(set.leafOf(region)).equals(leaf)).toBe(true);
  }
}

function runsOf(model: Model): [number, number][] {
  const runs: [number, number][] = [];
  model.bits.forEach((bit, block) => {
    const last = runs.at(-1);
    if (bit && last !== undefined && last[0] + last[1] === block) last[1] += 1;
    else if (bit) runs.push([block, 1]);
  });
  return runs;
}

function runsIn(set: BlockSet): [number, number][] {
  const runs: [number, number][] = [];
  let from = 0;
  for (;;) {
    const run = set.nextRun(from, set.blockCount);
    if (run === null) return runs;
    runs.push([run.first, run.count]);
    from = run.first + run.count;
  }
}

const operation = fc.record({
  kind: fc.constantFrom('add', 'remove', 'clear', 'addAll', 'resize', 'addSet', 'copyRegion'),
  first: fc.nat(5000),
  count: fc.oneof(fc.nat(20), fc.nat(3000), fc.constant(REGION)),
});

describe('a block set', () => {
  test('agrees with an array of booleans', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4500 }), fc.array(operation), (size, operations) => {
        let set = new BlockSet(size);
        const model = new Model(size);
        for (const { kind, first, count } of operations) {
          const from = first % model.bits.length;
          const length = Math.min(count, model.bits.length - from);
          if (kind === 'add') expect(set.add(from, length)).toBe(model.change(from, length, true));
          if (kind === 'remove') {
            expect(set.remove(from, length)).toBe(model.change(from, length, false));
          }
          if (kind === 'clear') {
            set.clear();
            model.bits.fill(false);
          }
          if (kind === 'addAll') {
            set.addAll();
            model.bits.fill(true);
          }
          if (kind === 'resize') {
            set.resize(first + 1);
            model.bits = Array.from(
              { length: first + 1 },
              (_, block) => model.bits[block] ?? false,
            );
          }
          if (kind === 'addSet') {
            const other = new BlockSet(set.blockCount);
            other.add(from, length);
            set.addSet(other);
            model.change(from, length, true);
          }
          if (kind === 'copyRegion') {
            const copy = new BlockSet(set.blockCount);
            for (let region = 0; region < set.regionCount; region += 1) {
              copy.setRegion(region, set.regionState(region), set.leafOf(region));
            }
            set = copy.clone();
          }
        }
        expectEqual(set, model);
        expect(runsIn(set)).toEqual(runsOf(model));
        for (let block = 0; block < model.bits.length; block += 97) {
          let end = block;
          while (end < model.bits.length && model.bits[end] === model.bits[block]) end += 1;
          expect(set.has(block)).toBe(model.bits[block]);
          expect(set.runEnd(block, set.blockCount)).toBe(end);
        }
      }),
      { numRuns: 200 },
    );
  });

  test('cuts a run to what is asked', () => {
    const set = new BlockSet(10_000);
    set.add(100, 5000);
    expect(set.nextRun(0, 64)).toEqual({ first: 100, count: 64 });
    expect(set.nextRun(5090, 64)).toEqual({ first: 5090, count: 10 });
    expect(set.nextRun(5100, 64)).toBeNull();
    expect(set.nextRegion(0)).toBe(0);
    expect(set.nextRegion(5)).toBe(-1);
  });

  test('drops the bits of a leaf that lie past its last block', () => {
    const set = new BlockSet(REGION + 10);
    set.setRegion(1, RegionState.MIXED, new Uint8Array(128).fill(0xff));
    expect(set.count).toBe(10);
    expect(set.regionState(1)).toBe(RegionState.ALL);
  });

  test('refuses a range past its end', () => {
    expect(() => new BlockSet(10).add(5, 6)).toThrow('inside the set');
    expect(() => new BlockSet(10).has(1024)).toThrow('inside the set');
  });

  test('holds a full 4 TiB in about a MiB, also where block numbers pass 2^32', () => {
    const blocks = 2 ** 40 / 4096;
    const before = process.memoryUsage().arrayBuffers;
    const set = new BlockSet(blocks * 4);
    set.addAll();
    expect(set.count).toBe(blocks * 4);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1.1 * 2 ** 20);
    const large = new BlockSet(2 ** 34);
    large.add(2 ** 33 + 5, 7);
    expect(large.has(2 ** 33 + 5)).toBe(true);
    expect(large.nextRun(0, 100)).toEqual({ first: 2 ** 33 + 5, count: 7 });
  });
});
