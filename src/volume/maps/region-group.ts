/**
 * The regions of one group of a BlockSet, and the bits of those that are mixed, back to back in one array:
 * a leaf costs its 128 bytes and little more, however many there are, and a group of few mixed regions about a KiB.
 *
 * Invariants:
 * - `total` is the number of set blocks. A mixed region's is in `counts`, by slot; another one has none, or all.
 * - A mixed region has a slot in `bits`, and no other has; the first `used` slots are taken.
 * - Several sets may hold one group: it is changed only while a single one does.
 */
import { BLOCKS_PER_REGION } from '../../io/limits.ts';
import { LEAF_BYTES, changeBits, scan } from './leaf.ts';

export const RegionState = Object.freeze({ NONE: 0, ALL: 1, MIXED: 2 } as const);
export type RegionState = (typeof RegionState)[keyof typeof RegionState];

/** Regions of a group: 1 GiB of a volume. */
export const GROUP_REGIONS = 256;

const LEAVES_MIN = 4;
const NO_BYTES = new Uint8Array(0);
const NO_COUNTS = new Uint16Array(0);

export class RegionGroup {
  /** The leaves, slot by slot. */
  bits: Uint8Array = NO_BYTES;
  total = 0;
  /** Sets that hold this group. One that is forgotten without letting go still counts: that costs a copy later. */
  holders = 1;
  private used = 0;
  /** State of each region; of a mixed one its slot is added. */
  private readonly places = new Uint16Array(GROUP_REGIONS);
  /** Region of each slot, and its set blocks. They grow with `bits`: a few bytes while few regions are mixed. */
  private owners: Uint8Array = NO_BYTES;
  private counts: Uint16Array = NO_COUNTS;

  stateOf(index: number): RegionState {
    return Math.min(this.places[index] ?? 0, RegionState.MIXED) as RegionState;
  }

  /** Position in `bits` of the first bit of a mixed region. */
  bitsAt(index: number): number {
    return this.slotOf(index) * BLOCKS_PER_REGION;
  }

  /** Set blocks of a region that has `blocks`. */
  countOf(index: number, blocks: number): number {
    const state = this.stateOf(index);
    if (state === RegionState.MIXED) return this.counts[this.slotOf(index)] ?? 0;
    return state === RegionState.ALL ? blocks : 0;
  }

  /** Makes a region mixed, with the bits that it has; `blocks`: how many it has. */
  open(index: number, blocks: number): void {
    const state = this.stateOf(index);
    if (state === RegionState.MIXED) return;
    this.reserve();
    const slot = this.used;
    this.used += 1;
    this.places[index] = RegionState.MIXED + slot;
    this.owners[slot] = index;
    this.counts[slot] = state === RegionState.ALL ? blocks : 0;
    const start = slot * LEAF_BYTES;
    this.bits.fill(0, start, start + LEAF_BYTES);
    if (state === RegionState.ALL) {
      const first = slot * BLOCKS_PER_REGION;
      changeBits(this.bits, first, first + blocks, true);
    }
  }

  /** Makes a region that has `blocks` uniform. */
  close(index: number, state: RegionState, blocks: number): void {
    this.total += (state === RegionState.ALL ? blocks : 0) - this.countOf(index, blocks);
    if (this.stateOf(index) === RegionState.MIXED) this.dropLeaf(index);
    this.places[index] = state;
  }

  /** Sets or clears the blocks `from .. to - 1` of a region that has `blocks`; says how many changed. */
  change(index: number, from: number, to: number, blocks: number, value: boolean): number {
    const uniform = value ? RegionState.ALL : RegionState.NONE;
    if (this.stateOf(index) === uniform) return 0;
    const before = this.countOf(index, blocks);
    if (to - from === blocks) {
      this.close(index, uniform, blocks);
      return value ? blocks - before : before;
    }
    this.open(index, blocks);
    const start = this.bitsAt(index);
    const changed = changeBits(this.bits, start + from, start + to, value);
    const after = value ? before + changed : before - changed;
    this.setCount(index, after);
    if (after === 0 || after === blocks) this.close(index, uniform, blocks);
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

  /** Says how many blocks of a mixed region are set in its bits. */
  setCount(index: number, count: number): void {
    const slot = this.slotOf(index);
    this.total += count - (this.counts[slot] ?? 0);
    this.counts[slot] = count;
  }

  clone(): RegionGroup {
    const copy = new RegionGroup();
    copy.places.set(this.places);
    copy.bits = this.bits.slice(0, this.used * LEAF_BYTES);
    copy.owners = this.owners.slice(0, this.used);
    copy.counts = this.counts.slice(0, this.used);
    copy.total = this.total;
    copy.used = this.used;
    return copy;
  }

  /** The same blocks are set. */
  equals(other: RegionGroup): boolean {
    if (this.total !== other.total || this.used !== other.used) return false;
    let alike = true;
    for (let index = 0; index < GROUP_REGIONS; index += 1) {
      if (this.stateOf(index) !== other.stateOf(index)) return false;
      alike &&= this.places[index] === other.places[index];
    }
    const bytes = this.used * LEAF_BYTES;
    if (alike) {
      return Buffer.compare(this.bits.subarray(0, bytes), other.bits.subarray(0, bytes)) === 0;
    }
    for (let slot = 0; slot < this.used; slot += 1) {
      const here = slot * LEAF_BYTES;
      const there = other.slotOf(this.owners[slot] ?? 0) * LEAF_BYTES;
      for (let index = 0; index < LEAF_BYTES; index += 1) {
        if (this.bits[here + index] !== other.bits[there + index]) return false;
      }
    }
    return true;
  }

  private slotOf(index: number): number {
    return (this.places[index] ?? 0) - RegionState.MIXED;
  }

  private reserve(): void {
    if ((this.used + 1) * LEAF_BYTES <= this.bits.length) return;
    const slots = Math.max(LEAVES_MIN, 2 * this.used);
    const { bits, owners, counts, used } = this;
    this.bits = new Uint8Array(slots * LEAF_BYTES);
    this.bits.set(bits.subarray(0, used * LEAF_BYTES));
    this.owners = new Uint8Array(slots);
    this.owners.set(owners.subarray(0, used));
    this.counts = new Uint16Array(slots);
    this.counts.set(counts.subarray(0, used));
  }

  /** The leaf of the last slot takes the place of the one that goes. */
  private dropLeaf(index: number): void {
    const slot = this.slotOf(index);
    this.used -= 1;
    const last = this.used;
    if (slot !== last) {
      this.bits.copyWithin(slot * LEAF_BYTES, last * LEAF_BYTES, (last + 1) * LEAF_BYTES);
      const moved = this.owners[last] ?? 0;
      this.owners[slot] = moved;
      this.counts[slot] = this.counts[last] ?? 0;
      this.places[moved] = RegionState.MIXED + slot;
    }
    if (last === 0) this.bits = NO_BYTES;
  }
}
