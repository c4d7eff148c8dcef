/**
 * The clock and the network of one process, which can be killed: then its timers and sockets are gone, and
 * nothing of it happens any more. What it had begun on its disk may still end there.
 */
import type { Clock, Timer } from '../../../src/io/clock.ts';
import { systemClock } from '../../../src/io/clock.ts';
import type { Connection, Network } from '../../../src/io/network.ts';
import { nodeNetwork } from '../../../src/io/node-network.ts';

export class Life {
  readonly clock: Clock;
  readonly network: Network;
  private dead = false;
  private readonly connections = new Set<Connection>();

  constructor(clock: Clock = systemClock) {
    const alive =
      (callback: () => void): (() => void) =>
      () => {
        if (!this.dead) callback();
      };
    this.clock = {
      now: () => clock.now(),
      wall: () => clock.wall(),
      after: (ms, callback) => clock.after(ms, alive(callback)),
      soon: (callback) => clock.soon(alive(callback)),
    };
    this.network = {
      listen: (address, accept) => nodeNetwork.listen(address, accept),
      adopt: (descriptor, accept) => nodeNetwork.adopt(descriptor, accept),
      connect: async (address, timeoutMs) => {
        const connection = await nodeNetwork.connect(address, timeoutMs);
        if (this.dead) connection.destroy();
        this.connections.add(connection);
        return connection;
      },
    };
  }

  get over(): boolean {
    return this.dead;
  }

  kill(): void {
    this.dead = true;
    for (const connection of this.connections) connection.destroy();
  }
}

/** Time that passes when the test says so. Sockets and disks stay real. */
export class ManualClock implements Clock {
  private time = 1000;
  private readonly timers = new Set<{ readonly at: number; readonly run: () => void }>();

  now(): number {
    return this.time;
  }

  wall(): number {
    return 1_800_000_000_000 + this.time;
  }

  after(delayMs: number, callback: () => void): Timer {
    const timer = { at: this.time + Math.max(0, delayMs), run: callback };
    this.timers.add(timer);
    return { cancel: () => void this.timers.delete(timer) };
  }

  soon(callback: () => void): void {
    setImmediate(callback);
  }

  /** Lets `ms` pass, in steps, with a moment for sockets and disks after each. */
  async advance(ms: number, stepMs = 50): Promise<void> {
    const end = this.time + ms;
    while (this.time < end) {
      this.time = Math.min(end, this.time + stepMs);
      this.fire();
      await new Promise((resolve) => {
        setTimeout(resolve, 2);
      });
    }
  }

  private fire(): void {
    const due = [...this.timers].filter((timer) => timer.at <= this.time);
    for (const timer of due.toSorted((one, other) => one.at - other.at)) {
      if (this.timers.delete(timer)) timer.run();
    }
  }
}
