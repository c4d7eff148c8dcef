/**
 * What a set and its clone hold in common takes memory once. Method: a set of 1 TiB in which every region is mixed, its
 * clone, what both do to each other's memory when they change, and how they come together again.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { BlockSet } from '../../src/volume/maps/block-set.ts';

const REGION = 1024;
/** Blocks of 1 GiB, which sets share whole. */
const GROUP = 256 * REGION;
const MIB = 2 ** 20;

/** What was given up is counted until it is collected. */
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Bytes of the buffers that are still in use. */
function buffered(): number {
  collect();
  collect();
  return process.memoryUsage().arrayBuffers;
}

describe('a set of a TiB that is mixed everywhere', () => {
  test('takes 40 MiB with its clone, before and after both changed alike', () => {
    const blocks = 2 ** 28;
    const before = buffered();
    const set = new BlockSet(blocks);
    for (let region = 0; region < blocks / REGION; region += 1) {
      set.add(region * REGION + (region % 1000), 3);
    }
    const twin = set.clone();
    expect(buffered() - before).toBeLessThan(40 * MIB);
    // What is set already takes no copy.
    let changed = 0;
    for (let region = 0; region < blocks / REGION; region += 1) {
      changed += twin.add(region * REGION + (region % 1000), 2);
      changed += twin.remove(region * REGION + 1010, 2);
    }
    expect(changed).toBe(0);
    expect(buffered() - before).toBeLessThan(40 * MIB);
    // One empties a region of each group first: its leaves come to lie in other places.
    const groups = blocks / GROUP;
    for (let group = 0; group < groups; group += 1) {
      const first = group * GROUP + 7 * REGION;
      const run = twin.nextRun(first, REGION);
      twin.remove(first, REGION);
      if (run !== null) twin.add(run.first, run.count);
      for (const each of [set, twin]) each.add(first + 1010, 5);
    }
    const apart = buffered();
    expect(apart - before).toBeGreaterThan(60 * MIB);
    for (let call = 0; call < groups / 8; call += 1) set.shareWith(twin, 8);
    expect(buffered() - before).toBeLessThan(40 * MIB);
    expect(set.count).toBe(twin.count);
    const block = 7 * REGION + 1010;
    set.remove(block, 1);
    expect([set.has(block), twin.has(block)]).toEqual([false, true]);
  });
});
