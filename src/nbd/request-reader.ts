/**
 * Bytes to judged requests.
 *
 * Invariants:
 * - The split of the bytes into calls does not matter.
 * - A WRITE is passed on only when its whole payload is there: in place if it is whole in the caller's
 *   buffer, else in memory of its own. The payload of a refused WRITE is skipped, never stored.
 * - It stops at the beginning of a request only, when the sink is not ready, or for good.
 */
import assert from 'node:assert';
import {
  NBD_CMD,
  NBD_CMD_FLAG,
  NBD_ERRNO,
  NBD_REQUEST_BYTES,
  NBD_REQUEST_MAGIC,
  type NbdErrno,
} from './constants.ts';
import type { NbdRequest } from './nbd-request.ts';
import { decodeRequestHeader, type RequestHeader } from './request-header.ts';
import type { ServerShared } from './server-shared.ts';
import { NBD_DRAIN_BYTES_MAX, payloadBytesOf } from './validate.ts';

/** What the next bytes are. `nothing`: no byte is looked at any more. */
type Expecting = 'header' | 'payload' | 'refused-payload' | 'nothing';

export interface RequestSink {
  /** Whether one more request may begin now. */
  ready(): boolean;
  /** Validation: OK lets the request through; its payload may not be here yet. */
  judge(header: RequestHeader): NbdErrno;
  /** Handles a judged request. Bytes that it does not own are valid during this call. */
  handle(request: NbdRequest): void;
  /** Answers a request that has nothing to do for the device; its payload was skipped. */
  answer(error: NbdErrno, cookieHigh: number, cookieLow: number): void;
  /** No more requests: DISC, or bytes that are none (`fault`). The reader was stopped. */
  over(reason: string, fault: boolean): void;
}

export class RequestReader {
  private readonly shared: ServerShared;
  private readonly sink: RequestSink;
  private expecting: Expecting = 'header';
  /** A header that came in pieces. */
  private readonly head = Buffer.alloc(NBD_REQUEST_BYTES);
  private readonly headView = new DataView(this.head.buffer, this.head.byteOffset);
  private headLength = 0;
  /** The WRITE whose payload is coming, and how much of it is here. */
  private filling: NbdRequest | null = null;
  private filled = 0;
  /** The refused WRITE whose payload is being skipped. */
  private refusedBytes = 0;
  private refusedError: NbdErrno = NBD_ERRNO.OK;
  private refusedCookieHigh = 0;
  private refusedCookieLow = 0;

  constructor(shared: ServerShared, sink: RequestSink) {
    this.shared = shared;
    this.sink = sink;
  }

  /** Memory held for a payload that is coming, in bytes. */
  get heldBytes(): number {
    return this.filling?.owned?.capacity ?? 0;
  }

  /** The beginning of a header whose end has not come. */
  get partialHeader(): Buffer {
    return this.head.subarray(0, this.headLength);
  }

  /** Whether the next byte belongs to a header. */
  get atHeader(): boolean {
    return this.expecting === 'header';
  }

  /** Takes `bytes[start .. end)`; `view` is the same memory. Returns where it stopped. */
  read(bytes: Buffer, view: DataView, start: number, end: number): number {
    let at = start;
    while (at < end) {
      switch (this.expecting) {
        case 'header':
          if (!this.sink.ready()) return at;
          at = this.takeHeader(bytes, view, at, end);
          break;
        case 'payload':
          at = this.takePayload(bytes, at, end);
          break;
        case 'refused-payload':
          at = this.skipPayload(at, end);
          break;
        case 'nothing':
          return end;
      }
    }
    return at;
  }

  /** Looks at no further byte; a WRITE that is not whole is forgotten. */
  stop(): void {
    this.expecting = 'nothing';
    this.headLength = 0;
    if (this.filling !== null) this.shared.requests.give(this.filling);
    this.filling = null;
  }

