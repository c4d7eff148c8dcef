/**
 * The primary dies at a random moment and starts again on what it left: by a kill (the system keeps what it
 * was given) and by a power cut (the disk loses any part of what was not synced, also what a mirror has
 * already). The two sides are equal again without a command, and what is compared or sent is bounded by the
 * regions that were hot and the blocks that were marked.
 */
import { describe, expect, it } from 'vitest';
import { REGION_BYTES } from '../../src/io/limits.ts';
import { MemoryDisk } from '../volume/support/memory-disk.ts';
import { openStore } from '../volume/support/store.ts';
import { testScope } from '../support/tools.ts';
import { seeded, stamped } from './support/host.ts';
import { ManualClock } from './support/life.ts';
import type { MirrorServer } from './support/mirror-server.ts';
import { MIB, Rig } from './support/rig.ts';

const SIZE = 64 * MIB;

/** Random requests, not awaited: some are unanswered when the process dies. */
async function load(rig: Rig, random: () => number, count: number): Promise<void> {
  const { host, expected } = rig;
  for (let index = 0; index < count; index += 1) {
    const offset = Math.floor(random() * (SIZE / 512 - 200)) * 512;
    const length = (1 + Math.floor(random() * 100)) * 512;
    const dice = random();
    if (dice < 0.05) void host.flush();
    else if (dice < 0.15) {
      expected.zero(offset, length);
      void host.zero(offset, length);
    } else {
      const bytes = stamped(length, Math.floor(random() * 2 ** 32));
      expected.write(offset, bytes);
      void host.write(offset, bytes);
    }
    if (random() < 0.1) {
      await new Promise((resolve) => {
        setTimeout(resolve, random() * 8);
      });
    }
  }
}

/** Waits until the mirror is in step, and compares it with the volume, whatever survived there. */
async function sidesEqual(rig: Rig, mirror: MirrorServer): Promise<void> {
  await rig.inStep();
  for (let at = 0; at < SIZE; at += MIB) {
    const here = await rig.host.read(at, MIB);
    if (!here.equals(mirror.device.image.read(at, MIB))) throw new Error(`they differ at ${at}`);
  }
}

/** Blocks in which what is left on `disk` differs from the mirror, and its log does not know it. */
function unknownDifferences(disk: MemoryDisk, mirror: MirrorServer): number[] {
  const volume = openStore(disk).find('v');
  if (volume === null) throw new Error('the volume is gone');
  const { hot, mirrors } = volume.metadata.state;
  const [record] = mirrors.values();
  const bytes = Buffer.alloc(4096);
  const unknown: number[] = [];
  for (let block = 0; block < SIZE / 4096; block += 1) {
    volume.readNow(bytes, 0, 4096, block * 4096);
    if (bytes.equals(mirror.device.image.page(block)) || hot.has(Math.floor(block / 1024)))
      continue;
    if (!record?.dirty.has(block) && !record?.suspect.has(block)) unknown.push(block);
  }
  return unknown;
}

