/**
 * The merges of a volume as their operator sees them: one after another, with progress, paused and resumed, as fast as
 * they are let, stopped by a full or a broken disk and going on from there, given up when nobody wants them any more.
 * Method: layers on a memory disk whose pool the test holds, and a time of the test's own.
 */
import { describe, expect, test } from 'vitest';
import { BLOCK_BYTES, MERGE_PIECE_BYTES, MERGE_RETRY_MS } from '../../src/io/limits.ts';
import { layerPath } from '../../src/volume/recovery.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { DIRECTORY, World, buildWorld, difference, turns, until } from './support/merge-world.ts';
import type { Shown, WorldPlan } from './support/merge-world.ts';

const PIECE = MERGE_PIECE_BYTES / BLOCK_BYTES;
/** Three pieces below; the layer on it has more, so that merging goes up, or less, so that it goes down. */
const UP: WorldPlan = {
  size: 2048,
  layers: [
    { data: [[0, 3 * PIECE]] },
    { data: [[900, 4 * PIECE]], names: ['kept'] },
    { data: [[5, 2]] },
  ],
};
const DOWN: WorldPlan = {
  size: 2048,
  layers: [
    { data: [[PIECE, 6 * PIECE]], zero: [[1700, 20]] },
    {
      data: [[0, 3 * PIECE]],
      zero: [
        [1000, 50],
        [1690, 50],
      ],
      names: ['kept'],
    },
    { data: [[5, 2]] },
  ],
};
const BLOCKS = [0, 1, 5, 6, 7, 255, 256, 600, 767, 768, 900, 1010, 1049, 1050, 1695, 1710, 2047];

async function newWorld(
  plan: WorldPlan,
  options: ConstructorParameters<typeof World>[1] = {},
): Promise<{ disk: MemoryDisk; world: World; before: Shown }> {
  const disk = new MemoryDisk();
  await buildWorld(disk, plan);
  const world = new World(disk, options);
  return { disk, world, before: world.shown(BLOCKS) };
}

/** Lets the pool work until nothing more is asked of it. */
async function drain(disk: MemoryDisk): Promise<void> {
  for (let idle = 0; idle < 4; idle += 1) {
    await turns(1);
    while (disk.held.length > 0) {
      idle = 0;
      disk.letGo();
      await turns(1);
    }
  }
}

function letAllGo(disk: MemoryDisk): void {
  disk.holding = false;
  while (disk.held.length > 0) disk.letGo();
}

