/**
 * An NBD client: one connection to one export, many requests on their way. Replies are simple, or come in
 * chunks when it was asked to tell what is allocated.
 *
 * Invariants:
 * - Each callback is called once, and never from inside the call that it was given to.
 * - A buffer is in use until its callback, and is not touched after it.
 * - No request is larger than the server said it takes: larger ones go in pieces.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import type { BlockferryError } from '../../io/errors.ts';
import {
  MIRROR_CONNECT_MS_MAX,
  MIRROR_REPLY_MS_MAX,
  NBD_CLIENT_REQUESTS_MAX,
  NBD_CLIENT_ZERO_PIECE_BYTES,
} from '../../io/limits.ts';
import type { ConnectionHandler, Network, TlsClientContext } from '../../io/network.ts';
import type { ExportInfo } from './client-export-info.ts';
import { ClientLink } from './client-link.ts';
import {
  open,
  openExport,
  type ExportSuccessor,
  type OpenedExport,
  type OpeningOptions,
  type PrivateWish,
} from './client-opening.ts';
import { Pieces } from './client-pieces.ts';
import type { PreparedBatch } from './client-prepared.ts';
import type { ExtentReport, RequestCallback, RequestSlot } from './client-requests.ts';
import { NBD_BLOCK_SIZE, NBD_CMD, NBD_CMD_FLAG } from '../constants.ts';
import type { NbdUri } from '../uri/uri.ts';

export type { ExportInfo } from './client-export-info.ts';
export type { PrivateWish } from './client-opening.ts';
export type { ExtentReport, RequestCallback } from './client-requests.ts';

export interface NbdClientOptions {
  readonly network: Network;
  readonly clock: Clock;
  /** Milliseconds for connecting and handshake together; MIRROR_CONNECT_MS_MAX if not given. */
  readonly connectMs?: number;
  /** Milliseconds without a byte while requests are outstanding; MIRROR_REPLY_MS_MAX if not given. */
  readonly replyMs?: number;
  /** Ask the server what tells data from holes; see `knowsAllocation`. No prepared batches then. */
  readonly allocation?: boolean;
  /** For URIs with TLS that name no files of their own; without it servers are verified by the authorities that Node trusts. */
  readonly tls?: TlsClientContext | undefined;
}

/** Largest WRITE_ZEROES or BLOCK_STATUS: fits 32 bits and is a multiple of every legal minimum block. */
const EFFECT_BYTES_MAX = 2 ** 32 - NBD_BLOCK_SIZE.MINIMUM_MAX;
/** Pieces beyond the first leave half of the table to others. */
const PIECES_ROOM = NBD_CLIENT_REQUESTS_MAX / 2;

const zeroes: Buffer = Buffer.alloc(NBD_CLIENT_ZERO_PIECE_BYTES);

export class NbdClient {
  readonly uri: NbdUri;
  readonly info: ExportInfo;
  private readonly link: ClientLink;
  private readonly clock: Clock;
  /** The server tells data from holes (base:allocation): `allocation` may be called. */
  readonly knowsAllocation: boolean;

  private constructor(uri: NbdUri, opened: OpenedExport<ClientLink>, clock: Clock) {
    const { info, next: link, terms } = opened;
    this.uri = uri;
    this.info = info;
    this.knowsAllocation = terms.allocationContext !== null;
    this.link = link;
    this.clock = clock;
  }

  /**
   * Opens the export.
   * @throws BlockferryError MIRROR_UNREACHABLE: no connection, or no answer in time. MIRROR_REFUSED: the
   *   server said no, in its words. MIRROR_TLS: one side does not trust the other. TLS_INVALID: the files for TLS cannot be
   *   used. PROTOCOL: it does not keep to the protocol.
   */
  static async connect(uri: NbdUri, options: NbdClientOptions): Promise<NbdClient> {
    const opened = await openExport(uri, openingOf(options), linkOf(uri, options));
    return new NbdClient(uri, opened, options.clock);
  }

