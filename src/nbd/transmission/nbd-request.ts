/**
 * One NBD request on its way through a device, and the pool that such objects come from.
 *
 * Invariants:
 * - A request is idle (in the pool), handed (inside a device method), pending (the device answers
 *   later) or done (answered, reply not yet written). It leaves the pool once and returns once.
 * - `owned` is memory lent by the buffer pool to this request alone; whoever ends the request gives it
 *   back or passes it on.
 */
import assert from 'node:assert';
import { DeviceRequest } from '../../io/device.ts';
import type { BufferPool, PooledBuffer } from './buffer-pool.ts';
import { ReadPlan } from './read-plan.ts';
import type { ReplyTo } from './reply-codec.ts';

export type RequestState = 'idle' | 'filling' | 'handed' | 'pending' | 'done';

const EMPTY = Buffer.alloc(0);

export class NbdRequest extends DeviceRequest implements ReplyTo {
  state: RequestState = 'idle';
  command = 0;
  flags = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offsetHigh = 0;
  offsetLow = 0;
  /** Where the client's range begins. Layers may move `offset`, never this. */
  origin = 0;
  /** Payload of a request, data of a READ; 0 for the rest. Layers may move `length`, never this. */
  bytes = 0;
  /** Room for the head of the reply before the data of a READ; 0 for the rest. */
  headBytes = 0;
  /** Of a READ: it follows `plan`, which has data and holes. */
  sparse = false;
  /** Where these bytes begin in `buffer`. Layers may move `start`, never this. */
  base = 0;
  owned: PooledBuffer | null = null;
  /** The device's answer, once done. */
  status = 0;
  /** Of the connection that it came by. */
  client: { readonly ending: boolean } | null = null;
  /** Next in the list of requests done, or in the pool. */
  next: NbdRequest | null = null;

  private readonly buffers: BufferPool;
  private holes: ReadPlan | null = null;

  constructor(buffers: BufferPool) {
    super();
    this.buffers = buffers;
  }

  /** Made for the first READ that needs one, and kept. */
  get plan(): ReadPlan {
    this.holes ??= new ReadPlan();
    return this.holes;
  }

  /** Narrows a READ to what its plan has to read: from the first byte of data to the last. */
  readByPlan(): void {
    const { plan } = this;
    this.sparse = true;
    this.offset = plan.startOf(plan.firstData);
    this.length = plan.endOf(plan.lastData) - this.offset;
    this.bytes = this.length;
  }

  /** Points the request at its bytes; `owned` memory is kept until the request ends. */
  place(buffer: Buffer, base: number): void {
    this.buffer = buffer;
    this.start = base;
    this.base = base;
  }

  /** Takes memory for the bytes, with room for the head of a reply before them. */
  own(): PooledBuffer {
    assert(this.owned === null);
    this.owned = this.buffers.take(this.headBytes + this.bytes);
    this.place(this.owned.bytes, this.headBytes);
    return this.owned;
  }

  override get ending(): boolean {
    return this.client?.ending === true;
  }

  override retain(): void {
    // A layer may ask again long after the device method returned, for bytes that are kept already.
    if (this.owned !== null || this.bytes === 0) return;
    assert(this.state === 'handed', 'retain is for the device method that was called');
    const { buffer, base, start } = this;
    const owned = this.own();
    // Also for a READ: a part of it may have been read before the device found that the rest blocks.
    buffer.copy(owned.bytes, this.base, base, base + this.bytes);
    this.start = this.base + (start - base);
  }
}

/** Requests of all connections of a server, for reuse. */
export class RequestPool {
  private readonly buffers: BufferPool;
  private first: NbdRequest | null = null;
  /** Requests that are out of the pool. */
  lent = 0;

  constructor(buffers: BufferPool) {
    this.buffers = buffers;
  }

  take(): NbdRequest {
    const request = this.first ?? new NbdRequest(this.buffers);
    assert(request.state === 'idle');
    this.first = request.next;
    request.next = null;
    this.lent++;
    return request;
  }

  /** Ends a request; gives its memory back unless it was passed on (`owned` set to null). */
  give(request: NbdRequest): void {
    assert(request.state !== 'idle', 'request ended twice');
    assert(request.state !== 'pending', 'the device still has it');
    if (request.owned !== null) this.buffers.give(request.owned);
    request.owned = null;
    request.buffer = EMPTY;
    request.client = null;
    request.state = 'idle';
    request.next = this.first;
    this.first = request;
    this.lent--;
  }
}
