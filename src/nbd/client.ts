/**
 * An NBD client: one connection to one export, simple replies, many requests on their way.
 *
 * Invariants:
 * - Each callback is called once, and never from inside the call that it was given to.
 * - A buffer is in use until its callback, and is not touched after it.
 * - Whatever the server sends, or does not send, ends at most this connection.
 * - At the end of a connection no buffer is in use any more; then outstanding callbacks are told EIO, and
 *   then `onClosed` is called.
 *
 * States: open -> closing (close() waits for answers) -> dying (cut; buffers may still be in use) -> closed.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../io/clock.ts';
import { Status } from '../io/device.ts';
import { BlockferryError, errorText } from '../io/errors.ts';
import {
  MIRROR_CONNECT_MS_MAX,
  MIRROR_REPLY_MS_MAX,
  NBD_CLIENT_CLOSE_MS_MAX,
  NBD_CLIENT_REQUESTS_MAX,
  NBD_CLIENT_ZERO_PIECE_BYTES,
} from '../io/limits.ts';
import type { Connection, ConnectionHandler, Network } from '../io/network.ts';
import { WriteBarriers } from './client-barriers.ts';
import type { ExportInfo } from './client-export-info.ts';
import { openExport } from './client-opening.ts';
import { Pieces } from './client-pieces.ts';
import { isPreparedCookie, PreparedTracker, type PreparedBatch } from './client-prepared.ts';
import { ReplyReader, type ReplySink } from './client-replies.ts';
import { RequestTable, type RequestCallback, type RequestSlot } from './client-requests.ts';
import { SilenceWatch, type Watched } from './client-silence.ts';
import { NBD_BLOCK_SIZE, NBD_CMD, NBD_CMD_FLAG, NBD_ERRNO, type NbdCommand } from './constants.ts';
import type { NbdUri } from './uri.ts';

export type { ExportInfo } from './client-export-info.ts';
export type { RequestCallback } from './client-requests.ts';

export interface NbdClientOptions {
  readonly network: Network;
  readonly clock: Clock;
  /** Milliseconds for connecting and handshake together; MIRROR_CONNECT_MS_MAX if not given. */
  readonly connectMs?: number;
  /** Milliseconds without a byte while requests are outstanding; MIRROR_REPLY_MS_MAX if not given. */
  readonly replyMs?: number;
}

type State = 'open' | 'closing' | 'dying' | 'closed';

/** Largest WRITE_ZEROES: fits 32 bits and is a multiple of every legal minimum block. */
const ZERO_BYTES_MAX = 2 ** 32 - NBD_BLOCK_SIZE.MINIMUM_MAX;
/** Pieces beyond the first leave half of the table to others. */
const PIECES_ROOM = NBD_CLIENT_REQUESTS_MAX / 2;

const zeroes: Buffer = Buffer.alloc(NBD_CLIENT_ZERO_PIECE_BYTES);
const knownErrnos: ReadonlySet<number> = new Set(Object.values(NBD_ERRNO));

export class NbdClient implements ConnectionHandler, ReplySink, Watched {
  readonly uri: NbdUri;
  readonly info: ExportInfo;
  private readonly connection: Connection;
  private readonly clock: Clock;
  private readonly replyMs: number;
  private readonly table: RequestTable;
  private readonly prepared = new PreparedTracker();
  private readonly barriers = new WriteBarriers();
  private readonly reader: ReplyReader;
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

  private constructor(
    uri: NbdUri,
    connection: Connection,
    info: ExportInfo,
    options: NbdClientOptions,
  ) {
    this.uri = uri;
    this.info = info;
    this.connection = connection;
    this.clock = options.clock;
    this.replyMs = options.replyMs ?? MIRROR_REPLY_MS_MAX;
    this.table = new RequestTable((slot) => this.slotSent(slot));
    this.reader = new ReplyReader(this);
    this.watch = new SilenceWatch(this.clock, this.replyMs, this);
  }

