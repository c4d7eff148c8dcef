/**
 * One link's place in an epoch: what it took so far, in the order in which it was appended.
 *
 * Invariants:
 * - Each entry and each zero range is taken once. What was taken is frozen in the epoch.
 * - A piece is whole entries of one slab, so it is sent as it lies in memory.
 */
import assert from 'node:assert';
import { WRITE_HEADER_BYTES } from '../../nbd/client/client-prepared.ts';
import type { Epoch, Segment, ZeroRange } from './epoch.ts';
import type { Slab } from './slab.ts';

export class EpochCursor {
  /** The epoch that is being taken. */
  number: number;
  /** Entries and zero ranges taken. */
  entry = 0;
  zeroes = 0;
  /** The run of entries, and bytes of it that were taken. The run may move in memory. */
  segment = 0;
  taken = 0;
  /** Where the last piece lies. Who uses it beyond this turn holds it. */
  slab: Slab | null = null;

  constructor(number: number) {
    this.number = number;
  }

  /** Whether everything that is in the epoch by now was taken. */
  hasAllOf(epoch: Epoch): boolean {
    assert(epoch.number === this.number, 'the epoch where the cursor stands');
    return this.entry === epoch.entryCount && this.zeroes === epoch.zeroes.length;
  }

  /** The next entries, complete requests back to back, `maxBytes` at most; null when not even one is there, or fits. */
  takeEntries(epoch: Epoch, maxBytes: number): Buffer | null {
    assert(epoch.number === this.number, 'the epoch where the cursor stands');
    if (this.entry === epoch.entryCount) return null;
    const segment = this.enterSegment(epoch);
    const start = segment.start + this.taken;
    let end = start;
    let entry = this.entry;
    while (end < segment.end) {
      const next = end + WRITE_HEADER_BYTES + epoch.entryBytes(entry);
      if (next - start > maxBytes) break;
      end = next;
      entry += 1;
    }
    if (end === start) return null;
    assert(end <= segment.end, 'an entry lies in one slab');
    this.entry = entry;
    this.taken = end - segment.start;
    this.slab = segment.slab;
    epoch.freeze(this);
    return segment.slab.buffer.subarray(start, end);
  }

  /** The zero ranges that were not taken yet. They stand for themselves: no entry of the epoch meets one. */
  takeZeroes(epoch: Epoch): readonly ZeroRange[] {
    assert(epoch.number === this.number, 'the epoch where the cursor stands');
    const ranges = epoch.zeroes.slice(this.zeroes);
    this.zeroes = epoch.zeroes.length;
    epoch.freeze(this);
    return ranges;
  }

  /** To the next epoch. */
  advance(): void {
    this.number += 1;
    this.entry = 0;
    this.zeroes = 0;
    this.segment = 0;
    this.taken = 0;
    this.slab = null;
  }

  /** The segment of the next entry. */
  private enterSegment(epoch: Epoch): Segment {
    let segment = epoch.segments[this.segment];
    if (segment !== undefined && this.taken === segment.end - segment.start) {
      this.segment += 1;
      this.taken = 0;
      segment = epoch.segments[this.segment];
    }
    assert(segment !== undefined, 'every entry lies in a segment');
    return segment;
  }
}
