/**
 * What a journal was told is durable comes back after any power cut, in order and whole; a torn tail ends it, and damage in
 * what was durable is refused with its place. Method: epochs of random sizes on a disk in memory that keeps any sectors of what
 * was not synced, cut at every write; single bytes of a whole journal changed.
 */
import { describe, expect, test } from 'vitest';
import { Dice } from '../../../scripts/fuzz/dice.ts';
import type { Clock } from '../../../src/io/clock.ts';
import { JOURNAL_PROMPT_MS, JOURNAL_SYNC_MS } from '../../../src/io/limits.ts';
import { systemRandom } from '../../../src/io/random.ts';
import type { CompleteEpoch } from '../../../src/replicator/intake/epoch-assembly.ts';
import { RECORDS_START } from '../../../src/replicator/intake/journal-codec.ts';
import { Journal } from '../../../src/replicator/intake/journal.ts';
import { FrameKind } from '../../../src/replicator/link/link-types.ts';
import { MemoryDisk } from '../../volume/support/memory-disk.ts';
import { TestClock, turn } from '../../volume/support/store.ts';
import { VirtualClock } from '../../support/virtual-clock.ts';

const VOLUME_ID = '5a'.repeat(16);
const KIB = 1024;

function epochOf(number: number, sizes: readonly number[]): CompleteEpoch {
  const frames = sizes.map((length, index) => {
    const buffer = Buffer.alloc(length, `${number}.${index};`);
    return { kind: FrameKind.DATA, payload: { buffer, length, release() {} } };
  });
  const bytes = sizes.reduce((sum, size) => sum + size, 0);
  return { generation: 1, epoch: number, time: number * 3, frames, bytes };
}

class Bench {
  readonly durable: number[] = [];
  readonly refusals: { epochs: number[]; errno: number }[] = [];
  failure: string | null = null;
  readonly journal: Journal;

  constructor(disk: MemoryDisk, fileBytes = 256 * KIB, clock: Clock = new TestClock()) {
    this.journal = new Journal({
      disk,
      clock,
      random: systemRandom,
      directory: '/data',
      volumeId: VOLUME_ID,
      fileBytes,
      owner: {
        journaled: ({ epoch }) => void this.durable.push(epoch),
        refused: (epochs, errno) => {
          this.refusals.push({ epochs: epochs.map(({ epoch }) => epoch), errno });
        },
        failed: (reason) => (this.failure = reason),
      },
    });
  }

  async idle(): Promise<void> {
    for (let count = 0; !this.journal.idle && count < 2000; count += 1) await turn();
  }

  async replay(after: number): Promise<CompleteEpoch[]> {
    this.journal.open();
    const found: CompleteEpoch[] = [];
    for await (const epoch of this.journal.replay(after)) found.push(epoch);
    return found;
  }
}

function newDisk(): MemoryDisk {
  const disk = new MemoryDisk();
  disk.makeDirectory('/data');
  disk.syncDirectory('/');
  return disk;
}

function expectWhole(found: readonly CompleteEpoch[], sent: ReadonlyMap<number, CompleteEpoch>) {
  for (const { epoch, time, frames } of found) {
    const was = sent.get(epoch)!;
    expect(time).toBe(was.time);
    expect(frames.map(({ payload }) => payload.buffer)).toEqual(
      was.frames.map(({ payload }) => payload.buffer),
    );
  }
}

