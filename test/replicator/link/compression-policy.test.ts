/**
 * When a link compresses, and when it stops: with the numbers, on both sides of each threshold. Method: looks and samples
 * are made up; no clock, no link, no compressor.
 */
import { describe, expect, test } from 'vitest';
import { CompressionPolicy } from '../../../src/replicator/link/compression-policy.ts';

const MB = 1e6;
const LOOK_MS = 250;

/** A link of so many bytes a second, a compressor, and how well the data shrinks. */
interface Scene {
  link: number;
  /** Bytes a second that the compressor takes in. */
  speed: number;
  share: number;
  /** Bytes a second that come; as much as goes if not given. */
  load?: number;
}

class Player {
  readonly policy: CompressionPolicy;
  now = 1000;
  samples = 0;
  /** Each change, with the seconds since the beginning. */
  readonly changes: string[] = [];

  constructor(threads = 1) {
    this.policy = new CompressionPolicy(threads);
  }

  play(seconds: number, scene: Scene): this {
    for (let ms = 0; ms < seconds * 1000; ms += LOOK_MS) {
      const before = this.policy.active;
      this.look(scene);
      if (this.policy.active === before) continue;
      this.changes.push(`${before ? 'off' : 'on'} at ${(this.now - 1000) / 1000}`);
    }
    return this;
  }

  private look({ link, speed, share, load = Infinity }: Scene): void {
    const { policy } = this;
    const wasActive = policy.active;
    const seconds = LOOK_MS / 1000;
    const onWire = wasActive && share <= 0.9 ? share : 1;
    const most = Math.min(link / onWire, wasActive ? speed : Infinity);
    const plain = Math.min(most, load) * seconds;
    for (let bytes = 0; bytes < plain; bytes += MB) this.send(share, speed);
    const waited = load >= most ? LOOK_MS : 0;
    const linkWaited = link / onWire <= most ? waited : 0;
    this.now += LOOK_MS;
    policy.look({
      now: this.now,
      elapsedMs: LOOK_MS,
      waitedMs: waited,
      linkWaitedMs: linkWaited,
      plainBytes: waited === 0 ? 0 : plain,
      compressedBytes: waited === 0 || onWire === 1 ? 0 : plain,
      wireBytes: waited === 0 ? 0 : plain * onWire,
      allBytes: plain,
    });
  }

  private send(share: number, speed: number): void {
    if (!this.policy.takes(MB)) return;
    this.samples += 1;
    const out = MB * (share <= 0.9 ? share : 1);
    this.policy.compressed(MB, out, { ms: (MB / speed) * 1000, now: this.now });
  }
}

const SLOW: Scene = { link: 10 * MB, speed: 200 * MB, share: 0.4 };

describe('it begins', () => {
  test('within two seconds where the link is slow, and goes on while nothing changes', () => {
    const player = new Player().play(120, SLOW);
    expect(player.changes).toEqual(['on at 1.5']);
    expect(player.policy.share).toBeCloseTo(0.4);
  });

  test.each([
    ['data shrinks to 0.79', { share: 0.79 }, true],
    ['data shrinks to 0.81', { share: 0.81 }, false],
    ['the compressor is 3.1 times as fast', { speed: 31 * MB }, true],
    ['the compressor is 2.9 times as fast', { speed: 29 * MB }, false],
    ['less comes than the link takes', { load: 9 * MB }, false],
    ['the link is fast, and the compressor faster', { link: 350 * MB, speed: 1100 * MB }, true],
    ['the link is faster than any', { link: 450 * MB, speed: 5000 * MB }, false],
  ])('where %s: %j', (_what, change, begins) => {
    const player = new Player().play(10, { ...SLOW, ...change });
    expect(player.changes.length > 0).toBe(begins);
  });

  test('where two threads are fast enough together', () => {
    const scene = { ...SLOW, speed: 20 * MB };
    expect(new Player(1).play(10, scene).changes).toEqual([]);
    // The pool works on two payloads in the time of one.
    expect(new Player(2).play(10, scene).changes).not.toEqual([]);
  });

  test('never for one slow moment', () => {
    const player = new Player();
    for (let round = 0; round < 20; round += 1) {
      player.play(0.5, SLOW).play(5, { ...SLOW, link: 450 * MB });
    }
    expect(player.changes).toEqual([]);
  });

  test('also on a link that takes less than a frame in a second', () => {
    const player = new Player().play(30, { ...SLOW, link: 20_000 });
    expect(player.changes).toEqual(['on at 6']);
  });
});