describe('a primary that is killed', () => {
  it.each([1, 2, 3])('is equal to its mirror again (seed %i)', async (seed) => {
    const random = seeded(seed);
    let rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    await load(rig, random, 40);
    const mirror = await rig.mirror();
    mirror.device.shuffleAnswers(random);
    await rig.addMirror(mirror);
    for (let round = 0; round < 3; round += 1) {
      if (random() < 0.7) await rig.inStep();
      if (random() < 0.3) mirror.leave();
      await load(rig, random, Math.floor(random() * 150));
      const marked = rig.status().dirty_bytes;
      const staged = rig.status().staged_bytes;
      rig = rig.killAndRestart();
      const { hot } = rig.volume.metadata.state;
      const { dirty_bytes: dirty, suspect_bytes: suspect } = rig.status();
      expect(suspect).toBeLessThanOrEqual(hot.size * REGION_BYTES);
      // Marks are lost only where the region is compared anyway.
      expect(dirty + suspect).toBeGreaterThanOrEqual(marked + staged > 0 ? 4096 : 0);
      mirror.comeBack();
      await sidesEqual(rig, mirror);
      expect(rig.status().bytes_compared).toBeLessThanOrEqual(suspect);
      expect(rig.status().delta_bytes_sent).toBeLessThanOrEqual(dirty + suspect);
    }
  });

  it('compares the hot regions and sends only what differs', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    for (let at = 0; at < SIZE; at += MIB) await rig.write(at, stamped(MIB, at));
    await rig.flush();
    const first = await rig.restart();
    const mirror = await first.mirrored();
    for (const at of [0, 20 * MIB, 21 * MIB]) await first.write(at + 4096, stamped(4096, at + 1));
    await first.inStep();
    const second = first.killAndRestart();
    await second.equal(mirror);
    expect(second.status()).toMatchObject({
      bytes_compared: 2 * REGION_BYTES,
      delta_bytes_sent: 0,
      suspect_bytes: 0,
    });
  });

  it('has nothing to compare after a while without writes', async () => {
    const clock = new ManualClock();
    const rig = await Rig.create(testScope(), { clock, sizeBytes: SIZE });
    const mirror = await rig.mirror();
    await rig.addMirror(mirror);
    for (let at = 0; at < SIZE; at += 4 * MIB) await rig.write(at, stamped(4096, at));
    for (let step = 0; step < 300 && !rig.isInStep(); step += 1) await clock.advance(50);
    expect(rig.volume.metadata.state.hot.size).toBe(16);
    await clock.advance(12_000);
    const again = rig.killAndRestart();
    expect(again.status()).toMatchObject({ dirty_bytes: 0, suspect_bytes: 0 });
  });

  it('does not begin an initial copy anew when the host was idle', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    for (let at = 0; at < SIZE; at += MIB) await rig.write(at, stamped(MIB, at));
    await rig.flush();
    const first = await rig.restart();
    const mirror = await first.mirrored();
    await new Promise((resolve) => {
      setTimeout(resolve, 200);
    });
    const second = first.killAndRestart();
    expect(second.status()).toMatchObject({ dirty_bytes: 0, suspect_bytes: 0 });
    await second.equal(mirror);
  });

  it('knows after an orderly stop that nothing is to be compared', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    const mirror = await rig.mirrored();
    await rig.write(0, stamped(MIB, 1));
    const second = await rig.restart();
    await second.equal(mirror);
    expect(second.status()).toMatchObject({ bytes_compared: 0, delta_bytes_sent: 0 });
    // Its epochs are new ones: the mirror may hold some that the first process forgot.
    expect(second.status().position?.epoch).toBeGreaterThan(2 ** 20);
  });
});

describe('a primary that loses its power', () => {
  it.each([11, 12, 13, 14])('is equal to its mirror again (seed %i)', async (seed) => {
    const random = seeded(seed);
    let disk = new MemoryDisk();
    let rig = await Rig.create(testScope(), { disk, sizeBytes: SIZE });
    const mirror = await rig.mirror();
    mirror.device.shuffleAnswers(random);
    await rig.addMirror(mirror);
    for (let round = 0; round < 4; round += 1) {
      if (random() < 0.7) await rig.inStep();
      if (random() < 0.2) mirror.leave();
      await load(rig, random, Math.floor(random() * 120));
      rig.life.kill();
      disk.holding = true;
      const odds = random();
      disk = disk.crash(() => random() < odds);
      rig = Rig.open(rig.scope, '/data', rig.expected, { disk, sizeBytes: SIZE });
      mirror.comeBack();
      await sidesEqual(rig, mirror);
    }
  });

  it('does not trust the page cache that a killed process left', async () => {
    const clock = new ManualClock();
    const disk = new MemoryDisk();
    const rig = await Rig.create(testScope(), { disk, clock, sizeBytes: SIZE });
    const mirror = await rig.mirror();
    await rig.addMirror(mirror);
    // The map knows these blocks already: nothing is to be recorded for them after the kill.
    await rig.write(0, stamped(8 * MIB, 1));
    await rig.flush();
    await rig.write(4096, stamped(4096, 2));
    for (let step = 0; step < 300 && !rig.isInStep(); step += 1) await clock.advance(50);
    rig.life.kill();
    disk.holding = true;
    const left = disk.kill();
    const again = Rig.open(rig.scope, '/data', rig.expected, { disk: left, clock });
    for (let step = 0; step < 300 && !again.isInStep(); step += 1) await clock.advance(50);
    await clock.advance(15_000);
    expect(again.volume.metadata.state.hot.size).toBe(0);
    expect(
      unknownDifferences(
        left.crash(() => false),
        mirror,
      ),
    ).toEqual([]);
  });

  it('does not trust that what the mirror has is on its own disk', async () => {
    // All regions are idle and everything is durable on the mirror; nobody flushed the primary.
    const clock = new ManualClock();
    const disk = new MemoryDisk();
    const rig = await Rig.create(testScope(), { disk, clock, sizeBytes: SIZE });
    const mirror = await rig.mirror();
    await rig.addMirror(mirror);
    for (let step = 0; step < 300 && !rig.isInStep(); step += 1) await clock.advance(50);
    const path = rig.volume.layer.file.path;
    for (let cycle = 0; cycle < 4; cycle += 1) {
      await rig.write(cycle * 8 * MIB, stamped(4096, cycle));
      await clock.advance(3000);
      expect(
        unknownDifferences(
          disk.crash(() => false),
          mirror,
        ),
      ).toEqual([]);
    }
    expect(disk.syncs.get(path)).toBeGreaterThan(0);
  });
});