describe('after a power cut', () => {
  test.each(Array.from({ length: 10 }, (_, seed) => seed))(
    'what was durable is there: %i',
    async (seed) => {
      const dice = new Dice(seed, 1);
      let disk = newDisk();
      let last = 0;
      let settled = 0;
      const sent = new Map<number, CompleteEpoch>();
      for (let life = 0; life < 4; life += 1) {
        const bench = new Bench(disk);
        const found = await bench.replay(settled);
        expectWhole(found, sent);
        expect(found.map(({ epoch }) => epoch)).toEqual(
          found.map((_, index) => settled + 1 + index),
        );
        expect(settled + found.length).toBeGreaterThanOrEqual(last);
        last = settled + found.length;
        bench.journal.settled(last);
        settled = last;
        if (dice.chance(20)) expect(await bench.journal.forget()).toBe(0);
        disk.holding = true;
        let next = last + 1;
        for (let steps = dice.below(120); steps > 0; steps -= 1) {
          if (dice.chance(40)) {
            const sizes = Array.from({ length: dice.below(5) }, () =>
              dice.chance(20) ? dice.between(1, 90 * KIB) : dice.between(1, 5000),
            );
            const epoch = epochOf(next, sizes.slice(0, 2));
            sent.set(next, epoch);
            bench.journal.append(epoch);
            next += 1;
          }
          if (disk.held.length > 0) disk.letGo(dice.below(disk.held.length));
          if (dice.chance(20)) await turn();
          const durable = bench.durable.at(-1);
          if (durable !== undefined && dice.chance(15)) {
            settled = dice.between(Math.max(settled, bench.durable[0]! - 1), durable);
            bench.journal.settled(settled);
          }
        }
        last = Math.max(last, bench.durable.at(-1) ?? 0);
        expect(bench.durable).toEqual(bench.durable.map((_, index) => bench.durable[0]! + index));
        const percent = dice.pick([0, 50, 90, 100]);
        disk = disk.crash(() => dice.chance(percent));
      }
    },
  );
});

/** A whole journal of epochs 1 to 6, synced one by one, and where each record begins. */
async function written(): Promise<{ disk: MemoryDisk; places: number[] }> {
  const disk = newDisk();
  const bench = new Bench(disk);
  bench.journal.open();
  const places: number[] = [];
  for (let epoch = 1; epoch <= 6; epoch += 1) {
    places.push(RECORDS_START + bench.journal.bytes);
    bench.journal.append(epochOf(epoch, [700, 300]));
    await bench.idle();
  }
  await bench.journal.close();
  return { disk, places };
}

function damage(disk: MemoryDisk, position: number, byte?: number): void {
  const file = disk.open('/data/journal-a', { create: false });
  const old = Buffer.alloc(1);
  file.readBlocking(old, 0, 1, position);
  file.writeNow(Buffer.from([byte ?? old[0]! ^ 0x40]), 0, 1, position);
}

describe('damage', () => {
  test('of what was durable is refused, with its place', async () => {
    const { disk, places } = await written();
    damage(disk, places[2]! + 200);
    await expect(new Bench(disk).replay(0)).rejects.toMatchObject({
      code: 'JOURNAL_UNUSABLE',
      message: expect.stringContaining(`offset ${places[2]}`) as string,
    });
  });

  test.each([0, 20, 61, 64, 90, 900])(
    'of the header, the table or a payload counts (%i)',
    async (at) => {
      const { disk, places } = await written();
      damage(disk, places[1]! + at);
      await expect(new Bench(disk).replay(0)).rejects.toMatchObject({ code: 'JOURNAL_UNUSABLE' });
    },
  );

  test('of what is part of the volume already is passed over', async () => {
    const { disk, places } = await written();
    damage(disk, places[2]!);
    const found = await new Bench(disk).replay(4);
    expect(found.map(({ epoch }) => epoch)).toEqual([5, 6]);
  });

  test('of the last record is a torn tail', async () => {
    const { disk, places } = await written();
    damage(disk, places[5]! + 100);
    const found = await new Bench(disk).replay(0);
    expect(found.map(({ epoch }) => epoch)).toEqual([1, 2, 3, 4, 5]);
  });

  test('of the file header is refused, and so is a newer format', async () => {
    const { disk } = await written();
    damage(disk, 20);
    await expect(new Bench(disk).replay(0)).rejects.toMatchObject({ code: 'JOURNAL_UNUSABLE' });
  });

  test('a gap behind the position is refused', async () => {
    const disk = newDisk();
    const bench = new Bench(disk);
    bench.journal.open();
    bench.journal.append(epochOf(9, [100]));
    await bench.idle();
    await expect(new Bench(disk).replay(7)).rejects.toMatchObject({ code: 'JOURNAL_UNUSABLE' });
    expect(await new Bench(disk).replay(8)).toHaveLength(1);
  });
});

