/**
 * A connection whose handshake somebody else led, for whoever starts it anew: until then what comes is kept.
 *
 * Invariants:
 * - `start` is called once, at any time; from then on the handler hears all that a handler hears, in its order, never
 *   inside `start`.
 * - What is kept is at most LINK_EARLY_BYTES_MAX: the connection is paused with the first bytes, and cut if more come all the
 *   same.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { LINK_EARLY_BYTES_MAX } from '../../io/limits.ts';
import type {
  Connection,
  ConnectionHandler,
  ConnectionHealth,
  TlsClientTerms,
  TlsPeer,
  TlsServerContext,
} from '../../io/network.ts';

export class HandedConnection implements Connection, ConnectionHandler {
  /** Called when it ends before it was started; maybe twice. */
  onLost: (() => void) | null = null;
  private readonly connection: Connection;
  private readonly clock: Clock;
  /** Who started it. */
  private owner: ConnectionHandler | null = null;
  /** The owner hears things as they come. */
  private through = false;
  private kept: Buffer[] = [];
  private keptBytes = 0;
  /** Of the owner. */
  private wantsPause = false;
  private hasEnded = false;
  private hasClosed = false;
  private reason: Error | null = null;

  constructor(connection: Connection, clock: Clock) {
    this.connection = connection;
    this.clock = clock;
  }

  // --- Connection ---

  get peer(): string {
    return this.connection.peer;
  }

  get remoteIp(): string | null {
    return this.connection.remoteIp;
  }

  get backlogBytes(): number {
    return this.connection.backlogBytes;
  }

  start(handler: ConnectionHandler): void {
    assert(this.owner === null, 'a connection is started once');
    this.owner = handler;
    this.clock.soon(() => this.handOn(handler));
  }

  send(buffer: Buffer, sent: () => void): void {
    this.connection.send(buffer, sent);
  }

  cork(): void {
    this.connection.cork();
  }

  uncork(): void {
    this.connection.uncork();
  }

  pause(): void {
    this.wantsPause = true;
    this.connection.pause();
  }

  resume(): void {
    this.wantsPause = false;
    if (this.through) this.connection.resume();
  }

  health(): ConnectionHealth {
    return this.connection.health();
  }

  startTls(how: TlsServerContext | TlsClientTerms, secured: (peer: TlsPeer) => void): void {
    this.connection.startTls(how, secured);
  }

  end(): void {
    this.connection.end();
  }

  destroy(): void {
    this.connection.destroy();
  }

  // --- ConnectionHandler ---

  received(buffer: Buffer, length: number): void {
    if (this.through) return this.owner?.received(buffer, length);
    this.connection.pause();
    this.keptBytes += length;
    if (this.keptBytes > LINK_EARLY_BYTES_MAX) return this.connection.destroy();
    this.kept.push(Buffer.from(buffer.subarray(0, length)));
  }

  landing(): Buffer | null {
    return this.through ? (this.owner?.landing?.() ?? null) : null;
  }

  drained(): void {
    this.owner?.drained();
  }

  ended(): void {
    this.hasEnded = true;
    if (this.through) this.owner?.ended();
    else this.onLost?.();
  }

  closed(error: Error | null): void {
    this.hasClosed = true;
    this.reason = error;
    if (this.through) this.owner?.closed(error);
    else this.onLost?.();
  }

  private handOn(owner: ConnectionHandler): void {
    this.through = true;
    const { kept } = this;
    this.kept = [];
    for (const bytes of kept) if (!this.hasClosed) owner.received(bytes, bytes.length);
    if (this.hasClosed) return owner.closed(this.reason);
    if (this.hasEnded) owner.ended();
    if (kept.length > 0 && !this.wantsPause) this.connection.resume();
  }
}
