/**
 * Decides whether writes run at once on the calling thread or on the pool.
 *
 * A write into the page cache takes microseconds, until the kernel makes writers wait for its disk. Then they go
 * to the pool for a while, and one is tried directly again; while they stay slow the pauses double.
 *
 * A thread that lost its processor in the middle of a write looks slow too, and the pool would only make that
 * worse. So time lost in slow writes is a debt that is forgiven at a steady rate: one long wait, or many in a row,
 * make it pass the limit; a busy machine does not.
 */
import {
  WRITE_DEBT_MS_MAX,
  WRITE_POOL_MS_MAX,
  WRITE_POOL_MS_MIN,
  WRITE_SLOW_MS,
} from '../io/limits.ts';

const MIB = 1024 * 1024;
/** The share of all time that slow writes may take. */
const FORGIVEN_SHARE = 0.25;

export class WritePace {
  /** Writes go to the pool, until `retry` says otherwise. */
  pooled = false;
  /** Times that they began to. */
  periods = 0;
  private debtMs = 0;
  private debtAt = 0;
  private pooledUntil = Number.NEGATIVE_INFINITY;
  private pauseMs: number = WRITE_POOL_MS_MIN;

  /** A direct write of `length` bytes began at `before` and ended at `after` (monotonic milliseconds). */
  wrote(length: number, before: number, after: number): void {
    const excessMs = after - before - (WRITE_SLOW_MS + length / MIB);
    if (excessMs <= 0) return;
    const forgivenMs = (after - this.debtAt) * FORGIVEN_SHARE;
    this.debtMs = Math.max(0, this.debtMs - forgivenMs) + excessMs;
    this.debtAt = after;
    if (this.debtMs <= WRITE_DEBT_MS_MAX) return;
    const recently = before - this.pooledUntil < this.pauseMs;
    this.pauseMs = recently ? Math.min(this.pauseMs * 2, WRITE_POOL_MS_MAX) : WRITE_POOL_MS_MIN;
    this.pooledUntil = after + this.pauseMs;
    this.pooled = true;
    this.periods += 1;
    // The next try starts close to the limit: it is cheap to find that nothing changed.
    this.debtMs = WRITE_DEBT_MS_MAX / 2;
    this.debtAt = this.pooledUntil;
  }

  /** Asks again whether writes go to the pool. */
  retry(now: number): boolean {
    if (now >= this.pooledUntil) this.pooled = false;
    return this.pooled;
  }
}
