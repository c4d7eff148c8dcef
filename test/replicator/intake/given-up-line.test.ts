/**
 * A volume gives up a line, its own or that of the primary it was a mirror of, and follows a copy that went on without it: its snapshots
 * stay, and none is taken for one of the line that goes on, whose generation may have the same number. Method: a real volume, and what
 * its log says, also after another start.
 */
import { describe, expect, test } from 'vitest';
import { becomeSecondary, followAnother } from '../../../src/replicator/intake/failback.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { testScope } from '../../support/tools.ts';
import { newVolume, reopen } from '../../volume/support/store.ts';
import { stamped } from '../support/host.ts';
import { RefusingDisk } from '../support/refusing-disk.ts';
import { MIB, Rig } from '../support/rig.ts';

test('snapshots of a generation that is given up are of no known epoch, and stay in their order', async () => {
  const first = await Rig.create(testScope(), { sizeBytes: 16 * MIB });
  await first.write(0, stamped(4096, 1));
  await first.volume.snapshots.create('common');
  const { epoch } = first.device.position();
  const opened = { number: 2, id: 'ab'.repeat(16), firstEpoch: epoch + 1 };
  first.volume.metadata.append({ kind: 'generation-opened', ...opened });
  expect(await first.volume.commit()).toBe(0);
  const alone = await first.restart();
  await alone.write(0, stamped(4096, 2));
  await alone.volume.snapshots.create('alone');
  await alone.volume.snapshots.copy('alone', 'again');
  // Its other node acknowledged all of the first generation.
  const { metadata } = alone.volume;
  metadata.append({
    kind: 'mirror-added',
    mirror: 1,
    uri: 'nbd://b/v',
    mode: 'async',
    stallPolicy: 'degrade',
  });
  metadata.append({ kind: 'mirror-peer', mirror: 1, node: 'b', volumeId: null });
  metadata.append({ kind: 'mirror-acknowledged', mirror: 1, generation: 1, epoch });
  await alone.device.close();
  await becomeSecondary(alone.volume, 'b', 'diverged-now');
  const marks = [...metadata.state.snapshots.values()].map(({ name, mark }) => [
    name,
    mark?.generation,
  ]);
  expect(marks).toEqual([
    ['common', 1],
    ['alone', undefined],
    ['again', undefined],
    ['diverged-now', undefined],
  ]);
  expect(metadata.state.generations.map(({ number }) => number)).toEqual([1]);
});

/** A mirror that holds epoch 30 of its primary, with a snapshot of its own between two that came from there. */
async function mirrorOf(node: string): Promise<{ disk: RefusingDisk; volume: Volume }> {
  const disk = new RefusingDisk();
  const { volume } = await newVolume(2 ** 20, disk);
  const { metadata, snapshots } = volume;
  const generations = [{ number: 1, id: 'cd'.repeat(16), firstEpoch: 1 }];
  metadata.append({ kind: 'history-set', generations });
  metadata.append({ kind: 'source-bound', node, volumeId: null });
  const twinOf = async (digit: string, epoch: number): Promise<void> => {
    const position = { generation: 1, epoch, time: epoch };
    const twin = { id: digit.repeat(32), name: `s${epoch}`, createdAt: epoch };
    const mark = { generation: 1, epoch, shipped: true };
    await snapshots.keepTwin(twin, null, mark, [{ kind: 'position', ...position }]);
  };
  await twinOf('a', 10);
  await snapshots.copy('s10', 'own');
  await twinOf('b', 30);
  return { disk, volume };
}

const marksIn = ({ metadata }: Volume): unknown =>
  [...metadata.state.snapshots.values()].map(({ name, mark }) => [
    name,
    mark?.epoch,
    mark?.shipped,
  ]);

const MARKED = [
  ['s10', 10, true],
  ['own', undefined, undefined],
  ['s30', 30, true],
];

const bare = (name: string): unknown => [name, undefined, undefined];

describe('a mirror that follows another node', () => {
  test('by force has snapshots of no known epoch, in their order', async () => {
    const { disk, volume } = await mirrorOf('one');
    expect(await followAnother(volume, 'two', 'kept')).toBe(true);
    const expected = ['s10', 'own', 's30', 'kept'].map(bare);
    expect(marksIn(volume)).toEqual(expected);
    const again = reopen(disk.kill()).volume;
    expect(marksIn(again)).toEqual(expected);
    expect(again.metadata.state).toMatchObject({ generations: [], source: { node: 'two' } });
  });

  test('with what it holds has them as before', async () => {
    const { volume } = await mirrorOf('one');
    expect(await followAnother(volume, 'two', null)).toBe(false);
    expect(marksIn(volume)).toEqual(MARKED);
  });

  test('by force has them as before when its log finds no space for that', async () => {
    const { disk, volume } = await mirrorOf('one');
    const { metadata } = volume;
    const { generations, position } = metadata.state;
    const commit = volume.commit.bind(volume);
    volume.commit = () => {
      // The snapshot of what it holds found space.
      if (metadata.state.generations.length === 0) disk.fillForMetadata();
      return commit();
    };
    await expect(followAnother(volume, 'two', 'kept')).rejects.toMatchObject({
      code: 'METADATA_WRITE_FAILED',
    });
    expect(marksIn(volume)).toEqual([...MARKED, bare('kept')]);
    disk.refuse = null;
    expect(await commit()).toBe(0);
    const again = reopen(disk.kill()).volume;
    expect(marksIn(again)).toEqual([...MARKED, bare('kept')]);
    expect(again.metadata.state).toMatchObject({
      generations,
      position,
      source: { node: 'one' },
    });
  });
});
