/** What the server tells about its connections; never about single requests. */
import type { Clock } from '../../io/clock.ts';
import { NBD_WARNINGS_PER_MINUTE_MAX } from '../../io/limits.ts';

/** The part of a structured logger that is needed here; a pino logger is one. */
export interface NbdLog {
  info(fields: Readonly<Record<string, unknown>>, text: string): void;
  warn(fields: Readonly<Record<string, unknown>>, text: string): void;
}

export const silentLog: NbdLog = { info: () => {}, warn: () => {} };

const WINDOW_MS = 60_000;

/**
 * Lets NBD_WARNINGS_PER_MINUTE_MAX warnings a minute through: strangers must not fill the disk with their
 * mistakes. The first warning after a silence says how many were left out.
 */
export class RateLimitedLog implements NbdLog {
  private readonly log: NbdLog;
  private readonly clock: Clock;
  private windowStart = Number.NEGATIVE_INFINITY;
  private count = 0;
  private suppressed = 0;

  constructor(log: NbdLog, clock: Clock) {
    this.log = log;
    this.clock = clock;
  }

  info(fields: Readonly<Record<string, unknown>>, text: string): void {
    this.log.info(fields, text);
  }

  warn(fields: Readonly<Record<string, unknown>>, text: string): void {
    const now = this.clock.now();
    if (now - this.windowStart >= WINDOW_MS) {
      this.windowStart = now;
      this.count = 0;
    }
    if (this.count === NBD_WARNINGS_PER_MINUTE_MAX) {
      this.suppressed++;
      return;
    }
    this.count++;
    const { suppressed } = this;
    this.suppressed = 0;
    this.log.warn(suppressed === 0 ? fields : { ...fields, suppressed }, text);
  }
}
