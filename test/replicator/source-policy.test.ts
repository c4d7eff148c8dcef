/**
 * What a mirror's own policy does not let its primary do with its snapshots: they stay, whatever way the command comes, the stream and
 * the host go on, both sides tell why, and nothing is deleted later. Method: the real replicator, links over real sockets and a real
 * secondary in one process.
 */
import { describe, expect, it } from 'vitest';
import type { Refusal } from '../../src/volume/refusals.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig } from './support/rig.ts';
import { snapshotsOf } from './support/twins.ts';

const SIZE = 16 * MIB;
const KEPT = 'its policy keeps m@';

async function pair(): Promise<{ rig: Rig; mirror: PeerMirror }> {
  const scope = testScope();
  const rig = await Rig.create(scope, { sizeBytes: SIZE, graceMs: 0 });
  const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
  await rig.write(0, stamped(MIB, 1));
  await rig.addPeer(mirror);
  await rig.inStep();
  return { rig, mirror };
}

async function refuse({ secondary }: PeerMirror, refuses: readonly Refusal[]): Promise<void> {
  const { volume } = secondary;
  volume.metadata.append({ kind: 'source-policy', refuses });
  expect(await volume.commit()).toBe(0);
  secondary.tellPolicy();
}

const names = ({ secondary }: PeerMirror): string[] =>
  snapshotsOf(secondary.volume).map(({ name }) => name);

/** What is durable there may not be applied yet. */
async function arrived(mirror: PeerMirror, name: string): Promise<void> {
  await waitUntil(`the snapshot ${name}`, () => names(mirror).includes(name));
}

/** That so many refusals were heard of, and the stream went on behind them. */
async function heard(rig: Rig, mirror: PeerMirror, count: number): Promise<void> {
  await waitUntil('the refusals', () => {
    return rig.kinds().filter((kind) => kind === 'mirror-snapshot-refused').length >= count;
  });
  await rig.write(8192, stamped(4096, 77));
  await rig.inStep();
  expect(await mirror.differences(rig.expected)).toEqual([]);
  expect(rig.kinds().filter((kind) => kind === 'mirror-snapshot-refused')).toHaveLength(count);
  expect(mirror.events.filter((event) => event.includes(KEPT))).toHaveLength(count);
}

