/**
 * Prepared batches: many WRITE requests that lie in memory in their wire form, header in front of
 * payload, back to back, and are sent as they are (protocol section 2, compact request).
 *
 * Invariants:
 * - Each index of a batch is answered exactly once; any other answer is a fault of the server.
 * - A batch is done when all its requests were answered and all its memory is free again.
 * - Cookies of prepared requests have 0xbf in their highest byte. Those of other requests never do.
 */
import assert from 'node:assert';
import { NBD_PREPARED_REQUESTS_MAX } from '../../io/limits.ts';
import { NBD_CMD, NBD_REQUEST_BYTES, NBD_REQUEST_MAGIC } from '../constants.ts';

/** Bytes of the header in front of each payload. */
export const WRITE_HEADER_BYTES: number = NBD_REQUEST_BYTES;

const COOKIE_MARK = 0xbf000000;
const BATCH_MASK = 0xffffff;
const LENGTH_AT = 24;
const COOKIE_AT = 8;

export interface WriteHeader {
  /** Bytes; a safe integer. */
  readonly offset: number;
  /** Payload bytes, 1 .. 2^32 - 1. */
  readonly length: number;
  /** Number of the batch; its low 24 bits travel. */
  readonly batch: number;
  /** Position of the request in its batch. */
  readonly index: number;
}

/** Requests that were laid out with `encodeWriteHeader`; the owner of their memory is told how it goes. */
export interface PreparedBatch {
  /** As given to `encodeWriteHeader`. */
  readonly id: number;
  /** Requests in it, indexes 0 .. count - 1. At most NBD_PREPARED_REQUESTS_MAX. */
  readonly count: number;
  /** Request `index` was answered; `errno` is 0 or an error of the protocol. In any order. */
  replied(index: number, errno: number): void;
  /** All were answered, and the memory is no longer used. Not called if the connection ends before. */
  done(): void;
}

/** High half of the cookies of a batch. */
export function preparedCookieHigh(batch: number): number {
  return (COOKIE_MARK | (batch & BATCH_MASK)) >>> 0;
}

export function isPreparedCookie(high: number): boolean {
  return high >>> 24 === COOKIE_MARK >>> 24;
}

/** Writes WRITE_HEADER_BYTES at `slab[at]`, every byte of them. The payload stands behind. */
export function encodeWriteHeader(slab: Buffer, at: number, header: WriteHeader): void {
  assert(Number.isSafeInteger(header.offset) && header.offset >= 0, 'offset is a byte offset');
  slab.writeUInt32BE(NBD_REQUEST_MAGIC, at);
  slab.writeUInt32BE(NBD_CMD.WRITE, at + 4);
  slab.writeUInt32BE(preparedCookieHigh(header.batch), at + COOKIE_AT);
  slab.writeUInt32BE(header.index, at + COOKIE_AT + 4);
  slab.writeUInt32BE(Math.floor(header.offset / 2 ** 32), at + 16);
  slab.writeUInt32BE(header.offset >>> 0, at + 20);
  encodeWriteLength(slab, at, header.length);
}

/** Changes the length in the header at `slab[at]`, when more payload was appended. */
export function encodeWriteLength(slab: Buffer, at: number, length: number): void {
  assert(length > 0, 'a write has a payload');
  slab.writeUInt32BE(length, at + LENGTH_AT);
}

/** Follows the one batch that is on its way. The memory for that is taken once, for the largest. */
export class PreparedTracker {
  /** Requests not answered yet. */
  unanswered = 0;
  private batch: PreparedBatch | null = null;
  private cookieHigh = 0;
  private sendsPending = 0;
  private readonly answered = new Uint8Array(NBD_PREPARED_REQUESTS_MAX);

  get busy(): boolean {
    return this.batch !== null;
  }

  /** `chunks` sends follow, each of which ends with `sent`. */
  begin(batch: PreparedBatch, chunks: readonly Buffer[]): void {
    assert(this.batch === null, 'one prepared batch at a time');
    assert(batch.count > 0, 'a batch has requests');
    assert(batch.count <= NBD_PREPARED_REQUESTS_MAX, 'a batch is bounded');
    const first = chunks[0];
    assert(first !== undefined, 'a batch has bytes');
    this.cookieHigh = preparedCookieHigh(batch.id);
    assert(first.readUInt32BE(0) === NBD_REQUEST_MAGIC, 'a chunk begins with a header');
    assert(first.readUInt32BE(COOKIE_AT) === this.cookieHigh, 'headers carry the id of the batch');
    this.batch = batch;
    this.unanswered = batch.count;
    this.sendsPending = chunks.length;
    this.answered.fill(0, 0, batch.count);
  }

  /** False: this answer belongs to no request on its way, and nothing was done with it. */
  reply(cookieHigh: number, index: number, errno: number): boolean {
    const batch = this.batch;
    if (batch === null || cookieHigh !== this.cookieHigh) return false;
    if (index >= batch.count || this.answered[index] !== 0) return false;
    this.answered[index] = 1;
    this.unanswered -= 1;
    batch.replied(index, errno);
    return true;
  }

  sent(): void {
    assert(this.sendsPending > 0, 'more sends ended than began');
    this.sendsPending -= 1;
  }

  /** The batch, if there is nothing left to wait for. It is no longer followed then. */
  takeDone(): PreparedBatch | null {
    if (this.unanswered > 0 || this.sendsPending > 0) return null;
    const batch = this.batch;
    this.batch = null;
    return batch;
  }

  /** The connection ended: the batch will not be done. */
  abandon(): void {
    this.batch = null;
    this.unanswered = 0;
  }
}
