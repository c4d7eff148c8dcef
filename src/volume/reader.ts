/**
 * Reads of a volume: at once what is in memory, on the pool what needs the disk.
 *
 * Invariants:
 * - A read never waits for the disk on the calling thread, but in `readNow`.
 * - Where reads nearly always miss, most go to the pool without a try: a try that misses makes the kernel start
 *   the read of the disk on the calling thread, which costs more than all the rest of the request.
 * - A read of the pool whose range is changed meanwhile is done again, in its place among the changes: a part of a sector
 *   might be new.
 * - As many reads are on the pool as were asked; the in-flight limits of the sessions bound them.
 * - Nothing is allocated for a read that is answered at once.
 */
import assert from 'node:assert';
import type { Clock } from '../io/clock.ts';
import { PENDING, Status } from '../io/device.ts';
import type { DeviceRequest } from '../io/device.ts';
import { WOULD_BLOCK } from '../io/disk.ts';
import type { ReadSource } from './layers/layer.ts';
import { PoolRead } from './pool-read.ts';
import { isZero } from './zeroing.ts';

/** Misses in a row after which reads are not tried on the calling thread. */
const MISSES_MAX = 32;
/** Of those one in so many is tried: the first that finds its bytes ends it. */
const PROBE_EVERY = 16;

/** Reads kept for reuse. More are left to the garbage collector. */
const SPARE_READS_MAX = 256;

export class Reader {
  /** Reads on the pool. */
  inFlight = 0;
  /** Reads so far that were answered at once, and that needed the pool. */
  atOnce = 0;
  pooled = 0;
  /** Tries in a row that found nothing in memory, and reads since that were not tried. */
  private misses = 0;
  private untried = 0;
  private over = false;
  /** Reads of requests on the pool. */
  private readonly requested: PoolRead[] = [];
  private readonly spare: PoolRead[] = [];
  private readonly source: ReadSource;
  private readonly clock: Clock;
  private readonly ended: () => void;
  private readonly again: ((request: DeviceRequest) => void) | null;

  /** `ended` is called when a read of the pool was answered; `again` takes one whose range was changed, where that can be. */
  constructor(
    source: ReadSource,
    clock: Clock,
    ended: () => void,
    again: ((request: DeviceRequest) => void) | null = null,
  ) {
    this.source = source;
    this.clock = clock;
    this.ended = ended;
    this.again = again;
  }

  /** The source is none any more: what is on the pool is answered ESHUTDOWN, and nothing follows. */
  stop(): void {
    this.over = true;
  }

  /** Told before a range is changed. */
  changing(offset: number, length: number): void {
    const end = offset + length;
    for (const read of this.requested) {
      const { request } = read;
      if (request !== null && request.offset < end && offset < request.offset + request.length) {
        read.changed = true;
      }
    }
  }

  /** Reads `request.length` bytes; 0, PENDING or an errno. */
  read(request: DeviceRequest): number {
    const { source } = this;
    const { offset } = request;
    const end = offset + request.length;
    if (end > source.sizeBytes) return Status.EINVAL;
    let position = offset;
    let start = request.start;
    while (position < end) {
      const runLength = source.runEndAt(position, end) - position;
      const layer = source.layerAt(position);
      if (layer !== null) {
        if (!this.mayTry()) return this.readOnPool(request, position, end);
        const result = layer.file.readNow(request.buffer, start, runLength, position);
        if (result < 0 && result !== WOULD_BLOCK) return -result;
        const count = Math.max(0, result);
        this.misses = count > 0 ? 0 : this.misses + 1;
        if (count < runLength) return this.readOnPool(request, position + count, end);
      } else {
        request.buffer.fill(0, start, start + runLength);
      }
      position += runLength;
      start += runLength;
    }
    this.atOnce += 1;
    return Status.OK;
  }

  /** Reads on the calling thread, blocking if it must; 0 or an errno. Sees every change applied so far. */
  readNow(buffer: Buffer, start: number, length: number, offset: number): number {
    const { source } = this;
    const end = offset + length;
    assert(end <= source.sizeBytes, 'the range is inside the volume');
    let position = offset;
    while (position < end) {
      const at = start + (position - offset);
      const runLength = source.runEndAt(position, end) - position;
      const layer = source.layerAt(position);
      if (layer !== null) {
        const result = layer.file.readBlocking(buffer, at, runLength, position);
        if (result <= 0) return result === 0 ? Status.EIO : -result;
        position += result;
      } else {
        buffer.fill(0, at, at + runLength);
        position += runLength;
      }
    }
    return Status.OK;
  }

  /** Reads on the pool; `callback` gets 0 or an errno, never before this returned. */
  readAt(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: (status: number) => void,
  ): void {
    const end = offset + length;
    assert(end <= this.source.sizeBytes, 'the range is inside the volume');
    if (isZero(this.source, offset, end)) {
      buffer.fill(0, start, start + length);
      this.clock.soon(() => callback(Status.OK));
      return;
    }
    const read = this.take();
    read.callback = callback;
    read.begin(buffer, start, offset, end);
  }

  /** As `readAt`; it is done again when its range is changed meanwhile. PENDING. */
  readLater(request: DeviceRequest): number {
    const { offset, length } = request;
    const end = offset + length;
    if (isZero(this.source, offset, end)) {
      const { buffer, start } = request;
      buffer.fill(0, start, start + length);
      this.clock.soon(() => request.complete(Status.OK));
      return PENDING;
    }
    this.begin(request, offset, end);
    return PENDING;
  }

  /** Whether a read may find its bytes in memory, or is one of the few that look whether others could. */
  private mayTry(): boolean {
    if (this.misses < MISSES_MAX) return true;
    this.untried += 1;
    if (this.untried < PROBE_EVERY) return false;
    this.untried = 0;
    return true;
  }

  private readOnPool(request: DeviceRequest, position: number, end: number): number {
    request.retain();
    this.pooled += 1;
    this.begin(request, position, end);
    return PENDING;
  }

  private begin(request: DeviceRequest, position: number, end: number): void {
    const read = this.take();
    read.request = request;
    read.changed = false;
    this.requested.push(read);
    read.begin(request.buffer, request.start + (position - request.offset), position, end);
  }

  private take(): PoolRead {
    this.inFlight += 1;
    return this.spare.pop() ?? new PoolRead(this.source, this.isOver, this.finished);
  }

  private readonly isOver = (): boolean => this.over;

  private readonly finished = (read: PoolRead, status: number): void => {
    const { request, callback, changed } = read;
    read.request = null;
    read.callback = null;
    if (this.spare.length < SPARE_READS_MAX) this.spare.push(read);
    this.inFlight -= 1;
    if (request === null) callback?.(status);
    else {
      this.forget(read);
      if (changed && status === Status.OK && this.again !== null) this.again(request);
      else request.complete(status);
    }
    this.ended();
  };

  private forget(read: PoolRead): void {
    const { requested } = this;
    const last = requested.pop();
    assert(last, 'it is among them');
    if (last !== read) requested[requested.indexOf(read)] = last;
  }
}
