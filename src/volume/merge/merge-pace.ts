/**
 * How fast a merge may go: what the hosts leave, or a number of bytes a second. Pure: the caller tells the time.
 *
 * Invariants:
 * - Without a limit, while hosts are busy the merge works at most one part in four of the time, one step at a time.
 * - With a limit it is on average no faster than that, whatever the hosts do; a step may be ahead of it.
 * - Hosts are at rest when for MERGE_QUIET_MS no request of theirs came or was on its way.
 */
import { MERGE_PIECE_BYTES, MERGE_QUIET_MS } from '../../io/limits.ts';

/** Rest after work, in parts of the time that it took, while hosts are busy. */
const REST = 3;
/** What a merge that was slow for a while may catch up on, in milliseconds of the limit. */
const CATCH_UP_MS = 100;

export class MergePace {
  private requests = 0;
  private busyUntil = Number.NEGATIVE_INFINITY;
  private restUntil = Number.NEGATIVE_INFINITY;
  private bytesPerSecond: number | null;
  /** Bytes that may be copied at the time `countedAt`; negative when a step was ahead. */
  private credit = 0;
  private countedAt: number;

  constructor(bytesPerSecond: number | null, now: number) {
    this.bytesPerSecond = bytesPerSecond;
    this.countedAt = now;
  }

  get limit(): number | null {
    return this.bytesPerSecond;
  }

  setLimit(bytesPerSecond: number | null, now: number): void {
    this.bytesPerSecond = bytesPerSecond;
    // What is owed to another limit is forgotten: it could be owed for hours.
    this.credit = 0;
    this.countedAt = now;
  }

  /** Takes note of what the hosts do: of their requests so far, and those not answered. */
  notice(requests: number, inFlight: number, now: number): void {
    if (requests !== this.requests || inFlight > 0) this.busyUntil = now + MERGE_QUIET_MS;
    this.requests = requests;
  }

  isBusy(now: number): boolean {
    return now < this.busyUntil;
  }

  /** One step at a time. */
  isAlone(now: number): boolean {
    return this.bytesPerSecond !== null || this.isBusy(now);
  }

  /** A step that copies so many bytes begins. */
  began(bytes: number, now: number): void {
    this.count(now);
    this.credit -= bytes;
  }

  /** Work that took so long ended: a step, or a sync. */
  worked(ms: number, now: number): void {
    this.restUntil = now + REST * ms;
  }

  /** Milliseconds until the next step may begin; 0 when it may now. What hosts do may change that. */
  delay(now: number): number {
    if (this.bytesPerSecond === null) {
      return this.isBusy(now) ? Math.max(0, this.restUntil - now) : 0;
    }
    this.count(now);
    return this.credit >= 0 ? 0 : (-this.credit / this.bytesPerSecond) * 1000;
  }

  private count(now: number): void {
    const rate = (this.bytesPerSecond ?? 0) / 1000;
    const most = Math.min(MERGE_PIECE_BYTES, rate * CATCH_UP_MS);
    this.credit = Math.min(most, this.credit + (now - this.countedAt) * rate);
    this.countedAt = now;
  }
}
