/**
 * Flushes for a server that has none: such a server writes through, so a flush is done when all writes
 * that began before it were answered (protocol section 6.2).
 *
 * Invariant: a barrier waits for exactly the writes that began before it. A write begins with a ticket,
 * the number of barriers raised before it, and so holds up only the barriers raised after it.
 */
import assert from 'node:assert';
import type { RequestCallback } from './client-requests.ts';

interface Barrier {
  /** Writes with a ticket up to this one count. */
  readonly ticket: number;
  writes: number;
  readonly callback: RequestCallback;
}

export class WriteBarriers {
  private raised = 0;
  private writes = 0;
  private barriers: Barrier[] = [];

  /** A write begins; its ticket goes to `ended`. */
  began(): number {
    this.writes += 1;
    return this.raised;
  }

  ended(ticket: number): void {
    assert(this.writes > 0, 'more writes ended than began');
    this.writes -= 1;
    if (this.barriers.length === 0) return;
    for (const barrier of this.barriers) if (ticket <= barrier.ticket) barrier.writes -= 1;
    const done = this.barriers.filter((barrier) => barrier.writes === 0);
    if (done.length === 0) return;
    this.barriers = this.barriers.filter((barrier) => barrier.writes > 0);
    for (const barrier of done) barrier.callback(0);
  }

  /** Barriers not passed yet. */
  get waiting(): number {
    return this.barriers.length;
  }

  /** True: nothing to wait for, and `callback` was not kept. */
  raise(callback: RequestCallback): boolean {
    if (this.writes === 0) return true;
    this.barriers.push({ ticket: this.raised, writes: this.writes, callback });
    this.raised += 1;
    return false;
  }

  /** The connection ended: no barrier will be passed. */
  abandon(errno: number): void {
    const abandoned = this.barriers;
    this.barriers = [];
    for (const barrier of abandoned) barrier.callback(errno);
  }
}
