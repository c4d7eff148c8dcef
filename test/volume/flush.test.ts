/**
 * Flushes are grouped: one sync serves every flush that it covers, and the records of what was allocated become
 * durable after the data and before the answer. Method: a disk in memory that counts syncs and holds them.
 */
import { describe, expect, test } from 'vitest';
import { logPath, newVolume, turn } from './support/store.ts';
import { flush, write } from './support/request.ts';

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

  test('shares one sync with all that arrive while another is on its way', async () => {
    const { disk, volume, dataSyncs } = await filled();
    disk.holding = true;
    await write(volume, 0, Buffer.alloc(10, 2));
    const first = flush(volume);
    const joined = flush(volume);
    await write(volume, 0, Buffer.alloc(10, 3));
    const later = Array.from({ length: 50 }, () => flush(volume));
    expect(dataSyncs()).toBe(1);
    disk.letGo();
    expect(await Promise.all([first, joined])).toEqual([0, 0]);
    expect(dataSyncs()).toBe(2);
    disk.letGo();
    expect(new Set(await Promise.all(later))).toEqual(new Set([0]));
    expect(dataSyncs()).toBe(2);
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
