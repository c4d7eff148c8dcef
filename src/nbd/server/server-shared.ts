/** What all connections of one server share: pools, limits and scratch. No state of any request lives here. */
import type { Clock } from '../../io/clock.ts';
import type { Extent } from '../../io/device.ts';
import { BufferPool } from '../transmission/buffer-pool.ts';
import { MemoryLimit } from './memory-limit.ts';
import { RequestPool } from '../transmission/nbd-request.ts';
import { SenderPool } from '../transmission/reply-queue.ts';
import type { NbdLimits } from './server-limits.ts';
import { newRequestHeader, type RequestHeader } from '../transmission/request-header.ts';
import { StatusWalk } from '../transmission/status-walk.ts';

export class ServerShared {
  readonly clock: Clock;
  readonly limits: NbdLimits;
  readonly buffers = new BufferPool();
  readonly requests = new RequestPool(this.buffers);
  readonly senders = new SenderPool();
  /** The header that is being looked at; overwritten by the next one. */
  readonly header: RequestHeader = newRequestHeader();
  /** What a context said last. */
  readonly extent: Extent = { end: 0, flags: 0 };
  readonly status = new StatusWalk();
  readonly memory: MemoryLimit;

  private viewed: Buffer | null = null;
  private view: DataView = new DataView(new ArrayBuffer(0));

  constructor(clock: Clock, limits: NbdLimits) {
    this.clock = clock;
    this.limits = limits;
    this.memory = new MemoryLimit(clock, this.buffers, limits.inFlightBytesTotal);
  }

  /** A view of `buffer`; remembered, because nearly all reads come in the same one. */
  viewOf(buffer: Buffer): DataView {
    if (this.viewed !== buffer) {
      this.viewed = buffer;
      this.view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
    }
    return this.view;
  }
}
