/**
 * Whatever hosts, operators, kills, power cuts and failing disks do to volumes: what was flushed is there, what was not
 * is old or new in each sector, and every snapshot is what it was. Method: random histories on a simulated disk, played
 * by the code itself and held against a plain model; some from seeds that never change, some from today's.
 */
import { describe, expect, test } from 'vitest';
import { reportOf, tryHistory } from './run.ts';

const TODAY = Math.floor(Date.now() / 86_400_000);

async function expectNothingWrong(first: number, count: number): Promise<void> {
  for (let seed = first; seed < first + count; seed += 1) {
    const found = await tryHistory(seed);
    expect(found === null ? '' : reportOf(found)).toBe('');
  }
}

describe('histories of volumes', () => {
  for (const first of [1, 10_001, 20_001]) {
    test(`from the seed ${first}`, () => expectNothingWrong(first, 70));
  }
  test(`from the seed of today, ${TODAY}00`, () => expectNothingWrong(TODAY * 100, 90));
});
