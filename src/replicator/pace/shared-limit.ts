/**
 * A limit in bytes a second that several senders share: that of the node.
 *
 * Invariants:
 * - Nobody is told to go while the limit is in debt.
 * - Of those who wait, the one that was served the fewest bytes goes first (start-time fair queueing): a sender of small pieces
 *   has its part beside one of large pieces, and whoever paused does not catch up on what it left unused.
 * - Nobody stands back for one that is less than SHARE_LEAD_MS of the rate behind: else those who send small pieces would go by
 *   turns, a timer for each piece, and the rate would be that of the timers.
 * - To ask whether one would be refused takes no place in the line, and to hear later how much was sent costs none.
 * - Who was refused and does not ask again within SHARE_ASK_MS_MAX waits no more: it holds up nobody.
 * - Without a limit nobody waits, and nothing is counted.
 */
import { SHARE_ASK_MS_MAX, SHARE_LEAD_MS } from '../../io/limits.ts';
import { TokenBucket } from './token-bucket.ts';

/** How soon one who may go by the limit, but not before another, asks again, in milliseconds. */
const NEXT_MS = 1;

export class SharedLimit {
  /** Those who were refused, and when they last asked. */
  private readonly waiting = new Map<Sharer, number>();
  /** Virtual time, in bytes: where the one that was served last began, or where one that still waits begins, if that is less. */
  private virtual = 0;
  private readonly bucket: TokenBucket;

  /** `bytesPerSecond`: null for no limit. `now`: clock milliseconds. */
  constructor(bytesPerSecond: number | null, now: number) {
    this.bucket = new TokenBucket(bytesPerSecond, now);
  }

  /** In force when those who wait ask again. */
  set(bytesPerSecond: number | null, now: number): void {
    this.bucket.setRate(bytesPerSecond, now);
    if (bytesPerSecond === null) this.waiting.clear();
  }

  /** One more who sends under this limit. */
  sharer(): Sharer {
    return new Sharer(this);
  }

  /** Whether it would be refused now. Whoever only wants to know does not wait for that. */
  isHeldBack(sharer: Sharer, now: number): boolean {
    const { bytesPerSecond } = this.bucket;
    if (bytesPerSecond === null) return false;
    const lead = (bytesPerSecond * SHARE_LEAD_MS) / 1000;
    return this.bucket.waitMs(now) > 0 || this.isOutranked(sharer, lead, now);
  }

  /** Milliseconds until the sharer, who wants to send, may ask again; 0: it may send. */
  waitMs(sharer: Sharer, now: number): number {
    if (!this.isHeldBack(sharer, now)) return 0;
    const debtMs = this.bucket.waitMs(now);
    if (!this.waiting.has(sharer)) sharer.finish = Math.max(sharer.finish, this.virtual);
    this.waiting.set(sharer, now);
    return Math.max(debtMs, NEXT_MS);
  }

  /** Counts what the sharer sends. */
  take(sharer: Sharer, bytes: number, now: number): void {
    if (bytes === 0 || this.bucket.bytesPerSecond === null) return;
    this.bucket.take(bytes, now);
    const start = Math.max(this.virtual, sharer.finish);
    sharer.finish = start + bytes;
    this.waiting.delete(sharer);
    this.virtual = Math.max(this.virtual, this.earliest(start));
  }

  /** What was sent was so many bytes more; a negative number is given back. */
  correct(sharer: Sharer, bytes: number, now: number): void {
    if (this.bucket.bytesPerSecond === null) return;
    this.bucket.take(bytes, now);
    sharer.finish += bytes;
  }

  /** Where the first of those who wait begins, and not after `start`. */
  private earliest(start: number): number {
    let earliest = start;
    for (const other of this.waiting.keys()) earliest = Math.min(earliest, other.finish);
    return earliest;
  }

  private isOutranked(sharer: Sharer, lead: number, now: number): boolean {
    const start = Math.max(this.virtual, sharer.finish);
    for (const [other, askedAt] of this.waiting) {
      if (other === sharer) continue;
      if (now - askedAt > SHARE_ASK_MS_MAX) this.waiting.delete(other);
      else if (other.finish + lead < start) return true;
    }
    return false;
  }
}

export class Sharer {
  /** Virtual time at which what it took is paid for. */
  finish = 0;
  private readonly limit: SharedLimit;

  constructor(limit: SharedLimit) {
    this.limit = limit;
  }

  isHeldBack(now: number): boolean {
    return this.limit.isHeldBack(this, now);
  }

  waitMs(now: number): number {
    return this.limit.waitMs(this, now);
  }

  take(bytes: number, now: number): void {
    this.limit.take(this, bytes, now);
  }

  correct(bytes: number, now: number): void {
    this.limit.correct(this, bytes, now);
  }
}
