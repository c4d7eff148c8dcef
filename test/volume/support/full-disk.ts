/**
 * A volume with snapshots on a disk that is about to be full, and what it has to hold.
 *
 * The base of every case: three layers with a snapshot on each of the lower two, blocks of data over data, over zeroes and
 * over nothing, zeroes over data, and everything flushed.
 */
import { expect } from 'vitest';
import type { Clock, Timer } from '../../../src/io/clock.ts';
import { systemRandom } from '../../../src/io/random.ts';
import { VolumeStore } from '../../../src/volume/store.ts';
import { Volume } from '../../../src/volume/volume.ts';
import { MemoryDisk } from './memory-disk.ts';
import { answered, flush, read, requestOf, write, zero } from './request.ts';

export const BLOCK = 4096;
export const BLOCKS = 48;
export const SIZE: number = BLOCKS * BLOCK;

function originOf(): never {
  throw new Error('the volume is no clone');
}

/** The clock of one process: nothing of it happens after the process was killed. */
class ProcessClock implements Clock {
  private readonly timers = new Set<NodeJS.Timeout>();
  private alive = true;
  now(): number {
    return performance.now();
  }
  wall(): number {
    return 1_700_000_000_000;
  }
  after(delay: number, callback: () => void): Timer {
    const handle = setTimeout(() => {
      this.timers.delete(handle);
      callback();
    }, delay);
    this.timers.add(handle);
    const cancel = (): void => {
      clearTimeout(handle);
      this.timers.delete(handle);
    };
    return { cancel };
  }
  soon(callback: () => void): void {
    setImmediate(() => {
      if (this.alive) callback();
    });
  }
  kill(): void {
    this.alive = false;
    for (const handle of this.timers) clearTimeout(handle);
  }
}

/** The content of a volume and of its snapshots, as it should be. */
export class Model {
  head: Buffer = Buffer.alloc(SIZE);
  snapshots = new Map<string, Buffer>();

  copy(): Model {
    return this.withHead(Buffer.from(this.head));
  }

  /** The same snapshots, with another content of the volume. */
  withHead(head: Buffer): Model {
    const other = new Model();
    other.head = head;
    other.snapshots = new Map(this.snapshots);
    return other;
  }
}

export class World {
  disk = new MemoryDisk();
  volume: Volume;
  model = new Model();
  /** What was flushed of the volume's own content. */
  flushed: Buffer = this.model.head;
  readonly compactBytes: number | null;
  readonly directory: string;
  private clock: ProcessClock;

  private constructor(disk: MemoryDisk, directory: string, compactBytes: number | null) {
    this.disk = disk;
    this.directory = directory;
    this.compactBytes = compactBytes;
    this.clock = new ProcessClock();
    this.volume = this.open();
  }

  static async create(options: { compactBytes?: number } = {}): Promise<World> {
    const disk = new MemoryDisk();
    const clock = new ProcessClock();
    const store = VolumeStore.open({ disk, clock, random: systemRandom, path: '/data' });
    const { id } = await store.create('test', SIZE);
    await store.close();
    const world = new World(disk, `/data/volumes/${id}`, options.compactBytes ?? null);
    await world.fill();
    return world;
  }

  private async fill(): Promise<void> {
    this.volume.snapshots.pauseMerge();
    await this.put(0, 24, 1);
    await this.snapshot('lower');
    await this.put(8, 12, 2);
    await this.clear(2, 3);
    await this.put(30, 2, 3);
    await this.snapshot('upper');
    await this.put(10, 3, 4);
    await this.clear(14, 2);
    expect(await flush(this.volume)).toBe(0);
    this.flushed = Buffer.from(this.model.head);
  }

  async put(first: number, count: number, byte: number): Promise<void> {
    const bytes = Buffer.alloc(count * BLOCK, byte);
    bytes.copy(this.model.head, first * BLOCK);
    expect(await write(this.volume, first * BLOCK, bytes)).toBe(0);
  }

  async clear(first: number, count: number): Promise<void> {
    this.model.head.fill(0, first * BLOCK, (first + count) * BLOCK);
    const range = { offset: first * BLOCK, length: count * BLOCK };
    expect(await zero(this.volume, range)).toBe(0);
  }

  async snapshot(name: string): Promise<void> {
    await this.volume.snapshots.create(name);
    this.model.snapshots.set(name, Buffer.from(this.model.head));
  }

  /** Fills the last page of the log, so that the next record needs another one. */
  async fillLog(): Promise<void> {
    // A record has a header of 40 bytes; this kind 4 bytes of count, and 4 of each region.
    const regions = Math.floor((this.logLeft - 44) / 4);
    if (regions > 0) {
      this.volume.metadata.append({
        kind: 'regions-hot',
        regions: Array.from({ length: regions }, () => 0),
      });
      expect(await this.volume.commit()).toBe(0);
    }
    expect(this.logLeft).toBeLessThan(48);
  }

