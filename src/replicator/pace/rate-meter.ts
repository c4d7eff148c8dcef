/**
 * The mean rate of something that is counted elsewhere, with old values fading away.
 *
 * Invariants:
 * - Whoever counts does no work here: only `sample` does, in constant time and without allocation.
 * - The mean does not depend on how often it is sampled.
 */
import { RATE_MEAN_MS } from '../../io/limits.ts';

export class RateMeter {
  private mean = 0;
  private total: number;
  private at: number;
  private begun = false;
  private readonly timeConstantMs: number;

  /** `now`: clock milliseconds at which the count stood at `total`. */
  constructor(now: number, total: number, timeConstantMs: number = RATE_MEAN_MS) {
    this.at = now;
    this.total = total;
    this.timeConstantMs = timeConstantMs;
  }

  /** Per second. 0 before the first sample. */
  get perSecond(): number {
    return this.mean;
  }

  /** The count stands at `total` now. It never falls. */
  sample(now: number, total: number): void {
    const elapsedMs = now - this.at;
    if (elapsedMs <= 0) return;
    const rate = ((total - this.total) / elapsedMs) * 1000;
    const weight = this.begun ? 1 - Math.exp(-elapsedMs / this.timeConstantMs) : 1;
    this.mean += weight * (rate - this.mean);
    this.begun = true;
    this.at = now;
    this.total = total;
  }
}
