/**
 * The open layer of a volume: its file, its map, and what of the map is not recorded yet.
 *
 * Invariants:
 * - A block that the map does not call data is a hole, or zeroes, in the base layer's file. So the map may lag
 *   behind the file after a crash and be completed from the file's extents (recovery.ts says why that is sound).
 * - The map changes after the file did.
 */
import type { Disk, DiskFile } from '../io/disk.ts';
import { BLOCKS_PER_REGION, BLOCK_BYTES } from '../io/limits.ts';
import { BlockSet } from './block-set.ts';
import { BlockState } from './layer-map.ts';
import type { LayerMap } from './layer-map.ts';
import { recordsOfMap } from './metadata-state.ts';
import type { MapRecord } from './metadata-state.ts';
import { recoverMap } from './recovery.ts';

/** What can be read, and where it is: by byte offsets of the volume. */
export interface ReadSource {
  readonly file: DiskFile;
  /** The longest run from `offset` that is all data or all zero, cut at `end`. Bytes. */
  runEndAt(offset: number, end: number): number;
  isDataAt(offset: number): boolean;
}

export class Layer implements ReadSource {
  readonly id: number;
  readonly file: DiskFile;
  readonly map: LayerMap;
  /** Bytes that may be read and written. The map may be longer, while the volume shrinks. */
  sizeBytes: number;
  /** Something was written since the last sync began. */
  touched = false;
  /** Blocks whose state in `map` changed since their last allocation record. */
  private readonly unrecorded: BlockSet;

  constructor(id: number, file: DiskFile, map: LayerMap) {
    this.id = id;
    this.file = file;
    this.map = map;
    this.sizeBytes = map.blockCount * BLOCK_BYTES;
    this.unrecorded = new BlockSet(map.blockCount);
  }

  /** Bytes of the blocks that hold data. */
  get allocatedBytes(): number {
    return this.map.data.count * BLOCK_BYTES;
  }

  runEndAt(offset: number, end: number): number {
    const first = Math.floor(offset / BLOCK_BYTES);
    const limit = Math.ceil(end / BLOCK_BYTES);
    return Math.min(end, this.map.data.runEnd(first, limit) * BLOCK_BYTES);
  }

  isDataAt(offset: number): boolean {
    return this.map.data.has(Math.floor(offset / BLOCK_BYTES));
  }

  /** The bytes from `offset` to `end` may have changed in the file. */
  markData(offset: number, end: number): void {
    const first = Math.floor(offset / BLOCK_BYTES);
    this.mark(first, Math.ceil(end / BLOCK_BYTES) - first, BlockState.DATA);
  }

  /** A hole was punched from `offset` to `end`, which are whole blocks. */
  markHole(offset: number, end: number): void {
    const first = offset / BLOCK_BYTES;
    // The base layer has nothing below it: absent reads as zeroes.
    this.mark(first, end / BLOCK_BYTES - first, BlockState.ABSENT);
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

  /** Takes up what a process that was killed wrote. */
  recover(disk: Disk): void {
    // It may still be in the page cache alone.
    this.touched = true;
    recoverMap(disk, this.file, this.map, (first, count) => this.unrecorded.add(first, count));
  }

  /** The blocks from `first` on are to be recorded again. */
  forgetRecords(first: number): void {
    this.unrecorded.add(first, this.map.blockCount - first);
    this.touched = true;
  }

  resize(sizeBytes: number): void {
    this.sizeBytes = sizeBytes;
    this.map.resize(sizeBytes / BLOCK_BYTES);
    this.unrecorded.resize(sizeBytes / BLOCK_BYTES);
  }

  private mark(first: number, count: number, state: BlockState): void {
    this.touched = true;
    if (count > 0 && this.map.set(first, count, state)) this.unrecorded.add(first, count);
  }
}

/** The block after the last one that a record of a map tells of. */
function endOf(record: MapRecord, blockCount: number): number {
  if (record.kind === 'allocated') return record.first + record.count;
  return Math.min(blockCount, (record.region + 1) * BLOCKS_PER_REGION);
}
