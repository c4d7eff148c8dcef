/**
 * Replies of one connection, gathered into slabs.
 *
 * Invariants:
 * - Bytes leave in the order in which replies were written.
 * - A slab is given back to the pool only after the connection said it was sent.
 * - Only bytes written here, or by a device that answered OK, are ever sent.
 * - `heldBytes` counts whole buffers, not the bytes used in them: it is the memory that a client which
 *   does not read costs. The session stops at NBD_REPLY_BACKLOG_BYTES_MAX.
 */
import assert from 'node:assert';
import type { Connection } from '../io/network.ts';
import type { BufferPool, PooledBuffer } from './buffer-pool.ts';
import { NBD_SIMPLE_REPLY_BYTES, NBD_SIMPLE_REPLY_MAGIC, type NbdErrno } from './constants.ts';
import type { NbdRequest } from './nbd-request.ts';

/** Data of at most this many bytes is read or copied into the common slab. */
export const SLAB_BYTES: number = 256 * 1024;
/** Data that a device delivered late: up to here copying it into the slab beats a send of its own. */
const COPY_BYTES_MAX: number = 16 * 1024;

/** One buffer on its way out. Pooled, so that a send costs no closure. */
class Sender {
  queue: ReplyQueue | null = null;
  buffer: PooledBuffer | null = null;
  readonly sent: () => void = () => {
    const { queue, buffer } = this;
    assert(queue !== null);
    assert(buffer !== null);
    this.queue = null;
    this.buffer = null;
    queue.sent(this, buffer);
  };
}

/** Senders of all connections of a server, for reuse. */
export class SenderPool {
  private readonly free: Sender[] = [];

  take(): Sender {
    return this.free.pop() ?? new Sender();
  }

  give(sender: Sender): void {
    assert(sender.buffer === null);
    this.free.push(sender);
  }
}

export interface ReplyQueueOptions {
  readonly connection: Connection;
  readonly buffers: BufferPool;
  readonly senders: SenderPool;
  /** Called each time that bytes were sent: `heldBytes` is lower than before. */
  readonly onSent: () => void;
}

export class ReplyQueue {
  /** Memory held for replies, in bytes. */
  heldBytes = 0;

  private readonly connection: Connection;
  private readonly buffers: BufferPool;
  private readonly senders: SenderPool;
  private readonly onSent: () => void;
  private slab: PooledBuffer | null = null;
  private used = 0;
  private outstanding = 0;
  private congested = false;
  private dead = false;

  constructor(options: ReplyQueueOptions) {
    this.connection = options.connection;
    this.buffers = options.buffers;
    this.senders = options.senders;
    this.onSent = options.onSent;
  }

  /** Answers without data: every error, and success of everything but READ. */
  header(error: NbdErrno, cookieHigh: number, cookieLow: number): void {
    const slab = this.room(NBD_SIMPLE_REPLY_BYTES);
    writeHeader(slab.view, this.used, error, cookieHigh, cookieLow);
    this.used += NBD_SIMPLE_REPLY_BYTES;
  }

  /**
   * Points a READ at the place where its data belongs in the reply. Nothing is taken yet: unless
   * `commitRead` follows before any other reply is written, the place is free again.
   */
  reserveRead(request: NbdRequest): void {
    if (NBD_SIMPLE_REPLY_BYTES + request.bytes > SLAB_BYTES) {
      request.own();
      return;
    }
    const slab = this.room(NBD_SIMPLE_REPLY_BYTES + request.bytes);
    request.place(slab.bytes, this.used + NBD_SIMPLE_REPLY_BYTES);
  }

  /** Sends the data of a READ that the device answered OK, wherever it lies. */
  commitRead(request: NbdRequest, error: NbdErrno): void {
    assert(error === 0, 'a failed read has no data');
    const { owned } = request;
    if (owned === null) {
      const { slab } = this;
      assert(slab !== null);
      assert(request.base === this.used + NBD_SIMPLE_REPLY_BYTES, 'the reserved place was taken');
      writeHeader(slab.view, this.used, error, request.cookieHigh, request.cookieLow);
      this.used += NBD_SIMPLE_REPLY_BYTES + request.bytes;
      return;
    }
    const total = NBD_SIMPLE_REPLY_BYTES + request.bytes;
    writeHeader(owned.view, 0, error, request.cookieHigh, request.cookieLow);
    if (request.bytes <= COPY_BYTES_MAX) {
      const slab = this.room(total);
      owned.bytes.copy(slab.bytes, this.used, 0, total);
      this.used += total;
      return;
    }
    this.sendSlab();
    request.owned = null;
    this.heldBytes += owned.capacity;
    this.send(owned, total);
  }

  /** Begins a turn: looks at the socket before the replies of this turn are in its way. */
  beginTurn(): void {
    this.congested = this.outstanding > 0 && this.connection.backlogBytes > 0;
  }

  /**
   * Ends a turn. If the socket was congested when it began, a slab with room left stays here and
   * gathers more: the send that is under way will fetch it.
   */
  flush(): void {
    if (this.congested && this.outstanding > 0) return;
    this.sendSlab();
  }

  /** Hands over everything, congested or not: nothing more will come. */
  flushAll(): void {
    this.sendSlab();
  }

  /** The connection is gone: nothing will be sent any more. */
  abandon(): void {
    this.dead = true;
    if (this.slab === null) return;
    this.heldBytes -= this.slab.capacity;
    this.buffers.give(this.slab);
    this.slab = null;
    this.used = 0;
  }

  /** Of a Sender: its buffer is free. */
  sent(sender: Sender, buffer: PooledBuffer): void {
    assert(this.outstanding > 0);
    this.outstanding--;
    this.heldBytes -= buffer.capacity;
    this.buffers.give(buffer);
    this.senders.give(sender);
    if (this.dead) return;
    if (this.outstanding === 0) this.sendSlab();
    this.onSent();
  }

  private room(bytes: number): PooledBuffer {
    assert(!this.dead);
    if (this.slab !== null && this.slab.capacity - this.used < bytes) this.sendSlab();
    if (this.slab === null) {
      this.slab = this.buffers.take(SLAB_BYTES);
      this.heldBytes += this.slab.capacity;
    }
    return this.slab;
  }

  private sendSlab(): void {
    const { slab, used } = this;
    if (slab === null || used === 0) return;
    this.slab = null;
    this.used = 0;
    this.send(slab, used);
  }

  private send(buffer: PooledBuffer, length: number): void {
    assert(length <= buffer.capacity);
    const sender = this.senders.take();
    sender.queue = this;
    sender.buffer = buffer;
    this.outstanding++;
    this.connection.send(buffer.bytes.subarray(0, length), sender.sent);
  }
}

function writeHeader(
  view: DataView,
  at: number,
  error: NbdErrno,
  cookieHigh: number,
  cookieLow: number,
): void {
  view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, error);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
}
