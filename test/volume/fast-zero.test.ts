/**
 * WRITE_ZEROES that must be fast or refused, on disks that can and cannot punch and provision. Method: requests
 * against a byte array; a refused one must leave every byte, the map and the disk as they were, and cost no write;
 * the disk in memory counts what was asked of it.
 */
import { describe, expect, test } from 'vitest';
import type { Volume } from '../../src/volume/volume.ts';
import type { MemoryDisk } from './support/memory-disk.ts';
import { answered, flush, read, requestOf, write, zero } from './support/request.ts';
import type { Range } from './support/request.ts';
import { newVolume, reopen, turn } from './support/store.ts';

const ENOTSUP = 95;
const SIZE = 8 * 2 ** 20;

function fastZero(volume: Volume, range: Range, noHole = false): Promise<number> {
  const request = requestOf(range);
  request.fastZero = true;
  request.noHole = noHole;
  return answered(request, (asked) => volume.zero(asked));
}

async function filled(can: { punch: boolean; provision: boolean }) {
  const fixture = await newVolume(SIZE);
  fixture.disk.canPunch = can.punch;
  fixture.disk.canProvision = can.provision;
  await write(fixture.volume, 0, Buffer.alloc(SIZE / 2, 7));
  return fixture;
}

/** What the pool is asked while `action` runs. */
async function poolWork(disk: MemoryDisk, action: () => Promise<number>) {
  const kinds: string[] = [];
  const later = disk.later.bind(disk);
  disk.later = (kind, path, position, run) => {
    kinds.push(kind);
    later(kind, path, position, run);
  };
  const status = await action();
  disk.later = later;
  return { status, kinds };
}

describe('a zeroing that must be fast', () => {
  test.each([
    { noHole: false, way: 'punch' },
    { noHole: true, way: 'provision' },
  ])('is refused with nothing changed where the disk cannot $way', async ({ noHole }) => {
    const { disk, volume } = await filled({ punch: noHole, provision: !noHole });
    const range = { offset: 1000, length: 3 * 2 ** 20 };
    const before = { pages: disk.pagesUsed(), allocated: volume.allocatedBytes };
    for (const attempt of [1, 2]) {
      const { status, kinds } = await poolWork(disk, () => fastZero(volume, range, noHole));
      expect(status).toBe(ENOTSUP);
      expect(kinds.length, `attempt ${attempt}`).toBe(attempt === 1 ? 1 : 0);
      expect((await read(volume, 0, SIZE / 2)).every((byte) => byte === 7)).toBe(true);
      expect({ pages: disk.pagesUsed(), allocated: volume.allocatedBytes }).toEqual(before);
    }
    // The other way is not affected, nor one that may be slow.
    expect(await fastZero(volume, range, !noHole)).toBe(0);
    expect(await zero(volume, range, noHole)).toBe(0);
  });

  test.each([false, true])(
    'writes nothing but edges where it can be done (no hole: %s)',
    async (noHole) => {
      const { disk, volume } = await filled({ punch: true, provision: true });
      const range = { offset: 1000, length: 2 ** 20 };
      const { status, kinds } = await poolWork(disk, () => fastZero(volume, range, noHole));
      expect(status).toBe(0);
      expect(kinds.filter((kind) => kind === 'write').length).toBe(2);
      const bytes = await read(volume, 0, 2 ** 20 + 2000);
      for (const [index, byte] of bytes.entries()) {
        const inside = index >= 1000 && index < 1000 + 2 ** 20;
        if (byte !== (inside ? 0 : 7)) throw new Error(`byte ${index} is ${byte}`);
      }
    },
  );

  test('of less than a block, or of what reads as zeroes already, is always fast', async () => {
    const { volume } = await filled({ punch: false, provision: false });
    expect(await fastZero(volume, { offset: 0, length: 4096 })).toBe(ENOTSUP);
    expect(await fastZero(volume, { offset: 4000, length: 4096 })).toBe(0);
    expect((await read(volume, 4000, 4096)).equals(Buffer.alloc(4096))).toBe(true);
    expect(await fastZero(volume, { offset: SIZE / 2, length: SIZE / 2 })).toBe(0);
    // Nothing is provisioned there.
    expect(await fastZero(volume, { offset: SIZE / 2, length: SIZE / 2 }, true)).toBe(ENOTSUP);
  });

  test('that waited behind another one is refused as well', async () => {
    const { volume } = await filled({ punch: false, provision: false });
    const first = fastZero(volume, { offset: 0, length: 8192 });
    const second = fastZero(volume, { offset: 4096, length: 8192 });
    expect(await Promise.all([first, second])).toEqual([ENOTSUP, ENOTSUP]);
    expect((await read(volume, 0, 16384)).every((byte) => byte === 7)).toBe(true);
  });

  test('beside another one, while nothing is known of the disk, is refused as well', async () => {
    const { volume } = await filled({ punch: false, provision: false });
    const both = [0, 65536].map((offset) => fastZero(volume, { offset, length: 8192 }));
    expect(await Promise.all(both)).toEqual([ENOTSUP, ENOTSUP]);
    expect((await read(volume, 65536, 8192)).every((byte) => byte === 7)).toBe(true);
  });
});

describe('a zeroing that is refused above other layers', () => {
  test('leaves in the log what a flush beside it made durable', async () => {
    const { disk, volume } = await filled({ punch: false, provision: true });
    await volume.snapshots.create('below');
    const content = Buffer.alloc(16_384, 8);
    await write(volume, 0, content);
    disk.holding = true;
    let flushed = -1;
    let zeroed = -1;
    void flush(volume).then((status) => (flushed = status));
    void fastZero(volume, { offset: 4096, length: 4096 }).then((status) => (zeroed = status));
    // The hole is tried when the flush was answered.
    for (let count = 0; count < 100; count += 1) {
      const index = disk.held.findIndex(({ kind }) => kind !== 'punch' || flushed >= 0);
      if (index >= 0) disk.held.splice(index, 1)[0]!.run();
      await turn();
    }
    expect([flushed, zeroed]).toEqual([0, ENOTSUP]);
    const { volume: next } = reopen(disk.crash(() => false));
    expect(await read(next, 0, content.length)).toEqual(content);
  });

  test('leaves in the log what was durable', async () => {
    const { disk, volume } = await filled({ punch: false, provision: true });
    await volume.snapshots.create('below');
    await write(volume, 0, Buffer.alloc(4096, 8));
    expect(await flush(volume)).toBe(0);
    expect(await fastZero(volume, { offset: 0, length: 4096 })).toBe(ENOTSUP);
    const { volume: next } = reopen(disk.crash(() => false));
    expect(await read(next, 0, 4096)).toEqual(Buffer.alloc(4096, 8));
  });
});
