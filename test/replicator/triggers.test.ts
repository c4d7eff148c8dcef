/**
 * When a mirror leaves the stream, and when it comes back. Method: each trigger alone, from the numbers of the document that
 * the policy comes from (90 percent of the store, usage against flushing rate, 9000 against 3000 bytes) and at its edges;
 * then hysteresis and pauses over time.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  ACKNOWLEDGE_MS_MAX,
  STREAM_PAUSE_MS_MAX,
  STREAM_PAUSE_MS_MIN,
  STREAM_STEADY_MS,
  TRIGGER_HOLD_MS,
} from '../../src/io/limits.ts';
import { RateMeter } from '../../src/replicator/pace/rate-meter.ts';
import { StagedBlocks } from '../../src/replicator/staging/redundancy.ts';
import {
  DEFAULT_LIMITS,
  NEVER_LEFT,
  PRESSURES,
  StreamWatch,
  TRIGGERS,
  entered,
  left,
} from '../../src/replicator/policy/triggers.ts';
import type { ReturnState, StreamSample, Trigger } from '../../src/replicator/policy/triggers.ts';

/** Nothing is wrong. */
const CALM: StreamSample = {
  linkUp: true,
  behindMs: 0,
  stagedBytes: 0,
  limitBytes: 1000,
  epochs: 0,
  limitEpochs: 50,
  inRate: 0,
  outRate: 0,
  oneByOneBytes: 0,
  onceBytes: 0,
};
const LIMITS = { ...DEFAULT_LIMITS, redundancyBytesMin: 0 };

/** What fires at once, without anything that must hold. */
function fired(sample: Partial<StreamSample>, limits = LIMITS): Trigger | null {
  const watch = new StreamWatch({ ...limits, holdMs: 0 });
  return watch.look(0, { ...CALM, ...sample })?.trigger ?? null;
}

describe('a trigger', () => {
  test('does not fire while nothing is wrong', () => {
    expect(fired({})).toBeNull();
    for (const trigger of TRIGGERS) expect(PRESSURES[trigger](CALM, LIMITS)).toBeLessThan(0.01);
  });

  test('fires when the link is lost', () => {
    expect(fired({ linkUp: false })).toBe('link');
  });

  test('fires when acknowledgements come too late', () => {
    expect(fired({ behindMs: ACKNOWLEDGE_MS_MAX })).toBeNull();
    expect(fired({ behindMs: ACKNOWLEDGE_MS_MAX + 1 })).toBe('acknowledgement');
  });

  test('fires when the store is more than 90 percent full', () => {
    expect(fired({ stagedBytes: 900 })).toBeNull();
    expect(fired({ stagedBytes: 901 })).toBe('fill');
    expect(fired({ epochs: 50 })).toBeNull();
    expect(fired({ epochs: 51 })).toBe('fill');
  });

  test('fires when more comes than goes, so that the rest would be full within the horizon', () => {
    // 650 of the 900 that may be staged are free: full in 10 seconds at 65 more than go.
    const staged = { stagedBytes: 250, outRate: 100 };
    expect(LIMITS.horizonMs).toBe(10_000);
    expect(fired({ ...staged, inRate: 165 })).toBeNull();
    expect(fired({ ...staged, inRate: 166 })).toBe('rate');
    expect(fired({ ...staged, inRate: 100 })).toBeNull();
    expect(fired({ ...staged, inRate: 20 })).toBeNull();
    // Nearly empty, it has room for what no rate seen in a moment can fill.
    expect(fired({ stagedBytes: 249, inRate: 1e9, outRate: 0 })).toBeNull();
    expect(PRESSURES.rate({ ...CALM, stagedBytes: 900, inRate: 2, outRate: 1 }, LIMITS)).toBe(
      Number.POSITIVE_INFINITY,
    );
  });

  test('fires when blocks are staged too often: 9000 bytes for blocks of 3000', () => {
    const staged = new StagedBlocks(16);
    for (const [block, times] of [
      [2, 3],
      [3, 1],
      [8, 5],
    ] as const) {
      for (let count = 0; count < times; count += 1) staged.add(block, 1);
    }
    const oneByOneBytes = staged.total * 1000;
    const onceBytes = staged.distinct * 1000;
    expect([oneByOneBytes, onceBytes]).toEqual([9000, 3000]);
    const sample = { oneByOneBytes, onceBytes, stagedBytes: 9000, limitBytes: 100_000 };
    expect(fired(sample, { ...LIMITS, redundancyRatio: 3 })).toBeNull();
    expect(fired(sample, { ...LIMITS, redundancyRatio: 2.9 })).toBe('redundancy');
    // So little is sent soon: a delta run would cost more than it saves.
    const limits = { ...LIMITS, redundancyRatio: 2, redundancyBytesMin: 9001 };
    expect(fired(sample, limits)).toBeNull();
    expect(fired({ ...sample, stagedBytes: 9001 }, limits)).toBe('redundancy');
  });

  test('says why, with the numbers', () => {
    const watch = new StreamWatch({ ...LIMITS, holdMs: 0 });
    expect(watch.look(0, { ...CALM, stagedBytes: 950 })?.message).toMatch(/950 bytes of 1000/);
    expect(watch.look(0, { ...CALM, linkUp: false })?.message).toMatch(/link is lost/);
    expect(watch.look(0, { ...CALM, behindMs: 90_000 })?.message).toMatch(/90 s .* than 60 s/);
    const rate = { stagedBytes: 500, inRate: 1000, outRate: 10 };
    expect(watch.look(0, { ...CALM, ...rate })?.message).toMatch(/1000 bytes\/s come and 10/);
    const twice = { stagedBytes: 500, oneByOneBytes: 9000, onceBytes: 3000 };
    expect(watch.look(0, { ...CALM, ...twice })?.message).toMatch(/9000 bytes .* of 3000 bytes/);
  });
});