describe('a file that is used again', () => {
  test('shows nothing of its earlier use', async () => {
    const { disk } = await written();
    const bench = new Bench(disk);
    expect(await bench.replay(0)).toHaveLength(6);
    bench.journal.settled(6);
    bench.journal.append(epochOf(7, [700, 300]));
    await bench.idle();
    expect((await new Bench(disk).replay(6)).map(({ epoch }) => epoch)).toEqual([7]);
  });

  test('waits until its epochs are settled, and the first epoch of the other one too', async () => {
    const disk = newDisk();
    const bench = new Bench(disk, 64 * KIB);
    bench.journal.open();
    for (let epoch = 1; epoch <= 10; epoch += 1) bench.journal.append(epochOf(epoch, [20 * KIB]));
    for (let count = 0; count < 100; count += 1) await turn();
    // Two in each file.
    expect(bench.durable).toEqual([1, 2, 3, 4]);
    expect(bench.journal.reclaimable).toBe(2);
    bench.journal.settled(2);
    for (let count = 0; count < 100; count += 1) await turn();
    expect(bench.durable).toEqual([1, 2, 3, 4, 5, 6]);
    bench.journal.settled(6);
    await bench.idle();
    expect(bench.durable).toHaveLength(10);
  });

  test('forgets all, so that another position may follow', async () => {
    const { disk } = await written();
    const bench = new Bench(disk);
    await bench.replay(0);
    bench.journal.settled(6);
    expect(await bench.journal.forget()).toBe(0);
    expect(await new Bench(disk).replay(3)).toEqual([]);
  });
});

describe('a disk', () => {
  test('that is full costs what is not written, and the next epoch takes its place', async () => {
    const disk = newDisk();
    const bench = new Bench(disk);
    bench.journal.open();
    bench.journal.append(epochOf(1, [3000]));
    await bench.idle();
    disk.pagesMax = disk.pagesUsed() + 3;
    bench.journal.append(epochOf(2, [60 * KIB]));
    bench.journal.append(epochOf(3, [100]));
    await bench.idle();
    expect(bench.durable).toEqual([1]);
    expect(bench.refusals.flatMap(({ epochs }) => epochs)).toEqual([2, 3]);
    expect(bench.refusals[0]!.errno).toBe(28);
    expect(bench.failure).toBeNull();
    disk.pagesMax = Infinity;
    bench.journal.append(epochOf(2, [100]));
    await bench.idle();
    expect(bench.durable).toEqual([1, 2]);
    expect(await new Bench(disk).replay(0)).toHaveLength(2);
  });

  test('that had no space for the first header still has the name of the file after a power cut', async () => {
    let disk = newDisk();
    const bench = new Bench(disk);
    await bench.replay(0);
    disk.pagesMax = 0;
    bench.journal.append(epochOf(1, [100]));
    await bench.idle();
    expect(bench.refusals).toEqual([{ epochs: [1], errno: 28 }]);
    disk.pagesMax = Infinity;
    bench.journal.append(epochOf(1, [100]));
    await bench.idle();
    expect(bench.durable).toEqual([1]);
    disk = disk.crash(() => false);
    expect((await new Bench(disk).replay(0)).map(({ epoch }) => epoch)).toEqual([1]);
  });

  test('whose sync fails ends the journal: nothing is durable after that', async () => {
    const disk = newDisk();
    const bench = new Bench(disk);
    bench.journal.open();
    bench.journal.append(epochOf(1, [3000]));
    await bench.idle();
    disk.failSync = (path) => (path.includes('journal') ? 5 : 0);
    bench.journal.append(epochOf(2, [3000]));
    bench.journal.append(epochOf(3, [3000]));
    for (let count = 0; count < 50; count += 1) await turn();
    expect(bench.durable).toEqual([1]);
    expect(bench.failure).toContain('could not be synced');
    expect(bench.refusals.flatMap(({ epochs }) => epochs)).toEqual([2, 3]);
  });

  test('is synced once for all that was written while it synced', async () => {
    const disk = newDisk();
    const bench = new Bench(disk);
    bench.journal.open();
    bench.journal.append(epochOf(1, [100]));
    await bench.idle();
    const before = disk.syncs.get('/data/journal-a')!;
    for (let epoch = 2; epoch <= 40; epoch += 1) bench.journal.append(epochOf(epoch, [100]));
    await bench.idle();
    expect(bench.durable).toHaveLength(40);
    expect(disk.syncs.get('/data/journal-a')! - before).toBeLessThanOrEqual(3);
  });
});

