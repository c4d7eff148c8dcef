/**
 * Bytes for one client, gathered into slabs.
 *
 * Invariants:
 * - Bytes leave in the order in which they were handed over here.
 * - A buffer is given back to the pool only after the connection said that all of it was sent.
 * - Only bytes that were taken, or lent on purpose, are ever sent.
 * - `heldBytes` counts whole buffers, not the bytes used in them: it is the memory that a client which
 *   does not read costs. The session stops at NBD_REPLY_BACKLOG_BYTES_MAX.
 */
import assert from 'node:assert';
import type { Connection } from '../../io/network.ts';
import type { BufferPool, PooledBuffer } from './buffer-pool.ts';

/** One slab: what does not fit in it goes out in a buffer of its own. */
export const SLAB_BYTES: number = 256 * 1024;

/** One buffer on its way out, whole or in parts. Pooled, so that a send costs no closure. */
export class Sender {
  queue: ReplyQueue | null = null;
  buffer: PooledBuffer | null = null;
  /** Sends that are not done. */
  parts = 0;
  readonly sent: () => void = () => {
    assert(this.queue !== null);
    this.queue.sent(this);
  };
}

/** Senders of all connections of a server, for reuse. */
export class SenderPool {
  private readonly free: Sender[] = [];

  take(): Sender {
    return this.free.pop() ?? new Sender();
  }

  give(sender: Sender): void {
    assert(sender.parts === 0);
    sender.queue = null;
    sender.buffer = null;
    this.free.push(sender);
  }
}

export interface ReplyQueueOptions {
  readonly connection: Connection;
  readonly buffers: BufferPool;
  readonly senders: SenderPool;
  /** Called each time that a buffer was sent: `heldBytes` is lower than before. */
  readonly onSent: () => void;
}

export class ReplyQueue {
  /** Memory held for replies, in bytes. */
  heldBytes = 0;
  /** Where the next bytes go in the slab that `room` answered. */
  at = 0;

  private readonly connection: Connection;
  private readonly buffers: BufferPool;
  private readonly senders: SenderPool;
  private readonly onSent: () => void;
  private slab: PooledBuffer | null = null;
  private outstanding = 0;
  private congested = false;
  private dead = false;

  constructor(options: ReplyQueueOptions) {
    this.connection = options.connection;
    this.buffers = options.buffers;
    this.senders = options.senders;
    this.onSent = options.onSent;
  }

  /** A slab with room for `bytes` from `at`. Nothing is taken yet. */
  room(bytes: number): PooledBuffer {
    // Asserted once a slab, not once a reply: this is the hottest path, and an assertion costs 20 ns.
    if (this.slab !== null && this.slab.capacity - this.at < bytes) this.sendSlab();
    if (this.slab === null) {
      assert(!this.dead);
      assert(bytes <= SLAB_BYTES, 'too large for a slab');
      this.slab = this.buffers.take(SLAB_BYTES);
      this.heldBytes += this.slab.capacity;
    }
    return this.slab;
  }

  /** `bytes` were written at `at`. */
  take(bytes: number): void {
    this.at += bytes;
  }

  /** Takes a buffer over, to be sent in parts behind all that came before. At least one `sendPart` follows. */
  lend(buffer: PooledBuffer): Sender {
    this.sendSlab();
    this.heldBytes += buffer.capacity;
    const sender = this.senders.take();
    sender.queue = this;
    sender.buffer = buffer;
    return sender;
  }

  /** Sends `[start .. end)` of a buffer that was lent. All parts of one buffer are sent in one turn. */
  sendPart(sender: Sender, start: number, end: number): void {
    const { buffer } = sender;
    assert(buffer !== null);
    assert(end <= buffer.capacity);
    sender.parts++;
    this.outstanding++;
    this.connection.send(buffer.bytes.subarray(start, end), sender.sent);
  }

  /** All parts of a buffer were handed over: if the kernel has them all, the memory is used again while it is hot. */
  settle(sender: Sender): void {
    const { buffer } = sender;
    if (buffer === null || this.connection.backlogBytes > 0) return;
    sender.buffer = null;
    this.heldBytes -= buffer.capacity;
    this.buffers.give(buffer);
  }

  /** Between the two, sends are gathered. */
  cork(): void {
    this.connection.cork();
  }

  uncork(): void {
    this.connection.uncork();
  }

  /** Begins a turn: looks at the socket before the replies of this turn are in its way. */
  beginTurn(): void {
    this.congested = this.outstanding > 0 && this.connection.backlogBytes > 0;
  }

  /**
   * Ends a turn. If the socket was congested when it began, a slab with room left stays here and
   * gathers more: the send that is under way will fetch it. An empty slab, left by a READ whose place in it
   * was not used, goes back: an idle connection holds nothing that others may wait for.
   */
  flush(): void {
    if (this.at === 0) return this.dropSlab();
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
    this.dropSlab();
  }

  /** Of a Sender: one of its parts is sent. */
  sent(sender: Sender): void {
    const { buffer } = sender;
    assert(this.outstanding > 0);
    assert(sender.parts > 0);
    this.outstanding--;
    sender.parts--;
    if (sender.parts > 0) return;
    if (buffer !== null) {
      this.heldBytes -= buffer.capacity;
      this.buffers.give(buffer);
    }
    this.senders.give(sender);
    if (this.dead) return;
    if (this.outstanding === 0) this.sendSlab();
    this.onSent();
  }

  private dropSlab(): void {
    const { slab } = this;
    if (slab === null) return;
    this.slab = null;
    this.at = 0;
    this.heldBytes -= slab.capacity;
    this.buffers.give(slab);
  }

  private sendSlab(): void {
    const { slab, at } = this;
    if (slab === null || at === 0) return;
    assert(at <= slab.capacity, 'more was taken than the room that was asked for');
    this.slab = null;
    this.at = 0;
    const sender = this.senders.take();
    sender.queue = this;
    sender.buffer = slab;
    this.sendPart(sender, 0, at);
    this.settle(sender);
  }
}
