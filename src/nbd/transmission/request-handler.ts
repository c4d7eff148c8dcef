/**
 * Judged requests to device calls, and their answers to replies, for one connection.
 *
 * Invariants:
 * - Requests are handed to the device in the order in which `handle` gets them.
 * - Every request that is handled is answered once, unless its client is gone.
 * - Replies are written only between device calls, so the place that a READ reserved stays its own.
 */
import assert from 'node:assert';
import {
  type BlockDevice,
  type Completer,
  type DeviceRequest,
  PENDING,
  type StatusContext,
} from '../../io/device.ts';
import {
  NBD_LOOKS_PER_REQUEST,
  NBD_STATUS_BYTES_PER_REQUEST,
  NBD_STATUS_LOOKS_MAX,
} from '../../io/limits.ts';
import { NBD_CMD, NBD_CMD_FLAG, NBD_ERRNO, NBD_STATE } from '../constants.ts';
import { nbdErrnoOf } from '../errno.ts';
import type { Negotiated } from '../handshake/negotiated.ts';
import type { NbdRequest } from './nbd-request.ts';
import { deviceRefusal, type Refusal, REFUSED } from './refusals.ts';
import type { ReplyWriter } from './reply-writer.ts';
import type { RequestHeader } from './request-header.ts';
import type { ServerShared } from '../server/server-shared.ts';
import { decodeStatusPayload } from './status-payload.ts';
import { type CommandRules, commandRulesOf, validate, validateStatusRange } from './validate.ts';

const HOLE: number = NBD_STATE.HOLE | NBD_STATE.ZERO;

export interface RequestHandlerOptions {
  readonly negotiated: Negotiated;
  readonly shared: ServerShared;
  readonly replies: ReplyWriter;
  /** The device answered a request later than at once; `answerDone` writes the reply. */
  readonly answered: () => void;
}

export class RequestHandler implements Completer {
  /** Requests that the device holds or has answered without their reply being written; their memory in bytes. */
  inFlight = 0;
  inFlightBytes = 0;
  /** What may still be done in this turn, in requests; may fall below zero. */
  budget = 0;
  /** What is not at the device is refused. */
  stopping = false;
  /** The connection begins no request any more, and ends when what the device holds is answered. */
  ending = false;

  private readonly device: BlockDevice;
  private readonly negotiated: Negotiated;
  private readonly rules: CommandRules;
  /** Tells the holes of a READ; null where replies have no word for them. */
  private readonly allocation: StatusContext | null;
  private readonly shared: ServerShared;
  private readonly replies: ReplyWriter;
  private readonly answered: () => void;
  private firstDone: NbdRequest | null = null;
  private lastDone: NbdRequest | null = null;

  constructor(options: RequestHandlerOptions) {
    const { negotiated } = options;
    this.negotiated = negotiated;
    this.device = negotiated.device;
    this.rules = commandRulesOf(negotiated);
    this.allocation =
      negotiated.form === 'simple' ? null : (negotiated.device.contexts()[0] ?? null);
    this.shared = options.shared;
    this.replies = options.replies;
    this.answered = options.answered;
  }

  /** Null: the request may be handled without further checks. */
  judge(header: RequestHeader): Refusal | null {
    this.budget--;
    const refusal = validate(header, this.rules, this.device.sizeBytes);
    return refusal === null && this.stopping ? REFUSED.STOPPING : refusal;
  }

