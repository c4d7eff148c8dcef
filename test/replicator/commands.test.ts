/**
 * What an operator does to mirrors: add, pause, resume, resync, remove, and restarts of the node in between.
 * Each is refused before anything changed, or done, and the mirror ends up equal.
 */
import { describe, expect, it } from 'vitest';
import { MIRRORS_PER_VOLUME_MAX } from '../../src/io/limits.ts';
import { testScope } from '../support/tools.ts';
import { stamped } from './support/host.ts';
import { MirrorDevice } from './support/mirror-device.ts';
import { MirrorServer } from './support/mirror-server.ts';
import { RefusingDisk } from './support/refusing-disk.ts';
import { MIB, Rig } from './support/rig.ts';

const code = (value: string): object => ({ code: value });

describe('pause and resume', () => {
  it('keep marks and send them', async () => {
    const rig = await Rig.create(testScope());
    await rig.write(0, stamped(MIB, 1));
    const mirror = await rig.mirrored();
    await rig.device.pauseMirror(mirror.uri);
    await rig.write(2 * MIB, stamped(MIB, 2));
    const asked = mirror.device.asked.length;
    expect(rig.status()).toMatchObject({ state: 'paused', dirty_bytes: MIB, staged_bytes: 0 });
    await rig.device.pauseMirror(mirror.uri);
    expect(mirror.device.asked).toHaveLength(asked);
    await rig.device.resumeMirror(mirror.uri);
    await rig.equal(mirror);
    expect(mirror.device.bytesAsked('write')).toBe(2 * MIB);
  });

  it('outlive a restart', async () => {
    const rig = await Rig.create(testScope());
    const mirror = await rig.mirrored();
    await rig.device.pauseMirror(mirror.uri);
    await rig.write(2 * MIB, stamped(MIB, 2));
    const again = await rig.restart();
    expect(again.status()).toMatchObject({ state: 'paused', dirty_bytes: MIB, suspect_bytes: 0 });
    await again.device.resumeMirror(mirror.uri);
    await again.equal(mirror);
    expect(mirror.device.bytesAsked('write')).toBe(MIB);
  });

  it('can come at any moment of a run', async () => {
    const rig = await Rig.create(testScope());
    for (let at = 0; at < 24 * MIB; at += MIB) await rig.write(at, stamped(MIB, at));
    const mirror = await rig.mirror();
    await rig.addMirror(mirror);
    for (let round = 0; round < 12; round += 1) {
      await new Promise((resolve) => {
        setTimeout(resolve, round * 3);
      });
      await rig.device.pauseMirror(mirror.uri);
      await rig.write(round * MIB, stamped(8192, 900 + round));
      await rig.device.resumeMirror(mirror.uri);
    }
    await rig.equal(mirror);
  });
});

describe('resync', () => {
  it('finds and repairs what was changed behind our back, and sends only that', async () => {
    const rig = await Rig.create(testScope());
    for (let at = 0; at < 16 * MIB; at += MIB) await rig.write(at, stamped(MIB, at));
    const mirror = await rig.mirrored();
    const sent = rig.status().delta_bytes_sent;
    for (const block of [3, 4, 700, 4095])
      mirror.device.image.write(block * 4096, stamped(9, block));
    await rig.device.resyncMirror(mirror.uri);
    await rig.write(20 * MIB, stamped(4096, 5));
    await rig.equal(mirror);
    expect(rig.status().bytes_compared).toBeGreaterThanOrEqual(16 * MIB);
    expect(rig.status().bytes_compared).toBeLessThanOrEqual(16 * MIB + 4096);
    expect(rig.status().delta_bytes_sent - sent).toBeLessThanOrEqual(5 * 4096);
    expect(rig.kinds().filter((kind) => kind === 'mirror-comparing')).toHaveLength(1);
  });

  it('is refused for a mirror that is paused', async () => {
    const rig = await Rig.create(testScope());
    const mirror = await rig.mirrored();
    await rig.device.pauseMirror(mirror.uri);
    await expect(rig.device.resyncMirror(mirror.uri)).rejects.toMatchObject({
      code: 'MIRROR_STATE',
    });
  });

  it('is not forgotten by a kill in the middle of it', async () => {
    const first = await Rig.create(testScope());
    for (let at = 0; at < 16 * MIB; at += MIB) await first.write(at, stamped(MIB, at));
    // Nothing is hot after this: the kill alone would make nothing suspect.
    const rig = await first.restart();
    const mirror = await rig.mirrored();
    mirror.device.image.write(0, stamped(9, 1));
    mirror.leave();
    await rig.device.resyncMirror(mirror.uri);
    const again = rig.killAndRestart();
    mirror.comeBack();
    await again.equal(mirror);
    expect(again.status().bytes_compared).toBe(16 * MIB);
  });
});

