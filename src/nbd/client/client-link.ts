/**
 * The life of one connection in transmission: requests out, replies in, and an end that frees everything.
 * `NbdClient` is the face of it.
 *
 * Invariants:
 * - Each callback is called once, and never from inside the call that it was given to.
 * - Whatever the server sends, or does not send, ends at most this connection.
 * - At the end of a connection no buffer is in use any more; then outstanding callbacks are told EIO, and
 *   then `onClosed` is called.
 *
 * States: open -> closing (close() waits for answers) -> dying (cut; buffers may still be in use) -> closed.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import { NBD_CLIENT_CLOSE_MS_MAX } from '../../io/limits.ts';
import type { Connection, ConnectionHandler } from '../../io/network.ts';
import { WriteBarriers } from './client-barriers.ts';
import { ChunkReader, type ChunkSink } from './client-chunks.ts';
import type { HandshakeTerms } from './client-handshake.ts';
import { isPreparedCookie, PreparedTracker, type PreparedBatch } from './client-prepared.ts';
import { ReplyReader, type ReplyDecoder } from './client-replies.ts';
import { RequestTable, type RequestCallback, type RequestSlot } from './client-requests.ts';
import { SilenceWatch, type Watched } from './client-silence.ts';
import { NBD_CMD, NBD_ERRNO, type NbdCommand } from '../constants.ts';

type State = 'open' | 'closing' | 'dying' | 'closed';

const UNKNOWN_COOKIE = 'it answered a request that is not outstanding';
const knownErrnos: ReadonlySet<number> = new Set(Object.values(NBD_ERRNO));

export interface LinkOptions {
  readonly clock: Clock;
  /** Milliseconds without a byte while requests are outstanding. */
  readonly replyMs: number;
  /** The other side, for errors. */
  readonly server: string;
  /** What the handshake agreed on. */
  readonly terms: HandshakeTerms;
}

export class ClientLink implements ConnectionHandler, ChunkSink, Watched {
  /** Writes on their way, for flushes of servers that have none. */
  readonly barriers: WriteBarriers = new WriteBarriers();
  private readonly connection: Connection;
  private readonly clock: Clock;
  private readonly replyMs: number;
  private readonly server: string;
  private readonly table: RequestTable;
  private readonly prepared = new PreparedTracker();
  private readonly structured: boolean;
  private readonly reader: ReplyDecoder;
  private readonly watch: SilenceWatch;
  private state: State = 'open';
  /** Buffers handed to the connection and not yet given to the kernel. */
  private sends = 0;
  /** Inside `received`, everything sent is gathered into one system call. */
  private gathering = false;
  /** The READ whose data is coming in. */
  private reading: RequestSlot | null = null;
  private preparedTicket = 0;
  private disconnectSent = false;
  private connectionClosed = false;
  private closeAsked = false;
  private closeTimer: Timer | null = null;
  private readonly closeWaiters: (() => void)[] = [];
  private failure: BlockferryError | null = null;
  private failureTold = false;
  private closedHandler: ((error: BlockferryError) => void) | null = null;

  constructor(connection: Connection, options: LinkOptions) {
    this.connection = connection;
    this.clock = options.clock;
    this.replyMs = options.replyMs;
    this.server = options.server;
    this.table = new RequestTable((slot) => this.slotSent(slot));
    const { structured, allocationContext } = options.terms;
    this.structured = structured;
    this.reader = structured ? new ChunkReader(this, allocationContext) : new ReplyReader(this);
    this.watch = new SilenceWatch(this.clock, this.replyMs, this);
  }

  /** Requests are sent. When not, `refuse` them. */
  get open(): boolean {
    return this.state === 'open';
  }

  get onClosed(): ((error: BlockferryError) => void) | null {
    return this.closedHandler;
  }

  set onClosed(handler: ((error: BlockferryError) => void) | null) {
    this.closedHandler = handler;
    if (handler !== null && this.state === 'closed') this.clock.soon(() => this.tellClosed());
  }

  /** Between `cork` and `uncork`, requests are gathered into one system call. Calls may nest. */
  cork(): void {
    this.connection.cork();
  }

