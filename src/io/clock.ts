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
