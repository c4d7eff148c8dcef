/**
 * A full disk reaches the client as ENOSPC and breaks nothing: what was there stays, and when there is room again
 * everything that was refused works. Method: a disk in memory with a settable number of pages.
 */
import { describe, expect, test } from 'vitest';
import { logPath, newVolume, openStore, reopen } from './support/store.ts';
import { flush, read, write } from './support/request.ts';

const SIZE = 8 * 2 ** 20;

function commit(volume: { metadata: { commit(callback: (status: number) => void): void } }) {
  return new Promise<number>((resolve) => volume.metadata.commit(resolve));
}

describe('on a full disk', () => {
  test('a write answers ENOSPC and the volume goes on', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(8192, 1));
    disk.pagesMax = disk.pagesUsed() + 1;
    expect(await write(volume, 2 ** 20, Buffer.alloc(8192, 2))).toBe(28);
    expect(await write(volume, 0, Buffer.alloc(8192, 3))).toBe(0);
    expect(volume.failed).toBe(false);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    expect(await write(volume, 2 ** 20, Buffer.alloc(8192, 2))).toBe(0);
    expect((await read(volume, 2 ** 20, 8192)).equals(Buffer.alloc(8192, 2))).toBe(true);
    expect((await read(volume, 0, 1))[0]).toBe(3);
  });

  test('a log that cannot grow is cut back, and its records go with the next commit', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 1));
    await flush(volume);
    const before = disk.readFile(logPath(volume)).length;
    disk.pagesMax = disk.pagesUsed();
    const regions = Array.from({ length: 2000 }, () => 1);
    volume.metadata.append({ kind: 'regions-hot', regions });
    expect(await commit(volume)).toBe(28);
    expect(disk.readFile(logPath(volume)).length).toBe(before);
    volume.metadata.append({ kind: 'epochs-reserved', epoch: 7 });
    expect(await commit(volume)).toBe(28);
    expect(volume.failed).toBe(false);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    expect(await commit(volume)).toBe(0);
    const { state } = reopen(disk.kill()).volume.metadata;
    expect([...state.hot]).toEqual([1]);
    expect(state.reservedEpoch).toBe(7);
  });

  test('a flush whose allocation records find no room answers ENOSPC, and the next one makes up for it', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 1));
    await flush(volume);
    volume.metadata.append({ kind: 'regions-hot', regions: Array.from({ length: 2000 }, () => 1) });
    await write(volume, 2 ** 20, Buffer.alloc(4096, 1));
    disk.pagesMax = disk.pagesUsed();
    expect(await flush(volume)).toBe(28);
    expect(await flush(volume)).toBe(28);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    expect(await flush(volume)).toBe(0);
    const { state } = reopen(disk.crash(() => false)).volume.metadata;
    expect(state.layers.get(1)!.map.data.count).toBe(2);
  });

  test('the first write waits for the clean mark to go, and says ENOSPC when it cannot', async () => {
    const { disk, volume } = await newVolume(SIZE);
    const filler = disk.open('/filler', { create: true });
    // The log's own page has room: fill it up to where one more record does not fit.
    const log = disk.readFile(logPath(volume)).length;
    const regions = Array.from({ length: Math.floor((4096 - log - 40) / 4) - 3 }, () => 1);
    volume.metadata.append({ kind: 'regions-hot', regions });
    await commit(volume);
    disk.pagesMax = disk.pagesUsed();
    expect(filler.writeNow(Buffer.alloc(1), 0, 1, 0)).toBe(-28);
    expect(await write(volume, 0, Buffer.alloc(1, 1))).toBe(28);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    expect(await write(volume, 0, Buffer.alloc(1, 1))).toBe(0);
    expect(reopen(disk.kill()).volume.metadata.unclean).toBe(true);
  });

  test('creating a volume fails and leaves nothing behind', async () => {
    const { disk, store } = await newVolume(SIZE);
    disk.pagesMax = disk.pagesUsed();
    await expect(store.create('other', SIZE)).rejects.toMatchObject({
      code: 'METADATA_WRITE_FAILED',
    });
    expect(disk.list('/data/volumes')).toHaveLength(1);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    await store.create('other', SIZE);
    await store.close();
    const again = openStore(disk.kill());
    expect(again.list().map(({ name }) => name)).toEqual(['other', 'test']);
  });

  test('growing fails and the volume keeps its size, also after a restart', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(1, 1));
    disk.pagesMax = disk.pagesUsed();
    volume.metadata.append({ kind: 'regions-hot', regions: Array.from({ length: 2000 }, () => 1) });
    await expect(volume.resize(2 * SIZE)).rejects.toMatchObject({ code: 'METADATA_WRITE_FAILED' });
    await expect(volume.resize(SIZE / 2)).rejects.toMatchObject({ code: 'METADATA_WRITE_FAILED' });
    expect(volume.sizeBytes).toBe(SIZE);
    disk.pagesMax = Number.POSITIVE_INFINITY;
    expect(await commit(volume)).toBe(0);
    const again = reopen(disk.kill()).volume;
    expect(again.sizeBytes).toBe(SIZE);
    expect((await read(again, 0, 1))[0]).toBe(1);
  });

  test('shrinking fails, and a power cut leaves what was flushed at the end of a layer above others', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 1));
    await volume.snapshots.create('s');
    await write(volume, SIZE - 4096, Buffer.alloc(4096, 2));
    expect(await flush(volume)).toBe(0);
    disk.pagesMax = disk.pagesUsed();
    volume.metadata.append({ kind: 'regions-hot', regions: Array.from({ length: 2000 }, () => 1) });
    await expect(volume.resize(SIZE / 2)).rejects.toMatchObject({ code: 'METADATA_WRITE_FAILED' });
    disk.pagesMax = Number.POSITIVE_INFINITY;
    // Any commit, and no flush.
    expect(await commit(volume)).toBe(0);
    const again = reopen(disk.crash(() => false)).volume;
    expect(again.sizeBytes).toBe(SIZE);
    expect((await read(again, SIZE - 4096, 1))[0]).toBe(2);
  });

  test.each([false, true])(
    'a snapshot of a primary and its position become durable together, or not at all (asked for again: %s)',
    async (again) => {
      const { disk, volume } = await newVolume(SIZE);
      volume.metadata.append({ kind: 'source-bound', node: 'primary', volumeId: null });
      const { snapshots } = volume;
      const generation = 1;
      const keep = (epoch: number, replaces: string | null): Promise<void> => {
        const twin = { id: `${epoch}`.repeat(32), name: 'daily', createdAt: epoch };
        return snapshots.keepTwin(twin, replaces, { generation, epoch, shipped: true }, [
          { kind: 'position', generation, epoch, time: epoch },
        ]);
      };
      await write(volume, 0, Buffer.alloc(4096, 1));
      await keep(1, null);
      volume.metadata.append({
        kind: 'regions-hot',
        regions: Array.from({ length: 2000 }, () => 1),
      });
      disk.pagesMax = disk.pagesUsed();
      const first = '1'.repeat(32);
      await expect(keep(2, first)).rejects.toMatchObject({ code: 'METADATA_WRITE_FAILED' });
      await expect(keep(2, first)).rejects.toMatchObject({ code: 'METADATA_WRITE_FAILED' });
      disk.pagesMax = Number.POSITIVE_INFINITY;
      if (again) await keep(2, first);
      // Whoever else commits brings it along.
      else expect(await commit(volume)).toBe(0);
      const reopened = reopen(disk.kill()).volume;
      expect(reopened.metadata.state.position?.epoch).toBe(2);
      expect(reopened.snapshots.list().map(({ createdAt }) => createdAt)).toEqual([2]);
      // What it replaced is there until its primary says that it is not.
      expect(reopened.snapshots.hidden).toEqual([`.replaced-${'2'.repeat(32)}`]);
    },
  );
});
