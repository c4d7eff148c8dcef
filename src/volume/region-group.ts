/**
 * The regions of one group of a BlockSet, and the bits of those that are mixed, back to back in one array:
 * a leaf costs its 128 bytes and little more, however many there are.
 *
 * Invariants:
 * - `counts` holds the set blocks of each region, `total` their sum.
 * - A mixed region has a slot in `bits`, and no other has; the first `used` slots are taken.
 * - `occupied` regions are not `none`, `full` ones are `all`.
 * - Several sets may hold one group: it is changed only while a single one does.
 */
import { BLOCKS_PER_REGION } from '../io/limits.ts';
import { LEAF_BYTES, changeBits, scan } from './leaf.ts';

export const RegionState = Object.freeze({ NONE: 0, ALL: 1, MIXED: 2 } as const);
export type RegionState = (typeof RegionState)[keyof typeof RegionState];

/** Regions of a group: 1 GiB of a volume. */
export const GROUP_REGIONS = 256;

const LEAVES_MIN = 4;
const NOTHING = new Uint8Array(0);

export class RegionGroup {
  readonly counts: Uint16Array = new Uint16Array(GROUP_REGIONS);
  /** The leaves, slot by slot. */
  bits: Uint8Array = NOTHING;
  total = 0;
  occupied = 0;
  full = 0;
  /** Sets that hold this group. One that is forgotten without letting go still counts: that costs a copy later. */
  holders = 1;
  private used = 0;
  private readonly states = new Uint8Array(GROUP_REGIONS);
  /** Slot of each mixed region, and region of each slot. */
  private readonly slots = new Uint8Array(GROUP_REGIONS);
  private readonly owners = new Uint8Array(GROUP_REGIONS);

  stateOf(index: number): RegionState {
    return (this.states[index] ?? 0) as RegionState;
  }

  /** Position in `bits` of the first bit of a mixed region. */
  bitsAt(index: number): number {
    return (this.slots[index] ?? 0) * BLOCKS_PER_REGION;
  }

  /** Makes a region mixed, with the bits that it has; `blocks`: how many it has. */
  open(index: number, blocks: number): void {
    const state = this.stateOf(index);
    if (state === RegionState.MIXED) return;
    this.reserve();
    const slot = this.used;
    this.used += 1;
    this.slots[index] = slot;
    this.owners[slot] = index;
    const start = slot * LEAF_BYTES;
    this.bits.fill(0, start, start + LEAF_BYTES);
    if (state === RegionState.ALL) {
      const first = slot * BLOCKS_PER_REGION;
      changeBits(this.bits, first, first + blocks, true);
    }
    this.setState(index, RegionState.MIXED);
  }

  /** Makes a region uniform. */
  close(index: number, state: RegionState, count: number): void {
    if (this.stateOf(index) === RegionState.MIXED) this.dropLeaf(index);
    this.setState(index, state);
    this.setCount(index, count);
  }

  /** Sets or clears the blocks `from .. to - 1` of a region that has `blocks`; says how many changed. */
  change(index: number, from: number, to: number, blocks: number, value: boolean): number {
    const uniform = value ? RegionState.ALL : RegionState.NONE;
    if (this.stateOf(index) === uniform) return 0;
    const before = this.counts[index] ?? 0;
    if (to - from === blocks) {
      this.close(index, uniform, value ? blocks : 0);
      return value ? blocks - before : before;
    }
    this.open(index, blocks);
    const start = this.bitsAt(index);
    const changed = changeBits(this.bits, start + from, start + to, value);
    const after = value ? before + changed : before - changed;
    if (after === 0 || after === blocks) this.close(index, uniform, after);
    else this.setCount(index, after);
    return changed;
  }

  /**
   * The first block at or after `from` that is in the set though `wanted` says not, or the other way round; `stop` when
   * there is none before it. By places in the group.
   */
  runEnd(from: number, stop: number, wanted: boolean): number {
    const uniform = wanted ? RegionState.ALL : RegionState.NONE;
    let position = from;
    while (position < stop) {
      const index = Math.floor(position / BLOCKS_PER_REGION);
      const base = index * BLOCKS_PER_REGION;
      const state = this.stateOf(index);
      const end = Math.min(stop, base + BLOCKS_PER_REGION);
      if (state === RegionState.MIXED) {
        const start = this.bitsAt(index) - base;
        const found = scan(this.bits, start + position, start + end, wanted) - start;
        if (found < end) return found;
      } else if (state !== uniform) {
        return position;
      }
      position = end;
    }
    return stop;
  }

  setCount(index: number, count: number): void {
    this.total += count - (this.counts[index] ?? 0);
    this.counts[index] = count;
  }

  clone(): RegionGroup {
    const copy = new RegionGroup();
    copy.counts.set(this.counts);
    copy.states.set(this.states);
    copy.slots.set(this.slots);
    copy.owners.set(this.owners);
    copy.bits = this.bits.slice(0, this.used * LEAF_BYTES);
    copy.total = this.total;
    copy.occupied = this.occupied;
    copy.full = this.full;
    copy.used = this.used;
    return copy;
  }

  /** The same blocks are set. */
  equals(other: RegionGroup): boolean {
    if (this.total !== other.total || this.used !== other.used) return false;
    if (!sameBytes(this.states, other.states)) return false;
    const bytes = this.used * LEAF_BYTES;
    if (sameBytes(this.slots, other.slots)) {
      return sameBytes(this.bits.subarray(0, bytes), other.bits.subarray(0, bytes));
    }
    for (let slot = 0; slot < this.used; slot += 1) {
      const start = slot * LEAF_BYTES;
      const there = (other.slots[this.owners[slot] ?? 0] ?? 0) * LEAF_BYTES;
      for (let index = 0; index < LEAF_BYTES; index += 1) {
        if (this.bits[start + index] !== other.bits[there + index]) return false;
      }
    }
    return true;
  }

  private setState(index: number, state: RegionState): void {
    const before = this.stateOf(index);
    if (before !== RegionState.NONE) this.occupied -= 1;
    if (before === RegionState.ALL) this.full -= 1;
    if (state !== RegionState.NONE) this.occupied += 1;
    if (state === RegionState.ALL) this.full += 1;
    this.states[index] = state;
  }

  private reserve(): void {
    if ((this.used + 1) * LEAF_BYTES <= this.bits.length) return;
    const larger = new Uint8Array(Math.max(LEAVES_MIN, 2 * this.used) * LEAF_BYTES);
    larger.set(this.bits);
    this.bits = larger;
  }

  /** The leaf of the last slot takes the place of the one that goes. */
  private dropLeaf(index: number): void {
    const slot = this.slots[index] ?? 0;
    this.used -= 1;
    const last = this.used;
    if (slot !== last) {
      this.bits.copyWithin(slot * LEAF_BYTES, last * LEAF_BYTES, (last + 1) * LEAF_BYTES);
      const moved = this.owners[last] ?? 0;
      this.owners[slot] = moved;
      this.slots[moved] = slot;
    }
    if (this.used === 0) this.bits = NOTHING;
  }
}

function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0;
}
