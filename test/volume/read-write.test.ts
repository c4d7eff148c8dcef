/**
 * A volume reads back what was written, zeroed and trimmed, byte for byte. Method: random requests of any offset
 * and size against a byte array, with writes on the calling thread and on the pool, warm and cold reads, on a disk
 * that can punch and provision and on one that cannot; then again from a new process after a clean and an unclean end.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { newVolume, reopen } from './support/store.ts';
import { flush, read, write, zero } from './support/request.ts';

const SIZE = 5 * 2 ** 20;

const range = fc
  .tuple(fc.nat(SIZE - 1), fc.oneof(fc.integer({ min: 1, max: 9000 }), fc.nat(SIZE)))
  .map(([offset, length]) => ({ offset, length: Math.max(1, Math.min(length, SIZE - offset)) }));

const step = fc.oneof(
  fc.record({ kind: fc.constant('write' as const), range, byte: fc.integer({ min: 1, max: 255 }) }),
  fc.record({ kind: fc.constant('zero' as const), range, noHole: fc.boolean() }),
  fc.record({ kind: fc.constant('read' as const), range }),
  fc.record({ kind: fc.constant('flush' as const) }),
);

const modes = fc.record({
  slow: fc.boolean(),
  cold: fc.boolean(),
  canPunch: fc.boolean(),
  canProvision: fc.boolean(),
  clean: fc.boolean(),
});

describe('a volume', () => {
  test('agrees with a byte array', async () => {
    await fc.assert(
      fc.asyncProperty(modes, fc.array(step, { maxLength: 12 }), async (mode, steps) => {
        const { disk, clock, store, volume } = await newVolume(SIZE);
        disk.cold = mode.cold;
        disk.canPunch = mode.canPunch;
        disk.canProvision = mode.canProvision;
        if (mode.slow) disk.beforeWriteNow = () => void (clock.time += 50);
        const model = Buffer.alloc(SIZE);
        for (const each of steps) {
          if (each.kind === 'flush') {
            expect(await flush(volume)).toBe(0);
            continue;
          }
          const { offset, length } = each.range;
          if (each.kind === 'write') {
            model.fill(each.byte, offset, offset + length);
            expect(await write(volume, offset, Buffer.alloc(length, each.byte))).toBe(0);
          } else if (each.kind === 'zero') {
            model.fill(0, offset, offset + length);
            expect(await zero(volume, each.range, each.noHole)).toBe(0);
          } else {
            const bytes = await read(volume, offset, length);
            expect(bytes.equals(model.subarray(offset, offset + length))).toBe(true);
          }
        }
        expect((await read(volume, 0, SIZE)).equals(model)).toBe(true);
        const now = Buffer.alloc(SIZE, 0xaa);
        expect(volume.readNow(now, 0, SIZE, 0)).toBe(0);
        expect(now.equals(model)).toBe(true);
        if (mode.clean) await store.close();
        const again = reopen(disk.kill());
        expect((await read(again.volume, 0, SIZE)).equals(model)).toBe(true);
        expect(again.volume.metadata.unclean).toBe(
          !mode.clean && steps.some(({ kind }) => kind === 'write' || kind === 'zero'),
        );
      }),
      { numRuns: 80 },
    );
  });

  test('takes one byte at the very end', async () => {
    const { volume } = await newVolume(8192);
    expect(await write(volume, 8191, Buffer.from([7]))).toBe(0);
    expect((await read(volume, 8190, 2)).toString('hex')).toBe('0007');
    expect(await write(volume, 8191, Buffer.from([7, 8]))).toBe(28);
    expect(volume.allocatedBytes).toBe(4096);
  });

  test('frees the space of what is trimmed and says how much it holds', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(2 ** 20, 1));
    expect(volume.allocatedBytes).toBe(2 ** 20);
    const used = disk.pagesUsed();
    await zero(volume, { offset: 1000, length: 2 ** 20 - 1000 });
    expect(volume.allocatedBytes).toBe(4096);
    expect(disk.pagesUsed()).toBe(used - 255);
    await zero(volume, { offset: 0, length: 2 ** 20 }, true);
    expect(volume.allocatedBytes).toBe(2 ** 20);
    await zero(volume, { offset: 2 * 2 ** 20, length: 8192 }, true);
    expect(volume.allocatedBytes).toBe(2 ** 20 + 8192);
  });

  test('tells runs of data from runs of zeroes', async () => {
    const { volume } = await newVolume(SIZE);
    await write(volume, 8192, Buffer.alloc(8192, 1));
    expect(volume.runAt(0, SIZE)).toEqual({ end: 8192, zero: true });
    expect(volume.runAt(8192, SIZE)).toEqual({ end: 16384, zero: false });
    expect(volume.runAt(8192, 12288)).toEqual({ end: 12288, zero: false });
    expect(volume.runAt(16384, SIZE)).toEqual({ end: SIZE, zero: true });
  });

  test('keeps as many cold reads in flight as are asked', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(2 ** 20, 1));
    disk.cold = true;
    disk.holding = true;
    const reads = Array.from({ length: 64 }, (_, index) => read(volume, index * 4096, 4096));
    expect(disk.held.map(({ kind }) => kind)).toEqual(Array.from({ length: 64 }, () => 'read'));
    disk.holding = false;
    while (disk.held.length > 0) disk.letGo(disk.held.length - 1);
    for (const bytes of await Promise.all(reads)) expect(bytes[5]).toBe(1);
  });

  test('tries few reads at once where nearly all miss, and all again when they do not', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(2 ** 20, 1));
    let tries = 0;
    const { file } = volume.layer;
    const readNow = file.readNow.bind(file);
    file.readNow = (...parameters) => {
      tries += 1;
      return readNow(...parameters);
    };
    const readMany = async (count: number): Promise<number> => {
      const before = tries;
      for (let index = 0; index < count; index += 1) {
        expect((await read(volume, (index % 200) * 4096, 4096))[9]).toBe(1);
      }
      return tries - before;
    };
    disk.cold = true;
    expect(await readMany(1600)).toBeLessThan(200);
    disk.cold = false;
    expect(await readMany(100)).toBeGreaterThan(80);
    const { reads_at_once: atOnce, reads_on_pool: onPool } = volume.io;
    expect([atOnce > 80, onPool >= 1600, atOnce + onPool]).toEqual([true, true, 1700]);
  });

  test('takes from memory what is there, and only the rest from the pool', async () => {
    const { disk, volume } = await newVolume(SIZE);
    const payload = Buffer.alloc(2 ** 20, 'half in memory');
    await write(volume, 0, payload);
    const { file } = volume.layer;
    const readNow = file.readNow.bind(file);
    file.readNow = (buffer, start, length, position) =>
      readNow(buffer, start, Math.min(length, 10_000), position);
    disk.holding = true;
    const reading = read(volume, 500, 100_000);
    expect(disk.held.map(({ kind, position }) => `${kind} ${position}`)).toEqual(['read 10500']);
    disk.letGo();
    expect((await reading).equals(payload.subarray(500, 100_500))).toBe(true);
  });
});
