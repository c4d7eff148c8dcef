/** A clock that stands still but for what the test lets pass. Callbacks come in the order of their times. */
import type { Clock, Timer } from '../../src/io/clock.ts';

interface Alarm {
  readonly at: number;
  readonly order: number;
  readonly run: () => void;
}

export class VirtualClock implements Clock {
  private time = 0;
  private order = 0;
  private alarms: Alarm[] = [];
  private soonQueue: (() => void)[] = [];

  now(): number {
    return this.time;
  }

  wall(): number {
    return 1_700_000_000_000 + this.time;
  }

  after(delayMs: number, run: () => void): Timer {
    const alarm = { at: this.time + Math.max(0, delayMs), order: (this.order += 1), run };
    const place = this.alarms.findIndex(({ at }) => at > alarm.at);
    this.alarms.splice(place < 0 ? this.alarms.length : place, 0, alarm);
    return { cancel: () => (this.alarms = this.alarms.filter((each) => each !== alarm)) };
  }

  soon(callback: () => void): void {
    this.soonQueue.push(callback);
  }

  get pendingTimers(): number {
    return this.alarms.length;
  }

  /** `ms` pass in which nothing runs: the process stood still. */
  lose(ms: number): void {
    this.time += ms;
  }

  /** Lets `ms` pass, with everything that happens meanwhile. */
  async run(ms: number): Promise<void> {
    const end = this.time + ms;
    for (;;) {
      await this.settle();
      const next = this.alarms[0];
      if (next === undefined || next.at > end) break;
      this.alarms.shift();
      this.time = Math.max(this.time, next.at);
      next.run();
    }
    this.time = end;
  }

  /** Everything that happens without any time passing. */
  async settle(): Promise<void> {
    for (let turns = 0; turns < 1_000_000; turns += 1) {
      await Promise.resolve();
      const queue = this.soonQueue;
      this.soonQueue = [];
      for (const callback of queue) callback();
      if (queue.length === 0 && this.soonQueue.length === 0) {
        await Promise.resolve();
        if (this.soonQueue.length === 0) return;
      }
    }
    throw new Error('never settles');
  }
}
