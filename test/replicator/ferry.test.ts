/**
 * Two nodes: what the host wrote is on the mirror, by delta runs and by the stream, through outages and restarts of either
 * side. Method: the real replicator, links over real sockets, and a real secondary, in one process; the mirror is read through
 * its export and compared with what the host believes.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { seeded, stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig, type MirrorOptions } from './support/rig.ts';

const SIZE = 32 * MIB;

async function pair(options: MirrorOptions = {}): Promise<{ rig: Rig; mirror: PeerMirror }> {
  const scope = testScope();
  const rig = await Rig.create(scope, { sizeBytes: SIZE });
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
});
