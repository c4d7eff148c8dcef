/**
 * CACHE requests to a volume: answered at once, and followed by reading the data of their range ahead, piece by
 * piece. The disk in memory records what it was asked to read ahead, and holds its pool when told.
 */
import { describe, expect, test } from 'vitest';
import {
  READ_AHEAD_BYTES_MAX,
  READ_AHEAD_HINTS_MAX,
  READ_AHEAD_PIECE_BYTES,
} from '../../src/io/limits.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { requestOf, write, zero } from './support/request.ts';
import { newVolume, turn } from './support/store.ts';

const MIB = 2 ** 20;

function cache(volume: Volume, offset: number, length: number): number {
  const request = requestOf({ offset: 0, length: 0 });
  request.offset = offset;
  request.length = length;
  return volume.cache(request);
}

async function turns(count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) await turn();
}

describe('read-ahead', () => {
  test('asks for the data of the range and skips what is not there', async () => {
    const { disk, volume } = await newVolume(64 * MIB);
    await write(volume, 8192, Buffer.alloc(4096, 1));
    await write(volume, 32 * MIB, Buffer.alloc(8192, 1));
    expect(cache(volume, 0, 33 * MIB)).toBe(0);
    expect(cache(volume, 32 * MIB + 100, 5000)).toBe(0);
    await turns(10);
    expect(disk.readAheads).toEqual([
      { position: 8192, length: 4096 },
      { position: 32 * MIB, length: 8192 },
      { position: 32 * MIB + 100, length: 5000 },
    ]);
    expect(volume.io.read_ahead_pieces).toBe(3);
  });

  test('of a whole device has one bounded piece on its way, and ends', async () => {
    const { disk, volume } = await newVolume(2 ** 40);
    await zero(volume, { offset: 0, length: 2 ** 30 }, true);
    disk.holding = true;
    expect(cache(volume, 0, 2 ** 40)).toBe(0);
    let pieces = 0;
    while (disk.held.length > 0) {
      expect(disk.held.map(({ kind }) => kind)).toEqual(['read-ahead']);
      disk.letGo();
      pieces += 1;
    }
    expect(pieces).toBe(READ_AHEAD_BYTES_MAX / READ_AHEAD_PIECE_BYTES);
    expect(Math.max(...disk.readAheads.map(({ length }) => length))).toBe(READ_AHEAD_PIECE_BYTES);
  });

  test('takes no more hints than it can hold, and answers them all the same', async () => {
    const { disk, volume } = await newVolume(64 * MIB);
    await write(volume, 0, Buffer.alloc(4096, 1));
    disk.holding = true;
    for (let index = 0; index < 3 * READ_AHEAD_HINTS_MAX; index += 1) {
      expect(cache(volume, 0, 4096)).toBe(0);
    }
    while (disk.held.length > 0) disk.letGo();
    expect(disk.readAheads.length).toBe(READ_AHEAD_HINTS_MAX);
  });

  test('is given up where the disk cannot do it', async () => {
    const { disk, volume } = await newVolume(64 * MIB);
    disk.canReadAhead = false;
    await write(volume, 0, Buffer.alloc(4096, 1));
    for (const _ of [1, 2]) {
      expect(cache(volume, 0, 4096)).toBe(0);
      expect(cache(volume, 0, 4096)).toBe(0);
      await turns(4);
    }
    expect(disk.readAheads.length).toBe(1);
  });

  test('is over before the file is closed, and takes nothing afterwards', async () => {
    const { disk, store, volume } = await newVolume(64 * MIB);
    await write(volume, 0, Buffer.alloc(32 * MIB, 1));
    disk.holding = true;
    cache(volume, 0, 64 * MIB);
    let closed = false;
    const closing = store.close().then(() => (closed = true));
    await turns(5);
    expect(closed).toBe(false);
    disk.holding = false;
    disk.letGo();
    await closing;
    expect(disk.readAheads.length).toBe(1);
    expect(cache(volume, 0, 4096)).toBe(108);
  });

  test('past the end is refused', async () => {
    const { volume } = await newVolume(MIB);
    expect(cache(volume, MIB - 4096, 8192)).toBe(22);
    expect(cache(volume, MIB, 0)).toBe(0);
  });
});
