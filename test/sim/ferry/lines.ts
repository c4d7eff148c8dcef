/**
 * The network between the nodes: sockets in memory (test/support/memory-network.ts) that know whose they are. Lines between
 * the primary and a mirror are cut, in whole or one connection of them, stall in one direction or both, or cannot be had.
 *
 * As systems do: the end of a process resets its connections; a machine without power says nothing, and one that came back
 * resets what it does not know.
 */
import type { Address, Connection, ConnectionHandler } from '../../../src/io/network.ts';
import type { Listener, Network } from '../../../src/io/network.ts';
import { MemoryNetwork, type MemoryWire } from '../../support/memory-network.ts';
import { Process, type World } from './world.ts';

/** How a line is: new connections are made, refused, or nobody answers. */
export type LineState = 'open' | 'refused' | 'silent';

const PORT = 10_809;
/** Percent of the connections of a machine that lost power of which the other side hears when it is back. */
const RESET_PERCENT = 60;

export interface LineTraits {
  readonly delayMs: readonly [number, number];
  readonly pieceBytes: readonly [number, number];
  readonly windowBytes: number;
}

interface Line {
  readonly wire: MemoryWire;
  readonly from: string;
  readonly to: string;
  /** Nobody is there any more at that end. */
  readonly lost: Set<string>;
}

export class Lines {
  private readonly world: World;
  private readonly network: MemoryNetwork;
  /** Of each piece: at least and at most. */
  private readonly delayMs: [number, number];
  private lines: Line[] = [];
  /** By name of the mirror. */
  private readonly states = new Map<string, LineState>();

  constructor(world: World, traits: LineTraits) {
    this.world = world;
    this.delayMs = [...traits.delayMs];
    this.network = new MemoryNetwork({
      clock: new Process(world),
      fraction: () => world.dice.u32() / 2 ** 32,
      ...traits,
      delayMs: this.delayMs,
    });
  }

  /** The network as the process of a node sees it. */
  of(name: string, process: Process): Network {
    const listeners: Listener[] = [];
    return {
      listen: async (address, accept) => {
        const listener = await this.network.listen(address, (connection) => {
          if (process.over) connection.destroy();
          else accept(guarded(connection, process));
        });
        listeners.push(listener);
        return listener;
      },
      adopt: () => Promise.reject(new Error('no descriptors here')),
      connect: (address, timeoutMs) => this.connect(name, process, address, timeoutMs),
    };
  }

  static address(name: string): Address {
    return { kind: 'tcp', host: name, port: PORT };
  }

  static uri(name: string, volume = 'm'): string {
    return `nbd://${name}:${PORT}/${volume}`;
  }

  private async connect(
    from: string,
    process: Process,
    address: Address,
    timeoutMs: number,
  ): Promise<Connection> {
    const to = address.kind === 'tcp' ? address.host : '';
    const state = this.states.get(to) ?? 'open';
    const waitMs = state === 'silent' ? timeoutMs : this.network.pickDelay();
    await new Promise<void>((resolve) => {
      process.after(waitMs, resolve);
    });
    if (state === 'silent') throw new Error(`ETIMEDOUT ${to}`);
    if (state === 'refused') throw new Error(`ECONNREFUSED ${to}`);
    // Made at once, and told later.
    const connecting = this.network.connect(address);
    const wire = this.network.wires.pop();
    const connection = await connecting;
    if (wire === undefined) throw new Error(`ECONNREFUSED ${to}`);
    this.lines = this.lines.filter(
      (line) => line.wire.connector.health() !== 'dead' || line.lost.size > 0,
    );
    this.lines.push({ wire, from, to, lost: new Set() });
    return guarded(connection, process);
  }

  // ---- trouble

  setState(mirror: string, state: LineState): void {
    this.states.set(mirror, state);
  }

  /** Breaks the connections to a mirror; `one`: only one of them. */
  cut(mirror: string, one: boolean): void {
    const wires = this.wiresTo(mirror);
    if (one && wires.length > 0) this.world.dice.pick(wires).cut();
    else for (const wire of wires) wire.cut();
  }

  stall(mirror: string, directions: readonly ('to-listener' | 'to-connector')[]): void {
    for (const wire of this.wiresTo(mirror))
      for (const direction of directions) wire.stall(direction);
  }

  /** Nobody there hears of anybody, nor can be reached. */
  isolate(mirror: string): void {
    this.setState(mirror, 'silent');
    this.stall(mirror, ['to-listener', 'to-connector']);
  }

  heal(mirror: string): void {
    this.setState(mirror, 'open');
    for (const line of this.lines) {
      if (line.to !== mirror || line.lost.size > 0) continue;
      line.wire.heal('to-listener');
      line.wire.heal('to-connector');
    }
  }

  /** No piece takes longer than this from now on. */
  quicken(mostMs: number): void {
    for (const [index, ms] of this.delayMs.entries()) this.delayMs[index] = Math.min(ms, mostMs);
  }

  private wiresTo(mirror: string): MemoryWire[] {
    return this.lines.filter(({ to }) => to === mirror).map(({ wire }) => wire);
  }

  /** Somebody else listens there from now on; connections stay. */
  vacate(name: string): void {
    this.closeListener(name);
  }

  // ---- ends of nodes

  /** The process is gone, and its system says so. */
  killed(name: string): void {
    this.closeListener(name);
    for (const { wire, from, to } of this.lines) {
      if (from === name) wire.connector.destroy();
      if (to === name) wire.acceptor.destroy();
    }
  }

  /** Nobody says anything. */
  lostPower(name: string): void {
    this.closeListener(name);
    for (const { wire, from, to, lost } of this.lines) {
      if (from !== name && to !== name) continue;
      lost.add(name);
      wire.stall('to-connector');
      wire.stall('to-listener');
    }
  }

  /** The machine is back and resets what it hears of; of some it hears nothing. */
  back(name: string): void {
    for (const { wire, from, to, lost } of this.lines) {
      if (!lost.has(name) || !this.world.dice.chance(RESET_PERCENT)) continue;
      const error = new Error('ECONNRESET');
      if (from !== name) wire.connector.die(error);
      if (to !== name) wire.acceptor.die(error);
    }
  }

  private closeListener(name: string): void {
    this.network.forget(Lines.address(name));
  }
}

/** A connection that says nothing to a process that is over. */
function guarded(connection: Connection, process: Process): Connection {
  const start = connection.start.bind(connection);
  const send = connection.send.bind(connection);
  connection.start = (handler) => start(new Guarded(handler, process));
  connection.send = (buffer, sent) => {
    send(buffer, () => {
      if (!process.over) sent();
    });
  };
  return connection;
}

class Guarded implements ConnectionHandler {
  private readonly handler: ConnectionHandler;
  private readonly process: Process;

  constructor(handler: ConnectionHandler, process: Process) {
    this.handler = handler;
    this.process = process;
  }

  received(buffer: Buffer, length: number): void {
    if (!this.process.over) this.handler.received(buffer, length);
  }

  landing(): Buffer | null {
    return this.process.over ? null : (this.handler.landing?.() ?? null);
  }

  drained(): void {
    if (!this.process.over) this.handler.drained();
  }

  ended(): void {
    if (!this.process.over) this.handler.ended();
  }

  closed(error: Error | null): void {
    if (!this.process.over) this.handler.closed(error);
  }
}
