/**
 * The activity log by itself: what must become hot, what may turn cold, and its bound. A model checks that at
 * any time the hot regions are those that were activated and not retired.
 */
import { describe, expect, it } from 'vitest';
import { HOT_REGIONS_MAX, HOT_REGION_IDLE_MS, REGION_BYTES } from '../../src/io/limits.ts';
import { ActivityLog, type HotRegion } from '../../src/volume/activity-log.ts';
import { RegionTable } from '../../src/volume/maps/hot-region.ts';
import { seeded } from './support/host.ts';

const REGIONS = 4 * HOT_REGIONS_MAX;
const every = (): boolean => true;
/** Nothing was known of any region. */
const none = new RegionTable(0);

function newLog(hot: Iterable<number> = []): ActivityLog {
  return new ActivityLog({ sizeBytes: REGIONS * REGION_BYTES, hot, now: 0 });
}

/** Makes regions hot as the gate does. */
function heat(log: ActivityLog, region: number, count = 1, now = 0): number[] {
  expect(log.admit(region * REGION_BYTES, count * REGION_BYTES)).toBe(true);
  const batch = log.takeBatch();
  log.activated(batch, now, none);
  return batch;
}

const indexes = (regions: readonly HotRegion[]): number[] =>
  regions.map(({ index }) => index).toSorted((one, other) => one - other);

