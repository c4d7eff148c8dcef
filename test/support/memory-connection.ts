/** One end of a connection of memory-network.ts, and one direction of it. */
import type { Clock } from '../../src/io/clock.ts';
import type { Connection, ConnectionHandler, ConnectionHealth } from '../../src/io/network.ts';

/** What is between the ends. */
export interface Medium {
  readonly clock: Clock;
  /** Bytes on their way in one direction. */
  readonly windowBytes: number;
  pickDelay(): number;
  pickPiece(): number;
}

export const PIECE_BYTES_MAX: number = 1 << 20;

const LINGER_MS = 2_000;

interface Waiting {
  readonly bytes: Buffer;
  at: number;
  readonly sent: () => void;
}

/** What arrives: bytes, the end of a direction, or the end of the connection. */
type Piece = Buffer | 'end' | 'reset';

/** One direction. */
export class Pipe {
  stalled = false;
  /** On its way or arrived, and not delivered. */
  inFlightBytes = 0;
  readonly arrived: Piece[] = [];
  private travelling = 0;
  private held: Piece[] = [];
  private lastArrival = 0;
  private readonly network: Medium;
  onArrival: () => void = () => {};
  /** Something was delivered: whoever sends may go on. */
  onRoom: () => void = () => {};

  constructor(network: Medium) {
    this.network = network;
  }

  get empty(): boolean {
    return this.travelling === 0 && this.held.length === 0 && this.arrived.length === 0;
  }

  push(piece: Piece): void {
    const { clock } = this.network;
    if (typeof piece === 'object') this.inFlightBytes += piece.length;
    const delay = this.network.pickDelay();
    this.travelling += 1;
    const arrive = (): void => {
      this.travelling -= 1;
      this.held.push(piece);
      this.release();
    };
    this.lastArrival = Math.max(this.lastArrival, clock.now() + delay);
    const wait = this.lastArrival - clock.now();
    if (wait > 0) clock.after(wait, arrive);
    else clock.soon(arrive);
  }

  release(): void {
    if (this.stalled) return;
    this.arrived.push(...this.held.splice(0));
    this.onArrival();
  }
}

const shared = Buffer.alloc(PIECE_BYTES_MAX);

export class MemoryConnection implements Connection {
  readonly peer: string;
  readonly remoteIp: string | null = '127.0.0.1';
  backlogBytes = 0;
  paused = false;
  /** System calls that would have been made: gatherings of sends. */
  gatherings = 0;
  private readonly network: Medium;
  private readonly outgoing: Pipe;
  private readonly incoming: Pipe;
  private handler: ConnectionHandler | null = null;
  private landing: Buffer | null = null;
  private queue: Waiting[] = [];
  private corks = 0;
  private leaving = false;
  private endSent = false;
  private endSeen = false;
  private gone = false;
  private endTold = false;
  private delivering = false;
  private failure: Error | null = null;

  constructor(network: Medium, peer: string, outgoing: Pipe, incoming: Pipe) {
    this.network = network;
    this.peer = peer;
    this.outgoing = outgoing;
    this.incoming = incoming;
    incoming.onArrival = () => this.deliverSoon();
    outgoing.onRoom = () => {
      if (this.queue.length > 0) network.clock.soon(() => this.pump());
    };
  }

  start(handler: ConnectionHandler): void {
    if (this.handler !== null) throw new Error('started twice');
    this.handler = handler;
    if (this.gone) this.network.clock.soon(() => this.tellEnd());
    this.deliverSoon();
  }

  send(buffer: Buffer, sent: () => void): void {
    if (this.leaving || this.gone) return this.network.clock.soon(sent);
    this.queue.push({ bytes: buffer, at: 0, sent });
    this.backlogBytes += buffer.length;
    if (this.corks === 0) this.gather();
  }

  cork(): void {
    this.corks += 1;
  }

  uncork(): void {
    this.corks -= 1;
    if (this.corks < 0) throw new Error('uncorked more often than corked');
    if (this.corks === 0) this.gather();
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.deliverSoon();
  }

  health(): ConnectionHealth {
    if (this.gone) return 'dead';
    return this.endSeen ? 'ended' : 'open';
  }