/** With epoch 1 durable, and `events` from then on. */
async function paced() {
  const disk = newDisk();
  const clock = new VirtualClock();
  const bench = new Bench(disk, 16 * KIB * KIB, clock);
  const settle = async (): Promise<void> => {
    for (let count = 0; count < 50; count += 1) {
      await clock.settle();
      await turn();
    }
  };
  bench.journal.open();
  bench.journal.append(epochOf(1, [100]));
  await settle();
  expect(bench.durable).toEqual([1]);
  bench.journal.pace(true);
  return { bench, clock, settle, syncs: () => disk.syncs.get('/data/journal-a')! };
}

describe('a journal that is told what is waited for', () => {
  test('takes all that comes within a few milliseconds in one sync', async () => {
    const { bench, clock, settle, syncs } = await paced();
    const before = syncs();
    for (let epoch = 2; epoch <= 5; epoch += 1) {
      bench.journal.append(epochOf(epoch, [100]));
      await settle();
    }
    await clock.run(JOURNAL_SYNC_MS - 1);
    await settle();
    expect(bench.durable).toEqual([1]);
    await clock.run(1);
    await settle();
    expect(bench.durable).toEqual([1, 2, 3, 4, 5]);
    expect(syncs() - before).toBe(1);
    expect(clock.pendingTimers).toBe(0);
  });

  test.each([
    ['before it came', true],
    ['after it came', false],
  ])('syncs at once what is asked for %s, and not what follows', async (_, early) => {
    const { bench, clock, settle } = await paced();
    if (early) bench.journal.hurry(3);
    for (const epoch of [2, 3]) bench.journal.append(epochOf(epoch, [100]));
    if (!early) bench.journal.hurry(3);
    await settle();
    expect(bench.durable).toEqual([1, 2, 3]);
    // Who waited once is likely to wait again soon.
    bench.journal.append(epochOf(4, [100]));
    await settle();
    expect(bench.durable).toEqual([1, 2, 3, 4]);
    await clock.run(JOURNAL_PROMPT_MS);
    bench.journal.append(epochOf(5, [100]));
    await settle();
    bench.journal.append(epochOf(6, [100]));
    await settle();
    expect(bench.durable).toEqual([1, 2, 3, 4, 5]);
    bench.journal.pace(false);
    await settle();
    expect(bench.durable).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test('does not let much gather, and has all durable when it is closed', async () => {
    const { bench, settle } = await paced();
    for (let epoch = 2; epoch <= 6; epoch += 1) {
      bench.journal.append(epochOf(epoch, [1000 * KIB]));
      await settle();
    }
    expect(bench.durable.length).toBeGreaterThan(4);
    bench.journal.append(epochOf(7, [100]));
    await settle();
    expect(bench.durable).not.toContain(7);
    const closed = bench.journal.close();
    await settle();
    await closed;
    expect(bench.durable).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });
});
