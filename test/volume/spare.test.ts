/**
 * On a disk that is full to the last byte a snapshot can be deleted: a little space is kept back for that, and for nothing
 * else, and taken again. Method: a disk in memory with no page left, and none in the log's last page.
 */
import { describe, expect, test } from 'vitest';
import { SPARE_BYTES } from '../../src/io/limits.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { flush, read, write, zero } from './support/request.ts';
import { logPath, openStore } from './support/store.ts';

const BLOCK = 4096;
const SPARE = '/data/spare';

/** A snapshot of 64 blocks, another after all of them were written again; no page is left, nor room in the log. */
async function fullDisk() {
  const disk = new MemoryDisk();
  const store = openStore(disk);
  const volume = await store.create('v', 2 ** 20);
  await write(volume, 0, Buffer.alloc(64 * BLOCK, 1));
  await volume.snapshots.create('first');
  await write(volume, 0, Buffer.alloc(64 * BLOCK, 2));
  await volume.snapshots.create('second');
  await fillLog(disk, volume);
  disk.pagesMax = disk.pagesUsed();
  return { disk, store, volume };
}

async function fillLog(disk: MemoryDisk, volume: Volume): Promise<void> {
  const length = disk.readFile(logPath(volume)).length;
  const regions = Math.floor((BLOCK - (length % BLOCK) - 44) / 4);
  volume.metadata.append({
    kind: 'regions-hot',
    regions: Array.from({ length: regions }, () => 0),
  });
  expect(await volume.commit()).toBe(0);
}

const sizeOf = (disk: MemoryDisk): number => disk.readFile(SPARE).length;

async function merged(volume: Volume): Promise<void> {
  do await new Promise((resolve) => setTimeout(resolve, 5));
  while (volume.snapshots.merge.state === 'running');
  expect(volume.snapshots.merge.state).toBe('idle');
}

describe('on a disk that is full to the last byte', () => {
  test('a snapshot is deleted and merged, and the space is kept back again', async () => {
    const { disk, store, volume } = await fullDisk();
    expect(sizeOf(disk)).toBe(SPARE_BYTES);
    await volume.snapshots.delete('first');
    await merged(volume);
    // What was written twice comes back, but for what the log took: a layer's file goes in the background.
    await expect.poll(() => disk.pagesMax - disk.pagesUsed()).toBeGreaterThan(56);
    expect((await read(volume, 0, BLOCK))[0]).toBe(2);
    expect((await read(volume, 63 * BLOCK, BLOCK))[0]).toBe(2);
    expect(await write(volume, 64 * BLOCK, Buffer.alloc(8 * BLOCK, 3))).toBe(0);
    expect(await flush(volume)).toBe(0);
    await volume.snapshots.delete('second');
    await expect.poll(() => sizeOf(disk)).toBe(SPARE_BYTES);
    await store.close();
  });

  test('a trim goes on', async () => {
    const { disk, store, volume } = await fullDisk();
    disk.pagesMax += 8;
    expect(await write(volume, 80 * BLOCK, Buffer.alloc(8 * BLOCK, 3))).toBe(0);
    expect(await zero(volume, { offset: 80 * BLOCK, length: 8 * BLOCK })).toBe(0);
    expect(disk.pagesMax - disk.pagesUsed()).toBeGreaterThan(4);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    await store.close();
  });

  test('nothing else gets it', async () => {
    const { disk, store, volume } = await fullDisk();
    expect(await write(volume, 64 * BLOCK, Buffer.alloc(BLOCK, 3))).toBe(28);
    await expect(volume.snapshots.create('third')).rejects.toMatchObject({
      code: 'METADATA_WRITE_FAILED',
    });
    await expect(volume.resize(2 ** 21)).rejects.toMatchObject({ code: 'METADATA_WRITE_FAILED' });
    expect(sizeOf(disk)).toBe(SPARE_BYTES);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    await store.close();
  });

  test('a store opens, and takes what there is', async () => {
    const { disk, store } = await fullDisk();
    await store.close();
    disk.remove(SPARE);
    disk.pagesMax = disk.pagesUsed() + 3;
    const again = openStore(disk);
    expect(again.damaged).toEqual([]);
    expect(sizeOf(disk)).toBe(3 * BLOCK);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    await again.close();
  });

  test('without it a delete is refused, and nothing changed', async () => {
    const { disk, store, volume } = await fullDisk();
    disk.open(SPARE, { create: false }).truncateNow(0);
    disk.pagesMax = disk.pagesUsed();
    await expect(volume.snapshots.delete('first')).rejects.toMatchObject({
      code: 'METADATA_WRITE_FAILED',
    });
    const names = volume.snapshots.list().map(({ name }) => name);
    expect(names.toSorted()).toEqual(['first', 'second']);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    await volume.snapshots.delete('first');
    await store.close();
  });

  test('a volume opens after a power cut, with a fresh top', async () => {
    const { disk, volume } = await fullDisk();
    const layers = volume.metadata.state.layers.size;
    const left = disk.crash(() => true);
    left.pagesMax = left.pagesUsed();
    const open = left.open.bind(left);
    const made: string[] = [];
    // A new file needs a page.
    left.open = (path, options) => {
      if (options.exclusive === true) {
        if (left.pagesUsed() >= left.pagesMax) throw noSpace(path);
        made.push(path);
      }
      return open(path, options);
    };
    const store = openStore(left);
    expect(store.damaged).toEqual([]);
    expect(made).toHaveLength(1);
    const found = store.find('v')!;
    expect(found.metadata.state.layers.size).toBe(layers + 1);
    expect((await read(found, 0, BLOCK))[0]).toBe(2);
    left.pagesMax = Number.POSITIVE_INFINITY;
    await store.close();
    expect(sizeOf(left)).toBe(SPARE_BYTES);
  });
});

function noSpace(path: string): Error {
  return Object.assign(new Error(`ENOSPC: ${path}`), { code: 'ENOSPC', errno: -28 });
}
