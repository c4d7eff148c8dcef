/**
 * Decides whether writes run at once on the calling thread or on the pool.
 *
 * A write into the page cache takes microseconds, until the kernel makes writers wait for its disk. One slow
 * write sends the next ones to the pool for a while; then one is tried directly. While they stay slow the
 * pauses double, so the thread is held up by one slow write per pause at most.
 */
import { WRITE_POOL_MS_MAX, WRITE_POOL_MS_MIN, WRITE_SLOW_MS } from '../io/limits.ts';

const MIB = 1024 * 1024;

export class WritePace {
  /** Writes go to the pool, until `retry` says otherwise. */
  pooled = false;
  private pooledUntil = 0;
  private pauseMs: number = WRITE_POOL_MS_MIN;

  /** A direct write of `length` bytes began at `before` and ended at `after` (monotonic milliseconds). */
  wrote(length: number, before: number, after: number): void {
    if (after - before <= WRITE_SLOW_MS + length / MIB) return;
    const recently = before - this.pooledUntil < this.pauseMs && this.pooledUntil !== 0;
    this.pauseMs = recently ? Math.min(this.pauseMs * 2, WRITE_POOL_MS_MAX) : WRITE_POOL_MS_MIN;
    this.pooledUntil = after + this.pauseMs;
    this.pooled = true;
  }

  /** Asks again whether writes go to the pool. */
  retry(now: number): boolean {
    if (now >= this.pooledUntil) this.pooled = false;
    return this.pooled;
  }
}
