/**
 * A mirror whose policy keeps a snapshot, and whose disk has no space to record that: what its primary asked for is refused when it is
 * asked again, and never told to be done. Method: the commands of a primary to the snapshots of a mirror's volume on a disk in memory
 * that refuses writes of the log.
 */
import { expect, test } from 'vitest';
import { PrimarySnapshots } from '../../../src/replicator/intake/primary-snapshots.ts';
import { newVolume, reopen } from '../../volume/support/store.ts';
import { RefusingDisk } from '../support/refusing-disk.ts';

const ID = 'a'.repeat(32);
const POSITION = { generation: 1, epoch: 2, time: 1 };
const FULL = { code: 'METADATA_WRITE_FAILED' };

async function keeping() {
  const disk = new RefusingDisk();
  const { volume } = await newVolume(2 ** 20, disk);
  const told: string[] = [];
  const snapshots = new PrimarySnapshots({ volume, tell: (kind) => told.push(kind) });
  volume.metadata.append({ kind: 'source-bound', node: 'p', volumeId: null });
  const create = { kind: 'snapshot-create', id: ID, name: 's', createdAt: 1 } as const;
  const position = { ...POSITION, epoch: 1 };
  expect(await snapshots.run({ ...create, replaces: null }, position)).toBeNull();
  volume.metadata.append({ kind: 'source-policy', refuses: ['snapshot-delete'] });
  told.length = 0;
  return { disk, volume, snapshots, told };
}

test('a delete in the stream is refused at its repeat, also when the policy was lifted meanwhile', async () => {
  for (const lifted of [false, true]) {
    const { disk, volume, snapshots, told } = await keeping();
    const deleting = { kind: 'snapshot-delete', id: ID } as const;
    disk.fillForMetadata();
    await expect(snapshots.run(deleting, POSITION)).rejects.toMatchObject(FULL);
    await expect(snapshots.run(deleting, POSITION)).rejects.toMatchObject(FULL);
    expect(told).toEqual([]);
    if (lifted) volume.metadata.append({ kind: 'source-policy', refuses: [] });
    disk.refuse = null;
    expect(await snapshots.run(deleting, POSITION)).toContain('its policy keeps test@s');
    expect(told).toEqual(['source-snapshot-refused']);
    const again = reopen(disk.kill()).volume;
    expect(again.metadata.state.snapshots.get(ID)?.mark?.shipped).toBe(false);
    // It is the mirror's own by now: who asks again hears that it is done.
    expect(await snapshots.run(deleting, POSITION)).toBeNull();
  }
});

test('what a primary that was away has no more is refused when it asks again', async () => {
  const { disk, snapshots, told } = await keeping();
  disk.fillForMetadata();
  await expect(snapshots.compare([])).rejects.toMatchObject(FULL);
  disk.refuse = null;
  const { refused } = await snapshots.compare([]);
  expect(refused).toContain('its policy keeps test@s');
  expect(told).toEqual(['source-snapshot-refused']);
  expect(await snapshots.compare([])).toEqual({ held: [], refused: null });
});

test('one that its own operator deleted meanwhile is gone', async () => {
  const { disk, volume, snapshots, told } = await keeping();
  disk.fillForMetadata();
  await expect(snapshots.compare([])).rejects.toMatchObject(FULL);
  disk.refuse = null;
  await volume.snapshots.delete('s');
  expect(await snapshots.run({ kind: 'snapshot-delete', id: ID }, POSITION)).toBeNull();
  expect(told).toEqual([]);
});
