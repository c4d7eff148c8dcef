/**
 * A failed sync is final (I10): the flush that met it and every later write or flush answer EIO, reads go on, the
 * owner hears of it once, and no clean mark is written. Another process in the same run of the system does not believe the
 * page cache either. Method: a disk whose sync fails once and would then succeed; then a kill, or a power cut.
 */
import { describe, expect, test } from 'vitest';
import { systemRandom } from '../../src/io/random.ts';
import { checkDataDirectory } from '../../src/volume/check/check.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { TestClock, logPath, newVolume, reopen, turn } from './support/store.ts';
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
    const { path } = volume.layer.file;
    expect(disk.held.filter((held) => held.path === path)).toEqual([]);
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

/** What a later process finds, in the same run of the system or in the next one. */
async function failedVolume(which: 'data' | 'log'): Promise<{ disk: MemoryDisk; path: string }> {
  const { disk, volume } = await newVolume(SIZE);
  await write(volume, 0, Buffer.alloc(4096, 1));
  expect(await flush(volume)).toBe(0);
  await write(volume, 4096, Buffer.alloc(4096, 2));
  const path = which === 'data' ? volume.layer.file.path : logPath(volume);
  let failures = 0;
  disk.failSync = (synced) => (synced === path && failures++ === 0 ? 5 : 0);
  expect(await flush(volume)).toBe(5);
  for (let turns = 0; turns < 5; turns += 1) await turn();
  return { disk, path: logPath(volume) };
}

describe.each(['data', 'log'] as const)('after a failed sync of the %s file', (which) => {
  test('another process in the same run of the system reads, and writes nothing', async () => {
    const { disk } = await failedVolume(which);
    const killed = disk.kill();
    const { store, volume } = reopen(killed);
    const reasons: string[] = [];
    volume.onFailed = (reason) => reasons.push(reason);
    expect(volume.failed).toBe(true);
    expect(volume.failure).toMatch(/sync failed since the system was started.*restart the system/);
    expect((await read(volume, 0, 4096))[0]).toBe(1);
    expect((await read(volume, 4096, 4096))[0]).toBe(2);
    expect(await write(volume, 0, Buffer.alloc(4096, 3))).toBe(5);
    expect(await zero(volume, { offset: 0, length: 4096 })).toBe(5);
    expect(await flush(volume)).toBe(5);
    await expect(volume.resize(SIZE * 2)).rejects.toMatchObject({ code: 'VOLUME_FAILED' });
    await turn();
    expect(reasons).toEqual([volume.failure]);
    await store.close();
    // An orderly stop does not make it whole.
    expect(reopen(killed.kill()).volume.failed).toBe(true);
  });

  test('a check says so, and mends nothing', async () => {
    const { disk } = await failedVolume(which);
    const report = await checkDataDirectory({
      disk: disk.kill(),
      path: '/data',
      clock: new TestClock(),
      random: systemRandom,
      volume: null,
      repair: true,
    });
    const findings = report.volumes.flatMap((volume) => volume.findings);
    expect(findings.map(({ code }) => code)).toContain('sync-failed');
    expect(findings.every(({ repair }) => repair === null)).toBe(true);
  });

  test('the next run of the system has it whole, with what was durable', async () => {
    const { disk, path } = await failedVolume(which);
    const { volume } = reopen(disk.crash(() => false));
    expect(volume.failed).toBe(false);
    expect((await read(volume, 0, 4096))[0]).toBe(1);
    expect(await write(volume, 0, Buffer.alloc(4096, 4))).toBe(0);
    expect(await flush(volume)).toBe(0);
    expect(volume.metadata.state.failedBoot).toBe('');
    expect(path).toBe(logPath(volume));
  });
});

describe('a failed sync that is followed by another', () => {
  test('of the log, is made known all the same when a new log can be written', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 1));
    const { path } = volume.layer.file;
    const log = logPath(volume);
    disk.failSync = (synced) => (synced === path || synced === log ? 5 : 0);
    expect(await flush(volume)).toBe(5);
    for (let turns = 0; turns < 5; turns += 1) await turn();
    disk.failSync = () => 0;
    expect(reopen(disk.kill()).volume.failed).toBe(true);
  });

  test('of another file while the new log is written, puts no log in place that is not durable', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 1));
    const log = logPath(volume);
    disk.failSync = (synced) => (synced === log ? 5 : 0);
    disk.holding = true;
    const flushed = flush(volume);
    const isNew = ({ path }: { path: string }): boolean => path === `${log}.new`;
    for (let turns = 0; turns < 100 && !disk.held.some(isNew); turns += 1) {
      if (disk.held.length > 0) disk.letGo(0);
      await turn();
    }
    expect(disk.held.filter(isNew)).toHaveLength(1);
    volume.giveUp('another sync failed');
    while (disk.held.length > 0) {
      disk.letGo(0);
      await turn();
      expect(() => reopen(disk.crash(() => false))).not.toThrow();
    }
    disk.holding = false;
    expect(await flushed).toBe(5);
    expect(reopen(disk.kill()).volume.failed).toBe(true);
  });

  test('of the new log, leaves the old one, and nothing else', async () => {
    const { disk, store, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(4096, 1));
    disk.failSync = (synced) => (synced.includes('metadata.log') ? 5 : 0);
    expect(await flush(volume)).toBe(5);
    await store.close();
    disk.failSync = () => 0;
    expect(disk.exists(`${logPath(volume)}.new`)).toBe(false);
    // Nobody could say it: what can be read is believed.
    expect(reopen(disk.kill()).volume.failed).toBe(false);
  });

  test('is not remembered where runs of the system cannot be told apart', async () => {
    const { disk, volume } = await newVolume(SIZE, Object.assign(new MemoryDisk(), { bootId: '' }));
    await write(volume, 0, Buffer.alloc(4096, 1));
    disk.failSync = (synced) => (synced === volume.layer.file.path ? 5 : 0);
    expect(await flush(volume)).toBe(5);
    expect(volume.metadata.state.failedBoot).toBe('');
    expect(reopen(disk.kill()).volume.failed).toBe(false);
  });
});

test('a volume with snapshots opens as failed without a new layer', async () => {
  const { disk, volume } = await newVolume(SIZE);
  await write(volume, 0, Buffer.alloc(4096, 1));
  await volume.snapshots.create('s');
  await write(volume, 0, Buffer.alloc(4096, 2));
  disk.failSync = (synced) => (synced === volume.layer.file.path ? 5 : 0);
  expect(await flush(volume)).toBe(5);
  for (let turns = 0; turns < 5; turns += 1) await turn();
  disk.failSync = () => 0;
  const killed = disk.kill();
  killed.knowsExtents = false;
  const before = killed.list(`/data/volumes/${volume.id}`);
  const again = reopen(killed).volume;
  expect(again.failed).toBe(true);
  expect(killed.list(`/data/volumes/${volume.id}`)).toEqual(before);
  const later = reopen(disk.crash(() => false)).volume;
  expect(later.failed).toBe(false);
  expect((await read(later, 0, 4096))[0]).toBe(1);
});
