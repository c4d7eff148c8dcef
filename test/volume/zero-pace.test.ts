/** How zeroing adapts to what holes cost, by numbers alone: the pieces, and the choice between a hole and zeroes. */
import { describe, expect, test } from 'vitest';
import { ZERO_PIECE_MS, ZERO_PIECE_RUNS_MAX } from '../../src/io/limits.ts';
import { ZeroPace } from '../../src/volume/zero-pace.ts';

/** Punches until the size of a piece settles, where each run costs `runMs`; returns that size. */
function settle(pace: ZeroPace, runMs: number): number {
  for (let piece = 0; piece < 40; piece += 1) pace.punched(pace.runsMax, pace.runsMax * runMs);
  return pace.runsMax;
}

describe('the pace of zeroing', () => {
  test.each([
    { runMs: 0.0001, least: ZERO_PIECE_RUNS_MAX, most: ZERO_PIECE_RUNS_MAX },
    { runMs: 0.015, least: 100, most: ZERO_PIECE_MS / 0.015 },
    { runMs: 2.4, least: 1, most: 4 },
    { runMs: 100, least: 1, most: 1 },
  ])('cuts pieces to a few milliseconds at $runMs ms a run', ({ runMs, least, most }) => {
    const runs = settle(new ZeroPace(), runMs);
    expect(runs).toBeGreaterThanOrEqual(least);
    expect(runs).toBeLessThanOrEqual(most);
  });

  test('writes small runs and punches large ones where each hole is dear', () => {
    const pace = new ZeroPace();
    expect(pace.paysFor(4096)).toBe(true);
    settle(pace, 2.4);
    expect(pace.paysFor(4096)).toBe(false);
    expect(pace.paysFor(2 ** 20)).toBe(true);
  });

  test('tries a hole again now and then, and goes back to holes when they are cheap', () => {
    const pace = new ZeroPace();
    settle(pace, 2.4);
    let tries = 0;
    for (let run = 0; run < 100_000; run += 1) {
      if (!pace.paysFor(4096)) continue;
      tries += 1;
      pace.punched(1, 2.4);
    }
    expect(tries).toBeGreaterThan(5);
    expect(tries).toBeLessThan(60);
    pace.punched(1, 0.02);
    expect(pace.paysFor(4096)).toBe(true);
  });

  test('does not take a piece that was cut by its bytes for a sign that more runs are cheap', () => {
    const pace = new ZeroPace();
    const before = pace.runsMax;
    for (let piece = 0; piece < 20; piece += 1) pace.punched(1, 0.01);
    expect(pace.runsMax).toBe(before);
  });
});