  uncork(): void {
    this.connection.uncork();
  }

  /** Requests on their way, those of a prepared batch included. */
  get inFlight(): number {
    return this.table.inUse + this.prepared.unanswered;
  }

  /** A slot for one request, to be filled and submitted at once. */
  takeSlot(command: NbdCommand, callback: RequestCallback): RequestSlot {
    if (!this.expecting) this.watch.begin();
    return this.table.take(command, callback);
  }

  /** The request is a write that barriers wait for. */
  takeTicket(slot: RequestSlot): void {
    slot.ticket = this.barriers.began();
    slot.ticketed = true;
  }

  /** Sends a request without payload; the caller validated offset and length. */
  submit(slot: RequestSlot, flags: number, offset: number, length: number): void {
    slot.encode(flags, offset, length);
    slot.sends += 1;
    this.sends += 1;
    this.connection.send(slot.header, slot.sent);
  }

  /** Sends a WRITE. The payload is in use until the callback of the slot. */
  submitWrite(slot: RequestSlot, payload: Buffer, offset: number): void {
    if (!this.gathering) this.connection.cork();
    this.submit(slot, 0, offset, payload.length);
    slot.sends += 1;
    this.sends += 1;
    this.connection.send(payload, slot.sent);
    if (!this.gathering) this.connection.uncork();
  }

  /** For requests that come too late. */
  refuse(callback: RequestCallback): void {
    this.clock.soon(() => callback(Status.EIO));
  }

  sendPrepared(batch: PreparedBatch, chunks: readonly Buffer[]): void {
    assert(this.state === 'open' || this.state === 'dying', 'the client was not closed');
    assert(!this.structured, 'prepared requests have simple replies');
    // Its end is about to be told, and that is the answer.
    if (this.state === 'dying') return;
    if (!this.expecting) this.watch.begin();
    this.prepared.begin(batch, chunks);
    this.preparedTicket = this.barriers.began();
    this.sends += chunks.length;
    if (!this.gathering) this.connection.cork();
    for (const chunk of chunks) this.connection.send(chunk, this.preparedSent);
    if (!this.gathering) this.connection.uncork();
  }

  close(): Promise<void> {
    this.closeAsked = true;
    if (this.state === 'closed') return Promise.resolve();
    if (this.state === 'open') {
      this.state = 'closing';
      this.closeTimer = this.clock.after(NBD_CLIENT_CLOSE_MS_MAX, () =>
        this.fail('MIRROR_UNREACHABLE', 'it did not let the connection close'),
      );
      this.disconnectWhenIdle();
    }
    return new Promise((resolve) => {
      this.closeWaiters.push(resolve);
    });
  }

  destroy(): void {
    this.fail('MIRROR_UNREACHABLE', 'the connection was cut by this side');
  }

  // --- Watched ---

  get expecting(): boolean {
    return this.inFlight > 0;
  }

  get blocked(): boolean {
    return this.sends > 0;
  }

  silent(): void {
    this.fail('MIRROR_UNREACHABLE', `no reply for ${this.replyMs / 1000} s`);
  }

  // --- ConnectionHandler ---

  received(buffer: Buffer, length: number): void {
    if (this.state === 'dying' || this.state === 'closed') return;
    this.watch.heard();
    this.gathering = true;
    this.connection.cork();
    try {
      this.reader.received(buffer, length);
    } finally {
      this.gathering = false;
      this.connection.uncork();
    }
  }

  drained(): void {}

  ended(): void {
    if (!this.disconnectSent) this.fail('MIRROR_UNREACHABLE', 'the server closed the connection');
  }

  closed(error: Error | null): void {
    this.connectionClosed = true;
    if (!this.disconnectSent) {
      const why = error === null ? '' : ` (${errorText(error)})`;
      this.fail('MIRROR_UNREACHABLE', `the connection was lost${why}`);
    }
    this.finishWhenFree();
  }

  // --- ReplySink ---

