/**
 * Limits of bandwidth: the rate in the long run, bursts, changes while somebody waits, fairness between those who share a
 * limit, and limits above each other. Method: a clock whose timers, like real ones,
 * come a millisecond late, and senders that always have more to send.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Clock, Timer } from '../../src/io/clock.ts';
import { LIMIT_BURST_BYTES_MIN } from '../../src/io/limits.ts';
import { limitLookMs, SendLimit } from '../../src/replicator/pace/send-limit.ts';
import { SharedLimit } from '../../src/replicator/pace/shared-limit.ts';
import { TokenBucket } from '../../src/replicator/pace/token-bucket.ts';

const MIB = 2 ** 20;
const SECOND = 1000;

/** Time passes only from timer to timer, and no timer is early or exact. */
class TimerClock implements Clock {
  private time = 0;
  private alarms: { at: number; run: () => void }[] = [];

  now(): number {
    return this.time;
  }

  wall(): number {
    return this.time;
  }

  soon(callback: () => void): void {
    this.after(0, callback);
  }

  after(delayMs: number, run: () => void): Timer {
    const alarm = { at: Math.floor(this.time + Math.max(0, delayMs)) + 1, run };
    this.alarms.push(alarm);
    return { cancel: () => (this.alarms = this.alarms.filter((each) => each !== alarm)) };
  }

  get pending(): number {
    return this.alarms.length;
  }

  /** Time passes, and the loop of events is busy. */
  block(ms: number): void {
    this.time += ms;
  }

  advance(ms: number): void {
    const end = this.time + ms;
    for (;;) {
      const next = this.alarms.toSorted((one, other) => one.at - other.at)[0];
      if (next === undefined || next.at > end) break;
      this.alarms = this.alarms.filter((each) => each !== next);
      this.time = next.at;
      next.run();
    }
    this.time = end;
  }
}

/** Sends pieces of one size as long as it may, and looks again when it is told to. */
class Greedy {
  sent = 0;
  largestPause = 0;
  private lastAt: number;
  private over = false;
  readonly limit: SendLimit;
  private readonly clock: TimerClock;
  private readonly piece: number;
  /** So much later it turns out that a piece became a hundredth shorter; null: it is known at once. */
  private readonly knownAfterMs: number | null;

  constructor(
    clock: TimerClock,
    limit: SendLimit,
    piece: number,
    knownAfterMs: number | null = null,
  ) {
    this.clock = clock;
    this.limit = limit;
    this.piece = piece;
    this.knownAfterMs = knownAfterMs;
    this.lastAt = clock.now();
    this.send();
  }

  stop(): void {
    this.over = true;
  }

  private send(): void {
    while (!this.over) {
      const { waitMs } = this.limit;
      if (waitMs > 0) {
        this.clock.after(limitLookMs(waitMs), () => this.send());
        return;
      }
      this.limit.take(this.piece);
      this.sent += this.piece;
      this.learnLater();
      this.largestPause = Math.max(this.largestPause, this.clock.now() - this.lastAt);
      this.lastAt = this.clock.now();
    }
  }

  private learnLater(): void {
    const { piece, knownAfterMs } = this;
    if (knownAfterMs === null) return;
    this.clock.after(knownAfterMs, () => this.limit.correct(piece, 0.99 * piece));
  }
}

describe('a bucket', () => {
  test('lets a burst go, and then the rate', () => {
    const bucket = new TokenBucket(MIB, 0);
    const burst = MIB / 10;
    bucket.take(burst - 1, 0);
    expect(bucket.waitMs(0)).toBe(0);
    bucket.take(MIB + 1, 0);
    expect(bucket.waitMs(0)).toBeCloseTo(SECOND, 0);
    expect(bucket.waitMs(SECOND / 2)).toBeCloseTo(SECOND / 2, 0);
    expect(bucket.waitMs(SECOND + 1)).toBe(0);
  });

  test('never holds more than its burst', () => {
    const bucket = new TokenBucket(MIB, 0);
    bucket.take(MIB / 10 + MIB, 1000 * SECOND);
    expect(bucket.waitMs(1000 * SECOND)).toBeCloseTo(SECOND, 0);
    const slow = new TokenBucket(4096, 0);
    slow.take(LIMIT_BURST_BYTES_MIN - 1, 0);
    expect(slow.waitMs(0)).toBe(0);
  });

  test('earns a debt at the rate of its time', () => {
    const bucket = new TokenBucket(MIB, 0);
    bucket.take(10 * MIB, 0);
    bucket.setRate(10 * MIB, SECOND);
    // A second at 1 MiB/s was earned, and the first tenth.
    expect(bucket.waitMs(SECOND)).toBeCloseTo(890, 0);
    bucket.setRate(null, SECOND);
    expect(bucket.waitMs(SECOND)).toBe(0);
    bucket.take(100 * MIB, SECOND);
    bucket.setRate(MIB, SECOND);
    expect(bucket.waitMs(SECOND)).toBe(0);
  });

  test('does not mind a clock that stands still or goes back', () => {
    const bucket = new TokenBucket(MIB, 5000);
    bucket.take(2 * MIB, 5000);
    const wait = bucket.waitMs(5000);
    expect(bucket.waitMs(4000)).toBe(wait);
    expect(bucket.waitMs(5000)).toBe(wait);
  });
});

