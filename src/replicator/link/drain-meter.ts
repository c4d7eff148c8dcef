/**
 * How long data waited for a link, and how much left it meanwhile.
 *
 * Invariants:
 * - Time is asked for only where a wait begins or ends, so that a link whose frames leave at once costs nothing.
 * - What is told is what happened since it was told last; a wait that goes on is told up to that moment.
 */
import type { Clock } from '../../io/clock.ts';
import { COMPRESS_WAITING_BYTES_MIN } from '../../io/limits.ts';
import type { CompressionLook } from './compression-policy.ts';

/** Time for which something was so. */
class Stretch {
  on = false;
  private since = 0;
  private ms = 0;

  set(on: boolean, clock: Clock): void {
    const now = clock.now();
    if (this.on) this.ms += now - this.since;
    this.on = on;
    this.since = now;
  }

  take(now: number): number {
    const ms = this.ms + (this.on ? now - this.since : 0);
    this.ms = 0;
    this.since = now;
    return ms;
  }
}

/** Bytes that left. */
class Sum {
  plain = 0;
  compressed = 0;
  wire = 0;

  add(wireBytes: number, plainBytes: number): void {
    this.wire += wireBytes;
    this.plain += plainBytes;
    if (wireBytes !== plainBytes) this.compressed += plainBytes;
  }
}

export class DrainMeter {
  private readonly clock: Clock;
  private readonly waiting = new Stretch();
  private readonly linkWaiting = new Stretch();
  /** While data waited, and at any time. */
  private waited = new Sum();
  private all = new Sum();
  private since: number;

  constructor(clock: Clock) {
    this.clock = clock;
    this.since = clock.now();
  }

  /** So many bytes wait now: for the compressor and the link together, and for the link. */
  waits(bytes: number, linkBytes: number): void {
    const { waiting, linkWaiting, clock } = this;
    if (bytes >= COMPRESS_WAITING_BYTES_MIN !== waiting.on) waiting.set(!waiting.on, clock);
    if (linkBytes >= COMPRESS_WAITING_BYTES_MIN !== linkWaiting.on) {
      linkWaiting.set(!linkWaiting.on, clock);
    }
  }

  /** The system took a frame, of so many bytes and so many before compression. Called before `waits` says so. */
  left(wireBytes: number, plainBytes: number): void {
    this.all.add(wireBytes, plainBytes);
    if (this.waiting.on) this.waited.add(wireBytes, plainBytes);
  }

  /** What happened since the last time. `heldBack`: senders wait for their turn, which is as if all waited for the link. */
  take(heldBack: boolean): CompressionLook {
    const now = this.clock.now();
    const elapsedMs = now - this.since;
    const { plain, compressed, wire } = heldBack ? this.all : this.waited;
    const waitedMs = this.waiting.take(now);
    const linkWaitedMs = this.linkWaiting.take(now);
    const look = {
      now,
      elapsedMs,
      waitedMs: heldBack ? elapsedMs : waitedMs,
      linkWaitedMs: heldBack ? elapsedMs : linkWaitedMs,
      plainBytes: plain,
      compressedBytes: compressed,
      wireBytes: wire,
      allBytes: this.all.plain,
    };
    this.since = now;
    this.waited = new Sum();
    this.all = new Sum();
    return look;
  }
}
