/**
 * What one mirror may lack: its delta bitmap, live in memory and recorded in the metadata log.
 *
 * Invariants (I5, coverage):
 * - A block leaves `dirty` only into `inFlight`, and `inFlight` only when the mirror flushed it, or back.
 * - A block leaves `suspect` only when it was found equal, or into `dirty`.
 * - The recorded sets are brought in line by `record`, region by region, before a region turns cold and
 *   after a flush of the mirror; in between, a hot region covers the difference.
 * - A parked region is recorded suspect as a whole, whatever `suspect` says.
 */
import { BLOCK_BYTES, BLOCKS_PER_REGION } from '../../io/limits.ts';
import { BlockSet, RegionState } from '../../volume/maps/block-set.ts';
import type { RegionTable } from '../../volume/maps/hot-region.ts';
import type { Metadata, MirrorRecord } from '../../volume/log/metadata.ts';
import { isBefore } from '../../volume/log/metadata-copy.ts';
import type { CopyPosition } from '../../volume/log/metadata-state.ts';

/** Numbers of parked regions; see RegionGate. */
export type ParkedRegions = Pick<RegionTable, 'has' | 'keys' | 'size' | 'nextFrom'>;

/** Runs of the three sets that one answer puts together. */
const RUN_HOPS_MAX = 16;

export class MirrorBlocks {
  /** Blocks that differ, or are taken to. */
  readonly dirty: BlockSet;
  /** Blocks to be compared first. */
  readonly suspect: BlockSet;
  /** Blocks that the mirror was sent and has not flushed: in a delta run, or shed from the stream. */
  inFlight: BlockSet;
  /** What the mirror is known to hold, when the log does not say so yet. */
  private unrecorded: CopyPosition | null = null;
  private readonly metadata: Metadata;
  private readonly mirrorId: number;
  private readonly parked: ParkedRegions;

  constructor(metadata: Metadata, record: MirrorRecord, parked: ParkedRegions) {
    this.metadata = metadata;
    this.parked = parked;
    this.mirrorId = record.id;
    this.dirty = record.dirty.clone();
    this.suspect = record.suspect.clone();
    this.inFlight = new BlockSet(record.dirty.blockCount);
  }

  get clean(): boolean {
    return this.dirty.count === 0 && this.suspect.count === 0 && this.inFlight.count === 0;
  }

  /** Whether the mirror may lack the block, as far as marks tell: what is staged is not among them. */
  marked(block: number): boolean {
    return this.dirty.has(block) || this.suspect.has(block) || this.inFlight.has(block);
  }

  /** The end of a run from `block` whose blocks are all marked, or all not; at most `limit`. May be cut short. */
  runEnd(block: number, limit: number): number {
    const { dirty, suspect, inFlight } = this;
    if (!this.marked(block)) {
      return inFlight.runEnd(block, suspect.runEnd(block, dirty.runEnd(block, limit)));
    }
    let end = block;
    for (let hops = 0; hops < RUN_HOPS_MAX && end < limit; hops += 1) {
      const set = dirty.has(end) ? dirty : suspect.has(end) ? suspect : inFlight;
      if (!set.has(end)) break;
      end = set.runEnd(end, limit);
    }
    return end;
  }

  get dirtyBytes(): number {
    return (this.dirty.count + this.inFlight.count) * BLOCK_BYTES;
  }

  get suspectBytes(): number {
    return this.suspect.count * BLOCK_BYTES;
  }

  /** Marks the blocks that a byte range touches. */
  mark(offset: number, length: number): void {
    const first = Math.floor(offset / BLOCK_BYTES);
    this.dirty.add(first, Math.ceil((offset + length) / BLOCK_BYTES) - first);
  }

  markInFlight(offset: number, length: number): void {
    const first = Math.floor(offset / BLOCK_BYTES);
    this.inFlight.add(first, Math.ceil((offset + length) / BLOCK_BYTES) - first);
  }

  suspectRegions(regions: Iterable<number>): void {
    for (const region of regions) {
      const first = region * BLOCKS_PER_REGION;
      const count = Math.min(BLOCKS_PER_REGION, this.suspect.blockCount - first);
      if (count > 0) this.suspect.add(first, count);
    }
  }

  /** What is marked now is what a delta run brings; what is marked from now on is for the next one. */
  beginRun(): void {
    this.inFlight.addSet(this.dirty);
    this.dirty.clear();
  }

  /**
   * The mirror holds this durably. It is recorded with the next record that lets go of something for that reason: a mirror
   * that later says that it holds less went back in time. One that did, and gets the snapshots that it lost first, holds less than
   * once before for a while: until it has come as far again, that it was set back is not forgotten.
   */
  acknowledge(position: CopyPosition): void {
    const { acknowledged } = this;
    if (acknowledged === null || !isBefore(position, acknowledged)) this.unrecorded = position;
  }

  /** What the mirror is known to hold durably, in the log or not yet; null: nothing. */
  get acknowledged(): CopyPosition | null {
    return this.unrecorded ?? this.metadata.state.mirrors.get(this.mirrorId)?.acknowledged ?? null;
  }

  private recordAcknowledged(): void {
    if (this.unrecorded === null || !this.metadata.state.mirrors.has(this.mirrorId)) return;
    this.metadata.append({
      kind: 'mirror-acknowledged',
      mirror: this.mirrorId,
      ...this.unrecorded,
    });
    this.unrecorded = null;
  }

  /** The connection was lost: nothing that was not flushed counts as sent. */
  takeBack(): void {
    this.dirty.addSet(this.inFlight);
    this.inFlight.clear();
  }

