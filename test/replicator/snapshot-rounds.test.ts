/**
 * Snapshots that were taken while a mirror was away, or before it was added, are brought to it one after another, the oldest first: each
 * becomes a snapshot there with the same id and content, and only differences travel. Method: the real replicator, links over real
 * sockets and a real secondary in one process; each snapshot is read on both sides and compared; links and processes end midway.
 */
import { describe, expect, it } from 'vitest';
import { BlockSet } from '../../src/volume/maps/block-set.ts';
import type { PeerContact } from '../../src/replicator/contact/peer-contact.ts';
import {
  blocksOfSnapshot,
  marksBehindSnapshot,
  SnapshotRounds,
} from '../../src/replicator/contact/snapshot-rounds.ts';
import { replace } from '../sim/mutations.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { MemoryDisk } from '../volume/support/memory-disk.ts';
import { stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig } from './support/rig.ts';
import { expectTwins, snapshotsOf } from './support/twins.ts';

const SIZE = 16 * MIB;
const KIB = 1024;
const EIO = 5;

async function apart(): Promise<{ rig: Rig; mirror: PeerMirror }> {
  const scope = testScope();
  const rig = await Rig.create(scope, { sizeBytes: SIZE, graceMs: 0 });
  const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
  return { rig, mirror };
}

async function pair(): Promise<{ rig: Rig; mirror: PeerMirror }> {
  const { rig, mirror } = await apart();
  await rig.write(0, stamped(4 * MIB, 1));
  await rig.addPeer(mirror);
  await rig.inStep();
  return { rig, mirror };
}

async function outage(rig: Rig, mirror: PeerMirror): Promise<void> {
  mirror.leave();
  await rig.until('the outage', ({ state }) => state === 'delta');
}

const setOf = (...blocks: number[]): BlockSet => {
  const set = new BlockSet(64);
  for (const block of blocks) set.add(block, 1);
  return set;
};
const listOf = (set: BlockSet): number[] =>
  Array.from({ length: set.blockCount }, (_, block) => block).filter((block) => set.has(block));

/** Three snapshots with something between them, and something behind the last one. */
async function three(rig: Rig, tag: number): Promise<void> {
  for (const [index, name] of ['s1', 's2', 's3'].entries()) {
    // One place again and again, and one that is only this one's; one that was there becomes a hole.
    await rig.write(MIB, stamped(64 * KIB, tag + index));
    await rig.write((5 + index) * MIB, stamped(128 * KIB, tag + 10 + index));
    await rig.zero(index * 256 * KIB, 64 * KIB);
    await rig.volume.snapshots.create(`${name}-${tag}`);
  }
  await rig.write(MIB, stamped(64 * KIB, tag + 20));
  await rig.write(12 * MIB, stamped(64 * KIB, tag + 21));
}

