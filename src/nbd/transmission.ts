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
import { NBD_CMD, NBD_ERRNO, type NbdErrno } from './constants.ts';
import { nbdErrnoOf } from './errno.ts';
import type { Negotiated } from './negotiated.ts';
import type { NbdRequest } from './nbd-request.ts';
import { ReplyQueue } from './reply-queue.ts';
import type { RequestHeader } from './request-header.ts';
import { RequestReader, type RequestSink } from './request-reader.ts';
import type { ServerShared } from './server-shared.ts';
import { Stash } from './stash.ts';
import { type CommandRules, commandRulesOf, validate } from './validate.ts';

/** `finishing`: answers what was started, then ends. `ended`: waits for the socket to close. */
type Phase = 'open' | 'finishing' | 'ended' | 'dead';

export interface TransmissionOptions {
  readonly connection: Connection;
  readonly negotiated: Negotiated;
  readonly shared: ServerShared;
  /** All replies are handed over: end the connection. `reason` is for the log. */
  readonly finished: (reason: string, fault: boolean) => void;
  readonly gone: () => void;
}

export class Transmission implements Completer, RequestSink {
  readonly device: BlockDevice;

  private readonly connection: Connection;
  private readonly rules: CommandRules;
  private readonly shared: ServerShared;
  private readonly replies: ReplyQueue;
  private readonly stash: Stash;
  private readonly reader: RequestReader;
  private readonly finished: (reason: string, fault: boolean) => void;
  private readonly gone: () => void;

  private phase: Phase = 'open';
  private stopping = false;
  private reason = '';
  private fault = false;
  private paused = false;

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
    this.device = options.negotiated.device;
    this.rules = commandRulesOf(options.negotiated.flags);
    this.shared = options.shared;
    this.finished = options.finished;
    this.gone = options.gone;
    this.stash = new Stash(options.shared.buffers);
    this.reader = new RequestReader(options.shared, this);
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
    this.beginTurn();
    let at = start;
    if (this.stash.length === 0) {
      at = this.reader.read(buffer, this.shared.viewOf(buffer), start, end);
    }
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
    if (this.stash.holdsDisconnect(this.reader.partialHeader)) return;
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

  ready(): boolean {
    return this.budget > 0 && this.hasRoom();
  }

  /** What this answers OK is handled without further checks. */
  judge(header: RequestHeader): NbdErrno {
    this.budget--;
    const error = validate(header, this.rules, this.device);
    return error === NBD_ERRNO.OK && this.stopping ? NBD_ERRNO.ESHUTDOWN : error;
  }

  /** The reader has nothing more; what was started is answered, then the connection ends. */
  over(reason: string, fault: boolean): void {
    this.finish(reason, fault);
  }

  private hasRoom(): boolean {
    return (
      this.inFlight < NBD_IN_FLIGHT_REQUESTS_MAX &&
      this.inFlightBytes + this.reader.heldBytes < NBD_IN_FLIGHT_BYTES_MAX &&
      this.replies.heldBytes < NBD_REPLY_BACKLOG_BYTES_MAX
    );
  }

  // Requests to the device.

  handle(request: NbdRequest): void {
    // A payload may have been on its way when the server was told to stop.
    if (this.stopping) return this.finishRequest(request, NBD_ERRNO.ESHUTDOWN);
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
    this.finishRequest(request, nbdErrnoOf(status));
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

  answer(error: NbdErrno, cookieHigh: number, cookieLow: number): void {
    this.replies.header(error, cookieHigh, cookieLow);
  }

  private finishRequest(request: NbdRequest, error: NbdErrno): void {
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
    this.finishRequest(request, error);
  }

  // Turns.

  private beginTurn(): void {
    this.budget = NBD_REQUESTS_PER_TURN_MAX;
    this.replies.beginTurn();
  }

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
    this.beginTurn();
    this.answerDone();
    if (this.phase === 'open') this.consumeStash();
    this.endTurn();
    this.connection.uncork();
  }

  private consumeStash(): void {
    const { stash } = this;
    if (stash.length === 0) return;
    const { bytes, view } = stash.buffer;
    stash.consumedTo(this.reader.read(bytes, view, stash.start, stash.end));
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
    this.reader.stop();
    this.stash.drop();
  }
}
