/**
 * A set of blocks: the sparse bitmap behind layer maps, delta bitmaps and sweeps.
 *
 * Three levels: groups of GROUP_REGIONS regions of BLOCKS_PER_REGION blocks. A group that is all set or all
 * clear takes one byte; of another one each region takes a few bytes, and one that is mixed also a leaf with one bit
 * a block. So an empty or a full set of 16 TiB costs 16 KiB, and whatever is asked of a range takes steps of 1 GiB
 * where the set is uniform.
 *
 * Invariants:
 * - `count` is the number of set blocks, kept on every change.
 * - A region is `mixed` exactly when 0 < its count < its blocks, a group likewise; only a mixed group is in
 *   `groups`. The last ones may have fewer blocks: they are `all` when those are set.
 * - Bits past the last block are zero in every leaf.
 * - A group that another set holds as well is never changed: the set that wants to takes a copy first.
 *
 * Block numbers pass 2^32, so they are divided, never shifted; region numbers and positions inside a region
 * are 32-bit.
 */
import assert from 'node:assert';
import { BLOCKS_PER_REGION } from '../../io/limits.ts';
import { LEAF_BYTES, bitOf, changeBits, countBits } from './leaf.ts';
import { GROUP_REGIONS, RegionGroup, RegionState } from './region-group.ts';

export { RegionState } from './region-group.ts';

/** Groups that one `shareWith` passes at most, uniform ones included. */
const SHARE_STEPS_MAX = 4096;

const GROUP_BLOCKS = GROUP_REGIONS * BLOCKS_PER_REGION;

export class BlockSet {
  private blocks: number;
  private total = 0;
  private states: Uint8Array;
  private readonly groups = new Map<number, RegionGroup>();
  /** The group looked at last: neighbours follow each other. */
  private recent: RegionGroup | null = null;
  private recentIndex = -1;
  /** The group that `shareWith` looks at next. */
  private shareNext = 0;

  /** An empty set over blocks `0 .. blockCount - 1`. */
  constructor(blockCount: number) {
    assert(Number.isSafeInteger(blockCount), 'block count is an integer');
    assert(blockCount >= 0, 'block count is not negative');
    this.blocks = blockCount;
    this.states = new Uint8Array(Math.ceil(blockCount / GROUP_BLOCKS));
  }

  get blockCount(): number {
    return this.blocks;
  }

  /** Blocks in the set. */
  get count(): number {
    return this.total;
  }

  get regionCount(): number {
    return Math.ceil(this.blocks / BLOCKS_PER_REGION);
  }

  has(block: number): boolean {
    const region = Math.floor(block / BLOCKS_PER_REGION);
    const index = Math.floor(region / GROUP_REGIONS);
    const groupState = this.states[index];
    assert(groupState !== undefined && block < this.blocks, 'block is inside the set');
    if (groupState !== RegionState.MIXED) return groupState === RegionState.ALL;
    const group = this.groupAt(index);
    const within = region - index * GROUP_REGIONS;
    const state = group.stateOf(within);
    if (state !== RegionState.MIXED) return state === RegionState.ALL;
    return bitOf(group.bits, group.bitsAt(within) + (block - region * BLOCKS_PER_REGION));
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
    this.setAll(RegionState.NONE);
    this.total = 0;
  }

  addAll(): void {
    this.setAll(RegionState.ALL);
    this.total = this.blocks;
  }

  /** Adds every block of `other` that exists here. */
  addSet(other: BlockSet): void {
    const regions = this.regionCount;
    let region = other.nextRegion(0);
    while (region >= 0 && region < regions) {
      this.addRegionOf(other, region);
      region = other.nextRegion(region + 1);
    }
  }

