/**
 * Several processes on one clock, wholly under dice: what any of them does next, and when. Time stands still but for what
 * the dice add to each piece of work; with nothing else left to do it goes on to the next timer.
 *
 * A process that ended does nothing any more, and nothing that it asked for comes back.
 */
import type { Dice } from '../../../scripts/fuzz/dice.ts';
import type { Clock, Timer } from '../../../src/io/clock.ts';

interface PoolWork {
  /** Does it; null when that is done and only the callback is missing. */
  perform: (() => number) | null;
  result: number;
  readonly report: (result: number) => void;
  /** Not before this time. */
  readonly notBefore: number;
}

interface Alarm {
  readonly at: number;
  readonly order: number;
  readonly run: () => void;
}

/** Percent of the work of a slow disk that takes long. */
const SLOW_PERCENT = 30;
const WALL_AT_START = 1_700_000_000_000;

export class World {
  time = 1000;
  dice: Dice;
  readonly processes: Process[] = [];
  private alarmCount = 0;

  constructor(dice: Dice) {
    this.dice = dice;
  }

  nextAlarm(): number {
    return (this.alarmCount += 1);
  }

  /** Does one piece of work; false when none is left before `end`, which it is then. */
  step(end = Infinity): boolean {
    for (;;) {
      this.time += this.dice.below(64) / 256;
      const process = this.firstToRing();
      const alarmAt = process?.alarm?.at ?? Infinity;
      if (process !== null && alarmAt <= this.time) {
        process.ring();
        return true;
      }
      if (this.stepOne()) return true;
      const next = Math.min(alarmAt, this.nextWork());
      if (next > end) {
        this.time = Math.max(this.time, end);
        return false;
      }
      if (next === Infinity) return false;
      this.time = Math.max(this.time, next);
    }
  }

  /** Has one of those work that can. */
  private stepOne(): boolean {
    let ready = 0;
    for (const process of this.processes) if (process.ready) ready += 1;
    if (ready === 0) return false;
    let chosen = this.dice.below(ready);
    for (const process of this.processes) {
      if (!process.ready) continue;
      if (chosen === 0) {
        process.step();
        break;
      }
      chosen -= 1;
    }
    return true;
  }

  private nextWork(): number {
    let next = Infinity;
    for (const process of this.processes) next = Math.min(next, process.workAt);
    return next;
  }

  private firstToRing(): Process | null {
    let found: Process | null = null;
    let first: Alarm | null = null;
    for (const process of this.processes) {
      const { alarm } = process;
      if (alarm === null) continue;
      if (first !== null && alarm.at > first.at) continue;
      if (first !== null && alarm.at === first.at && alarm.order > first.order) continue;
      found = process;
      first = alarm;
    }
    return found;
  }
}

/** The threads of one process, and its view of time. */
export class Process implements Clock {
  over = false;
  /** Milliseconds that work of the pool may take. */
  slowMs = 0;
  private readonly world: World;
  private soonQueue: (() => void)[] = [];
  private pool: PoolWork[] = [];
  private alarms: Alarm[] = [];

  constructor(world: World) {
    this.world = world;
    world.processes.push(this);
  }

  // ---- for the code under test

  now(): number {
    return this.world.time;
  }

  wall(): number {
    return WALL_AT_START + Math.floor(this.world.time);
  }

  after(delayMs: number, run: () => void): Timer {
    if (this.over) return { cancel: () => {} };
    const { world } = this;
    const alarm = { at: world.time + Math.max(0, delayMs), order: world.nextAlarm(), run };
    // Kept in order: the first one is asked for at each step.
    let place = this.alarms.length;
    while (place > 0 && this.alarms[place - 1]!.at > alarm.at) place -= 1;
    this.alarms.splice(place, 0, alarm);
    return { cancel: () => this.drop(alarm) };
  }

  soon(callback: () => void): void {
    if (!this.over) this.soonQueue.push(callback);
  }

  // ---- for its disk

  submit(perform: () => number, report: (result: number) => void): void {
    if (this.over) return;
    const { dice, time } = this.world;
    const slow = this.slowMs > 0 && dice.chance(SLOW_PERCENT);
    const notBefore = slow ? time + dice.below(this.slowMs) : time;
    this.pool.push({ perform, result: 0, report, notBefore });
  }

  /** Time that the calling thread loses, and with it everybody. */
  lose(ms: number): void {
    this.world.time += ms;
  }

  /** The process ends; what the pool had begun is done by some threads, and not by others. */
  abandon(): void {
    if (this.over) return;
    this.over = true;
    const { dice } = this.world;
    for (const { perform } of this.pool) if (perform !== null && dice.chance(50)) perform();
    this.pool = [];
    this.soonQueue = [];
    this.alarms = [];
    this.world.processes.splice(this.world.processes.indexOf(this), 1);
  }

  // ---- for the world

  get alarm(): Alarm | null {
    return this.alarms[0] ?? null;
  }

  get ready(): boolean {
    return this.soonQueue.length > 0 || this.workAt <= this.world.time;
  }

  /** When work of the pool can go on; Infinity: there is none. */
  get workAt(): number {
    let first = Infinity;
    for (const { notBefore } of this.pool) first = Math.min(first, notBefore);
    return first;
  }

  step(): void {
    const { dice, time } = this.world;
    let workable = 0;
    for (const { notBefore } of this.pool) if (notBefore <= time) workable += 1;
    if (workable === 0 || (this.soonQueue.length > 0 && !dice.chance(50))) {
      this.soonQueue.shift()?.();
      return;
    }
    let chosen = dice.below(workable);
    for (const work of this.pool) {
      if (work.notBefore > time) continue;
      if (chosen === 0) return this.stepPool(work);
      chosen -= 1;
    }
  }

  /** Runs the first alarm. */
  ring(): void {
    this.alarms.shift()?.run();
  }

  private stepPool(work: PoolWork): void {
    if (work.perform !== null) {
      work.result = work.perform();
      work.perform = null;
      // Other things may happen between the end of the work and word of it.
      if (this.world.dice.chance(40)) return;
    }
    const at = this.pool.indexOf(work);
    if (at < 0) return;
    this.pool.splice(at, 1);
    work.report(work.result);
  }

  private drop(alarm: Alarm): void {
    const index = this.alarms.indexOf(alarm);
    if (index >= 0) this.alarms.splice(index, 1);
  }
}
