/**
 * Staged epochs that memory has no room for wait in a ring file. The ring against a model of bytes, round and round;
 * a queue over it with a link that stops and goes on: what comes is what was written, memory stays
 * bounded, the file too; a disk that fails, is full, or lies sends nobody anything wrong.
 * The disk is one in memory whose pool the test can hold.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BLOCK_BYTES,
  EPOCH_BYTES_MAX,
  STAGING_DISK_RETRY_MS,
  STAGING_SLAB_BYTES,
} from '../../src/io/limits.ts';
import { systemClock, type Clock } from '../../src/io/clock.ts';
import { EpochCursor } from '../../src/replicator/staging/epoch-cursor.ts';
import { isOutrun } from '../../src/replicator/policy/policy.ts';
import { SlabPool } from '../../src/replicator/staging/slab.ts';
import { StagingDisk } from '../../src/replicator/staging/staging-disk.ts';
import { StagingQueue } from '../../src/replicator/staging/staging-queue.ts';
import { StagingRing, type RingPlace } from '../../src/replicator/staging/staging-ring.ts';
import { MemoryDisk } from '../volume/support/memory-disk.ts';
import { seeded, stamped } from './support/host.ts';
import { SparseImage } from './support/sparse-image.ts';
import { decodeEntries } from './support/staged-entries.ts';

const MIB = 2 ** 20;
const PATH = '/staging';

const turns = async (count = 4): Promise<void> => {
  for (let turn = 0; turn < count; turn += 1) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
};

const written = (
  ring: StagingRing,
  place: RingPlace,
  at: number,
  bytes: Buffer,
): Promise<boolean> =>
  new Promise((resolve) => {
    ring.write(place, at, bytes, resolve);
  });

async function readBack(ring: StagingRing, place: RingPlace, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length + 7);
  const ok = await new Promise((resolve) => {
    ring.read(place, 0, { buffer, start: 7, length }, resolve);
  });
  expect(ok).toBe(true);
  return buffer.subarray(7);
}

/** A queue with a ring, and a link that takes epochs when it is told to. */
class Stage {
  readonly disk = new MemoryDisk();
  readonly ring: StagingRing;
  readonly slabs = new SlabPool(8 * MIB);
  readonly queue: StagingQueue;
  readonly model = new SparseImage();
  readonly mirror = new SparseImage();
  readonly cursor: EpochCursor;
  readonly follower;
  unreadable = 0;
  woken = 0;
  memoryMost = 0;
  private readonly ready = (): void => void (this.woken += 1);

  constructor(limitBytes: number, sizeBytes: number) {
    this.ring = new StagingRing({ disk: this.disk, path: PATH, sizeBytes });
    this.queue = new StagingQueue({
      firstEpoch: 1,
      clock: { wall: () => 0 },
      limitBytes,
      slabs: this.slabs,
    });
    this.queue.spillTo({ ring: this.ring, onUnreadable: () => (this.unreadable += 1) });
    this.follower = this.queue.follow();
    this.cursor = new EpochCursor(this.follower.released + 1);
  }

  write(block: number, blocks: number, stamp: number): void {
    const bytes = stamped(blocks * BLOCK_BYTES, stamp);
    this.queue.append(block * BLOCK_BYTES, bytes, 0, bytes.length, 5);
    this.model.write(block * BLOCK_BYTES, bytes);
    this.memoryMost = Math.max(this.memoryMost, this.queue.memoryBytes);
  }

  /** Epochs of 1 MiB, one behind the other. */
  async stage(epochs: number): Promise<void> {
    for (let epoch = 0; epoch < epochs; epoch += 1) {
      this.write(epoch * 256, 256, epoch);
      this.queue.close('barrier');
      await turns();
    }
  }

  zero(block: number, blocks: number): void {
    this.queue.appendZeroes(block * BLOCK_BYTES, blocks * BLOCK_BYTES, 5, false);
    this.model.zero(block * BLOCK_BYTES, blocks * BLOCK_BYTES);
  }

  /** Takes one piece, and lets go of the epoch behind its last. False: it waits for the disk, or has everything. */
  take(maxBytes = 2 * MIB): boolean {
    const { queue, cursor, mirror } = this;
    if (cursor.number >= queue.openNumber) return false;
    const epoch = queue.epoch(cursor.number);
    if (epoch === null) throw new Error('an epoch that was not taken is gone');
    if (!queue.fetch(epoch, this.ready)) return false;
    const piece = cursor.takeEntries(epoch, maxBytes);
    for (const { offset, payload } of piece === null ? [] : decodeEntries([piece])) {
      mirror.write(offset, payload);
    }
    for (const { offset, length } of cursor.takeZeroes(epoch)) mirror.zero(offset, length);
    if (cursor.hasAllOf(epoch)) {
      cursor.advance();
      queue.release(this.follower, epoch.number);
    }
    return true;
  }