describe('snapshots that a mirror lacks', () => {
  it('come to it after an outage, with what differs and no more', async () => {
    const { rig, mirror } = await pair();
    await outage(rig, mirror);
    await three(rig, 50);
    const before = rig.status().delta_bytes_sent;
    mirror.comeBack();
    await rig.inStep();
    expect(snapshotsOf(rig.volume).length).toBe(3);
    await expectTwins(rig, mirror);
    expect(rig.status().delta_bytes_sent - before).toBeLessThan(900 * KIB);
    expect(rig.kinds().filter((kind) => kind === 'mirror-snapshot-sent').length).toBe(3);
    expect(rig.volume.snapshots.hidden).toEqual([]);
    expect(mirror.secondary.volume.snapshots.hidden).toEqual([]);
  });

  it('come with the initial copy, and while it goes on', async () => {
    const { rig, mirror } = await apart();
    await rig.write(0, stamped(4 * MIB, 1));
    await three(rig, 50);
    await rig.addPeer(mirror);
    await rig.device.limitMirror(rig.status().uri, 8 * MIB);
    await waitUntil('the first of them', () => rig.kinds().includes('mirror-snapshot-sent'));
    await rig.write(2 * MIB, stamped(64 * KIB, 90));
    await rig.volume.snapshots.create('during');
    await rig.write(2 * MIB, stamped(64 * KIB, 91));
    await rig.device.limitMirror(rig.status().uri, null);
    await rig.inStep();
    expect(snapshotsOf(rig.volume).length).toBe(4);
    await expectTwins(rig, mirror);
  });

  it('come to a mirror that was outrun, and from the stream before', async () => {
    const { rig, mirror } = await pair();
    await rig.volume.snapshots.create('before');
    await rig.write(MIB, stamped(64 * KIB, 7));
    await outage(rig, mirror);
    await rig.volume.snapshots.create('unchanged');
    await rig.volume.snapshots.create('again');
    mirror.comeBack();
    await rig.inStep();
    await rig.volume.snapshots.create('after');
    await rig.inStep();
    await expectTwins(rig, mirror);
  });

  it('go there when they went here meanwhile, if they came from here', async () => {
    const { rig, mirror } = await pair();
    const there = mirror.secondary.volume.snapshots;
    const own = await there.create('own');
    const { snapshots } = rig.volume;
    for (const name of ['a', 'b', 'c']) {
      await rig.write(MIB, stamped(64 * KIB, name.charCodeAt(0)));
      await snapshots.create(name);
    }
    await rig.inStep();
    await outage(rig, mirror);
    await snapshots.delete('a');
    await rig.write(2 * MIB, stamped(64 * KIB, 9));
    await snapshots.refresh('b');
    await snapshots.create('never');
    await snapshots.delete('never');
    mirror.comeBack();
    await rig.inStep();
    expect(there.list()).toContainEqual(own);
    await there.delete('own');
    await expectTwins(rig, mirror);
  });

  it('are told to be gone before another of the same name comes, also when they went while it was told of others', async () => {
    const scope = testScope();
    const { rig, mirror } = await pair();
    const { snapshots } = rig.volume;
    await snapshots.create('one');
    await snapshots.create('two');
    await rig.inStep();
    await outage(rig, mirror);
    const meanwhile = [
      () => snapshots.delete('one'),
      async () => {
        await snapshots.delete('two');
        await rig.write(2 * MIB, stamped(64 * KIB, 9));
        await snapshots.create('two');
      },
    ];
    const mend = replace(SnapshotRounds.prototype, 'ask', (ask) => {
      return async function asked(this: SnapshotRounds) {
        await ask.call(this);
        await meanwhile.shift()?.();
      };
    });
    scope.defer('the rounds', mend);
    mirror.comeBack();
    await rig.inStep();
    expect(meanwhile).toEqual([]);
    await expectTwins(rig, mirror);
    expect(rig.status().last_refusal).toBeNull();
  });

  it('stay there while it is not recorded here that they went', async () => {
    const scope = testScope();
    const disk = new MemoryDisk();
    const rig = await Rig.create(scope, { disk, sizeBytes: SIZE, graceMs: 0 });
    const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
    await rig.addPeer(mirror);
    await rig.write(MIB, stamped(64 * KIB, 1));
    await rig.volume.snapshots.create('a');
    await rig.inStep();
    const there = mirror.secondary.volume.snapshots.list();
    expect(there.map(({ name }) => name)).toEqual(['a']);
    await outage(rig, mirror);
    disk.failSync = (path) => (path.endsWith('/metadata.log') ? EIO : 0);
    await expect(rig.volume.snapshots.delete('a')).rejects.toMatchObject({ code: 'VOLUME_FAILED' });
    mirror.comeBack();
    await rig.until(
      'its run to fail',
      ({ last_error: why }) => why?.includes('delta run') === true,
    );
    expect(mirror.secondary.volume.snapshots.list()).toEqual(there);
  });

  it('do not come there when they are of what was given up for another copy', async () => {
    const scope = testScope();
    const first = await Rig.create(scope, { sizeBytes: SIZE });
    await first.write(MIB, stamped(64 * KIB, 1));
    await first.volume.snapshots.create('common');
    await first.write(MIB, stamped(64 * KIB, 2));
    await first.volume.snapshots.create('given-up');
    const { metadata, snapshots } = first.volume;
    const { mark } = snapshots.find('given-up')!;
    // It went on from the epoch before, on another node, and the writes came back here.
    metadata.append({
      kind: 'generation-opened',
      number: 2,
      id: 'ab'.repeat(16),
      firstEpoch: mark!.epoch,
    });
    expect(await first.volume.commit()).toBe(0);
    const rig = await first.restart();
    const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
    await rig.addPeer(mirror);
    await rig.inStep();
    const there = snapshotsOf(mirror.secondary.volume).map(({ name }) => name);
    expect(there).toEqual(['common']);
    const refused = rig.events.filter(({ kind }) => kind === 'mirror-snapshot-refused');
    expect(refused.map(({ message }) => message).join()).toMatch(/@given-up .*given up$/);
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });

  it('go there when they went here while the runs were under way', async () => {
    const { rig, mirror } = await apart();
    await rig.write(0, stamped(4 * MIB, 1));
    await three(rig, 50);
    await rig.addPeer(mirror);
    await rig.device.limitMirror(rig.status().uri, 8 * MIB);
    await waitUntil('the first of them', () => rig.kinds().includes('mirror-snapshot-sent'));
    // One is there, the next one on its way.
    const { snapshots } = rig.volume;
    await snapshots.delete('s1-50');
    await snapshots.delete('s2-50');
    await snapshots.create('s1-50');
    await rig.device.limitMirror(rig.status().uri, null);
    await rig.inStep();
    expect(snapshotsOf(rig.volume).length).toBe(2);
    await expectTwins(rig, mirror);
  });

  it('whose name is taken there stay away, and the run goes on', async () => {
    const { rig, mirror } = await pair();
    const there = mirror.secondary.volume.snapshots;
    const own = await there.create('s2-50');
    await outage(rig, mirror);
    await three(rig, 50);
    mirror.comeBack();
    await rig.inStep();
    expect(there.list()).toContainEqual(own);
    expect(rig.events.map(({ message }) => message).join('\n')).toMatch(
      /v@s2-50 .* exists already/,
    );
    await there.delete('s2-50');
    await rig.volume.snapshots.delete('s2-50');
    await rig.inStep();
    await expectTwins(rig, mirror);
  });

  it.each(['link', 'mirror', 'primary'] as const)(
    'survive the loss of the %s midway',
    async (what) => {
      const { rig: first, mirror } = await pair();
      let rig = first;
      await outage(rig, mirror);
      await three(rig, 50);
      await rig.write(8 * MIB, stamped(3 * MIB, 77));
      await rig.volume.snapshots.create('last');
      await rig.device.limitMirror(rig.status().uri, 2 * MIB);
      mirror.comeBack();
      for (let sent = 1; sent <= 3; sent += 1) {
        await waitUntil(
          'a snapshot to arrive',
          () => mirror.events.filter((line) => line.startsWith('snapshot-created')).length >= sent,
        );
        if (what === 'link') mirror.cut();
        else if (what === 'mirror') await mirror.restart();
        else rig = rig.killAndRestart();
      }
      await rig.device.limitMirror(rig.status().uri, null);
      await rig.inStep();
      expect(snapshotsOf(rig.volume).length).toBe(4);
      await expectTwins(rig, mirror);
    },
  );

  it('that were deleted here while they were on their way leave nothing there', async () => {
    const { rig, mirror } = await pair();
    await outage(rig, mirror);
    await rig.write(4 * MIB, stamped(3 * MIB, 77));
    await rig.volume.snapshots.create('gone');
    await rig.device.limitMirror(rig.status().uri, 2 * MIB);
    mirror.comeBack();
    await waitUntil('the run', () => mirror.secondary.volume.metadata.state.run !== null);
    await rig.volume.snapshots.delete('gone');
    await rig.device.limitMirror(rig.status().uri, null);
    await rig.inStep();
    await outage(rig, mirror);
    mirror.comeBack();
    await rig.inStep();
    await expectTwins(rig, mirror);
  });
});

