/**
 * Volumes on the file system of the machine: the data file is a raw image that any tool reads, trimming gives space
 * back, and an empty volume of 4 TiB costs nothing but its bitmaps. Method: real files in a temporary directory.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync, readlinkSync, statSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { SYNCS_IN_FLIGHT_MAX } from '../../src/io/limits.ts';
import { nodeDisk } from '../../src/io/node-disk.ts';
import type { VolumeStore } from '../../src/volume/store.ts';
import { flush, read, write, zero } from './support/request.ts';
import { openStore, temporaryDirectory } from './support/store.ts';

const SIZE = 16 * 2 ** 20;

describe('on real files', () => {
  let directory: ReturnType<typeof temporaryDirectory>;
  let store: VolumeStore;
  beforeEach(() => {
    directory = temporaryDirectory();
    store = openStore(nodeDisk, directory.path);
  });
  afterEach(async () => {
    await store.close();
    directory.remove();
  });

  test('a volume is a raw image, thin, and gives space back', async () => {
    const volume = await store.create('raw', SIZE);
    const payload = Buffer.alloc(4 * 2 ** 20, 'blockferry');
    expect(await write(volume, 2 ** 20, payload)).toBe(0);
    expect(await flush(volume)).toBe(0);
    const model = Buffer.alloc(SIZE);
    payload.copy(model, 2 ** 20);
    expect(readFileSync(volume.layer.file.path).equals(model)).toBe(true);
    expect(statSync(volume.layer.file.path).blocks * 512).toBeLessThan(5 * 2 ** 20);
    expect(volume.allocatedBytes).toBe(4 * 2 ** 20);
    expect(await zero(volume, { offset: 0, length: SIZE })).toBe(0);
    expect(statSync(volume.layer.file.path).blocks).toBe(0);
    expect(volume.allocatedBytes).toBe(0);
    expect((await read(volume, 0, SIZE)).equals(Buffer.alloc(SIZE))).toBe(true);
    expect(await zero(volume, { offset: 0, length: 2 ** 20 }, true)).toBe(0);
    expect(statSync(volume.layer.file.path).blocks * 512).toBeGreaterThanOrEqual(2 ** 20);
  });

  test('reads that are not in memory come from the pool', async () => {
    const volume = await store.create('cold', SIZE);
    const payload = Buffer.alloc(SIZE, 'cold');
    await write(volume, 0, payload);
    await flush(volume);
    // Drops the file from the page cache: its pages are clean after the flush.
    execFileSync(
      'dd',
      [`of=${volume.layer.file.path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'],
      {
        stdio: 'ignore',
      },
    );
    const reads = Array.from({ length: 256 }, (_, index) => read(volume, index * 65_536, 4096));
    for (const [index, bytes] of (await Promise.all(reads)).entries()) {
      expect(bytes.equals(payload.subarray(index * 65_536, index * 65_536 + 4096))).toBe(true);
    }
    const now = Buffer.alloc(8192);
    expect(volume.readNow(now, 0, 8192, 12_288)).toBe(0);
    expect(now.equals(payload.subarray(12_288, 20_480))).toBe(true);
  });

  test('syncs side by side have descriptors of their own, and give them back', async () => {
    const open = () =>
      readdirSync('/proc/self/fd').filter((descriptor) => {
        try {
          return readlinkSync(`/proc/self/fd/${descriptor}`).startsWith(directory.path);
        } catch {
          return false;
        }
      }).length;
    const volume = await store.create('synced', SIZE);
    await write(volume, 0, Buffer.alloc(4096, 1));
    await flush(volume);
    const before = open();
    const flushes: Promise<number>[] = [];
    for (let count = 0; count < 3 * SYNCS_IN_FLIGHT_MAX; count += 1) {
      await write(volume, 0, Buffer.alloc(4096, count));
      flushes.push(flush(volume));
    }
    expect(volume.io.syncs).toBe(1 + SYNCS_IN_FLIGHT_MAX);
    expect(open() - before).toBe(SYNCS_IN_FLIGHT_MAX - 1);
    expect(new Set(await Promise.all(flushes))).toEqual(new Set([0]));
    await store.close();
    expect(open()).toBe(0);
    store = openStore(nodeDisk, directory.path);
  });

  test('4 TiB that hold little open at once and take little memory', async () => {
    const volume = await store.create('large', 4 * 2 ** 40);
    const far = 4 * 2 ** 40 - 4096;
    expect(await write(volume, far, Buffer.alloc(4096, 5))).toBe(0);
    await flush(volume);
    await store.close();
    const before = process.memoryUsage().arrayBuffers;
    const began = performance.now();
    store = openStore(nodeDisk, directory.path);
    expect(performance.now() - began).toBeLessThan(2500);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(12 * 2 ** 20);
    const again = store.find('large')!;
    expect((await read(again, far, 4096)).equals(Buffer.alloc(4096, 5))).toBe(true);
    expect(again.runAt(0, again.sizeBytes)).toEqual({ end: far, zero: true });
    expect(again.allocatedBytes).toBe(4096);
    await store.delete(again);
    expect(store.list()).toEqual([]);
  });
});
