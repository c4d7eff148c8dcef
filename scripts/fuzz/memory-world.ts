/**
 * The server with a network, a clock and devices in memory: nothing happens but in `turn` and `advance`,
 * so that a case plays the same way each time.
 */
import type { Clock, Timer } from '../../src/io/clock.ts';
import type { Connection, Listener, Network } from '../../src/io/network.ts';
import type { ClientFacts, ExportAccess, ExportSource } from '../../src/nbd/server/exports.ts';
import { NbdServer } from '../../src/nbd/server/server.ts';
import type { NbdLimits } from '../../src/nbd/server/server-limits.ts';
import { FakeConnection } from '../../test/nbd/support/fake-world.ts';
import type { ServerFacts } from './judge-facts.ts';
import type { FuzzDevice } from './memory-device.ts';
import { MemoryMirror } from './memory-mirror.ts';

const silent = (): void => {};

const TURNS_MAX = 1_000_000;

export class ManualClock implements Clock {
  timers: { readonly at: number; readonly callback: () => void }[] = [];
  private time = 0;
  private queue: (() => void)[] = [];

  now(): number {
    return this.time;
  }

  wall(): number {
    return this.time;
  }

  after(delayMs: number, callback: () => void): Timer {
    const timer = { at: this.time + delayMs, callback };
    this.timers.push(timer);
    return { cancel: () => (this.timers = this.timers.filter((each) => each !== timer)) };
  }

  soon(callback: () => void): void {
    this.queue.push(callback);
  }

  runSoon(): boolean {
    const due = this.queue;
    this.queue = [];
    for (const callback of due) callback();
    return due.length > 0;
  }

  advance(ms: number): void {
    this.time += ms;
    const due = this.timers.filter((timer) => timer.at <= this.time);
    this.timers = this.timers.filter((timer) => timer.at > this.time);
    for (const timer of due) timer.callback();
  }
}

/** Accepts what `connect` brings. */
class MemoryNetwork implements Network {
  accept: ((connection: Connection) => void) | null = null;

  listen: Network['listen'] = (address, accept): Promise<Listener> => {
    this.accept = accept;
    const close = (): Promise<void> => {
      this.accept = null;
      return Promise.resolve();
    };
    return Promise.resolve({ address, close });
  };

  adopt(): Promise<Listener> {
    return Promise.reject(new Error('this network has no descriptors'));
  }

  connect(): Promise<Connection> {
    return Promise.reject(new Error('a server does not connect'));
  }
}

export class MemoryWorld {
  readonly clock = new ManualClock();
  readonly server: NbdServer;
  readonly facts: ServerFacts;
  private readonly devices: ReadonlyMap<string, FuzzDevice>;
  private readonly network = new MemoryNetwork();
  private readonly mirror = new MemoryMirror(this.clock);
  private connections: FakeConnection[] = [];

  constructor(facts: ServerFacts, devices: ReadonlyMap<string, FuzzDevice>, limits: NbdLimits) {
    this.facts = facts;
    this.devices = devices;
    const context = { kind: 'tls-server-context' } as const;
    this.server = new NbdServer({
      network: this.network,
      clock: this.clock,
      exports: this.source(),
      log: { info: silent, warn: silent },
      limits,
      tls: facts.tls === 'none' ? { mode: 'off' } : { mode: facts.tls, context },
      ...(facts.privately ? { privateOption: this.mirror.acceptor.option } : {}),
    });
  }

  async start(): Promise<void> {
    await this.server.listen({ kind: 'tcp', host: '127.0.0.1', port: 1 });
  }

  /** Null when the server accepts nobody any more. */
  connect(): FakeConnection | null {
    if (this.network.accept === null) return null;
    const connection = new FakeConnection();
    this.connections.push(connection);
    this.network.accept(connection);
    return connection;
  }

  /** One step of everything; false when nothing happened. */
  turn(): boolean {
    let busy = this.clock.runSoon();
    for (const connection of this.connections) busy = connection.step() || busy;
    return busy;
  }

  /** Until nothing happens any more; devices answer what they hold. */
  settle(): void {
    for (let turns = 0; turns < TURNS_MAX; turns++) {
      if (this.turn()) continue;
      const device = [...this.devices.values()].find((each) => each.heldCount > 0);
      if (device === undefined) return;
      device.releaseOne();
    }
    throw new Error('never settles');
  }

  /** What is left when every client is gone and every request answered; empty if all is well. */
  leftovers(): string {
    const left: string[] = [];
    const { connections, bufferBytes } = this.server;
    if (connections > 0) left.push(`${connections} connections`);
    if (bufferBytes.lent > 0) left.push(`${bufferBytes.lent} lent bytes`);
    if (this.clock.timers.length > 0) left.push(`${this.clock.timers.length} timers`);
    for (const [name, { users }] of this.devices) {
      if (users !== 0) left.push(`${users} users of ${name}`);
    }
    left.push(...this.mirror.leftovers());
    return left.join(', ');
  }

  private source(): ExportSource {
    const access = (asked: string, client: ClientFacts): ExportAccess => {
      const name = asked === '' ? this.facts.defaultName : asked;
      const device = name === null ? undefined : this.devices.get(name);
      if (name === null || device === undefined) return { kind: 'unknown' };
      const tlsOnly = this.facts.exports.some((each) => each.name === name && each.tlsOnly);
      if (tlsOnly && client.tls === null) return { kind: 'tls-required' };
      return { kind: 'granted', export: { name, device, readOnly: device.readOnly } };
    };
    return {
      find: access,
      list: (client) => {
        if (!this.facts.listing) return null;
        return this.facts.exports.flatMap(({ name }) => {
          const found = access(name, client);
          return found.kind === 'granted' ? [found.export] : [];
        });
      },
    };
  }
}
