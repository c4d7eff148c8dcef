/**
 * Who may send now: limits that stand one above the other (a mirror's, the node's), and those who share them.
 *
 * Invariants:
 * - A sender takes from its own limit and from every one above it, and only when none of them is in debt.
 * - Of those who wait and could go, the one that was served the fewest bytes goes first (start-time fair queueing): a sender
 *   of small pieces has its part beside one of large pieces, and whoever paused does not catch up on what it left unused.
 * - A sender that is held up by its own limit holds up nobody else.
 * - One timer at most runs for each tree of limits. Without limits `take` does nothing but look.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../io/clock.ts';
import { TokenBucket } from './token-bucket.ts';

/** Pieces that are let go in one turn; then others of the process have theirs. */
const SERVES_PER_TURN_MAX = 1024;

export class Bandwidth {
  private readonly bucket: TokenBucket;
  /** Its own, and those above it. */
  private readonly chain: readonly TokenBucket[];
  private readonly queue: SenderQueue;
  private readonly clock: Clock;

  /** `bytesPerSecond` null: no limit here. `parent`: the limit above this one. */
  constructor(clock: Clock, bytesPerSecond: number | null, parent: Bandwidth | null = null) {
    this.clock = clock;
    this.bucket = new TokenBucket(bytesPerSecond, clock.now());
    this.chain = [this.bucket, ...(parent?.chain ?? [])];
    this.queue = parent?.queue ?? new SenderQueue(clock);
  }

  get bytesPerSecond(): number | null {
    return this.bucket.bytesPerSecond;
  }

  /** Takes effect at once, also for those who wait. */
  setLimit(bytesPerSecond: number | null): void {
    this.bucket.setRate(bytesPerSecond, this.clock.now());
    this.queue.changed();
  }

  /** Someone who sends under this limit. `ready` is called after a refusal, when it may take. */
  sender(ready: () => void): BandwidthSender {
    return new BandwidthSender(this.queue, this.chain, ready);
  }
}

export class BandwidthSender {
  /** Virtual time at which what it took is paid for. */
  finish = 0;
  /** Virtual time at which it began to wait. */
  start = 0;
  waiting = false;
  readonly ready: () => void;
  private readonly queue: SenderQueue;
  private readonly buckets: readonly TokenBucket[];

  constructor(queue: SenderQueue, buckets: readonly TokenBucket[], ready: () => void) {
    this.queue = queue;
    this.buckets = buckets;
    this.ready = ready;
  }

  /**
   * Whether `bytes` may be sent now; then they are counted. If not, `ready` is called once, in a later turn, and what
   * is taken first inside it is granted.
   */
  take(bytes: number): boolean {
    return this.queue.take(this, bytes);
  }

  /** It has nothing to send any more: `ready` is not called until the next refusal. */
  cancel(): void {
    this.queue.remove(this);
  }

  limited(): boolean {
    for (const bucket of this.buckets) if (bucket.bytesPerSecond !== null) return true;
    return false;
  }

  /** Milliseconds until none of its limits is in debt. */
  waitMs(now: number): number {
    let longest = 0;
    for (const bucket of this.buckets) longest = Math.max(longest, bucket.waitMs(now));
    return longest;
  }

  charge(bytes: number, now: number): void {
    for (const bucket of this.buckets) bucket.take(bytes, now);
  }
}

/** Those who wait under one tree of limits. */
class SenderQueue {
  private readonly waiting = new Set<BandwidthSender>();
  private virtual = 0;
  private granted: BandwidthSender | null = null;
  private timer: Timer | null = null;
  private serving = false;
  private readonly clock: Clock;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  take(sender: BandwidthSender, bytes: number): boolean {
    assert(bytes > 0, 'something is sent');
    if (!sender.limited()) return true;
    const isGranted = this.granted === sender;
    const now = this.clock.now();
    if (isGranted) this.granted = null;
    else if (sender.waiting || sender.waitMs(now) > 0 || this.next(now) !== null) {
      this.wait(sender);
      return false;
    }
    const start = isGranted ? sender.start : Math.max(this.virtual, sender.finish);
    this.virtual = Math.max(this.virtual, start);
    sender.finish = start + bytes;
    sender.charge(bytes, now);
    return true;
  }

  remove(sender: BandwidthSender): void {
    this.waiting.delete(sender);
    sender.waiting = false;
    this.arm();
  }

  /** A limit changed. */
  changed(): void {
    this.arm();
  }

  private wait(sender: BandwidthSender): void {
    if (sender.waiting) return;
    sender.waiting = true;
    sender.start = Math.max(this.virtual, sender.finish);
    this.waiting.add(sender);
    this.arm();
  }

  /** The sender that goes next, if one may go now. */
  private next(now: number): BandwidthSender | null {
    let best: BandwidthSender | null = null;
    for (const sender of this.waiting) {
      if (best !== null && sender.start >= best.start) continue;
      if (sender.waitMs(now) === 0) best = sender;
    }
    return best;
  }

  private arm(): void {
    if (this.serving) return;
    this.timer?.cancel();
    this.timer = null;
    if (this.waiting.size === 0) return;
    const now = this.clock.now();
    let soonest = Number.POSITIVE_INFINITY;
    for (const sender of this.waiting) soonest = Math.min(soonest, sender.waitMs(now));
    this.timer = this.clock.after(soonest, this.serve);
  }

  /** Lets go whoever may, one piece each time, until all are in debt. */
  private readonly serve = (): void => {
    this.timer = null;
    this.serving = true;
    for (let turns = 0; turns < SERVES_PER_TURN_MAX; turns += 1) {
      const sender = this.next(this.clock.now());
      if (sender === null) break;
      this.waiting.delete(sender);
      sender.waiting = false;
      this.granted = sender;
      sender.ready();
      this.granted = null;
    }
    this.serving = false;
    this.arm();
  };
}
