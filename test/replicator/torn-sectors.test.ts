/**
 * No mirror is ever told to hold half of a sector: what is read for it while the pool writes waits for that write. Method: the real
 * replicator with a plain mirror behind a real socket, and a disk whose pool has done a part of a write when it is looked at.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { MemoryDisk } from '../volume/support/memory-disk.ts';
import type { MirrorServer } from './support/mirror-server.ts';
import { Rig } from './support/rig.ts';

const SECTOR = 512;

interface Slow {
  readonly rig: Rig;
  readonly disk: MemoryDisk;
  readonly mirror: MirrorServer;
}

/** A volume in step with its mirror, whose next writes go to the pool. */
async function slowPair(pause: boolean): Promise<Slow> {
  const disk = new MemoryDisk();
  const rig = await Rig.create(testScope(), { disk });
  await rig.host.write(0, Buffer.alloc(65_536, 1));
  const mirror = await rig.mirrored();
  if (pause) await rig.device.pauseMirror(mirror.uri);
  disk.beforeWriteNow = () => {
    const end = performance.now() + 60;
    while (performance.now() < end);
  };
  await rig.host.write(0, Buffer.alloc(4096, 1));
  disk.beforeWriteNow = null;
  return { rig, disk, mirror };
}

/** The pool keeps writes of the volume; of one to the second sector it has done half at once. Returns the way to let one go. */
function halve({ rig, disk }: Slow): { readonly positions: number[]; letGo: () => void } {
  const later = disk.later.bind(disk);
  const works: (() => void)[] = [];
  const positions: number[] = [];
  disk.later = (kind, path, position, run) => {
    if (kind !== 'write' || path.includes('log')) return later(kind, path, position, run);
    if (position === SECTOR) {
      disk
        .open(path, { create: false })
        .writeNow(Buffer.alloc(SECTOR / 2, 3), 0, SECTOR / 2, SECTOR);
    }
    positions.push(position);
    works.push(run);
  };
  rig.scope.defer('what the pool keeps', () => {
    disk.later = later;
    for (const run of works) run();
  });
  return { positions, letGo: () => works.shift()?.() };
}

const sectorOf = (mirror: MirrorServer): number[] => [
  ...new Set(mirror.device.image.page(0).subarray(SECTOR, 2 * SECTOR)),
];

describe('while the pool writes a sector', () => {
  it('no epoch has half of it: the write before it is read back first', async () => {
    const pair = await slowPair(false);
    const { rig, mirror } = pair;
    const { positions, letGo } = halve(pair);
    const first = rig.host.write(0, Buffer.alloc(SECTOR, 2));
    const second = rig.host.write(SECTOR, Buffer.alloc(SECTOR, 3));
    expect(positions).toEqual([0]);
    letGo();
    expect(await first).toBe(0);
    expect(positions).toEqual([0, SECTOR]);
    expect(await rig.host.flush()).toBe(0);
    await rig.inStep();
    expect(sectorOf(mirror)).toEqual([1]);
    letGo();
    expect(await second).toBe(0);
    await rig.inStep();
    expect(sectorOf(mirror)).toEqual([3]);
  });

  it('a delta run to a plain mirror waits for it, and ends with all of it', async () => {
    const pair = await slowPair(true);
    const { rig, mirror } = pair;
    const { positions, letGo } = halve(pair);
    const written = rig.host.write(SECTOR, Buffer.alloc(SECTOR, 3));
    expect(positions).toEqual([SECTOR]);
    await rig.device.resumeMirror(mirror.uri);
    await rig.until('the run', ({ state }) => state !== 'paused' && state !== 'connecting');
    const passed = Date.now() + 300;
    const seen: unknown[] = [];
    await rig.until('a while', ({ state, consistent }) => {
      seen.push(consistent && state === 'streaming' && sectorOf(mirror).length > 1);
      return Date.now() > passed;
    });
    expect(new Set(seen)).toEqual(new Set([false]));
    letGo();
    expect(await written).toBe(0);
    await rig.inStep();
    expect(sectorOf(mirror)).toEqual([3]);
  });
});

it('a client that reads slowly is no change that a handover would wait for', async () => {
  const disk = new MemoryDisk();
  const rig = await Rig.create(testScope(), { disk });
  await rig.mirrored();
  await rig.host.write(0, Buffer.alloc(8192, 1));
  disk.cold = true;
  disk.holding = true;
  const wanted = rig.host.read(0, 4096);
  expect(await rig.host.write(0, Buffer.alloc(1, 2))).toBe(0);
  const reads = (): string[] => disk.held.map(({ kind }) => kind).filter((kind) => kind === 'read');
  disk.letGo(disk.held.findIndex(({ kind }) => kind === 'read'));
  expect(reads(), 'it is read again').toEqual(['read']);
  const { changes } = rig.volume;
  expect(changes.inFlight).toBe(1);
  expect(changes.changing).toBe(0);
  disk.holding = false;
  disk.letGo();
  expect((await wanted)[0]).toBe(2);
});
