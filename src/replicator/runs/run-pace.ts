/**
 * What a run waits for, and how it ends before its time.
 *
 * Invariants:
 * - Whoever waits is woken by each event; an end wakes for good, and `check` throws from then on.
 * - The first reason of an end is the one that is told.
 */
import type { Clock } from '../../io/clock.ts';
import { LINK_BACKLOG_BYTES_HIGH } from '../../io/limits.ts';
import type { Link } from '../link/link-types.ts';
import { RunAborted } from './delta-run.ts';

/** A bound on what is sent, in bytes a second. */
export interface RunLimiter {
  /** Takes `bytes`, whether they are there or not, and answers the milliseconds until the debt is paid: 0 is go. */
  take(bytes: number): number;
}

/** A limit may be changed meanwhile: it is asked again after so long, and not before that. */
const LIMIT_SLICE_MS = 250;
const LIMIT_SLICE_MS_MIN = 1;

export class RunPace {
  readonly link: Link;
  readonly clock: Clock;
  private readonly limiter: RunLimiter | null;
  private reason: Error | null = null;
  private waiting: (() => void) | null = null;

  constructor(options: { link: Link; clock: Clock; limiter: RunLimiter | null }) {
    this.link = options.link;
    this.clock = options.clock;
    this.limiter = options.limiter;
  }

  end(reason: Error): void {
    this.reason ??= reason;
    this.wake();
  }

  /** Throws the reason of an end. */
  check(): void {
    if (this.reason !== null) throw this.reason;
    if (!this.link.open) throw new RunAborted('the link is gone');
  }

  /** Something happened that somebody may wait for. */
  wake(): void {
    const { waiting } = this;
    this.waiting = null;
    waiting?.();
  }

  /** Waits until `ready`, or throws the reason of an end. One waits at a time. */
  async until(ready: () => boolean): Promise<void> {
    for (;;) {
      this.check();
      if (ready()) return;
      await new Promise<void>((resolve) => {
        this.waiting = resolve;
      });
    }
  }

  /** Lets the others have their turn. */
  async turn(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.clock.soon(resolve);
    });
    this.check();
  }

  /** Waits until `bytes` may be given to the link. */
  async room(bytes: number): Promise<void> {
    await this.until(() => this.link.backlogBytes < LINK_BACKLOG_BYTES_HIGH);
    if (this.limiter === null) return;
    let ms = this.limiter.take(bytes);
    while (ms > 0) {
      await this.sleep(Math.max(LIMIT_SLICE_MS_MIN, Math.min(ms, LIMIT_SLICE_MS)));
      ms = this.limiter.take(0);
    }
  }

  private async sleep(ms: number): Promise<void> {
    let over = false;
    const timer = this.clock.after(ms, () => {
      over = true;
      this.wake();
    });
    try {
      await this.until(() => over);
    } finally {
      timer.cancel();
    }
  }
}
