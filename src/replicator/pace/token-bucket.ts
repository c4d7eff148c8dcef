/**
 * A limit in bytes per second. Pure but for its own numbers: the time is passed in.
 *
 * Invariants:
 * - Whoever takes may take more than there is: what is missing is a debt, which is earned before the next one takes. So the rate
 *   holds in the long run for pieces of any size, and a piece is never too large for a limit.
 * - After a pause no more than the burst is there at once.
 * - A new rate counts from the moment on at which it is set, also for a debt.
 */
import assert from 'node:assert';
import { LIMIT_BURST_BYTES_MIN, LIMIT_BURST_MS } from '../../io/limits.ts';

export class TokenBucket {
  /** Bytes per second; null: no limit. */
  private rate: number | null;
  /** Bytes that may be taken; negative: a debt. */
  private level: number;
  private at: number;

  /** `now`: clock milliseconds. */
  constructor(bytesPerSecond: number | null, now: number) {
    this.rate = bytesPerSecond;
    this.level = burstOf(bytesPerSecond);
    this.at = now;
    checkRate(bytesPerSecond);
  }

  get bytesPerSecond(): number | null {
    return this.rate;
  }

  setRate(bytesPerSecond: number | null, now: number): void {
    checkRate(bytesPerSecond);
    this.earn(now);
    // Without a limit there was none to have a debt with.
    this.level = this.rate === null ? burstOf(bytesPerSecond) : this.level;
    this.rate = bytesPerSecond;
    this.level = Math.min(this.level, burstOf(bytesPerSecond));
  }

  take(bytes: number, now: number): void {
    if (this.rate === null) return;
    this.earn(now);
    this.level -= bytes;
  }

  /** Milliseconds until somebody may take; 0: now. */
  waitMs(now: number): number {
    if (this.rate === null) return 0;
    this.earn(now);
    return this.level > 0 ? 0 : ((1 - this.level) / this.rate) * 1000;
  }

  private earn(now: number): void {
    const elapsedMs = Math.max(0, now - this.at);
    this.at = Math.max(this.at, now);
    if (this.rate === null) return;
    this.level = Math.min(burstOf(this.rate), this.level + (elapsedMs * this.rate) / 1000);
  }
}

function burstOf(bytesPerSecond: number | null): number {
  if (bytesPerSecond === null) return 0;
  return Math.max(LIMIT_BURST_BYTES_MIN, (bytesPerSecond * LIMIT_BURST_MS) / 1000);
}

function checkRate(bytesPerSecond: number | null): void {
  assert(bytesPerSecond === null || bytesPerSecond > 0, 'a limit is a positive number');
}
