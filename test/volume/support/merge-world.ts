/**
 * A volume's layers on a memory disk, with the merger at work on them: what each snapshot and the head show is known
 * from the beginning, and is looked at through the metadata and the files alone.
 */
import type { Clock, Timer } from '../../../src/io/clock.ts';
import type { Disk, DiskFile } from '../../../src/io/disk.ts';
import { BLOCK_BYTES } from '../../../src/io/limits.ts';
import { systemRandom } from '../../../src/io/random.ts';
import { BlockState } from '../../../src/volume/maps/layer-map.ts';
import type { LayerMap } from '../../../src/volume/maps/layer-map.ts';
import { chainOf, garbageOf, mergeable } from '../../../src/volume/layers/layer-tree.ts';
import { Merger } from '../../../src/volume/merge/merger.ts';
import type { MergeHost, MergeLayer, MergerOptions } from '../../../src/volume/merge/merger.ts';
import { Metadata } from '../../../src/volume/log/metadata.ts';
import type { MetadataRecord } from '../../../src/volume/log/records.ts';
import { layerPath } from '../../../src/volume/recovery.ts';

export const DIRECTORY = '/volume';
const VOLUME_ID = '00112233445566778899aabbccddeeff';

/** Time stands still unless the test moves it, or lets `after` move it. */
export class MergeClock implements Clock {
  time = 1000;
  /** A timer is due as soon as it is set. */
  hurry = false;
  private timers: { at: number; run: () => void }[] = [];

  now(): number {
    return this.time;
  }
  wall(): number {
    return this.time;
  }
  soon(callback: () => void): void {
    setImmediate(callback);
  }
  after(delayMs: number, run: () => void): Timer {
    const timer = { at: this.time + delayMs, run };
    this.timers.push(timer);
    if (this.hurry) setImmediate(() => this.advance(0, timer.at));
    return { cancel: () => void (this.timers = this.timers.filter((each) => each !== timer)) };
  }
  get waiting(): number {
    return this.timers.length;
  }
  advance(ms: number, until = this.time + ms): void {
    this.time = Math.max(this.time, until);
    for (const timer of this.timers.filter(({ at }) => at <= this.time)) {
      this.timers = this.timers.filter((each) => each !== timer);
      timer.run();
    }
  }
}

/** States of blocks of one layer, from `first` on; `size` in blocks when the volume was resized in its time. */
export interface LayerPlan {
  /** Place of the layer below in the list; the one before it when absent. */
  readonly parent?: number;
  readonly data?: readonly (readonly [first: number, count: number])[];
  readonly zero?: readonly (readonly [first: number, count: number])[];
  readonly size?: number;
  /** Names of snapshots of it. */
  readonly names?: readonly string[];
}

export interface WorldPlan {
  /** Blocks of the volume in the beginning. */
  readonly size: number;
  /** The last one takes writes. */
  readonly layers: readonly LayerPlan[];
}

const BLOCKS = new Map<number, Buffer>();
/** What a block of a layer holds. */
export function blockOf(tag: number): Buffer {
  let block = BLOCKS.get(tag);
  if (block === undefined) {
    block = Buffer.alloc(BLOCK_BYTES);
    for (let at = 0; at < BLOCK_BYTES; at += 4) block.writeUInt32LE(tag, at);
    if (BLOCKS.size > 4096) BLOCKS.clear();
    BLOCKS.set(tag, block);
  }
  return block;
}
const tagOf = (layer: number, block: number): number => layer * 2 ** 24 + block + 1;
const ZERO_BLOCK = Buffer.alloc(BLOCK_BYTES);
const NOISE = Buffer.alloc(BLOCK_BYTES, 0xee);

