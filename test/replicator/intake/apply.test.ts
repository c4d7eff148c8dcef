/**
 * What a hostile primary packs into one frame keeps the mirror busy for a turn at most: a full table of ranges, each of which
 * is the whole volume, is handed over in parts, and what comes later waits behind it. Method: a target that counts, and turns
 * that the test lets pass.
 */
import { expect, test } from 'vitest';
import {
  INTAKE_CHANGES_IN_FLIGHT_MAX,
  INTAKE_RANGES_PER_TURN_MAX,
  LINK_RANGES_MAX,
} from '../../../src/io/limits.ts';
import { PENDING, type DeviceRequest } from '../../../src/io/device.ts';
import { Applier } from '../../../src/replicator/intake/apply.ts';
import { FrameKind } from '../../../src/replicator/link/link-types.ts';
import { encodeRanges } from '../../../src/replicator/link/ranges.ts';
import { entry } from '../link/support/wire.ts';

const SIZE = 2 ** 50;

class Bench {
  readonly changes: string[] = [];
  readonly pending: DeviceRequest[] = [];
  readonly turns: (() => void)[] = [];
  answers = true;
  readonly applier: Applier;

  constructor() {
    const take = (name: string) => (request: DeviceRequest) => {
      this.changes.push(`${name} ${request.offset} ${request.length}`);
      if (this.answers) return 0;
      this.pending.push(request);
      return PENDING;
    };
    const target = { write: take('write'), zero: take('zero') };
    this.applier = new Applier(target, (callback) => this.turns.push(callback));
  }

  apply(kind: FrameKind, buffer: Buffer, done: () => void): void {
    this.applier.apply(kind, { buffer, length: buffer.length, release() {} }, done);
  }

  turn(): void {
    for (const callback of this.turns.splice(0)) callback();
  }
}

const table = (count: number): Buffer =>
  encodeRanges(Array.from({ length: count }, () => ({ offset: 0, length: SIZE, trim: false })));

test('a full table of ranges takes many turns, and what follows waits', async () => {
  const bench = new Bench();
  const ended: string[] = [];
  bench.apply(FrameKind.RANGES, table(LINK_RANGES_MAX), () => ended.push('ranges'));
  bench.apply(FrameKind.DATA, entry(4096n, Buffer.alloc(4096)), () => ended.push('data'));
  let idle = false;
  const waits = bench.applier.idle().then(() => (idle = true));
  expect(bench.changes).toHaveLength(INTAKE_RANGES_PER_TURN_MAX);
  let turns = 0;
  for (; bench.turns.length > 0; turns += 1) {
    const before = bench.changes.length;
    expect(bench.applier.inFlight).toBeGreaterThan(0);
    expect(ended).toHaveLength(bench.changes.length < LINK_RANGES_MAX ? 0 : 1);
    bench.turn();
    expect(bench.changes.length - before).toBeLessThanOrEqual(INTAKE_RANGES_PER_TURN_MAX);
    await Promise.resolve();
    expect(idle && bench.turns.length > 0).toBe(false);
  }
  expect(turns).toBe(LINK_RANGES_MAX / INTAKE_RANGES_PER_TURN_MAX);
  expect(ended).toEqual(['ranges', 'data']);
  expect(bench.changes).toHaveLength(LINK_RANGES_MAX + 1);
  expect(bench.changes.at(-1)).toBe('write 4096 4096');
  await waits;
  expect(bench.applier.inFlight).toBe(0);
});

test('a short table is handed over at once, and ends with its last change', async () => {
  const bench = new Bench();
  bench.answers = false;
  let ended = false;
  bench.apply(FrameKind.RANGES, table(INTAKE_RANGES_PER_TURN_MAX), () => (ended = true));
  expect(bench.turns).toHaveLength(0);
  expect(bench.applier.inFlight).toBe(INTAKE_RANGES_PER_TURN_MAX);
  for (const request of bench.pending.splice(0)) {
    expect(ended).toBe(false);
    request.complete(0);
  }
  expect(ended).toBe(true);
  await bench.applier.idle();
});

test('there is room again when enough of what waits was answered', async () => {
  const bench = new Bench();
  bench.answers = false;
  let ended = false;
  const count = INTAKE_CHANGES_IN_FLIGHT_MAX + INTAKE_RANGES_PER_TURN_MAX;
  bench.apply(FrameKind.RANGES, table(count), () => (ended = true));
  while (bench.turns.length > 0) bench.turn();
  let room = false;
  const waits = bench.applier.room().then(() => (room = true));
  for (const request of bench.pending.splice(0)) {
    await Promise.resolve();
    if (bench.applier.inFlight > INTAKE_CHANGES_IN_FLIGHT_MAX) expect(room).toBe(false);
    request.complete(0);
  }
  await waits;
  expect(ended).toBe(true);
});
