/**
 * A clone is a volume of its own over a snapshot of another: it starts with that content, takes nothing for it, and neither of
 * the two sees what the other writes, also when layers below are merged, the process is killed, or the power is cut. Method:
 * random writes to a volume, its clone and the clone's clone, on the memory disk, against byte arrays.
 */
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import type { VolumeStore } from '../../src/volume/store.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { flush, read, write, zero } from './support/request.ts';
import { openStore } from './support/store.ts';

const SIZE = 2 ** 20;
const NAMES = ['origin', 'clone', 'second'] as const;

async function family(disk: MemoryDisk): Promise<VolumeStore> {
  const store = openStore(disk);
  const origin = await store.create('origin', SIZE);
  await write(origin, 5000, Buffer.alloc(50_000, 1));
  await origin.snapshots.create('older');
  await write(origin, 20_000, Buffer.alloc(1000, 2));
  await origin.snapshots.create('base');
  const clone = await store.clone(origin, 'base', 'clone');
  await write(clone, 30_001, Buffer.alloc(500, 3));
  await clone.snapshots.create('inner');
  await store.clone(clone, 'inner', 'second');
  return store;
}

function volumes(store: VolumeStore): Volume[] {
  return NAMES.map((name) => store.find(name)!);
}

const step = fc.record({
  target: fc.nat(2),
  kind: fc.constantFrom('write', 'zero', 'flush', 'snapshot', 'kill', 'clean', 'merge'),
  offset: fc.nat(80_000),
  length: fc.integer({ min: 1, max: 20_000 }),
  byte: fc.integer({ min: 4, max: 255 }),
});

test('a volume, its clone and the clone of that keep apart what was written to each', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 20 }), async (steps) => {
      let disk = new MemoryDisk();
      let store = await family(disk);
      const models = await Promise.all(volumes(store).map((volume) => read(volume, 0, SIZE)));
      let count = 0;
      for (const { target, kind, offset, length, byte } of steps) {
        const volume = volumes(store)[target]!;
        const model = models[target]!;
        if (kind === 'write') {
          expect(await write(volume, offset, Buffer.alloc(length, byte))).toBe(0);
          model.fill(byte, offset, offset + length);
        } else if (kind === 'zero') {
          expect(await zero(volume, { offset, length }, byte % 2 === 0)).toBe(0);
          model.fill(0, offset, offset + length);
        } else if (kind === 'flush') {
          expect(await flush(volume)).toBe(0);
        } else if (kind === 'snapshot') {
          count += 1;
          await volume.snapshots.create(`s${count}`);
        } else if (kind === 'merge') {
          for (const { name } of volume.snapshots.list()) {
            if (name !== 'base' && name !== 'inner') await volume.snapshots.delete(name);
          }
        } else {
          if (kind === 'clean') await store.close();
          disk = disk.kill();
          store = openStore(disk);
          expect(store.damaged).toEqual([]);
        }
        for (const [index, each] of volumes(store).entries()) {
          expect((await read(each, 0, SIZE)).equals(models[index]!)).toBe(true);
        }
      }
      await store.close();
    }),
    { numRuns: 60 },
  );
});

test('what lies below a clone can be neither deleted nor replaced, until the clone is gone', async () => {
  const store = await family(new MemoryDisk());
  const [origin, clone, second] = volumes(store);
  const refused = { code: 'SNAPSHOT_HAS_CLONES' };
  await expect(origin!.snapshots.delete('base')).rejects.toMatchObject(refused);
  await expect(origin!.snapshots.refresh('base')).rejects.toMatchObject(refused);
  await expect(origin!.snapshots.synchronise('older', 'base')).rejects.toMatchObject(refused);
  await expect(store.delete(origin!)).rejects.toMatchObject({ code: 'VOLUME_HAS_CLONES' });
  await store.delete(second!);
  await clone!.snapshots.delete('inner');
  await store.delete(clone!);
  await origin!.snapshots.delete('base');
  await store.delete(origin!);
  await store.close();
});

test('after a power cut a clone has what was flushed, and its origin below it', async () => {
  for (let seed = 0; seed < 20; seed += 1) {
    const disk = new MemoryDisk();
    const store = await family(disk);
    const [, clone] = volumes(store);
    await write(clone!, 8192, Buffer.alloc(4096, 9));
    expect(await flush(clone!)).toBe(0);
    const flushed = await read(clone!, 0, SIZE);
    await write(clone!, 40_000, Buffer.alloc(9000, 9));
    let draws = seed;
    const after = openStore(
      disk.crash(() => {
        draws = (draws * 1103515245 + 12345) % 2 ** 31;
        return draws % 3 === 0;
      }),
    );
    expect(after.damaged).toEqual([]);
    const bytes = await read(after.find('clone')!, 0, SIZE);
    for (let at = 0; at < SIZE; at += 512) {
      const sector = bytes.subarray(at, at + 512);
      const old = sector.equals(flushed.subarray(at, at + 512));
      const inside = at + 512 > 40_000 && at < 49_000;
      expect(old || (inside && sector.includes(9)), `sector at ${at}`).toBe(true);
    }
    await after.close();
  }
});

test('a clone of a volume that is not there is damaged, and others open', async () => {
  const disk = new MemoryDisk();
  const store = await family(disk);
  const { id } = store.find('origin')!;
  await store.close();
  disk.remove(`/data/volumes/${id}`);
  const again = openStore(disk);
  expect(again.list()).toEqual([]);
  expect(again.damaged.map(({ reason }) => reason).join()).toContain(id);
  await again.close();
});
