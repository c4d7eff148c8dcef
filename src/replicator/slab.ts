/**
 * Memory of the staging queue: slabs that hold payloads back to back, in the form in which they travel.
 *
 * Invariants:
 * - A slab is written only by appending, or in place inside an epoch that is still open.
 * - A slab goes back to the pool when nobody holds it: not the writer, no epoch, no send in flight.
 * - At most `limitBytes` of idle slabs are kept for reuse. `take` always succeeds: the queue has its own bound
 *   and its policy acts first.
 */
import assert from 'node:assert';
import { STAGING_SLAB_BYTES } from '../io/limits.ts';

export class Slab {
  readonly buffer: Buffer = Buffer.allocUnsafeSlow(STAGING_SLAB_BYTES);
  /** Bytes in use from the start; the rest is never sent. */
  used = 0;
  /** `release`, to hand on. */
  readonly letGo: () => void = () => this.release();
  private holders = 0;
  private readonly pool: SlabPool;

  constructor(pool: SlabPool) {
    this.pool = pool;
  }

  get free(): number {
    return this.buffer.length - this.used;
  }

  hold(): void {
    this.holders += 1;
  }

  release(): void {
    assert(this.holders > 0, 'slab released more often than held');
    this.holders -= 1;
    if (this.holders === 0) this.pool.giveBack(this);
  }
}

export class SlabPool {
  private readonly idle: Slab[] = [];
  private readonly limitBytes: number;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  /** A slab with nothing in it, held once by the caller. */
  take(): Slab {
    const slab = this.idle.pop() ?? new Slab(this);
    assert(slab.used === 0, 'an idle slab is empty');
    slab.hold();
    return slab;
  }

  giveBack(slab: Slab): void {
    slab.used = 0;
    if ((this.idle.length + 1) * STAGING_SLAB_BYTES <= this.limitBytes) this.idle.push(slab);
  }
}