const OUTRUN: StreamSample = { ...CALM, stagedBytes: 500, inRate: 1000 };
/** Below the limit of the trigger, above where it is disarmed. */
const NEAR: StreamSample = { ...OUTRUN, inRate: 36 };
const FAR: StreamSample = { ...OUTRUN, inRate: 30 };

describe('a watch', () => {
  test('fires only after the pressure held', () => {
    const watch = new StreamWatch(LIMITS);
    expect(watch.look(0, OUTRUN)).toBeNull();
    expect(watch.look(TRIGGER_HOLD_MS - 1, OUTRUN)).toBeNull();
    expect(watch.look(TRIGGER_HOLD_MS, OUTRUN)?.trigger).toBe('rate');
  });

  test('does not wait when the store is full or the link lost', () => {
    const watch = new StreamWatch(LIMITS);
    expect(watch.look(0, { ...CALM, stagedBytes: 901 })?.trigger).toBe('fill');
    expect(watch.look(0, { ...CALM, linkUp: false })?.trigger).toBe('link');
  });

  test('does not begin anew when the value goes a little below its limit', () => {
    expect(PRESSURES.rate(NEAR, LIMITS)).toBeGreaterThan(0.8);
    expect(PRESSURES.rate(NEAR, LIMITS)).toBeLessThan(1);
    const watch = new StreamWatch(LIMITS);
    watch.look(0, OUTRUN);
    expect(watch.look(TRIGGER_HOLD_MS, NEAR)).toBeNull();
    expect(watch.look(TRIGGER_HOLD_MS + 1, OUTRUN)?.trigger).toBe('rate');
  });

  test('begins anew when the value was far below its limit, or the mirror came back', () => {
    expect(PRESSURES.rate(FAR, LIMITS)).toBeLessThan(0.8);
    const watch = new StreamWatch(LIMITS);
    watch.look(0, OUTRUN);
    watch.look(1, FAR);
    expect(watch.look(TRIGGER_HOLD_MS, OUTRUN)).toBeNull();
    watch.reset();
    expect(watch.look(2 * TRIGGER_HOLD_MS, OUTRUN)).toBeNull();
    expect(watch.look(3 * TRIGGER_HOLD_MS, OUTRUN)?.trigger).toBe('rate');
  });

  test('is not misled by a burst that the link carries away', () => {
    const watch = new StreamWatch(LIMITS);
    const [came, went] = [new RateMeter(0, 0), new RateMeter(0, 0)];
    let [total, sent] = [0, 0];
    for (let now = 250; now < 60_000; now += 250) {
      // One second in six at eight times the rate of the link; on average less than it carries.
      if (now % 6000 < 1000) total += 100;
      sent = Math.min(total, sent + 25 * 0.75);
      came.sample(now, total);
      went.sample(now, sent);
      const sample = {
        ...CALM,
        stagedBytes: total - sent,
        inRate: came.perSecond,
        outRate: went.perSecond,
      };
      expect(watch.look(now, sample)).toBeNull();
    }
  });
});

