/**
 * What happens next, by dice: callbacks of the pool in any order, those of `soon` in theirs, timers when nothing else
 * is left. Time stands still but for what the dice add to it. One scheduler lives as long as the process it drives.
 */
import type { Clock, Timer } from '../../src/io/clock.ts';
import { Dice } from '../../scripts/fuzz/dice.ts';

interface PoolWork {
  /** Does it; null when that is done and only the callback is missing. */
  perform: (() => number) | null;
  result: number;
  readonly report: (result: number) => void;
}

interface Alarm {
  readonly at: number;
  readonly run: () => void;
}

export class Scheduler implements Clock {
  private time: number;
  private dice: Dice;
  private soonQueue: (() => void)[] = [];
  private pool: PoolWork[] = [];
  private alarms: Alarm[] = [];

  constructor(dice: Dice, startAt: number) {
    this.dice = dice;
    this.time = startAt;
  }

  now(): number {
    return this.time;
  }

  wall(): number {
    return 1_700_000_000_000 + this.time;
  }

  after(delayMs: number, run: () => void): Timer {
    const alarm = { at: this.time + Math.max(0, delayMs), run };
    this.alarms.push(alarm);
    return { cancel: () => void this.drop(alarm) };
  }

  soon(callback: () => void): void {
    this.soonQueue.push(callback);
  }

  /** Time that the calling thread loses. */
  lose(ms: number): void {
    this.time += ms;
  }

  /** From now on other dice fall: what a step does depends little on the steps before it. */
  reseed(seed: number, salt: number): void {
    this.dice = new Dice(seed, salt);
  }

  submit(perform: () => number, report: (result: number) => void): void {
    this.pool.push({ perform, result: 0, report });
  }

  /** Nothing waits but timers. */
  get idle(): boolean {
    return this.soonQueue.length === 0 && this.pool.length === 0;
  }

  get waitsForTime(): boolean {
    return this.idle && this.alarms.length > 0;
  }

  /** Runs one piece of work; false when there is none. */
  step(): boolean {
    this.time += this.dice.below(64) / 256;
    this.ring();
    const { pool, soonQueue } = this;
    if (pool.length > 0 && (soonQueue.length === 0 || this.dice.chance(50))) {
      this.stepPool();
      return true;
    }
    const callback = soonQueue.shift();
    if (callback !== undefined) {
      callback();
      return true;
    }
    return this.skipTime();
  }

  /** The process ends; what the pool had begun is done by some threads, and not by others. */
  abandon(): void {
    for (const { perform } of this.pool) if (perform !== null && this.dice.chance(50)) perform();
    this.pool = [];
    this.soonQueue = [];
    this.alarms = [];
  }

  private stepPool(): void {
    const index = this.dice.below(this.pool.length);
    const work = this.pool[index]!;
    if (work.perform !== null) {
      work.result = work.perform();
      work.perform = null;
      // Other things may happen between the end of the work and word of it.
      if (this.dice.chance(40)) return;
    }
    const at = this.pool.indexOf(work);
    if (at < 0) return;
    this.pool.splice(at, 1);
    work.report(work.result);
  }

  private skipTime(): boolean {
    if (this.alarms.length === 0) return false;
    this.time = Math.max(this.time, Math.min(...this.alarms.map(({ at }) => at)));
    this.ring();
    return true;
  }

  private ring(): void {
    if (this.alarms.length === 0) return;
    const due = this.alarms.filter(({ at }) => at <= this.time).toSorted((a, b) => a.at - b.at);
    for (const alarm of due) if (this.drop(alarm)) alarm.run();
  }

  private drop(alarm: Alarm): boolean {
    const index = this.alarms.indexOf(alarm);
    if (index >= 0) this.alarms.splice(index, 1);
    return index >= 0;
  }
}

/** Everything that promises have to say is said, and what nobody waits for is known. */
export function settled(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}

/** Everything that promises have to say is said. Of rejections that nobody waits for nothing is known: `settled` costs far more. */
export function said(): Promise<void> {
  return new Promise(sayLater);
}

function sayLater(resolve: () => void): void {
  process.nextTick(resolve);
}
