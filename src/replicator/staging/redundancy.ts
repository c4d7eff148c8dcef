/**
 * How often each block is staged: the bytes if all that is staged is sent one by one, and if each block is sent once.
 *
 * Invariants:
 * - `add` and `remove` take constant time for a block, and allocate nothing.
 * - Blocks for which the table has no room count as if each came once: the ratio is then too low, never too high.
 */
import assert from 'node:assert';
import { REDUNDANCY_BLOCKS_MAX } from '../../io/limits.ts';

/** 2 ** 32 divided by the golden ratio: spreads neighbours over the table. */
const SPREAD = 0x9e3779b1;

export class StagedBlocks {
  /** Blocks that are staged, each as often as it is. */
  private all = 0;
  /** Different ones in the table, and those that found no room. */
  private known = 0;
  private homeless = 0;
  /** Open addressing with linear probing: block + 1, or 0; and how often it is staged. */
  private readonly keys: Float64Array;
  private readonly counts: Uint32Array;
  private readonly mask: number;
  private readonly capacity: number;

  constructor(capacity: number = REDUNDANCY_BLOCKS_MAX) {
    assert(capacity >= 1, 'there is room for a block');
    // At most half full: probes stay short.
    const slots = 2 ** Math.ceil(Math.log2(capacity * 2));
    this.keys = new Float64Array(slots);
    this.counts = new Uint32Array(slots);
    this.mask = slots - 1;
    this.capacity = capacity;
  }

  /** Blocks to send if each change is sent. */
  get total(): number {
    return this.all;
  }

  /** Blocks to send if each is sent once; too many rather than too few. */
  get distinct(): number {
    return this.known + this.homeless;
  }

  /** How many times more is sent than would be if each block were sent once; 1 when nothing is staged. */
  get ratio(): number {
    return this.all === 0 ? 1 : this.all / this.distinct;
  }

  /** These blocks were staged, in an epoch that did not have them yet. */
  add(first: number, count: number): void {
    this.all += count;
    for (let block = first; block < first + count; block += 1) this.addOne(block);
  }

  /** An epoch that had these blocks was let go. */
  remove(first: number, count: number): void {
    assert(this.all >= count, 'what is removed was added');
    this.all -= count;
    for (let block = first; block < first + count; block += 1) this.removeOne(block);
  }

  /** Nothing is staged any more. */
  clear(): void {
    this.keys.fill(0);
    this.counts.fill(0);
    this.all = 0;
    this.known = 0;
    this.homeless = 0;
  }

  private addOne(block: number): void {
    const slot = this.find(block);
    if (this.keys[slot] !== 0) {
      this.counts[slot] = (this.counts[slot] ?? 0) + 1;
    } else if (this.known < this.capacity) {
      this.keys[slot] = block + 1;
      this.counts[slot] = 1;
      this.known += 1;
    } else {
      this.homeless += 1;
    }
  }

  private removeOne(block: number): void {
    const slot = this.find(block);
    const count = this.counts[slot] ?? 0;
    if (count > 1) {
      this.counts[slot] = count - 1;
    } else if (count === 1) {
      this.known -= 1;
      this.close(slot);
    } else {
      assert(this.homeless > 0, 'what is removed was added');
      this.homeless -= 1;
    }
  }

  /** The slot of a block, or the empty one where it would be. */
  private find(block: number): number {
    let slot = this.home(block);
    const key = block + 1;
    while (this.keys[slot] !== 0 && this.keys[slot] !== key) slot = (slot + 1) & this.mask;
    return slot;
  }

  private home(block: number): number {
    // Blocks of the largest volumes have more than 32 bits.
    const folded = (block ^ (block / 2 ** 32)) | 0;
    const hash = Math.imul(folded, SPREAD);
    return (hash ^ (hash >>> 15)) & this.mask;
  }

  /** Empties a slot, and moves those up that would not be found behind the gap. */
  private close(gap: number): void {
    let empty = gap;
    for (let slot = (gap + 1) & this.mask; this.keys[slot] !== 0; slot = (slot + 1) & this.mask) {
      const home = this.home((this.keys[slot] ?? 0) - 1);
      const fromHome = (slot - home) & this.mask;
      const fromEmpty = (slot - empty) & this.mask;
      if (fromHome < fromEmpty) continue;
      this.keys[empty] = this.keys[slot] ?? 0;
      this.counts[empty] = this.counts[slot] ?? 0;
      empty = slot;
    }
    this.keys[empty] = 0;
    this.counts[empty] = 0;
  }
}
