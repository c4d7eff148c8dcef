/**
 * A set of blocks: the sparse bitmap behind layer maps, delta bitmaps and sweeps.
 *
 * Two levels. Each region of BLOCKS_PER_REGION blocks takes one byte (none, all or mixed); only a mixed
 * region has a leaf with one bit a block, so an empty or a full 4 TiB set costs 1 MiB. A count for each
 * group of regions lets a search skip what is empty.
 *
 * Invariants:
 * - `count` is the number of set blocks, kept on every change.
 * - A region is `mixed` exactly when 0 < its count < its blocks; only then it has a leaf. The last region
 *   may have fewer than BLOCKS_PER_REGION blocks: it is `all` when those are set.
 * - `occupied[group]` is the number of its regions that are not `none`.
 * - Bits past the last block are zero in every leaf.
 *
 * Block numbers pass 2^32, so they are divided, never shifted; region numbers and positions inside a region
 * are 32-bit.
 */
import assert from 'node:assert';
import { BLOCKS_PER_REGION } from '../io/limits.ts';
import { LEAF_BYTES, bitOf, changeBits, countBits, scan } from './leaf.ts';

export const RegionState = Object.freeze({ NONE: 0, ALL: 1, MIXED: 2 } as const);
export type RegionState = (typeof RegionState)[keyof typeof RegionState];

/** Regions that one entry of `occupied` counts. */
const GROUP_REGIONS = 1024;

interface Leaf {
  readonly bits: Uint8Array;
  count: number;
}

export class BlockSet {
  private blocks: number;
  private total = 0;
  private regions: Uint8Array;
  private occupied: Uint16Array;
  private readonly leaves = new Map<number, Leaf>();

  /** An empty set over blocks `0 .. blockCount - 1`. */
  constructor(blockCount: number) {
    assert(Number.isSafeInteger(blockCount), 'block count is an integer');
    assert(blockCount >= 0, 'block count is not negative');
    this.blocks = blockCount;
    this.regions = new Uint8Array(Math.ceil(blockCount / BLOCKS_PER_REGION));
    this.occupied = new Uint16Array(Math.ceil(this.regions.length / GROUP_REGIONS));
  }

  get blockCount(): number {
    return this.blocks;
  }

  /** Blocks in the set. */
  get count(): number {
    return this.total;
  }

  get regionCount(): number {
    return this.regions.length;
  }

  has(block: number): boolean {
    const region = Math.floor(block / BLOCKS_PER_REGION);
    const state = this.regions[region];
    assert(state !== undefined, 'block is inside the set');
    if (state !== RegionState.MIXED) return state === RegionState.ALL;
    return bitOf(this.leafAt(region).bits, block - region * BLOCKS_PER_REGION);
  }

  /** Adds `count` blocks from `first`; says how many were not in the set before. */
  add(first: number, count: number): number {
    return this.change(first, count, true);
  }

  /** Removes `count` blocks from `first`; says how many were in the set before. */
  remove(first: number, count: number): number {
    return this.change(first, count, false);
  }

  clear(): void {
    if (this.total === 0) return;
    for (let group = 0; group < this.occupied.length; group += 1) {
      if (this.occupied[group] === 0) continue;
      const first = group * GROUP_REGIONS;
      this.regions.fill(RegionState.NONE, first, first + GROUP_REGIONS);
    }
    this.occupied.fill(0);
    this.leaves.clear();
    this.total = 0;
  }

  addAll(): void {
    this.regions.fill(RegionState.ALL);
    this.leaves.clear();
    this.total = this.blocks;
    this.countGroups();
  }

  /** Adds every block of `other` that exists here. */
  addSet(other: BlockSet): void {
    let region = other.nextRegion(0);
    while (region >= 0 && region < this.regions.length) {
      this.addRegionOf(other, region);
      region = other.nextRegion(region + 1);
    }
  }

  /** The first run of set blocks at or after `from`, cut to `maxBlocks`; null when there is none. */
  nextRun(from: number, maxBlocks: number): { first: number; count: number } | null {
    assert(maxBlocks > 0, 'a run has at least one block');
    if (this.total === 0 || from >= this.blocks) return null;
    const first = this.firstFrom(from);
    if (first < 0) return null;
    const end = this.runEnd(first, Math.min(this.blocks, first + maxBlocks));
    return { first, count: end - first };
  }

