/**
 * The space of the data directory is watched: each level is told once, with a margin on the way back; a disk that does not
 * answer is asked once; the numbers add up. Method: the watcher with a clock and a disk of the test, then the real disk.
 */
import { describe, expect, test } from 'vitest';
import { nextLevel, overProvisioning, SpaceWatch } from '../../src/control/disk-space.ts';
import type { SpaceUser } from '../../src/control/disk-space.ts';
import type { Clock } from '../../src/io/clock.ts';
import type { DiskSpace } from '../../src/io/disk.ts';
import { SPACE_LOOK_MS } from '../../src/io/limits.ts';
import { nodeDisk } from '../../src/io/node-disk.ts';
import { MemoryDisk } from '../volume/support/memory-disk.ts';

const GIB = 2 ** 30;
const MIB = 2 ** 20;

function ground(warnPercent: number, users: readonly SpaceUser[] = []) {
  let timer: { at: number; run: () => void } | null = null;
  let now = 0;
  let asked = 0;
  let answer: ((space: DiskSpace | null) => void) | null = null;
  const clock: Clock = {
    now: () => now,
    wall: () => now,
    after(delay, run) {
      timer = { at: now + delay, run };
      return {
        cancel() {
          timer = null;
        },
      };
    },
    soon: (run) => run(),
  };
  const disk = Object.assign(new MemoryDisk(), {
    space(path: string, callback: (space: DiskSpace | null) => void) {
      expect(path).toBe('/data');
      asked += 1;
      answer = callback;
    },
  });
  const told: { kind: string; message: string }[] = [];
  const watch = new SpaceWatch({
    disk,
    clock,
    events: { emit: ({ kind, message }) => void told.push({ kind, message }) },
    path: '/data',
    warnPercent,
    volumes: () => users,
  });
  watch.start();
  /** Time passes. */
  const pass = (ms: number): void => {
    now += ms;
    const due = timer;
    if (due === null || due.at > now) return;
    timer = null;
    due.run();
  };
  const say = (space: DiskSpace | null): void => answer?.(space);
  /** So much is free at this look; the next one begins. */
  const free = (freeBytes: number, totalBytes = 100 * GIB): void => {
    say({ freeBytes, totalBytes });
    pass(SPACE_LOOK_MS);
  };
  const kinds = (): string[] => told.map(({ kind }) => kind);
  return { watch, told, asked: () => asked, kinds, say, pass, free };
}

describe('the watch of the space', () => {
  test('tells each level once, and that it is over after a margin', () => {
    const { told, kinds, free } = ground(10);
    free(11 * GIB);
    expect(told).toEqual([]);
    for (const gib of [9.9, 5, 10.5, 11.9]) free(gib * GIB);
    expect(kinds()).toEqual(['disk-low']);
    free(12 * GIB);
    expect(kinds()).toEqual(['disk-low', 'disk-ok']);
    for (const gib of [11, 10]) free(gib * GIB);
    expect(kinds()).toHaveLength(2);
    for (const bytes of [64 * MIB, 0, 100 * MIB]) free(bytes);
    expect(kinds()).toEqual(['disk-low', 'disk-ok', 'disk-full']);
    free(129 * MIB);
    free(64 * MIB);
    free(50 * GIB);
    expect(kinds().slice(3)).toEqual(['disk-low', 'disk-full', 'disk-ok']);
  });

  test('without a threshold tells only of a full disk', () => {
    const { kinds, free } = ground(0);
    for (const bytes of [GIB, 65 * MIB, 0, 128 * MIB, 129 * MIB]) free(bytes);
    expect(kinds()).toEqual(['disk-full', 'disk-ok']);
  });

  test('takes a hundredth of a small disk for nearly nothing', () => {
    const space = (freeBytes: number): DiskSpace => ({ freeBytes, totalBytes: 100 * MIB });
    expect(nextLevel('ok', space(MIB), 10)).toBe('full');
    expect(nextLevel('ok', space(MIB + 1), 10)).toBe('low');
    expect(nextLevel('full', space(2 * MIB), 10)).toBe('full');
  });

  test('asks every few seconds, and never twice at a time', () => {
    const { say, pass, asked, watch } = ground(10);
    expect(asked()).toBe(1);
    // It hangs: nobody piles up behind it, and nothing is known.
    pass(100 * SPACE_LOOK_MS);
    expect(asked()).toBe(1);
    expect(watch.status).toMatchObject({ level: null, free_bytes: null, over_provisioning: null });
    say({ freeBytes: 50 * GIB, totalBytes: 100 * GIB });
    pass(SPACE_LOOK_MS - 1);
    expect(asked()).toBe(1);
    pass(1);
    expect(asked()).toBe(2);
    say(null);
    expect(watch.status).toMatchObject({ level: null, free_bytes: null, total_bytes: null });
    pass(SPACE_LOOK_MS);
    expect(asked()).toBe(3);
    watch.stop();
    say({ freeBytes: 0, totalBytes: 100 * GIB });
    pass(SPACE_LOOK_MS);
    expect(asked()).toBe(3);
    expect(watch.status.level).toBe(null);
  });

  test('adds the volumes up, in the status and in the event', () => {
    const users = [
      { sizeBytes: 3 * GIB, allocatedBytes: GIB },
      { sizeBytes: 5 * GIB, allocatedBytes: 2 * GIB },
    ];
    const { watch, told, free } = ground(10, users);
    free(GIB, 20 * GIB);
    expect(watch.status).toEqual({
      level: 'low',
      free_bytes: GIB,
      total_bytes: 20 * GIB,
      size_bytes: 8 * GIB,
      allocated_bytes: 3 * GIB,
      over_provisioning: 2,
    });
    expect(told[0]?.message).toBe(
      `space runs low: ${GIB} of ${20 * GIB} bytes are free (5 %) on the file system of /data; ` +
        `volumes of ${8 * GIB} bytes in all take ${3 * GIB}, over-provisioning 2`,
    );
    expect(overProvisioning(GIB, { allocatedBytes: 0, freeBytes: 0 })).toBe(null);
  });
});

function spaceOf(path: string): Promise<DiskSpace | null> {
  return new Promise((resolve) => nodeDisk.space(path, resolve));
}

describe('the disk', () => {
  test('says what is free of a file system, or that it cannot', async () => {
    const found = await spaceOf('/');
    expect(found?.totalBytes).toBeGreaterThan(2 ** 20);
    expect(found?.freeBytes).toBeLessThanOrEqual(found?.totalBytes ?? 0);
    expect(await spaceOf('/nowhere/at/all')).toBe(null);
    // proc counts no blocks.
    expect(await spaceOf('/proc')).toBe(null);
  });
});