describe('data that does not shrink', () => {
  test('costs a sample now and then, at growing distances', () => {
    const player = new Player().play(300, { ...SLOW, share: 1 });
    expect(player.changes).toEqual([]);
    expect(player.samples).toBeGreaterThan(5);
    expect(player.samples).toBeLessThan(20);
  });

  test('ends it, and what shrinks again begins it again', () => {
    const player = new Player().play(10, SLOW).play(20, { ...SLOW, share: 0.95 });
    expect(player.changes).toHaveLength(2);
    player.play(60, SLOW);
    expect(player.changes).toHaveLength(3);
    expect(player.policy.active).toBe(true);
  });

  test('between the thresholds it stays as it is', () => {
    const player = new Player()
      .play(5, { ...SLOW, share: 0.75 })
      .play(60, { ...SLOW, share: 0.85 });
    expect(player.changes).toEqual(['on at 1.5']);
    expect(new Player().play(60, { ...SLOW, share: 0.85 }).changes).toEqual([]);
  });
});

describe('it ends', () => {
  test('when the compressor is no longer 1.5 times as fast as the link', () => {
    const player = new Player().play(10, { ...SLOW, share: 0.7 });
    player.play(30, { ...SLOW, share: 0.85, speed: 16 * MB });
    expect(player.changes).toEqual(['on at 1.5']);
    player.play(10, { ...SLOW, share: 0.85, speed: 14 * MB });
    expect(player.changes).toHaveLength(2);
    expect(player.policy.active).toBe(false);
  });

  test('when so little comes, for three seconds, that the link would take it as it is', () => {
    const player = new Player().play(10, SLOW).play(30, { ...SLOW, load: 7.5 * MB });
    expect(player.changes).toEqual(['on at 1.5']);
    player.play(10, { ...SLOW, load: 6.5 * MB });
    expect(player.changes).toEqual(['on at 1.5', 'off at 43']);
  });

  test('when nothing gets through faster than before: it was not the link that was slow', () => {
    const player = new Player();
    // Whatever is sent, the far end takes 10 MB a second of what it was before.
    for (let ms = 0; ms < 60_000; ms += LOOK_MS) {
      const share = player.policy.active ? 0.4 : 1;
      player.play(LOOK_MS / 1000, { link: 10 * MB * share, speed: 200 * MB, share: 0.4 });
    }
    const on = player.changes.filter((change) => change.startsWith('on'));
    const off = player.changes.filter((change) => change.startsWith('off'));
    expect(on.length).toBeGreaterThan(1);
    expect(on.length).toBeLessThan(6);
    expect(off.length).toBeGreaterThanOrEqual(on.length - 1);
  });

  test('to see what the link takes, where the compressor is what holds up', () => {
    const fast = { link: 20 * MB, speed: 70 * MB, share: 0.2 };
    const player = new Player().play(9, fast);
    expect(player.changes).toEqual(['on at 1.5']);
    // The link is still slower than the compressor: it is on again at once, and the next trial is later.
    player.play(30, fast);
    expect(player.changes.map((change) => change.split(' ')[0])).toEqual([
      'on',
      'off',
      'on',
      'off',
      'on',
    ]);
    // The link became fast: the next trial ends it for good.
    player.play(120, { ...fast, link: 500 * MB });
    expect(player.policy.active).toBe(false);
    const { length } = player.changes;
    player.play(60, { ...fast, link: 500 * MB });
    expect(player.changes).toHaveLength(length);
  });

  test('at once when nobody wants it', () => {
    const player = new Player().play(10, SLOW);
    player.policy.stop();
    expect(player.policy.active).toBe(false);
    expect(player.policy.takes(MB)).toBe(false);
  });
});
