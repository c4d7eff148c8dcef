/**
 * What changed since a snapshot comes in pages: none is longer than it may be, together they are the whole, and
 * none takes long. Pure, over ranges and a clock that the test makes.
 */
import { describe, expect, test } from 'vitest';
import { diffPage } from '../../src/control/commands/snapshot-diff.ts';
import type { Clock } from '../../src/io/clock.ts';
import { DIFF_PAGE_MS, DIFF_PAGE_RANGES_MAX } from '../../src/io/limits.ts';
import type { ChangedRange, VolumeSnapshots } from '../../src/volume/snapshots/snapshot-types.ts';

const BLOCK = 4096;

/** Every second block of so many changed; each look costs so many milliseconds. */
function changes(count: number, costMs: number) {
  const asked: number[] = [];
  let now = 0;
  function* changed(_from: string, _to: string | null, start = 0): Generator<ChangedRange> {
    asked.push(start);
    for (let index = Math.ceil(start / (2 * BLOCK)); index < count; index++) {
      now += costMs;
      yield { offset: index * 2 * BLOCK, length: BLOCK, zero: index % 3 === 0 };
    }
  }
  const snapshots: Pick<VolumeSnapshots, 'changed'> = { changed };
  const clock: Pick<Clock, 'now'> = { now: () => now };
  return { asked, snapshots: snapshots as VolumeSnapshots, clock: clock as Clock };
}

function pagesOf({ snapshots, clock }: ReturnType<typeof changes>): ChangedRange[][] {
  const pages: ChangedRange[][] = [];
  for (let start: number | null = 0; start !== null;) {
    const page = diffPage(snapshots, { from: 'a', to: null, start }, clock);
    pages.push(page.ranges);
    if (page.next !== null) expect(page.next).toBeGreaterThan(start);
    start = page.next;
  }
  return pages;
}

describe('a difference', () => {
  test.each([
    [0, [0]],
    [1, [1]],
    [DIFF_PAGE_RANGES_MAX, [DIFF_PAGE_RANGES_MAX]],
    [DIFF_PAGE_RANGES_MAX + 1, [DIFF_PAGE_RANGES_MAX, 1]],
    [3 * DIFF_PAGE_RANGES_MAX, [1, 1, 1].map((times) => times * DIFF_PAGE_RANGES_MAX)],
  ])('of %i ranges has pages of %j', (count, lengths) => {
    const pages = pagesOf(changes(count, 0));
    expect(pages.map((page) => page.length)).toEqual(lengths);
    const offsets = pages.flat().map(({ offset }) => offset);
    expect(offsets).toEqual(Array.from({ length: count }, (_, index) => index * 2 * BLOCK));
  });

  test('that is slow to find has shorter pages, and ends all the same', () => {
    const quick = pagesOf(changes(40, DIFF_PAGE_MS / 4));
    expect(Math.max(...quick.map((page) => page.length))).toBeLessThanOrEqual(6);
    expect(quick.flat()).toHaveLength(40);
    const slow = pagesOf(changes(5, 100 * DIFF_PAGE_MS));
    expect(slow.map((page) => page.length)).toEqual([1, 1, 1, 1, 1]);
  });

  test('is asked for from where the last page ended', () => {
    const world = changes(DIFF_PAGE_RANGES_MAX + 1, 0);
    pagesOf(world);
    expect(world.asked).toEqual([0, (2 * DIFF_PAGE_RANGES_MAX - 1) * BLOCK]);
  });
});