  /**
   * Opens the export.
   * @throws BlockferryError MIRROR_UNREACHABLE: no connection, or no answer in time. MIRROR_REFUSED: the
   *   server said no, in its words. PROTOCOL: it does not keep to the protocol.
   */
  static connect(uri: NbdUri, options: NbdClientOptions): Promise<NbdClient> {
    const { network, clock, connectMs = MIRROR_CONNECT_MS_MAX } = options;
    return openExport(
      uri,
      { network, clock, connectMs },
      (connection, info) => new NbdClient(uri, connection, info, options),
    );
  }

  /**
   * Called once when the connection is over for any reason but `close()`, with that reason: after all
   * callbacks, and when no buffer is in use any more. If that happened before it was set, it is
   * called soon after.
   */
  get onClosed(): ((error: BlockferryError) => void) | null {
    return this.closedHandler;
  }

  set onClosed(handler: ((error: BlockferryError) => void) | null) {
    this.closedHandler = handler;
    if (handler !== null && this.state === 'closed') this.clock.soon(() => this.tellClosed());
  }

  /** Requests on their way, those of a prepared batch included. */
  get inFlight(): number {
    return this.table.inUse + this.prepared.unanswered;
  }

  /** Reads `[offset .. offset + length)` into `buffer[start .. start + length)`. */
  read(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: RequestCallback,
  ): void {
    this.checkRange(offset, length);
    assert(start >= 0 && start + length <= buffer.length, 'the data fits');
    if (this.state !== 'open') return this.refuse(callback);
    if (length <= this.info.maximumPayload)
      return this.sendRead(buffer, start, length, offset, callback);
    return Pieces.start({
      length,
      pieceBytes: this.info.maximumPayload,
      issue: (from, bytes, ended) =>
        this.sendRead(buffer, start + from, bytes, offset + from, ended),
      roomForMore: () => this.inFlight < PIECES_ROOM,
      callback,
    });
  }

  /** Writes `buffer[start .. start + length)` at `offset`. The buffer is in use until the callback. */
  write(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: RequestCallback,
  ): void {
    this.checkRange(offset, length);
    assert(start >= 0 && start + length <= buffer.length, 'the data is there');
    if (this.state !== 'open') return this.refuse(callback);
    if (length <= this.info.maximumPayload) {
      const slot = this.takeSlot(NBD_CMD.WRITE, callback);
      this.takeTicket(slot);
      return this.sendWrite(slot, buffer, start, length, offset);
    }
    return this.startWritePieces(length, this.info.maximumPayload, callback, (from, bytes, ended) =>
      this.sendWrite(
        this.takeSlot(NBD_CMD.WRITE, ended),
        buffer,
        start + from,
        bytes,
        offset + from,
      ),
    );
  }

  /**
   * Makes the range read as zeroes; `noHole`: with its space allocated. Of any length: it is split, and
   * without WRITE_ZEROES on the server, zeroes are written.
   */
  zero(
    offset: number,
    length: number,
    options: { readonly noHole: boolean },
    callback: RequestCallback,
  ): void {
    this.checkRange(offset, length);
    if (this.state !== 'open') return this.refuse(callback);
    if (!this.info.canWriteZeroes) return this.zeroByWriting(offset, length, callback);
    const flags = options.noHole ? NBD_CMD_FLAG.NO_HOLE : 0;
    if (length <= ZERO_BYTES_MAX) {
      const slot = this.takeSlot(NBD_CMD.WRITE_ZEROES, callback);
      this.takeTicket(slot);
      return this.submit(slot, flags, offset, length);
    }
    return this.startWritePieces(length, ZERO_BYTES_MAX, callback, (from, bytes, ended) =>
      this.submit(this.takeSlot(NBD_CMD.WRITE_ZEROES, ended), flags, offset + from, bytes),
    );
  }

