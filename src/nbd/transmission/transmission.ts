/**
 * The transmission phase of one connection: when bytes are read and requests started, and how it ends.
 *
 * Invariants:
 * - Parsing stops at NBD_IN_FLIGHT_REQUESTS_MAX, at the limits of bytes in flight of the connection and of the
 *   server, and at NBD_REPLY_BACKLOG_BYTES_MAX (one request may pass a byte limit, by its own size) and at
 *   NBD_REQUESTS_PER_TURN_MAX. What is not parsed waits in the stash, and the connection is paused while the
 *   stash is not empty.
 * - Every request that was started is answered or its connection is dead. After DISC, and after bytes that
 *   are no request, nothing more is started.
 * - What a dead connection did not start is dropped: its client may have sent the same write again elsewhere.
 *   Bytes that may have waited for long are started only while the client is there, or when they end in DISC.
 * - `gone` is called once, when the connection is closed and the device holds no request of it.
 */
import assert from 'node:assert';
import type { BlockDevice } from '../../io/device.ts';
import {
  NBD_FRESH_MS_MAX,
  NBD_IN_FLIGHT_REQUESTS_MAX,
  NBD_REPLY_BACKLOG_BYTES_MAX,
  NBD_REQUESTS_PER_TURN_MAX,
  NBD_STASH_BYTES_MAX,
} from '../../io/limits.ts';
import type { Connection } from '../../io/network.ts';
import type { MemoryWaiter } from '../server/memory-limit.ts';
import type { Negotiated } from '../handshake/negotiated.ts';
import type { NbdRequest } from './nbd-request.ts';
import type { Refusal } from './refusals.ts';
import { ReplyQueue } from './reply-queue.ts';
import { ReplyWriter } from './reply-writer.ts';
import { RequestHandler } from './request-handler.ts';
import { COMPACT_REQUESTS, EXTENDED_REQUESTS, type RequestHeader } from './request-header.ts';
import { RequestReader, type RequestSink } from './request-reader.ts';
import type { ServerShared } from '../server/server-shared.ts';
import { Stash } from './stash.ts';

/** `finishing`: answers what was started, then ends. `ended`: waits for the socket to close. */
type Phase = 'open' | 'finishing' | 'ended' | 'dead';

/**
 * Whether what waits is still the client's will. `doubtful`: it sends no more, and its last bytes are being
 * gathered. `certain`: they end in DISC, so it is.
 */
type Will = 'assumed' | 'doubtful' | 'certain';

export interface TransmissionOptions {
  readonly connection: Connection;
  readonly negotiated: Negotiated;
  readonly shared: ServerShared;
  /** All replies are handed over: end the connection. `reason` is for the log. */
  readonly finished: (reason: string, fault: boolean) => void;
  readonly gone: () => void;
}

export class Transmission implements RequestSink, MemoryWaiter {
  readonly device: BlockDevice;

  private readonly connection: Connection;
  private readonly shared: ServerShared;
  private readonly queue: ReplyQueue;
  private readonly handler: RequestHandler;
  private readonly stash: Stash;
  private readonly reader: RequestReader;
  private readonly finished: (reason: string, fault: boolean) => void;
  private readonly gone: () => void;

  private phase: Phase = 'open';
  private will: Will = 'assumed';
  private reason = '';
  private fault = false;
  private paused = false;
  /** When bytes came last, by the clock. */
  private lastReceived: number;

  private turnScheduled = false;
  private readonly turn: () => void = () => this.runTurn();

  constructor(options: TransmissionOptions) {
    const { connection, negotiated, shared } = options;
    this.connection = connection;
    this.device = negotiated.device;
    this.shared = shared;
    this.finished = options.finished;
    this.gone = options.gone;
    this.lastReceived = shared.clock.now();
    this.stash = new Stash(shared.buffers);
    const form = negotiated.form === 'extended' ? EXTENDED_REQUESTS : COMPACT_REQUESTS;
    this.reader = new RequestReader(shared, form, this);
    this.queue = new ReplyQueue({
      connection,
      buffers: shared.buffers,
      senders: shared.senders,
      onSent: () => this.repliesSent(),
    });
    this.handler = new RequestHandler({
      negotiated,
      shared,
      replies: new ReplyWriter(negotiated.form, this.queue),
      answered: () => this.answered(),
    });
  }

  /** Takes `buffer[start .. end)`, which is the caller's again when this returns. */
  received(buffer: Buffer, start: number, end: number): void {
    if (this.phase !== 'open') return;
    this.beginTurn();
    // A client that keeps sending is there. The system is asked only about bytes that may be old: in a server
    // that stood still, or that did not read this client for a while. A call for each read would cost 5 % at
    // depth 1.
    const now = this.shared.clock.now();
    const old = now - this.lastReceived > NBD_FRESH_MS_MAX;
    this.lastReceived = now;
    let at = start;
    if (!(old && this.isDoubtful()) && this.will !== 'doubtful' && this.stash.length === 0) {
      at = this.reader.read(buffer, this.reader.viewOf(buffer), start, end);
    }
    if (at < end && this.phase === 'open') this.keep(buffer, at, end);
    this.endTurn();
  }

  /** As `ConnectionHandler.landing`. Bytes that go to the stash come in the shared buffer. */
  landing(): Buffer | null {
    const landing = this.reader.landing();
    return this.stash.length === 0 && this.will === 'assumed' ? landing : null;
  }

