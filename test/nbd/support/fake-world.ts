/**
 * A server with a network and a clock that the test drives: nothing happens but in `settle` and
 * `advance`. The network shares one read buffer among all connections and scribbles over it after each
 * delivery, so a server that keeps a view of received bytes is found out.
 */
import type { Clock, Timer } from '../../../src/io/clock.ts';
import { NBD_READ_BUFFER_BYTES } from '../../../src/io/limits.ts';
import type {
  Address,
  Connection,
  ConnectionHealth,
  ConnectionHandler,
  Listener,
  Network,
  TlsPeer,
  TlsServerContext,
} from '../../../src/io/network.ts';
import {
  type ExportSource,
  NbdServer,
  type NbdServerOptions,
} from '../../../src/nbd/server/server.ts';
import { MemoryDevice } from './memory-device.ts';
import { CLIENT_FLAGS, go, optionReplies } from './wire.ts';

export class FakeClock implements Clock {
  private time = 0;
  private timers: { at: number; callback: () => void }[] = [];
  private soonQueue: (() => void)[] = [];

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
    this.soonQueue.push(callback);
  }

  get pendingTimers(): number {
    return this.timers.length;
  }

  /** Whether anything was run. */
  runSoon(): boolean {
    const queue = this.soonQueue;
    this.soonQueue = [];
    for (const callback of queue) callback();
    return queue.length > 0;
  }

  advance(ms: number): void {
    this.time += ms;
    const due = this.timers.filter((timer) => timer.at <= this.time);
    this.timers = this.timers.filter((timer) => timer.at > this.time);
    for (const timer of due) timer.callback();
  }
}

const readBuffer = Buffer.alloc(NBD_READ_BUFFER_BYTES);

/** Both ends of one connection: what the server calls, and what the test calls. */
export class FakeConnection implements Connection {
  readonly peer = 'test';
  readonly remoteIp: string | null;
  /** What the server asked to become TLS with; the test says when that is done. */
  tls: { readonly context: TlsServerContext; secured(peer: TlsPeer): void } | null = null;
  private chunks: Buffer[] = [];
  /** How often the server called `send`. */
  sends = 0;
  /** How often the server asked whether the client is still there. */
  healthAsked = 0;
  /** While true the kernel takes nothing: sends stay in the backlog. */
  stalled = false;
  paused = false;
  /** The server closed, or the connection died. */
  over = false;
  ending = false;
  backlogBytes = 0;
  private handler: ConnectionHandler | null = null;
  /** Where the handler wants the next bytes; the shared buffer if null. */
  landing: Buffer | null = null;
  private backlog: { bytes: Buffer; sent: () => void }[] = [];
  /** Of sends that came too late; they are told later, like all. */
  private unsent: (() => void)[] = [];
  private incoming: Buffer[] = [];
  private inputEnded = false;
  private endTold = false;
  /** The end of the input is known to the system and not told yet. */
  withholdsEnd = false;
  private resetUnread = false;

  constructor(remoteIp: string | null = '127.0.0.1') {
    this.remoteIp = remoteIp;
  }

  start(handler: ConnectionHandler): void {
    this.handler = handler;
  }

  send(buffer: Buffer, sent: () => void): void {
    this.sends++;
    if (this.over) {
      this.unsent.push(sent);
      return;
    }
    this.backlog.push({ bytes: buffer, sent });
    this.backlogBytes += buffer.length;
  }

  cork(): void {}
  uncork(): void {}

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
  }

  health(): ConnectionHealth {
    this.healthAsked++;
    if (this.over || this.resetUnread) return 'dead';
    return this.inputEnded ? 'ended' : 'open';
  }

  startTls(context: TlsServerContext, secured: (peer: TlsPeer) => void): void {
    this.tls = { context, secured };
  }

  end(): void {
    this.ending = true;
  }

  destroy(): void {
    this.die(null);
  }

  /** The client sends; nothing is delivered before `settle`. */
  write(...bytes: readonly Buffer[]): void {
    this.incoming.push(...bytes);
  }

  /** The client closes its sending side. */
  endInput(): void {
    this.inputEnded = true;
  }

  /** The client is gone, which the server finds out when it reads. */
  reset(): void {
    this.resetUnread = true;
  }

  /** The client is gone. */
  die(error: Error | null): void {
    if (this.over) return;
    this.over = true;
    for (const { sent } of this.backlog.splice(0)) sent();
    this.backlogBytes = 0;
    this.handler?.closed(error);
  }

  /** Delivers and sends what can be; true when anything happened. */
  step(): boolean {
    const unsent = this.unsent.splice(0);
    for (const sent of unsent) sent();
    if (this.over) return unsent.length > 0;
    let busy = false;
    if (!this.paused && !this.ending) busy = this.deliver();
    if (!this.stalled) busy = this.transmit() || busy;
    return busy;
  }

  private deliver(): boolean {
    if (this.resetUnread) {
      this.die(new Error('ECONNRESET'));
      return true;
    }
    const next = this.incoming.shift();
    if (next === undefined) {
      if (!this.inputEnded || this.endTold || this.withholdsEnd) return false;
      this.endTold = true;
      this.handler?.ended();
      return true;
    }
    const target = this.landing ?? readBuffer;
    const length = next.copy(target);
    if (length < next.length) this.incoming.unshift(next.subarray(length));
    this.handler?.received(target, length);
    if (target === readBuffer) readBuffer.fill(0xee, 0, length);
    this.landing = this.handler?.landing?.() ?? null;
    return true;
  }

  /** The system writes into memory that it was lent until it is told of another. */
  scribble(): void {
    this.landing?.fill(0xdd);
  }

  private transmit(): boolean {
    const sending = this.backlog.splice(0);
    // Copies: the buffers are the server's again once it was told.
    this.chunks.push(...sending.map(({ bytes }) => Buffer.from(bytes)));
    this.backlogBytes = 0;
    for (const { sent } of sending) sent();
    if (this.ending && this.backlog.length === 0) this.die(null);
    return sending.length > 0;
  }

  /** What came since the last call. */
  take(): Buffer {
    return Buffer.concat(this.chunks.splice(0));
  }
}

