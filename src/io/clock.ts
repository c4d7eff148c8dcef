/**
 * Time, as everything below the daemon sees it. The simulator passes its own.
 */
import { performance } from 'node:perf_hooks';

/** A pending timer; `cancel` is safe at any time and more than once. */
export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Monotonic milliseconds, with fractions. The origin has no meaning. */
  now(): number;
  /** Wall-clock milliseconds since 1970, for people and for other machines; may jump. */
  wall(): number;
  /** Calls `callback` once, not before `delayMs` have passed. */
  after(delayMs: number, callback: () => void): Timer;
  /** Calls `callback` once, after the events of this turn have been handled. */
  soon(callback: () => void): void;
}

/** The last moment that has a date. */
const DATED_MS_MAX = 8.64e15;

/** ISO 8601 of wall-clock milliseconds, which may be those of another machine: any number that is none has the last date. */
export function isoTime(wallMs: number): string {
  const dated = wallMs >= 0 && wallMs <= DATED_MS_MAX;
  return new Date(dated ? wallMs : DATED_MS_MAX).toISOString();
}

export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  after(delayMs, callback) {
    const handle = setTimeout(callback, delayMs);
    return { cancel: () => clearTimeout(handle) };
  },
  soon(callback) {
    setImmediate(callback);
  },
};
