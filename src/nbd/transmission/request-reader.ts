/**
 * Bytes to judged requests.
 *
 * Invariants:
 * - The split of the bytes into calls does not matter.
 * - A request is passed on only when its whole payload is there: in place if it is whole in the caller's
 *   buffer, else in memory of its own. The payload of a refused request is skipped, never stored.
 * - It stops at the beginning of a request only, when the sink is not ready, or for good.
 */
import assert from 'node:assert';
import { NBD_CMD, NBD_CMD_FLAG, nameOfCommand } from '../constants.ts';
import { NBD_LANDING_BYTES_MIN } from '../../io/limits.ts';
import type { NbdRequest } from './nbd-request.ts';
import type { Refusal } from './refusals.ts';
import {
  decodeRequestHeader,
  newRequestHeader,
  payloadBytesOf,
  type RequestForm,
  type RequestHeader,
} from './request-header.ts';
import type { ServerShared } from '../server/server-shared.ts';
import { drainBytesMax } from './validate.ts';

/** What the next bytes are. `nothing`: no byte is looked at any more. */
type Expecting = 'header' | 'payload' | 'skipped-payload' | 'nothing';

export interface RequestSink {
  /** Whether one more request may begin now. */
  ready(): boolean;
  /** Validation: null lets the request through; its payload may not be here yet. */
  judge(header: RequestHeader): Refusal | null;
  /** Handles a judged request. Bytes that it does not own are valid during this call. */
  handle(request: NbdRequest): void;
  /** Answers a request that has nothing to do for the device (null: success); its payload was skipped. */
  answer(refusal: Refusal | null, header: RequestHeader): void;
  /** No more requests: DISC, or bytes that are none (`fault`). The reader was stopped. */
  over(reason: string, fault: boolean): void;
}

export class RequestReader {
  readonly form: RequestForm;
  private readonly shared: ServerShared;
  private readonly sink: RequestSink;
  private readonly payloadMax: number;
  private expecting: Expecting = 'header';
  /** A header that came in pieces. */
  private readonly head: Buffer;
  private readonly headView: DataView;
  private headLength = 0;
  /** The request whose payload is coming, and how much of it is here. */
  private filling: NbdRequest | null = null;
  private filled = 0;
  /** Where the rest of a large payload was told to land: a part of `filling`'s memory. */
  private landingBuffer: Buffer | null = null;
  /** A request that was given up while its payload could still land in its memory. */
  private abandoned: NbdRequest | null = null;
  /** The last request had a large payload, so the next one may have too: its header is read by itself. */
  private expectsLarge = false;
  private readonly lone: Buffer;
  private readonly loneView: DataView;
  /** The request with nothing to do whose payload is being skipped, how much is to come, and its answer. */
  private readonly skipped: RequestHeader = newRequestHeader();
  private skipBytes = 0;
  private refusal: Refusal | null = null;

  constructor(shared: ServerShared, form: RequestForm, sink: RequestSink) {
    this.shared = shared;
    this.form = form;
    this.sink = sink;
    this.payloadMax = drainBytesMax(form);
    this.head = Buffer.alloc(form.bytes);
    this.headView = new DataView(this.head.buffer, this.head.byteOffset);
    this.lone = Buffer.alloc(form.bytes);
    this.loneView = new DataView(this.lone.buffer, this.lone.byteOffset);
  }

  /**
   * Where the next bytes should go (`ConnectionHandler.landing`). A large payload lands in the memory of its
   * request, and between large ones the header comes alone, so that the payload behind it is not in the way:
   * two small reads cost less than a copy of the payload.
   */
  landing(): Buffer | null {
    this.landingBuffer = null;
    this.forgetAbandoned();
    const { filling, filled } = this;
    if (this.expecting === 'payload' && filling !== null) {
      if (filling.bytes < NBD_LANDING_BYTES_MIN) return null;
      const { base, bytes, buffer } = filling;
      this.landingBuffer = buffer.subarray(base + filled, base + bytes);
      return this.landingBuffer;
    }
    const atHeader = this.expecting === 'header' && this.headLength === 0;
    return atHeader && this.expectsLarge ? this.lone : null;
  }

  /** Nothing will land any more. */
  closed(): void {
    this.landingBuffer = null;
    this.forgetAbandoned();
  }

  private forgetAbandoned(): void {
    if (this.abandoned !== null) this.shared.requests.give(this.abandoned);
    this.abandoned = null;
  }

  /** A view of a buffer that `received` brought. */
  viewOf(buffer: Buffer): DataView {
    // No header begins in what landed, so any view will do.
    if (buffer === this.lone || buffer === this.landingBuffer) return this.loneView;
    return this.shared.viewOf(buffer);
  }

  /** Memory held for a payload that is coming, in bytes. */
  get heldBytes(): number {
    return this.filling?.owned?.capacity ?? 0;
  }

  /** The beginning of a header whose end has not come. */
  get partialHeader(): Buffer {
    return this.head.subarray(0, this.headLength);
  }

