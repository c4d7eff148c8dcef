/**
 * Changes that overlap take effect, and are answered, in the order in which they arrived, also when the pool runs
 * them in any order it likes (I2); a read sees all of a change, or nothing. Method: a pool that the test lets go piece by
 * piece, in random order.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { newVolume } from './support/store.ts';
import { read, write, zero } from './support/request.ts';

const SIZE = 64 * 1024;

describe('overlapping changes', () => {
  test('end in the order of their arrival, whatever the pool does', async () => {
    const change = fc.record({
      zeroes: fc.boolean(),
      noHole: fc.boolean(),
      offset: fc.nat(SIZE - 1),
      length: fc.integer({ min: 1, max: 20_000 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(change, { minLength: 1, maxLength: 30 }),
        fc.infiniteStream(fc.nat(1000)),
        async (changes, choices) => {
          const { disk, clock, volume } = await newVolume(SIZE);
          disk.beforeWriteNow = () => void (clock.time += 50);
          await write(volume, 0, Buffer.alloc(1, 0));
          disk.holding = true;
          const model = Buffer.alloc(SIZE);
          const ended: number[] = [];
          const pending = changes.map(async (each, index) => {
            const length = Math.min(each.length, SIZE - each.offset);
            const range = { offset: each.offset, length };
            model.fill(each.zeroes ? 0 : index + 1, each.offset, each.offset + length);
            const status = await (each.zeroes
              ? zero(volume, range, each.noHole)
              : write(volume, each.offset, Buffer.alloc(length, index + 1)));
            expect(status).toBe(0);
            ended.push(index);
          });
          for (let turns = 0; ended.length < changes.length && turns < 1000; turns += 1) {
            if (disk.held.length > 0) disk.letGo(choices.next().value % disk.held.length);
            await new Promise((resolve) => setImmediate(resolve));
          }
          await Promise.all(pending);
          disk.holding = false;
          expect((await read(volume, 0, SIZE)).equals(model)).toBe(true);
          for (const [index, one] of changes.entries()) {
            for (const [later, other] of changes.entries()) {
              if (later <= index) continue;
              const overlap =
                one.offset < other.offset + other.length && other.offset < one.offset + one.length;
              if (overlap) expect(ended.indexOf(index)).toBeLessThan(ended.indexOf(later));
            }
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  test('do not hold up a write elsewhere, which goes to the pool while the file is locked', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(SIZE, 1));
    disk.holding = true;
    const punched = zero(volume, { offset: 0, length: 16_384 });
    const blocked = write(volume, 8192, Buffer.alloc(10, 2));
    const elsewhere = write(volume, 16_384, Buffer.alloc(10, 3));
    expect(disk.held.map(({ kind }) => kind)).toEqual(['punch', 'write']);
    disk.letGo(1);
    expect(await elsewhere).toBe(0);
    disk.holding = false;
    disk.letGo();
    expect(await punched).toBe(0);
    disk.holding = true;
    expect(await write(volume, 16_384, Buffer.alloc(10, 3)), 'at once again').toBe(0);
    disk.holding = false;
    expect(await blocked).toBe(0);
    expect((await read(volume, 8190, 4)).toString('hex')).toBe('00000202');
  });

  test('slow writes go to the pool, and come back when they are fast again', async () => {
    const { disk, clock, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(1, 1));
    let direct = 0;
    let cost = 50;
    disk.beforeWriteNow = () => {
      direct += 1;
      clock.time += cost;
    };
    for (let count = 0; count < 10; count += 1) await write(volume, 0, Buffer.alloc(1, 1));
    expect(direct).toBe(1);
    clock.time += 100;
    for (let count = 0; count < 10; count += 1) await write(volume, 0, Buffer.alloc(1, 1));
    expect(direct, 'one try after the pause').toBe(2);
    clock.time += 150;
    await write(volume, 0, Buffer.alloc(1, 1));
    expect(direct, 'the pause doubled').toBe(2);
    clock.time += 100;
    cost = 0;
    for (let count = 0; count < 10; count += 1) await write(volume, 0, Buffer.alloc(1, 1));
    expect(direct).toBe(12);
  });

  test('a write that lost its processor now and then stays direct', async () => {
    const { disk, clock, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(1, 1));
    let direct = 0;
    disk.beforeWriteNow = () => {
      direct += 1;
      clock.time += direct % 5 === 0 ? 6 : 1;
    };
    for (let count = 0; count < 200; count += 1) {
      clock.time += 2;
      await write(volume, 0, Buffer.alloc(1, 1));
    }
    expect(direct).toBe(200);
  });
});

function kinds(disk: { held: readonly { kind: string }[] }): string[] {
  return disk.held.map(({ kind }) => kind);
}

describe('a read of what is being changed', () => {
  test('waits for the write on the pool, and only for that', async () => {
    const { disk, clock, volume } = await newVolume(SIZE);
    disk.beforeWriteNow = () => void (clock.time += 50);
    await write(volume, 0, Buffer.alloc(SIZE, 1));
    await write(volume, 0, Buffer.alloc(1, 1));
    disk.holding = true;
    const written = write(volume, 8192, Buffer.alloc(4096, 2));
    const wanted = read(volume, 8000, 512);
    expect(kinds(disk)).toEqual(['write']);
    expect((await read(volume, 12_288, 4)).toString('hex'), 'elsewhere').toBe('01010101');
    const after = write(volume, 8192, Buffer.alloc(4096, 3));
    disk.letGo(0);
    expect(await written).toBe(0);
    expect(kinds(disk), 'the later write waits for the read').toEqual(['read']);
    disk.letGo(0);
    expect((await wanted).subarray(190, 194).toString('hex')).toBe('01010202');
    expect(kinds(disk)).toEqual(['write']);
    disk.holding = false;
    disk.letGo(0);
    expect(await after).toBe(0);
  });

  test('is done again when it is on the pool as the change comes', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(SIZE, 1));
    disk.cold = true;
    disk.holding = true;
    const wanted = read(volume, 4096, 4096);
    const beside = read(volume, 0, 4096);
    expect(await write(volume, 8191, Buffer.alloc(1, 2)), 'at once').toBe(0);
    disk.letGo(0);
    disk.letGo(0);
    expect((await beside)[4095]).toBe(1);
    expect(kinds(disk)).toEqual(['read']);
    const after = write(volume, 4096, Buffer.alloc(1, 3));
    expect(kinds(disk), 'it is not overtaken twice').toEqual(['read']);
    disk.holding = false;
    disk.letGo(0);
    expect((await wanted)[4095]).toBe(2);
    expect(await after).toBe(0);
  });

  test('is answered when the volume fails before its turn', async () => {
    const { disk, clock, volume } = await newVolume(SIZE);
    disk.beforeWriteNow = () => void (clock.time += 50);
    await write(volume, 0, Buffer.alloc(SIZE, 1));
    await write(volume, 0, Buffer.alloc(1, 1));
    disk.holding = true;
    const running = write(volume, 0, Buffer.alloc(4096, 2));
    const waiting = write(volume, 0, Buffer.alloc(4096, 3));
    const wanted = read(volume, 0, 4096);
    const alone = write(volume, 16_384, Buffer.alloc(4096, 4));
    volume.giveUp('a test says so');
    expect(await waiting).toBe(5);
    disk.holding = false;
    disk.letGo(0);
    disk.letGo(0);
    expect(await Promise.all([running, alone])).toEqual([0, 0]);
    expect((await wanted)[0]).toBe(2);
  });
});
