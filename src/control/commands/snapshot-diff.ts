/**
 * What changed between two points in time, in pages.
 *
 * Invariants: a page is made in one turn and bounded in ranges and in time, so a difference of any size holds
 * nothing else up; every page but the last is followed by the next one's offset, which is past this one's.
 */
import type { Clock } from '../../io/clock.ts';
import { DIFF_PAGE_MS, DIFF_PAGE_RANGES_MAX } from '../../io/limits.ts';
import type { ChangedRange, VolumeSnapshots } from '../../volume/snapshots/snapshot-types.ts';

export interface DiffPage {
  readonly ranges: ChangedRange[];
  /** Where the next page begins; null after the last. */
  readonly next: number | null;
}

/** Throws SNAPSHOT_NOT_FOUND. `to` null: the present content. */
export function diffPage(
  snapshots: VolumeSnapshots,
  { from, to, start }: { from: string; to: string | null; start: number },
  clock: Clock,
): DiffPage {
  const ranges: ChangedRange[] = [];
  const deadline = clock.now() + DIFF_PAGE_MS;
  for (const range of snapshots.changed(from, to, start)) {
    const last = ranges.at(-1);
    if (last !== undefined && (ranges.length >= DIFF_PAGE_RANGES_MAX || clock.now() > deadline)) {
      return { ranges, next: last.offset + last.length };
    }
    ranges.push(range);
  }
  return { ranges, next: null };
}
