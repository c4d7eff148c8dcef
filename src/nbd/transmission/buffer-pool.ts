/**
 * Buffers by size class, kept for reuse.
 *
 * Invariants:
 * - A buffer is lent to one owner at a time; giving one back twice is a programmer error.
 * - Lent buffers hold bytes of earlier users. Whoever sends one sends only what was written.
 * - At most `keptBytesMax` are kept; what is given back beyond that goes to the garbage collector.
 */
import assert from 'node:assert';
import { POOL_BYTES_MAX } from '../../io/limits.ts';

/** Each class has this much beyond its power of two, so that a reply header and 2^n bytes fit. */
const SLACK_BYTES = 64;
const CLASS_LOG2_MIN = 12;
const CLASS_LOG2_MAX = 26;

export interface PooledBuffer {
  readonly bytes: Buffer;
  /** The same memory; twice as fast as Buffer for header fields. */
  readonly view: DataView;
  /** Bytes in all; at least what was asked for. */
  readonly capacity: number;
  lent: boolean;
}

export class BufferPool {
  private readonly classes: PooledBuffer[][] = [];
  private readonly keptBytesMax: number;
  /** Told each time that a buffer came back. */
  onFreed: () => void = () => {};
  private kept = 0;
  private lent = 0;

  constructor(keptBytesMax: number = POOL_BYTES_MAX) {
    this.keptBytesMax = keptBytesMax;
    for (let log2 = CLASS_LOG2_MIN; log2 <= CLASS_LOG2_MAX; log2++) this.classes.push([]);
  }

  /** Bytes waiting for reuse. */
  get keptBytes(): number {
    return this.kept;
  }

  /** Bytes in the hands of owners. */
  get lentBytes(): number {
    return this.lent;
  }

  /** Lends a buffer of at least `bytes` bytes, at most 64 MiB. Its content is undefined. */
  take(bytes: number): PooledBuffer {
    const log2 = Math.max(CLASS_LOG2_MIN, 32 - Math.clz32(Math.max(bytes - SLACK_BYTES, 1) - 1));
    const list = this.classes[log2 - CLASS_LOG2_MIN];
    assert(list, 'larger than any size class');
    const found = list.pop();
    const buffer = found ?? allocate(2 ** log2 + SLACK_BYTES);
    assert(!buffer.lent);
    if (found) this.kept -= buffer.capacity;
    this.lent += buffer.capacity;
    buffer.lent = true;
    return buffer;
  }

  /** Takes a buffer back. The caller and everything it passed the buffer to are done with it. */
  give(buffer: PooledBuffer): void {
    assert(buffer.lent, 'given back twice');
    buffer.lent = false;
    this.lent -= buffer.capacity;
    this.keep(buffer);
    this.onFreed();
  }

  private keep(buffer: PooledBuffer): void {
    if (this.kept + buffer.capacity > this.keptBytesMax) return;
    this.kept += buffer.capacity;
    const log2 = 31 - Math.clz32(buffer.capacity - SLACK_BYTES);
    const list = this.classes[log2 - CLASS_LOG2_MIN];
    assert(list, 'not a buffer of this pool');
    list.push(buffer);
  }
}

function allocate(capacity: number): PooledBuffer {
  const bytes = Buffer.allocUnsafeSlow(capacity);
  const view = new DataView(bytes.buffer, bytes.byteOffset, capacity);
  return { bytes, view, capacity, lent: false };
}
