/**
 * A volume with snapshots reads back what was written to it, and every snapshot what the volume held then. Method: random
 * requests of any offset and size, and random operations on snapshots, against byte arrays; warm and cold reads, writes on
 * the calling thread and on the pool, on a disk that punches and on one that cannot; then again from another process after
 * a clean end and after a kill. Then single rules, one a test.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import { createTogether } from '../../src/volume/snapshots/freeze.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { answered, flush, read, requestOf, write, zero } from './support/request.ts';
import { openStore } from './support/store.ts';

const SIZE = 5 * 2 ** 20;
const ESHUTDOWN = 108;
const NAMES = ['a', 'b', 'c'] as const;

const range = fc
  .tuple(fc.nat(SIZE - 1), fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.nat(SIZE)))
  .map(([offset, length]) => ({ offset, length: Math.max(1, Math.min(length, SIZE - offset)) }));
const name = fc.constantFrom(...NAMES);
const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      range,
      byte: fc.integer({ min: 1, max: 255 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('zero' as const), range, noHole: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('flush' as const) }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('reopen' as const), clean: fc.boolean() }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constantFrom(
        'create',
        'delete',
        'restore',
        'refresh',
        'copy',
        'synchronise',
        'part',
      ),
      name,
      other: name,
      range,
    }),
  },
);

const modes = fc.record({
  slow: fc.boolean(),
  cold: fc.boolean(),
  canPunch: fc.boolean(),
  canProvision: fc.boolean(),
  merging: fc.boolean(),
});

async function readDevice(volume: Volume, snapshot: string): Promise<Buffer> {
  const device = volume.snapshots.device(snapshot)!;
  const request = requestOf({ offset: 0, length: device.sizeBytes });
  expect(await answered(request, (each) => device.read(each))).toBe(0);
  return request.bytes;
}

describe('a volume with snapshots', () => {
  test('agrees with byte arrays', async () => {
    await fc.assert(
      fc.asyncProperty(modes, fc.array(step, { maxLength: 25 }), async (mode, steps) => {
        let disk = new MemoryDisk();
        let store = openStore(disk);
        let volume = await store.create('v', SIZE);
        const model = Buffer.alloc(SIZE);
        const kept = new Map<string, Buffer>();
        const prepare = (): void => {
          disk.cold = mode.cold;
          disk.canPunch = mode.canPunch;
          disk.canProvision = mode.canProvision;
          if (!mode.merging) volume.snapshots.pauseMerge();
        };
        prepare();
        for (const each of steps) {
          switch (each.kind) {
            case 'flush':
              expect(await flush(volume)).toBe(0);
              break;
            case 'reopen':
              if (each.clean) await store.close();
              disk = disk.kill();
              store = openStore(disk);
              volume = store.find('v')!;
              expect(store.damaged).toEqual([]);
              prepare();
              break;
            case 'write': {
              const { offset, length } = each.range;
              model.fill(each.byte, offset, offset + length);
              expect(await write(volume, offset, Buffer.alloc(length, each.byte))).toBe(0);
              break;
            }
            case 'zero':
              model.fill(0, each.range.offset, each.range.offset + each.range.length);
              expect(await zero(volume, each.range, each.noHole)).toBe(0);
              break;
            case 'create':
            case 'delete':
            case 'restore':
            case 'refresh':
            case 'copy':
            case 'synchronise':
            case 'part':
              await operate(volume, each, model, kept);
          }
          expect((await read(volume, 0, SIZE)).equals(model)).toBe(true);
          expect(
            volume.snapshots
              .list()
              .map((info) => info.name)
              .toSorted(),
          ).toEqual([...kept.keys()].toSorted());
        }
        for (const [snapshot, bytes] of kept) {
          expect((await readDevice(volume, snapshot)).equals(bytes)).toBe(true);
        }
        await store.close();
      }),
      { numRuns: 60 },
    );
  });

  test('of two volumes are made at one instant', async () => {
    const disk = new MemoryDisk();
    const store = openStore(disk);
    const one = await store.create('one', 2 ** 20);
    const two = await store.create('two', 2 ** 20);
    await write(one, 0, Buffer.alloc(4096, 1));
    disk.holding = true;
    const made = createTogether([one, two], 's');
    disk.holding = false;
    while (disk.held.length > 0) disk.letGo();
    await made;
    await write(two, 0, Buffer.alloc(4096, 2));
    expect((await readDevice(one, 's'))[0]).toBe(1);
    expect((await readDevice(two, 's'))[0]).toBe(0);
    await store.close();
  });

  test('makes no layer for a snapshot of what did not change', async () => {
    const store = openStore(new MemoryDisk());
    const volume = await store.create('v', 2 ** 20);
    await write(volume, 0, Buffer.alloc(4096, 1));
    await volume.snapshots.create('a');
    await volume.snapshots.create('b');
    expect(volume.metadata.state.layers.size).toBe(2);
    await store.close();
  });

  test('becomes one layer again when its snapshots are deleted, and is written in place', async () => {
    const disk = new MemoryDisk();
    const store = openStore(disk, '/data', systemClock);
    const volume = await store.create('v', 2 ** 20);
    const files = (): string[] =>
      disk.list(`/data/volumes/${volume.id}`).filter((file) => file.endsWith('.data'));
    for (const each of ['a', 'b', 'c', 'd']) {
      await write(volume, 0, Buffer.from(each.repeat(9000)));
      await volume.snapshots.create(each);
    }
    for (const each of ['a', 'b', 'c', 'd']) await volume.snapshots.delete(each);
    await expect.poll(() => volume.metadata.state.layers.size).toBe(1);
    await expect.poll(() => files().length).toBe(1);
    expect((await read(volume, 0, 9000)).toString()).toBe('d'.repeat(9000));
    await write(volume, 4096, Buffer.alloc(4096, 'e'));
    expect(files().length).toBe(1);
    const expected = Buffer.from('d'.repeat(9000)).fill('e', 4096, 8192);
    expect(await read(volume, 0, 9000)).toEqual(expected);
    expect(volume.allocatedBytes).toBe(3 * 4096);
    await store.close();
    const again = openStore(disk, '/data', systemClock);
    const reopened = again.find('v')!;
    expect(await read(reopened, 0, 9000)).toEqual(expected);
    await again.close();
  });

  test('keeps its top when something was written there since', async () => {
    const store = openStore(new MemoryDisk(), '/data', systemClock);
    const volume = await store.create('v', 2 ** 20);
    await write(volume, 0, Buffer.alloc(4096, 1));
    await volume.snapshots.create('a');
    await write(volume, 8192, Buffer.alloc(4096, 2));
    await volume.snapshots.delete('a');
    expect(volume.metadata.state.layers.size).toBe(2);
    expect([(await read(volume, 0, 1))[0], (await read(volume, 8192, 1))[0]]).toEqual([1, 2]);
    await store.close();
  });

  test('is written in the layer below its top only when the log says so durably', async () => {
    const disk = new MemoryDisk();
    const store = openStore(disk, '/data', systemClock);
    const volume = await store.create('v', 2 ** 20);
    await write(volume, 0, Buffer.alloc(4096, 1));
    await volume.snapshots.create('a');
    disk.holding = true;
    const deleted = volume.snapshots.delete('a');
    // Until nothing but the end of the top is to be recorded.
    await expect
      .poll(() => {
        if (volume.metadata.state.layers.size > 1) disk.letGo();
        return volume.metadata.state.layers.size;
      })
      .toBe(1);
    let isAnswered = false;
    const written = write(volume, 8192, Buffer.alloc(4096, 2)).then(() => (isAnswered = true));
    for (let count = 0; count < 20; count += 1) await Promise.resolve();
    const [held] = disk.held;
    expect([isAnswered, held?.kind]).toEqual([false, 'write']);
    expect(held?.path).toContain('metadata.log');
    disk.holding = false;
    while (disk.held.length > 0) disk.letGo();
    await Promise.all([deleted, written]);
    const killed = openStore(disk.kill(), '/data', systemClock);
    const volumeAfter = killed.find('v')!;
    expect([(await read(volumeAfter, 0, 1))[0], (await read(volumeAfter, 8192, 1))[0]]).toEqual([
      1, 2,
    ]);
    await killed.close();
  });

  test('answers no read with what is merged into the layer of a snapshot that goes', async () => {
    const disk = new MemoryDisk();
    const store = openStore(disk, '/data', systemClock);
    const volume = await store.create('v', 2 ** 20);
    for (const each of ['a', 'b']) {
      await write(volume, 0, Buffer.alloc(8192, each));
      await volume.snapshots.create(each);
    }
    const device = volume.snapshots.device('a')!;
    const request = requestOf({ offset: 0, length: 8192 });
    disk.cold = true;
    disk.holding = true;
    const status = answered(request, (each) => device.read(each));
    disk.holding = false;
    await volume.snapshots.delete('a');
    await expect.poll(() => volume.metadata.state.layers.size).toBe(2);
    disk.letGo();
    expect(await status).toBe(ESHUTDOWN);
    expect(disk.held).toEqual([]);
    await store.close();
  });

  test('shows zeroes, not what lies below, where it shrank and grew again', async () => {
    const store = openStore(new MemoryDisk());
    const volume = await store.create('v', 2 ** 20);
    await write(volume, 2 ** 20 - 4096, Buffer.alloc(4096, 7));
    await volume.snapshots.create('a');
    await volume.resize(2 ** 19);
    await volume.resize(2 ** 20);
    expect((await read(volume, 2 ** 20 - 4096, 4096)).every((byte) => byte === 0)).toBe(true);
    expect((await readDevice(volume, 'a')).at(-1)).toBe(7);
    await volume.resize(2 ** 19);
    await expect(volume.snapshots.restore('a')).rejects.toMatchObject({
      code: 'SNAPSHOT_TOO_LARGE',
    });
    await volume.resize(2 ** 21);
    await volume.snapshots.restore('a');
    expect((await read(volume, 2 ** 20 - 4096, 8192)).toString('hex')).toBe(
      '07'.repeat(4096) + '00'.repeat(4096),
    );
    await store.close();
  });
});

async function operate(
  volume: Volume,
  step: { kind: string; name: string; other: string; range: { offset: number; length: number } },
  model: Buffer,
  kept: Map<string, Buffer>,
): Promise<void> {
  const { snapshots } = volume;
  const held = kept.get(step.name);
  const target = kept.get(step.other);
  switch (step.kind) {
    case 'create':
      if (held !== undefined) {
        await expect(snapshots.create(step.name)).rejects.toMatchObject({
          code: 'SNAPSHOT_EXISTS',
        });
        return;
      }
      await snapshots.create(step.name);
      kept.set(step.name, Buffer.from(model));
      return;
    case 'copy':
      if (held === undefined || target !== undefined) return;
      await snapshots.copy(step.name, step.other);
      kept.set(step.other, held);
      return;
    default:
  }
  if (held === undefined) {
    await expect(snapshots.delete(step.name)).rejects.toMatchObject({ code: 'SNAPSHOT_NOT_FOUND' });
    return;
  }
  switch (step.kind) {
    case 'delete':
      await snapshots.delete(step.name);
      kept.delete(step.name);
      return;
    case 'restore':
      await snapshots.restore(step.name);
      held.copy(model);
      return;
    case 'part': {
      const offset = Math.floor(step.range.offset / 4096) * 4096;
      const length = Math.min(SIZE - offset, Math.ceil(step.range.length / 4096) * 4096);
      await snapshots.restoreRange(step.name, offset, length);
      held.copy(model, offset, offset, offset + length);
      return;
    }
    case 'refresh':
      await snapshots.refresh(step.name);
      kept.set(step.name, Buffer.from(model));
      return;
    default:
      if (target === undefined || step.name === step.other) return;
      await snapshots.synchronise(step.name, step.other);
      kept.set(step.other, held);
  }
}
