/**
 * An open layer of a volume: its file, its map, and what of the map is not recorded yet.
 *
 * Invariants:
 * - In the file, a block that the map does not call data is a hole, or zeroes, as long as the layer takes writes. For the
 *   base layer that makes the map something that may lag behind the file after a crash (recovery.ts).
 * - The map changes after the file did.
 * - A sealed layer is not written by hosts any more, and its map is the metadata's. It may take writes again (`reopen`) as long as
 *   this process knows that nothing is in its file which the map does not show.
 * - A base layer that lies in a container has no extents: after an unclean stop all of it is data (containers.ts).
 * - The file is closed when nobody reads, writes or syncs it any more: `pin` says who does.
 */
import assert from 'node:assert';
import type { Disk, DiskFile } from '../../io/disk.ts';
import type { Container } from '../containers.ts';
import { BLOCKS_PER_REGION, BLOCK_BYTES } from '../../io/limits.ts';
import { BlockSet } from '../maps/block-set.ts';
import { BlockState } from '../maps/layer-map.ts';
import type { LayerMap } from '../maps/layer-map.ts';
import { recordsOfMap } from '../log/metadata-state.ts';
import type { MapRecord } from '../log/metadata-state.ts';
import { recoverMap } from '../recovery.ts';
import type { View } from './view.ts';

/** What can be read, and where it is: by byte offsets of the volume. */
export interface ReadSource {
  /** Bytes that may be read. */
  readonly sizeBytes: number;
  /** The longest run from `offset` that one layer holds, or none, cut at `end`. Bytes. */
  runEndAt(offset: number, end: number): number;
  isDataAt(offset: number): boolean;
  /** The layer that holds the byte; null where it reads as zero. */
  layerAt(offset: number): Layer | null;
}

let lastKey = 0;

export class Layer {
  readonly id: number;
  /** Another number for every layer that was opened, of whatever volume. */
  readonly key: number;
  readonly file: DiskFile;
  /** Of a base layer: what its file is the content of; null: a file of its own. */
  readonly container: Container | null;
  /** The layer below; null for the base layer. */
  parent: Layer | null;
  map: LayerMap;
  /** Bytes that may be read and written. The map may be longer, while the volume shrinks. */
  sizeBytes: number;
  /** Something was written since the last sync began. */
  touched = false;
  sealed: boolean;
  /** The view that writes come through, while this is its top. */
  shownBy: View | null = null;
  /** Blocks whose state in `map` changed since their last allocation record. */
  private unrecorded: BlockSet;
  private pins = 0;
  /** The first invariant holds, sealed or not. What a merge was cut off in, or a power cut, may hold more than its map says. */
  private exact: boolean;
  /** A merge takes from it, or writes to it. */
  private merging = false;
  private retired: (() => void) | null = null;

  constructor(options: {
    id: number;
    file: DiskFile;
    parent: Layer | null;
    map: LayerMap;
    sealed: boolean;
    container?: Container | null;
  }) {
    const { map } = options;
    this.id = options.id;
    lastKey += 1;
    this.key = lastKey;
    this.file = options.file;
    this.container = options.container ?? null;
    this.parent = options.parent;
    this.map = map;
    this.sealed = options.sealed;
    // Of what an earlier process sealed nobody knows whether it merged there.
    this.exact = !options.sealed;
    this.sizeBytes = map.blockCount * BLOCK_BYTES;
    this.unrecorded = new BlockSet(map.blockCount);
  }

  /** The file is in use until `unpin`. */
  pin(): void {
    this.pins += 1;
  }

  unpin(): void {
    assert(this.pins > 0, 'who unpins has pinned');
    this.pins -= 1;
    if (this.pins === 0) this.closeRetired();
  }

  /** Closes the file as soon as nobody uses it, then calls back. */
  retire(closed: () => void): void {
    assert(this.retired === null, 'a layer retires once');
    this.retired = closed;
    if (this.pins === 0) this.closeRetired();
  }

  private closeRetired(): void {
    const { retired } = this;
    if (retired === null) return;
    this.retired = null;
    this.file.closeNow();
    retired();
  }

  /** The bytes from `offset` to `end` may have changed in the file. */
  markData(offset: number, end: number): void {
    const first = Math.floor(offset / BLOCK_BYTES);
    this.mark(first, Math.ceil(end / BLOCK_BYTES) - first, BlockState.DATA);
  }

  /** From `offset` to `end`, which are whole blocks, the file is a hole and the volume reads as zeroes. */
  markHole(offset: number, end: number): void {
    const first = offset / BLOCK_BYTES;
    // The base layer has nothing below it: absent reads as zeroes.
    const state = this.parent === null ? BlockState.ABSENT : BlockState.ZERO;
    this.mark(first, end / BLOCK_BYTES - first, state);
  }

  /** From `offset` to `end`, which are whole blocks, it hides what lies below, or will. */
  markZero(offset: number, end: number): void {
    const first = offset / BLOCK_BYTES;
    this.mark(first, end / BLOCK_BYTES - first, BlockState.ZERO);
  }