describe('a mirror that refuses snapshot-delete', () => {
  it('keeps a snapshot that is deleted in the stream, and says so on both sides', async () => {
    const { rig, mirror } = await pair();
    await refuse(mirror, ['snapshot-delete']);
    await rig.volume.snapshots.create('monday');
    await rig.volume.snapshots.delete('monday');
    await heard(rig, mirror, 1);
    expect(names(mirror)).toEqual(['monday']);
    const [status] = rig.device.mirrorStatuses();
    expect(status).toMatchObject({ refuses: ['snapshot-delete'], state: 'streaming' });
    expect(status?.last_refusal).toContain(`${KEPT}monday`);
    expect(status?.last_refusal).toContain('blockferry snapshot delete m@monday');
    expect(status?.last_refusal).toContain('blockferry volume set m --refuse none');
  });

  it('keeps the content of one that is refreshed', async () => {
    const { rig, mirror } = await pair();
    await refuse(mirror, ['handover', 'snapshot-delete']);
    await rig.volume.snapshots.create('monday');
    await arrived(mirror, 'monday');
    const before = snapshotsOf(mirror.secondary.volume);
    await rig.write(4096, stamped(4096, 5));
    await rig.volume.snapshots.refresh('monday');
    await heard(rig, mirror, 1);
    expect(snapshotsOf(mirror.secondary.volume)).toEqual(before);
    expect(rig.device.mirrorStatuses()[0]?.last_refusal).toContain('--refuse handover');
  });

  it('records that it refused before anything follows: no replay asks again when the policy is lifted', async () => {
    const { rig, mirror } = await pair();
    await refuse(mirror, ['snapshot-delete']);
    await rig.volume.snapshots.create('monday');
    await rig.inStep();
    await rig.write(4096, stamped(4096, 5));
    await rig.volume.snapshots.refresh('monday');
    const [refreshed] = rig.volume.metadata.state.snapshots.values();
    await waitUntil('the refusal', () => rig.kinds().includes('mirror-snapshot-refused'));
    const { position } = mirror.secondary.volume.metadata.state;
    expect(position?.epoch).toBeGreaterThanOrEqual(refreshed!.mark!.epoch);
  });

  it('keeps what it refused to give up when a journal brings that again and the policy was lifted', async () => {
    const { rig, mirror } = await pair();
    await refuse(mirror, ['snapshot-delete']);
    await rig.volume.snapshots.create('monday');
    await rig.inStep();
    await arrived(mirror, 'monday');
    const { volume, snapshots } = mirror.secondary;
    const before = snapshotsOf(volume);
    const { id } = rig.volume.snapshots.list()[0]!;
    const deleting = { kind: 'snapshot-delete', id } as const;
    const again = { id: '9'.repeat(32), name: 'monday', createdAt: 1, replaces: id };
    const position = { ...volume.metadata.state.position!, time: 1 };
    expect(await snapshots.run(deleting, position)).toContain('snapshot-delete is refused');
    await refuse(mirror, []);
    expect(await snapshots.run(deleting, position)).toBeNull();
    expect(await snapshots.run({ kind: 'snapshot-create', ...again }, position)).toContain(
      'exists already',
    );
    expect(snapshotsOf(volume)).toEqual(before);
  });

  it('keeps those that are deleted while it is away, and tells when it is back', async () => {
    const { rig, mirror } = await pair();
    await refuse(mirror, ['snapshot-delete']);
    await rig.volume.snapshots.create('monday');
    await rig.volume.snapshots.create('tuesday');
    await rig.inStep();
    mirror.leave();
    await rig.write(4096, stamped(4096, 6));
    await rig.volume.snapshots.delete('monday');
    await rig.volume.snapshots.delete('tuesday');
    mirror.comeBack();
    await rig.inStep();
    await waitUntil('the refusal', () => rig.kinds().includes('mirror-snapshot-refused'));
    expect(rig.device.mirrorStatuses()[0]?.last_refusal).toContain('(and 1 more)');
    expect(names(mirror)).toEqual(['monday', 'tuesday']);
  });

  it('has them as its own: they stay over a restart, and when the policy is lifted', async () => {
    const { rig, mirror } = await pair();
    await refuse(mirror, ['snapshot-delete']);
    await rig.volume.snapshots.create('monday');
    await rig.volume.snapshots.delete('monday');
    await heard(rig, mirror, 1);
    await mirror.restart();
    expect(mirror.secondary.volume.metadata.state.refuses).toEqual(['snapshot-delete']);
    await rig.inStep();
    await refuse(mirror, []);
    await rig.volume.snapshots.create('tuesday');
    await rig.inStep();
    mirror.leave();
    await rig.volume.snapshots.delete('tuesday');
    await rig.write(4096, stamped(4096, 9));
    mirror.comeBack();
    await rig.inStep();
    expect(names(mirror)).toEqual(['monday']);
    expect(rig.device.mirrorStatuses()[0]?.refuses).toEqual([]);
  });

  it('deletes what its own operator deletes, and takes what its primary creates', async () => {
    const { rig, mirror } = await pair();
    await refuse(mirror, ['snapshot-delete']);
    await rig.volume.snapshots.create('monday');
    await arrived(mirror, 'monday');
    await mirror.secondary.volume.snapshots.delete('monday');
    await rig.volume.snapshots.delete('monday');
    await rig.volume.snapshots.create('tuesday');
    await arrived(mirror, 'tuesday');
    expect(names(mirror)).toEqual(['tuesday']);
    expect(rig.kinds()).not.toContain('mirror-snapshot-refused');
  });
});
