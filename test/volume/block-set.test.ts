/**
 * A block set behaves as a plain array of booleans. Method: random operations on both, over sizes that end
 * inside a region, and every question asked after each step; then over several groups of regions, with ranges that
 * begin and end at, and beside, the edges of regions and groups.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockSet, RegionState } from '../../src/volume/maps/block-set.ts';

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

/** Blocks of a group: where the set takes its largest steps. */
const GROUP = 256 * REGION;

/** Near an edge of a region or a group, or anywhere. */
const place = fc
  .tuple(
    fc.nat(3),
    fc.oneof(fc.constantFrom(0, 1, 255), fc.nat(255)),
    fc.oneof(fc.constantFrom(-1, 0, 1), fc.nat(REGION)),
  )
  .map(([group, region, block]) => Math.max(0, group * GROUP + region * REGION + block));

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

  test('takes up mixed regions again after it had none for a while', () => {
    const set = new BlockSet(100 * REGION);
    const model = new Uint8Array(100 * REGION);
    const change = (value: 0 | 1, first: number, count: number): void => {
      if (value === 1) set.add(first, count);
      else set.remove(first, count);
      model.fill(value, first, first + count);
    };
    change(1, 50 * REGION, REGION);
    for (let round = 0; round < 3; round += 1) {
      for (let region = 0; region < 20; region += 1) change(1, region * REGION + region, 2);
      expectSameAs(set, model);
      change(0, 0, 20 * REGION);
      expectSameAs(set, model);
    }
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

  test('agrees with an array of bytes over several groups', () => {
    const step = fc.record({
      kind: fc.constantFrom('add', 'remove', 'resize', 'addAll', 'addSet', 'clone', 'leaf'),
      one: place,
      other: place,
    });
    fc.assert(
      fc.property(place, fc.array(step, { maxLength: 12 }), (size, steps) => {
        let set = new BlockSet(size + 1);
        let model = new Uint8Array(size + 1);
        for (const { kind, one, other } of steps) {
          const first = Math.min(one, other) % model.length;
          const end = Math.min(model.length, Math.max(one, other));
          const count = Math.max(0, end - first);
          if (kind === 'add' || kind === 'remove') {
            const value = kind === 'add' ? 1 : 0;
            let changes = 0;
            for (let block = first; block < first + count; block += 1) {
              if (model[block] !== value) changes += 1;
            }
            model.fill(value, first, first + count);
            expect(set[kind](first, count)).toBe(changes);
          } else if (kind === 'resize') {
            const longer = new Uint8Array(one + 1);
            longer.set(model.subarray(0, one + 1));
            model = longer;
            set.resize(one + 1);
          } else if (kind === 'addAll') {
            model.fill(1);
            set.addAll();
          } else if (kind === 'addSet') {
            const more = new BlockSet(other + 1);
            more.add(Math.floor(other / 3), Math.floor(other / 2));
            set.addSet(more);
            model.fill(1, Math.floor(other / 3), Math.floor(other / 3) + Math.floor(other / 2));
          } else if (kind === 'clone') {
            set = set.clone();
          } else {
            const region = Math.floor(first / REGION);
            const leaf = new Uint8Array(REGION / 8).fill(one % 2 === 0 ? 0x55 : 0xff);
            set.setRegion(region, RegionState.MIXED, leaf);
            const stop = Math.min(model.length, (region + 1) * REGION);
            for (let block = region * REGION; block < stop; block += 1) {
              model[block] = one % 2 === 0 ? (block + 1) % 2 : 1;
            }
          }
          expectSameAs(set, model);
        }
      }),
      { numRuns: 60 },
    );
  });

  test('and its clones change on their own, whatever they share', () => {
    const step = fc.record({
      kind: fc.constantFrom('add', 'remove', 'clone', 'share', 'resize', 'leaf', 'addAll', 'clear'),
      which: fc.nat(99),
      one: place,
      other: place,
    });
    fc.assert(
      fc.property(place, fc.array(step, { maxLength: 20, size: 'max' }), (size, steps) => {
        const pairs = [{ set: new BlockSet(size + 1), model: new Uint8Array(size + 1) }];
        for (const { kind, which, one, other } of steps) {
          const pair = pairs[which % pairs.length]!;
          const { set, model } = pair;
          const first = Math.min(one, other) % model.length;
          const end = Math.max(first, Math.min(model.length, Math.max(one, other)));
          if (kind === 'add' || kind === 'remove') {
            set[kind](first, end - first);
            model.fill(kind === 'add' ? 1 : 0, first, end);
          } else if (kind === 'clone' && pairs.length < 4) {
            pairs.push({ set: set.clone(), model: model.slice() });
          } else if (kind === 'share') {
            for (const { set: twin } of pairs) if (twin !== set) set.shareWith(twin, 100);
          } else if (kind === 'resize') {
            set.resize(one + 1);
            pair.model = new Uint8Array(one + 1);
            pair.model.set(model.subarray(0, one + 1));
          } else if (kind === 'leaf') {
            const region = Math.floor(first / REGION);
            set.setRegion(region, RegionState.MIXED, new Uint8Array(128).fill(0x55));
            const stop = Math.min(model.length, (region + 1) * REGION);
            for (let block = region * REGION; block < stop; block += 1) {
              model[block] = (block + 1) % 2;
            }
          } else if (kind === 'addAll') {
            set.addAll();
            model.fill(1);
          } else if (kind === 'clear') {
            set.clear();
            model.fill(0);
          }
        }
        for (const each of pairs) expectSameAs(each.set, each.model);
      }),
      { numRuns: 80 },
    );
  });

  test('of the largest volume changes and answers in few steps', () => {
    const blocks = 2 ** 38;
    const set = new BlockSet(blocks);
    const before = performance.now();
    expect(set.runEnd(1, blocks)).toBe(blocks);
    expect(set.add(1, blocks - 2)).toBe(blocks - 2);
    expect(set.runEnd(1, blocks)).toBe(blocks - 1);
    expect(set.nextRun(0, blocks)).toEqual({ first: 1, count: blocks - 2 });
    expect(set.remove(2, blocks - 4)).toBe(blocks - 4);
    expect(set.nextRegion(1)).toBe(blocks / REGION - 1);
    expect(set.clone().count).toBe(2);
    // A step for each region would take a minute.
    expect(performance.now() - before).toBeLessThan(2000);
  });
});

