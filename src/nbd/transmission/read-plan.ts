/**
 * Which parts of a READ are holes, so that only their places travel (protocol section 5, OFFSET_HOLE).
 *
 * Invariants:
 * - Runs cover the range without gaps, data and holes in turn; at most NBD_READ_CHUNKS_MAX of them, found
 *   with at most NBD_READ_LOOKS_MAX looks. What lies beyond is data.
 * - A hole shorter than a block is data, unless it is the whole range.
 * - A hole is what `base:allocation` says at the time of planning: it takes no space and reads as zeroes.
 *   A write that is answered later may or may not be seen, as with any read.
 */
import assert from 'node:assert';
import type { Extent, StatusContext } from '../../io/device.ts';
import { BLOCK_BYTES, NBD_READ_CHUNKS_MAX, NBD_READ_LOOKS_MAX } from '../../io/limits.ts';
import { NBD_STATE } from '../constants.ts';

const HOLE: number = NBD_STATE.HOLE | NBD_STATE.ZERO;

export class ReadPlan {
  /** Byte of the device where the range begins. */
  offset = 0;
  /** How many runs there are. */
  count = 0;
  /** Looks at the map that it took. */
  looks = 0;
  private readonly ends = new Float64Array(NBD_READ_CHUNKS_MAX);
  private firstIsHole = false;

  isHole(run: number): boolean {
    return this.firstIsHole === (run % 2 === 0);
  }

  startOf(run: number): number {
    return run === 0 ? this.offset : this.endOf(run - 1);
  }

  endOf(run: number): number {
    const end = this.ends[run];
    assert(end !== undefined && run < this.count, 'a run of the plan');
    return end;
  }

  /** The first run of data: there is one, or `allHole`. */
  get firstData(): number {
    return this.firstIsHole ? 1 : 0;
  }

  /** The last run of data. */
  get lastData(): number {
    const last = this.count - 1;
    return this.isHole(last) ? last - 1 : last;
  }

  get allHole(): boolean {
    return this.count === 1 && this.firstIsHole;
  }

  get allData(): boolean {
    return this.count === 1 && !this.firstIsHole;
  }

  /** Plans the range, which lies inside the device and is not empty. */
  make(allocation: StatusContext, offset: number, length: number, extent: Extent): void {
    const end = offset + length;
    let position = offset;
    this.offset = offset;
    this.count = 0;
    this.looks = 0;
    while (position < end) {
      if (this.looks === NBD_READ_LOOKS_MAX || this.count === NBD_READ_CHUNKS_MAX) {
        this.add(end, false);
        break;
      }
      this.looks++;
      allocation.describe(position, end, extent);
      assert(extent.end > position, 'a description goes on');
      position = Math.min(extent.end, end);
      this.add(position, (extent.flags & HOLE) === HOLE);
    }
    const last = this.count - 1;
    if (last > 0 && this.isHole(last) && this.isShort(last)) this.fill(end);
  }

  /** What follows the last run, up to `end`. */
  private add(end: number, hole: boolean): void {
    const last = this.count - 1;
    if (last < 0) {
      this.firstIsHole = hole;
      this.ends[this.count++] = end;
    } else if (this.isHole(last) === hole) {
      this.ends[last] = end;
    } else if (!hole && (this.isShort(last) || this.count === NBD_READ_CHUNKS_MAX)) {
      this.fill(end);
    } else {
      this.ends[this.count++] = end;
    }
  }

  private isShort(hole: number): boolean {
    return this.endOf(hole) - this.startOf(hole) < BLOCK_BYTES;
  }

  /** Makes data of the last run, which is a hole, and of what follows it up to `end`. */
  private fill(end: number): void {
    if (this.count === 1) this.firstIsHole = false;
    else this.count--;
    this.ends[this.count - 1] = end;
  }
}