/** Writes the layers of a plan, durably. Blocks of the files that the maps do not call data hold noise, here and there. */
export async function buildWorld(
  disk: Disk,
  plan: WorldPlan,
  directory = DIRECTORY,
): Promise<void> {
  if (!disk.exists(directory)) disk.makeDirectory(directory);
  let size = plan.size;
  const records: MetadataRecord[] = [
    {
      kind: 'volume-created',
      id: VOLUME_ID,
      name: 'v',
      sizeBytes: size * BLOCK_BYTES,
      createdAt: 1,
      nextMirrorId: 1,
    },
  ];
  let snapshots = 0;
  for (const [place, layer] of plan.layers.entries()) {
    const id = place + 1;
    const parent = place === 0 ? 0 : (layer.parent ?? place - 1) + 1;
    records.push({ kind: 'layer-created', layer: id, parent });
    const below = plan.layers[parent - 1];
    const belowSize = below === undefined ? size : sizeOf(plan, parent - 1);
    // A restored volume reads as zeroes behind the end of what it was restored from.
    if (belowSize < size) {
      const count = size - belowSize;
      records.push({ kind: 'allocated', layer: id, first: belowSize, count, state: 2 });
    }
    if (layer.size !== undefined) {
      records.push({ kind: 'resized', sizeBytes: layer.size * BLOCK_BYTES });
      size = layer.size;
    }
    const file = disk.open(layerPath(directory, id), { create: true });
    file.truncateNow(size * BLOCK_BYTES);
    for (let block = id; block < Math.min(size, 3000); block += 37) {
      file.writeNow(NOISE, 0, BLOCK_BYTES, block * BLOCK_BYTES);
    }
    for (const [first, count] of layer.data ?? []) {
      if (first >= size) continue;
      const end = Math.min(size, first + count);
      records.push({ kind: 'allocated', layer: id, first, count: end - first, state: 1 });
      for (let block = first; block < end; block += 1) {
        file.writeNow(blockOf(tagOf(id, block)), 0, BLOCK_BYTES, block * BLOCK_BYTES);
      }
    }
    for (const [first, count] of layer.zero ?? []) {
      if (first >= size) continue;
      const end = Math.min(size, first + count);
      records.push({ kind: 'allocated', layer: id, first, count: end - first, state: 2 });
    }
    await new Promise((resolve) => {
      file.datasync(resolve);
    });
    file.closeNow();
    if (place < plan.layers.length - 1) records.push({ kind: 'layer-sealed', layer: id });
    for (const name of layer.names ?? []) {
      snapshots += 1;
      records.push({
        kind: 'snapshot-created',
        id: snapshots.toString(16).padStart(32, '0'),
        name,
        layer: id,
        createdAt: 1,
        sizeBytes: size * BLOCK_BYTES,
      });
    }
  }
  const options = { disk, clock: new MergeClock(), random: systemRandom, directory };
  await Metadata.create(options, records);
  disk.syncDirectory(directory);
  disk.syncDirectory('/');
}

/** Blocks of the layer at a place of the plan, in the end. */
function sizeOf(plan: WorldPlan, place: number): number {
  let size = plan.size;
  for (const layer of plan.layers.slice(0, place + 1)) size = layer.size ?? size;
  return size;
}

/** What is shown under a name ('' for the head): the content of the blocks that were asked for. */
export type Shown = Map<string, Buffer[]>;

export class World implements MergeHost {
  readonly disk: Disk;
  readonly directory: string;
  readonly clock: MergeClock;
  readonly metadata: Metadata;
  readonly merger: Merger;
  readonly files = new Map<number, DiskFile>();
  readonly mergedPairs: { from: number; into: number }[] = [];
  releases = 0;
  hostRequests = 0;
  hostInFlight = 0;
  syncErrno = 0;
  /** Maps of its own, as a host may have them besides those of the metadata. */
  private readonly maps = new Map<number, LayerMap>();

  constructor(
    disk: Disk,
    options: MergerOptions & {
      ownMaps?: boolean;
      clock?: MergeClock;
      compactBytes?: number;
      directory?: string;
    } = {},
  ) {
    this.disk = disk;
    this.directory = options.directory ?? DIRECTORY;
    this.clock = options.clock ?? new MergeClock();
    this.metadata = Metadata.open({
      disk,
      clock: this.clock,
      random: systemRandom,
      directory: this.directory,
      ...(options.compactBytes === undefined ? {} : { compactBytes: options.compactBytes }),
    });
    const known = new Set<string>();
    for (const { id, map } of this.metadata.state.layers.values()) {
      const path = layerPath(this.directory, id);
      known.add(path);
      const file = disk.open(path, { create: false });
      if (file.sizeNow() < map.blockCount * BLOCK_BYTES) throw new Error(`${path} is too short`);
      this.files.set(id, file);
      if (options.ownMaps === true) this.maps.set(id, map.clone());
    }
    for (const name of disk.list(this.directory)) {
      const path = `${this.directory}/${name}`;
      if (name.endsWith('.data') && !known.has(path)) disk.remove(path);
    }
    this.merger = new Merger(this, this.clock, options);
  }

  mergeable(): ReturnType<typeof mergeable> {
    return this.syncErrno === 0 ? mergeable(this.metadata.state) : [];
  }

  layerOf(id: number): MergeLayer {
    const map = this.maps.get(id) ?? this.stateMap(id);
    const resize = (sizeBytes: number): void => map.resize(sizeBytes / BLOCK_BYTES);
    return { id, file: this.fileOf(id), map, resize, distrust: () => {} };
  }

  requests(): number {
    return this.hostRequests;
  }

  inFlight(): number {
    return this.hostInFlight;
  }

  merged(from: number, into: number): void {
    if (this.metadata.state.layers.has(from)) throw new Error('merged before its record');
    this.mergedPairs.push({ from, into });
  }

  removable(from: number): void {
    this.remove(from);
  }

  released(): void {
    this.releases += 1;
    this.collect();
  }

  syncFailed(errno: number): void {
    this.syncErrno = errno;
  }

  /** Drops a name, and what becomes garbage by it. */
  forget(name: string): void {
    for (const snapshot of this.metadata.state.snapshots.values()) {
      if (snapshot.name === name)
        this.metadata.append({ kind: 'snapshot-removed', id: snapshot.id });
    }
    this.metadata.commit(() => {});
    this.collect();
    this.merger.kick();
  }