  /** The first run of set blocks at or after `from`, cut to `maxBlocks`; null when there is none. */
  nextRun(from: number, maxBlocks: number): { first: number; count: number } | null {
    assert(maxBlocks > 0, 'a run has at least one block');
    if (this.total === 0 || from >= this.blocks) return null;
    const first = this.has(from) ? from : this.runEnd(from, this.blocks);
    if (first >= this.blocks) return null;
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
      const index = Math.floor(position / GROUP_BLOCKS);
      const state = this.states[index];
      if (state === uniform) {
        position = this.groupAfter(index, uniform, limit) * GROUP_BLOCKS;
      } else if (state === RegionState.MIXED) {
        const stop = Math.min(limit, (index + 1) * GROUP_BLOCKS);
        const base = index * GROUP_BLOCKS;
        position = base + this.groupAt(index).runEnd(position - base, stop - base, wanted);
        if (position < stop) return position;
      } else {
        return position;
      }
    }
    return limit;
  }

  regionState(region: number): RegionState {
    const index = Math.floor(region / GROUP_REGIONS);
    const state = this.states[index];
    assert(state !== undefined && region < this.regionCount, 'region is inside the set');
    if (state !== RegionState.MIXED) return state as RegionState;
    return this.groupAt(index).stateOf(region - index * GROUP_REGIONS);
  }

  /** The end of the run of regions from `region` that are all of them `none`, or all `all`; at most `limit`. */
  uniformEnd(region: number, limit: number): number {
    const state = this.regionState(region);
    if (state === RegionState.MIXED) return region;
    const end = Math.min(this.blocks, limit * BLOCKS_PER_REGION);
    const stop = this.runEnd(region * BLOCKS_PER_REGION, end);
    // A run that ends inside a region leaves that one mixed, unless it is the last block of all.
    return stop === end ? limit : Math.floor(stop / BLOCKS_PER_REGION);
  }

  /** A copy of the region's bits, whatever its state. */
  leafOf(region: number): Uint8Array {
    const bits = new Uint8Array(LEAF_BYTES);
    this.readLeaf(region, bits);
    return bits;
  }

  /** Copies the region's bits, whatever its state, into `leaf`. */
  readLeaf(region: number, leaf: Uint8Array): void {
    const state = this.regionState(region);
    if (state === RegionState.MIXED) {
      const index = Math.floor(region / GROUP_REGIONS);
      const group = this.groupAt(index);
      const start = group.bitsAt(region - index * GROUP_REGIONS) / 8;
      leaf.set(group.bits.subarray(start, start + LEAF_BYTES));
    } else {
      leaf.fill(0);
      if (state === RegionState.ALL) changeBits(leaf, 0, this.blocksIn(region), true);
    }
  }

  /** Blocks of the set in the region. */
  countIn(region: number): number {
    const state = this.regionState(region);
    if (state === RegionState.NONE) return 0;
    if (state === RegionState.ALL) return this.blocksIn(region);
    const index = Math.floor(region / GROUP_REGIONS);
    return this.groupAt(index).countOf(region - index * GROUP_REGIONS, this.blocksIn(region));
  }

  /** Replaces the region's bits; `leaf` is needed when `state` is mixed. Bits past the last block are dropped. */
  setRegion(region: number, state: RegionState, leaf: Uint8Array | null): void {
    assert(region < this.regionCount, 'region is inside the set');
    const blocks = this.blocksIn(region);
    if (state !== RegionState.MIXED) {
      this.change(region * BLOCKS_PER_REGION, blocks, state === RegionState.ALL);
      return;
    }
    assert(leaf !== null, 'a mixed region has a leaf');
    assert(leaf.length === LEAF_BYTES, 'a leaf has its size');
    const index = Math.floor(region / GROUP_REGIONS);
    const within = region - index * GROUP_REGIONS;
    const group = this.openGroup(index);
    group.open(within, blocks);
    const start = group.bitsAt(within);
    group.bits.set(leaf, start / 8);
    changeBits(group.bits, start + blocks, start + BLOCKS_PER_REGION, false);
    const count = countBits(group.bits, start / 8, start / 8 + LEAF_BYTES);
    this.total += count - group.countOf(within, blocks);
    group.setCount(within, count);
    this.settle(group, index, within);
  }

  /** The first region at or after `from` that has a set block; -1 when there is none. */
  nextRegion(from: number): number {
    const regions = this.regionCount;
    let region = from;
    while (region < regions) {
      const index = Math.floor(region / GROUP_REGIONS);
      const state = this.states[index];
      if (state === RegionState.ALL) return region;
      if (state === RegionState.MIXED) {
        const group = this.groupAt(index);
        const end = Math.min(regions, (index + 1) * GROUP_REGIONS);
        for (; region < end; region += 1) {
          if (group.stateOf(region - index * GROUP_REGIONS) !== RegionState.NONE) return region;
        }
      } else {
        region = this.groupAfter(index, RegionState.NONE, this.blocks) * GROUP_REGIONS;
      }
    }
    return -1;
  }

  /** Grows by blocks that are not in the set, or drops the blocks past the new end. */
  resize(blockCount: number): void {
    assert(Number.isSafeInteger(blockCount), 'block count is an integer');
    assert(blockCount >= 0, 'block count is not negative');
    const shrinks = blockCount < this.blocks;
    if (shrinks) this.remove(blockCount, this.blocks - blockCount);
    // The last region that both sizes have may have been all set of fewer blocks, or be so now.
    const shared = Math.ceil(Math.min(blockCount, this.blocks) / BLOCKS_PER_REGION) - 1;
    if (shared >= 0 && !shrinks) this.openRegion(shared);
    this.blocks = blockCount;
    const states = new Uint8Array(Math.ceil(blockCount / GROUP_BLOCKS));
    states.set(this.states.subarray(0, states.length));
    this.states = states;
    for (const index of this.groups.keys()) if (index >= states.length) this.letGo(index);
    if (shared >= 0) this.settleRegion(shared);
  }

  /** A set of the same blocks that changes on its own. What is mixed takes memory once, until one of the two changes it. */
  clone(): BlockSet {
    const copy = new BlockSet(this.blocks);
    copy.states.set(this.states);
    copy.total = this.total;
    for (const [index, group] of this.groups) {
      group.holders += 1;
      copy.groups.set(index, group);
    }
    return copy;
  }

  /**
   * Compares the next `most` mixed groups, and holds together with `other` those that are equal, as a clone does. The next
   * call goes on behind them.
   */
  shareWith(other: BlockSet, most: number): void {
    if (this.blocks !== other.blocks) return;
    const { states } = this;
    let looks = 0;
    for (let step = 0; step < Math.min(states.length, SHARE_STEPS_MAX) && looks < most; step += 1) {
      const index = this.shareNext < states.length ? this.shareNext : 0;
      this.shareNext = index + 1;
      const both = states[index] === RegionState.MIXED && other.states[index] === states[index];
      if (both && this.adopt(index, other.groupAt(index))) looks += 1;
    }
  }

  private blocksIn(region: number): number {
    return Math.min(BLOCKS_PER_REGION, this.blocks - region * BLOCKS_PER_REGION);
  }

  private blocksInGroup(index: number): number {
    return Math.min(GROUP_BLOCKS, this.blocks - index * GROUP_BLOCKS);
  }

  /** The first group after `index` that has another state, or that begins at or after the block `limit`. */
  private groupAfter(index: number, state: RegionState, limit: number): number {
    const { states } = this;
    const end = Math.ceil(limit / GROUP_BLOCKS);
    let next = index + 1;
    while (next < end && states[next] === state) next += 1;
    return next;
  }

  private groupAt(index: number): RegionGroup {
    if (this.recentIndex === index && this.recent !== null) return this.recent;
    const group = this.groups.get(index);
    assert(group, 'a mixed group has its regions');
    this.recent = group;
    this.recentIndex = index;
    return group;
  }

  /** Takes a group of another set in place of an equal one; says whether they had to be compared. */
  private adopt(index: number, theirs: RegionGroup): boolean {
    const mine = this.groupAt(index);
    if (mine === theirs) return false;
    if (mine.equals(theirs)) {
      mine.holders -= 1;
      theirs.holders += 1;
      this.hold(index, theirs);
    }
    return true;
  }

  private hold(index: number, group: RegionGroup): void {
    this.groups.set(index, group);
    if (this.recentIndex === index) this.recent = group;
  }

  /** The regions of a group that nobody else holds, whatever its state; `settle` follows. */
  private openGroup(index: number): RegionGroup {
    const state = this.states[index];
    if (state === RegionState.MIXED) {
      const held = this.groupAt(index);
      if (held.holders === 1) return held;
      const copy = held.clone();
      held.holders -= 1;
      this.hold(index, copy);
      return copy;
    }
    const group = new RegionGroup();
    if (state === RegionState.ALL) {
      const regions = Math.ceil(this.blocksInGroup(index) / BLOCKS_PER_REGION);
      for (let within = 0; within < regions; within += 1) {
        group.close(within, RegionState.ALL, this.blocksIn(index * GROUP_REGIONS + within));
      }
    }
    this.states[index] = RegionState.MIXED;
    this.hold(index, group);
    return group;
  }

  private closeGroup(index: number, state: RegionState): void {
    this.states[index] = state;
    this.letGo(index);
  }

  private letGo(index: number): void {
    const group = this.groups.get(index);
    if (group === undefined) return;
    group.holders -= 1;
    this.groups.delete(index);
    if (this.recentIndex === index) this.recent = null;
  }

  private openRegion(region: number): void {
    const index = Math.floor(region / GROUP_REGIONS);
    this.openGroup(index).open(region - index * GROUP_REGIONS, this.blocksIn(region));
  }

  private settleRegion(region: number): void {
    const index = Math.floor(region / GROUP_REGIONS);
    this.settle(this.openGroup(index), index, region - index * GROUP_REGIONS);
  }

  /** Gives a region, and its group, the form that their counts ask for. */
  private settle(group: RegionGroup, index: number, within: number): void {
    const blocks = this.blocksIn(index * GROUP_REGIONS + within);
    const count = group.countOf(within, blocks);
    if (count === 0) group.close(within, RegionState.NONE, blocks);
    else if (count === blocks) group.close(within, RegionState.ALL, blocks);
    if (group.total === 0) this.closeGroup(index, RegionState.NONE);
    else if (group.total === this.blocksInGroup(index)) this.closeGroup(index, RegionState.ALL);
  }

  private setAll(state: RegionState): void {
    this.states.fill(state);
    for (const index of this.groups.keys()) this.letGo(index);
  }

  private change(first: number, count: number, value: boolean): number {
    assert(first >= 0, 'range begins inside the set');
    assert(first + count <= this.blocks, 'range ends inside the set');
    const end = first + count;
    let changed = 0;
    let position = first;
    while (position < end) {
      const index = Math.floor(position / GROUP_BLOCKS);
      const stop = Math.min(end, (index + 1) * GROUP_BLOCKS);
      changed += this.changeInGroup(index, position, stop, value);
      position = stop;
    }
    this.total += value ? changed : -changed;
    return changed;
  }

  private changeInGroup(index: number, first: number, end: number, value: boolean): number {
    const uniform = value ? RegionState.ALL : RegionState.NONE;
    const state = this.states[index];
    if (state === uniform) return 0;
    const blocks = this.blocksInGroup(index);
    if (end - first === blocks) {
      const before = state === RegionState.MIXED ? this.groupAt(index).total : value ? 0 : blocks;
      this.closeGroup(index, uniform);
      return value ? blocks - before : before;
    }
    if (state === RegionState.MIXED) {
      const held = this.groupAt(index);
      const from = first - index * GROUP_BLOCKS;
      const to = end - index * GROUP_BLOCKS;
      // A copy is taken for a change alone.
      if (held.holders > 1 && held.runEnd(from, to, value) === to) return 0;
    }
    const group = this.openGroup(index);
    let changed = 0;
    let position = first;
    while (position < end) {
      const region = Math.floor(position / BLOCKS_PER_REGION);
      const base = region * BLOCKS_PER_REGION;
      const stop = Math.min(end, base + BLOCKS_PER_REGION);
      const blocksIn = this.blocksIn(region);
      changed += group.change(
        region % GROUP_REGIONS,
        position - base,
        stop - base,
        blocksIn,
        value,
      );
      position = stop;
    }
    if (group.total === 0) this.closeGroup(index, RegionState.NONE);
    else if (group.total === blocks) this.closeGroup(index, RegionState.ALL);
    return changed;
  }

  private addRegionOf(other: BlockSet, region: number): void {
    const blocks = Math.min(this.blocksIn(region), other.blocksIn(region));
    if (other.regionState(region) === RegionState.ALL) {
      this.add(region * BLOCKS_PER_REGION, blocks);
      return;
    }
    const bits = this.leafOf(region);
    const added = other.leafOf(region);
    for (let index = 0; index < LEAF_BYTES; index += 1) {
      bits[index] = (bits[index] ?? 0) | (added[index] ?? 0);
    }
    this.setRegion(region, RegionState.MIXED, bits);
  }
}