  /** The end of the run that begins at `block` and whose blocks are all in the set, or all not; at most `limit`. */
  runEnd(block: number, limit: number): number {
    assert(limit <= this.blocks, 'limit is inside the set');
    const wanted = this.has(block);
    const uniform = wanted ? RegionState.ALL : RegionState.NONE;
    let position = block;
    while (position < limit) {
      const region = Math.floor(position / BLOCKS_PER_REGION);
      const base = region * BLOCKS_PER_REGION;
      if (this.regions[region] === RegionState.MIXED) {
        const within = scan(this.leafAt(region).bits, position - base, wanted);
        if (within < BLOCKS_PER_REGION) return Math.min(limit, base + within);
      } else if (this.regions[region] !== uniform) {
        return position;
      }
      position = base + BLOCKS_PER_REGION;
    }
    return limit;
  }

  regionState(region: number): RegionState {
    const state = this.regions[region];
    assert(state !== undefined, 'region is inside the set');
    return state as RegionState;
  }

  /** A copy of the region's bits, whatever its state. */
  leafOf(region: number): Uint8Array {
    const bits = new Uint8Array(LEAF_BYTES);
    const state = this.regionState(region);
    if (state === RegionState.MIXED) bits.set(this.leafAt(region).bits);
    else if (state === RegionState.ALL) changeBits(bits, 0, this.blocksIn(region), true);
    return bits;
  }

  /** Blocks of the set in the region. */
  countIn(region: number): number {
    const state = this.regionState(region);
    if (state === RegionState.MIXED) return this.leafAt(region).count;
    return state === RegionState.ALL ? this.blocksIn(region) : 0;
  }

  /** Replaces the region's bits; `leaf` is needed when `state` is mixed. Bits past the last block are dropped. */
  setRegion(region: number, state: RegionState, leaf: Uint8Array | null): void {
    const base = region * BLOCKS_PER_REGION;
    const blocks = this.blocksIn(region);
    if (state !== RegionState.MIXED) {
      this.change(base, blocks, state === RegionState.ALL);
      return;
    }
    assert(leaf !== null, 'a mixed region has a leaf');
    assert(leaf.length === LEAF_BYTES, 'a leaf has its size');
    const bits = leaf.slice();
    changeBits(bits, blocks, BLOCKS_PER_REGION, false);
    this.total -= this.countIn(region);
    this.settle(region, { bits, count: countBits(bits) });
    this.total += this.countIn(region);
  }

  /** The first region at or after `from` that has a set block; -1 when there is none. */
  nextRegion(from: number): number {
    if (this.total === 0) return -1;
    const regions = this.regions;
    let region = from;
    while (region < regions.length) {
      const group = Math.floor(region / GROUP_REGIONS);
      if (this.occupied[group] !== 0) {
        const stop = Math.min(regions.length, (group + 1) * GROUP_REGIONS);
        for (; region < stop; region += 1) {
          if (regions[region] !== RegionState.NONE) return region;
        }
      }
      region = (group + 1) * GROUP_REGIONS;
    }
    return -1;
  }

  /** Grows by blocks that are not in the set, or drops the blocks past the new end. */
  resize(blockCount: number): void {
    assert(Number.isSafeInteger(blockCount), 'block count is an integer');
    assert(blockCount >= 0, 'block count is not negative');
    if (blockCount < this.blocks) this.remove(blockCount, this.blocks - blockCount);
    const lastBefore = this.regions.length - 1;
    const lastLeaf = lastBefore >= 0 ? this.leafOf(lastBefore) : null;
    this.blocks = blockCount;
    const regions = new Uint8Array(Math.ceil(blockCount / BLOCKS_PER_REGION));
    regions.set(this.regions.subarray(0, regions.length));
    this.regions = regions;
    this.occupied = new Uint16Array(Math.ceil(regions.length / GROUP_REGIONS));
    this.countGroups();
    // The block count of two regions may have changed: the one that was last and the one that is.
    const lastNow = regions.length - 1;
    if (lastLeaf !== null && lastBefore <= lastNow) {
      this.settle(lastBefore, { bits: lastLeaf, count: countBits(lastLeaf) });
    }
    if (lastNow >= 0 && lastNow < lastBefore) {
      const leaf = this.leaves.get(lastNow);
      if (leaf !== undefined) this.settle(lastNow, leaf);
    }
  }

