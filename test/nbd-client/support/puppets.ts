/** A clock and a connection that move only when the test says so. */
import type { Clock, Timer } from '../../../src/io/clock.ts';
import type {
  Connection,
  ConnectionHandler,
  ConnectionHealth,
  Network,
} from '../../../src/io/network.ts';
import { NbdClient } from '../../../src/nbd/client/client.ts';
import { parseNbdUri } from '../../../src/nbd/uri/uri.ts';
import { ACK, GREETING, infoExport, simpleReply } from './fake-server.ts';

export class PuppetClock implements Clock {
  private time = 0;
  private timers: { at: number; callback: () => void }[] = [];

  now(): number {
    return this.time;
  }

  wall(): number {
    return this.time;
  }

  after(delayMs: number, callback: () => void): Timer {
    const timer = { at: this.time + delayMs, callback };
    this.timers.push(timer);
    return {
      cancel: () => {
        this.timers = this.timers.filter((other) => other !== timer);
      },
    };
  }

  soon(callback: () => void): void {
    this.after(0, callback);
  }

  get pending(): number {
    return this.timers.length;
  }

  advance(ms: number): void {
    const end = this.time + ms;
    for (;;) {
      const next = this.timers.toSorted((left, right) => left.at - right.at)[0];
      if (next === undefined || next.at > end) break;
      this.timers = this.timers.filter((timer) => timer !== next);
      this.time = next.at;
      next.callback();
    }
    this.time = end;
  }
}

export class PuppetConnection implements Connection {
  readonly peer = 'puppet';
  readonly remoteIp: string | null = null;
  destroyed = false;
  finished = false;
  handler: ConnectionHandler | null = null;
  /** Everything handed over so far. */
  readonly sent: Buffer[] = [];
  private waiting: (() => void)[] = [];
  /** Tells at once that the kernel took what is sent. */
  taking = true;

  get backlogBytes(): number {
    return this.waiting.length;
  }

  start(handler: ConnectionHandler): void {
    this.handler = handler;
  }

  send(buffer: Buffer, sent: () => void): void {
    this.sent.push(Buffer.from(buffer));
    this.waiting.push(sent);
    if (this.taking) queueMicrotask(() => this.take());
  }

  /** The kernel takes the oldest buffers. */
  take(count: number = this.waiting.length): void {
    for (const sent of this.waiting.splice(0, count)) sent();
  }

  say(...bytes: readonly Buffer[]): void {
    const all = Buffer.concat(bytes);
    this.handler?.received(all, all.length);
  }

  /** Answers the request whose header was handed over as number `index`, counted from the end if negative. */
  answer(index: number, errno = 0): void {
    const header = this.sent.at(index);
    if (header === undefined) throw new Error('no such request');
    this.say(simpleReply(header.subarray(8, 16), errno));
  }

  cork(): void {}
  uncork(): void {}
  pause(): void {}
  resume(): void {}
  drained(): void {}

  health(): ConnectionHealth {
    return this.destroyed ? 'dead' : 'open';
  }

  startTls(): void {
    throw new Error('a client starts no TLS');
  }

  end(): void {
    this.finished = true;
  }

  destroy(): void {
    this.destroyed = true;
  }
}

export interface Puppets {
  readonly client: NbdClient;
  readonly clock: PuppetClock;
  readonly connection: PuppetConnection;
}

/** An open client; nothing has been sent on `connection` since. */
export async function puppets(flags: number, replyMs = 10_000): Promise<Puppets> {
  const clock = new PuppetClock();
  const connection = new PuppetConnection();
  const network: Network = {
    connect: () => Promise.resolve(connection),
    listen: () => Promise.reject(new Error('a client does not listen')),
    adopt: () => Promise.reject(new Error('a client does not listen')),
  };
  const opening = NbdClient.connect(parseNbdUri('nbd://h/d'), { network, clock, replyMs });
  while (connection.handler === null) await Promise.resolve();
  connection.say(GREETING, infoExport(2 ** 30, flags), ACK);
  const client = await opening;
  connection.take();
  connection.sent.length = 0;
  return { client, clock, connection };
}
