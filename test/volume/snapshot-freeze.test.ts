/**
 * A hidden snapshot holds what was answered before its instant and nothing of what came behind it, and operators neither
 * see nor name it. Method: writes at once and on the pool, several under way, while it is made again and again; each notes
 * its byte when it is answered, the callback of the instant copies the notes, and the snapshot reads as the copy.
 */
import { describe, expect, test } from 'vitest';
import { PENDING } from '../../src/io/device.ts';
import { BLOCK_BYTES } from '../../src/io/limits.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { answered, read, requestOf, write } from './support/request.ts';
import { openStore } from './support/store.ts';

const BLOCKS = 64;
const SIZE = BLOCKS * BLOCK_BYTES;

/** One write with notes of what was answered. A tenth of a block at its start: above a snapshot that is copied up on the pool. */
class Writer {
  readonly answeredBytes: number[] = Array.from({ length: BLOCKS }, () => 0);
  private inFlight = 0;
  private readonly busy = new Set<number>();
  private readonly volume: Volume;

  constructor(volume: Volume) {
    this.volume = volume;
  }

  put(block: number, byte: number): void {
    if (this.busy.has(block)) return;
    const length = byte % 2 === 0 ? BLOCK_BYTES : 400;
    const request = requestOf({ offset: block * BLOCK_BYTES, length }, Buffer.alloc(length, byte));
    const note = (status: number): void => {
      expect(status).toBe(0);
      this.answeredBytes[block] = byte;
      this.busy.delete(block);
      this.inFlight -= 1;
    };
    const completer = { completed: (_: unknown, status: number): void => note(status) };
    this.inFlight += 1;
    this.busy.add(block);
    request.push(completer);
    const status = this.volume.write(request);
    if (status === PENDING) return;
    request.pop(completer);
    note(status);
  }

  async idle(): Promise<void> {
    while (this.inFlight > 0) await new Promise((resolve) => setImmediate(resolve));
  }
}

async function firstBytesOf(volume: Volume, snapshot: string): Promise<number[]> {
  const device = volume.snapshots.device(snapshot)!;
  const request = requestOf({ offset: 0, length: SIZE });
  expect(await answered(request, (each) => device.read(each))).toBe(0);
  return Array.from({ length: BLOCKS }, (_, block) => request.bytes[block * BLOCK_BYTES]!);
}

describe('a hidden snapshot', () => {
  test('holds what was answered by its instant, and nothing else', async () => {
    const store = openStore(new MemoryDisk());
    const volume = await store.create('v', SIZE);
    const writer = new Writer(volume);
    let behind = 0;
    for (let round = 0; round < 40; round += 1) {
      let atInstant: number[] = [];
      const progress = { frozen: false };
      writer.put(round % BLOCKS, 1 + (round % 250));
      void volume.snapshots
        .freeze('.f', () => {
          atInstant = [...writer.answeredBytes];
        })
        .finally(() => {
          progress.frozen = true;
        });
      for (let step = 0; !progress.frozen; step += 1) {
        writer.put((step * 7 + round) % BLOCKS, 1 + (step % 250));
        if (step % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      if (atInstant.some((byte, block) => byte !== writer.answeredBytes[block])) behind += 1;
      expect(await firstBytesOf(volume, '.f')).toEqual(atInstant);
      await writer.idle();
      await volume.snapshots.discard('.f');
    }
    // Else nothing was written behind an instant, and the test would show nothing.
    expect(behind).toBeGreaterThan(20);
    await store.close();
  });

  test('is not the operator’s', async () => {
    const store = openStore(new MemoryDisk());
    const volume = await store.create('v', SIZE);
    await write(volume, 0, Buffer.alloc(BLOCK_BYTES, 1));
    const { snapshots } = volume;
    await snapshots.freeze('.f', () => {});
    await write(volume, 0, Buffer.alloc(BLOCK_BYTES, 2));
    expect(snapshots.list()).toEqual([]);
    expect(await snapshots.measure()).toEqual([]);
    await expect(snapshots.create('.g')).rejects.toMatchObject({ code: 'SNAPSHOT_NAME_INVALID' });
    for (const refused of [
      snapshots.restore('.f'),
      snapshots.delete('.f'),
      snapshots.refresh('.f'),
    ]) {
      await expect(refused).rejects.toMatchObject({ code: 'SNAPSHOT_NOT_FOUND' });
    }
    await snapshots.restoreHidden('.f');
    expect((await read(volume, 0, 1))[0]).toBe(1);
    await store.close();
  });

  test('goes once when two let go of it at once', async () => {
    const store = openStore(new MemoryDisk());
    const volume = await store.create('v', SIZE);
    await write(volume, 0, Buffer.alloc(BLOCK_BYTES, 1));
    await volume.snapshots.freeze('.f', () => {});
    await Promise.all([volume.snapshots.discard('.f'), volume.snapshots.discard('.f')]);
    expect(volume.snapshots.hidden).toEqual([]);
    await store.close();
  });

  test('goes together with other records, or stays', async () => {
    const disk = new MemoryDisk();
    const store = openStore(disk);
    const volume = await store.create('v', SIZE);
    await write(volume, 0, Buffer.alloc(BLOCK_BYTES, 1));
    await volume.snapshots.freeze('.f', () => {});
    await volume.snapshots.discard('.f', [{ kind: 'regions-hot', regions: [0] }]);
    expect(volume.metadata.state.hot.has(0)).toBe(true);
    expect(volume.snapshots.hidden).toEqual([]);
    await store.close();
  });
});
