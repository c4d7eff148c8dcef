/**
 * Two nodes: what the host wrote is on the mirror, by delta runs and by the stream, through outages and restarts of either
 * side. Method: the real replicator, links over real sockets, and a real secondary, in one process; the mirror is read through
 * its export and compared with what the host believes.
 */
import { describe, expect, it } from 'vitest';
import type { Volume } from '../../src/volume/volume.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { write } from '../volume/support/request.ts';
import { seeded, stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig, type MirrorOptions, type RigOptions } from './support/rig.ts';

const SIZE = 32 * MIB;

async function pair(
  options: MirrorOptions & RigOptions = {},
): Promise<{ rig: Rig; mirror: PeerMirror }> {
  const scope = testScope();
  const rig = await Rig.create(scope, { sizeBytes: SIZE, graceMs: 0, ...options });
  const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
  await rig.write(0, stamped(MIB, 1));
  await rig.write(5 * MIB + 4096, stamped(64 * 1024, 2));
  await rig.addPeer(mirror, options);
  await rig.inStep();
  return { rig, mirror };
}

describe('a mirror on another node', () => {
  it('gets what was there, and follows', async () => {
    const { rig, mirror } = await pair();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    const random = seeded(3);
    for (let count = 0; count < 300; count += 1) {
      const offset = Math.floor(random() * (SIZE / 512 - 64)) * 512;
      if (count % 7 === 0) await rig.zero(offset, 32 * 1024);
      else await rig.write(offset, stamped(512 * (1 + (count % 20)), count));
      if (count % 50 === 0) await rig.flush();
    }
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.status()).toMatchObject({ kind: 'blockferry', consistent: true, dirty_bytes: 0 });
    expect(mirror.secondary.sourceStatus()).toMatchObject({ state: 'streaming', last_error: null });
    expect(mirror.secondary.position()).toEqual(rig.status().position);
  });

  it('is brought in step after an outage, by what changed', async () => {
    const { rig, mirror } = await pair();
    for (let round = 0; round < 5; round += 1) {
      mirror.leave();
      await rig.until('the outage', ({ state }) => state === 'delta');
      const before = rig.status().delta_bytes_sent;
      await rig.write((8 + round) * MIB, stamped(128 * 1024, 10 + round));
      await rig.zero(round * 64 * 1024, 8192);
      mirror.comeBack();
      await rig.inStep();
      expect(await mirror.differences(rig.expected)).toEqual([]);
      expect(rig.status().delta_bytes_sent - before).toBeLessThan(200 * 1024);
    }
  });

  it('goes on after a restart of either side', async () => {
    const { rig, mirror } = await pair();
    await rig.write(9 * MIB, stamped(MIB, 4));
    await mirror.restart();
    await rig.write(10 * MIB, stamped(MIB, 5));
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    const second = await rig.restart();
    await second.write(11 * MIB, stamped(MIB, 6));
    await second.inStep();
    expect(await mirror.differences(second.expected)).toEqual([]);
    const third = second.killAndRestart();
    expect(await third.differencesHere()).toEqual([]);
    await third.write(12 * MIB, stamped(MIB, 7));
    await third.inStep();
    expect(await mirror.differences(third.expected)).toEqual([]);
  });

  it('has a write when the reply to it came, and a flush durably, in synchronous mode', async () => {
    const { rig, mirror } = await pair({ mode: 'sync' });
    for (let count = 0; count < 20; count += 1) {
      await rig.write(count * 8192, stamped(4096, 50 + count));
      await rig.flush();
      expect(mirror.secondary.sourceStatus().durable_epoch).toBeGreaterThanOrEqual(
        rig.device.position().epoch,
      );
    }
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });

  it('is compared without a false alarm while the host writes, and repaired where it differs', async () => {
    const { rig, mirror } = await pair();
    const writing = { on: true };
    const random = seeded(9);
    const load = (async () => {
      for (let count = 0; writing.on; count += 1) {
        const offset = Math.floor(random() * (SIZE / 4096 - 16)) * 4096;
        await rig.write(offset, stamped(4096 * (1 + (count % 8)), count));
        // A write that is answered at once gives nobody else a turn.
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    const { uri } = rig.status();
    for (let round = 0; round < 3; round += 1) {
      expect(await rig.device.verifyMirror(uri, { repair: false })).toEqual({
        bytes_compared: SIZE,
        bytes_differing: 0,
        ranges: [],
        repaired: false,
      });
    }
    writing.on = false;
    await load;
    await rig.inStep();
    const { volume } = mirror.secondary;
    await writeBehind(volume, 3 * 4096, Buffer.alloc(8192, 0x77));
    const report = await rig.device.verifyMirror(uri, { repair: true });
    expect(report).toMatchObject({
      bytes_differing: 8192,
      ranges: [{ offset: 3 * 4096, length: 8192 }],
      repaired: true,
    });
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.volume.snapshots.hidden).toEqual([]);
    expect(volume.snapshots.hidden).toEqual([]);
  });

  it('is not compared when it is away, or when it is any NBD server', async () => {
    const { rig, mirror } = await pair();
    mirror.leave();
    const { uri } = rig.status();
    await rig.until('the outage', ({ state }) => state === 'delta');
    const verifying = rig.device.verifyMirror(uri, { repair: false });
    await expect(verifying).rejects.toMatchObject({ code: 'MIRROR_STATE' });
  });

  it('is compared no longer when it leaves the stream, and its link lives on', async () => {
    const { rig, mirror } = await pair({ stagingBytes: 4 * MIB });
    const { uri } = rig.status();
    for (let at = 8; at < 31; at += 1) {
      await rig.write(at * MIB, stamped(MIB, at));
      await rig.inStep();
    }
    rig.events.length = 0;
    await rig.device.limitMirror(uri, 4096);
    let before: string[] | null = null;
    const verifying = rig.device.verifyMirror(uri, { repair: false });
    const refused = expect(verifying).rejects.toMatchObject({ code: 'MIRROR_STATE' });
    void verifying.catch(() => (before = rig.kinds()));
    await waitUntil('the comparison', () => rig.volume.snapshots.hidden.length > 0);
    for (let at = 0; at < 8; at += 1) await rig.write(at * MIB, stamped(MIB, at));
    await waitUntil('the end of the comparison', () => before !== null);
    await refused;
    // Not the next run ended it.
    expect(before).toEqual(['mirror-delta']);
    await rig.device.limitMirror(uri, null);
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.volume.snapshots.hidden).toEqual([]);
    expect(rig.kinds()).not.toContain('mirror-connecting');
  });

  it('gets what changed and no more when it leaves the stream, also over the link of its first copy', async () => {
    const { rig, mirror } = await pair({ stagingBytes: 4 * MIB });
    const { uri } = rig.status();
    for (let at = 8; at < 28; at += 1) {
      await rig.write(at * MIB, stamped(MIB, at));
      await rig.inStep();
    }
    rig.events.length = 0;
    const before = rig.status().delta_bytes_sent;
    await rig.device.limitMirror(uri, 4096);
    await rig.zero(12 * MIB, MIB);
    for (let at = 0; at < 8; at += 1) await rig.write(at * MIB, stamped(MIB, 50 + at));
    await rig.until('the end of the stream', ({ state }) => state !== 'streaming');
    await rig.device.limitMirror(uri, null);
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.status().delta_bytes_sent - before).toBeLessThanOrEqual(9 * MIB);
    expect(rig.kinds()).toContain('mirror-delta');
    expect(rig.kinds()).not.toContain('mirror-connecting');
  });

  it('that was seeded is compared, and gets what differs', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope, { sizeBytes: SIZE });
    const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
    const { volume } = mirror.secondary;
    for (let at = 0; at < 8 * MIB; at += MIB) {
      const bytes = stamped(MIB, at / MIB);
      await rig.write(at, bytes);
      await writeBehind(volume, at, bytes);
    }
    await rig.write(2 * MIB, stamped(4096, 99));
    await rig.addPeer(mirror, { seeded: true });
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    const { bytes_compared, delta_bytes_sent } = rig.status();
    expect(bytes_compared).toBe(SIZE);
    expect(delta_bytes_sent).toBeLessThan(64 * 1024);
  });

  it('gets no more in a second than its limit', async () => {
    const { rig, mirror } = await pair({ lanes: 3 });
    const { uri } = rig.status();
    await rig.device.limitMirror(uri, 4 * MIB);
    const begun = performance.now();
    for (let count = 0; count < 8; count += 1)
      await rig.write(count * MIB, stamped(MIB, 70 + count));
    await rig.inStep();
    const seconds = (performance.now() - begun) / 1000;
    expect(seconds).toBeGreaterThan(1);
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.status()).toMatchObject({ limit: 4 * MIB, lanes: 3 });
    await rig.device.limitMirror(uri, null);
    expect(rig.status().limit).toBe(null);
  });
});

/** Behind the back of the replicator. */
function writeBehind(volume: Volume, offset: number, bytes: Buffer): Promise<void> {
  return write(volume, offset, bytes).then((status) => expect(status).toBe(0));
}