const alone = (clock: TimerClock, rate: number): SendLimit => new SendLimit(clock, rate, null);
const of = (clock: TimerClock, node: SharedLimit, rate: number | null = null): SendLimit =>
  new SendLimit(clock, rate, node);

describe('senders', () => {
  test.each([
    ['small pieces', 4096],
    ['pieces of a frame', MIB],
    ['pieces larger than a second of the rate', 64 * MIB],
  ])('keep a rate in the long run with %s', (_, piece) => {
    const clock = new TimerClock();
    const rate = 10 * MIB;
    const one = new Greedy(clock, alone(clock, rate), piece);
    const time = Math.max(100, (20 * piece) / rate) * SECOND;
    clock.advance(time);
    const expected = (rate * time) / SECOND;
    const slack = MIB + piece;
    expect(one.sent).toBeGreaterThan(expected * 0.99 - slack);
    expect(one.sent).toBeLessThan(expected * 1.01 + slack);
  });

  test('without a limit are never held up', () => {
    const clock = new TimerClock();
    const limit = of(clock, new SharedLimit(null, 0));
    for (let count = 0; count < 1000; count += 1) {
      expect(limit.waitMs).toBe(0);
      limit.take(MIB);
    }
  });

  test('share a limit alike, whatever the size of their pieces', () => {
    const clock = new TimerClock();
    const node = new SharedLimit(10 * MIB, 0);
    const all = [4096, 65_536, MIB].map((piece) => new Greedy(clock, of(clock, node), piece));
    clock.advance(100 * SECOND);
    const total = all.reduce((sum, { sent }) => sum + sent, 0);
    expect(total / MIB).toBeGreaterThan(980);
    expect(total / MIB).toBeLessThan(1015);
    for (const { sent, largestPause } of all) {
      expect(sent / (total / 3)).toBeGreaterThan(0.95);
      expect(sent / (total / 3)).toBeLessThan(1.05);
      expect(largestPause).toBeLessThan(SECOND);
    }
  });

  test('of small pieces share a limit without a timer for each of them', () => {
    const clock = new TimerClock();
    const node = new SharedLimit(10 * MIB, 0);
    const all = [512, 700].map((piece) => new Greedy(clock, of(clock, node), piece));
    clock.advance(10 * SECOND);
    const total = all.reduce((sum, { sent }) => sum + sent, 0);
    expect(total / MIB).toBeGreaterThan(95);
    expect(total / MIB).toBeLessThan(102);
    for (const { sent } of all) expect(sent / (total / 2)).toBeGreaterThan(0.95);
  });

  test('that paused do not catch up on what they left unused', () => {
    const clock = new TimerClock();
    const node = new SharedLimit(MIB, 0);
    const early = new Greedy(clock, of(clock, node), 65_536);
    clock.advance(50 * SECOND);
    const before = early.sent;
    const late = new Greedy(clock, of(clock, node), 65_536);
    clock.advance(20 * SECOND);
    expect(late.sent / MIB).toBeGreaterThan(9);
    expect((early.sent - before) / MIB).toBeGreaterThan(9);
  });

  test('that gave up while they waited hold up nobody for long', () => {
    const clock = new TimerClock();
    const node = new SharedLimit(MIB, 0);
    const two = [0, 1].map(() => new Greedy(clock, of(clock, node), 65_536));
    clock.advance(10 * SECOND);
    two[0]!.stop();
    const before = two[1]!.sent;
    clock.advance(20 * SECOND);
    expect((two[1]!.sent - before) / MIB).toBeGreaterThan(19);
  });

  test('that are held up by their own limit leave the rest to the others', () => {
    const clock = new TimerClock();
    const node = new SharedLimit(10 * MIB, 0);
    const slow = new Greedy(clock, of(clock, node, MIB), 65_536);
    const free = new Greedy(clock, of(clock, node), 65_536);
    clock.advance(100 * SECOND);
    expect(slow.sent / MIB).toBeGreaterThan(97);
    expect(slow.sent / MIB).toBeLessThan(101);
    expect((slow.sent + free.sent) / MIB).toBeGreaterThan(980);
    expect((slow.sent + free.sent) / MIB).toBeLessThan(1015);
  });

  test('have a new limit soon, also when they wait', () => {
    const clock = new TimerClock();
    const node = new SharedLimit(4096, 0);
    const one = new Greedy(clock, of(clock, node), MIB);
    const burst = one.sent;
    clock.advance(SECOND);
    expect(one.sent).toBe(burst);
    node.set(100 * MIB, clock.now());
    clock.advance(SECOND);
    expect((one.sent - burst) / MIB).toBeGreaterThan(70);
    node.set(MIB, clock.now());
    const before = one.sent;
    clock.advance(100 * SECOND);
    expect((one.sent - before) / MIB).toBeGreaterThan(97);
    expect((one.sent - before) / MIB).toBeLessThan(102);
  });

  test('do not go before those who wait, also when a timer is late', () => {
    const clock = new TimerClock();
    const node = new SharedLimit(100 * MIB, 0);
    const [first, other] = [of(clock, node), of(clock, node)];
    first.take(MIB);
    other.take(20 * MIB);
    expect(first.waitMs).toBeGreaterThan(0);
    clock.block(SECOND / 4);
    expect(other.waitMs).toBeGreaterThan(0);
    expect(first.waitMs).toBe(0);
    first.take(MIB);
    expect(other.waitMs).toBe(0);
  });

  test('do not wait for one who only asks whether it would have to', () => {
    const clock = new TimerClock();
    const node = new SharedLimit(100 * MIB, 0);
    const [asking, sending] = [of(clock, node), of(clock, node)];
    asking.take(MIB);
    sending.take(20 * MIB);
    expect([asking.heldBack, sending.heldBack]).toEqual([true, true]);
    clock.block(SECOND / 4);
    expect(asking.heldBack).toBe(false);
    expect(sending.waitMs).toBe(0);
    // One who waits is one to stand back for.
    sending.take(20 * MIB);
    expect(asking.waitMs).toBeGreaterThan(0);
    clock.block(SECOND / 4);
    expect(sending.heldBack).toBe(true);
  });

  test.each([2, 8, 30])('keep their part when what they sent is known %d ms later', (ms) => {
    const clock = new TimerClock();
    const node = new SharedLimit(10 * MIB, 0);
    const compressed = new Greedy(clock, of(clock, node), 12_288, ms);
    const plain = new Greedy(clock, of(clock, node), MIB);
    clock.advance(100 * SECOND);
    expect(compressed.sent / plain.sent).toBeGreaterThan(0.95);
    expect(compressed.sent / plain.sent).toBeLessThan(1.05);
    expect((0.99 * compressed.sent + plain.sent) / MIB).toBeGreaterThan(980);
    expect((0.99 * compressed.sent + plain.sent) / MIB).toBeLessThan(1015);
  });

  test('at random keep every limit, and no one starves', () => {
    const rates = fc.option(fc.integer({ min: 8192, max: 4 * MIB }), { nil: null });
    fc.assert(
      fc.property(
        fc.integer({ min: MIB / 4, max: 8 * MIB }),
        fc.array(fc.record({ rate: rates, piece: fc.integer({ min: 512, max: MIB / 4 }) }), {
          minLength: 1,
          maxLength: 5,
        }),
        (nodeRate, shares) => {
          const clock = new TimerClock();
          const node = new SharedLimit(nodeRate, 0);
          const all = shares.map(
            ({ rate, piece }) => new Greedy(clock, of(clock, node, rate), piece),
          );
          const seconds = 100;
          clock.advance(seconds * SECOND);
          const total = all.reduce((sum, { sent }) => sum + sent, 0);
          const wanted = shares.reduce(
            (sum, { rate }) => sum + (rate ?? Number.POSITIVE_INFINITY),
            0,
          );
          const slack = shares.reduce((sum, { piece }) => sum + piece, LIMIT_BURST_BYTES_MIN + MIB);
          expect(total).toBeLessThan(nodeRate * seconds * 1.01 + slack);
          expect(total).toBeGreaterThan(Math.min(nodeRate, wanted) * seconds * 0.95 - slack);
          for (const [index, { sent }] of all.entries()) {
            const { rate, piece } = shares[index]!;
            const fair = Math.min(rate ?? nodeRate, nodeRate / shares.length) * seconds;
            expect(sent).toBeGreaterThan(fair * 0.85 - slack);
            if (rate !== null) expect(sent).toBeLessThan(rate * seconds * 1.01 + slack + piece);
          }
        },
      ),
      { numRuns: 30 },
    );
  });
});
