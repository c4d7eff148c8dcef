/**
 * Replies of one connection in the form that it negotiated (protocol section 5).
 *
 * Invariants:
 * - Simple replies only in the simple form; in the extended form chunks only. In the structured form READ and
 *   BLOCK_STATUS get chunks, also for errors; success of the rest is a simple reply, the shortest there is.
 * - A READ is answered when all its data is there: its last chunk carries DONE, and an error stands alone.
 */
import assert from 'node:assert';
import { NBD_CMD, NBD_ERRNO, NBD_SIMPLE_REPLY_BYTES } from '../constants.ts';
import type { NbdRequest } from './nbd-request.ts';
import type { ReplyForm } from '../handshake/negotiated.ts';
import type { Refusal } from './refusals.ts';
import {
  chunkHeadBytes,
  dataHeadBytes,
  errorChunkBytes,
  type Extents,
  holeChunkBytes,
  type ReplyTo,
  statusChunkBytes,
  writeDataHead,
  writeError,
  writeHole,
  writeNone,
  writeSimpleReply,
  writeStatus,
} from './reply-codec.ts';
import { type ReplyQueue, SLAB_BYTES } from './reply-queue.ts';
import { SparseReplies } from './sparse-replies.ts';

/** Data that a device delivered late: up to here copying it into the slab beats a send of its own. */
const COPY_BYTES_MAX: number = 16 * 1024;

export class ReplyWriter {
  private readonly form: ReplyForm;
  private readonly queue: ReplyQueue;
  private readonly headBytes: number;
  private readonly sparse: SparseReplies | null;

  constructor(form: ReplyForm, queue: ReplyQueue) {
    this.form = form;
    this.queue = queue;
    this.headBytes = dataHeadBytes(form);
    this.sparse = form === 'simple' ? null : new SparseReplies(form, queue);
  }

  /** Success of a request that has no data to send. */
  succeed(to: ReplyTo): void {
    const { form, queue } = this;
    if (form === 'extended' || (form === 'structured' && to.command === NBD_CMD.READ)) {
      const bytes = chunkHeadBytes(form);
      writeNone(form, queue.room(bytes).view, queue.at, to);
      queue.take(bytes);
      return;
    }
    this.simple(NBD_ERRNO.OK, to);
  }

  refuse({ error, text }: Refusal, to: ReplyTo): void {
    const { form, queue } = this;
    if (form === 'simple') return this.simple(error, to);
    const bytes = errorChunkBytes(form, text);
    writeError(form, queue.room(bytes), queue.at, error, text, to);
    queue.take(bytes);
  }

  /** The whole range of a READ is a hole. */
  hole(request: NbdRequest): void {
    const { form, queue } = this;
    assert(form !== 'simple');
    const bytes = holeChunkBytes(form);
    const { view } = queue.room(bytes);
    writeHole(form, view, queue.at, true, request.origin, request.length, request);
    queue.take(bytes);
  }

  /** One of the status chunks of a request; `done` on the last. */
  status(contextId: number, extents: Extents, done: boolean, to: ReplyTo): void {
    const { form, queue } = this;
    assert(form !== 'simple');
    const bytes = statusChunkBytes(form, extents.count);
    writeStatus(form, queue.room(bytes).view, queue.at, done, contextId, extents, to);
    queue.take(bytes);
  }

  /**
   * Points a READ at the place where its data belongs in the reply. Nothing is taken yet: unless `data`
   * follows before any other reply is written, the place is free again.
   */
  reserve(request: NbdRequest): void {
    const { queue } = this;
    const sparse = request.sparse ? this.sparse : null;
    const bytes = sparse === null ? this.headBytes + request.bytes : sparse.slabBytes(request);
    request.headBytes = this.headBytes;
    if (bytes > SLAB_BYTES) {
      request.own();
      return;
    }
    const slab = queue.room(bytes);
    const lead = sparse === null ? this.headBytes : sparse.leadBytes(request);
    request.place(slab.bytes, queue.at + lead);
  }

  /** Sends the data of a READ that the device answered OK, wherever it lies. */
  data(request: NbdRequest): void {
    if (request.sparse) return this.sparseData(request);
    const { queue, headBytes } = this;
    const { owned } = request;
    const total = headBytes + request.bytes;
    if (owned === null) {
      assert(request.base === queue.at + headBytes, 'the reserved place was taken');
      this.head(queue.room(total).view, queue.at, request);
      queue.take(total);
      return;
    }
    this.head(owned.view, 0, request);
    if (request.bytes <= COPY_BYTES_MAX) {
      owned.bytes.copy(queue.room(total).bytes, queue.at, 0, total);
      queue.take(total);
      return;
    }
    request.owned = null;
    const sender = queue.lend(owned);
    queue.sendPart(sender, 0, total);
    queue.settle(sender);
  }

  private sparseData(request: NbdRequest): void {
    const { sparse } = this;
    const { owned, buffer, base } = request;
    assert(sparse !== null);
    if (owned !== null && request.bytes > COPY_BYTES_MAX) return sparse.sendInParts(request, owned);
    if (owned === null) {
      assert(base === this.queue.at + sparse.leadBytes(request), 'the reserved place was taken');
    }
    sparse.writeToSlab(request, buffer, base);
  }

  private head(view: DataView, at: number, request: NbdRequest): void {
    if (this.form === 'simple') writeSimpleReply(view, at, NBD_ERRNO.OK, request);
    else writeDataHead(this.form, view, at, true, request.origin, request.bytes, request);
  }

  private simple(error: Refusal['error'], to: ReplyTo): void {
    const { queue } = this;
    writeSimpleReply(queue.room(NBD_SIMPLE_REPLY_BYTES).view, queue.at, error, to);
    queue.take(NBD_SIMPLE_REPLY_BYTES);
  }
}
