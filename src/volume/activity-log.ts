/**
 * The activity log: regions written since the mirrors last had everything (design section 7).
 *
 * Pure: it says which regions must be recorded hot before a write may touch them, and which may be
 * recorded cold again; the caller appends the records and tells when they are durable.
 *
 * Invariants:
 * - `isHot` is true for a region only after the caller said that its hot record is durable.
 * - A region with a write in flight is never retired; of the others the caller's `may` decides.
 * - At most HOT_REGIONS_MAX regions are hot, plus those of one request that alone needs more.
 */
import assert from 'node:assert';
import { HOT_REGIONS_MAX, HOT_REGION_IDLE_MS, REGION_BYTES } from '../io/limits.ts';
import { HotRegion, RegionTable } from './maps/hot-region.ts';

export type { HotRegion } from './maps/hot-region.ts';

/** Regions retired at one time when room is needed: one sort serves many activations. */
const RETIRE_BATCH = 64;
/** Regions activated ahead of a writer that walks through the volume. */
const AHEAD_REGIONS = 8;

export class ActivityLog {
  /** Writes applied so far; what was written before this log began counts as one. */
  changes = 1;
  private readonly hot: RegionTable;
  /** Asked for, in the batch that is being recorded or in the next one. */
  private readonly pending = new Set<number>();
  private next: number[] = [];
  private regionCount: number;
  private recent: HotRegion | null = null;

  /** `hot`: regions that the log already records as hot. */
  constructor(options: { sizeBytes: number; hot: Iterable<number>; now: number }) {
    this.regionCount = Math.ceil(options.sizeBytes / REGION_BYTES);
    this.hot = new RegionTable(options.sizeBytes);
    for (const index of options.hot) this.hot.add(new HotRegion(index, 1, options.now));
  }

  /** The region if it is hot. */
  region(index: number): HotRegion | null {
    return this.hot.get(index) ?? null;
  }

  /** The first hot region at or after `index`; `limit` when there is none before it. */
  nextFrom(index: number, limit: number): number {
    return this.hot.nextFrom(index, limit);
  }

  get hotCount(): number {
    return this.hot.size;
  }

  resize(sizeBytes: number): void {
    this.regionCount = Math.ceil(sizeBytes / REGION_BYTES);
    this.hot.resize(sizeBytes);
    // What is being recorded already stays pending until it is activated or abandoned.
    for (const index of this.next) if (index >= this.regionCount) this.pending.delete(index);
    this.next = this.next.filter((index) => index < this.regionCount);
    this.recent = null;
  }

  /** Whether a write to these bytes may go ahead. */
  isHot(offset: number, length: number): boolean {
    const first = Math.floor(offset / REGION_BYTES);
    const last = Math.floor((offset + length - 1) / REGION_BYTES);
    if (first === last && this.recent?.index === first) return true;
    for (let index = first; index <= last; index += 1) {
      const region = this.hot.get(index);
      if (region === undefined) return false;
      this.recent = region;
    }
    return true;
  }

  /** Notes a write that was handed to the volume and is not applied yet. */
  began(offset: number, length: number): void {
    this.each(offset, length, (region) => (region.inFlight += 1));
  }

  /** Notes that such a write is over, before `wrote`. */
  ended(offset: number, length: number): void {
    this.each(offset, length, (region) => {
      assert(region.inFlight > 0);
      region.inFlight -= 1;
    });
  }

  /**
   * Notes an applied write; `epoch` is the one that staged it, 0 if none did. What was staged up to
   * `settledEpoch` is durable on every mirror, or marked.
   */
  wrote(offset: number, length: number, now: number, epoch: number, settledEpoch: number): void {
    const first = Math.floor(offset / REGION_BYTES);
    const last = Math.floor((offset + length - 1) / REGION_BYTES);
    this.changes += 1;
    for (let index = first; index <= last; index += 1) {
      let region = this.recent;
      if (region === null || region.index !== index) {
        region = this.hot.get(index) ?? null;
        assert(region !== null, 'a write only touches hot regions');
        this.recent = region;
      }
      region.wrote(offset, length, epoch, settledEpoch);
      region.lastWriteAt = now;
      region.lastChange = this.changes;
    }
  }

