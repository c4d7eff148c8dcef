/**
 * Requests of any size and offset reach the mirror as they reach the volume: parts of blocks, zeroes with ragged
 * edges, TRIM that keeps what is not a whole block, offsets past 4 GiB, writes that fail.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { seeded, stamped } from './support/host.ts';
import { RefusingDisk } from './support/refusing-disk.ts';
import { MIB, Rig } from './support/rig.ts';

const GIB = 1024 * MIB;

describe('requests of any shape', () => {
  it.each(['streaming', 'paused'])('end up the same on the mirror (%s)', async (state) => {
    const rig = await Rig.create(testScope(), { sizeBytes: 8 * MIB });
    const mirror = await rig.mirrored();
    if (state === 'paused') await rig.device.pauseMirror(mirror.uri);
    const random = seeded(state.length);
    for (let index = 0; index < 400; index += 1) {
      const length = 1 + Math.floor(random() ** 3 * 300_000);
      const offset = Math.floor(random() * (8 * MIB - length));
      const dice = random();
      if (dice < 0.5) await rig.write(offset, stamped(length, index), { fua: dice < 0.02 });
      else if (dice < 0.75) await rig.zero(offset, length, { noHole: dice < 0.6 });
      else {
        const first = Math.ceil(offset / 4096) * 4096;
        const end = Math.floor((offset + length) / 4096) * 4096;
        if (first < end) rig.expected.zero(first, end - first);
        expect(await rig.host.trim(offset, length)).toBe(0);
      }
      if (dice > 0.95) await rig.flush();
    }
    if (state === 'paused') await rig.device.resumeMirror(mirror.uri);
    await rig.equal(mirror);
  });

  it('answer zero lengths and reads of the last byte', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 8 * MIB });
    const mirror = await rig.mirrored();
    expect(await rig.host.write(4095, Buffer.alloc(0))).toBe(0);
    expect(await rig.host.trim(1, 4095)).toBe(0);
    expect(await rig.host.trim(1, 4095, { fua: true })).toBe(0);
    await rig.write(8 * MIB - 1, Buffer.from([7]));
    expect(await rig.host.read(8 * MIB - 1, 1)).toEqual(Buffer.from([7]));
    await rig.equal(mirror);
  });

  it('refuse what lies past the end, and stay whole', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 8 * MIB });
    const mirror = await rig.mirrored();
    for (const offset of [8 * MIB, 8 * MIB - 1, 64 * MIB]) {
      expect(await rig.host.write(offset, stamped(4096, 1))).toBe(28);
      expect(await rig.host.zero(offset, 8192)).toBe(28);
    }
    await rig.write(8 * MIB - 4096, stamped(4096, 2));
    expect(await rig.host.write(8 * MIB - 1, stamped(4096, 1))).toBe(28);
    await rig.equal(mirror);
  });

  it('reach past 4 GiB', async () => {
    const sizeBytes = 100 * GIB;
    const rig = await Rig.create(testScope(), { sizeBytes });
    await rig.write(4 * GIB - 4096, stamped(3 * 4096, 1));
    await rig.write(67 * GIB + 512, stamped(100_000, 2));
    const mirror = await rig.mirrored();
    await rig.write(sizeBytes - 10_000, stamped(10_000, 3));
    await rig.write(4 * GIB + 7 * MIB, stamped(MIB, 4));
    await rig.equal(mirror);
    mirror.leave();
    await rig.until('the loss to be seen', ({ state }) => state === 'delta');
    await rig.write(sizeBytes - 4096, stamped(4096, 5));
    await rig.write(64 * GIB, stamped(4096, 6));
    mirror.comeBack();
    await rig.equal(mirror);
    expect(mirror.device.bytesAsked('write')).toBeLessThan(2 * MIB);
  });

  it('zero more than 4 GiB in all, in one epoch', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 16 * GIB });
    await rig.write(0, stamped(4096, 1));
    await rig.write(9 * GIB, stamped(4096, 2));
    const mirror = await rig.mirrored();
    const length = 2 ** 32 - 4096;
    for (let count = 0; count < 3; count += 1) await rig.zero(count * length, length);
    await rig.equal(mirror);
    expect(mirror.device.image.usedPages()).toEqual([]);
  });
});

describe('a write that fails', () => {
  it('is followed by what the volume holds then', async () => {
    const disk = new RefusingDisk();
    const rig = await Rig.create(testScope(), { disk, sizeBytes: 8 * MIB });
    const mirror = await rig.mirrored();
    await rig.write(0, stamped(4096, 1));
    disk.pagesMax = disk.pagesUsed() + 3;
    // Of 16 blocks, some fit.
    expect(await rig.host.write(4096, stamped(65_536, 2))).toBe(28);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    await rig.until('the mirror to have it', ({ staged_bytes, state }) => {
      return state === 'streaming' && staged_bytes === 0;
    });
    const here = await rig.host.read(0, 8 * MIB);
    expect(here.equals(mirror.device.image.read(0, 8 * MIB))).toBe(true);
    expect(here.subarray(4096, 8192).equals(stamped(4096, 2))).toBe(true);
  });

  it('on a full disk keeps the activity log usable', async () => {
    const disk = new RefusingDisk();
    const rig = await Rig.create(testScope(), { disk, sizeBytes: 64 * MIB });
    const mirror = await rig.mirrored();
    disk.fillForMetadata();
    expect(await rig.host.write(20 * MIB, stamped(4096, 1))).toBe(28);
    expect(rig.volume.metadata.state.hot.has(5)).toBe(false);
    disk.refuse = null;
    await rig.write(20 * MIB, stamped(4096, 2));
    expect(rig.volume.metadata.state.hot.has(5)).toBe(true);
    await rig.equal(mirror);
  });
});
