/**
 * Snapshots of a volume become snapshots of its mirror on another node, by commands in the stream: the same id, name, time and
 * content, exactly between the writes that they stood between, through kills of either side. Method: the real replicator, links over
 * real sockets and a real secondary in one process; each snapshot is read on both sides and compared block by block.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { seeded, stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig, type MirrorOptions } from './support/rig.ts';
import { expectTwins, snapshotsOf } from './support/twins.ts';

const SIZE = 16 * MIB;

async function pair(options: MirrorOptions = {}): Promise<{ rig: Rig; mirror: PeerMirror }> {
  const scope = testScope();
  const rig = await Rig.create(scope, { sizeBytes: SIZE, graceMs: 0 });
  const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
  await rig.write(0, stamped(MIB, 1));
  await rig.addPeer(mirror, options);
  await rig.inStep();
  return { rig, mirror };
}

describe('a snapshot of a volume in the stream', () => {
  it('is on the mirror what it is here, under load', async () => {
    const { rig, mirror } = await pair({ lanes: 3 });
    const writing = { on: true };
    const random = seeded(5);
    const load = (async () => {
      for (let count = 0; writing.on; count += 1) {
        const offset = Math.floor(random() * (SIZE / 4096 - 16)) * 4096;
        if (count % 9 === 0) await rig.zero(offset, 32 * 1024);
        else await rig.write(offset, stamped(4096 * (1 + (count % 8)), count));
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    for (let count = 0; count < 6; count += 1) {
      await rig.volume.snapshots.create(`s${count}`);
      await new Promise((resolve) => setTimeout(resolve, 15));
    }
    writing.on = false;
    await load;
    await rig.inStep();
    expect(snapshotsOf(rig.volume).length).toBe(6);
    await expectTwins(rig, mirror);
    expect(rig.kinds()).not.toContain('mirror-snapshot-refused');
  });

  it('has every write that was answered before, and none that was sent after', async () => {
    const { rig, mirror } = await pair();
    for (let count = 0; count < 20; count += 1) {
      await rig.write(count * 4096, stamped(4096, 100 + count));
      const taking = rig.volume.snapshots.create(`s${count}`);
      await taking;
      await rig.write(count * 4096, stamped(4096, 200 + count));
    }
    await rig.inStep();
    await expectTwins(rig, mirror);
  });

  it('is deleted and refreshed there as here', async () => {
    const { rig, mirror } = await pair();
    const { snapshots } = rig.volume;
    await snapshots.create('a');
    await snapshots.create('b');
    await rig.write(4096, stamped(4096, 3));
    await snapshots.delete('a');
    await snapshots.refresh('b');
    await rig.write(8192, stamped(4096, 4));
    await rig.inStep();
    expect(snapshotsOf(rig.volume).map(({ name }) => name)).toEqual(['b']);
    await expectTwins(rig, mirror);
  });

  it('does not take a name that stands for something else, and says so on both sides', async () => {
    const { rig, mirror } = await pair();
    const { snapshots } = mirror.secondary.volume;
    const own = await snapshots.create('nightly');
    await rig.write(4096, stamped(4096, 3));
    await rig.volume.snapshots.create('nightly');
    await rig.inStep();
    await waitUntil('the event', () => rig.kinds().includes('mirror-snapshot-refused'));
    expect(snapshots.list()).toEqual([own]);
    expect(mirror.events.join('\n')).toMatch(/source-snapshot-refused.*exists already/);
    // Deleting the one here does not touch the one there.
    await rig.volume.snapshots.delete('nightly');
    await rig.write(8192, stamped(4096, 4));
    await rig.inStep();
    expect(snapshots.list()).toEqual([own]);
    expect(rig.status()).toMatchObject({ state: 'streaming', consistent: true });
  });

  it('is there once after a kill of either side', async () => {
    const { rig, mirror } = await pair();
    await rig.volume.snapshots.create('a');
    await rig.write(4096, stamped(MIB, 3));
    await rig.volume.snapshots.create('b');
    await mirror.restart();
    await rig.write(8192, stamped(4096, 4));
    await rig.inStep();
    await expectTwins(rig, mirror);
    const second = rig.killAndRestart();
    await second.write(16384, stamped(4096, 5));
    await second.inStep();
    await second.volume.snapshots.create('c');
    await second.inStep();
    await expectTwins(second, mirror);
  });

  it('stays where it is when a plain mirror follows', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    const plain = await rig.mirrored();
    await rig.write(0, stamped(MIB, 2));
    await rig.volume.snapshots.create('a');
    await rig.write(0, stamped(4096, 3));
    await rig.equal(plain);
  });
});