describe('the activity log', () => {
  it('is open only for regions whose record is durable', () => {
    const log = newLog();
    const at = 5 * REGION_BYTES;
    expect(log.isHot(at, 1)).toBe(false);
    log.admit(at, 4096);
    expect(log.isHot(at, 1)).toBe(false);
    const batch = log.takeBatch();
    expect(log.isHot(at, 1)).toBe(false);
    log.activated(batch, 0, none);
    expect(log.isHot(at, REGION_BYTES)).toBe(true);
    expect(log.isHot(at, REGION_BYTES + 1)).toBe(false);
    expect(log.isHot(at - 1, 2)).toBe(false);
    // The region asked for last is remembered; that must not open its neighbours.
    expect(log.isHot(at + REGION_BYTES, 1)).toBe(false);
  });

  it('asks for each region once, while it is being recorded too', () => {
    const log = newLog();
    log.admit(0, 2 * REGION_BYTES);
    expect(log.takeBatch()).toEqual([0, 1]);
    log.admit(REGION_BYTES, 2 * REGION_BYTES);
    expect(log.takeBatch()).toEqual([2]);
    log.abandoned([0, 1]);
    log.admit(0, REGION_BYTES);
    expect(log.takeBatch()).toEqual([0]);
  });

  it('takes over what was hot before, as written before everything', () => {
    const log = newLog([3, 9]);
    expect(log.hotCount).toBe(2);
    expect(log.isHot(9 * REGION_BYTES, 1)).toBe(true);
    // Nothing that was synced since covers them.
    expect(log.retireAll().map(({ lastChange }) => lastChange)).toEqual([1, 1]);
    expect(log.changes).toBeGreaterThanOrEqual(1);
  });

  it('stays within its bound, plus one request that alone needs more', () => {
    const log = newLog();
    const random = seeded(3);
    const pendings: number[][] = [];
    for (let step = 0; step < 6000; step += 1) {
      const huge = random() < 0.002;
      const count = huge ? HOT_REGIONS_MAX : 1 + Math.floor(random() * 9);
      const region = Math.floor(random() * (REGIONS - count));
      if (!log.admit(region * REGION_BYTES, count * REGION_BYTES)) log.retireOldest(every);
      const batch = log.takeBatch();
      if (batch.length > 0) pendings.push(batch);
      if (pendings.length > 2) log.activated(pendings.shift()!, step, none);
      const taken = log.hotCount + pendings.reduce((sum, { length }) => sum + length, 0);
      expect(taken).toBeLessThanOrEqual(2 * HOT_REGIONS_MAX);
      if (huge) continue;
      if (taken > HOT_REGIONS_MAX) expect(log.admit(0, 1) || !log.isHot(0, 1)).toBe(true);
    }
  });

  it('finds room for a request of any size in the end', () => {
    const log = newLog();
    for (let region = 0; region < HOT_REGIONS_MAX; region += 1) heat(log, region);
    for (const count of [1, 9, HOT_REGIONS_MAX / 2, HOT_REGIONS_MAX / 2 + 1, HOT_REGIONS_MAX + 1]) {
      const offset = (HOT_REGIONS_MAX + count) * REGION_BYTES;
      let tries = 0;
      while (!log.admit(offset, count * REGION_BYTES)) {
        log.retireOldest(every);
        expect((tries += 1)).toBeLessThan(40);
      }
      log.activated(log.takeBatch(), count, none);
      expect(log.isHot(offset, count * REGION_BYTES)).toBe(true);
    }
  });

  it('retires the longest unwritten first, and never one with a write in flight', () => {
    const log = newLog();
    for (let region = 0; region < HOT_REGIONS_MAX; region += 1) heat(log, region, 1, region);
    log.wrote(0, 1, 5000, 1, 0);
    log.began(REGION_BYTES, 1);
    const retired = indexes(log.retireOldest((region) => region.index !== 2));
    expect(retired[0]).toBe(3);
    expect(retired).not.toContain(0);
    log.ended(REGION_BYTES, 1);
    expect(indexes(log.retireOldest(every)).slice(0, 2)).toEqual([1, 2]);
    for (const region of retired) expect(log.isHot(region * REGION_BYTES, 1)).toBe(false);
  });

  it('calls idle what saw no write for a while', () => {
    const log = newLog();
    heat(log, 0, 3);
    log.wrote(REGION_BYTES, 1, 1000, 1, 0);
    log.began(2 * REGION_BYTES, 1);
    expect(indexes(log.idle(HOT_REGION_IDLE_MS - 1))).toEqual([]);
    expect(indexes(log.idle(HOT_REGION_IDLE_MS))).toEqual([0]);
    expect(indexes(log.retireIdle(HOT_REGION_IDLE_MS + 1000, every))).toEqual([0, 1]);
    log.ended(2 * REGION_BYTES, 1);
    expect(indexes(log.retireIdle(HOT_REGION_IDLE_MS, () => false))).toEqual([]);
    expect(indexes(log.retireAll())).toEqual([2]);
  });

  it('numbers the writes, and notes the last of each region and its epoch', () => {
    const log = newLog();
    heat(log, 0, 2);
    log.wrote(0, 1, 1, 7, 0);
    log.wrote(REGION_BYTES - 1, 2, 2, 8, 0);
    log.wrote(0, 1, 3, 0, 0);
    const [first, second] = log.retireAll();
    expect(first).toMatchObject({ index: 0, lastEpoch: 0, lastWriteAt: 3 });
    expect(second).toMatchObject({ index: 1, lastEpoch: 8, lastWriteAt: 2 });
    expect(first!.lastChange).toBe(second!.lastChange + 1);
    expect(log.changes).toBe(first!.lastChange);
  });

  it('walks ahead of a sequential writer in batches, to the end of the volume', () => {
    const log = newLog();
    heat(log, 0);
    const batches: number[] = [];
    for (let region = 1; region < REGIONS / 8; region += 1) {
      if (!log.isHot(region * REGION_BYTES, 1)) batches.push(heat(log, region).length);
      log.wrote(region * REGION_BYTES, 1, 0, 0, 0);
      log.admitAhead(region * REGION_BYTES);
      const batch = log.takeBatch();
      if (batch.length > 0) batches.push(batch.length);
      log.activated(batch, 0, none);
    }
    expect(batches.length).toBeLessThan(REGIONS / 8 / 3);
    const last = newLog([REGIONS - 2]);
    last.admitAhead((REGIONS - 1) * REGION_BYTES);
    expect(last.takeBatch()).toEqual([]);
  });

  it('does not walk ahead of one that jumped here', () => {
    const log = newLog();
    heat(log, 100);
    log.admitAhead(100 * REGION_BYTES);
    expect(log.takeBatch()).toEqual([]);
  });

  it('forgets what is past the end of a volume that shrank, also what is on its way', () => {
    const log = newLog();
    heat(log, 10, 2);
    log.began(11 * REGION_BYTES, 1);
    log.admit(20 * REGION_BYTES, 1);
    const batch = log.takeBatch();
    log.resize(11 * REGION_BYTES);
    log.activated(batch, 0, none);
    expect(log.hotCount).toBe(1);
    expect(log.isHot(11 * REGION_BYTES, 1)).toBe(false);
    log.ended(11 * REGION_BYTES, 1);
  });

  it('refuses to note writes in cold regions', () => {
    const log = newLog();
    expect(() => log.wrote(0, 1, 0, 0, 0)).toThrow('only touches hot regions');
    expect(() => log.began(0, 1)).toThrow('only touches hot regions');
    heat(log, 0);
    expect(() => log.ended(0, 1)).toThrow();
  });
});
