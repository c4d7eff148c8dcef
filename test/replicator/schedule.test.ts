/**
 * Delta runs by choice: periodically (every thirty minutes, as in the document that the policy comes from), on demand, and
 * when traffic is low. Method: schedules are asked at moments around their limits, and played over a day.
 */
import { describe, expect, test } from 'vitest';
import { QUIET_MS_MIN } from '../../src/io/limits.ts';
import {
  durationMs,
  endsInStream,
  formatSchedule,
  isRunDue,
  parseSchedule,
  quietSince,
} from '../../src/replicator/policy/schedule.ts';
import type { Schedule, ScheduleView } from '../../src/replicator/policy/schedule.ts';

const MINUTE = 60_000;
const HALF_HOUR = 30 * MINUTE;
const EVERY: Schedule = { kind: 'every', intervalMs: HALF_HOUR };
const ON_DEMAND: Schedule = { kind: 'on-demand' };
const QUIET: Schedule = { kind: 'quiet', bytesPerSecond: 1000, intervalMs: 24 * 60 * MINUTE };
const STREAM: Schedule = { kind: 'stream' };

const view = (fields: Partial<ScheduleView>): ScheduleView => ({
  now: 0,
  lastRunAt: 0,
  requested: false,
  clean: false,
  quietSince: null,
  ...fields,
});

describe('a schedule', () => {
  test('of every thirty minutes begins a run thirty minutes after the last', () => {
    expect(isRunDue(EVERY, view({ now: HALF_HOUR - 1 }))).toBe(false);
    expect(isRunDue(EVERY, view({ now: HALF_HOUR }))).toBe(true);
    expect(isRunDue(EVERY, view({ now: HALF_HOUR, clean: true }))).toBe(false);
  });

  test('on demand begins a run when it is asked for, and no other', () => {
    expect(isRunDue(ON_DEMAND, view({ now: 1e12 }))).toBe(false);
    expect(isRunDue(ON_DEMAND, view({ requested: true }))).toBe(true);
  });

  test('for low traffic begins a run when it was low for a while, or too long ago', () => {
    const now = 100 * MINUTE;
    expect(isRunDue(QUIET, view({ now }))).toBe(false);
    expect(isRunDue(QUIET, view({ now, quietSince: now - QUIET_MS_MIN + 1 }))).toBe(false);
    expect(isRunDue(QUIET, view({ now, quietSince: now - QUIET_MS_MIN }))).toBe(true);
    expect(isRunDue(QUIET, view({ now: 24 * 60 * MINUTE }))).toBe(true);
    // It stays quiet: one run does not follow the other at once.
    expect(isRunDue(QUIET, view({ now, quietSince: 0, lastRunAt: now - 1 }))).toBe(false);
  });

  test.each([EVERY, ON_DEMAND, QUIET, STREAM])(
    '%o brings the first content at once',
    (schedule) => {
      expect(isRunDue(schedule, view({ lastRunAt: null }))).toBe(true);
      expect(isRunDue(schedule, view({ requested: true, clean: true }))).toBe(true);
    },
  );

  test('of the stream always runs, and alone ends in the stream', () => {
    expect(isRunDue(STREAM, view({}))).toBe(true);
    expect([STREAM, EVERY, ON_DEMAND, QUIET].map(endsInStream)).toEqual([
      true,
      false,
      false,
      false,
    ]);
  });

  test('goes on when the clock is set back', () => {
    const before = view({ now: 5, lastRunAt: 365 * 24 * 60 * MINUTE });
    expect(isRunDue(EVERY, before)).toBe(true);
    expect(isRunDue(EVERY, view({ now: 6, lastRunAt: 5 }))).toBe(false);
  });

  test('played over a day begins as many runs as fit', () => {
    let lastRunAt: number | null = null;
    let runs = 0;
    for (let now = 0; now < 24 * 60 * MINUTE; now += MINUTE) {
      if (!isRunDue(EVERY, view({ now, lastRunAt }))) continue;
      runs += 1;
      lastRunAt = now;
    }
    expect(runs).toBe(48);
  });
});

const look = (now: number, bytesPerSecond: number, before: number | null): number | null =>
  quietSince(QUIET, { now, bytesPerSecond, before });

describe('quiet', () => {
  test('begins with the first low rate and ends with the first that is not', () => {
    expect(look(10, 999, null)).toBe(10);
    expect(look(20, 0, 10)).toBe(10);
    expect(look(30, 1000, 10)).toBeNull();
    expect(quietSince(EVERY, { now: 10, bytesPerSecond: 0, before: null })).toBeNull();
  });
});

describe('as operators write it', () => {
  test.each([
    ['off', STREAM],
    ['on-demand', ON_DEMAND],
    ['every=30m', EVERY],
    ['idle=1000,every=1d', QUIET],
  ] as const)('%s is read and told', (text, schedule) => {
    expect(parseSchedule(text)).toEqual(schedule);
    expect(formatSchedule(schedule)).toBe(text);
  });

  test('low traffic has a rate and a time if none is given', () => {
    const once = { kind: 'quiet', bytesPerSecond: 1024 ** 2, intervalMs: 24 * 60 * MINUTE };
    expect(parseSchedule('idle')).toEqual(once);
    expect(parseSchedule('idle=2M')).toEqual({ ...once, bytesPerSecond: 2 * 1024 ** 2 });
    expect(parseSchedule('idle,every=90s')).toEqual({ ...once, intervalMs: 90_000 });
  });

  test.each([
    '',
    'every',
    'every=',
    'every=10',
    'every=0s',
    'every=31d',
    'idle=',
    'idle=0',
    ',every=1h',
    'on',
    'idle=x',
    'every=1h,idle',
  ])('%j is refused', (text) =>
    expect(() => parseSchedule(text)).toThrow('must be off, on-demand, every=TIME'),
  );

  test('times have a unit', () => {
    expect(['5s', '2m', '3h', '1d', '5', 's', '-1s', '1.5s'].map(durationMs)).toEqual([
      5000,
      120_000,
      10_800_000,
      86_400_000,
      null,
      null,
      null,
      null,
    ]);
  });
});
