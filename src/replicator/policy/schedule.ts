/**
 * Delta runs by choice: when the next one begins for a mirror that is not to follow every write, and how operators write that. Pure.
 *
 * The times are wall-clock milliseconds since 1970: a schedule goes on across restarts. A wall clock that was set back does not
 * stop it: after a run in the future there is one at once.
 */
import { BlockferryError } from '../../io/errors.ts';
import {
  QUIET_BYTES_PER_SECOND,
  QUIET_INTERVAL_MS,
  QUIET_MS_MIN,
  SCHEDULE_MS_MAX,
  SCHEDULE_MS_MIN,
} from '../../io/limits.ts';
import type { MirrorSchedule } from '../../volume/log/records.ts';
import { parseBytes } from '../../volume/names.ts';

export type Schedule = MirrorSchedule;

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

/** Since when the host has been quiet, by a new look at its rate. */
export function quietSince(
  schedule: Schedule,
  look: { now: number; bytesPerSecond: number; before: number | null },
): number | null {
  if (schedule.kind !== 'quiet' || look.bytesPerSecond >= schedule.bytesPerSecond) return null;
  return look.before ?? look.now;
}

const FORMS = 'must be off, on-demand, every=TIME, idle, idle=RATE or idle=RATE,every=TIME';
const UNITS: readonly (readonly [string, number])[] = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
];

/** A schedule as operators write it. @throws BlockferryError USAGE */
export function parseSchedule(text: string): Schedule {
  if (text === 'off') return { kind: 'stream' };
  if (text === 'on-demand') return { kind: 'on-demand' };
  const found = /^(?:(idle)(?:=([^,]+))?(?:,every=([^,]+))?|every=([^,]+))$/.exec(text);
  const [, idle, rate, atLeast, every = atLeast] = found ?? [];
  const intervalMs = every === undefined ? QUIET_INTERVAL_MS : durationMs(every);
  const fits =
    intervalMs !== null && intervalMs >= SCHEDULE_MS_MIN && intervalMs <= SCHEDULE_MS_MAX;
  if (found === null || !fits) throw wrongSchedule(text);
  if (idle === undefined) return { kind: 'every', intervalMs };
  const bytesPerSecond = rate === undefined ? QUIET_BYTES_PER_SECOND : parseBytes(rate);
  if (bytesPerSecond === null || bytesPerSecond === 0) throw wrongSchedule(text);
  return { kind: 'quiet', bytesPerSecond, intervalMs };
}

/** As `parseSchedule` takes it. */
export function formatSchedule(schedule: Schedule): string {
  switch (schedule.kind) {
    case 'stream':
      return 'off';
    case 'on-demand':
      return 'on-demand';
    case 'every':
      return `every=${formatDuration(schedule.intervalMs)}`;
    case 'quiet':
      return `idle=${schedule.bytesPerSecond},every=${formatDuration(schedule.intervalMs)}`;
  }
}

/** Milliseconds of a text such as 90s, 10m, 2h or 1d; null: it is none. */
export function durationMs(text: string): number | null {
  const [, digits = '', name] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  const unit = UNITS.find(([each]) => each === name);
  return unit === undefined ? null : Number(digits) * unit[1];
}

/** In the largest unit of which it is a whole number. */
export function formatDuration(ms: number): string {
  const [name, unit] = UNITS.find(([, each]) => ms % each === 0) ?? ['ms', 1];
  return `${ms / unit}${name}`;
}

function wrongSchedule(text: string): BlockferryError {
  const range = `TIME ${formatDuration(SCHEDULE_MS_MIN)} to ${formatDuration(SCHEDULE_MS_MAX)}`;
  return new BlockferryError('USAGE', `delta ${JSON.stringify(text)} ${FORMS}, ${range}`);
}
