/**
 * A restore that the log has no space for leaves the content as it was: for what waited meanwhile, and after a power cut too,
 * whatever another commit made durable. Method: a log in memory whose writes are refused for a while; a kill or a power cut.
 */
import { expect, test } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import type { DiskFile } from '../../src/io/disk.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { flush, read, write } from './support/request.ts';
import { openStore } from './support/store.ts';

const MIB = 2 ** 20;
const BLOCK = 4096;
const ENOSPC = 28;

/** The log has no space for the next `count` writes. */
function refuseLog(volume: Volume, count: number): void {
  const { file } = volume.metadata as unknown as { readonly file: DiskFile };
  const put = file.write.bind(file);
  let left = count;
  file.write = (buffer, start, length, position, callback) => {
    left -= 1;
    if (left >= 0) setImmediate(() => callback(-ENOSPC));
    else put(buffer, start, length, position, callback);
  };
}

/** Block 0 is 1 in the snapshot s; since then block 1 is 2. */
async function world(): Promise<{ disk: MemoryDisk; volume: Volume }> {
  const disk = new MemoryDisk();
  const volume = await openStore(disk, '/data', systemClock).create('v', MIB);
  await write(volume, 0, Buffer.alloc(BLOCK, 1));
  await volume.snapshots.create('s');
  await write(volume, BLOCK, Buffer.alloc(BLOCK, 2));
  expect(await flush(volume)).toBe(0);
  return { disk, volume };
}

test('what waited for it is not answered before the log knows where it went', async () => {
  const { disk, volume } = await world();
  refuseLog(volume, 5);
  const restored = volume.snapshots.restore('s').catch((thrown: unknown) => thrown);
  while (volume.metadata.state.layers.size === 2) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  // A part of a block: it goes to the pool, and waits.
  const status = await write(volume, 8 * BLOCK + 100, Buffer.alloc(10, 3));
  expect(await restored).toMatchObject({ code: 'METADATA_WRITE_FAILED' });
  expect(status).toBe(ENOSPC);
  const again = openStore(disk.kill(), '/data', systemClock);
  expect((await read(again.find('v')!, BLOCK, 1))[0]).toBe(2);
  await again.close();
});

test('a commit of another that follows takes no part of it along', async () => {
  const { disk, volume } = await world();
  refuseLog(volume, 1);
  const restored = volume.snapshots.restore('s').catch((thrown: unknown) => thrown);
  while (volume.metadata.state.layers.size === 2) {
    await new Promise((resolve) => setImmediate(resolve));
  }
  volume.metadata.append({ kind: 'regions-cold', regions: [] });
  const status = await new Promise((resolve) => volume.metadata.commit(resolve));
  const cut = openStore(
    disk.crash(() => false),
    '/data',
    systemClock,
  );
  expect([status, (await read(cut.find('v')!, BLOCK, 1))[0]]).toEqual([0, 2]);
  expect(await restored).toMatchObject({ code: 'METADATA_WRITE_FAILED' });
  await cut.close();
});
