/**
 * A failed sync is final (I10): the flush that met it and every later write or flush answer EIO, reads go on, the
 * owner hears of it once, and no clean mark is written. Method: a disk whose sync fails once and would then succeed.
 */
import { describe, expect, test } from 'vitest';
import { logPath, newVolume, reopen, turn } from './support/store.ts';
import { answered, flush, read, requestOf, write, zero } from './support/request.ts';

const SIZE = 2 ** 20;

describe.each(['data', 'log'])('when the sync of the %s file fails', (which) => {
  test('the volume refuses writes for good and goes on reading', async () => {
    const { disk, store, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 1));
    const path = which === 'data' ? volume.layer.file.path : logPath(volume);
    const reasons: string[] = [];
    volume.onFailed = (reason) => reasons.push(reason);
    let failures = 0;
    disk.failSync = (synced) => (synced === path && failures++ === 0 ? 5 : 0);
    expect(await Promise.all([flush(volume), flush(volume)])).toEqual([5, 5]);
    expect(volume.failed).toBe(true);
    expect(await flush(volume)).toBe(5);
    expect(await write(volume, 8192, Buffer.alloc(1, 1))).toBe(5);
    expect(await zero(volume, { offset: 0, length: 4096 })).toBe(5);
    expect((await read(volume, 0, 4096))[0]).toBe(1);
    expect(reasons).toHaveLength(1);
    expect(volume.failure).toBe(reasons[0]);
    await expect(volume.resize(SIZE * 2)).rejects.toMatchObject({ code: 'VOLUME_FAILED' });
    await store.close();
    expect(reopen(disk.kill()).volume.metadata.unclean).toBe(true);
  });
});

describe('when the sync fails', () => {
  test.each([
    { failing: 0, order: [0, 1, 2] },
    { failing: 1, order: [1, 0, 2] },
    { failing: 2, order: [2, 0, 1] },
    { failing: 2, order: [0, 1, 2] },
  ])(
    'no flush is told that its data is safe once another failed ($failing of $order)',
    async (each) => {
      const { disk, volume } = await newVolume(SIZE);
      await write(volume, 0, Buffer.alloc(4096, 1));
      await flush(volume);
      disk.holding = true;
      const answers: Promise<number>[] = [];
      for (const byte of [2, 3, 4]) {
        await write(volume, 0, Buffer.alloc(4096, byte));
        answers.push(flush(volume));
      }
      const works = disk.held.splice(0);
      let failed = false;
      for (const index of each.order) {
        failed ||= index === each.failing;
        disk.failSync = () => (index === each.failing ? 5 : 0);
        works[index]!.run();
        await turn();
        // What was answered before the failure was safe: every sync that began before its own had ended well.
      }
      const statuses = await Promise.all(answers);
      const safe = each.order.indexOf(each.failing);
      const before = each.order.slice(0, safe);
      for (const [index, status] of statuses.entries()) {
        const ended =
          before.includes(index) && [...Array(index).keys()].every((one) => before.includes(one));
        expect(status, `flush ${index}`).toBe(ended ? 0 : 5);
      }
      expect(await flush(volume)).toBe(5);
    },
  );

  test('flushes that wait for the next one fail too', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 1));
    await flush(volume);
    disk.failSync = () => 5;
    disk.holding = true;
    await write(volume, 0, Buffer.alloc(4096, 2));
    const first = flush(volume);
    await write(volume, 0, Buffer.alloc(4096, 3));
    const second = flush(volume);
    disk.letGo();
    expect(await Promise.all([first, second])).toEqual([5, 5]);
  });

  test('a zeroing under way ends with its piece', async () => {
    const { disk, volume } = await newVolume(8 * SIZE);
    disk.canProvision = false;
    await write(volume, 0, Buffer.alloc(4096, 1));
    disk.holding = true;
    const request = requestOf({ offset: 0, length: 8 * SIZE });
    request.noHole = true;
    const zeroed = answered(request, (asked) => volume.zero(asked));
    disk.letGo();
    expect(disk.held.map(({ kind }) => kind)).toEqual(['write']);
    disk.failSync = () => 5;
    const flushed = flush(volume);
    disk.letGo(1);
    expect(await flushed).toBe(5);
    disk.letGo();
    expect(disk.held).toEqual([]);
    expect(await zeroed).toBe(5);
  });

  test('a commit by the replicator fails the volume too', async () => {
    const { disk, volume } = await newVolume(SIZE);
    disk.failSync = () => 5;
    volume.metadata.append({ kind: 'epochs-reserved', epoch: 2 });
    const statuses = await Promise.all([
      new Promise((resolve) => volume.metadata.commit(resolve)),
      new Promise((resolve) => volume.metadata.commit(resolve)),
    ]);
    expect(statuses).toEqual([5, 5]);
    expect(volume.failed).toBe(true);
    expect(await new Promise((resolve) => volume.metadata.commit(resolve))).toBe(5);
  });
});