describe('remove and add', () => {
  it('leave the mirror as it is, and the volume to itself', async () => {
    const rig = await Rig.create(testScope());
    await rig.write(0, stamped(MIB, 1));
    const mirror = await rig.mirrored();
    const before = mirror.device.image.clone();
    await rig.device.removeMirror(mirror.uri);
    await rig.write(0, stamped(4096, 2));
    await rig.flush();
    expect(rig.device.mirrorStatuses()).toEqual([]);
    expect(before.differences(mirror.device.image)).toEqual([]);
    expect([...rig.volume.metadata.state.hot]).toEqual([]);
    await rig.addMirror(mirror);
    await rig.equal(mirror);
  });

  it('work while writes are under way', async () => {
    const rig = await Rig.create(testScope());
    const mirror = await rig.mirror();
    const writing = { now: true };
    let stamp = 0;
    const writer = (async (): Promise<void> => {
      while (writing.now) {
        stamp += 1;
        await rig.write(((stamp * 37) % 4096) * 4096, stamped(8192, stamp));
        await new Promise(setImmediate);
      }
    })();
    for (let round = 0; round < 8; round += 1) {
      await rig.addMirror(mirror);
      await new Promise((resolve) => {
        setTimeout(resolve, 20 * round);
      });
      await rig.device.removeMirror(mirror.uri);
    }
    await rig.addMirror(mirror);
    writing.now = false;
    await writer;
    await rig.equal(mirror);
  });

  it('are refused with nothing changed when they make no sense', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope);
    const mirror = await rig.mirrored();
    const small = await MirrorServer.start(scope, new MirrorDevice(rig.volume.sizeBytes - 4096));
    const readOnly = await rig.mirror();
    readOnly.device.readOnly = true;
    const gone = await rig.mirror();
    gone.leave();
    await expect(rig.addMirror(mirror)).rejects.toMatchObject(code('MIRROR_EXISTS'));
    await expect(rig.addMirror(small)).rejects.toMatchObject(code('MIRROR_TOO_SMALL'));
    await expect(rig.addMirror(readOnly)).rejects.toMatchObject(code('MIRROR_READ_ONLY'));
    await expect(rig.addMirror(gone)).rejects.toMatchObject(code('MIRROR_UNREACHABLE'));
    await expect(rig.device.removeMirror(small.uri)).rejects.toMatchObject(
      code('MIRROR_NOT_FOUND'),
    );
    for (let count = 1; count < MIRRORS_PER_VOLUME_MAX; count += 1) {
      await rig.addMirror(await rig.mirror());
    }
    await expect(rig.addMirror(await rig.mirror())).rejects.toMatchObject(code('MIRROR_LIMIT'));
    expect(rig.device.mirrorStatuses()).toHaveLength(MIRRORS_PER_VOLUME_MAX);
    expect(rig.volume.metadata.state.mirrors.size).toBe(MIRRORS_PER_VOLUME_MAX);
    await rig.equal(mirror);
  });

  it('are taken back when their record finds no space', async () => {
    const disk = new RefusingDisk();
    const rig = await Rig.create(testScope(), { disk });
    const mirror = await rig.mirrored();
    await rig.write(0, stamped(4096, 1));
    await rig.inStep();
    await rig.device.pauseMirror(mirror.uri);
    const other = await rig.mirror();
    const failed = { code: 'METADATA_WRITE_FAILED' };
    disk.fillForMetadata();
    await expect(rig.addMirror(other)).rejects.toMatchObject(failed);
    await expect(rig.device.removeMirror(mirror.uri)).rejects.toMatchObject(failed);
    await expect(rig.device.resumeMirror(mirror.uri)).rejects.toMatchObject(failed);
    expect(rig.device.mirrorStatuses()).toHaveLength(1);
    disk.refuse = null;
    const again = await rig.restart();
    expect(again.device.mirrorStatuses()).toHaveLength(1);
    expect(again.status()).toMatchObject({ state: 'paused', dirty_bytes: 0, suspect_bytes: 0 });
    await again.device.resumeMirror(mirror.uri);
    await again.equal(mirror);
  });

  it('go back to the direct way when the first mirror could not be recorded', async () => {
    const disk = new RefusingDisk();
    const rig = await Rig.create(testScope(), { disk });
    disk.fillForMetadata();
    await expect(rig.addMirror(await rig.mirror())).rejects.toMatchObject({
      code: 'METADATA_WRITE_FAILED',
    });
    disk.refuse = null;
    await rig.write(0, stamped(4096, 1));
    await rig.flush();
    expect(rig.volume.metadata.state.mirrors.size).toBe(0);
    expect(rig.volume.metadata.state.hot.size).toBe(0);
  });
});
