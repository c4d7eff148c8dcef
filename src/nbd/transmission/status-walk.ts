/**
 * What a context says of a range, as the extents of one status chunk (protocol sections 1.10 and 5).
 *
 * Invariants:
 * - Extents follow each other from the offset asked for; none is empty; neighbours differ. All but the last end
 *   before the range does.
 * - At most NBD_STATUS_EXTENTS_MAX extents, and as many looks as the caller allows: an answer may describe
 *   less than was asked, and at least one extent.
 * - Where lengths have 32 bits, a longer extent is cut at a block, and is the last.
 */
import assert from 'node:assert';
import type { Extent, StatusContext } from '../../io/device.ts';
import { BLOCK_BYTES, NBD_STATUS_EXTENTS_MAX } from '../../io/limits.ts';
import type { Extents } from './reply-codec.ts';

const UINT32_MAX = 0xffffffff;

export interface StatusRange {
  readonly offset: number;
  /** Inside the device and past `offset`. */
  readonly end: number;
  /** Of the device. */
  readonly sizeBytes: number;
  /** Exactly one extent, that ends with the range if not before. */
  readonly one: boolean;
  /** Lengths have 64 bits. */
  readonly wide: boolean;
}

/** Overwritten by each walk; one serves all connections. */
export class StatusWalk implements Extents {
  count = 0;
  /** Looks at the map that the walk took, and bytes that it described. */
  looks = 0;
  bytes = 0;
  readonly lengths: Float64Array = new Float64Array(NBD_STATUS_EXTENTS_MAX);
  readonly flags: Uint32Array = new Uint32Array(NBD_STATUS_EXTENTS_MAX);
  private readonly extent: Extent = { end: 0, flags: 0 };

  walk(context: StatusContext, range: StatusRange, looksMax: number): void {
    const { extent } = this;
    const limit = walkEnd(range);
    let position = range.offset;
    this.count = 0;
    this.looks = 0;
    while (position < range.end && this.looks < looksMax) {
      this.looks++;
      context.describe(position, limit, extent);
      assert(extent.end > position, 'a description goes on');
      const end = Math.min(extent.end, limit);
      if (!this.add(end - position, extent.flags, range)) break;
      position = end;
    }
    assert(this.count > 0, 'a status has an extent');
    this.bytes = position - range.offset;
    if (!range.wide) this.narrow(range.offset);
  }

  /** False: there is no room for another extent. */
  private add(length: number, flags: number, range: StatusRange): boolean {
    const last = this.count - 1;
    if (last >= 0 && this.flags[last] === flags) {
      this.lengths[last] = (this.lengths[last] ?? 0) + length;
      return true;
    }
    if (last >= 0 && (range.one || this.count === NBD_STATUS_EXTENTS_MAX)) return false;
    this.lengths[this.count] = length;
    this.flags[this.count++] = flags;
    return true;
  }

  /** A range has under 4 GiB there, so that only the last extent can be too long, by what passes the range. */
  private narrow(offset: number): void {
    const last = this.count - 1;
    const length = this.lengths[last] ?? 0;
    if (length <= UINT32_MAX) return;
    let start = offset;
    for (let index = 0; index < last; index++) start += this.lengths[index] ?? 0;
    this.lengths[last] = Math.floor((start + UINT32_MAX) / BLOCK_BYTES) * BLOCK_BYTES - start;
  }
}

/** The last extent may pass the range, but not the device: up to the next block, so that it is whole. */
function walkEnd({ end, one, sizeBytes }: StatusRange): number {
  return one ? end : Math.min(sizeBytes, Math.ceil(end / BLOCK_BYTES) * BLOCK_BYTES);
}
