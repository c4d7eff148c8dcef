/**
 * Memory of the staging queues of a node: slabs that hold payloads back to back, in the form in which they travel.
 *
 * Invariants:
 * - A slab is written only by appending, or in place inside an epoch that is still open.
 * - A slab goes back to the pool when nobody holds it: not the writer, no epoch, no send in flight.
 * - `take` always succeeds: each queue has its own bound and its policy acts first.
 * - At most `idleBytes` of idle slabs are kept for reuse, and while many are in use as much more as there were slabs before
 *   (`busyBytes` at most): memory that a busy queue leaves to the garbage collector is there twice until that has run.
 *   Volumes share a pool, so that what one of them has no use for is not kept beside what another one takes.
 */
import assert from 'node:assert';
import { STAGING_POOL_BYTES_MAX, STAGING_SLAB_BYTES } from '../io/limits.ts';

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

  /** `busyBytes`: of slabs that are idle or in use; `idleBytes` if not given. */
  constructor(idleBytes: number, busyBytes: number = idleBytes) {
    this.idleSlabs = Math.floor(idleBytes / STAGING_SLAB_BYTES);
    this.busySlabs = Math.floor(busyBytes / STAGING_SLAB_BYTES);
  }

  /** For queues of which each takes `queueBytes` at most. */
  static forQueues(queueBytes: number): SlabPool {
    return new SlabPool(Math.min(queueBytes, STAGING_POOL_BYTES_MAX), queueBytes);
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
    slab.hold();
    return slab;
  }

  giveBack(slab: Slab): void {
    slab.used = 0;
    this.lent -= 1;
    this.idle.push(slab);
    const isBusy = this.lent > this.idleSlabs;
    const most = isBusy ? Math.max(this.idleSlabs, this.busySlabs - this.lent) : this.idleSlabs;
    if (this.idle.length > most) this.idle.length = most;
  }
}
