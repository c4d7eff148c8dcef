/** What may be sent to a mirror, in bytes a second: its own limit, and that of the node, which all mirrors share. */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import type { WireLimit } from '../link/link-types.ts';
import type { SharedLimit, Sharer } from './shared-limit.ts';
import { TokenBucket } from './token-bucket.ts';

/** A limit may be changed while somebody waits for it: it is asked again after so long, and not before a millisecond. */
const LOOK_MS_MAX = 250;

/** How long to wait before a limit is asked again that said `waitMs`. */
export function limitLookMs(waitMs: number): number {
  return Math.max(1, Math.min(LOOK_MS_MAX, waitMs));
}

export class SendLimit implements WireLimit {
  private readonly clock: Clock;
  private readonly own: TokenBucket;
  private readonly shared: Sharer | null;
  /** Of what is taken, the part that is likely to be left on the wire. */
  private share = 1;

  /** `bytesPerSecond`: null for no limit of its own. `shared`: that of the node, if there is one. */
  constructor(clock: Clock, bytesPerSecond: number | null, shared: SharedLimit | null) {
    this.clock = clock;
    this.own = new TokenBucket(bytesPerSecond, clock.now());
    this.shared = shared?.sharer() ?? null;
  }

  set(bytesPerSecond: number | null): void {
    this.own.setRate(bytesPerSecond, this.clock.now());
  }

  expect(share: number): void {
    assert(share >= 0 && share <= 1, 'compression leaves a part');
    this.share = share;
  }

  correct(plainBytes: number, wireBytes: number): void {
    const now = this.clock.now();
    const bytes = wireBytes - plainBytes * this.share;
    this.own.take(bytes, now);
    this.shared?.correct(bytes, now);
  }

  /**
   * Takes what `bytes` are likely to be on the wire, whether they are there or not; answers the milliseconds until the debt is
   * paid: 0 is go.
   */
  take(bytes: number): number {
    const now = this.clock.now();
    this.own.take(bytes * this.share, now);
    this.shared?.take(bytes * this.share, now);
    return this.waitMs;
  }

  /** Whether something that is to be sent would have to wait. */
  get heldBack(): boolean {
    const now = this.clock.now();
    return this.own.waitMs(now) > 0 || this.shared?.isHeldBack(now) === true;
  }

  /** Milliseconds until something may be sent, for one who wants to. */
  get waitMs(): number {
    const now = this.clock.now();
    // Who is held up by its own limit does not wait in the line of the others.
    return this.own.waitMs(now) || (this.shared?.waitMs(now) ?? 0);
  }
}
