/**
 * Sockets in memory, on the clock that it is given: with a delay that differs from connection to connection (so what is
 * sent over several of them arrives in any order), in pieces of any length, with a bounded amount on its way, cuts, and
 * directions that stall. With a seeded `fraction` everything repeats.
 *
 * As sockets do: bytes of one direction come in order and none is lost while the connection lives; a receiver that is
 * paused holds the sender back; memory that was named for landing is written to until another is named; what is not
 * consumed within `received` is scribbled over; `sent` and `closed` are never told inside a call.
 */
import { formatAddress } from '../../src/io/address.ts';
import type { Clock } from '../../src/io/clock.ts';
import type { Address, Connection, Listener, Network } from '../../src/io/network.ts';
import { MemoryConnection, type Medium, Pipe, PIECE_BYTES_MAX } from './memory-connection.ts';

export interface MemoryNetworkOptions {
  readonly clock: Clock;
  /** Numbers in [0, 1); without it everything is at its least. */
  readonly fraction?: () => number;
  /** Delay of each piece: at least and at most. 0: the next turn. */
  readonly delayMs?: readonly [number, number];
  /** Length of the pieces in which bytes are delivered. */
  readonly pieceBytes?: readonly [number, number];
  /** Bytes on their way in one direction of a connection; more wait with the sender. */
  readonly windowBytes?: number;
}

/** The two directions of a connection. */
export type Direction = 'to-listener' | 'to-connector';

/** A connection from both sides. */
export class MemoryWire {
  readonly connector: MemoryConnection;
  readonly acceptor: MemoryConnection;
  private readonly pipes: Readonly<Record<Direction, Pipe>>;

  constructor(network: MemoryNetwork, name: string) {
    const forth = new Pipe(network);
    const back = new Pipe(network);
    this.pipes = { 'to-listener': forth, 'to-connector': back };
    this.connector = new MemoryConnection(network, name, forth, back);
    this.acceptor = new MemoryConnection(network, `client of ${name}`, back, forth);
  }

  /** Nothing arrives in this direction, and nothing is lost, until `heal`. */
  stall(direction: Direction): void {
    this.pipes[direction].stalled = true;
  }

  heal(direction: Direction): void {
    this.pipes[direction].stalled = false;
    this.pipes[direction].release();
  }

  /** Both ends break; what was on its way is lost. A direction that stalls does not tell its end. */
  cut(): void {
    const error = new Error('ECONNRESET');
    if (!this.pipes['to-connector'].stalled) this.connector.die(error);
    if (!this.pipes['to-listener'].stalled) this.acceptor.die(error);
  }
}

export class MemoryNetwork implements Network, Medium {
  readonly clock: Clock;
  readonly windowBytes: number;
  /** All that were ever made, in their order. */
  readonly wires: MemoryWire[] = [];
  private readonly options: MemoryNetworkOptions;
  private readonly listeners = new Map<string, (connection: Connection) => void>();

  constructor(options: MemoryNetworkOptions) {
    this.options = options;
    this.clock = options.clock;
    this.windowBytes = options.windowBytes ?? 256 * 1024;
  }

  listen(address: Address, accept: (connection: Connection) => void): Promise<Listener> {
    const name = formatAddress(address);
    if (this.listeners.has(name)) return Promise.reject(new Error(`EADDRINUSE ${name}`));
    this.listeners.set(name, accept);
    const close = (): Promise<void> => {
      this.listeners.delete(name);
      return Promise.resolve();
    };
    return Promise.resolve({ address, close });
  }

  adopt(): Promise<Listener> {
    return Promise.reject(new Error('no descriptors in memory'));
  }

  connect(address: Address): Promise<Connection> {
    const name = formatAddress(address);
    const accept = this.listeners.get(name);
    if (accept === undefined) return Promise.reject(new Error(`ECONNREFUSED ${name}`));
    const wire = this.wire(name);
    this.clock.soon(() => accept(wire.acceptor));
    return Promise.resolve(wire.connector);
  }

  /** The process that listened there is gone. */
  forget(address: Address): void {
    this.listeners.delete(formatAddress(address));
  }

  /** A connection without a listener. */
  wire(name = 'memory'): MemoryWire {
    const wire = new MemoryWire(this, name);
    this.wires.push(wire);
    return wire;
  }

  pickDelay(): number {
    const [least, most] = this.options.delayMs ?? [0, 0];
    return least + (most - least) * this.pick();
  }

  pickPiece(): number {
    const [least, most] = this.options.pieceBytes ?? [PIECE_BYTES_MAX, PIECE_BYTES_MAX];
    return Math.min(PIECE_BYTES_MAX, least + Math.floor((most - least + 1) * this.pick()));
  }

  private pick(): number {
    return this.options.fraction?.() ?? 0;
  }
}