  /**
   * Makes durable what was answered before this call; await those callbacks first. A server without
   * FLUSH writes through: then it is done when all that was sent before was answered.
   */
  flush(callback: RequestCallback): void {
    if (this.state !== 'open') return this.refuse(callback);
    if (this.info.canFlush) return this.submit(this.takeSlot(NBD_CMD.FLUSH, callback), 0, 0, 0);
    assert(this.barriers.waiting < NBD_CLIENT_REQUESTS_MAX, 'the caller bounds its requests');
    if (this.barriers.raise(callback)) this.clock.soon(() => callback(Status.OK));
    return undefined;
  }

  /**
   * Sends requests laid out by `encodeWriteHeader` as they are. One batch at a time. `chunks` are in use
   * until `done`, or until `onClosed`.
   */
  sendPrepared(batch: PreparedBatch, chunks: readonly Buffer[]): void {
    assert(this.state === 'open' || this.state === 'dying', 'the client was not closed');
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

  /**
   * Waits until outstanding requests were answered, takes leave of the server and closes. Bounded by
   * NBD_CLIENT_CLOSE_MS_MAX; what is unanswered then is told EIO. Resolves when no buffer is in use
   * any more. `onClosed` is not called after this.
   */
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

  /** Cuts the connection at once. `onClosed` tells when it is over. */
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

  broken(why: string): void {
    this.fail('PROTOCOL', why);
  }

  // --- requests ---

  private sendRead(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: RequestCallback,
  ): void {
    const slot = this.takeSlot(NBD_CMD.READ, callback);
    slot.buffer = buffer;
    slot.start = start;
    slot.length = length;
    this.submit(slot, 0, offset, length);
  }

  private sendWrite(
    slot: RequestSlot,
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
  ): void {
    const whole = start === 0 && length === buffer.length;
    const payload = whole ? buffer : buffer.subarray(start, start + length);
    if (!this.gathering) this.connection.cork();
    this.submit(slot, 0, offset, length);
    slot.sends += 1;
    this.sends += 1;
    this.connection.send(payload, slot.sent);
    if (!this.gathering) this.connection.uncork();
  }

  private startWritePieces(
    length: number,
    pieceBytes: number,
    callback: RequestCallback,
    issue: (from: number, length: number, ended: RequestCallback) => void,
  ): void {
    const ticket = this.barriers.began();
    Pieces.start({
      length,
      pieceBytes,
      issue,
      roomForMore: () => this.inFlight < PIECES_ROOM,
      callback: (errno) => {
        this.barriers.ended(ticket);
        callback(errno);
      },
    });
  }

  private zeroByWriting(offset: number, length: number, callback: RequestCallback): void {
    const pieceBytes = Math.min(zeroes.length, this.info.maximumPayload);
    this.startWritePieces(length, pieceBytes, callback, (from, bytes, ended) =>
      this.sendWrite(this.takeSlot(NBD_CMD.WRITE, ended), zeroes, 0, bytes, offset + from),
    );
  }

  private takeSlot(command: NbdCommand, callback: RequestCallback): RequestSlot {
    if (!this.expecting) this.watch.begin();
    return this.table.take(command, callback);
  }

  private takeTicket(slot: RequestSlot): void {
    slot.ticket = this.barriers.began();
    slot.ticketed = true;
  }

  private submit(slot: RequestSlot, flags: number, offset: number, length: number): void {
    slot.encode(flags, offset, length);
    slot.sends += 1;
    this.sends += 1;
    this.connection.send(slot.header, slot.sent);
  }

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
    if (ticketed) this.barriers.ended(ticket);
    callback(errno);
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

  private refuse(callback: RequestCallback): void {
    this.clock.soon(() => callback(Status.EIO));
  }

  private checkRange(offset: number, length: number): void {
    assert(Number.isSafeInteger(offset) && offset >= 0, 'offset is a byte offset');
    assert(Number.isSafeInteger(length) && length > 0, 'length is a byte count');
    assert(offset + length <= this.info.sizeBytes, 'the range lies in the export');
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
    this.failure = new BlockferryError(code, `${this.uri.text}: ${why}`);
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

const UNKNOWN_COOKIE = 'it answered a request that is not outstanding';
