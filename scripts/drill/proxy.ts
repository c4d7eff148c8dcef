/**
 * A byte proxy between two nodes that misbehaves on command.
 *
 * - `cut`: every connection is reset, and new ones are reset at once, until `restore`.
 * - `halfOpen`: connections stay up and nothing passes any more, in silence, until `restore`. New
 *   connections are accepted and hear nothing. This is what a dead peer behind a live switch looks like.
 * - `deafen`: the same in one direction only: the other goes on, as with a broken route or firewall.
 * - `delay`: every byte arrives this much later. `throttle`: at most so many bytes a second, each way.
 *
 * A direction holds at most HELD_BYTES_MAX; then its source is not read. Bytes are never reordered,
 * changed or lost on a connection that lives.
 */
import type { Server, Socket } from 'node:net';
import { dial, listen, parseAddress, reset, type SocketAddress, stopListening } from './sockets.ts';

const HELD_BYTES_MAX = 4 * 1024 * 1024;
/** A throttled direction may send this much in one go. */
const BURST_BYTES = 64 * 1024;

export type LinkState = 'open' | 'cut' | 'half-open';
/** Which way bytes go: from clients to the target, or back. */
export type Way = 'to-target' | 'to-client';

/** What all connections of a proxy share, and read at every chunk. */
interface Conditions {
  state: LinkState;
  /** The way that is silent although the link is open, or null. */
  deaf: Way | null;
  delayMs: number;
  /** Bytes a second each way, or null for no limit. */
  bytesPerSecond: number | null;
}

interface Held {
  readonly chunk: Buffer;
  readonly dueMs: number;
}

/** One direction of one connection: reads from `source`, holds, sends to `target`. */
class Direction {
  passedBytes = 0;
  private readonly held: Held[] = [];
  private heldBytes = 0;
  private sourceEnded = false;
  private targetReady = true;
  private budgetBytes = BURST_BYTES;
  private budgetAtMs = performance.now();
  private timer: NodeJS.Timeout | null = null;
  private readonly source: Socket;
  private readonly target: Socket;
  private readonly conditions: Conditions;
  private readonly way: Way;

  constructor(source: Socket, target: Socket, way: Way, conditions: Conditions) {
    this.way = way;
    this.source = source;
    this.target = target;
    this.conditions = conditions;
    source.on('data', (chunk: Buffer) => {
      this.held.push({ chunk, dueMs: performance.now() + conditions.delayMs });
      this.heldBytes += chunk.length;
      this.pump();
    });
    source.on('end', () => {
      this.sourceEnded = true;
      this.pump();
    });
    target.on('drain', () => {
      this.targetReady = true;
      this.pump();
    });
  }

  /** Sends what may go now, and arranges to be called again for the rest. */
  pump(): void {
    if (this.target.destroyed) return;
    while (this.open && this.targetReady) {
      const head = this.held[0];
      if (head === undefined) break;
      const waitMs = this.waitMs(head);
      if (waitMs > 0) {
        this.wakeIn(waitMs);
        break;
      }
      this.held.shift();
      this.heldBytes -= head.chunk.length;
      this.passedBytes += head.chunk.length;
      this.budgetBytes -= head.chunk.length;
      this.targetReady = this.target.write(head.chunk);
    }
    if (this.open && this.sourceEnded && this.held.length === 0) {
      this.target.end();
    }
    const silent = this.conditions.state === 'half-open' || this.conditions.deaf === this.way;
    if (silent || this.heldBytes > HELD_BYTES_MAX) {
      this.source.pause();
    } else if (this.source.isPaused()) {
      this.source.resume();
    }
  }

  stop(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  private get open(): boolean {
    return this.conditions.state === 'open' && this.conditions.deaf !== this.way;
  }

  private waitMs(head: Held): number {
    const nowMs = performance.now();
    const delayMs = head.dueMs - nowMs;
    const rate = this.conditions.bytesPerSecond;
    if (rate === null) return delayMs;
    const earnedBytes = ((nowMs - this.budgetAtMs) * rate) / 1000;
    this.budgetBytes = Math.min(BURST_BYTES, this.budgetBytes + earnedBytes);
    this.budgetAtMs = nowMs;
    // A chunk may be larger than the burst: the budget then goes below zero and is earned back.
    const budgetMs = this.budgetBytes > 0 ? 0 : ((1 - this.budgetBytes) * 1000) / rate;
    return Math.max(delayMs, budgetMs);
  }

  private wakeIn(waitMs: number): void {
    if (this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.pump();
    }, Math.ceil(waitMs));
  }
}