  /** A set of the same blocks that shares nothing with this one. */
  clone(): BlockSet {
    const copy = new BlockSet(this.blocks);
    copy.regions.set(this.regions);
    copy.occupied.set(this.occupied);
    copy.total = this.total;
    for (const [region, leaf] of this.leaves) {
      copy.leaves.set(region, { bits: leaf.bits.slice(), count: leaf.count });
    }
    return copy;
  }

  private blocksIn(region: number): number {
    return Math.min(BLOCKS_PER_REGION, this.blocks - region * BLOCKS_PER_REGION);
  }

  private leafAt(region: number): Leaf {
    const leaf = this.leaves.get(region);
    assert(leaf, 'a mixed region has a leaf');
    return leaf;
  }

  private change(first: number, count: number, value: boolean): number {
    assert(first >= 0, 'range begins inside the set');
    assert(first + count <= this.blocks, 'range ends inside the set');
    const end = first + count;
    let changed = 0;
    let position = first;
    while (position < end) {
      const region = Math.floor(position / BLOCKS_PER_REGION);
      const base = region * BLOCKS_PER_REGION;
      const stop = Math.min(end, base + BLOCKS_PER_REGION);
      changed += this.changeInRegion(region, position - base, stop - base, value);
      position = stop;
    }
    this.total += value ? changed : -changed;
    return changed;
  }

  private changeInRegion(region: number, from: number, to: number, value: boolean): number {
    const state = this.regions[region];
    const uniform = value ? RegionState.ALL : RegionState.NONE;
    if (state === uniform) return 0;
    const blocks = this.blocksIn(region);
    if (from === 0 && to === blocks) {
      const before = this.countIn(region);
      this.setState(region, uniform);
      this.leaves.delete(region);
      return value ? blocks - before : before;
    }
    const leaf =
      state === RegionState.MIXED
        ? this.leafAt(region)
        : { bits: this.leafOf(region), count: this.countIn(region) };
    const changed = changeBits(leaf.bits, from, to, value);
    leaf.count += value ? changed : -changed;
    this.settle(region, leaf);
    return changed;
  }

  /** Stores a region's leaf in the form that its count asks for. Leaves `total` alone. */
  private settle(region: number, leaf: Leaf): void {
    if (leaf.count === 0 || leaf.count === this.blocksIn(region)) {
      this.setState(region, leaf.count === 0 ? RegionState.NONE : RegionState.ALL);
      this.leaves.delete(region);
      return;
    }
    if (this.regions[region] === RegionState.MIXED && this.leaves.get(region) === leaf) return;
    this.setState(region, RegionState.MIXED);
    this.leaves.set(region, leaf);
  }

  private setState(region: number, state: RegionState): void {
    const was = this.regions[region] === RegionState.NONE ? 0 : 1;
    const is = state === RegionState.NONE ? 0 : 1;
    const group = Math.floor(region / GROUP_REGIONS);
    this.occupied[group] = (this.occupied[group] ?? 0) + is - was;
    this.regions[region] = state;
  }

  private countGroups(): void {
    this.occupied.fill(0);
    this.regions.forEach((state, region) => {
      if (state === RegionState.NONE) return;
      const group = Math.floor(region / GROUP_REGIONS);
      this.occupied[group] = (this.occupied[group] ?? 0) + 1;
    });
  }

  /** The first set block at or after `from`, or -1. */
  private firstFrom(from: number): number {
    if (this.has(from)) return from;
    const region = Math.floor(from / BLOCKS_PER_REGION);
    const rest = Math.min(this.blocks, (region + 1) * BLOCKS_PER_REGION);
    const here = this.runEnd(from, rest);
    if (here < rest) return here;
    const next = this.nextRegion(region + 1);
    if (next < 0) return -1;
    const first = next * BLOCKS_PER_REGION;
    return this.has(first) ? first : this.runEnd(first, this.blocks);
  }

  private addRegionOf(other: BlockSet, region: number): void {
    const blocks = Math.min(this.blocksIn(region), other.blocksIn(region));
    if (other.regions[region] === RegionState.ALL) {
      this.add(region * BLOCKS_PER_REGION, blocks);
      return;
    }
    const bits = this.leafOf(region);
    const added = other.leafAt(region).bits;
    for (let index = 0; index < LEAF_BYTES; index += 1) {
      bits[index] = (bits[index] ?? 0) | (added[index] ?? 0);
    }
    this.setRegion(region, RegionState.MIXED, bits);
  }
}
