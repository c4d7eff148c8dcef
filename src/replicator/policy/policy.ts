/** Decisions of the replicator, as pure functions of numbers: no state, no I/O, no clock. */
import {
  DELTA_FINAL_BYTES,
  DELTA_SWEEPS_STUCK_MAX,
  EPOCH_AGE_MS,
  EPOCH_BYTES,
  MIRROR_RETRY_MS_MAX,
  MIRROR_RETRY_MS_MIN,
  THROTTLE_MS_MAX,
} from '../../io/limits.ts';
import type { Backlog } from '../staging/staging-queue.ts';
import type { MirrorMode } from '../status.ts';

/** Whether an idle link should take the open epoch now, or let it fill. */
export function closesNow(open: { bytes: number; ageMs: number; waiters: boolean }): boolean {
  return open.waiters || open.bytes >= EPOCH_BYTES || open.ageMs >= EPOCH_AGE_MS;
}

/** Whether a mirror in stream must leave it because it cannot keep up. */
export function isOutrun(backlog: Backlog): boolean {
  return backlog.bytes >= backlog.limitBytes * 0.9 || backlog.epochs >= backlog.limitEpochs;
}

/**
 * Whether a mirror that was sent everything follows the host closely: it has what was staged meanwhile, and
 * the first write that waits for a synchronous one does not wait for a long queue.
 */
export function isInStep(mirror: {
  durable: number;
  catchUpTo: number;
  mode: MirrorMode;
  stagedBytes: number;
}): boolean {
  if (mirror.durable < mirror.catchUpTo) return false;
  return mirror.mode === 'async' || mirror.stagedBytes <= EPOCH_BYTES;
}

/** Whether so little is left that host writes can be staged while it is sent: the sweep is the last. */
export function isFinalSweep(dirtyBytes: number): boolean {
  return dirtyBytes <= DELTA_FINAL_BYTES;
}

/** How the rounds of a delta run get on. */
export interface Convergence {
  /** Rounds in a row that left more than nine tenths of what was there before them. */
  readonly stuckRounds: number;
  /** Rounds do not shrink: the host writes faster than they are sent. */
  readonly notConverging: boolean;
}

export const CONVERGING: Convergence = { stuckRounds: 0, notConverging: false };
const NOT_CONVERGING: Convergence = { stuckRounds: DELTA_SWEEPS_STUCK_MAX, notConverging: true };

/** After a round that left `bytesAfter` to send of `bytesBefore`. Once stuck, only a round that halves it ends that. */
export function afterRound(
  { stuckRounds, notConverging }: Convergence,
  round: { bytesBefore: number; bytesAfter: number },
): Convergence {
  if (notConverging) return round.bytesAfter > round.bytesBefore / 2 ? NOT_CONVERGING : CONVERGING;
  const stuck = round.bytesAfter > round.bytesBefore * 0.9 ? stuckRounds + 1 : 0;
  return { stuckRounds: stuck, notConverging: stuck >= DELTA_SWEEPS_STUCK_MAX };
}

/**
 * How long a write of the host is held back, in milliseconds, when the slowest mirror lags by `lagMs`: nothing up to the
 * limit, then more and more up to THROTTLE_MS_MAX at twice the limit. `limitMs` null: never.
 */
export function throttleMs(lagMs: number, limitMs: number | null): number {
  if (limitMs === null || lagMs <= limitMs) return 0;
  return THROTTLE_MS_MAX * Math.min(1, lagMs / limitMs - 1);
}

/** Pause before attempt `attempt` (0 is the first) to reach a mirror; `fraction` in [0, 1) spreads it. */
export function retryDelayMs(attempt: number, fraction: number): number {
  const full = Math.min(MIRROR_RETRY_MS_MAX, MIRROR_RETRY_MS_MIN * 2 ** Math.min(attempt, 16));
  return full * (0.75 + 0.5 * fraction);
}

/** Seconds until `remainingBytes` are sent at the rate seen, or null while that cannot be said. */
export function etaSeconds(progress: {
  remainingBytes: number;
  doneBytes: number;
  elapsedMs: number;
}): number | null {
  if (progress.elapsedMs < 1000 || progress.doneBytes <= 0) return null;
  const bytesPerMs = progress.doneBytes / progress.elapsedMs;
  return Math.round(progress.remainingBytes / bytesPerMs / 100) / 10;
}
