/**
 * A top that nothing came into goes, and the layer below it takes writes again: no write is lost on the way, and nothing comes up
 * that was cut off before. Method: a disk in memory whose pool is held, so that commits of others end beside that of the top's
 * end, and writes come from their callbacks; a log without space; a truncation that fails.
 */
import { describe, expect, test } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import type { DiskFile } from '../../src/io/disk.ts';
import { RegionGate } from '../../src/replicator/changes/region-gate.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { answered, flush, read, requestOf, write } from './support/request.ts';
import { openStore } from './support/store.ts';

const MIB = 2 ** 20;
const BLOCK = 4096;
const ENOSPC = 28;

const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });

async function microtasks(count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) await Promise.resolve();
}

async function turns(count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) await turn();
}

async function letAllGo(disk: MemoryDisk): Promise<void> {
  disk.holding = false;
  while (disk.held.length > 0) {
    disk.letGo();
    await turn();
  }
}

const layerCount = ({ metadata }: Volume): number => metadata.state.layers.size;
const byteAt = async (volume: Volume, offset: number): Promise<number | undefined> =>
  (await read(volume, offset, 1))[0];

describe('while the top goes', () => {
  test.each([false, true])(
    'a write that a commit of another set free does not enter it (a merge ends: %s)',
    async (merged) => {
      const disk = new MemoryDisk();
      const store = openStore(disk, '/data', systemClock);
      const volume = await store.create('v', 64 * MIB);
      const gate = new RegionGate({ volume, clock: systemClock, mirrors: [] as never });
      await write(volume, 0, Buffer.alloc(BLOCK, 1));
      await volume.snapshots.create('a');
      disk.holding = true;
      const deleted = volume.snapshots.delete('a');
      await microtasks(50);
      // Somebody's records are on their way, so what follows goes in one batch.
      volume.metadata.append({ kind: 'regions-cold', regions: [] });
      volume.metadata.commit(() => {});
      while (layerCount(volume) > 1) {
        disk.letGo();
        await turn();
      }
      if (merged) volume.changes.layersChanged();
      const armed = write(volume, 2 * BLOCK, Buffer.alloc(BLOCK, 2));
      const request = requestOf({ offset: 65_536, length: BLOCK }, Buffer.alloc(BLOCK, 3));
      const gated = answered(request, (each) =>
        gate.wait(each, (free) => volume.write(free), null),
      );
      await letAllGo(disk);
      expect(await Promise.all([armed, gated])).toEqual([0, 0]);
      await deleted;
      expect(layerCount(volume)).toBe(1);
      expect(await flush(volume)).toBe(0);
      expect([await byteAt(volume, 2 * BLOCK), await byteAt(volume, 65_536)]).toEqual([2, 3]);
      await store.close();
    },
  );

  test.each([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20])(
    'a first write that comes %i microtasks after a commit is not lost, nor are those behind it',
    async (count) => {
      const disk = new MemoryDisk();
      const store = openStore(disk, '/data', systemClock);
      const volume = await store.create('v', MIB);
      await volume.snapshots.create('a');
      disk.holding = true;
      const deleted = volume.snapshots.delete('a');
      await microtasks(50);
      const written: Promise<number>[] = [];
      volume.metadata.commit(() => {
        void microtasks(count).then(() => written.push(write(volume, 0, Buffer.alloc(BLOCK, 2))));
      });
      while (written.length === 0) {
        disk.letGo();
        await turn();
      }
      for (let block = 1; block < 40; block += 1) {
        written.push(write(volume, block * BLOCK, Buffer.alloc(BLOCK, 2)));
        if (disk.held.length > 0) disk.letGo();
        await turn();
      }
      await letAllGo(disk);
      expect(new Set(await Promise.all(written))).toEqual(new Set([0]));
      await deleted;
      await flush(volume);
      const bytes = await read(volume, 0, 40 * BLOCK);
      expect(bytes.equals(Buffer.alloc(40 * BLOCK, 2))).toBe(true);
      await store.close();
    },
  );

  test.each(['kill', 'power cut'])(
    'nothing is answered that a log without space does not know of: after a %s all is as it was',
    async (end) => {
      const disk = new MemoryDisk();
      const store = openStore(disk, '/data', systemClock);
      const volume = await store.create('v', MIB);
      await write(volume, 0, Buffer.alloc(BLOCK, 1));
      await volume.snapshots.create('a');
      refuseLogAfter(volume, 1);
      await volume.snapshots.delete('a');
      expect(layerCount(volume)).toBe(1);
      expect(await write(volume, 2 * BLOCK, Buffer.alloc(BLOCK, 2))).toBe(ENOSPC);
      const after = end === 'kill' ? disk.kill() : disk.crash(() => false);
      const again = openStore(after, '/data', systemClock);
      const found = again.find('v')!;
      expect([await byteAt(found, 0), await byteAt(found, 2 * BLOCK)]).toEqual([1, 0]);
      await again.close();
    },
  );
});

/** The log takes `count` writes more, and has no space for another. */
function refuseLogAfter(volume: Volume, count: number): void {
  const { file } = volume.metadata as unknown as { readonly file: DiskFile };
  const put = file.write.bind(file);
  let left = count;
  file.write = (buffer, start, length, position, callback) => {
    left -= 1;
    if (left >= 0) put(buffer, start, length, position, callback);
    else setImmediate(() => callback(-ENOSPC));
  };
}

test('what a shrunk layer kept in its file does not come up when it is written in place', async () => {
  const disk = new MemoryDisk();
  const store = openStore(disk, '/data', systemClock);
  const volume = await store.create('v', MIB);
  await write(volume, 0, Buffer.alloc(2 * BLOCK, 1));
  await write(volume, MIB - BLOCK, Buffer.alloc(BLOCK, 7));
  disk.failTruncate = true;
  await volume.resize(MIB / 2);
  disk.failTruncate = false;
  await volume.snapshots.create('s1');
  await volume.resize(MIB);
  await volume.snapshots.create('s2');
  await volume.snapshots.delete('s1');
  await turns(50);
  await volume.snapshots.delete('s2');
  await turns(50);
  expect(layerCount(volume)).toBe(1);
  await write(volume, MIB - BLOCK, Buffer.alloc(512, 9));
  const block = await read(volume, MIB - BLOCK, BLOCK);
  expect([block[0], block[511], block[512], block[4095]]).toEqual([9, 9, 0, 0]);
  await store.close();
});