function expectSameAs(set: BlockSet, model: Uint8Array): void {
  expect(set.blockCount).toBe(model.length);
  let count = 0;
  let block = 0;
  while (block < model.length) {
    const value = model[block]!;
    const end = model.indexOf(1 - value, block);
    const stop = end < 0 ? model.length : end;
    if (set.runEnd(block, model.length) !== stop || set.has(block) !== (value === 1)) {
      throw new Error(`the run from ${block} to ${stop} of ${value} is another one`);
    }
    count += value === 1 ? stop - block : 0;
    block = stop;
  }
  expect(set.count).toBe(count);
  let next = 0;
  for (let region = 0; region < set.regionCount; region += 1) {
    const bits = model.subarray(region * REGION, (region + 1) * REGION);
    let inside = 0;
    for (const bit of bits) inside += bit;
    const state =
      inside === 0
        ? RegionState.NONE
        : inside === bits.length
          ? RegionState.ALL
          : RegionState.MIXED;
    const told = { state: set.regionState(region), count: set.countIn(region) };
    if (told.state !== state || told.count !== inside) {
      throw new Error(`region ${region}: ${JSON.stringify(told)}, not ${state} and ${inside}`);
    }
    if (inside > 0 && region >= next) {
      if (set.nextRegion(next) !== region)
        throw new Error(`the region after ${next} is not ${region}`);
      next = region + 1;
    }
  }
  expect(next >= set.regionCount ? -1 : set.nextRegion(next)).toBe(-1);
}
