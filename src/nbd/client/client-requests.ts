/**
 * The unanswered requests of one connection: a table of slots that are used again and again, so that
 * a request costs no allocation.
 *
 * Invariants:
 * - A cookie names a slot (low half) and one use of it (high half): the answer to an earlier use, or a
 *   second answer, fits no slot.
 * - The highest bit of a cookie is 0, so it is never that of a prepared request.
 * - A slot is free again only when it was answered and its buffers were given to the kernel.
 */
import assert from 'node:assert';
import { NBD_CLIENT_REQUESTS_MAX } from '../../io/limits.ts';
import { NBD_CMD, NBD_REQUEST_BYTES, NBD_REQUEST_MAGIC, type NbdCommand } from '../constants.ts';

/** Called once with 0, or with the positive errno of the protocol. */
export type RequestCallback = (errno: number) => void;

const USE_MASK = 0x7fffffff;
const NO_BUFFER = Buffer.alloc(0);
const NO_CALLBACK: RequestCallback = () => {};

/** One extent of a BLOCK_STATUS: bytes, and the word of the context. Called before the callback. */
export type ExtentReport = (length: number, flags: number) => void;

const NO_REPORT: ExtentReport = () => {};

export class RequestSlot {
  /** Low half of the cookie. */
  readonly index: number;
  /** High half of the cookie; changes from one use to the next. */
  use = 0;
  /** The request header, in use until `sends` is 0. */
  readonly header: Buffer = Buffer.alloc(NBD_REQUEST_BYTES);
  command: NbdCommand = NBD_CMD.READ;
  callback: RequestCallback = NO_CALLBACK;
  /** READ: where the data goes, `buffer[start .. start + length)`. */
  buffer: Buffer = NO_BUFFER;
  start = 0;
  length = 0;
  /** Where the request begins in the export. For replies in chunks, which say where they belong. */
  offset = 0;
  /** Bytes that chunks of the reply were about. */
  covered = 0;
  /** BLOCK_STATUS: who is told. */
  report: ExtentReport = NO_REPORT;
  /** Of a write-class request that nothing else accounts for; see WriteBarriers. */
  ticket = 0;
  ticketed = false;
  busy = false;
  answered = false;
  errno = 0;
  /** Buffers handed to the connection and not yet given to the kernel. */
  sends = 0;
  /** For `Connection.send`. Made once. */
  readonly sent: () => void;

  constructor(index: number, onSent: (slot: RequestSlot) => void) {
    this.index = index;
    this.sent = () => onSent(this);
  }

  /** Writes the header; the caller validated offset and length. */
  encode(flags: number, offset: number, length: number): void {
    const { header } = this;
    this.offset = offset;
    header.writeUInt32BE(NBD_REQUEST_MAGIC, 0);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(this.command, 6);
    header.writeUInt32BE(this.use, 8);
    header.writeUInt32BE(this.index, 12);
    header.writeUInt32BE(Math.floor(offset / 2 ** 32), 16);
    header.writeUInt32BE(offset >>> 0, 20);
    header.writeUInt32BE(length, 24);
  }
}

export class RequestTable {
  inUse = 0;
  private readonly slots: RequestSlot[] = [];
  private readonly free: RequestSlot[] = [];
  private readonly onSent: (slot: RequestSlot) => void;

  constructor(onSent: (slot: RequestSlot) => void) {
    this.onSent = onSent;
  }

  take(command: NbdCommand, callback: RequestCallback): RequestSlot {
    const slot = this.free.pop() ?? this.grow();
    assert(!slot.busy, 'a free slot is not in use');
    slot.busy = true;
    slot.use = (slot.use + 1) & USE_MASK;
    slot.command = command;
    slot.callback = callback;
    slot.ticketed = false;
    slot.answered = false;
    slot.errno = 0;
    slot.covered = 0;
    this.inUse += 1;
    return slot;
  }

  /** The unanswered request of this cookie, or null: the server made it up. */
  find(cookieHigh: number, cookieLow: number): RequestSlot | null {
    const slot = this.slots[cookieLow];
    if (slot === undefined || !slot.busy || slot.answered || slot.use !== cookieHigh) return null;
    return slot;
  }

  release(slot: RequestSlot): void {
    assert(slot.busy, 'released once');
    assert(slot.sends === 0, 'its buffers are not in use');
    slot.busy = false;
    slot.callback = NO_CALLBACK;
    slot.buffer = NO_BUFFER;
    slot.report = NO_REPORT;
    this.inUse -= 1;
    this.free.push(slot);
  }

  /** Those in use now. For the end of a connection. */
  busy(): RequestSlot[] {
    return this.slots.filter((slot) => slot.busy);
  }

  private grow(): RequestSlot {
    assert(this.slots.length < NBD_CLIENT_REQUESTS_MAX, 'the caller bounds its requests');
    const slot = new RequestSlot(this.slots.length, this.onSent);
    this.slots.push(slot);
    return slot;
  }
}
