/**
 * Cuts a stream into units of lengths that become known one after the other. A unit that arrived in one
 * piece is handed on in place; only an incomplete one is copied, and memory is taken for no more than was
 * announced and allowed.
 */
import assert from 'node:assert';

const EMPTY = Buffer.alloc(0);

export class UnitReader {
  private pending = EMPTY;
  private pendingLength = 0;

  /** How many of `available` further bytes the unit of `need` bytes takes; null when it is not whole yet. */
  missing(need: number, available: number): number | null {
    assert(this.pendingLength <= need);
    const fresh = need - this.pendingLength;
    return fresh <= available ? fresh : null;
  }

  /** Keeps a part of a unit of `need` bytes. */
  keep(part: Buffer, need: number): void {
    assert(this.pendingLength + part.length <= need);
    if (this.pending.length < need) {
      const larger = Buffer.alloc(need);
      this.pending.copy(larger, 0, 0, this.pendingLength);
      this.pending = larger;
    }
    this.pendingLength += part.copy(this.pending, this.pendingLength);
  }

  /** The unit that `last` completes; valid until the caller's buffer is written again. */
  finish(last: Buffer): Buffer {
    if (this.pendingLength === 0) return last;
    this.keep(last, this.pendingLength + last.length);
    const unit = this.pending.subarray(0, this.pendingLength);
    this.pending = EMPTY;
    this.pendingLength = 0;
    return unit;
  }
}
