/**
 * Memory of the staging queues of a node: slabs that hold payloads back to back, in the form in which they travel.
 *
 * Invariants:
 * - A slab is written only by appending, or in place inside an epoch that is still open.
 * - A slab goes back to the pool when nobody holds it: not the writer, no epoch, no send in flight.
 * - `take` always succeeds: each queue has its own bound and its policy acts first.
 * - At most `idleBytes` of idle slabs are kept for reuse; while more than that is in use, as much more as there were slabs
 *   since it became so, `busyBytes` at most: memory that a busy queue leaves to the garbage collector is there twice until that
 *   has run.
 * - Volumes share a pool, so that what one of them has no use for is not kept beside what another one takes. Whoever is done gives
 *   back every slab: one that is lent for ever counts as use.
 */
import assert from 'node:assert';
import { STAGING_POOL_BYTES_MAX, STAGING_SLAB_BYTES } from '../../io/limits.ts';

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
  private readonly idleSlabs: number;
  private readonly busySlabs: number;
  private lent = 0;
  /** The most that was in use since it was no more than `idleSlabs`. */
  private mostLent = 0;

  /** `busyBytes`: idle while many are in use; `idleBytes` if not given. */
  constructor(idleBytes: number, busyBytes: number = idleBytes) {
    this.idleSlabs = Math.floor(idleBytes / STAGING_SLAB_BYTES);
    this.busySlabs = Math.floor(busyBytes / STAGING_SLAB_BYTES);
  }

  /** For queues of which each takes `queueBytes` at most. */
  static forQueues(queueBytes: number): SlabPool {
    return new SlabPool(Math.min(queueBytes, STAGING_POOL_BYTES_MAX), queueBytes);
  }

  /** Memory of slabs that somebody holds. */
  get lentBytes(): number {
    return this.lent * STAGING_SLAB_BYTES;
  }

  /** Memory of slabs that nobody holds. */
  get idleBytes(): number {
    return this.idle.length * STAGING_SLAB_BYTES;
  }

  /** A slab with nothing in it, held once by the caller. */
  take(): Slab {
    const slab = this.idle.pop() ?? new Slab(this);
    assert(slab.used === 0, 'an idle slab is empty');
    this.lent += 1;
    this.mostLent = Math.max(this.mostLent, this.lent);
    slab.hold();
    return slab;
  }

  giveBack(slab: Slab): void {
    slab.used = 0;
    this.lent -= 1;
    this.idle.push(slab);
    if (this.lent <= this.idleSlabs) this.mostLent = this.lent;
    const busy = Math.min(this.busySlabs, this.mostLent - this.lent);
    const most = Math.max(this.idleSlabs, busy);
    if (this.idle.length > most) this.idle.length = most;
  }
}
