/**
 * Merges on the file system of the machine: content and holes come out as they should, in both directions, also when the
 * process goes away in the middle. Method: real files in a temporary directory, read back past all of our own code.
 */
import { readFileSync, statSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_BYTES, MERGE_DIRECT_BYTES } from '../../src/io/limits.ts';
import { createNodeDisk, nodeDisk } from '../../src/io/node-disk.ts';
import { layerPath } from '../../src/volume/recovery.ts';
import { MergeClock, World, buildWorld, difference, until } from './support/merge-world.ts';
import type { WorldPlan } from './support/merge-world.ts';
import { temporaryDirectory } from './support/store.ts';

/** Every third block: the gaps are read with the runs, and must not be written. */
const SCATTERED = Array.from({ length: 150 }, (_, index) => [3 * index, 1] as const);
const BLOCKS = Array.from({ length: 4096 }, (_, block) => block);

/** Its time goes by itself. */
class RunningClock extends MergeClock {
  override now(): number {
    return performance.now();
  }
}

const PLANS: Record<'up' | 'down', WorldPlan> = {
  up: {
    size: 4096,
    layers: [
      { data: SCATTERED, zero: [[3700, 100]] },
      { data: [[1000, 3000]], zero: [[10, 5]], names: ['kept'] },
      { data: [[5, 2]] },
    ],
  },
  down: {
    size: 3000,
    layers: [
      { data: [[0, 3000]] },
      { data: SCATTERED, size: 4096, zero: [[2000, 512]], names: ['kept'] },
      { data: [[5, 2]] },
    ],
  },
};

describe('on real files', () => {
  let directory: ReturnType<typeof temporaryDirectory>;
  let world: World;
  beforeEach(() => {
    directory = temporaryDirectory();
  });
  afterEach(async () => {
    await world.merger.stop();
    await until(() => !world.metadata.committing);
    for (const file of world.files.values()) file.closeNow();
    world.metadata.close();
    directory.remove();
  });

  test.each(['up', 'down'] as const)('layers become one (%s)', async (direction) => {
    await buildWorld(nodeDisk, PLANS[direction], directory.path);
    world = new World(nodeDisk, { directory: directory.path, clock: new RunningClock() });
    const before = world.shown(BLOCKS);
    world.merger.kick();
    await until(() => world.merger.status.state === 'idle');
    const [pair] = world.mergedPairs;
    expect(pair).toEqual(direction === 'up' ? { from: 1, into: 2 } : { from: 2, into: 1 });
    expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
    // The one that is left holds all of it alone.
    const path = layerPath(directory.path, pair!.into);
    const content = readFileSync(path);
    const kept = before.get('kept')!;
    const map = world.stateMap(pair!.into);
    for (const block of BLOCKS) {
      const bytes = content.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
      const shown = map.data.has(block) ? bytes : Buffer.alloc(BLOCK_BYTES);
      if (!shown.equals(kept[block]!)) throw new Error(`block ${block} differs`);
    }
    expect(content.length).toBe(4096 * BLOCK_BYTES);
    // Besides the data: the noise that was in the file before.
    const most = (map.data.count + 4096 / 37 + 8) * BLOCK_BYTES;
    expect(statSync(path).blocks * 512).toBeLessThanOrEqual(most);
  });

  test.each(['up', 'down'] as const)(
    'a merge that was left half done goes on (%s)',
    async (way) => {
      await buildWorld(nodeDisk, PLANS[way], directory.path);
      const options = { directory: directory.path, clock: new RunningClock() };
      const first = new World(nodeDisk, options);
      const before = first.shown(BLOCKS);
      first.hostInFlight = 1;
      first.merger.kick();
      await until(() => first.merger.status.doneBytes > 0);
      await first.merger.stop();
      expect(first.mergedPairs).toHaveLength(0);
      for (const file of first.files.values()) file.closeNow();
      first.metadata.close();

      world = new World(nodeDisk, options);
      expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
      world.merger.kick();
      await until(() => world.merger.status.state === 'idle');
      expect(world.mergedPairs).toHaveLength(1);
      expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
    },
  );

  test.each([
    ['copied by the system', nodeDisk, true],
    ['copied by hand, where the system cannot', createNodeDisk({ syscalls: null }), false],
  ] as const)('long runs are %s', async (_, disk, direct) => {
    const long: WorldPlan = {
      size: 4096,
      layers: [
        { data: [[100, 700], ...SCATTERED.slice(300)] },
        { data: [[1000, 3000]], names: ['kept'] },
        { data: [[5, 2]] },
      ],
    };
    await buildWorld(disk, long, directory.path);
    world = new World(disk, { directory: directory.path, clock: new RunningClock() });
    const into = world.files.get(2)!;
    const lengths: number[] = [];
    const write = into.write.bind(into);
    into.write = (buffer, start, length, position, callback) => {
      lengths.push(length);
      write(buffer, start, length, position, callback);
    };
    const before = world.shown(BLOCKS);
    world.merger.kick();
    await until(() => world.merger.status.state === 'idle');
    expect(world.mergedPairs).toEqual([{ from: 1, into: 2 }]);
    expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
    expect(lengths.some((length) => length >= MERGE_DIRECT_BYTES)).toBe(!direct);
  });
});