  /** Bytes of a payload that have not come. */
  get missingPayload(): number {
    if (this.filling !== null) return this.filling.bytes - this.filled;
    return this.expecting === 'skipped-payload' ? this.skipBytes : 0;
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
        case 'skipped-payload':
          at = this.skipPayload(at, end);
          break;
        case 'nothing':
          return end;
      }
    }
    return at;
  }

  /** Looks at no further byte; a request that is not whole is forgotten. */
  stop(): void {
    this.expecting = 'nothing';
    this.headLength = 0;
    const { filling } = this;
    this.filling = null;
    if (filling === null) return;
    if (this.landingBuffer === null) this.shared.requests.give(filling);
    else this.abandoned = filling;
  }

  private takeHeader(bytes: Buffer, view: DataView, at: number, end: number): number {
    const { form } = this;
    if (this.headLength === 0 && end - at >= form.bytes) {
      decodeRequestHeader(form, view, at, this.shared.header);
      return this.takeRequest(bytes, at + form.bytes, end);
    }
    const count = Math.min(form.bytes - this.headLength, end - at);
    bytes.copy(this.head, this.headLength, at, at + count);
    this.headLength += count;
    if (this.headLength < form.bytes) return end;
    this.headLength = 0;
    decodeRequestHeader(form, this.headView, 0, this.shared.header);
    return this.takeRequest(bytes, at + count, end);
  }

  /** The header is in `shared.header`; what follows it begins at `at`. Returns where to go on. */
  private takeRequest(bytes: Buffer, at: number, end: number): number {
    const { header } = this.shared;
    if (header.magic !== this.form.magic) {
      return this.leave(`wrong request magic 0x${header.magic.toString(16)}`, true, end);
    }
    if (header.command === NBD_CMD.DISC) return this.leave('client disconnected', false, end);
    const payloadBytes = payloadBytesOf(this.form, header);
    if (payloadBytes > this.payloadMax) {
      const command = nameOfCommand(header.command);
      return this.leave(`${command} with ${payloadBytes} bytes of payload`, true, end);
    }
    const refusal = this.sink.judge(header);
    const toDevice = header.length > 0 || header.command === NBD_CMD.FLUSH;
    if (refusal !== null || !toDevice) return this.skip(refusal, payloadBytes, at, end);
    const request = this.newRequest(payloadBytes);
    this.expectsLarge = payloadBytes >= NBD_LANDING_BYTES_MIN;
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

  private newRequest(payloadBytes: number): NbdRequest {
    const { header } = this.shared;
    const { command, flags } = header;
    const request = this.shared.requests.take();
    request.state = 'filling';
    request.command = command;
    request.flags = flags;
    request.cookieHigh = header.cookieHigh;
    request.cookieLow = header.cookieLow;
    request.offsetHigh = header.offsetHigh;
    request.offsetLow = header.offsetLow;
    request.origin = header.offset;
    request.offset = header.offset;
    request.length = header.length;
    request.bytes = command === NBD_CMD.READ ? header.length : payloadBytes;
    request.headBytes = 0;
    request.sparse = false;
    request.fua = (flags & NBD_CMD_FLAG.FUA) !== 0 && changes(command);
    request.noHole = (flags & NBD_CMD_FLAG.NO_HOLE) !== 0;
    request.fastZero = (flags & NBD_CMD_FLAG.FAST_ZERO) !== 0;
    return request;
  }

  private takePayload(bytes: Buffer, at: number, end: number): number {
    const request = this.filling;
    assert(request !== null);
    const count = Math.min(request.bytes - this.filled, end - at);
    if (bytes !== this.landingBuffer) {
      bytes.copy(request.buffer, request.base + this.filled, at, at + count);
    }
    this.filled += count;
    if (this.filled === request.bytes) {
      this.expecting = 'header';
      this.filling = null;
      this.sink.handle(request);
    }
    return at + count;
  }

  /** The request in `shared.header` has nothing to do for the device. */
  private skip(refusal: Refusal | null, payloadBytes: number, at: number, end: number): number {
    if (payloadBytes <= end - at) {
      this.sink.answer(refusal, this.shared.header);
      return at + payloadBytes;
    }
    Object.assign(this.skipped, this.shared.header);
    this.skipBytes = payloadBytes;
    this.refusal = refusal;
    this.expecting = 'skipped-payload';
    return at;
  }

  private skipPayload(at: number, end: number): number {
    const count = Math.min(this.skipBytes, end - at);
    this.skipBytes -= count;
    if (this.skipBytes === 0) {
      this.expecting = 'header';
      this.sink.answer(this.refusal, this.skipped);
    }
    return at + count;
  }
}

/** Whether FUA asks something of a command: not of those that change nothing (protocol section 1.7). */
const changes = (command: number): boolean =>
  command === NBD_CMD.WRITE || command === NBD_CMD.WRITE_ZEROES || command === NBD_CMD.TRIM;