  /** Of a sealed layer: the map has that size already. */
  resized(): void {
    this.sizeBytes = this.map.blockCount * BLOCK_BYTES;
  }

  /** Whether the file holds data of any block from `offset` to `end`, which are whole blocks. */
  hasDataIn(offset: number, end: number): boolean {
    const { data } = this.map;
    const first = offset / BLOCK_BYTES;
    const limit = end / BLOCK_BYTES;
    return data.has(first) || data.runEnd(first, limit) < limit;
  }

  /** Everything in the map has a record. */
  get isRecorded(): boolean {
    return this.unrecorded.count === 0;
  }

  /** At most `limit` records of what changed in the map, and was not taken before. */
  takeChanges(limit: number): MapRecord[] {
    const records: MapRecord[] = [];
    if (this.isRecorded) return records;
    for (const record of recordsOfMap(this.id, this.map, this.unrecorded)) {
      records.push(record);
      if (records.length >= limit) break;
    }
    const last = records.at(-1);
    // They come in ascending order: what lies before the end of the last one is told.
    if (records.length < limit || last === undefined) this.unrecorded.clear();
    else this.unrecorded.remove(0, endOf(last, this.map.blockCount));
    return records;
  }

  /**
   * Takes up what a process that was killed wrote; `recorded`: the map as the log has it. True: something came up where the log
   * tells of zeroes.
   */
  recover(disk: Disk, recorded: LayerMap): boolean {
    // It may still be in the page cache alone.
    this.touched = true;
    const { container, file, map, parent } = this;
    if (container !== null) {
      if (map.set(0, map.blockCount, BlockState.DATA)) this.unrecorded.add(0, map.blockCount);
      return false;
    }
    const rounding = parent === null ? 'touched' : 'covered';
    let overZeroes = false;
    recoverMap(disk, { file, map, rounding }, (first, count) => {
      this.unrecorded.add(first, count);
      // A base layer's file is the volume, whatever the log calls it.
      const end = parent === null ? first : first + count;
      for (let block = first; block < end && !overZeroes; block = recorded.runEnd(block, end)) {
        overZeroes = recorded.stateOf(block) === BlockState.ZERO;
      }
    });
    return overZeroes;
  }

  /** The blocks from `first` on are to be recorded again. */
  forgetRecords(first: number): void {
    this.unrecorded.add(first, this.map.blockCount - first);
    this.touched = true;
  }

  /** The same of `count` blocks. */
  forgetRecordsOf(first: number, count: number): void {
    this.unrecorded.add(first, count);
    this.touched = true;
  }

  /** Nothing is written here any more; `map` is the recorded one, which is the same by now. */
  seal(map: LayerMap): void {
    assert(this.isRecorded && !this.touched, 'a layer is sealed when all of it is durable');
    this.sealed = true;
    this.map = map;
  }

  /** A merge with a neighbour may begin. A second one without the end of the first: that was cut off. */
  mergeBegins(): void {
    if (this.merging) this.exact = false;
    this.merging = true;
  }

  /** It took up its neighbour, all of it, and its map says so. */
  mergeEnds(): void {
    this.merging = false;
  }

  /** The file may hold what the map does not know, and never will. */
  distrust(): void {
    this.exact = false;
  }

  /** Whether it may take writes again: its file is what its map says, and no longer. */
  get mayReopen(): boolean {
    if (!this.sealed || !this.exact || this.merging) return false;
    if (this.container !== null) return false;
    return this.file.sizeNow() === this.map.blockCount * BLOCK_BYTES;
  }

  /** It takes writes again; `map` is a copy of the recorded one. */
  reopen(map: LayerMap): void {
    assert(this.sealed && this.exact, 'a sealed layer whose file is what its map says');
    this.sealed = false;
    this.map = map;
    this.sizeBytes = map.blockCount * BLOCK_BYTES;
    this.unrecorded = new BlockSet(map.blockCount);
  }

  /** As the fold of `resized` does it: what grew above another layer reads as zeroes. */
  resize(sizeBytes: number): void {
    const before = this.map.blockCount;
    const blockCount = sizeBytes / BLOCK_BYTES;
    this.sizeBytes = sizeBytes;
    this.map.resize(blockCount);
    if (this.parent !== null && blockCount > before) {
      this.map.set(before, blockCount - before, BlockState.ZERO);
    }
    this.unrecorded.resize(blockCount);
    this.shownBy?.look(this);
  }

  private mark(first: number, count: number, state: BlockState): void {
    this.touched = true;
    if (count > 0 && this.map.set(first, count, state)) {
      this.unrecorded.add(first, count);
      this.shownBy?.topChanged(first, count, state === BlockState.DATA);
    }
  }
}

/** The block after the last one that a record of a map tells of. */
function endOf(record: MapRecord, blockCount: number): number {
  if (record.kind === 'allocated') return record.first + record.count;
  return Math.min(blockCount, (record.region + 1) * BLOCKS_PER_REGION);
}
