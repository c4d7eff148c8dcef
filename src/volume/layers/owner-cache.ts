/**
 * Which layer of a chain holds each block, so that a read costs the same however long the chain is.
 *
 * The layer maps are the truth; what is here is computed from them a region at a time, when it is first asked for, and
 * may be forgotten at any time.
 *
 * Invariants:
 * - What is known of a region is what its layers' maps say: `changed` tells of every block that the top layer takes.
 * - At most OWNER_LEAVES_MAX regions are known block by block; the one known longest is forgotten.
 */
import assert from 'node:assert';
import { BLOCKS_PER_REGION, OWNER_LEAVES_MAX } from '../../io/limits.ts';
import { RegionState } from '../maps/block-set.ts';
import type { BlockSet } from '../maps/block-set.ts';
import type { LayerMap } from '../maps/layer-map.ts';

/** Owner of a block that reads as zeroes. Others are 1 more than the place of their layer in the chain. */
export const NOBODY = 0;
/** Layers of a chain at most: owners are 16-bit numbers. */
export const CHAIN_LAYERS_MAX = 65_534;

const UNKNOWN = 0;
const MIXED = 1;
/** Entry of a region with one owner: the owner and this. */
const UNIFORM = 2;

export interface Mapped {
  readonly map: LayerMap;
}

export class OwnerCache {
  /** Base layer first. */
  private readonly chain: readonly Mapped[];
  private readonly blockCount: number;
  /** UNKNOWN, MIXED, or an owner and UNIFORM. Zero-filled by the system: a region never asked for costs nothing. */
  private readonly regions: Uint32Array;
  private readonly leaves = new Map<number, Uint16Array>();
  private recent: Uint16Array | null = null;
  private recentRegion = -1;

  constructor(chain: readonly Mapped[], blockCount: number) {
    assert(chain.length <= CHAIN_LAYERS_MAX, 'the chain is bounded');
    this.chain = chain;
    this.blockCount = blockCount;
    this.regions = new Uint32Array(Math.ceil(blockCount / BLOCKS_PER_REGION));
  }

  ownerOf(block: number): number {
    const region = Math.floor(block / BLOCKS_PER_REGION);
    const entry = this.entryOf(region);
    if (entry !== MIXED) return entry - UNIFORM;
    return this.leafAt(region)[block - region * BLOCKS_PER_REGION] ?? NOBODY;
  }

  /** The end of the run from `block` whose blocks have one owner; at most `limit`. */
  runEnd(block: number, limit: number): number {
    const owner = this.ownerOf(block);
    let position = block;
    while (position < limit) {
      const region = Math.floor(position / BLOCKS_PER_REGION);
      const start = region * BLOCKS_PER_REGION;
      const stop = Math.min(limit, start + BLOCKS_PER_REGION);
      const entry = this.entryOf(region);
      if (entry === MIXED) {
        const leaf = this.leafAt(region);
        while (position < stop && leaf[position - start] === owner) position += 1;
        if (position < stop) return position;
      } else if (entry - UNIFORM === owner) {
        position = stop;
      } else {
        return position;
      }
    }
    return limit;
  }

  /** The blocks have another owner than before. */
  changed(first: number, count: number, owner: number): void {
    const end = first + count;
    for (let block = first; block < end;) {
      const region = Math.floor(block / BLOCKS_PER_REGION);
      const start = region * BLOCKS_PER_REGION;
      const stop = Math.min(end, start + BLOCKS_PER_REGION);
      const whole =
        block === start && stop === Math.min(this.blockCount, start + BLOCKS_PER_REGION);
      const entry = this.regions[region] ?? UNKNOWN;
      if (whole) this.setUniform(region, owner);
      else if (entry === MIXED) this.leafAt(region).fill(owner, block - start, stop - start);
      else if (entry !== UNKNOWN && entry !== owner + UNIFORM) {
        const leaf = new Uint16Array(BLOCKS_PER_REGION).fill(entry - UNIFORM);
        leaf.fill(owner, block - start, stop - start);
        this.setLeaf(region, leaf);
      }
      block = stop;
    }
  }

  private entryOf(region: number): number {
    const entry = this.regions[region];
    assert(entry !== undefined, 'the block is inside the view');
    return entry === UNKNOWN ? this.compute(region) : entry;
  }

  private leafAt(region: number): Uint16Array {
    if (this.recentRegion === region && this.recent !== null) return this.recent;
    const leaf = this.leaves.get(region);
    assert(leaf, 'a mixed region has its owners');
    this.recent = leaf;
    this.recentRegion = region;
    return leaf;
  }

  private compute(region: number): number {
    const { chain } = this;
    const start = region * BLOCKS_PER_REGION;
    const stop = Math.min(this.blockCount, start + BLOCKS_PER_REGION);
    let below = chain.length - 1;
    let owner = NOBODY;
    // What lies below a layer that has all of the region does not matter.
    for (; below >= 0; below -= 1) {
      const map = chain[below]?.map;
      if (map === undefined || map.blockCount < stop) continue;
      if (map.data.regionState(region) === RegionState.ALL) {
        owner = below + 1;
        break;
      }
      if (map.zero.count > 0 && map.zero.regionState(region) === RegionState.ALL) break;
    }
    let leaf: Uint16Array | null = null;
    for (let place = Math.max(0, below + 1); place < chain.length; place += 1) {
      const map = chain[place]?.map;
      assert(map, 'the chain has no gaps');
      leaf = overlay(map.data, { start, stop, owner: place + 1, leaf, before: owner });
      leaf = overlay(map.zero, { start, stop, owner: NOBODY, leaf, before: owner });
    }
    if (leaf === null) return this.setUniform(region, owner);
    this.setLeaf(region, leaf);
    return MIXED;
  }

  private setUniform(region: number, owner: number): number {
    if (this.regions[region] === MIXED) this.forget(region);
    this.regions[region] = owner + UNIFORM;
    return owner + UNIFORM;
  }

  private setLeaf(region: number, leaf: Uint16Array): void {
    if (this.leaves.size >= OWNER_LEAVES_MAX) {
      for (const oldest of this.leaves.keys()) {
        this.forget(oldest);
        this.regions[oldest] = UNKNOWN;
        break;
      }
    }
    this.leaves.set(region, leaf);
    this.regions[region] = MIXED;
    if (this.recentRegion === region) this.recent = leaf;
  }

  private forget(region: number): void {
    this.leaves.delete(region);
    if (this.recentRegion === region) this.recent = null;
  }
}

interface Overlay {
  readonly start: number;
  readonly stop: number;
  /** Of the blocks in the set. */
  readonly owner: number;
  readonly leaf: Uint16Array | null;
  /** Of all blocks while there is no leaf. */
  readonly before: number;
}

/** Gives the set's blocks of a region their owner; makes the leaf when there are any. */
function overlay(set: BlockSet, { start, stop, owner, leaf, before }: Overlay): Uint16Array | null {
  const limit = Math.min(stop, set.blockCount);
  if (set.count === 0 || start >= limit) return leaf;
  const state = set.regionState(start / BLOCKS_PER_REGION);
  if (state === RegionState.NONE) return leaf;
  const result = leaf ?? new Uint16Array(BLOCKS_PER_REGION).fill(before);
  let position = start;
  while (position < limit) {
    const end = set.runEnd(position, limit);
    if (set.has(position)) result.fill(owner, position - start, end - start);
    position = end;
  }
  return result;
}