  handle(request: NbdRequest): void {
    // A payload may have been on its way when the server was told to stop.
    if (this.stopping) return this.finish(request, REFUSED.STOPPING);
    if (request.command === NBD_CMD.BLOCK_STATUS) return this.describe(request);
    if (request.command === NBD_CMD.READ) {
      if (this.isHole(request)) return this.finishHole(request);
      this.replies.reserve(request);
    }
    request.state = 'handed';
    request.client = this;
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
    this.finish(request, refusalOf(request, status));
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
      case NBD_CMD.CACHE:
        return this.device.cache(request);
      default:
        assert(request.command === NBD_CMD.WRITE_ZEROES, 'validation lets no other through');
        return this.device.zero(request);
    }
  }

  /** Answers a request that has nothing to do for the device. */
  answer(refusal: Refusal | null, header: RequestHeader): void {
    if (refusal === null) this.replies.succeed(header);
    else this.replies.refuse(refusal, header);
  }

  // Holes.

  /** Whether a READ has nothing to read. Otherwise it is narrowed to what has to be read. */
  private isHole(request: NbdRequest): boolean {
    const { allocation } = this;
    if (allocation === null || (request.flags & NBD_CMD_FLAG.DF) !== 0) return false;
    const { extent } = this.shared;
    const { offset, length } = request;
    allocation.describe(offset, offset + length, extent);
    if (extent.end >= offset + length) return (extent.flags & HOLE) === HOLE;
    const { plan } = request;
    plan.make(allocation, offset, length, extent);
    this.budget -= Math.floor(plan.looks / NBD_LOOKS_PER_REQUEST);
    if (!plan.allHole && !plan.allData) request.readByPlan();
    return plan.allHole;
  }

  private finishHole(request: NbdRequest): void {
    this.replies.hole(request);
    this.shared.requests.give(request);
  }

  // Block status.

  private describe(request: NbdRequest): void {
    const refusal = this.writeStatus(request);
    if (refusal !== null) this.replies.refuse(refusal, request);
    this.shared.requests.give(request);
  }

  private writeStatus(request: NbdRequest): Refusal | null {
    let { contexts } = this.negotiated;
    let { length } = request;
    if ((request.flags & NBD_CMD_FLAG.PAYLOAD_LEN) !== 0) {
      const { buffer, base, bytes } = request;
      const payload = decodeStatusPayload(buffer.subarray(base, base + bytes), contexts);
      if (payload === null) return REFUSED.STATUS_PAYLOAD;
      ({ contexts, length } = payload);
    }
    const { sizeBytes } = this.device;
    // Again for all: the device may be smaller than when the header came.
    const refusal = validateStatusRange(request.origin, length, sizeBytes);
    if (refusal !== null) return refusal;
    const offset = request.origin;
    const one = (request.flags & NBD_CMD_FLAG.REQ_ONE) !== 0;
    const wide = this.negotiated.form === 'extended';
    const looksMax = Math.max(1, Math.floor(NBD_STATUS_LOOKS_MAX / contexts.length));
    const walk = this.shared.status;
    for (const [index, { id, context }] of contexts.entries()) {
      walk.walk(context, { offset, end: offset + length, sizeBytes, one, wide }, looksMax);
      this.replies.status(id, walk, index === contexts.length - 1, request);
      this.budget -=
        Math.floor(walk.looks / NBD_LOOKS_PER_REQUEST) +
        Math.floor(walk.bytes / NBD_STATUS_BYTES_PER_REQUEST);
    }
    return null;
  }

  // Answers to replies.

  completed(deviceRequest: DeviceRequest, status: number): void {
    const request = deviceRequest as NbdRequest;
    assert(request.state === 'pending', 'completed twice, or before the device method returned');
    request.state = 'done';
    request.status = status;
    if (this.lastDone === null) this.firstDone = request;
    else this.lastDone.next = request;
    this.lastDone = request;
    this.answered();
  }

  /** Writes the replies of what the device answered since the last turn; drops them if nobody listens. */
  answerDone(listening: boolean): void {
    let request = this.firstDone;
    this.firstDone = null;
    this.lastDone = null;
    while (request !== null) {
      const { next } = request;
      request.next = null;
      this.inFlight--;
      if (request.owned !== null) this.inFlightBytes -= request.owned.capacity;
      if (listening) this.finish(request, refusalOf(request, request.status), true);
      else this.shared.requests.give(request);
      request = next;
    }
    assert(this.inFlight >= 0);
  }

  private finish(request: NbdRequest, refusal: Refusal | null, late = false): void {
    if (refusal !== null) {
      this.replies.refuse(refusal, request);
    } else if (request.command === NBD_CMD.READ) {
      assert(!late || request.owned !== null, 'a read that is answered later retains its buffer');
      this.replies.data(request);
    } else {
      this.replies.succeed(request);
    }
    this.shared.requests.give(request);
  }
}

function refusalOf(request: NbdRequest, status: number): Refusal | null {
  const error = nbdErrnoOf(status, request.fastZero);
  return error === NBD_ERRNO.OK ? null : deviceRefusal(request.command, error);
}