  private keep(buffer: Buffer, start: number, end: number): void {
    // Asked before they are copied: what landed in the memory of a request may be longer than any other read.
    const tooMuch = this.stash.length + end - start > NBD_STASH_BYTES_MAX;
    if (this.will === 'doubtful' && tooMuch) return this.leave();
    this.stash.append(buffer, start, end);
    if (this.will !== 'doubtful') this.pause();
  }

  /**
   * The client will send no more. Without DISC that is a hard disconnect: what was started is answered,
   * the rest is dropped. What waits in the stash before a DISC is still the client's will.
   */
  ended(): void {
    if (this.phase !== 'open') return;
    const { form, missingPayload, partialHeader } = this.reader;
    if (this.stash.holdsDisconnect(form, missingPayload, partialHeader)) {
      this.will = 'certain';
      this.hasten();
      this.schedule();
      return;
    }
    this.leave();
    this.endTurn();
  }

  /** The connection is gone. */
  closed(): void {
    assert(this.phase !== 'dead', 'closed once');
    this.phase = 'dead';
    this.stopReading();
    this.reader.closed();
    this.queue.abandon();
    this.dropDone();
    this.hasten();
  }

  /** Requests in flight are answered, later ones refused; then the connection ends. */
  stop(): void {
    this.handler.stopping = true;
    this.hasten();
    if (this.phase === 'open') this.endTurn();
  }

  /** What the device holds back has no time any more. */
  private hasten(): void {
    this.handler.ending = true;
    if (this.handler.inFlight > 0) this.device.ending?.();
  }

  private answered(): void {
    if (this.phase === 'dead') this.dropDone();
    else this.schedule();
  }

  private dropDone(): void {
    this.handler.answerDone(false);
    if (this.handler.inFlight === 0) this.gone();
  }

  // Bytes to requests.

  ready(): boolean {
    return this.handler.budget > 0 && this.hasRoom();
  }

  judge(header: RequestHeader): Refusal | null {
    return this.handler.judge(header);
  }

  handle(request: NbdRequest): void {
    this.handler.handle(request);
  }

  answer(refusal: Refusal | null, header: RequestHeader): void {
    this.handler.answer(refusal, header);
  }

  /** The reader has nothing more; what was started is answered, then the connection ends. */
  over(reason: string, fault: boolean): void {
    this.finish(reason, fault);
  }

  private hasRoom(): boolean {
    const { handler, queue, shared } = this;
    const bytes = handler.inFlightBytes + this.reader.heldBytes;
    return (
      handler.inFlight < NBD_IN_FLIGHT_REQUESTS_MAX &&
      bytes < shared.limits.inFlightBytes &&
      queue.heldBytes < NBD_REPLY_BACKLOG_BYTES_MAX &&
      (!shared.memory.reached || bytes + queue.heldBytes === 0)
    );
  }

  /** What a request waits for in the middle needs no room: it has its memory, and nobody else would free that. */
  private mayParse(): boolean {
    return this.reader.missingPayload > 0 || this.hasRoom();
  }

  // Turns.

  private beginTurn(): void {
    this.handler.budget = NBD_REQUESTS_PER_TURN_MAX;
    this.queue.beginTurn();
  }

  private endTurn(): void {
    const { handler, stash } = this;
    handler.answerDone(true);
    this.queue.flush();
    const idle = handler.inFlight === 0 && stash.length === 0;
    if (this.phase === 'open' && handler.stopping && idle) this.finish('server is stopping', false);
    if (this.phase === 'finishing' && handler.inFlight === 0) return this.end();
    if (this.phase !== 'open' || stash.length === 0 || this.will === 'doubtful') return;
    // The budget of this turn is spent or a completion made room: no event would come for it.
    if (this.mayParse()) this.schedule();
    else if (this.shared.memory.reached) this.shared.memory.wait(this);
  }

  private runTurn(): void {
    this.turnScheduled = false;
    if (this.phase === 'ended' || this.phase === 'dead') return;
    this.connection.cork();
    this.beginTurn();
    this.handler.answerDone(true);
    if (this.phase === 'open') this.consumeStash();
    this.endTurn();
    this.connection.uncork();
  }

  private consumeStash(): void {
    const { stash } = this;
    if (stash.length === 0 || !this.mayParse() || this.isDoubtful()) return;
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
    if (this.queue.heldBytes > NBD_REPLY_BACKLOG_BYTES_MAX / 2) return;
    if (this.hasRoom()) this.schedule();
  }

  /** At once, so that what is free goes to those that waited longest. */
  memoryFreed(): void {
    this.runTurn();
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

  /**
   * Asks the system whether the client is still there. If not, nothing is started until its last bytes and
   * the end of them have come: `ended` decides then, or `closed`.
   */
  private isDoubtful(): boolean {
    if (this.will === 'assumed' && this.connection.health() !== 'open') {
      this.will = 'doubtful';
      this.resume();
    }
    return this.will === 'doubtful';
  }

  private leave(): void {
    this.finish('client closed the connection without NBD_CMD_DISC', false);
  }

  /** Starts nothing more. The connection ends when all that was started is answered. */
  private finish(reason: string, fault: boolean): void {
    assert(this.phase === 'open');
    this.phase = 'finishing';
    this.reason = reason;
    this.fault = fault;
    this.stopReading();
    // What still comes is thrown away; reading on shows when the client is gone.
    this.resume();
    this.hasten();
  }

  private end(): void {
    assert(this.phase === 'finishing');
    this.phase = 'ended';
    this.queue.flushAll();
    this.finished(this.reason, this.fault);
  }

  private stopReading(): void {
    this.reader.stop();
    this.stash.drop();
    this.shared.memory.leave(this);
  }
}
