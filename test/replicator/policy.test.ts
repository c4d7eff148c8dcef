/** The numbers by which the replicator decides, at and around their limits. */
import { describe, expect, it } from 'vitest';
import {
  DELTA_FINAL_BYTES,
  DELTA_SWEEPS_STUCK_MAX,
  EPOCH_AGE_MS,
  EPOCH_BYTES,
  MIRROR_RETRY_MS_MAX,
  MIRROR_RETRY_MS_MIN,
  THROTTLE_MS_MAX,
} from '../../src/io/limits.ts';
import {
  CONVERGING,
  afterRound,
  closesNow,
  etaSeconds,
  isFinalSweep,
  isInStep,
  isOutrun,
  retryDelayMs,
  throttleMs,
} from '../../src/replicator/policy/policy.ts';

describe('policy', () => {
  it('closes an epoch by size, by age, or for who waits', () => {
    const open = { bytes: 1, ageMs: 0, waiters: false };
    expect(closesNow(open)).toBe(false);
    expect(closesNow({ ...open, bytes: EPOCH_BYTES - 1, ageMs: EPOCH_AGE_MS - 1 })).toBe(false);
    expect(closesNow({ ...open, bytes: EPOCH_BYTES })).toBe(true);
    expect(closesNow({ ...open, ageMs: EPOCH_AGE_MS })).toBe(true);
    expect(closesNow({ ...open, waiters: true })).toBe(true);
  });

  it('lets a mirror go at nine tenths of the queue, or at the last epoch', () => {
    const limits = { limitBytes: 1000, limitEpochs: 50 };
    expect(isOutrun({ bytes: 899, epochs: 49, ...limits })).toBe(false);
    expect(isOutrun({ bytes: 900, epochs: 0, ...limits })).toBe(true);
    expect(isOutrun({ bytes: 0, epochs: 50, ...limits })).toBe(true);
  });

  it('calls a mirror in step when it has what was staged in the run, and closely when it is synchronous', () => {
    const mirror = { durable: 5, catchUpTo: 5, mode: 'async', stagedBytes: 2 ** 30 } as const;
    expect(isInStep(mirror)).toBe(true);
    expect(isInStep({ ...mirror, durable: 4 })).toBe(false);
    expect(isInStep({ ...mirror, mode: 'sync' })).toBe(false);
    expect(isInStep({ ...mirror, mode: 'sync', stagedBytes: EPOCH_BYTES })).toBe(true);
    expect(isInStep({ ...mirror, mode: 'sync', stagedBytes: 0, durable: 4 })).toBe(false);
  });

  it('stages during the sweep that is small enough', () => {
    expect(isFinalSweep(DELTA_FINAL_BYTES)).toBe(true);
    expect(isFinalSweep(DELTA_FINAL_BYTES + 1)).toBe(false);
  });

  it('waits longer from attempt to attempt, up to a bound, a little at random', () => {
    const delays = [0, 1, 2, 3, 10, 1e9].map((attempt) => retryDelayMs(attempt, 0.5));
    expect(delays).toEqual(
      [1, 2, 4, 8]
        .map((f) => f * MIRROR_RETRY_MS_MIN)
        .concat(MIRROR_RETRY_MS_MAX, MIRROR_RETRY_MS_MAX),
    );
    expect(retryDelayMs(0, 0)).toBe(0.75 * MIRROR_RETRY_MS_MIN);
    expect(retryDelayMs(50, 0.999)).toBeLessThan(1.25 * MIRROR_RETRY_MS_MAX);
  });

  it('says when it will be done only when it can know', () => {
    expect(etaSeconds({ remainingBytes: 5000, doneBytes: 1000, elapsedMs: 999 })).toBeNull();
    expect(etaSeconds({ remainingBytes: 5000, doneBytes: 0, elapsedMs: 5000 })).toBeNull();
    expect(etaSeconds({ remainingBytes: 5000, doneBytes: -10, elapsedMs: 5000 })).toBeNull();
    expect(etaSeconds({ remainingBytes: 5000, doneBytes: 1000, elapsedMs: 2000 })).toBe(10);
  });

  it('calls a run not converging until a round halves what is left', () => {
    const same = { bytesBefore: 1000, bytesAfter: 1000 };
    let state = CONVERGING;
    for (let round = 1; round < DELTA_SWEEPS_STUCK_MAX; round += 1) state = afterRound(state, same);
    expect(state.notConverging).toBe(false);
    // A round that shrinks begins the count anew.
    expect(afterRound(state, { bytesBefore: 1000, bytesAfter: 900 }).stuckRounds).toBe(0);
    state = afterRound(state, same);
    expect(state.notConverging).toBe(true);
    expect(afterRound(state, { bytesBefore: 1000, bytesAfter: 501 }).notConverging).toBe(true);
    expect(afterRound(state, { bytesBefore: 1000, bytesAfter: 500 }).notConverging).toBe(false);
  });

  it('holds writes back the more, the more the slowest mirror lags beyond the limit', () => {
    expect(throttleMs(1e9, null)).toBe(0);
    expect(throttleMs(0, 1000)).toBe(0);
    expect(throttleMs(1000, 1000)).toBe(0);
    expect(throttleMs(1100, 1000)).toBeCloseTo(THROTTLE_MS_MAX / 10);
    expect(throttleMs(1500, 1000)).toBe(THROTTLE_MS_MAX / 2);
    expect(throttleMs(2000, 1000)).toBe(THROTTLE_MS_MAX);
    expect(throttleMs(1e9, 1000)).toBe(THROTTLE_MS_MAX);
  });
});