  /** Removes garbage that no merge uses. */
  collect(): void {
    for (const layer of garbageOf(this.metadata.state)) {
      if (this.merger.uses(layer)) continue;
      this.metadata.append({ kind: 'layer-removed', layer });
      this.metadata.commit((status) => {
        if (status === 0) this.remove(layer);
      });
    }
  }

  /** Resolves when nothing is left to merge; time passes as fast as it is asked for. */
  async idle(): Promise<void> {
    this.clock.hurry = true;
    this.merger.kick();
    await until(() => this.merger.status.state === 'idle');
  }

  /** What the head and each snapshot show of these blocks, found through the metadata and the files. */
  shown(blocks: readonly number[]): Shown {
    const shown: Shown = new Map();
    const { state } = this.metadata;
    const size = state.sizeBytes / BLOCK_BYTES;
    shown.set('', this.contentOf(state.topLayer, size, blocks));
    for (const { name, layer, sizeBytes } of state.snapshots.values()) {
      shown.set(name, this.contentOf(layer, sizeBytes / BLOCK_BYTES, blocks));
    }
    return shown;
  }

  /** Where that content is found, for somebody who remembers it: the file of each block, null for zeroes. */
  owners(blocks: readonly number[]): Map<string, (DiskFile | null)[]> {
    const owners = new Map<string, (DiskFile | null)[]>();
    const { state } = this.metadata;
    const views = [...state.snapshots.values()].map(
      ({ name, layer, sizeBytes }) => [name, layer, sizeBytes] as const,
    );
    for (const [name, layer, sizeBytes] of [
      ['', state.topLayer, state.sizeBytes] as const,
      ...views,
    ]) {
      const size = sizeBytes / BLOCK_BYTES;
      owners.set(
        name,
        blocks.map((block) => (block < size ? this.ownerOf(layer, block) : null)),
      );
    }
    return owners;
  }

  /** The maps of the host say what the metadata say. Throws. */
  checkMaps(): void {
    for (const [id, map] of this.maps) {
      if (!this.metadata.state.layers.has(id)) continue;
      const recorded = this.stateMap(id);
      for (const set of ['data', 'zero'] as const) {
        for (let region = 0; region < recorded[set].regionCount; region += 1) {
          const same = Buffer.from(map[set].leafOf(region)).equals(recorded[set].leafOf(region));
          if (!same) throw new Error(`layer ${id} has another map than its records`);
        }
      }
    }
  }

  stateMap(id: number): LayerMap {
    const record = this.metadata.state.layers.get(id);
    if (record === undefined) throw new Error(`layer ${id} is gone`);
    return record.map;
  }

  fileOf(id: number): DiskFile {
    const file = this.files.get(id);
    if (file === undefined) throw new Error(`layer ${id} has no file`);
    return file;
  }

  private remove(layer: number): void {
    this.fileOf(layer).closeNow();
    this.files.delete(layer);
    this.maps.delete(layer);
    this.disk.remove(layerPath(this.directory, layer));
  }

  private ownerOf(layer: number, block: number): DiskFile | null {
    for (const { id } of chainOf(this.metadata.state, layer)) {
      const map = this.maps.get(id) ?? this.stateMap(id);
      if (block >= map.blockCount) continue;
      const state = map.stateOf(block);
      if (state === BlockState.DATA) return this.fileOf(id);
      if (state === BlockState.ZERO) return null;
    }
    return null;
  }

  private contentOf(layer: number, size: number, blocks: readonly number[]): Buffer[] {
    return blocks.map((block) =>
      block < size ? readBlock(this.ownerOf(layer, block), block) : ZERO_BLOCK,
    );
  }
}

export function readBlock(file: DiskFile | null, block: number): Buffer {
  if (file === null) return ZERO_BLOCK;
  const bytes = Buffer.alloc(BLOCK_BYTES);
  if (file.readBlocking(bytes, 0, BLOCK_BYTES, block * BLOCK_BYTES) !== BLOCK_BYTES) {
    throw new Error(`${file.path} ends before block ${block}`);
  }
  return bytes;
}

/** The first block that is not as it was; null when all are. */
export function difference(
  blocks: readonly number[],
  before: Shown,
  now: Shown,
): { name: string; block: number } | null {
  for (const [name, contents] of before) {
    const others = now.get(name);
    if (others === undefined) return { name, block: -1 };
    const at = contents.findIndex((content, index) => !content.equals(others[index]!));
    if (at >= 0) return { name, block: blocks[at]! };
  }
  return null;
}

export async function until(ready: () => boolean): Promise<void> {
  for (let turns = 0; !ready(); turns += 1) {
    if (turns > 200_000) throw new Error('it never came to an end');
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
}

export async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
}

/** A seeded stream of numbers in [0, 1). */
export function seeded(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
