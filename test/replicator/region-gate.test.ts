/**
 * The gate in front of a mirrored volume: no write before its region is hot in the durable log, room is made
 * without waiting for a mirror, and at every moment a power cut leaves nothing unknown. The volume is on a
 * disk in memory whose work the test can hold; mirrors are real or stalled.
 */
import { describe, expect, it } from 'vitest';
import { HOT_REGIONS_MAX, REGION_BYTES } from '../../src/io/limits.ts';
import { MemoryDisk } from '../volume/support/memory-disk.ts';
import { openStore } from '../volume/support/store.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { seeded, stamped } from './support/host.ts';
import { ManualClock } from './support/life.ts';
import type { MirrorServer } from './support/mirror-server.ts';
import { MIB, Rig } from './support/rig.ts';

/** What the log says after a power cut that takes all that was not synced. */
function logAfterCut(disk: MemoryDisk): {
  covers: (block: number) => boolean;
  hot: number;
  read: (block: number) => Buffer;
} {
  const volume = openStore(disk.crash(() => false)).find('v')!;
  const { hot, mirrors } = volume.metadata.state;
  const [record] = mirrors.values();
  return {
    covers: (block) =>
      hot.has(Math.floor(block / 1024)) ||
      record?.dirty.has(block) === true ||
      record?.suspect.has(block) === true,
    hot: hot.size,
    read: (block) => {
      const bytes = Buffer.alloc(4096);
      volume.readNow(bytes, 0, 4096, block * 4096);
      return bytes;
    },
  };
}

/** Blocks that differ between what a power cut leaves here and the mirror, and that the log does not know. */
function unknown(disk: MemoryDisk, rig: Rig, mirror: MirrorServer): number[] {
  const log = logAfterCut(disk);
  const blocks = new Set([...rig.expected.usedPages(), ...mirror.device.image.usedPages()]);
  return [...blocks].filter(
    (block) => !log.covers(block) && !log.read(block).equals(mirror.device.image.page(block)),
  );
}