interface Pair {
  readonly client: Socket;
  readonly upstream: Socket;
  readonly forward: Direction;
  readonly backward: Direction;
}

export class FaultProxy {
  /** Where clients connect. */
  readonly address: string;
  /** Connections accepted and passed on, and those reset because the link was cut. */
  accepted = 0;
  refused = 0;
  private readonly server: Server;
  private readonly target: SocketAddress;
  private readonly conditions: Conditions = {
    state: 'open',
    deaf: null,
    delayMs: 0,
    bytesPerSecond: null,
  };
  private readonly pairs = new Set<Pair>();
  private closedBytesToTarget = 0;
  private closedBytesToClient = 0;

  private constructor(server: Server, address: string, target: SocketAddress) {
    this.server = server;
    this.address = address;
    this.target = target;
  }

  static async start(options: { listen: string; target: string }): Promise<FaultProxy> {
    let proxy: FaultProxy | null = null;
    const { server, bound } = await listen(parseAddress(options.listen), (socket) => {
      proxy?.accept(socket);
    });
    proxy = new FaultProxy(server, bound, parseAddress(options.target));
    return proxy;
  }

  get state(): LinkState {
    return this.conditions.state;
  }

  get connections(): number {
    return this.pairs.size;
  }

  get bytesToTarget(): number {
    let bytes = this.closedBytesToTarget;
    for (const pair of this.pairs) bytes += pair.forward.passedBytes;
    return bytes;
  }

  get bytesToClient(): number {
    let bytes = this.closedBytesToClient;
    for (const pair of this.pairs) bytes += pair.backward.passedBytes;
    return bytes;
  }

  cut(): void {
    this.conditions.state = 'cut';
    for (const pair of this.pairs) {
      reset(pair.client);
      reset(pair.upstream);
    }
  }

  halfOpen(): void {
    this.conditions.state = 'half-open';
    this.pumpAll();
  }

  deafen(way: Way): void {
    this.conditions.deaf = way;
    this.pumpAll();
  }

  restore(): void {
    this.conditions.state = 'open';
    this.conditions.deaf = null;
    for (const pair of this.pairs) {
      if (pair.client.destroyed) reset(pair.upstream);
      if (pair.upstream.destroyed) reset(pair.client);
    }
    this.pumpAll();
  }

  delay(delayMs: number): void {
    this.conditions.delayMs = delayMs;
  }

  throttle(bytesPerSecond: number | null): void {
    this.conditions.bytesPerSecond = bytesPerSecond;
    this.pumpAll();
  }

  async close(): Promise<void> {
    for (const pair of this.pairs) {
      pair.client.destroy();
      pair.upstream.destroy();
    }
    await stopListening(this.server);
  }

  private accept(client: Socket): void {
    if (this.conditions.state === 'cut') {
      this.refused++;
      client.on('error', () => undefined);
      reset(client);
      return;
    }
    this.accepted++;
    const upstream = dial(this.target);
    const pair: Pair = {
      client,
      upstream,
      forward: new Direction(client, upstream, 'to-target', this.conditions),
      backward: new Direction(upstream, client, 'to-client', this.conditions),
    };
    this.pairs.add(pair);
    this.tie(pair, client, upstream);
    this.tie(pair, upstream, client);
    pair.forward.pump();
    pair.backward.pump();
  }

  /**
   * A side that failed takes the other with it. An orderly end needs nothing here: each direction
   * passes it on after the bytes that it still holds. While half-open, nothing may be heard: what died
   * then is dealt with at `restore`.
   */
  private tie(pair: Pair, one: Socket, other: Socket): void {
    one.on('error', () => {
      const { state, deaf } = this.conditions;
      if (state !== 'half-open' && deaf === null) reset(other);
    });
    one.on('close', () => {
      if (other.destroyed) this.forget(pair);
    });
  }

  private forget(pair: Pair): void {
    pair.forward.stop();
    pair.backward.stop();
    if (!this.pairs.delete(pair)) return;
    this.closedBytesToTarget += pair.forward.passedBytes;
    this.closedBytesToClient += pair.backward.passedBytes;
  }

  private pumpAll(): void {
    for (const pair of this.pairs) {
      pair.forward.pump();
      pair.backward.pump();
    }
  }
}