  reply(cookieHigh: number, cookieLow: number, errno: number): void {
    const known = errno === 0 || knownErrnos.has(errno) ? errno : Status.EINVAL;
    if (isPreparedCookie(cookieHigh)) {
      if (!this.prepared.reply(cookieHigh, cookieLow, known)) return this.broken(UNKNOWN_COOKIE);
      return this.preparedProgress();
    }
    const slot = this.table.find(cookieHigh, cookieLow);
    if (slot === null) return this.broken(UNKNOWN_COOKIE);
    slot.errno = known;
    if (slot.command === NBD_CMD.READ && known === 0) {
      this.reading = slot;
      return this.reader.expectData(slot.buffer, slot.start, slot.length);
    }
    slot.answered = true;
    return this.slotProgress(slot);
  }

  dataEnded(): void {
    const slot = this.reading;
    assert(slot !== null, 'data belongs to a read');
    this.reading = null;
    slot.answered = true;
    this.slotProgress(slot);
  }

  // --- ChunkSink ---

  outstanding(cookieHigh: number, cookieLow: number): RequestSlot | null {
    return this.table.find(cookieHigh, cookieLow);
  }

  failed(slot: RequestSlot, errno: number): void {
    if (slot.errno === 0)
      slot.errno = knownErrnos.has(errno) && errno !== 0 ? errno : Status.EINVAL;
  }

  chunksEnded(slot: RequestSlot): void {
    slot.answered = true;
    this.slotProgress(slot);
  }

  broken(why: string): void {
    this.fail('PROTOCOL', why);
  }

  // --- requests ---

  private slotSent(slot: RequestSlot): void {
    slot.sends -= 1;
    this.sends -= 1;
    this.watch.sent();
    if (slot.answered) this.slotProgress(slot);
    this.finishWhenFree();
  }

  /** The slot was answered; it is complete when its buffers are free too. */
  private slotProgress(slot: RequestSlot): void {
    assert(slot.answered, 'only an answer completes a request');
    if (slot.sends > 0 || this.state === 'dying') return;
    this.complete(slot, slot.errno);
    this.disconnectWhenIdle();
  }

  private complete(slot: RequestSlot, errno: number): void {
    const { callback, ticket, ticketed } = slot;
    this.table.release(slot);
    callback(errno);
    if (ticketed) this.barriers.ended(ticket);
  }

  private readonly preparedSent = (): void => {
    this.sends -= 1;
    this.prepared.sent();
    this.watch.sent();
    this.preparedProgress();
    this.finishWhenFree();
  };

  private preparedProgress(): void {
    if (this.state === 'dying') return;
    const done = this.prepared.takeDone();
    if (done === null) return;
    this.barriers.ended(this.preparedTicket);
    done.done();
    this.disconnectWhenIdle();
  }

  // --- the end ---

  private disconnectWhenIdle(): void {
    if (this.state !== 'closing' || this.disconnectSent) return;
    if (this.expecting || this.prepared.busy) return;
    this.disconnectSent = true;
    const slot = this.takeSlot(NBD_CMD.DISC, () => {});
    this.submit(slot, 0, 0, 0);
    this.connection.end();
  }

  private fail(code: 'MIRROR_UNREACHABLE' | 'PROTOCOL', why: string): void {
    if (this.state === 'dying' || this.state === 'closed') return;
    this.failure = new BlockferryError(code, `${this.server}: ${why}`);
    this.state = 'dying';
    this.reader.stop();
    this.watch.stop();
    if (!this.connectionClosed) this.connection.destroy();
    this.finishWhenFree();
  }

  private finishWhenFree(): void {
    if (!this.connectionClosed || this.sends > 0 || this.state === 'closed') return;
    this.state = 'closed';
    this.reader.stop();
    this.watch.stop();
    this.closeTimer?.cancel();
    this.prepared.abandon();
    // First the barriers: the end of a write by the end of the connection must not let one pass.
    this.barriers.abandon(Status.EIO);
    for (const slot of this.table.busy()) this.complete(slot, Status.EIO);
    this.tellClosed();
    for (const waiter of this.closeWaiters) waiter();
  }

  private tellClosed(): void {
    if (this.closeAsked || this.failureTold || this.closedHandler === null) return;
    assert(this.failure !== null, 'a connection ends for a reason');
    this.failureTold = true;
    this.closedHandler(this.failure);
  }
}
