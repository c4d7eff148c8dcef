/**
 * How fast a merge may go: all it can while hosts are at rest, a quarter of the time while they are busy, and what a
 * limit says, whatever they do. Method: the arithmetic alone, with a time of the test's own.
 */
import { describe, expect, test } from 'vitest';
import { MERGE_PIECE_BYTES, MERGE_QUIET_MS } from '../../src/io/limits.ts';
import { MergePace } from '../../src/volume/merge/merge-pace.ts';

describe('the pace of a merge', () => {
  test('is unbounded while hosts are at rest', () => {
    const pace = new MergePace(null, 0);
    pace.notice(0, 0, 0);
    pace.began(MERGE_PIECE_BYTES, 0);
    pace.worked(50, 50);
    expect(pace.isAlone(50)).toBe(false);
    expect(pace.delay(50)).toBe(0);
  });

  test('is a quarter of the time while they are busy, and for a moment after', () => {
    const pace = new MergePace(null, 0);
    pace.notice(1, 0, 100);
    expect(pace.isAlone(100)).toBe(true);
    pace.worked(20, 120);
    pace.notice(2, 0, 120);
    expect(pace.delay(120)).toBe(60);
    expect(pace.delay(150)).toBe(30);
    pace.notice(2, 0, 180);
    expect(pace.isBusy(120 + MERGE_QUIET_MS - 1)).toBe(true);
    expect(pace.isBusy(120 + MERGE_QUIET_MS)).toBe(false);
    pace.worked(1000, 300);
    expect(pace.delay(300)).toBe(0);
  });

  test('knows a host by a request that takes long', () => {
    const pace = new MergePace(null, 0);
    pace.notice(9, 1, 0);
    pace.notice(9, 1, 1000);
    expect(pace.isBusy(1000)).toBe(true);
    pace.notice(9, 0, 2000);
    expect(pace.isBusy(2000)).toBe(false);
  });

  test('is what a limit says over time, and catches up on no more than a moment', () => {
    const rate = 10 * MERGE_PIECE_BYTES;
    const pace = new MergePace(rate, 0);
    let now = 0;
    let bytes = 0;
    while (now < 10_000) {
      const delay = pace.delay(now);
      if (delay === 0) {
        pace.began(MERGE_PIECE_BYTES, now);
        bytes += MERGE_PIECE_BYTES;
        now += 3;
      } else {
        now += delay;
      }
    }
    expect(bytes / rate).toBeGreaterThan(9.8);
    expect(bytes / rate).toBeLessThan(10.3);
    // A long pause is not made up for.
    now += 3_600_000;
    let burst = 0;
    while (pace.delay(now) === 0) {
      pace.began(MERGE_PIECE_BYTES, now);
      burst += 1;
    }
    expect(burst).toBeLessThan(4);
  });

  test('holds to a limit while hosts are at rest, and one step at a time', () => {
    const pace = new MergePace(1000, 0);
    pace.notice(0, 0, 0);
    pace.began(4000, 0);
    expect(pace.isAlone(0)).toBe(true);
    expect(pace.delay(0)).toBeCloseTo(4000);
    expect(pace.delay(3000)).toBeCloseTo(1000);
    expect(pace.delay(4001)).toBe(0);
  });

  test('forgets what it owed when the limit changes', () => {
    const pace = new MergePace(1, 0);
    pace.began(MERGE_PIECE_BYTES, 0);
    expect(pace.delay(0)).toBeGreaterThan(1e8);
    pace.setLimit(MERGE_PIECE_BYTES, 10);
    expect(pace.limit).toBe(MERGE_PIECE_BYTES);
    expect(pace.delay(10)).toBe(0);
    pace.setLimit(null, 20);
    expect(pace.limit).toBe(null);
    expect(pace.delay(20)).toBe(0);
  });
});