  /**
   * Puts the cold regions of a write into the next batch. False when there is no room: retire some and
   * ask again. A request that needs more than half of all is taken when there is any, else it would never be.
   */
  admit(offset: number, length: number): boolean {
    const first = Math.floor(offset / REGION_BYTES);
    const last = Math.floor((offset + length - 1) / REGION_BYTES);
    const wanted: number[] = [];
    for (let index = first; index <= last; index += 1) {
      if (!this.isKnown(index)) wanted.push(index);
    }
    const taken = this.hot.size + this.pending.size;
    if (wanted.length > 0 && taken + wanted.length > HOT_REGIONS_MAX) {
      if (taken > HOT_REGIONS_MAX || last - first + 1 <= HOT_REGIONS_MAX / 2) return false;
    }
    for (const index of wanted) this.take(index);
    return true;
  }

  /** Asks for the regions ahead of a writer that came here from the region below. */
  admitAhead(offset: number): void {
    const index = Math.floor(offset / REGION_BYTES);
    if (!this.hot.has(index - 1)) return;
    // Several at a time: each batch costs a commit.
    if (this.isKnown(index + AHEAD_REGIONS / 2)) return;
    const end = Math.min(this.regionCount, index + 1 + AHEAD_REGIONS);
    for (let ahead = index + 1; ahead < end; ahead += 1) {
      if (this.hot.size + this.pending.size >= HOT_REGIONS_MAX) return;
      if (!this.isKnown(ahead)) this.take(ahead);
    }
  }

  /** The regions to be recorded hot next; empty when there are none. The caller records them. */
  takeBatch(): number[] {
    const batch = this.next;
    this.next = [];
    return batch;
  }

  /** The hot records of a batch are durable. What `before` knows of a region is still true of it. */
  activated(batch: readonly number[], now: number, before: Pick<RegionTable, 'get'>): void {
    for (const index of batch) {
      assert(this.pending.delete(index), 'a batch is taken before it is activated');
      if (index >= this.regionCount) continue;
      const region = before.get(index) ?? new HotRegion(index, 0, now);
      region.lastWriteAt = now;
      this.hot.add(region);
    }
  }

  /** The hot records of a batch could not be written. */
  abandoned(batch: readonly number[]): void {
    for (const index of batch) this.pending.delete(index);
  }

  /** Regions that saw no write for a while. */
  idle(now: number): HotRegion[] {
    const before = now - HOT_REGION_IDLE_MS;
    const all = [...this.hot.values()];
    return all.filter((region) => region.inFlight === 0 && region.lastWriteAt <= before);
  }

  /** Retires regions that saw no write for a while and that `may` be: to be recorded cold. */
  retireIdle(now: number, may: (region: HotRegion) => boolean): HotRegion[] {
    return this.retire(this.idle(now).filter(may));
  }

  /** Retires the longest unwritten regions that `may` be, enough for a batch of new ones. */
  retireOldest(may: (region: HotRegion) => boolean): HotRegion[] {
    const oldest = [...this.hot.values()]
      .filter((region) => region.inFlight === 0 && may(region))
      .toSorted((a, b) => a.lastWriteAt - b.lastWriteAt);
    const surplus = Math.max(0, this.hot.size + this.pending.size - HOT_REGIONS_MAX);
    return this.retire(oldest.slice(0, surplus + RETIRE_BATCH));
  }

  /** Retires every region without a write in flight, written lately or not. */
  retireAll(): HotRegion[] {
    return this.retire([...this.hot.values()].filter((region) => region.inFlight === 0));
  }

  private retire(regions: HotRegion[]): HotRegion[] {
    for (const region of regions) this.hot.delete(region.index);
    if (regions.length > 0) this.recent = null;
    return regions;
  }

  /** Hot, or about to be. */
  private isKnown(index: number): boolean {
    return this.hot.has(index) || this.pending.has(index);
  }

  private take(index: number): void {
    this.pending.add(index);
    this.next.push(index);
  }

  private each(offset: number, length: number, visit: (region: HotRegion) => void): void {
    const first = Math.floor(offset / REGION_BYTES);
    const last = Math.floor((offset + length - 1) / REGION_BYTES);
    for (let index = first; index <= last; index += 1) {
      const region = this.hot.get(index);
      assert(region !== undefined || index >= this.regionCount, 'a write only touches hot regions');
      if (region !== undefined) visit(region);
    }
  }
}