  /**
   * Asks to talk otherwise first; a server that knows nothing of that is used as any, on the same connection, unless `wish`
   * says that it must.
   * @throws BlockferryError as `connect`, what `wish.accepted` throws, and PEER_REFUSED: it knows of it and says no
   */
  static async connectOr<P extends ConnectionHandler>(
    uri: NbdUri,
    options: NbdClientOptions,
    wish: PrivateWish<P>,
  ): Promise<
    | { readonly kind: 'private'; readonly next: P }
    | { readonly kind: 'client'; readonly client: NbdClient }
  > {
    const ofExport = linkOf(uri, options);
    const opened = await open(uri, openingOf(options), { ofExport, privately: wish });
    if (opened.kind === 'private') return opened;
    return { kind: 'client', client: new NbdClient(uri, opened, options.clock) };
  }

  /**
   * Called once when the connection is over for any reason but `close()`, with that reason: after all
   * callbacks, and when no buffer is in use any more. If that happened before it was set, it is
   * called soon after.
   */
  get onClosed(): ((error: BlockferryError) => void) | null {
    return this.link.onClosed;
  }

  set onClosed(handler: ((error: BlockferryError) => void) | null) {
    this.link.onClosed = handler;
  }

  /** Requests are sent. After `close`, `destroy` or a loss they are answered with EIO. */
  get open(): boolean {
    return this.link.open;
  }

  /** Between `cork` and `uncork`, requests are gathered into one system call. Calls may nest. */
  cork(): void {
    this.link.cork();
  }

  uncork(): void {
    this.link.uncork();
  }

  /** Requests on their way, those of a prepared batch included. */
  get inFlight(): number {
    return this.link.inFlight;
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
    if (!this.link.open) return this.link.refuse(callback);
    if (length <= this.info.maximumPayload) {
      return this.sendRead(buffer, start, length, offset, callback);
    }
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
    if (!this.link.open) return this.link.refuse(callback);
    if (length <= this.info.maximumPayload) {
      const slot = this.link.takeSlot(NBD_CMD.WRITE, callback);
      this.link.takeTicket(slot);
      return this.sendWrite(slot, buffer, start, length, offset);
    }
    const pieceBytes = this.info.maximumPayload;
    return this.startWritePieces(length, pieceBytes, callback, (from, bytes, ended) => {
      const slot = this.link.takeSlot(NBD_CMD.WRITE, ended);
      this.sendWrite(slot, buffer, start + from, bytes, offset + from);
    });
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
    if (!this.link.open) return this.link.refuse(callback);
    if (!this.info.canWriteZeroes) return this.zeroByWriting(offset, length, callback);
    const flags = options.noHole ? NBD_CMD_FLAG.NO_HOLE : 0;
    if (length <= EFFECT_BYTES_MAX) {
      const slot = this.link.takeSlot(NBD_CMD.WRITE_ZEROES, callback);
      this.link.takeTicket(slot);
      return this.link.submit(slot, flags, offset, length);
    }
    return this.startWritePieces(length, EFFECT_BYTES_MAX, callback, (from, bytes, ended) => {
      const slot = this.link.takeSlot(NBD_CMD.WRITE_ZEROES, ended);
      this.link.submit(slot, flags, offset + from, bytes);
    });
  }

  /**
   * Tells of extents from `offset` on, in order and without gaps, with the bits of NBD_STATE; how far they
   * reach is the server's choice: less than asked, or past it. At least one, unless the callback tells an
   * error.
   */
  allocation(
    offset: number,
    length: number,
    report: ExtentReport,
    callback: RequestCallback,
  ): void {
    this.checkRange(offset, length);
    assert(this.knowsAllocation, 'the server was asked first');
    if (!this.link.open) return this.link.refuse(callback);
    const slot = this.link.takeSlot(NBD_CMD.BLOCK_STATUS, callback);
    slot.report = report;
    slot.length = Math.min(length, EFFECT_BYTES_MAX);
    return this.link.submit(slot, 0, offset, slot.length);
  }