  /** Bytes of the log's last page that are not taken. */
  private get logLeft(): number {
    const length = this.disk.readFile(`${this.directory}/metadata.log`).length;
    return Math.ceil(length / BLOCK) * BLOCK - length;
  }

  /** So many pages are left. */
  leave(pages: number): void {
    this.disk.pagesMax = this.disk.pagesUsed() + pages;
  }

  addSpace(): void {
    this.disk.pagesMax = Number.POSITIVE_INFINITY;
  }

  /** Waits until merges ended, wait for space, or are paused. */
  async settled(): Promise<void> {
    do await new Promise((resolve) => setImmediate(resolve));
    while (this.volume.snapshots.merge.state === 'running');
  }

  async kill(): Promise<void> {
    await this.settled();
    this.clock.kill();
    const { pagesMax } = this.disk;
    const { tellsHoles, canPunch, extentPages } = this.disk;
    this.disk = this.disk.kill();
    Object.assign(this.disk, { pagesMax, tellsHoles, canPunch, extentPages });
    this.reopen();
  }

  async cut(survives: () => boolean): Promise<void> {
    await this.settled();
    this.clock.kill();
    const { pagesMax } = this.disk;
    this.disk = this.disk.crash(survives);
    this.disk.pagesMax = pagesMax;
    this.reopen();
  }

  reopen(): void {
    this.clock = new ProcessClock();
    this.volume = this.open();
  }

  private open(): Volume {
    const { disk, clock, directory, compactBytes } = this;
    const compact = compactBytes === null ? {} : { compactBytes };
    return Volume.open({ disk, clock, random: systemRandom, directory, originOf, ...compact });
  }

  async head(): Promise<Buffer> {
    return Buffer.from(await read(this.volume, 0, this.volume.sizeBytes));
  }

  async content(): Promise<Model> {
    const found = new Model();
    found.head = await this.head();
    for (const { name } of this.volume.snapshots.list()) {
      const device = this.volume.snapshots.device(name);
      if (device === null) throw new Error(`${name} is listed and has no device`);
      const request = requestOf({ offset: 0, length: device.sizeBytes });
      expect(await answered(request, (each) => device.read(each))).toBe(0);
      found.snapshots.set(name, Buffer.from(request.bytes));
    }
    return found;
  }

  /** Every block that a layer's map calls data takes its page, and no other page of its file is taken. */
  expectAllocated(): void {
    for (const layer of this.volume.layers.all()) {
      expect(layer.file.allocatedNow(), `layer ${layer.id}`).toBe(layer.map.data.count * BLOCK);
    }
    const pages = [...this.volume.layers.all()].reduce((sum, each) => sum + each.map.data.count, 0);
    expect(this.volume.allocatedBytes).toBe(pages * BLOCK);
    const files = this.disk.list(this.directory).filter((name) => name.endsWith('.data'));
    expect(files).toHaveLength([...this.volume.layers.all()].length);
  }
}

/** Byte by byte it is one or the other. */
export function isMix(found: Buffer, one: Buffer, other: Buffer): boolean {
  if (found.length !== one.length || found.length !== other.length) return false;
  for (let at = 0; at < found.length; at += BLOCK) {
    const [block, first, second] = [found, one, other].map((each) => each.subarray(at, at + BLOCK));
    if (block === undefined || first === undefined || second === undefined) return false;
    if (block.equals(first) || block.equals(second)) continue;
    if (!block.every((byte, index) => byte === first[index] || byte === second[index]))
      return false;
  }
  return true;
}

export function expectSame(found: Model, expected: Model): void {
  expect([...found.snapshots.keys()].toSorted()).toEqual([...expected.snapshots.keys()].toSorted());
  for (const [name, bytes] of expected.snapshots) {
    expect(differences(found.snapshots.get(name) ?? Buffer.alloc(0), bytes), name).toEqual([]);
  }
  expect(differences(found.head, expected.head), 'the volume').toEqual([]);
}

/** The blocks that differ, with what they begin with. */
function differences(found: Buffer, expected: Buffer): string[] {
  const told: string[] = [];
  if (found.length !== expected.length) told.push(`${found.length} bytes, not ${expected.length}`);
  for (let at = 0; at < expected.length; at += BLOCK) {
    const one = found.subarray(at, at + BLOCK);
    const other = expected.subarray(at, at + BLOCK);
    if (!one.equals(other)) told.push(`block ${at / BLOCK}: ${one[0]}, not ${other[0]}`);
  }
  return told;
}
