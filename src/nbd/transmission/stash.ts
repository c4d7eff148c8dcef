/**
 * Bytes that were received and not yet parsed, because a limit stopped the parser, or because it is not known
 * whether the client still means them.
 *
 * Invariants:
 * - At most NBD_STASH_BYTES_MAX and one read more: what one read brought, what came before a pause took
 *   effect, and what a client that said its last left in its socket.
 * - Memory is lent by the pool while there are bytes, and only then.
 */
import assert from 'node:assert';
import { NBD_READ_BUFFER_BYTES, NBD_STASH_BYTES_MAX } from '../../io/limits.ts';
import type { BufferPool, PooledBuffer } from './buffer-pool.ts';
import { NBD_CMD } from '../constants.ts';
import {
  decodeRequestHeader,
  newRequestHeader,
  payloadBytesOf,
  type RequestForm,
} from './request-header.ts';

const BYTES_MAX: number = NBD_STASH_BYTES_MAX + NBD_READ_BUFFER_BYTES;

export class Stash {
  start = 0;
  end = 0;
  private readonly buffers: BufferPool;
  private memory: PooledBuffer | null = null;

  constructor(buffers: BufferPool) {
    this.buffers = buffers;
  }

  get length(): number {
    return this.end - this.start;
  }

  /** Where the bytes are; there must be some. */
  get buffer(): PooledBuffer {
    assert(this.memory !== null);
    return this.memory;
  }

  append(buffer: Buffer, start: number, end: number): void {
    const length = this.length + end - start;
    assert(length <= BYTES_MAX, 'the connection goes on delivering after pause');
    const old = this.memory;
    if (old === null || old.capacity - this.end < end - start) {
      this.memory = this.buffers.take(length);
      if (old !== null) {
        old.bytes.copy(this.memory.bytes, 0, this.start, this.end);
        this.buffers.give(old);
      }
      this.end -= this.start;
      this.start = 0;
    }
    this.end += buffer.copy(this.buffer.bytes, this.end, start, end);
    assert(this.length === length);
  }

  /** Everything before `at` was parsed. */
  consumedTo(at: number): void {
    if (this.memory === null) return;
    assert(at >= this.start);
    assert(at <= this.end);
    this.start = at;
    if (this.length === 0) this.drop();
  }

  drop(): void {
    this.start = 0;
    this.end = 0;
    if (this.memory === null) return;
    this.buffers.give(this.memory);
    this.memory = null;
  }

  /**
   * Whether the bytes, of which the first `skip` belong to a request that began earlier and which then go on
   * after `head` (the first bytes of a header, parsed earlier), are whole requests up to a DISC: then the
   * client meant all of them.
   */
  holdsDisconnect(form: RequestForm, skip: number, head: Buffer): boolean {
    if (this.memory === null) return false;
    const bytes = this.memory.bytes.subarray(this.start, this.end);
    const whole = head.length === 0 ? bytes : Buffer.concat([head, bytes]);
    const view = new DataView(whole.buffer, whole.byteOffset, whole.length);
    const header = newRequestHeader();
    let at = skip;
    while (at + form.bytes <= whole.length) {
      decodeRequestHeader(form, view, at, header);
      if (header.magic !== form.magic) return false;
      if (header.command === NBD_CMD.DISC) return true;
      at += form.bytes + payloadBytesOf(form, header);
    }
    return false;
  }
}
