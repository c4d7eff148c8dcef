/**
 * A mirrored volume that grows or shrinks: the mirror is asked first, follows at once, and a crash in between
 * forgets nothing that the mirror may hold past the old end.
 */
import { describe, expect, it } from 'vitest';
import { MemoryDisk } from '../volume/support/memory-disk.ts';
import { waitUntil } from '../support/wait.ts';
import { testScope } from '../support/tools.ts';
import { stamped } from './support/host.ts';
import { MirrorDevice } from './support/mirror-device.ts';
import { MirrorServer } from './support/mirror-server.ts';
import { MIB, Rig } from './support/rig.ts';

/** A mirror that is larger than the volume and holds something else there. */
async function largeMirror(rig: Rig, sizeBytes: number): Promise<MirrorServer> {
  const device = new MirrorDevice(sizeBytes);
  for (let at = 0; at < sizeBytes; at += MIB) device.image.write(at, stamped(8192, 77));
  return MirrorServer.start(rig.scope, device);
}

describe('a volume that grows', () => {
  it('has its new part on the mirror too, zeroes included', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 10 * MIB });
    await rig.write(9 * MIB, stamped(MIB, 1));
    const mirror = await largeMirror(rig, 40 * MIB);
    await rig.addMirror(mirror);
    await rig.inStep();
    await rig.device.resize(40 * MIB);
    await rig.write(30 * MIB, stamped(MIB, 2));
    await rig.equal(mirror);
    expect(rig.device.sizeBytes).toBe(40 * MIB);
  });

  it('does not, when the mirror is too small', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 10 * MIB });
    const mirror = await rig.mirrored();
    await expect(rig.device.resize(11 * MIB)).rejects.toMatchObject({ code: 'MIRROR_TOO_SMALL' });
    expect(rig.device.sizeBytes).toBe(10 * MIB);
    await rig.write(MIB, stamped(MIB, 2));
    await rig.equal(mirror);
  });

  it('knows after a power cut what the mirror may hold past the old end', async () => {
    const disk = new MemoryDisk();
    const rig = await Rig.create(testScope(), { disk, sizeBytes: 10 * MIB });
    const mirror = await largeMirror(rig, 20 * MIB);
    await rig.addMirror(mirror);
    await rig.inStep();
    await rig.device.pauseMirror(mirror.uri);
    await rig.device.resize(20 * MIB);
    rig.life.kill();
    disk.holding = true;
    const again = Rig.open(rig.scope, '/data', rig.expected, { disk: disk.crash(() => false) });
    expect(again.status()).toMatchObject({ state: 'paused', dirty_bytes: 10 * MIB });
    await again.device.resumeMirror(mirror.uri);
    await again.equal(mirror);
  });

  it('can be written while it grows', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 8 * MIB });
    const mirror = await largeMirror(rig, 64 * MIB);
    await rig.addMirror(mirror);
    const writing = { now: true };
    let stamp = 0;
    const writer = (async (): Promise<void> => {
      while (writing.now) {
        stamp += 1;
        const blocks = rig.device.sizeBytes / 4096 - 1;
        await rig.write(((stamp * 61) % blocks) * 4096 + 100, stamped(3000, stamp));
        await new Promise(setImmediate);
      }
    })();
    for (const size of [9, 17, 18, 40, 64]) await rig.device.resize(size * MIB);
    writing.now = false;
    await writer;
    await rig.equal(mirror);
  });
});

describe('a volume that shrinks', () => {
  it('takes its marks and staged writes with it, and can grow again', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 40 * MIB });
    const mirror = await rig.mirrored();
    for (let at = 0; at < 40 * MIB; at += MIB) await rig.write(at, stamped(8192, at));
    await rig.device.resize(10 * MIB);
    rig.expected.cut(10 * MIB);
    await rig.write(5 * MIB, stamped(MIB, 3));
    await rig.inStep();
    await rig.device.resize(30 * MIB);
    mirror.device.image.cut(30 * MIB);
    await rig.equal(mirror);
  });

  it('refuses the writes that wait for a region past the new end', async () => {
    const disk = new MemoryDisk();
    const rig = await Rig.create(testScope(), { disk, sizeBytes: 40 * MIB });
    const mirror = await rig.mirrored();
    await rig.write(0, stamped(4096, 1));
    await rig.device.pauseMirror(mirror.uri);
    // Nothing to flush: the volume takes its new size while the first write's region is being recorded.
    await rig.flush();
    disk.holding = true;
    const first = rig.host.write(9 * MIB, stamped(4096, 3));
    const late = rig.host.write(39 * MIB, stamped(4096, 2));
    const early = rig.host.write(5 * MIB, stamped(4096, 4));
    const shrinking = rig.device.resize(10 * MIB);
    await waitUntil('the new size', () => rig.volume.sizeBytes === 10 * MIB);
    expect(disk.held.map(({ kind }) => kind)).toEqual(['write']);
    disk.holding = false;
    while (disk.held.length > 0) disk.letGo();
    await shrinking;
    expect(await Promise.all([first, late, early])).toEqual([0, 28, 0]);
    rig.expected.write(9 * MIB, stamped(4096, 3));
    rig.expected.write(5 * MIB, stamped(4096, 4));
    await rig.device.resumeMirror(mirror.uri);
    mirror.device.image.cut(10 * MIB);
    await rig.equal(mirror);
  });
});