/** Of a count that grows by one a millisecond for ten seconds, and then by three. */
const rateAfter = (everyMs: number): number => {
  const meter = new RateMeter(0, 0, 2000);
  for (let now = everyMs; now <= 20_000; now += everyMs) {
    meter.sample(now, now <= 10_000 ? now : 10_000 + (now - 10_000) * 3);
  }
  return meter.perSecond;
};

describe('a rate', () => {
  test('is the mean of late, however often it is sampled', () => {
    expect(rateAfter(100)).toBeCloseTo(3000 - 2000 * Math.exp(-5), 0);
    expect(rateAfter(1000)).toBeCloseTo(rateAfter(100), 0);
  });

  test('is 0 at first, and is not changed by two looks in one moment', () => {
    const meter = new RateMeter(5, 100);
    expect(meter.perSecond).toBe(0);
    meter.sample(5, 100);
    expect(meter.perSecond).toBe(0);
    meter.sample(1005, 1100);
    meter.sample(1005, 1100);
    expect(meter.perSecond).toBe(1000);
  });
});

/** The pauses of a mirror that stays `stayMs` in the stream each time. */
function pauses(stayMs: number, trigger: Trigger, times: number): number[] {
  let state: ReturnState = NEVER_LEFT;
  let now = 0;
  return Array.from({ length: times }, () => {
    state = entered(state, now);
    now += stayMs;
    const leave = left(state, { now, trigger });
    state = leave.state;
    now += leave.pauseMs;
    return leave.pauseMs;
  });
}

describe('the pause before the next run', () => {
  test('grows while the mirror cannot stay, up to a bound', () => {
    const seen = pauses(1000, 'fill', 12);
    expect(seen.slice(0, 4)).toEqual([1, 2, 4, 8].map((f) => f * STREAM_PAUSE_MS_MIN));
    expect(seen.at(-1)).toBe(STREAM_PAUSE_MS_MAX);
  });

  test('begins anew for one that was steady', () => {
    expect(pauses(STREAM_STEADY_MS, 'rate', 3)).toEqual([500, 500, 500]);
    expect(pauses(STREAM_STEADY_MS - 1, 'rate', 3)).toEqual([500, 1000, 2000]);
  });

  test('is none after a lost link, which has its own, and which does not count', () => {
    expect(pauses(1000, 'link', 3)).toEqual([0, 0, 0]);
    const outrun = left(entered(NEVER_LEFT, 0), { now: 1, trigger: 'redundancy' }).state;
    const lost = left(entered(outrun, 2), { now: 3, trigger: 'link' }).state;
    expect(left(entered(lost, 4), { now: 5, trigger: 'redundancy' }).pauseMs).toBe(1000);
  });

  test('keeps a mirror that is always outrun from going back and forth', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: STREAM_STEADY_MS - 1 }), (stayMs) => {
        const times = 50;
        const paused = pauses(stayMs, 'fill', times).reduce((sum, pause) => sum + pause, 0);
        // In the long run once in the longest pause and the time it stays.
        expect(paused).toBeGreaterThan((times - 8) * STREAM_PAUSE_MS_MAX);
      }),
    );
  });
});
