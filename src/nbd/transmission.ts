/**
 * The transmission phase of one connection: requests in, device calls, replies out.
 *
 * Invariants:
 * - Requests are handed to the device in the order in which they came. A WRITE is handed over only when
 *   its whole payload is there.
 * - Parsing stops at NBD_IN_FLIGHT_REQUESTS_MAX, NBD_IN_FLIGHT_BYTES_MAX and NBD_REPLY_BACKLOG_BYTES_MAX
 *   (one request may pass a byte limit, by its own size) and at NBD_REQUESTS_PER_TURN_MAX. What is not
 *   parsed waits in the stash, and the connection is paused while the stash is not empty.
 * - Every request that was started is answered or its connection is dead. After DISC, and after bytes
 *   that are no request, nothing more is started. What a dead connection did not start is dropped: its
 *   client may have sent the same write again elsewhere.
 * - `gone` is called once, when the connection is closed and the device holds no request of it.
 * - Replies are written only between device calls, so the place that a READ reserved stays its own.
 */
import assert from 'node:assert';
import { type BlockDevice, type Completer, type DeviceRequest, PENDING } from '../io/device.ts';
import {
  NBD_IN_FLIGHT_BYTES_MAX,
  NBD_IN_FLIGHT_REQUESTS_MAX,
  NBD_REPLY_BACKLOG_BYTES_MAX,
  NBD_REQUESTS_PER_TURN_MAX,
} from '../io/limits.ts';
import type { Connection } from '../io/network.ts';
import {
  NBD_CMD,
  NBD_CMD_FLAG,
  NBD_ERRNO,
  NBD_REQUEST_BYTES,
  NBD_REQUEST_MAGIC,
  type NbdErrno,
} from './constants.ts';
import { nbdErrnoOf } from './errno.ts';
import type { NbdRequest } from './nbd-request.ts';
import { ReplyQueue } from './reply-queue.ts';
import { decodeRequestHeader } from './request-header.ts';
import type { ServerShared } from './server-shared.ts';
import { Stash } from './stash.ts';
import {
  type CommandRules,
  commandRulesOf,
  NBD_DRAIN_BYTES_MAX,
  payloadBytesOf,
  validate,
} from './validate.ts';

/** What the next bytes are. `none`: nothing is read any more. */
type Expecting = 'header' | 'payload' | 'refused-payload' | 'none';

/** `finishing`: answers what was started, then ends. `ended`: waits for the socket to close. */
type Phase = 'open' | 'finishing' | 'ended' | 'dead';

export interface TransmissionOptions {
  readonly connection: Connection;
  readonly device: BlockDevice;
  /** The transmission flags that the client was told. */
  readonly flags: number;
  readonly shared: ServerShared;
  /** All replies are handed over: end the connection. `reason` is for the log. */
  readonly finished: (reason: string, fault: boolean) => void;
  readonly gone: () => void;
}

export class Transmission implements Completer {
  readonly device: BlockDevice;

  private readonly connection: Connection;
  private readonly rules: CommandRules;
  private readonly shared: ServerShared;
  private readonly replies: ReplyQueue;
  private readonly stash: Stash;
  private readonly finished: (reason: string, fault: boolean) => void;
  private readonly gone: () => void;

  private phase: Phase = 'open';
  private stopping = false;
  private reason = '';
  private fault = false;
  private paused = false;

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

  /** Requests that the device holds or has answered without their reply being written. */
  private inFlight = 0;
  private inFlightBytes = 0;
  private firstDone: NbdRequest | null = null;
  private lastDone: NbdRequest | null = null;

  private budget = 0;
  private turnScheduled = false;
  private readonly turn: () => void = () => this.runTurn();

  constructor(options: TransmissionOptions) {
    this.connection = options.connection;
    this.device = options.device;
    this.rules = commandRulesOf(options.flags);
    this.shared = options.shared;
    this.finished = options.finished;
    this.gone = options.gone;
    this.stash = new Stash(options.shared.buffers);
    this.replies = new ReplyQueue({
      connection: options.connection,
      buffers: options.shared.buffers,
      senders: options.shared.senders,
      onSent: () => this.repliesSent(),
    });
  }