  async takeAll(): Promise<void> {
    this.queue.close('command');
    while (this.cursor.number < this.queue.openNumber && this.unreadable === 0) {
      if (!this.take()) await turns(1);
    }
  }
}

describe('the ring', () => {
  it('gives back what was written, in any order of frees, within its size', async () => {
    const step = fc.record({ length: fc.integer({ min: 1, max: 9000 }), free: fc.nat(3) });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.nat(), async (steps, seed) => {
        const disk = new MemoryDisk();
        const ring = new StagingRing({ disk, path: PATH, sizeBytes: 24_000 });
        const random = seeded(seed);
        const live: { place: RingPlace; bytes: Buffer }[] = [];
        for (const [index, { length, free }] of steps.entries()) {
          const place = ring.reserve(length);
          if (place !== null) {
            const bytes = stamped(length, index);
            const half = Math.floor(length / 2);
            await Promise.all([
              written(ring, place, half, bytes.subarray(half)),
              written(ring, place, 0, bytes.subarray(0, half)),
            ]);
            live.push({ place, bytes });
          }
          expect(ring.usedBytes).toBeLessThanOrEqual(24_000);
          for (let count = place === null ? 3 : free; count > 0 && live.length > 0; count -= 1) {
            const [one] = live.splice(Math.floor(random() * Math.min(3, live.length)), 1);
            if (one === undefined) break;
            expect((await readBack(ring, one.place, one.bytes.length)).equals(one.bytes)).toBe(
              true,
            );
            ring.free(one.place);
            await turns(2);
          }
        }
        for (const { place, bytes } of live) {
          expect((await readBack(ring, place, bytes.length)).equals(bytes)).toBe(true);
        }
        expect(disk.open(PATH, { create: false }).sizeNow()).toBeLessThanOrEqual(24_000);
      }),
      { numRuns: 25 },
    );
  });

  it('does not give a place again while its space is being given back', async () => {
    const disk = new MemoryDisk();
    const ring = new StagingRing({ disk, path: PATH, sizeBytes: 8192 });
    const place = ring.reserve(8192);
    if (place === null) throw new Error('an empty ring has room');
    disk.holding = true;
    ring.free(place);
    expect(ring.reserve(1)).toBeNull();
    disk.letGo();
    expect(ring.reserve(8192)).not.toBeNull();
  });

  it('removes its file when nothing is under way', async () => {
    const disk = new MemoryDisk();
    const ring = new StagingRing({ disk, path: PATH, sizeBytes: 8192 });
    const place = ring.reserve(4096);
    if (place === null) throw new Error('an empty ring has room');
    disk.holding = true;
    const done = written(ring, place, 0, stamped(4096, 1));
    let closed = false;
    ring.close(() => (closed = true));
    ring.free(place);
    expect([closed, disk.exists(PATH)]).toEqual([false, true]);
    disk.letGo();
    await done;
    expect([closed, disk.exists(PATH)]).toEqual([true, false]);
    expect(ring.reserve(1)).toBeNull();
  });
});