  /** The mirror flushed all that was in flight. Regions recorded meanwhile are brought in line. */
  settleInFlight(): void {
    const settled = this.inFlight;
    this.inFlight = new BlockSet(settled.blockCount);
    this.recordWhere(settled);
  }

  resize(blockCount: number): void {
    const before = this.dirty.blockCount;
    for (const set of [this.dirty, this.suspect, this.inFlight]) set.resize(blockCount);
    // What the mirror has past the old end is unknown; the volume reads zeroes there.
    if (blockCount > before) this.dirty.add(before, blockCount - before);
  }

  /** Appends the records that bring one region of the recorded sets in line. */
  record(region: number): void {
    const recorded = this.metadata.state.mirrors.get(this.mirrorId);
    // While the volume shrinks, the log may be ahead of this.
    if (recorded === undefined || region >= recorded.dirty.regionCount) return;
    this.recordAcknowledged();
    const live = unionOf(this.dirty, this.inFlight, region);
    this.recordSet('dirty', region, live, recorded.dirty);
    const state = this.parked.has(region) ? RegionState.ALL : this.suspect.regionState(region);
    const suspect = { state, leaf: this.suspect.leafOf(region) };
    this.recordSet('suspect', region, suspect, recorded.suspect);
  }

  /** Appends the records for all regions that are marked, in memory or in the log. */
  recordAll(): void {
    const recorded = this.metadata.state.mirrors.get(this.mirrorId);
    if (recorded === undefined) return;
    this.recordAcknowledged();
    if (this.clean && this.parked.size === 0) {
      this.recordClean(recorded);
      return;
    }
    for (const set of [this.dirty, this.inFlight, this.suspect, recorded.dirty, recorded.suspect]) {
      this.recordWhere(set);
    }
    for (const region of this.parked.keys()) this.record(region);
  }

  /** Records the regions in which `set` has blocks: those that are uniform in every set many at a time. */
  private recordWhere(set: BlockSet): void {
    this.recordAcknowledged();
    let region = set.nextRegion(0);
    while (region >= 0) {
      const end = this.recordRun(region);
      if (end === region) this.record(region);
      region = set.nextRegion(Math.max(end, region + 1));
    }
  }

  /** Records the regions from `first` on that are each uniform, and alike; returns the end of their run. */
  private recordRun(first: number): number {
    const recorded = this.metadata.state.mirrors.get(this.mirrorId);
    if (recorded === undefined || first >= recorded.dirty.regionCount) return first;
    const sets = [this.dirty, this.inFlight, this.suspect, recorded.dirty, recorded.suspect];
    let end = this.parked.nextFrom(first, recorded.dirty.regionCount);
    for (const set of sets) end = Math.min(end, set.uniformEnd(first, end));
    if (end === first) return first;
    const { ALL } = RegionState;
    const dirty = this.dirty.regionState(first) === ALL || this.inFlight.regionState(first) === ALL;
    this.appendRun('dirty', first, end, dirty, recorded.dirty);
    const suspect = this.suspect.regionState(first) === ALL;
    this.appendRun('suspect', first, end, suspect, recorded.suspect);
    return end;
  }

  private appendRun(
    set: 'dirty' | 'suspect',
    firstRegion: number,
    endRegion: number,
    value: boolean,
    recorded: BlockSet,
  ): void {
    if ((recorded.regionState(firstRegion) === RegionState.ALL) === value) return;
    const first = firstRegion * BLOCKS_PER_REGION;
    const count = Math.min(recorded.blockCount, endRegion * BLOCKS_PER_REGION) - first;
    const { mirrorId: mirror } = this;
    this.metadata.append({ kind: 'mirror-bits-run', mirror, set, first, count, value });
  }

  /** Makes what was recorded durable soon. What fails stays pending: until then hot regions cover it. */
  commit(): void {
    this.metadata.commit(() => {});
  }

  private recordClean(recorded: MirrorRecord): void {
    const mirror = this.mirrorId;
    if (recorded.suspect.count > 0) {
      this.metadata.append({ kind: 'mirror-bits-cleared', mirror, set: 'suspect' });
    }
    if (recorded.dirty.count > 0) {
      this.metadata.append({ kind: 'mirror-bits-cleared', mirror, set: 'dirty' });
    }
  }

  private recordSet(
    set: 'dirty' | 'suspect',
    region: number,
    live: { state: RegionState; leaf: Uint8Array },
    recorded: BlockSet,
  ): void {
    const { state, leaf } = live;
    if (state === recorded.regionState(region)) {
      if (state !== RegionState.MIXED) return;
      if (Buffer.compare(leaf, recorded.leafOf(region)) === 0) return;
    }
    this.metadata.append({
      kind: 'mirror-bits',
      mirror: this.mirrorId,
      set,
      region,
      state,
      leaf: state === RegionState.MIXED ? leaf : null,
    });
  }
}

function unionOf(
  one: BlockSet,
  other: BlockSet,
  region: number,
): { state: RegionState; leaf: Uint8Array } {
  const states = [one.regionState(region), other.regionState(region)];
  const leaf = one.leafOf(region);
  if (states.includes(RegionState.ALL)) return { state: RegionState.ALL, leaf };
  if (states[1] === RegionState.NONE) return { state: one.regionState(region), leaf };
  const more = other.leafOf(region);
  for (let index = 0; index < leaf.length; index += 1) {
    leaf[index] = (leaf[index] ?? 0) | (more[index] ?? 0);
  }
  return { state: RegionState.MIXED, leaf };
}
