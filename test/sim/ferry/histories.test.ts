/**
 * Whatever hosts, operators, networks, kills, power cuts and failing disks do to a primary and its mirrors: what a mirror holds is the
 * primary as it was at the end of one epoch, what was promised is kept, and all find back by themselves. Method: random histories
 * of several nodes in one process, played by the code itself under dice; some from seeds that never change, some from
 * today's, and those that failed once. A thousand of them, or as many as three minutes allow.
 */
import { describe, expect, test } from 'vitest';
import { FOUND } from './found.ts';
import { outcomeOf, reportOf, tryFerry } from './run.ts';

const TODAY = Math.floor(Date.now() / 86_400_000);
const HISTORIES = 500;
const PLAY_MS_MAX = 90_000;
/** One that fails is made shorter before it is told. */
const REPORT_MS_MAX = 300_000;

async function expectNothingWrong(first: number): Promise<void> {
  const end = performance.now() + PLAY_MS_MAX;
  let played = 0;
  for (; played < HISTORIES && performance.now() < end; played += 1) {
    const found = await tryFerry(first + played);
    expect(found === null ? '' : reportOf(found)).toBe('');
  }
  expect(played).toBeGreaterThan(0);
  console.log(`${played} histories from the seed ${first}`);
}

describe('histories of the ferry', () => {
  const timeout = PLAY_MS_MAX + REPORT_MS_MAX;
  test.each(FOUND)('$what', { timeout }, async ({ history }) => {
    expect((await outcomeOf(history)).what).toBeNull();
  });
  test('from seeds that never change', { timeout }, () => expectNothingWrong(1));
  test('from the seeds of today', { timeout }, () => expectNothingWrong(TODAY * 1000));
});
