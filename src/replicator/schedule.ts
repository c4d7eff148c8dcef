/**
 * Delta runs by choice: when the next one begins for a mirror that is not to follow every write. Pure.
 *
 * The times are wall-clock milliseconds since 1970: a schedule goes on across restarts. A wall clock that was set back does not
 * stop it: after a run in the future there is one at once.
 */
import { QUIET_MS_MIN } from '../io/limits.ts';

export type Schedule =
  /** Every write follows. */
  | { readonly kind: 'stream' }
  | { readonly kind: 'every'; readonly intervalMs: number }
  | { readonly kind: 'on-demand' }
  /** When the host writes less than this, but at least that often. */
  | { readonly kind: 'quiet'; readonly bytesPerSecond: number; readonly intervalMs: number };

export interface ScheduleView {
  readonly now: number;
  /** When the last run began; null: none did yet. */
  readonly lastRunAt: number | null;
  /** An operator asked for a run since then. */
  readonly requested: boolean;
  /** Nothing differs: a run would send nothing. */
  readonly clean: boolean;
  /** Since when the host's mean rate has been below that of the schedule; null: it is not. */
  readonly quietSince: number | null;
}

/** Whether a delta run begins now. With `stream` one always does: it leads into the stream. */
export function isRunDue(schedule: Schedule, view: ScheduleView): boolean {
  if (schedule.kind === 'stream' || view.requested) return true;
  // The first run brings a content at all.
  if (view.lastRunAt === null) return true;
  if (schedule.kind === 'on-demand' || view.clean) return false;
  return dueAt(schedule, view, view.lastRunAt) <= view.now;
}

function dueAt(
  schedule: Extract<Schedule, { intervalMs: number }>,
  { now, quietSince: since }: ScheduleView,
  lastRunAt: number,
): number {
  if (lastRunAt > now) return now;
  const latest = lastRunAt + schedule.intervalMs;
  if (schedule.kind === 'every' || since === null) return latest;
  return Math.min(latest, Math.max(since, lastRunAt) + QUIET_MS_MIN);
}

/** Whether the mirror goes from a run into the stream. */
export function endsInStream(schedule: Schedule): boolean {
  return schedule.kind === 'stream';
}

/** When to look again, in milliseconds from now; null: when something happens. */
export function nextLookMs(schedule: Schedule, view: ScheduleView): number | null {
  if (schedule.kind === 'stream' || schedule.kind === 'on-demand') return null;
  if (view.lastRunAt === null || view.clean) return null;
  return Math.max(0, dueAt(schedule, view, view.lastRunAt) - view.now);
}

/** Since when the host has been quiet, by a new look at its rate. */
export function quietSince(
  schedule: Schedule,
  look: { now: number; bytesPerSecond: number; before: number | null },
): number | null {
  if (schedule.kind !== 'quiet' || look.bytesPerSecond >= schedule.bytesPerSecond) return null;
  return look.before ?? look.now;
}