describe('the gate', () => {
  it('lets no byte of a write through before its region is hot, durably', async () => {
    const disk = new MemoryDisk();
    const rig = await Rig.create(testScope(), { disk });
    await rig.mirrored();
    await rig.write(0, stamped(4096, 1));
    disk.holding = true;
    const written = rig.write(20 * MIB, stamped(4096, 2));
    await rig.write(4096, stamped(4096, 3));
    while (rig.host.waiting > 0) {
      expect((await rig.host.read(20 * MIB, 8)).equals(Buffer.alloc(8))).toBe(true);
      expect(disk.held.length).toBeGreaterThan(0);
      disk.letGo();
      await new Promise(setImmediate);
    }
    await written;
    expect(logAfterCut(disk).covers((20 * MIB) / 4096)).toBe(true);
    disk.holding = false;
    while (disk.held.length > 0) disk.letGo();
  });

  it('takes the requests that wait in one commit, in their order', async () => {
    const disk = new MemoryDisk();
    const rig = await Rig.create(testScope(), { disk });
    const mirror = await rig.mirrored();
    disk.holding = true;
    const first = rig.write(8 * MIB, stamped(4096, 1));
    const rest = Array.from({ length: 50 }, (_, index) =>
      rig.write(8 * MIB + (index % 3) * 4096, stamped(4096, 10 + index)),
    );
    const other = rig.write(REGION_BYTES * 5 - 4096, stamped(8192, 7));
    const syncs = [...disk.syncs.values()].reduce((sum, count) => sum + count, 0);
    disk.holding = false;
    while (disk.held.length > 0) disk.letGo();
    await Promise.all([first, other, ...rest]);
    expect([...disk.syncs.values()].reduce((sum, count) => sum + count, 0) - syncs).toBeLessThan(4);
    await rig.equal(mirror);
  });

  it('makes room without waiting for a mirror that does not answer', async () => {
    const disk = new MemoryDisk();
    const clock = new ManualClock();
    const sizeBytes = 2 * HOT_REGIONS_MAX * REGION_BYTES;
    const rig = await Rig.create(testScope(), { disk, clock, sizeBytes });
    const mirror = await rig.mirror();
    await rig.addMirror(mirror);
    for (let step = 0; step < 1000 && !rig.isInStep(); step += 1) await clock.advance(50);
    mirror.device.stall();
    const regions = HOT_REGIONS_MAX + 700;
    for (let region = 0; region < regions; region += 1) {
      await rig.write(region * REGION_BYTES, stamped(4096, region));
      expect(rig.volume.metadata.state.hot.size).toBeLessThanOrEqual(HOT_REGIONS_MAX);
    }
    expect(rig.status().state).toBe('streaming');
    expect(unknown(disk, rig, mirror)).toEqual([]);
    // Nothing was flushed by anybody: the log knows of every block that was written.
    const log = logAfterCut(disk);
    for (let region = 0; region < regions; region += 1) {
      expect(log.covers(region * 1024) || log.read(region * 1024)[0] !== 0).toBe(true);
    }
    mirror.device.resume();
    for (let step = 0; step < 1000 && !rig.isInStep(); step += 1) await clock.advance(50);
    await clock.advance(15_000);
    // Everything is durable on both sides: nothing would be compared.
    expect(logAfterCut(disk).hot).toBe(0);
    const [record] = rig.volume.metadata.state.mirrors.values();
    expect(record?.suspect.count).toBe(0);
    expect(unknown(disk, rig, mirror)).toEqual([]);
    await rig.equal(mirror);
  });

  it('serves a request over more regions than may be hot', async () => {
    const sizeBytes = 2 * HOT_REGIONS_MAX * REGION_BYTES;
    const rig = await Rig.create(testScope(), { disk: new MemoryDisk(), sizeBytes });
    const mirror = await rig.mirrored();
    for (let region = 0; region < 600; region += 1) {
      await rig.write((2 * HOT_REGIONS_MAX - 1 - region) * REGION_BYTES, stamped(4096, region));
    }
    const under = [
      rig.zero(0, (HOT_REGIONS_MAX + 1) * REGION_BYTES),
      rig.write((HOT_REGIONS_MAX + 2) * REGION_BYTES, stamped(4096, 1)),
      rig.zero(REGION_BYTES, (HOT_REGIONS_MAX + 1) * REGION_BYTES),
      rig.write((HOT_REGIONS_MAX + 90) * REGION_BYTES, stamped(4096, 2)),
    ];
    await Promise.all(under);
    for (let region = 0; region < 200; region += 1) {
      await rig.write(region * REGION_BYTES, stamped(4096, region));
    }
    expect(rig.volume.metadata.state.hot.size).toBeLessThanOrEqual(HOT_REGIONS_MAX);
    await rig.equal(mirror);
  });

  it('keeps a region hot while a write to it is under way', async () => {
    const disk = new MemoryDisk();
    const clock = new ManualClock();
    const rig = await Rig.create(testScope(), { disk, clock });
    const mirror = await rig.mirror();
    await rig.addMirror(mirror);
    await rig.write(0, stamped(8192, 1));
    for (let step = 0; step < 1000 && !rig.isInStep(); step += 1) await clock.advance(50);
    // A zeroing goes to the pool, which does not get to it.
    disk.holding = true;
    const zeroed = rig.zero(0, 8192);
    await waitUntil('the zeroing', () => disk.held.length > 0);
    const work = disk.held.splice(0);
    disk.holding = false;
    await clock.advance(20_000);
    expect(logAfterCut(disk).hot).toBe(1);
    for (const each of work) each.run();
    await zeroed;
    await clock.advance(20_000);
    expect(logAfterCut(disk).hot).toBe(0);
    await rig.equal(mirror);
  });

  it('lets a region turn cold when the mirror has it, if the local disk had it first', async () => {
    const disk = new MemoryDisk();
    const clock = new ManualClock();
    const rig = await Rig.create(testScope(), { disk, clock });
    const mirror = await rig.mirror();
    await rig.addMirror(mirror);
    for (let step = 0; step < 1000 && !rig.isInStep(); step += 1) await clock.advance(50);
    await rig.write(0, stamped(8192, 1));
    mirror.device.stall();
    await rig.write(0, stamped(8192, 2));
    await clock.advance(7000);
    expect(rig.status().state).toBe('streaming');
    expect(logAfterCut(disk).hot).toBe(1);
    mirror.device.resume();
    for (let step = 0; step < 1000 && !rig.isInStep(); step += 1) await clock.advance(20);
    await clock.advance(600);
    expect(logAfterCut(disk).hot).toBe(0);
  });

  it('has the next regions ready for a writer that walks through the volume', async () => {
    const disk = new MemoryDisk();
    const rig = await Rig.create(testScope(), { disk, sizeBytes: 256 * MIB });
    const mirror = await rig.mirrored();
    const { hot } = rig.volume.metadata.state;
    let cold = 0;
    for (let at = 0; at < 256 * MIB; at += MIB / 2) {
      if (!hot.has(Math.floor(at / REGION_BYTES))) cold += 1;
      await rig.write(at, stamped(4096, at));
      await new Promise(setImmediate);
    }
    expect(cold).toBeLessThanOrEqual(2);
    const log = [...disk.syncs].find(([path]) => path.endsWith('metadata.log'));
    // Far fewer commits than regions entered.
    expect(log?.[1]).toBeLessThan(40);
    await rig.equal(mirror);
  });

  it('never forgets a block, whatever the power cut takes and whenever it comes', async () => {
    const disk = new MemoryDisk();
    const clock = new ManualClock();
    const rig = await Rig.create(testScope(), { disk, clock, sizeBytes: 128 * MIB });
    const mirror = await rig.mirror();
    await rig.addMirror(mirror);
    for (let step = 0; step < 1000 && !rig.isInStep(); step += 1) await clock.advance(50);
    const random = seeded(21);
    for (let round = 0; round < 60; round += 1) {
      for (let index = 0; index < 6; index += 1) {
        const block = Math.floor(random() * 32_000);
        void rig.write(block * 4096, stamped(4096 * (1 + Math.floor(random() * 4)), round));
      }
      if (random() < 0.2) void rig.flush();
      await clock.advance(random() * 3000, 100);
      if (random() < 0.1) mirror.cut();
      expect(unknown(disk, rig, mirror)).toEqual([]);
    }
  });
});