  /** Takes `buffer[start .. end)`, which is the caller's again when this returns. */
  received(buffer: Buffer, start: number, end: number): void {
    if (this.phase !== 'open') return;
    this.budget = NBD_REQUESTS_PER_TURN_MAX;
    let at = start;
    if (this.stash.length === 0) at = this.consume(buffer, this.shared.viewOf(buffer), start, end);
    if (at < end && this.phase === 'open') {
      this.stash.append(buffer, at, end);
      this.pause();
    }
    this.endTurn();
  }

  /**
   * The client will send no more. Without DISC that is a hard disconnect: what was started is answered,
   * the rest is dropped. What waits in the stash before a DISC is still the client's will.
   */
  ended(): void {
    if (this.phase !== 'open') return;
    if (this.expecting === 'header' && this.stash.holdsDisconnect(this.headBytes())) return;
    this.finish('client closed the connection without NBD_CMD_DISC', false);
    this.endTurn();
  }

  /** The connection is gone. */
  closed(): void {
    assert(this.phase !== 'dead', 'closed once');
    this.phase = 'dead';
    this.stopReading();
    this.replies.abandon();
    this.answerDone();
    if (this.inFlight === 0) this.gone();
  }

  /** Requests in flight are answered, later ones refused; then the connection ends. */
  stop(): void {
    this.stopping = true;
    if (this.phase === 'open') this.endTurn();
  }

  completed(deviceRequest: DeviceRequest, status: number): void {
    const request = deviceRequest as NbdRequest;
    assert(request.state === 'pending', 'completed twice, or before the device method returned');
    request.state = 'done';
    request.status = status;
    if (this.lastDone === null) this.firstDone = request;
    else this.lastDone.next = request;
    this.lastDone = request;
    if (this.phase === 'dead') {
      this.answerDone();
      if (this.inFlight === 0) this.gone();
      return;
    }
    this.schedule();
  }

  // Bytes to requests.

  /** Parses from `start`; returns where it stopped, which is `end` unless there is no room for more. */
  private consume(bytes: Buffer, view: DataView, start: number, end: number): number {
    let at = start;
    while (at < end) {
      switch (this.expecting) {
        case 'header':
          if (!this.hasRoom() || this.budget === 0) return at;
          at = this.takeHeader(bytes, view, at, end);
          break;
        case 'payload':
          at = this.takePayload(bytes, at, end);
          break;
        case 'refused-payload':
          at = this.skipPayload(at, end);
          break;
        case 'none':
          return end;
      }
    }
    return at;
  }

