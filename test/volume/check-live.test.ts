/**
 * A volume is checked while it is in use. Method: a check beside writes, snapshots and merges finds nothing and holds the
 * event loop for no longer than a piece; then the log, sealed files or the top's file are damaged under the open volume,
 * and each damage is named.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import { BLOCK_BYTES } from '../../src/io/limits.ts';
import type { VolumeStore } from '../../src/volume/store.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { codesOf } from './support/check-world.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { flush, write, zero } from './support/request.ts';
import { openStore, turn } from './support/store.ts';

const BLOCKS = 512;
const SIZE = BLOCKS * BLOCK_BYTES;

let disk: MemoryDisk;
let store: VolumeStore;
let volume: Volume;
beforeEach(async () => {
  disk = new MemoryDisk();
  store = openStore(disk);
  volume = await store.create('live', SIZE);
});
afterEach(() => store.close());

const path = (name: string): string => `/data/volumes/${volume.id}/${name}`;

function block(first: number, value: number, count = 1): Promise<number> {
  return write(volume, first * BLOCK_BYTES, Buffer.alloc(count * BLOCK_BYTES, value));
}

function put(file: string, position: number, bytes: Buffer): void {
  disk.open(path(file), { create: false }).writeNow(bytes, 0, bytes.length, position);
}

async function codes(): Promise<string[]> {
  const found = await store.check(volume);
  expect(found.every(({ repair }) => repair === null)).toBe(true);
  return codesOf(found);
}

describe('the check of a volume in use', () => {
  test('finds nothing in one that is new, was written, or has snapshots', async () => {
    expect(await codes()).toEqual([]);
    await block(3, 1, 9);
    expect(await codes()).toEqual([]);
    await volume.snapshots.create('a');
    await block(5, 2);
    await volume.snapshots.create('b');
    await zero(volume, { offset: 0, length: SIZE });
    expect(await codes()).toEqual([]);
  });

  test('finds nothing while it is written, cut into snapshots and merged', async () => {
    const life = { running: true };
    let writes = 0;
    const host = async (): Promise<void> => {
      for (let step = 0; life.running; step += 1) {
        await block((step * 37) % BLOCKS, 1 + (step % 200));
        if (step % 7 === 0) await zero(volume, { offset: step % SIZE, length: 5000 });
        if (step % 20 === 0) await flush(volume);
        writes += 1;
        await turn();
      }
    };
    const operator = async (): Promise<void> => {
      for (let step = 0; life.running; step += 1) {
        await volume.snapshots.create(`s${step}`);
        if (step >= 3) await volume.snapshots.delete(`s${step - 3}`);
        if (step % 5 === 4) await volume.snapshots.restore(`s${step - 1}`).catch(() => {});
        if (step % 4 === 3) await volume.resize(SIZE - (step % 3) * BLOCK_BYTES).catch(() => {});
        await turn();
      }
    };
    // Slow enough, on the pool, that changes are under way at any moment.
    const work = [host(), host(), operator()];
    for (let round = 0; round < 40; round += 1) {
      const found = await store.check(volume);
      expect(found.filter(({ severity }) => severity === 'fault')).toEqual([]);
      // What a merge has copied so far is not told either.
      expect(codesOf(found)).not.toContain('unused-data');
      await turn();
    }
    life.running = false;
    await Promise.all(work);
    expect(writes).toBeGreaterThan(40);
  });

  test('finds nothing while a base layer is written, at once and on the pool', async () => {
    const life = { running: true };
    const host = async (start: number): Promise<void> => {
      for (let step = start; life.running; step += 1) {
        await block((step * 37) % (BLOCKS - 4), 1 + (step % 200), 4);
        // Holes and pool: changes that are seen in the file before they are in the map.
        await zero(volume, { offset: ((step * 61) % (BLOCKS - 8)) * BLOCK_BYTES, length: 30_000 });
      }
    };
    const work = [host(0), host(100), host(333)];
    for (let round = 0; round < 60; round += 1) {
      disk.cold = round % 3 === 0;
      expect(await store.check(volume)).toEqual([]);
    }
    life.running = false;
    await Promise.all(work);
  });

  test('names a record of the log that went bad, by its place', async () => {
    await block(3, 1);
    await flush(volume);
    await block(9, 1);
    await flush(volume);
    const log = disk.readFile(path('metadata.log'));
    // A commit is on its way: what it leaves past the durable part is nobody's business yet.
    put('metadata.log', log.length, Buffer.alloc(50, 0xbf));
    expect(await codes()).toEqual([]);
    put('metadata.log', 150, Buffer.from([log[150]! ^ 1]));
    const [found, ...others] = await store.check(volume);
    expect(others).toEqual([]);
    expect(found?.code).toBe('log-corrupt');
    const { offset = 0, length = 0 } = found?.place.bytes ?? {};
    expect(offset <= 150 && 150 < offset + length).toBe(true);
    put('metadata.log', 150, log.subarray(150, 151));
    put('metadata.log', 3, Buffer.from('x'));
    expect(await codes()).toEqual(['log-header-bad']);
    put('metadata.log', 3, log.subarray(3, 4));
    disk.open(path('metadata.log'), { create: false }).truncateNow(log.length - 8);
    expect(await codes()).toEqual(['log-corrupt']);
    put('metadata.log', 0, log);
  });

  test('names data in the file of the base layer that nobody wrote', async () => {
    await block(3, 1, 4);
    put('layer-00000001.data', 100 * BLOCK_BYTES, Buffer.alloc(3 * BLOCK_BYTES, 9));
    const found = await store.check(volume);
    expect(found.map(({ code, place }) => [code, place.blocks])).toEqual([
      ['data-outside-map', { first: 100, count: 3 }],
    ]);
    // Where the disk would have to be asked, it is.
    disk.cold = true;
    const looking = store.check(volume);
    await turn();
    await turn();
    disk.cold = false;
    expect(codesOf(await looking)).toEqual(['data-outside-map']);
  });

  test('leaves a place alone that a change under way may have touched', async () => {
    await block(5, 1, 2);
    const later = disk.later.bind(disk);
    const held: (() => void)[] = [];
    disk.later = (kind, file, position, run) => {
      if (kind === 'punch') held.push(run);
      else later(kind, file, position, run);
    };
    const zeroed = zero(volume, { offset: 5 * BLOCK_BYTES, length: 4 * BLOCK_BYTES });
    put('layer-00000001.data', 8 * BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, 9));
    await turn();
    expect(held.length).toBe(1);
    expect(await codes()).toEqual([]);
    disk.later = later;
    for (const run of held) run();
    expect(await zeroed).toBe(0);
    put('layer-00000001.data', 8 * BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, 9));
    expect(await codes()).toEqual(['data-outside-map']);
  });

  test('names a sealed file that is gone, too short, or another one', async () => {
    await block(0, 1, 8);
    await volume.snapshots.create('a');
    await block(100, 2, 8);
    await volume.snapshots.create('b');
    const [one, two] = ['layer-00000001.data', 'layer-00000002.data'].map((name) => path(name));
    disk.open(one!, { create: false }).truncateNow(4 * BLOCK_BYTES);
    expect(await codes()).toContain('layer-file-short');
    disk.open(one!, { create: false }).truncateNow(SIZE);
    put('layer-00000001.data', 300 * BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, 9));
    const found = await store.check(volume);
    expect(codesOf(found)).toContain('layer-file-wrong');
    disk.rename(two!, `${two!}.away`);
    expect(await codes()).toContain('layer-file-missing');
    disk.rename(`${two!}.away`, two!);
  });

  test('says that a volume failed', async () => {
    disk.failSync = (file) => (file.endsWith('.data') ? 5 : 0);
    await block(3, 1);
    expect(await flush(volume)).toBe(5);
    expect(await codes()).toEqual(['volume-failed']);
  });

  test('ends when the volume is deleted, and leaves no second check behind', async () => {
    await block(3, 1);
    const checking = store.check(volume);
    await expect(store.check(volume)).rejects.toMatchObject({ code: 'BUSY' });
    const gone = store.delete(volume);
    await expect(checking).rejects.toMatchObject({ code: 'VOLUME_NOT_FOUND' });
    await gone;
    const next = await store.create('next', SIZE);
    expect(await store.check(next)).toEqual([]);
  });
});

describe('a check of a large volume', () => {
  test('lets others have their turn', async () => {
    const large = await store.create('large', 2 ** 40);
    // A log of many records: each flush tells of one block.
    for (let step = 0; step < 3000; step += 1) {
      large.metadata.append({
        kind: 'allocated',
        layer: 1,
        first: step * 3000,
        count: 1,
        state: 1,
      });
    }
    await large.commit();
    let turns = 0;
    let checking = true;
    const count = (): void => {
      turns += 1;
      if (checking) systemClock.soon(count);
    };
    count();
    await store.check(large);
    checking = false;
    // 256 records at most between two of them.
    expect(turns).toBeGreaterThan(11);
  });
});
