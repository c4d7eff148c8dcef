/**
 * Bytes that were received and not yet parsed, because a limit stopped the parser.
 *
 * Invariants:
 * - At most STASH_BYTES_MAX: what one read brought, and what came before the pause took effect.
 * - Memory is lent by the pool while there are bytes, and only then.
 */
import assert from 'node:assert';
import { NBD_READ_BUFFER_BYTES } from '../io/limits.ts';
import type { BufferPool, PooledBuffer } from './buffer-pool.ts';
import { NBD_CMD, NBD_REQUEST_BYTES, NBD_REQUEST_MAGIC } from './constants.ts';
import { decodeRequestHeader, newRequestHeader } from './request-header.ts';
import { payloadBytesOf } from './validate.ts';

const STASH_BYTES_MAX: number = 4 * NBD_READ_BUFFER_BYTES;

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
    assert(length <= STASH_BYTES_MAX, 'the connection goes on delivering after pause');
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
   * Whether the bytes, which begin on a request after `head` (its first bytes, parsed earlier), are
   * whole requests up to a DISC: then the client meant all of them.
   */
  holdsDisconnect(head: Buffer): boolean {
    if (this.memory === null) return false;
    const bytes = Buffer.concat([head, this.memory.bytes.subarray(this.start, this.end)]);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const header = newRequestHeader();
    let at = 0;
    while (at + NBD_REQUEST_BYTES <= bytes.length) {
      decodeRequestHeader(view, at, header);
      if (header.magic !== NBD_REQUEST_MAGIC) return false;
      if (header.command === NBD_CMD.DISC) return true;
      at += NBD_REQUEST_BYTES + payloadBytesOf(header);
    }
    return false;
  }
}
