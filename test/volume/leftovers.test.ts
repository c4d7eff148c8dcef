/**
 * What a write that failed left in a layer's file never comes up: not at once, not by a trim that only the map knows of, not
 * when the process is killed and the extents of the file are taken for what was written. And extents are taken only where
 * they can be trusted. Method: a disk in memory that runs full in the middle of a block, and kills.
 */
import { describe, expect, test } from 'vitest';
import { BLOCK, expectSame, World } from './support/full-disk.ts';
import { flush, write } from './support/request.ts';
import { turn } from './support/store.ts';

const OFFSET = 18 * BLOCK;

/** A write over lower layers fails in the middle of its third block. */
async function failedWrite(world: World): Promise<void> {
  world.disk.partBytes = 1024;
  world.leave(2);
  expect(await write(world.volume, OFFSET, Buffer.alloc(5 * BLOCK, 9))).toBe(28);
  expectSame(await world.content(), world.model);
  world.addSpace();
}

describe('what a write that failed has left above other layers', () => {
  test('is gone after a trim of the place and a kill', async () => {
    const world = await World.create();
    await failedWrite(world);
    await world.clear(18, 5);
    await world.kill();
    expectSame(await world.content(), world.model);
  });

  test('takes no space', async () => {
    const world = await World.create();
    const before = world.disk.pagesUsed();
    await failedWrite(world);
    expect(world.disk.pagesUsed()).toBe(before);
    world.expectAllocated();
  });

  test('is not taken for content where the disk cannot take it away', async () => {
    const world = await World.create();
    world.disk.canPunch = false;
    await failedWrite(world);
    // In the log by now, with what was written before and after it.
    await world.put(40, 2, 5);
    expect(await flush(world.volume)).toBe(0);
    await world.kill();
    expectSame(await world.content(), world.model);
  });

  test('is not taken for content either after a clean end and a kill', async () => {
    const world = await World.create();
    world.disk.canPunch = false;
    await failedWrite(world);
    await world.volume.close();
    world.reopen();
    await world.put(40, 2, 5);
    expect(await flush(world.volume)).toBe(0);
    await world.kill();
    expectSame(await world.content(), world.model);
  });
});

/** Lets the pool do all that comes until the promise is settled. */
async function letGoUntil<Result>({ disk }: World, promise: Promise<Result>): Promise<Result> {
  const state = { over: false };
  const end = (): void => void (state.over = true);
  promise.then(end, end);
  while (!state.over) {
    await turn();
    while (disk.held.length > 0) disk.letGo();
  }
  return promise;
}

describe('a process that is killed', () => {
  test('loses no zeroes that were answered while a flush was on its way', async () => {
    const world = await World.create();
    // So many runs that the flush records the region whole, as it was when it began.
    for (let block = 24; block < 48; block += 3) await world.put(block, 1, 5);
    const { disk } = world;
    disk.holding = true;
    const flushed = flush(world.volume);
    const [sync] = disk.held.splice(0);
    await letGoUntil(world, world.clear(4, 2));
    sync!.run();
    expect(await letGoUntil(world, flushed)).toBe(0);
    await world.kill();
    expectSame(await world.content(), world.model);
  });

  test('loses no zeroes that were on their way when a flush began', async () => {
    const world = await World.create();
    for (let block = 24; block < 48; block += 3) await world.put(block, 1, 5);
    const { disk } = world;
    disk.holding = true;
    // Data of this layer is among what they cover: the log has them first.
    const cleared = world.clear(12, 2);
    while (!disk.held.some(({ kind }) => kind === 'punch')) {
      await turn();
      disk.held.find(({ kind }) => kind !== 'punch')?.run();
      const done = disk.held.findIndex(({ kind }) => kind !== 'punch');
      if (done >= 0) disk.held.splice(done, 1);
    }
    const [hole] = disk.held.splice(0);
    const flushed = flush(world.volume);
    const [sync] = disk.held.splice(0);
    hole!.run();
    await letGoUntil(world, cleared);
    sync!.run();
    expect(await letGoUntil(world, flushed)).toBe(0);
    await world.kill();
    expectSame(await world.content(), world.model);
  });

  test('loses no write above other layers', async () => {
    const world = await World.create();
    await world.put(18, 4, 5);
    await world.put(40, 2, 6);
    await world.kill();
    expectSame(await world.content(), world.model);
  });

  test('loses no write where a power cut left half of what tells whether extents can be believed, and no other could be made', async () => {
    const world = await World.create();
    await flush(world.volume);
    const probe = `${world.volume.directory}/extents`;
    world.disk.replaceFile(probe, Buffer.alloc(0));
    await world.volume.close();
    const { disk } = world;
    const rename = disk.rename.bind(disk);
    disk.rename = (from, to) => {
      if (to !== probe) return rename(from, to);
      throw Object.assign(new Error('EIO'), { errno: -5, code: 'EIO' });
    };
    world.reopen();
    await world.put(18, 4, 5);
    await world.kill();
    expectSame(await world.content(), world.model);
  });

  test('loses no write after a snapshot that the log had no room for', async () => {
    const world = await World.create();
    await world.fillLog();
    world.leave(0);
    await expect(world.volume.snapshots.create('new')).rejects.toMatchObject({
      code: 'METADATA_WRITE_FAILED',
    });
    // The new top is not in the log: nothing is written there before it is.
    expect(await write(world.volume, OFFSET, Buffer.alloc(BLOCK, 9))).toBe(28);
    world.addSpace();
    await world.put(18, 2, 5);
    await world.kill();
    expectSame(await world.content(), world.model);
  });

  test('loses no write after one that failed, where nothing can be taken away', async () => {
    const world = await World.create();
    world.disk.canPunch = false;
    await failedWrite(world);
    await world.put(40, 2, 5);
    await world.clear(18, 5);
    await world.kill();
    expectSame(await world.content(), world.model);
  });

  test('loses no write on a full disk', async () => {
    const world = await World.create();
    world.disk.canPunch = false;
    world.leave(2);
    expect(await write(world.volume, OFFSET, Buffer.alloc(5 * BLOCK, 9))).toBe(28);
    const before = await world.content();
    await world.put(10, 2, 5);
    before.head.fill(5, 10 * BLOCK, 12 * BLOCK);
    await world.kill();
    expectSame(await world.content(), before);
  });

  test('leaves every layer whole on a disk that calls data what lies around it', async () => {
    const world = await World.create();
    await world.put(18, 2, 5);
    expect(await flush(world.volume)).toBe(0);
    world.disk.extentPages = 4;
    await world.kill();
    expectSame(await world.content(), world.model);
  });

  test('leaves every layer whole on a disk that calls all of a file data', async () => {
    const world = await World.create();
    await world.put(18, 2, 5);
    expect(await flush(world.volume)).toBe(0);
    world.disk.tellsHoles = false;
    await world.kill();
    expectSame(await world.content(), world.model);
  });
});

test('a restore that the log has no room for changes nothing, nor does one that could not be taken back', async () => {
  const world = await World.create();
  await world.fillLog();
  world.leave(0);
  const open = world.disk.open.bind(world.disk);
  let files = 0;
  world.disk.open = (path, options) => {
    files += options.create ? 1 : 0;
    if (files > 1) throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC', errno: -28 });
    return open(path, options);
  };
  await expect(world.volume.snapshots.restore('lower')).rejects.toMatchObject({
    code: 'METADATA_WRITE_FAILED',
  });
  expectSame(await world.content(), world.model);
  expect(world.volume.failed).toBe(false);
  world.addSpace();
  await world.put(18, 2, 5);
  await world.kill();
  expectSame(await world.content(), world.model);
});