describe('the merges of a volume', () => {
  test.each([
    ['up', UP, { from: 1, into: 2 }],
    ['down', DOWN, { from: 2, into: 1 }],
  ] as const)('go %s, where less is copied, and leave one layer', async (_, plan, pair) => {
    const { disk, world, before } = await newWorld(plan);
    expect(world.merger.status.state).toBe('idle');
    await world.idle();
    expect(world.mergedPairs).toEqual([pair]);
    expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
    expect(disk.exists(layerPath(DIRECTORY, pair.from))).toBe(false);
    expect(disk.exists(layerPath(DIRECTORY, pair.into))).toBe(true);
    expect(world.merger.uses(pair.into)).toBe(false);
  });

  test('tell how far they are, and what follows', async () => {
    const { disk, world } = await newWorld({
      size: 4096,
      layers: [
        { data: [[0, 2 * PIECE]] },
        { data: [[1024, 4 * PIECE]] },
        { data: [[2048, 6 * PIECE]], names: ['kept'] },
        {},
      ],
    });
    disk.holding = true;
    world.hostInFlight = 1;
    world.merger.kick();
    const bytes = 2 * MERGE_PIECE_BYTES;
    const status = { state: 'running', limit: null, reason: null };
    expect(world.merger.status).toEqual({ ...status, doneBytes: 0, totalBytes: 0, waiting: 2 });
    await turns(3);
    expect(world.merger.status).toEqual({ ...status, doneBytes: 0, totalBytes: bytes, waiting: 1 });
    expect(world.merger.uses(1) && world.merger.uses(2) && !world.merger.uses(3)).toBe(true);
    // A read and a write: one piece.
    for (let call = 0; call < 2; call += 1) {
      disk.letGo();
      await turns(2);
    }
    expect(world.merger.status).toMatchObject({ doneBytes: bytes / 2, totalBytes: bytes });
    world.hostInFlight = 0;
    letAllGo(disk);
    await world.idle();
    expect(world.merger.status).toEqual({
      ...status,
      state: 'idle',
      doneBytes: 0,
      totalBytes: 0,
      waiting: 0,
    });
    expect(world.mergedPairs).toHaveLength(2);
  });

  test('begin nothing after a pause, and go on where they were', async () => {
    const { disk, world, before } = await newWorld(DOWN);
    disk.holding = true;
    world.hostInFlight = 1;
    world.merger.kick();
    await turns(3);
    world.merger.pause();
    await drain(disk);
    expect(world.merger.status).toMatchObject({ state: 'paused', doneBytes: MERGE_PIECE_BYTES });
    expect(world.clock.waiting).toBe(0);
    let reads = 0;
    const later = disk.later.bind(disk);
    disk.later = (kind, path, position, run): void => {
      if (kind === 'read') reads += 1;
      later(kind, path, position, run);
    };
    world.merger.resume();
    disk.holding = false;
    await world.idle();
    expect(reads).toBe(2);
    expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
  });

  test('may be born paused, and be resumed in the very turn of a pause', async () => {
    const { world } = await newWorld(UP, { paused: true });
    world.merger.kick();
    await turns(5);
    expect(world.merger.status).toMatchObject({ state: 'paused', waiting: 1 });
    world.merger.resume();
    world.merger.pause();
    world.merger.resume();
    await world.idle();
    expect(world.mergedPairs).toHaveLength(1);
  });

  test('keep to a limit that is given while they run', async () => {
    const { disk, world } = await newWorld(UP, { limit: MERGE_PIECE_BYTES });
    world.merger.kick();
    await drain(disk);
    // One ahead, then one each second.
    await until(() => world.clock.waiting > 0);
    expect(world.merger.status).toMatchObject({ limit: MERGE_PIECE_BYTES });
    const done = (): number => world.merger.status.doneBytes / MERGE_PIECE_BYTES;
    expect(done()).toBe(1);
    for (let ms = 0; ms < 950; ms += 50) {
      world.clock.advance(50);
      await turns(3);
    }
    expect(done()).toBe(1);
    world.clock.advance(100);
    await turns(8);
    expect(done()).toBe(2);
    world.merger.limit(null);
    await world.idle();
    expect(world.merger.status.limit).toBe(null);
  });

  test('rest three times as long as they work while hosts are busy', async () => {
    const { disk, world } = await newWorld(UP);
    disk.holding = true;
    world.hostInFlight = 3;
    world.merger.kick();
    await turns(3);
    expect(disk.held).toHaveLength(1);
    world.clock.advance(10);
    disk.letGo();
    await turns(2);
    world.clock.advance(10);
    disk.letGo();
    await turns(2);
    expect(world.merger.status.doneBytes).toBe(MERGE_PIECE_BYTES);
    world.clock.advance(59);
    await turns(2);
    expect(disk.held).toHaveLength(0);
    world.clock.advance(2);
    await turns(2);
    expect(disk.held).toHaveLength(1);
    letAllGo(disk);
    await world.idle();
  });

  test('have two steps on their way while hosts are at rest', async () => {
    const { disk, world } = await newWorld(UP);
    disk.holding = true;
    world.merger.kick();
    await turns(5);
    expect(disk.held.map(({ kind }) => kind)).toEqual(['read', 'read']);
    letAllGo(disk);
    await world.idle();
  });

  test.each([
    ['up', UP],
    ['down', DOWN],
  ] as const)(
    'fail on a full disk (%s), lose nothing, and end when there is room',
    async (_, plan) => {
      const { disk, world, before } = await newWorld(plan);
      disk.pagesMax = disk.pagesUsed() + 100;
      world.merger.kick();
      await until(() => world.merger.status.state === 'failed');
      expect(world.merger.status.reason).toContain('there is no space left');
      expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
      // As after a crash now.
      const crashed = new World(disk.crash(() => true));
      expect(difference(BLOCKS, before, crashed.shown(BLOCKS))).toBe(null);
      world.merger.resume();
      await turns(2);
      await until(() => world.merger.status.state === 'failed');
      disk.pagesMax = Infinity;
      world.merger.resume();
      await world.idle();
      expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
      expect(world.mergedPairs).toHaveLength(1);
    },
  );

  test('try again by themselves after a full disk', async () => {
    const { disk, world } = await newWorld(UP);
    disk.pagesMax = disk.pagesUsed() + 10;
    world.merger.kick();
    await until(() => world.merger.status.state === 'failed');
    disk.pagesMax = Infinity;
    world.clock.advance(MERGE_RETRY_MS - 1);
    await turns(5);
    expect(world.merger.status.state).toBe('failed');
    world.clock.advance(2);
    await until(() => world.merger.status.state === 'idle');
    expect(world.mergedPairs).toHaveLength(1);
  });

  test('name what could not be read, and read it again when resumed', async () => {
    const { disk, world, before } = await newWorld(DOWN);
    const file = world.fileOf(2);
    const read = file.read.bind(file);
    let broken = true;
    file.read = (buffer, start, length, position, callback): void => {
      if (broken && position > 0) disk.later('read', file.path, position, () => callback(-5));
      else read(buffer, start, length, position, callback);
    };
    world.merger.kick();
    await until(() => world.merger.status.state === 'failed');
    expect(world.merger.status.reason).toBe(
      `${file.path} could not be read: the disk answered errno 5`,
    );
    broken = false;
    world.merger.resume();
    await world.idle();
    expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
  });

  test('do not take a file that is too short for zeroes', async () => {
    const { world } = await newWorld(DOWN);
    world.fileOf(2).truncateNow((2 * PIECE + 3) * BLOCK_BYTES);
    world.merger.kick();
    await until(() => world.merger.status.state === 'failed');
    expect(world.merger.status.reason).toContain('is shorter than its map');
    expect(world.mergedPairs).toHaveLength(0);
  });

  test('end for good with a failed sync, and report it', async () => {
    const { disk, world, before } = await newWorld(UP);
    disk.failSync = (path) => (path.endsWith('.data') ? 5 : 0);
    world.merger.kick();
    await until(() => world.merger.status.state === 'failed');
    expect(world.syncErrno).toBe(5);
    expect(world.merger.status.reason).toContain('could not be synced');
    disk.failSync = null;
    world.merger.resume();
    await turns(10);
    expect(world.merger.status.state).toBe('failed');
    expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
    // Nothing was recorded of what may not be there.
    expect(world.stateMap(2).data.count).toBe(4 * PIECE);
  });

  test('wait for room in the log: for what was copied, and for the last record', async () => {
    // Writes of the log before it is full for a while.
    for (const writes of [0, 1]) {
      let left = writes;
      let full = true;
      const disk = new MemoryDisk();
      await buildWorld(disk, DOWN);
      const open = disk.open.bind(disk);
      disk.open = (path, options) => {
        const file = open(path, options);
        const write = file.write.bind(file);
        if (!path.endsWith('metadata.log')) return file;
        file.write = (buffer, start, length, position, callback) => {
          if (full && left === 0) disk.later('write', path, position, () => callback(-28));
          else write(buffer, start, length, position, callback);
          left -= left > 0 ? 1 : 0;
        };
        return file;
      };
      const world = new World(disk);
      const before = world.shown(BLOCKS);
      world.merger.kick();
      await until(() => world.merger.status.state === 'failed');
      expect(world.merger.status.reason).toContain('metadata log could not be written');
      expect(world.mergedPairs).toHaveLength(writes);
      expect(disk.exists(layerPath(DIRECTORY, 2))).toBe(true);
      expect(world.merger.uses(2)).toBe(true);
      full = false;
      world.merger.resume();
      await world.idle();
      expect(world.mergedPairs).toHaveLength(1);
      expect(disk.exists(layerPath(DIRECTORY, 2))).toBe(false);
      expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
    }
  });

  test('are given up when their layers are garbage, which is not removed before', async () => {
    const { disk, world } = await newWorld({
      size: 2048,
      layers: [
        { names: ['first'] },
        { data: [[0, 3 * PIECE]] },
        { data: [[900, 4 * PIECE]], names: ['branch'] },
        { parent: 0, data: [[5, 2]] },
      ],
    });
    disk.holding = true;
    world.merger.kick();
    await turns(3);
    world.forget('branch');
    await turns(3);
    expect(world.merger.uses(2)).toBe(true);
    expect(disk.exists(layerPath(DIRECTORY, 3))).toBe(true);
    await drain(disk);
    expect(world.releases).toBe(1);
    expect(world.mergedPairs).toHaveLength(0);
    expect([...world.metadata.state.layers.keys()]).toEqual([1, 4]);
    expect(disk.exists(layerPath(DIRECTORY, 3))).toBe(false);
    expect(disk.exists(layerPath(DIRECTORY, 2))).toBe(false);
    expect(world.merger.status.state).toBe('idle');
  });

  test('are not begun of layers that went since they were last looked at', async () => {
    const { disk, world } = await newWorld(
      {
        size: 2048,
        layers: [
          { names: ['first'] },
          { data: [[0, 3 * PIECE]] },
          { data: [[900, 4 * PIECE]], names: ['branch'] },
          { parent: 0, data: [[5, 2]] },
        ],
      },
      { paused: true },
    );
    world.merger.kick();
    await turns(3);
    expect(world.merger.status.waiting).toBe(1);
    world.forget('branch');
    world.merger.resume();
    await drain(disk);
    await world.idle();
    expect(world.mergedPairs).toHaveLength(0);
    expect([...world.metadata.state.layers.keys()]).toEqual([1, 4]);
    expect(world.merger.status.state).toBe('idle');
  });

  test('stop after what is on its way, and leave the files alone then', async () => {
    const { disk, world, before } = await newWorld(UP);
    disk.holding = true;
    world.merger.kick();
    await turns(3);
    let stopped = false;
    const stopping = world.merger.stop().then(() => (stopped = true));
    await turns(3);
    expect(stopped).toBe(false);
    await drain(disk);
    await stopping;
    expect(world.merger.uses(1)).toBe(false);
    world.merger.kick();
    world.merger.resume();
    await turns(5);
    expect(disk.held).toHaveLength(0);
    for (const file of world.files.values()) file.closeNow();
    disk.holding = false;
    const next = new World(disk.kill());
    await next.idle();
    expect(difference(BLOCKS, before, next.shown(BLOCKS))).toBe(null);
  });

  test('go on after a power cut where the records end, also downwards', async () => {
    const { disk, world, before } = await newWorld(DOWN);
    world.hostInFlight = 1;
    disk.holding = true;
    world.merger.kick();
    await turns(3);
    const piece = async (): Promise<void> => {
      for (const kind of ['read', 'write']) {
        expect(disk.held.map((held) => held.kind)).toEqual([kind]);
        disk.letGo();
        await turns(2);
      }
    };
    await piece();
    world.clock.advance(2000);
    await piece();
    // Time to record the two; nothing is copied next to that while hosts are busy.
    world.clock.advance(10_000);
    await turns(3);
    expect(disk.held.map(({ kind }) => kind)).toEqual(['sync']);
    world.merger.pause();
    await drain(disk);
    const next = new World(disk.crash(() => false));
    expect(next.mergeable()).toEqual([
      { from: 2, into: 1, direction: 'down', bytes: MERGE_PIECE_BYTES },
    ]);
    await next.idle();
    expect(difference(BLOCKS, before, next.shown(BLOCKS))).toBe(null);
  });

  test('give back the space that zeroes took, where the disk can', async () => {
    for (const canPunch of [true, false]) {
      const { disk, world, before } = await newWorld({
        size: 2048,
        layers: [
          { data: [[0, 400]] },
          { data: [[1000, 1]], zero: [[0, 300]], names: ['kept'] },
          {},
        ],
      });
      disk.canPunch = canPunch;
      const pages = disk.pagesUsed();
      await world.idle();
      expect(world.mergedPairs).toEqual([{ from: 2, into: 1 }]);
      if (canPunch) expect(disk.pagesUsed()).toBeLessThan(pages - 290);
      expect(world.stateMap(1).data.count).toBe(101);
      expect(world.stateMap(1).zero.count).toBe(0);
      expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
    }
  });

  test('give the merged layer the size of the upper one', async () => {
    for (const [first, size, blocks] of [
      [1000, 1500, 1],
      [1500, 950, 1],
      // Nothing is copied, and so nothing synced with it.
      [1000, 1500, 0],
    ] as const) {
      const { disk, world, before } = await newWorld({
        size: first,
        layers: [
          { data: [[0, 900]] },
          { size, data: blocks > 0 ? [[3, blocks]] : [], names: ['kept'] },
          {},
        ],
      });
      await world.idle();
      expect(world.mergedPairs).toEqual([{ from: 2, into: 1 }]);
      expect(world.stateMap(1).blockCount).toBe(size);
      expect(world.fileOf(1).sizeNow()).toBe(size * BLOCK_BYTES);
      expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
      const next = new World(disk.crash(() => false));
      expect(difference(BLOCKS, before, next.shown(BLOCKS))).toBe(null);
    }
  });

  test('fail when a file cannot be lengthened, before anything is copied', async () => {
    const { disk, world, before } = await newWorld({
      size: 1000,
      layers: [{ data: [[0, 900]] }, { size: 1500, data: [[3, 1]], names: ['kept'] }, {}],
    });
    disk.failTruncate = true;
    world.merger.kick();
    await until(() => world.merger.status.state === 'failed');
    expect(world.merger.status.reason).toContain('could not be lengthened');
    expect(world.stateMap(1).blockCount).toBe(1000);
    disk.failTruncate = false;
    world.merger.resume();
    await world.idle();
    expect(difference(BLOCKS, before, world.shown(BLOCKS))).toBe(null);
  });
});
