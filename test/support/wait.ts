/** Waiting in tests: always with a deadline, always saying what for. Times are milliseconds. */
import { setTimeout as sleepFor } from 'node:timers/promises';

export interface WaitOptions {
  readonly timeoutMs?: number;
  readonly everyMs?: number;
  /** Added to the error when the deadline passes: a log, a status. */
  readonly onTimeout?: () => string;
}

export async function sleep(ms: number): Promise<void> {
  await sleepFor(ms);
}

/**
 * Calls `probe` until it gives something other than undefined, null or false, and returns that. A
 * probe that throws is asked again. At the deadline (10 s by default) the last error or value is told.
 */
export async function waitUntil<T>(
  what: string,
  probe: () => T | Promise<T>,
  options: WaitOptions = {},
): Promise<Exclude<T, undefined | null | false>> {
  const timeoutMs = options.timeoutMs ?? 10_000;
  const deadline = performance.now() + timeoutMs;
  let last = 'never asked';
  for (;;) {
    try {
      const value = await probe();
      if (value !== undefined && value !== null && value !== false) {
        return value as Exclude<T, undefined | null | false>;
      }
      last = `last answer: ${String(value)}`;
    } catch (thrown) {
      last = `last error: ${thrown instanceof Error ? thrown.message : String(thrown)}`;
    }
    if (performance.now() >= deadline) break;
    await sleep(options.everyMs ?? 50);
  }
  const detail = options.onTimeout === undefined ? '' : `\n${options.onTimeout()}`;
  throw new Error(`waited ${timeoutMs} ms for ${what} (${last})${detail}`);
}
