/**
 * The pace of a volume and its mirrors: writes of the host are held back, a little more and more, for a mirror that lags above its
 * limit, and never while its link is lost; and what all mirrors of a node are sent keeps the limit of the node. Method:
 * the real replicator, mirrors behind real sockets that stall or leave, and the time that writes take.
 */
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import { Status } from '../../src/io/device.ts';
import { THROTTLE_MS_MAX } from '../../src/io/limits.ts';
import { SharedLimit } from '../../src/replicator/pace/shared-limit.ts';
import { testScope } from '../support/tools.ts';
import { stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig } from './support/rig.ts';

const SIZE = 16 * MIB;

async function msOfWrite(rig: Rig, at: number): Promise<number> {
  const began = performance.now();
  await rig.write(at, stamped(4096, at));
  return performance.now() - began;
}

describe('a lag limit', () => {
  it('holds writes back while the mirror lags, more and more up to a bound, and no longer', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    const mirror = await rig.mirrored();
    await rig.device.setMirror(mirror.uri, { lagLimitMs: 1000 });
    expect(rig.status()).toMatchObject({ lag_limit_seconds: 1, host_delay_ms: 0 });
    mirror.device.stall();
    await rig.write(0, stamped(4096, 1));
    await rig.until('the lag', ({ host_delay_ms: ms }) => ms > THROTTLE_MS_MAX / 4);
    const early = rig.status();
    expect(early.host_delay_ms).toBeLessThanOrEqual(THROTTLE_MS_MAX);
    expect(early.host_delay_ms).toBeCloseTo((early.lag_seconds - 1) * THROTTLE_MS_MAX, -1);
    await rig.until('twice the limit', ({ lag_seconds: lag }) => lag > 2.6);
    expect(rig.status().host_delay_ms).toBe(THROTTLE_MS_MAX);
    expect(await msOfWrite(rig, MIB)).toBeGreaterThan(THROTTLE_MS_MAX - 2);
    mirror.device.resume();
    await rig.inStep();
    expect(rig.status().host_delay_ms).toBe(0);
    await rig.equal(mirror);
  });

  it('answers nothing behind the close of the volume, which may be a mirror by then', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    const mirror = await rig.mirrored();
    await rig.device.setMirror(mirror.uri, { lagLimitMs: 100 });
    mirror.device.stall();
    await rig.write(0, stamped(4096, 1));
    // Some ticks after the whole delay is due: a tick puts it in force.
    await rig.until('the delay', ({ lag_seconds: lag }) => lag > 1);
    const held = rig.host.write(0, stamped(4096, 2));
    const closed = rig.device.close();
    mirror.device.resume();
    expect(await held).toBe(Status.ESHUTDOWN);
    await closed;
  });

  it('holds nothing back while the link is lost, nor without a limit', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope, { sizeBytes: SIZE, graceMs: 60_000 });
    const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
    const { uri } = mirror;
    const policy = { lagLimitMs: 1000 };
    await rig.device.addMirror({ uri, mode: 'async', stallPolicy: 'degrade', policy });
    await rig.inStep();
    mirror.leave();
    await rig.write(0, stamped(4096, 2));
    await rig.until('the lag', ({ lag_seconds: lag }) => lag > 1.5);
    expect(rig.status()).toMatchObject({ state: 'connecting', host_delay_ms: 0 });
    mirror.comeBack();
    await rig.inStep();
    await rig.device.setMirror(uri, { lagLimitMs: null });
    expect(rig.status().lag_limit_seconds).toBeNull();
  });
});

describe('the limit of a node', () => {
  it('is kept by what is sent to all mirrors, and lifted at once', async () => {
    const scope = testScope();
    const nodeLimit = new SharedLimit(4 * MIB, systemClock.now());
    const rig = await Rig.create(scope, { sizeBytes: SIZE, nodeLimit });
    await rig.write(0, stamped(4 * MIB, 3));
    const plain = await rig.mirror();
    const peer = await PeerMirror.start(scope, { sizeBytes: SIZE });
    const began = performance.now();
    await rig.addMirror(plain);
    await rig.addPeer(peer);
    await rig.until('half of it', () => {
      return rig.device.mirrorStatuses().every(({ bytes_sent: sent }) => sent >= MIB);
    });
    const seconds = (performance.now() - began) / 1000;
    const sent = rig.device.mirrorStatuses().reduce((sum, mirror) => sum + mirror.bytes_sent, 0);
    // What is taken may be more than there is: a piece for each of the two.
    expect(sent / MIB).toBeLessThan(4 * seconds + 3.5);
    nodeLimit.set(null, systemClock.now());
    const inStep = (): boolean =>
      rig.device.mirrorStatuses().every(({ state }) => state === 'streaming');
    await rig.until('both in step', inStep);
    expect(rig.expected.differences(plain.device.image)).toEqual([]);
    expect(await peer.differences(rig.expected)).toEqual([]);
  });
});