  /**
   * Makes durable what was answered before this call; await those callbacks first. A server without
   * FLUSH writes through: then it is done when all that was sent before was answered.
   */
  flush(callback: RequestCallback): void {
    if (!this.link.open) return this.link.refuse(callback);
    if (this.info.canFlush) {
      return this.link.submit(this.link.takeSlot(NBD_CMD.FLUSH, callback), 0, 0, 0);
    }
    assert(this.link.barriers.waiting < NBD_CLIENT_REQUESTS_MAX, 'the caller bounds its requests');
    if (this.link.barriers.raise(callback)) this.clock.soon(() => callback(Status.OK));
    return undefined;
  }

  /**
   * Sends requests laid out by `encodeWriteHeader` as they are. One batch at a time. `chunks` are in use
   * until `done`, or until `onClosed`.
   */
  sendPrepared(batch: PreparedBatch, chunks: readonly Buffer[]): void {
    this.link.sendPrepared(batch, chunks);
  }

  /**
   * Waits until outstanding requests were answered, takes leave of the server and closes. Bounded by
   * NBD_CLIENT_CLOSE_MS_MAX; what is unanswered then is told EIO. Resolves when no buffer is in use
   * any more. `onClosed` is not called after this.
   */
  close(): Promise<void> {
    return this.link.close();
  }

  /** Cuts the connection at once. `onClosed` tells when it is over. */
  destroy(): void {
    this.link.destroy();
  }

  private sendRead(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: RequestCallback,
  ): void {
    const slot = this.link.takeSlot(NBD_CMD.READ, callback);
    slot.buffer = buffer;
    slot.start = start;
    slot.length = length;
    this.link.submit(slot, 0, offset, length);
  }

  private sendWrite(
    slot: RequestSlot,
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
  ): void {
    const whole = start === 0 && length === buffer.length;
    this.link.submitWrite(slot, whole ? buffer : buffer.subarray(start, start + length), offset);
  }

  private startWritePieces(
    length: number,
    pieceBytes: number,
    callback: RequestCallback,
    issue: (from: number, length: number, ended: RequestCallback) => void,
  ): void {
    const ticket = this.link.barriers.began();
    Pieces.start({
      length,
      pieceBytes,
      issue,
      roomForMore: () => this.inFlight < PIECES_ROOM,
      callback: (errno) => {
        callback(errno);
        this.link.barriers.ended(ticket);
      },
    });
  }

  private zeroByWriting(offset: number, length: number, callback: RequestCallback): void {
    const pieceBytes = Math.min(zeroes.length, this.info.maximumPayload);
    this.startWritePieces(length, pieceBytes, callback, (from, bytes, ended) => {
      const slot = this.link.takeSlot(NBD_CMD.WRITE, ended);
      this.sendWrite(slot, zeroes, 0, bytes, offset + from);
    });
  }

  private checkRange(offset: number, length: number): void {
    assert(Number.isSafeInteger(offset) && offset >= 0, 'offset is a byte offset');
    assert(Number.isSafeInteger(length) && length > 0, 'length is a byte count');
    assert(offset + length <= this.info.sizeBytes, 'the range lies in the export');
  }
}

function openingOf(options: NbdClientOptions): OpeningOptions {
  const { network, clock, connectMs = MIRROR_CONNECT_MS_MAX, allocation = false, tls } = options;
  return { network, clock, connectMs, allocation, tls };
}

function linkOf(uri: NbdUri, options: NbdClientOptions): ExportSuccessor<ClientLink> {
  const { clock, replyMs = MIRROR_REPLY_MS_MAX } = options;
  return (connection, terms) =>
    new ClientLink(connection, { clock, replyMs, server: uri.text, terms });
}