  private takeHeader(bytes: Buffer, view: DataView, at: number, end: number): number {
    if (this.headLength === 0 && end - at >= NBD_REQUEST_BYTES) {
      decodeRequestHeader(view, at, this.shared.header);
      return this.takeRequest(bytes, at + NBD_REQUEST_BYTES, end);
    }
    const count = Math.min(NBD_REQUEST_BYTES - this.headLength, end - at);
    bytes.copy(this.head, this.headLength, at, at + count);
    this.headLength += count;
    if (this.headLength < NBD_REQUEST_BYTES) return end;
    this.headLength = 0;
    decodeRequestHeader(this.headView, 0, this.shared.header);
    return this.takeRequest(bytes, at + count, end);
  }

  /** The header is in `shared.header`; what follows it begins at `at`. Returns where to go on. */
  private takeRequest(bytes: Buffer, at: number, end: number): number {
    const { header } = this.shared;
    const payloadBytes = payloadBytesOf(header);
    if (header.magic !== NBD_REQUEST_MAGIC) {
      return this.leave(`wrong request magic 0x${header.magic.toString(16)}`, true, end);
    }
    if (header.command === NBD_CMD.DISC) return this.leave('client disconnected', false, end);
    if (payloadBytes > NBD_DRAIN_BYTES_MAX) {
      return this.leave(`NBD_CMD_WRITE of ${payloadBytes} bytes`, true, end);
    }
    const error = this.sink.judge(header);
    const toDevice = header.length > 0 || header.command === NBD_CMD.FLUSH;
    if (error !== NBD_ERRNO.OK || !toDevice) return this.refuse(error, payloadBytes, at, end);
    const request = this.newRequest();
    if (payloadBytes > end - at) {
      request.own();
      this.filling = request;
      this.filled = 0;
      this.expecting = 'payload';
      return at;
    }
    if (payloadBytes > 0) request.place(bytes, at);
    this.sink.handle(request);
    return at + payloadBytes;
  }

  private leave(reason: string, fault: boolean, end: number): number {
    this.stop();
    this.sink.over(reason, fault);
    return end;
  }

  private newRequest(): NbdRequest {
    const { header } = this.shared;
    const { command } = header;
    const request = this.shared.requests.take();
    const hasData = command === NBD_CMD.READ || command === NBD_CMD.WRITE;
    request.state = 'filling';
    request.command = command;
    request.cookieHigh = header.cookieHigh;
    request.cookieLow = header.cookieLow;
    request.offset = header.offset;
    request.length = header.length;
    request.bytes = hasData ? header.length : 0;
    // FUA asks nothing of reads and flushes (protocol section 1.7).
    const changes = command !== NBD_CMD.READ && command !== NBD_CMD.FLUSH;
    request.fua = changes && (header.flags & NBD_CMD_FLAG.FUA) !== 0;
    request.noHole = (header.flags & NBD_CMD_FLAG.NO_HOLE) !== 0;
    return request;
  }

  private takePayload(bytes: Buffer, at: number, end: number): number {
    const request = this.filling;
    assert(request !== null);
    const count = Math.min(request.bytes - this.filled, end - at);
    bytes.copy(request.buffer, request.base + this.filled, at, at + count);
    this.filled += count;
    if (this.filled === request.bytes) {
      this.expecting = 'header';
      this.filling = null;
      this.sink.handle(request);
    }
    return at + count;
  }

  private refuse(error: NbdErrno, payloadBytes: number, at: number, end: number): number {
    const { cookieHigh, cookieLow } = this.shared.header;
    if (payloadBytes <= end - at) {
      this.sink.answer(error, cookieHigh, cookieLow);
      return at + payloadBytes;
    }
    this.refusedBytes = payloadBytes;
    this.refusedError = error;
    this.refusedCookieHigh = cookieHigh;
    this.refusedCookieLow = cookieLow;
    this.expecting = 'refused-payload';
    return at;
  }

  private skipPayload(at: number, end: number): number {
    const count = Math.min(this.refusedBytes, end - at);
    this.refusedBytes -= count;
    if (this.refusedBytes === 0) {
      this.expecting = 'header';
      this.sink.answer(this.refusedError, this.refusedCookieHigh, this.refusedCookieLow);
    }
    return at + count;
  }
}
