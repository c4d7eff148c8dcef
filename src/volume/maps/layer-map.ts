/**
 * What one layer holds for each block of its volume: nothing (absent), data, or zeroes.
 *
 * Invariants:
 * - A block is in at most one of the two sets.
 * - Absent in the base layer reads as zeroes; absent in a later layer means "ask the layer below".
 */
import { BlockSet } from './block-set.ts';

export const BlockState = Object.freeze({ ABSENT: 0, DATA: 1, ZERO: 2 } as const);
export type BlockState = (typeof BlockState)[keyof typeof BlockState];

/** Groups of regions that `shareWith` compares at most: some ten microseconds each. */
const SHARED_GROUPS_PER_CALL = 8;

export class LayerMap {
  /** Blocks whose content is in the layer's data container. */
  readonly data: BlockSet;
  /** Blocks that read as zeroes, whatever the layers below hold. */
  readonly zero: BlockSet;

  constructor(blockCount: number, copyOf: LayerMap | null = null) {
    this.data = copyOf === null ? new BlockSet(blockCount) : copyOf.data.clone();
    this.zero = copyOf === null ? new BlockSet(blockCount) : copyOf.zero.clone();
  }

  get blockCount(): number {
    return this.data.blockCount;
  }

  stateOf(block: number): BlockState {
    if (this.data.has(block)) return BlockState.DATA;
    return this.zero.has(block) ? BlockState.ZERO : BlockState.ABSENT;
  }

  /** Gives the blocks a state; says whether that changed any of them. */
  set(first: number, count: number, state: BlockState): boolean {
    if (state === BlockState.DATA) {
      const added = this.data.add(first, count);
      // Hot path: nothing else to do for a block that already was data.
      if (added !== 0 && this.zero.count !== 0) this.zero.remove(first, count);
      return added !== 0;
    }
    const removed = this.data.remove(first, count);
    const zeroes =
      state === BlockState.ZERO ? this.zero.add(first, count) : this.zero.remove(first, count);
    return removed !== 0 || zeroes !== 0;
  }

  /** The end of the run from `block` whose blocks all have the state of `block`; at most `limit`. */
  runEnd(block: number, limit: number): number {
    const end = this.data.runEnd(block, limit);
    if (this.zero.count === 0 || this.data.has(block)) return end;
    return this.zero.runEnd(block, end);
  }

  /** The same states, in sets that change on their own. */
  clone(): LayerMap {
    return new LayerMap(this.blockCount, this);
  }

  /**
   * Holds together with `other` what both say alike, as a clone does: GiB by GiB, some more with each call.
   * Called after each flush it keeps a map and its recorded twin from taking memory twice.
   */
  shareWith(other: LayerMap): void {
    this.data.shareWith(other.data, SHARED_GROUPS_PER_CALL);
    this.zero.shareWith(other.zero, SHARED_GROUPS_PER_CALL);
  }

  resize(blockCount: number): void {
    this.data.resize(blockCount);
    this.zero.resize(blockCount);
  }
}
