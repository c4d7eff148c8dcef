/**
 * Notices a server that no longer answers, with one coarse timer for a connection.
 *
 * Invariants:
 * - It reports only while something is outstanding, and after at least `limitMs` without a sign of life.
 * - It counts ticks, not time: a process that was stopped or busy for long does not take that for
 *   silence of the server, because late ticks do not pile up.
 */
import type { Clock, Timer } from '../../io/clock.ts';

const TICKS = 4;

export interface Watched {
  /** Something is outstanding. */
  readonly expecting: boolean;
  /** Bytes wait because the kernel takes no more. */
  readonly blocked: boolean;
  silent(): void;
}

export class SilenceWatch {
  private readonly clock: Clock;
  private readonly tickMs: number;
  private readonly watched: Watched;
  private timer: Timer | null = null;
  private heardSinceTick = false;
  private blockedAtTick = false;
  private silentTicks = 0;

  constructor(clock: Clock, limitMs: number, watched: Watched) {
    this.clock = clock;
    this.tickMs = limitMs / TICKS;
    this.watched = watched;
  }

  /** Something is outstanding, after nothing was. */
  begin(): void {
    this.heardSinceTick = true;
    if (this.timer === null) this.arm();
  }

  /** Bytes came. */
  heard(): void {
    this.heardSinceTick = true;
  }

  /**
   * The kernel took bytes. That is a sign of life of the other side only if it took none before:
   * otherwise it may just be filling its buffer for a peer that is gone.
   */
  sent(): void {
    if (this.blockedAtTick) this.heardSinceTick = true;
  }

  stop(): void {
    this.timer?.cancel();
    this.timer = null;
  }

  private arm(): void {
    this.timer = this.clock.after(this.tickMs, () => this.tick());
  }

  private tick(): void {
    this.timer = null;
    if (!this.watched.expecting) return;
    // The first tick may come early in the life of a request: it does not count.
    this.silentTicks = this.heardSinceTick ? 0 : this.silentTicks + 1;
    this.heardSinceTick = false;
    this.blockedAtTick = this.watched.blocked;
    if (this.silentTicks >= TICKS) this.watched.silent();
    else this.arm();
  }
}
