/**
 * Flushes are grouped: one sync serves every flush that it covers, and the records of what was allocated become
 * durable after the data and before the answer. Method: a disk in memory that counts syncs and holds them.
 */
import { describe, expect, test } from 'vitest';
import { FLUSH_RECORDS_MAX, REGION_BYTES, SYNCS_IN_FLIGHT_MAX } from '../../src/io/limits.ts';
import { BlankDisk } from './support/blank-disk.ts';
import { logPath, newVolume, reopen, turn } from './support/store.ts';
import { flush, read, write, zero } from './support/request.ts';

const SIZE = 16 * 2 ** 20;

async function filled() {
  const fixture = await newVolume(SIZE);
  await write(fixture.volume, 0, Buffer.alloc(SIZE, 1));
  await flush(fixture.volume);
  fixture.disk.syncs.clear();
  const dataSyncs = () => fixture.disk.syncs.get(fixture.volume.layer.file.path) ?? 0;
  const logSyncs = () => fixture.disk.syncs.get(logPath(fixture.volume)) ?? 0;
  return { ...fixture, dataSyncs, logSyncs };
}

function contentOf(region: number): Buffer {
  return Buffer.alloc(4096, 1 + (region % 250));
}

describe('a flush', () => {
  test('costs nothing when nothing was written', async () => {
    const { volume, dataSyncs } = await filled();
    expect(await flush(volume)).toBe(0);
    expect(dataSyncs()).toBe(0);
  });

  test('syncs the data alone when no block was newly allocated', async () => {
    const { volume, dataSyncs, logSyncs } = await filled();
    await write(volume, 4096, Buffer.alloc(4096, 2));
    expect(await flush(volume)).toBe(0);
    expect([dataSyncs(), logSyncs()]).toEqual([1, 0]);
  });

  test('shares one sync with all that arrive while as many as may be are on their way', async () => {
    const { disk, volume, dataSyncs } = await filled();
    disk.holding = true;
    const first: Promise<number>[] = [];
    for (let sync = 0; sync < SYNCS_IN_FLIGHT_MAX; sync += 1) {
      await write(volume, 0, Buffer.alloc(10, 2 + sync));
      first.push(flush(volume), flush(volume));
      expect(dataSyncs(), 'the second of the two joins').toBe(sync + 1);
    }
    await write(volume, 0, Buffer.alloc(10, 99));
    const later = Array.from({ length: 50 }, () => flush(volume));
    expect(dataSyncs()).toBe(SYNCS_IN_FLIGHT_MAX);
    disk.letGo();
    expect(await Promise.all(first.slice(0, 2))).toEqual([0, 0]);
    expect(dataSyncs()).toBe(SYNCS_IN_FLIGHT_MAX + 1);
    while (disk.held.length > 0) disk.letGo();
    expect(new Set(await Promise.all([...first, ...later]))).toEqual(new Set([0]));
    expect(dataSyncs()).toBe(SYNCS_IN_FLIGHT_MAX + 1);
  });

  test('is not answered before the syncs that began before its own', async () => {
    const { disk, volume } = await filled();
    disk.holding = true;
    await write(volume, 0, Buffer.alloc(10, 2));
    const answers: string[] = [];
    const first = flush(volume).then((status) => answers.push(`first ${status}`));
    await write(volume, 0, Buffer.alloc(10, 3));
    const second = flush(volume).then((status) => answers.push(`second ${status}`));
    disk.letGo(1);
    await turn();
    expect(answers).toEqual([]);
    disk.letGo();
    await Promise.all([first, second]);
    expect(answers).toEqual(['first 0', 'second 0']);
  });

  test('of a huge change records a part of it, the next ones and the close the rest', async () => {
    const disk = new BlankDisk();
    const { store, volume } = await newVolume(2 ** 40, disk);
    await write(volume, 0, Buffer.alloc(1, 1));
    const regions = 5 * FLUSH_RECORDS_MAX;
    for (let region = 0; region < regions; region += 1) {
      for (let block = 0; block < 12; block += 2) {
        const offset = region * REGION_BYTES + block * 4096;
        volume.layer.markData(offset, offset + 4096);
      }
    }
    const recorded = () => volume.metadata.state.layers.get(1)!.map.data.count;
    const all = volume.layer.map.data.count;
    expect(await flush(volume)).toBe(0);
    expect(recorded()).toBe(6 * FLUSH_RECORDS_MAX);
    await write(volume, 0, Buffer.alloc(1, 1));
    expect(await flush(volume)).toBe(0);
    expect(recorded()).toBe(12 * FLUSH_RECORDS_MAX);
    await store.close();
    const { data } = reopen(disk.kill()).volume.metadata.state.layers.get(1)!.map;
    expect(data.count).toBe(all);
    expect(data.has((regions - 1) * 1024 + 10)).toBe(true);
  });

  test('above a snapshot records all of a huge change: after a power cut nothing else tells of it', async () => {
    const regions = FLUSH_RECORDS_MAX + 100;
    const { disk, volume } = await newVolume(regions * REGION_BYTES);
    await volume.snapshots.create('before');
    for (let region = 0; region < regions; region += 1) {
      await write(volume, region * REGION_BYTES, contentOf(region));
    }
    expect(await flush(volume)).toBe(0);
    const { volume: after } = reopen(disk.crash(() => false));
    const lost: number[] = [];
    for (let region = 0; region < regions; region += 1) {
      const found = await read(after, region * REGION_BYTES, 4096);
      if (!found.equals(contentOf(region))) lost.push(region);
    }
    expect(lost).toEqual([]);
  });

  test('zeroes above a snapshot that a kill kept from coming do not come with a power cut', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await volume.snapshots.create('before');
    const content = Buffer.alloc(4096, 7);
    await write(volume, 8192, content);
    expect(await flush(volume)).toBe(0);
    disk.holding = true;
    void zero(volume, { offset: 8192, length: 4096 });
    const done: string[] = [];
    while (disk.held[0]?.path !== volume.layer.file.path && done.length < 10) {
      await turn();
      const next = disk.held[0];
      if (next === undefined || next.path === volume.layer.file.path) continue;
      done.push(next.kind);
      disk.letGo();
    }
    // The log tells of zeroes, and the file has none.
    expect(done).toEqual(['write', 'sync']);
    const killed = disk.kill();
    expect(await read(reopen(killed).volume, 8192, 4096)).toEqual(content);
    expect(await read(reopen(killed.crash(() => false)).volume, 8192, 4096)).toEqual(content);
  });

  test('after a kill on a full disk records what the start could not, before its answer', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await volume.snapshots.create('before');
    const content = Buffer.alloc(4096, 7);
    await write(volume, 8192, content);
    expect(await flush(volume)).toBe(0);
    await write(volume, 65_536, content);
    disk.holding = true;
    void zero(volume, { offset: 8192, length: 4096 });
    for (let count = 0; count < 20 && disk.held[0]?.path !== volume.layer.file.path; count += 1) {
      await turn();
      if (disk.held[0]?.path !== volume.layer.file.path) disk.letGo();
    }
    const killed = disk.kill();
    // The start writes to the log once, at once, and finds no space.
    const open = killed.open.bind(killed);
    let refused = 0;
    killed.open = (path, options) => {
      const file = open(path, options);
      if (path === logPath(volume)) {
        file.writeNow = () => {
          refused += 1;
          return -28;
        };
      }
      return file;
    };
    const { volume: next } = reopen(killed);
    expect(refused).toBe(1);
    expect(await flush(next)).toBe(0);
    const { volume: last } = reopen(killed.crash(() => false));
    expect(await read(last, 8192, 4096)).toEqual(content);
    expect(await read(last, 65_536, 4096)).toEqual(content);
  });

  test('records allocations after the data and before the answer', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(1, 1));
    await flush(volume);
    await write(volume, 2 ** 20, Buffer.alloc(8192, 1));
    disk.holding = true;
    const answers: number[] = [];
    const flushed = flush(volume).then((status) => answers.push(status));
    const order: string[] = [];
    const map = volume.metadata.state.layers.get(1)!.map;
    while (answers.length === 0 && order.length < 10) {
      expect(map.data.has(256)).toBe(order.length > 0);
      order.push(
        `${disk.held[0]!.kind} ${disk.held[0]!.path === volume.layer.file.path ? 'data' : 'log'}`,
      );
      disk.letGo();
      await turn();
    }
    await flushed;
    expect(order).toEqual(['sync data', 'write log', 'sync log']);
    expect(map.data.count).toBe(3);
  });

  test('of a much fragmented region writes one record', async () => {
    const { disk, volume } = await newVolume(SIZE);
    await write(volume, 0, Buffer.alloc(1, 1));
    await flush(volume);
    const before = disk.readFile(logPath(volume)).length;
    for (let block = 0; block < 1024; block += 2) {
      await write(volume, block * 4096, Buffer.alloc(1, 1));
    }
    await flush(volume);
    expect(disk.readFile(logPath(volume)).length - before).toBe(40 + 264);
    expect(volume.metadata.state.layers.get(1)!.map.data.count).toBe(512);
  });
});