describe('what a mirror may lack of a snapshot', () => {
  const changed = [
    { offset: 8 * 4096, length: 4 * 4096 },
    { offset: 20 * 4096, length: 4096 },
  ];

  it('is sent where it changed before alone, and compared where it changed since', () => {
    const marks = { dirty: setOf(1, 7, 8, 10, 12, 20), suspect: setOf(11, 40) };
    const { inFlight, suspect } = blocksOfSnapshot(marks, changed);
    expect(listOf(inFlight)).toEqual([1, 7, 12]);
    expect(listOf(suspect)).toEqual([8, 10, 11, 20, 40]);
    expect(listOf(marks.dirty)).toEqual([1, 7, 8, 10, 12, 20]);
  });

  it('is no more than what changed since, once it has it', () => {
    const marks = { dirty: setOf(1, 8), suspect: setOf(40) };
    marksBehindSnapshot(marks, changed);
    expect(listOf(marks.dirty)).toEqual([8, 9, 10, 11, 20]);
    expect(listOf(marks.suspect)).toEqual([]);
  });
});

it('a run goes on for the snapshot of its own line, where one that was given up had the same epoch', async () => {
  const { rig } = await apart();
  const { volume } = rig;
  await volume.snapshots.create('given-up');
  await volume.snapshots.create('own');
  const [first, second] = volume.metadata.state.snapshots.values();
  volume.metadata.append({ kind: 'snapshot-removed', id: first!.id });
  volume.metadata.append({ kind: 'snapshot-removed', id: second!.id });
  for (const [index, snapshot] of [first!, second!].entries()) {
    const mark = { generation: 3 + index, epoch: 70, shipped: false };
    volume.metadata.append({ kind: 'snapshot-created', ...snapshot, mark });
  }
  const link = {
    sendControl: () => rounds.control({ kind: 'snapshots-held', ids: [], position: null }),
  };
  const contact: Partial<PeerContact> = {
    host: rig.device,
    takesSnapshots: true,
    open: true,
    link: link as unknown as PeerContact['link'],
    welcome: { generations: [] } as unknown as PeerContact['welcome'],
    note: () => {},
    converse: () => {},
    silence: () => {},
  };
  const rounds = new SnapshotRounds(contact as PeerContact);
  await rounds.ask();
  expect(rounds.at({ generation: 4, epoch: 70 })?.name).toBe('own');
  expect(rounds.at({ generation: 3, epoch: 70 })?.name).toBe('given-up');
  expect(rounds.at({ generation: 4, epoch: 71 })).toBeNull();
});
