/**
 * Replies to READs that have holes: a chunk for each run of the plan.
 *
 * The device reads once, from the first byte of data to the last, into one place; what lies in the holes
 * between is not sent. Each hole there has a block or more, so the headers of the chunks behind it fit into
 * its bytes: either the data moves down behind them (small replies, in the slab), or it stays where it is and
 * leaves in parts (large replies, in a buffer of their own).
 */
import assert from 'node:assert';
import type { PooledBuffer } from './buffer-pool.ts';
import type { NbdRequest } from './nbd-request.ts';
import {
  type ChunkForm,
  dataHeadBytes,
  holeChunkBytes,
  writeDataHead,
  writeHole,
} from './reply-codec.ts';
import type { ReplyQueue } from './reply-queue.ts';

export class SparseReplies {
  private readonly form: ChunkForm;
  private readonly queue: ReplyQueue;
  private readonly holeBytes: number;
  private readonly headBytes: number;

  constructor(form: ChunkForm, queue: ReplyQueue) {
    this.form = form;
    this.queue = queue;
    this.holeBytes = holeChunkBytes(form);
    this.headBytes = dataHeadBytes(form);
  }

  /** What the reply takes in the slab at most: a hole within it costs less than it saves. */
  slabBytes(request: NbdRequest): number {
    return 2 * this.holeBytes + this.headBytes + request.bytes;
  }

  /** From the beginning of the reply to the first byte of data. */
  leadBytes(request: NbdRequest): number {
    return (request.plan.isHole(0) ? this.holeBytes : 0) + this.headBytes;
  }

  /** Into the slab, from `source`, where the first byte of data lies at `base`; also from its place in the slab. */
  writeToSlab(request: NbdRequest, source: Buffer, base: number): void {
    const { plan } = request;
    const slab = this.queue.room(this.slabBytes(request));
    const moved = base - plan.startOf(plan.firstData);
    let { at } = this.queue;
    for (let run = 0; run < plan.count; run++) {
      if (plan.isHole(run)) {
        at = this.hole(request, run, slab, at);
        continue;
      }
      at = this.head(request, run, slab, at);
      const start = plan.startOf(run) + moved;
      const end = plan.endOf(run) + moved;
      assert(source !== slab.bytes || start >= at, 'data only moves down');
      if (source !== slab.bytes || start !== at) source.copy(slab.bytes, at, start, end);
      at += end - start;
    }
    this.queue.take(at - this.queue.at);
  }

  /** In parts, from the buffer that the request owns. The holes at both ends go through the slab. */
  sendInParts(request: NbdRequest, owned: PooledBuffer): void {
    const { plan } = request;
    const { queue } = this;
    const moved = request.base - plan.startOf(plan.firstData);
    queue.cork();
    if (plan.isHole(0)) this.holeInSlab(request, 0);
    request.owned = null;
    const sender = queue.lend(owned);
    for (let run = plan.firstData; run <= plan.lastData; run += 2) {
      const start = plan.startOf(run) + moved;
      let from = start - this.headBytes;
      if (run > plan.firstData) {
        from -= this.holeBytes;
        this.hole(request, run - 1, owned, from);
      }
      this.head(request, run, owned, start - this.headBytes);
      queue.sendPart(sender, from, plan.endOf(run) + moved);
    }
    if (plan.lastData < plan.count - 1) this.holeInSlab(request, plan.count - 1);
    queue.uncork();
  }

  private holeInSlab(request: NbdRequest, run: number): void {
    const slab = this.queue.room(this.holeBytes);
    this.hole(request, run, slab, this.queue.at);
    this.queue.take(this.holeBytes);
  }

  private hole(request: NbdRequest, run: number, memory: PooledBuffer, at: number): number {
    const { plan } = request;
    const start = plan.startOf(run);
    const done = run === plan.count - 1;
    writeHole(this.form, memory.view, at, done, start, plan.endOf(run) - start, request);
    return at + this.holeBytes;
  }

  private head(request: NbdRequest, run: number, memory: PooledBuffer, at: number): number {
    const { plan } = request;
    const start = plan.startOf(run);
    const done = run === plan.count - 1;
    writeDataHead(this.form, memory.view, at, done, start, plan.endOf(run) - start, request);
    return at + this.headBytes;
  }
}