describe('staging on disk', () => {
  it('keeps order and content beyond memory, and memory within its part', async () => {
    const stage = new Stage(16 * MIB, 64 * MIB);
    for (let round = 0; round < 50; round += 1) {
      stage.write((round % 20) * 300, 256, round);
      if (round % 7 === 3) stage.zero(round * 10, 5);
      stage.queue.close('barrier');
      await turns();
    }
    expect(stage.queue.stagedBytes).toBe(50 * MIB);
    expect(stage.queue.backlogOf(stage.follower)).toMatchObject({ limitBytes: 80 * MIB });
    expect(isOutrun(stage.queue.backlogOf(stage.follower))).toBe(false);
    expect(stage.memoryMost).toBeLessThanOrEqual(6 * MIB);
    expect(stage.ring.usedBytes).toBeGreaterThan(44 * MIB);
    // What comes next never left memory.
    for (let epoch = 0; epoch < 3; epoch += 1) expect(stage.take()).toBe(true);
    await stage.takeAll();
    await turns();
    expect(stage.mirror.differences(stage.model)).toEqual([]);
    expect(stage.woken).toBeGreaterThan(40);
    expect([stage.ring.usedBytes, stage.queue.stagedBytes, stage.queue.memoryBytes]).toEqual([
      0, 0, 0,
    ]);
    expect(stage.disk.pagesUsed()).toBe(0);
    expect(stage.slabs.lentBytes).toBe(0);
  });

  it('is right however links, disk and host take turns', async () => {
    const action = fc.record({
      kind: fc.constantFrom('write', 'write', 'write', 'zero', 'close', 'take', 'disk'),
      block: fc.nat(600),
      blocks: fc.integer({ min: 1, max: 200 }),
      stamp: fc.nat(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(action, { maxLength: 80 }), async (actions) => {
        const stage = new Stage(MIB, 3 * MIB);
        stage.disk.holding = true;
        for (const { kind, block, blocks, stamp } of actions) {
          if (kind === 'write') stage.write(block, blocks, stamp);
          else if (kind === 'zero') stage.zero(block, blocks);
          else if (kind === 'close') stage.queue.close('barrier');
          else if (kind === 'take') stage.take(300_000);
          else stage.disk.letGo(stage.disk.held.length === 0 ? 0 : stamp % stage.disk.held.length);
        }
        stage.disk.holding = false;
        while (stage.disk.held.length > 0) stage.disk.letGo();
        await stage.takeAll();
        expect(stage.mirror.differences(stage.model)).toEqual([]);
        expect(stage.unreadable).toBe(0);
        expect([stage.queue.stagedBytes, stage.queue.memoryBytes]).toEqual([0, 0]);
        // Nothing is kept from other volumes, once the disk is idle.
        await turns();
        expect(stage.slabs.lentBytes).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  it('tells what a follower that leaves lacks, without reading it back', async () => {
    const stage = new Stage(4 * MIB, 64 * MIB);
    await stage.stage(8);
    expect(stage.ring.usedBytes).toBeGreaterThan(4 * MIB);
    let bytes = 0;
    stage.queue.leave(stage.follower, (_offset, length) => (bytes += length));
    expect(bytes).toBe(8 * MIB);
    await turns();
    expect([stage.ring.usedBytes, stage.queue.memoryBytes, stage.slabs.lentBytes]).toEqual([
      0, 0, 0,
    ]);
  });

  it('gives back the memory it read into when the disk goes before what was read', async () => {
    const stage = new Stage(16 * MIB, 64 * MIB);
    await stage.stage(7);
    const numbers = Array.from({ length: 7 }, (_, index) => stage.follower.released + 1 + index);
    const stored = numbers.filter((number) => stage.queue.epoch(number)?.stored !== null);
    expect(stored.length).toBeGreaterThan(1);
    for (const number of stored) stage.queue.fetch(stage.queue.epoch(number)!, () => {});
    await turns();
    expect(stage.queue.memoryBytes).toBe(7 * MIB);
    stage.queue.spillTo(null);
    await stage.takeAll();
    expect(stage.mirror.differences(stage.model)).toEqual([]);
    expect(stage.slabs.lentBytes).toBe(0);
  });

  it.each(['full', 'slow'])('goes by memory alone when the disk is %s', async (how) => {
    const stage = new Stage(8 * MIB, 64 * MIB);
    if (how === 'full') stage.disk.pagesMax = 3 * (MIB / 4096);
    else stage.disk.holding = true;
    await stage.stage(8);
    expect(stage.queue.crowded).toBe(true);
    const outrun = isOutrun(stage.queue.backlogOf(stage.follower));
    expect(outrun).toBe(how === 'slow');
    stage.write(8 * 256, 256 * 5, 100);
    expect(isOutrun(stage.queue.backlogOf(stage.follower))).toBe(true);
    // A disk that failed once is not asked again.
    if (how === 'full') expect([stage.ring.failed, stage.disk.refused]).toEqual([true, 1]);
    stage.disk.holding = false;
    while (stage.disk.held.length > 0) stage.disk.letGo();
    await stage.takeAll();
    expect(stage.mirror.differences(stage.model)).toEqual([]);
  });

  it('lets go of an epoch that was sent while it was on its way to disk', async () => {
    const stage = new Stage(4 * MIB, 64 * MIB);
    stage.disk.holding = true;
    for (let round = 0; round < 3; round += 1) {
      stage.write(round * 256, 256, round);
      stage.queue.close('barrier');
    }
    expect(stage.disk.held.length).toBeGreaterThan(0);
    await stage.takeAll();
    expect(stage.queue.stagedBytes).toBe(0);
    stage.disk.holding = false;
    while (stage.disk.held.length > 0) stage.disk.letGo();
    await turns();
    expect([stage.ring.usedBytes, stage.queue.memoryBytes]).toEqual([0, 0]);
    expect(stage.mirror.differences(stage.model)).toEqual([]);
  });

  it('wakes a link that waits for room in memory when the disk made some, also while another link lets go of nothing', async () => {
    const stage = new Stage(16 * MIB, 64 * MIB);
    stage.queue.follow();
    const writeEpochs = async (count: number): Promise<void> => {
      for (let round = 0; round < count; round += 1) {
        stage.write(round * 256, 256, round);
        stage.queue.close('barrier');
        await turns();
      }
    };
    await writeEpochs(10);
    stage.disk.holding = true;
    await writeEpochs(6);
    while (stage.take());
    expect([stage.woken, stage.queue.epoch(stage.cursor.number)?.stored === null]).toEqual([
      0,
      false,
    ]);
    stage.disk.holding = false;
    while (stage.disk.held.length > 0) stage.disk.letGo();
    await turns(40);
    expect(stage.woken).toBeGreaterThan(0);
    expect(stage.take()).toBe(false);
    await turns();
    expect(stage.take()).toBe(true);
  });

  it('tells when links have no room for the sake of one that is away', async () => {
    const stage = new Stage(16 * MIB, 64 * MIB);
    const away = stage.queue.follow();
    const { queue, follower } = stage;
    for (let round = 0; round < 24; round += 1) {
      stage.write(round * 256, 256, round);
      queue.close('barrier');
      await turns();
    }
    // What comes back from disk stays in memory for the other one.
    for (let round = 0; round < 20; round += 1) {
      while (stage.take());
      await turns();
    }
    expect(queue.epoch(stage.cursor.number)?.stored === null).toBe(false);
    expect(queue.starved).toBe(false);
    away.away = true;
    expect([queue.starved, queue.needsOldest(away), queue.needsOldest(follower)]).toEqual([
      true,
      true,
      false,
    ]);
    queue.leave(away, () => {});
    expect(queue.starved).toBe(false);
    await stage.takeAll();
    expect(stage.mirror.differences(stage.model)).toEqual([]);
  });

  it('sends nobody what the disk changed', async () => {
    const stage = new Stage(4 * MIB, 64 * MIB);
    for (let round = 0; round < 6; round += 1) {
      stage.write(round * 256, 256, round);
      stage.queue.close('barrier');
      await turns();
    }
    const file = stage.disk.open(PATH, { create: false });
    file.writeNow(Buffer.from([1]), 0, 1, 2 * STAGING_SLAB_BYTES + 20_000);
    await stage.takeAll();
    expect(stage.unreadable).toBe(1);
    expect(stage.mirror.differences(stage.model).length).toBeGreaterThan(0);
    const before = stage.woken;
    stage.queue.leave(stage.follower, () => {});
    await turns();
    expect(stage.woken).toBe(before);
    expect([stage.ring.usedBytes, stage.queue.memoryBytes]).toEqual([0, 0]);
  });

  it('tells of a disk that fails, and again when it fails after it worked for a while', async () => {
    const disk = new MemoryDisk();
    const queue = new StagingQueue({
      firstEpoch: 1,
      clock: { wall: () => 0 },
      limitBytes: 4 * MIB,
    });
    const follower = queue.follow();
    let now = 0;
    const clock: Clock = { ...systemClock, now: () => now };
    const reasons: string[] = [];
    const staging = new StagingDisk({
      disk,
      directory: '',
      sizeBytes: 64 * MIB,
      clock,
      queue,
      onUnreadable: () => {},
      onFailed: (reason) => reasons.push(reason),
    });
    staging.open();
    const look = async (times: number): Promise<void> => {
      for (let time = 0; time < times; time += 1) {
        now += STAGING_DISK_RETRY_MS;
        staging.look(now);
        await turns();
      }
    };
    for (const told of [1, 2]) {
      disk.pagesMax = disk.pagesUsed();
      for (let block = 0; block < 4; block += 1) {
        const bytes = stamped(MIB, block);
        queue.append(block * MIB, bytes, 0, MIB, 0);
        queue.close('barrier');
        await turns();
      }
      await look(3);
      expect(reasons).toHaveLength(told);
      queue.release(follower, queue.openNumber - 1);
      disk.pagesMax = Number.POSITIVE_INFINITY;
      await look(3);
      expect(queue.hasDisk).toBe(true);
    }
    await staging.close();
    expect(disk.exists(PATH)).toBe(false);
  });

  it('takes an epoch of the largest size', async () => {
    const stage = new Stage(MIB, 3 * EPOCH_BYTES_MAX);
    for (let round = 0; round < 2; round += 1) {
      stage.write(round * 10_000, EPOCH_BYTES_MAX / BLOCK_BYTES, round);
      await turns(40);
    }
    expect(stage.queue.memoryBytes).toBeLessThan(EPOCH_BYTES_MAX);
    await stage.takeAll();
    expect(stage.mirror.differences(stage.model)).toEqual([]);
  });
});