class FakeNetwork implements Network {
  accept: ((connection: Connection) => void) | null = null;

  listen(address: Address, accept: (connection: Connection) => void): Promise<Listener> {
    this.accept = accept;
    const close = (): Promise<void> => {
      this.accept = null;
      return Promise.resolve();
    };
    return Promise.resolve({ address, close });
  }

  adopt(): Promise<Listener> {
    return Promise.reject(new Error('this network has no descriptors'));
  }

  connect(): Promise<Connection> {
    return Promise.reject(new Error('a server does not connect'));
  }
}

export interface LogLine {
  readonly level: 'info' | 'warn';
  readonly fields: Readonly<Record<string, unknown>>;
  readonly text: string;
}

export class FakeWorld {
  readonly clock = new FakeClock();
  readonly log: LogLine[] = [];
  readonly connections: FakeConnection[] = [];
  readonly devices: Map<string, MemoryDevice>;
  readonly server: NbdServer;
  private readonly network = new FakeNetwork();

  private constructor(devices: Map<string, MemoryDevice>, options: Partial<NbdServerOptions>) {
    this.devices = devices;
    const exports: ExportSource = {
      find: (asked) => {
        const name = asked === '' ? 'vol0' : asked;
        const device = this.devices.get(name);
        if (device === undefined) return { kind: 'unknown' };
        return { kind: 'granted', export: { name, device, readOnly: device.readOnly } };
      },
      list: () =>
        [...this.devices].map(([name, device]) => ({ name, device, readOnly: device.readOnly })),
    };
    this.server = new NbdServer({
      network: this.network,
      clock: this.clock,
      exports,
      log: {
        info: (fields, text) => this.log.push({ level: 'info', fields, text }),
        warn: (fields, text) => this.log.push({ level: 'warn', fields, text }),
      },
      ...options,
    });
  }

  /** A listening server of one device, `vol0`, which is also the default export. */
  static async create(
    sizeBytes = 1 << 20,
    options: Partial<NbdServerOptions> = {},
  ): Promise<FakeWorld> {
    const world = new FakeWorld(new Map([['vol0', new MemoryDevice(sizeBytes)]]), options);
    await world.server.listen({ kind: 'tcp', host: '127.0.0.1', port: 1 });
    return world;
  }

  get device(): MemoryDevice {
    return this.devices.get('vol0')!;
  }

  connect(remoteIp: string | null = '127.0.0.1'): FakeConnection {
    const connection = new FakeConnection(remoteIp);
    this.connections.push(connection);
    this.network.accept!(connection);
    return connection;
  }

  /** A connection that did GO; what it received so far is taken. */
  transmit(name = '', remoteIp: string | null = '127.0.0.1'): FakeConnection {
    const connection = this.connect(remoteIp);
    connection.write(CLIENT_FLAGS, go(name));
    this.settle();
    const replies = optionReplies(connection.take().subarray(18));
    if (replies.at(-1)?.type !== 1) throw new Error('GO was refused');
    return connection;
  }

  /** Runs until nothing happens any more. */
  settle(): void {
    for (let turns = 0; turns < 1_000_000; turns++) {
      let busy = this.clock.runSoon();
      for (const connection of this.connections) busy = connection.step() || busy;
      if (!busy) return;
    }
    throw new Error('never settles');
  }

  /** What must be true when every client is gone and every request answered. */
  leftovers(): Record<string, number> {
    return {
      connections: this.server.connections,
      lentBytes: this.server.bufferBytes.lent,
      timers: this.clock.pendingTimers,
      opened: this.device.openedCount - this.device.closedCount,
    };
  }
}

export const NOTHING_LEFT = { connections: 0, lentBytes: 0, timers: 0, opened: 0 };
