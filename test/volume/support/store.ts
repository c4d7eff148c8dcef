/** Stores and volumes of a test, on the memory disk or on real files. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Clock } from '../../../src/io/clock.ts';
import { systemClock } from '../../../src/io/clock.ts';
import type { Disk } from '../../../src/io/disk.ts';
import { systemRandom } from '../../../src/io/random.ts';
import { VolumeStore } from '../../../src/volume/store.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { MemoryDisk } from './memory-disk.ts';

/** Real turns of the event loop; time stands still unless the test moves it. */
export class TestClock implements Clock {
  time = 1000;
  now(): number {
    return this.time;
  }
  wall(): number {
    return 1_700_000_000_000 + this.time;
  }
  after(): { cancel(): void } {
    throw new Error('volumes have no timers');
  }
  soon(callback: () => void): void {
    setImmediate(callback);
  }
}

export function openStore(disk: Disk, path = '/data', clock: Clock = systemClock): VolumeStore {
  return VolumeStore.open({ disk, clock, random: systemRandom, path });
}

export interface Fixture {
  readonly disk: MemoryDisk;
  readonly clock: TestClock;
  readonly store: VolumeStore;
  readonly volume: Volume;
}

/** One new volume on a memory disk. */
export async function newVolume(sizeBytes: number, disk = new MemoryDisk()): Promise<Fixture> {
  const clock = new TestClock();
  const store = openStore(disk, '/data', clock);
  const volume = await store.create('test', sizeBytes);
  return { disk, clock, store, volume };
}

/** Opens what another process left on `disk`. */
export function reopen(disk: MemoryDisk): { store: VolumeStore; volume: Volume } {
  const store = openStore(disk, '/data', new TestClock());
  const volume = store.find('test');
  if (volume === null) throw new Error(`the volume is gone: ${JSON.stringify(store.damaged)}`);
  return { store, volume };
}

export function logPath(volume: Volume): string {
  return `/data/volumes/${volume.id}/metadata.log`;
}

export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

export function temporaryDirectory(): { path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'blockferry-volume-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}
