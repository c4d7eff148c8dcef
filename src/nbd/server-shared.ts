/** What all connections of one server share: pools and scratch. No state of any request lives here. */
import type { Clock } from '../io/clock.ts';
import { BufferPool } from './buffer-pool.ts';
import { RequestPool } from './nbd-request.ts';
import { SenderPool } from './reply-queue.ts';
import type { NbdLimits } from './server-limits.ts';
import { newRequestHeader, type RequestHeader } from './request-header.ts';

export class ServerShared {
  readonly clock: Clock;
  readonly limits: NbdLimits;
  readonly buffers = new BufferPool();
  readonly requests = new RequestPool(this.buffers);
  readonly senders = new SenderPool();
  /** The header that is being looked at; overwritten by the next one. */
  readonly header: RequestHeader = newRequestHeader();

  private viewed: Buffer | null = null;
  private view: DataView = new DataView(new ArrayBuffer(0));

  constructor(clock: Clock, limits: NbdLimits) {
    this.clock = clock;
    this.limits = limits;
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