  private hasRoom(): boolean {
    return (
      this.inFlight < NBD_IN_FLIGHT_REQUESTS_MAX &&
      this.inFlightBytes < NBD_IN_FLIGHT_BYTES_MAX &&
      this.replies.heldBytes < NBD_REPLY_BACKLOG_BYTES_MAX
    );
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

  /** The header is in `shared.header`; its payload begins at `at`. Returns where the next bytes are. */
  private takeRequest(bytes: Buffer, at: number, end: number): number {
    const { header } = this.shared;
    this.budget--;
    if (header.magic !== NBD_REQUEST_MAGIC) {
      this.finish(`wrong request magic 0x${header.magic.toString(16)}`, true);
      return end;
    }
    if (header.command === NBD_CMD.DISC) {
      this.finish('client disconnected', false);
      return end;
    }
    const payloadBytes = payloadBytesOf(header);
    if (payloadBytes > NBD_DRAIN_BYTES_MAX) {
      this.finish(`NBD_CMD_WRITE of ${payloadBytes} bytes`, true);
      return end;
    }
    const error = this.judge();
    if (error !== NBD_ERRNO.OK || header.length === 0) {
      return this.refuse(error, payloadBytes, at, end);
    }
    const request = this.newRequest();
    if (payloadBytes === 0) {
      this.handle(request);
      return at;
    }
    if (payloadBytes <= end - at) {
      request.place(bytes, at);
      this.handle(request);
      return at + payloadBytes;
    }
    this.inFlightBytes += request.own().capacity;
    this.filling = request;
    this.filled = 0;
    this.expecting = 'payload';
    return at;
  }

  /** Validation: what this answers OK is handled without further checks. */
  private judge(): NbdErrno {
    const error = validate(this.shared.header, this.rules, this.device);
    return error === NBD_ERRNO.OK && this.stopping ? NBD_ERRNO.ESHUTDOWN : error;
  }

  /** Answers at once, also with success (requests of no bytes); the payload is skipped first. */
  private refuse(error: NbdErrno, payloadBytes: number, at: number, end: number): number {
    const { header } = this.shared;
    if (payloadBytes <= end - at) {
      this.replies.header(error, header.cookieHigh, header.cookieLow);
      return at + payloadBytes;
    }
    this.refusedBytes = payloadBytes;
    this.refusedError = error;
    this.refusedCookieHigh = header.cookieHigh;
    this.refusedCookieLow = header.cookieLow;
    this.expecting = 'refused-payload';
    return at;
  }

  private skipPayload(at: number, end: number): number {
    const count = Math.min(this.refusedBytes, end - at);
    this.refusedBytes -= count;
    if (this.refusedBytes === 0) {
      this.expecting = 'header';
      this.replies.header(this.refusedError, this.refusedCookieHigh, this.refusedCookieLow);
    }
    return at + count;
  }

  private takePayload(bytes: Buffer, at: number, end: number): number {
    const request = this.filling;
    assert(request !== null);
    assert(request.owned !== null);
    const count = Math.min(request.bytes - this.filled, end - at);
    bytes.copy(request.owned.bytes, request.base + this.filled, at, at + count);
    this.filled += count;
    if (this.filled === request.bytes) {
      this.expecting = 'header';
      this.filling = null;
      this.inFlightBytes -= request.owned.capacity;
      if (this.stopping) this.answer(request, NBD_ERRNO.ESHUTDOWN);
      else this.handle(request);
    }
    return at + count;
  }

  private newRequest(): NbdRequest {
    const { header } = this.shared;
    const request = this.shared.requests.take();
    const { command } = header;
    const writes = command !== NBD_CMD.READ && command !== NBD_CMD.FLUSH;
    request.state = 'filling';
    request.command = command;
    request.cookieHigh = header.cookieHigh;
    request.cookieLow = header.cookieLow;
    request.offset = header.offset;
    request.length = header.length;
    request.bytes = command === NBD_CMD.READ || command === NBD_CMD.WRITE ? header.length : 0;
    // Reads and flushes may carry FUA; it asks nothing of them.
    request.fua = writes && (header.flags & NBD_CMD_FLAG.FUA) !== 0;
    request.noHole = (header.flags & NBD_CMD_FLAG.NO_HOLE) !== 0;
    return request;
  }

  // Requests to the device.

  private handle(request: NbdRequest): void {
    if (request.command === NBD_CMD.READ) this.replies.reserveRead(request);
    request.state = 'handed';
    request.push(this);
    const status = this.call(request);
    if (status === PENDING) {
      request.state = 'pending';
      this.inFlight++;
      if (request.owned !== null) this.inFlightBytes += request.owned.capacity;
      return;
    }
    request.pop(this);
    request.state = 'done';
    this.answer(request, nbdErrnoOf(status));
  }

  private call(request: NbdRequest): number {
    switch (request.command) {
      case NBD_CMD.READ:
        return this.device.read(request);
      case NBD_CMD.WRITE:
        return this.device.write(request);
      case NBD_CMD.FLUSH:
        return this.device.flush(request);
      case NBD_CMD.TRIM:
        return this.device.trim(request);
      default:
        assert(request.command === NBD_CMD.WRITE_ZEROES, 'validation lets no other through');
        return this.device.zero(request);
    }
  }

  // Answers to replies.

  private answer(request: NbdRequest, error: NbdErrno): void {
    if (error === NBD_ERRNO.OK && request.command === NBD_CMD.READ) {
      this.replies.commitRead(request, error);
    } else {
      this.replies.header(error, request.cookieHigh, request.cookieLow);
    }
    this.shared.requests.give(request);
  }

  /** Writes the replies of what the device answered since the last turn; drops them if nobody listens. */
  private answerDone(): void {
    let request = this.firstDone;
    this.firstDone = null;
    this.lastDone = null;
    while (request !== null) {
      const { next } = request;
      request.next = null;
      this.inFlight--;
      if (request.owned !== null) this.inFlightBytes -= request.owned.capacity;
      if (this.phase === 'dead') this.shared.requests.give(request);
      else this.answerLate(request);
      request = next;
    }
    assert(this.inFlight >= 0);
  }

  private answerLate(request: NbdRequest): void {
    const error = nbdErrnoOf(request.status);
    if (error === NBD_ERRNO.OK && request.command === NBD_CMD.READ) {
      assert(request.owned !== null, 'a read that is answered later must retain its buffer');
    }
    this.answer(request, error);
  }

  // Turns.

  private endTurn(): void {
    this.answerDone();
    this.replies.flush();
    const idle = this.inFlight === 0 && this.stash.length === 0;
    if (this.phase === 'open' && this.stopping && idle) this.finish('server is stopping', false);
    if (this.phase === 'finishing' && this.inFlight === 0) return this.end();
    // The budget of this turn is spent or a completion made room: no event would come for it.
    if (this.phase === 'open' && this.stash.length > 0 && this.hasRoom()) this.schedule();
  }

  private runTurn(): void {
    this.turnScheduled = false;
    if (this.phase === 'ended' || this.phase === 'dead') return;
    this.connection.cork();
    this.answerDone();
    this.budget = NBD_REQUESTS_PER_TURN_MAX;
    if (this.phase === 'open') this.consumeStash();
    this.endTurn();
    this.connection.uncork();
  }

  private consumeStash(): void {
    const { stash } = this;
    if (stash.length === 0) return;
    const { bytes, view } = stash.buffer;
    stash.consumedTo(this.consume(bytes, view, stash.start, stash.end));
    if (stash.length === 0 && this.phase === 'open') this.resume();
  }

  private schedule(): void {
    if (this.turnScheduled) return;
    this.turnScheduled = true;
    this.shared.clock.soon(this.turn);
  }

  /** Half the limit must be free before parsing goes on, so that a slow client costs few turns. */
  private repliesSent(): void {
    if (this.phase !== 'open' || this.stash.length === 0) return;
    if (this.replies.heldBytes > NBD_REPLY_BACKLOG_BYTES_MAX / 2) return;
    if (this.hasRoom()) this.schedule();
  }

  private pause(): void {
    if (this.paused) return;
    this.paused = true;
    this.connection.pause();
  }

  private resume(): void {
    if (!this.paused) return;
    this.paused = false;
    this.connection.resume();
  }

  // The end.

  /** Starts nothing more. The connection ends when all that was started is answered. */
  private finish(reason: string, fault: boolean): void {
    assert(this.phase === 'open');
    this.phase = 'finishing';
    this.reason = reason;
    this.fault = fault;
    this.stopReading();
    // What still comes is thrown away; reading on shows when the client is gone.
    this.resume();
  }

  private end(): void {
    assert(this.phase === 'finishing');
    this.phase = 'ended';
    this.replies.flushAll();
    this.finished(this.reason, this.fault);
  }

  private stopReading(): void {
    this.expecting = 'none';
    this.stash.drop();
    this.headLength = 0;
    const request = this.filling;
    this.filling = null;
    if (request === null) return;
    if (request.owned !== null) this.inFlightBytes -= request.owned.capacity;
    this.shared.requests.give(request);
  }

  private headBytes(): Buffer {
    return this.head.subarray(0, this.headLength);
  }
}
