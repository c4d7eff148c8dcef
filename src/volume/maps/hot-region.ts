/** One region of the activity log, and tables of them. */
import { BLOCKS_PER_REGION, BLOCK_BYTES, REGION_BYTES } from '../../io/limits.ts';
import { BlockSet } from './block-set.ts';
import { LEAF_BYTES, bitOf, changeBits, scan } from './leaf.ts';

export class HotRegion {
  readonly index: number;
  /** Clock time of the last write. */
  lastWriteAt: number;
  /** The epoch that staged the last write; 0 when none did. */
  lastEpoch = 0;
  /** Number of the last write, as counted by the log. */
  lastChange: number;
  /** Writes handed to the volume and not yet applied. */
  inFlight = 0;
  /** Blocks written since every mirror had all of the region, or was known to lack it. */
  private readonly written = new Uint8Array(LEAF_BYTES);

  constructor(index: number, lastChange: number, now: number) {
    this.index = index;
    this.lastChange = lastChange;
    this.lastWriteAt = now;
  }

  /**
   * Notes an applied write, in so far as it lies in this region; `epoch` staged it (0: none did), and what
   * was staged up to `settledEpoch` is durable on every mirror, or marked.
   */
  wrote(offset: number, length: number, epoch: number, settledEpoch: number): void {
    if (this.lastEpoch <= settledEpoch) this.written.fill(0);
    this.lastEpoch = epoch;
    const base = this.index * BLOCKS_PER_REGION;
    const first = Math.max(0, Math.floor(offset / BLOCK_BYTES) - base);
    const end = Math.ceil((offset + length) / BLOCK_BYTES) - base;
    changeBits(this.written, first, Math.min(end, BLOCKS_PER_REGION), true);
  }

  /** Whether the block at this position in the region was written, and may not be everywhere yet. */
  wroteBlock(position: number): boolean {
    return this.inFlight > 0 || bitOf(this.written, position);
  }

  /** The first position after `position` for which `wroteBlock` differs, or BLOCKS_PER_REGION. */
  writtenRunEnd(position: number): number {
    if (this.inFlight > 0) return BLOCKS_PER_REGION;
    return scan(this.written, position, BLOCKS_PER_REGION, bitOf(this.written, position));
  }
}

/** Regions by number, which also tells fast where the next one is. */
export class RegionTable {
  private readonly regions = new Map<number, HotRegion>();
  /** The same numbers: a set of regions, not of blocks. */
  private readonly numbers: BlockSet;

  /** For a volume of `sizeBytes`. */
  constructor(sizeBytes: number) {
    this.numbers = new BlockSet(regionsOf(sizeBytes));
  }

  get size(): number {
    return this.regions.size;
  }

  get(index: number): HotRegion | undefined {
    return this.regions.get(index);
  }

  has(index: number): boolean {
    return this.regions.has(index);
  }

  add(region: HotRegion): void {
    this.regions.set(region.index, region);
    this.numbers.add(region.index, 1);
  }

  delete(index: number): boolean {
    if (!this.regions.delete(index)) return false;
    this.numbers.remove(index, 1);
    return true;
  }

  clear(): void {
    this.regions.clear();
    this.numbers.clear();
  }

  keys(): IterableIterator<number> {
    return this.regions.keys();
  }

  values(): IterableIterator<HotRegion> {
    return this.regions.values();
  }

  /** The first region of the table at or after `index`; `limit` when there is none before it. */
  nextFrom(index: number, limit: number): number {
    const end = Math.min(limit, this.numbers.blockCount);
    if (this.regions.size === 0 || index >= end) return limit;
    const next = this.numbers.has(index) ? index : this.numbers.runEnd(index, end);
    return next < end ? next : limit;
  }

  /** Drops what lies past the end of a volume of `sizeBytes`. */
  resize(sizeBytes: number): void {
    const count = regionsOf(sizeBytes);
    for (const index of this.regions.keys()) if (index >= count) this.regions.delete(index);
    this.numbers.resize(count);
  }
}

function regionsOf(sizeBytes: number): number {
  return Math.ceil(sizeBytes / REGION_BYTES);
}