  startTls(): void {
    throw new Error('no TLS in memory');
  }

  end(): void {
    if (this.leaving || this.gone) return;
    this.leaving = true;
    this.paused = false;
    this.network.clock.soon(() => this.pump());
    this.deliverSoon();
  }

  destroy(): void {
    if (this.gone) return;
    this.leaving = true;
    // Behind an end in order the other side hears nothing more.
    if (!this.endSent) this.outgoing.push('reset');
    this.die(null);
  }

  /** The connection breaks: told in a later turn. */
  die(failure: Error | null): void {
    if (this.gone) return;
    this.gone = true;
    this.leaving = true;
    this.failure ??= failure;
    this.incoming.onArrival = () => {};
    this.network.clock.soon(() => {
      this.scribble();
      for (const { sent } of this.queue.splice(0)) sent();
      this.backlogBytes = 0;
      this.tellEnd();
    });
  }

  private tellEnd(): void {
    if (this.handler === null || this.endTold) return;
    this.endTold = true;
    this.handler.closed(this.failure);
  }

  /** The system writes into memory that it was lent until it is told of another. */
  scribble(): void {
    this.landing?.fill(0xdd);
  }

  private gather(): void {
    if (this.queue.length === 0) return;
    this.gatherings += 1;
    this.network.clock.soon(() => this.pump());
  }

  /** Hands over what fits. */
  pump(): void {
    if (this.gone) return;
    for (let next = this.queue[0]; next !== undefined; next = this.queue[0]) {
      const room = this.network.windowBytes - this.outgoing.inFlightBytes;
      const count = Math.min(room, next.bytes.length - next.at, this.network.pickPiece());
      if (count <= 0 && next.bytes.length > 0) return;
      this.outgoing.push(Buffer.from(next.bytes.subarray(next.at, next.at + count)));
      next.at += count;
      this.backlogBytes -= count;
      if (next.at < next.bytes.length) continue;
      this.queue.shift();
      next.sent();
      if (this.gone) return;
      if (this.backlogBytes === 0 && !this.leaving) this.handler?.drained();
    }
    if (!this.leaving || this.endSent) return;
    this.endSent = true;
    this.outgoing.push('end');
    this.network.clock.after(LINGER_MS, () => this.destroy());
    this.closeWhenDone();
  }

  private deliverSoon(): void {
    if (this.delivering) return;
    this.delivering = true;
    this.network.clock.soon(() => {
      this.delivering = false;
      this.deliver();
    });
  }

  private deliver(): void {
    const { handler, incoming } = this;
    if (handler === null) return;
    while (!this.gone && !this.paused) {
      const piece = incoming.arrived.shift();
      if (piece === undefined) return;
      if (piece === 'reset') return this.die(new Error('ECONNRESET'));
      if (piece === 'end') {
        this.endSeen = true;
        if (!this.leaving) handler.ended();
        this.closeWhenDone();
      } else {
        this.deliverBytes(handler, piece);
      }
    }
  }

  private deliverBytes(handler: ConnectionHandler, piece: Buffer): void {
    const target = this.leaving ? shared : (this.landing ?? shared);
    const length = this.fill(target, piece);
    this.incoming.inFlightBytes -= length;
    if (!this.leaving) {
      handler.received(target, length);
      this.landing = this.leaving ? this.landing : (handler.landing?.() ?? null);
    }
    if (target === shared) shared.fill(0xee, 0, length);
    this.incoming.onRoom();
  }

  /** A read takes what arrived, of several pieces too; now and then less than there is room for. */
  private fill(target: Buffer, first: Buffer): number {
    const { arrived } = this.incoming;
    const most = Math.min(target.length, Math.max(first.length, this.network.pickPiece()));
    let at = 0;
    let next: Piece | undefined = first;
    while (typeof next === 'object') {
      const count = next.copy(target, at, 0, Math.min(next.length, most - at));
      at += count;
      if (count < next.length) {
        arrived.unshift(next.subarray(count));
        return at;
      }
      next = typeof arrived[0] === 'object' ? arrived.shift() : undefined;
    }
    return at;
  }

  private closeWhenDone(): void {
    if (this.endSent && this.endSeen) this.die(null);
  }
}
