/**
 * Copies one end to the other: in order, several requests at a time, zeroes as zeroes.
 *
 * Invariants:
 * - `position` counts only what is in the target: all below it was copied. It becomes durable with a flush,
 *   and only then is the bookmark told of it.
 * - At most TRANSFER_CHUNKS_IN_FLIGHT_MAX parts are on their way, each with one buffer that is used again.
 * - No block of zeroes is written as data: neither those of a hole nor those found in the bytes.
 * - After the first failure, or when asked to stop, nothing new begins; what is on its way ends first.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import {
  BLOCK_BYTES,
  TRANSFER_BOOKMARK_MS,
  TRANSFER_CHUNKS_IN_FLIGHT_MAX,
  TRANSFER_CHUNK_BYTES,
  TRANSFER_HOLE_BYTES_MIN,
  TRANSFER_ZERO_BYTES_MAX,
} from '../../io/limits.ts';
import { zeroBlocks } from '../../workers/kernels.ts';
import type { TransferSource, TransferTarget } from './transfer-ends.ts';

export interface TransferOptions {
  readonly source: TransferSource;
  readonly target: TransferTarget;
  readonly clock: Clock;
  /** Where to begin, a multiple of TRANSFER_CHUNK_BYTES: all before it is in the target. */
  readonly from: number;
  /** The target reads as zeroes from there on: zeroes need no request. */
  readonly targetIsZero: boolean;
  /** Make what the target has beyond the source zero. */
  readonly zeroTail: boolean;
  /** Called with a position that is durable in the target, now and then. */
  readonly bookmark: (position: number) => void;
  readonly signal: AbortSignal;
}

export interface TransferCounts {
  /** Everything before it was copied, holes included. */
  readonly position: number;
  readonly totalBytes: number;
  /** Written as data since this began. */
  readonly dataBytes: number;
  /** Not written, as they read as zeroes, since this began. */
  readonly zeroBytes: number;
}

interface Part {
  readonly end: number;
  readonly zero: boolean;
  done: boolean;
}

export class Transfer {
  private readonly options: TransferOptions;
  private readonly blockBytes: number;
  private readonly totalBytes: number;
  /** Buffers of parts to come; null where none was needed yet. */
  private readonly idle: (Buffer | null)[] = [];
  private inFlight = 0;
  /** On their way, or done before an earlier one. In order. */
  private readonly parts: Part[] = [];
  private wake: (() => void) | null = null;
  private failure: { readonly thrown: unknown } | null = null;
  private position: number;
  private saved: number;
  private savedAt: number;
  private saving: Promise<void> | null = null;
  /** A flush failed: what it was about may be lost, whatever the next one says. */
  private flushFailed = false;
  private dataBytes = 0;
  private zeroBytes = 0;

  constructor(options: TransferOptions) {
    const { source, target, from, zeroTail, clock } = options;
    assert(from % TRANSFER_CHUNK_BYTES === 0, 'a copy begins between chunks');
    assert(source.sizeBytes <= target.sizeBytes, 'the target was found large enough');
    this.options = options;
    this.blockBytes = Math.max(BLOCK_BYTES, source.blockBytes, target.blockBytes);
    this.totalBytes = zeroTail ? target.sizeBytes : source.sizeBytes;
    this.position = from;
    this.saved = from;
    this.savedAt = clock.now();
  }

  get counts(): TransferCounts {
    const { position, totalBytes, dataBytes, zeroBytes } = this;
    return { position, totalBytes, dataBytes, zeroBytes };
  }

  /** True when everything is in the target and durable; false when it was asked to stop before. */
  async run(): Promise<boolean> {
    try {
      await this.copy();
    } catch (thrown) {
      this.failure ??= { thrown };
    }
    while (this.inFlight > 0) await this.change();
    await this.saving;
    if (this.failure !== null) {
      // What came over before is worth a bookmark; the failure is what there is to tell.
      await this.save().catch(() => {});
      throw this.failure.thrown;
    }
    await this.save();
    return this.position === this.totalBytes;
  }

  private async copy(): Promise<void> {
    let at = this.options.from;
    while (at < this.totalBytes && !this.over) {
      const part = await this.nextPart(at);
      while (this.inFlight === TRANSFER_CHUNKS_IN_FLIGHT_MAX) await this.change();
      if (this.over) return;
      this.begin(at, part);
      at = part.end;
    }
  }

  private get over(): boolean {
    return this.failure !== null || this.options.signal.aborted;
  }

  /** Resolves when a part has ended. */
  private change(): Promise<void> {
    return new Promise((resolve) => {
      this.wake = resolve;
    });
  }

  private async nextPart(at: number): Promise<Part> {
    const { source, targetIsZero } = this.options;
    if (at >= source.sizeBytes) return this.zeroPart(at, this.totalBytes);
    const run = await source.runAt(at);
    if (run.zero) {
      // Blocks that are zero only in part are read; the last one of the source is zero to its end.
      const end = run.end === source.sizeBytes ? run.end : this.blockFloor(run.end);
      if (end > at) return targetIsZero ? zeroPart(end) : this.zeroPart(at, end);
    }
    return { end: await this.dataEnd(at, run.end), zero: false, done: false };
  }

  private zeroPart(at: number, end: number): Part {
    return zeroPart(Math.min(end, at + TRANSFER_ZERO_BYTES_MAX));
  }

  /** Data goes to the end of its chunk: short holes are read with it, and found in the bytes. */
  private async dataEnd(at: number, runEnd: number): Promise<number> {
    const { source } = this.options;
    const chunkEnd = at - (at % TRANSFER_CHUNK_BYTES) + TRANSFER_CHUNK_BYTES;
    const limit = Math.min(chunkEnd, source.sizeBytes);
    let end = runEnd;
    while (end < limit) {
      const run = await source.runAt(end);
      if (run.zero && run.end - end >= TRANSFER_HOLE_BYTES_MIN) break;
      end = run.end;
    }
    return Math.min(limit, this.blockCeiling(end));
  }

  private begin(at: number, part: Part): void {
    const buffer = this.idle.pop() ?? null;
    this.parts.push(part);
    this.inFlight += 1;
    void this.perform(at, part, buffer).finally(() => {
      this.inFlight -= 1;
      this.advance();
    });
  }

  private async perform(at: number, part: Part, buffer: Buffer | null): Promise<void> {
    try {
      if (part.zero) await this.copyZeroes(at, part.end);
      this.idle.push(part.zero ? buffer : await this.copyData(buffer, at, part.end));
      part.done = true;
    } catch (thrown) {
      // Its place in the row stays: the position does not pass it.
      this.failure ??= { thrown };
    }
  }

  private advance(): void {
    for (let first = this.parts[0]; first?.done === true; first = this.parts[0]) {
      this.position = first.end;
      this.parts.shift();
    }
    this.saveSometimes();
    const { wake } = this;
    this.wake = null;
    wake?.();
  }

  private async copyZeroes(at: number, end: number): Promise<void> {
    const { target, targetIsZero } = this.options;
    // What follows the last block of the source begins with a block.
    const from = this.blockCeiling(at);
    const bytes = this.paddedEnd(end) - from;
    if (!targetIsZero && bytes > 0) await target.zero(from, bytes);
    this.zeroBytes += end - at;
  }

  private async copyData(free: Buffer | null, at: number, end: number): Promise<Buffer> {
    const { source, target, targetIsZero } = this.options;
    const buffer = free ?? Buffer.alloc(TRANSFER_CHUNK_BYTES);
    const length = end - at;
    await source.read(buffer, 0, length, at);
    // A source may end inside a block; the target is zero behind it, or ends there too.
    const padded = this.blockCeiling(length);
    buffer.fill(0, length, padded);
    const writes: Promise<void>[] = [];
    let dataBytes = 0;
    let zeroBytes = 0;
    for (const run of zeroRuns(buffer, padded, this.blockBytes)) {
      const from = at + run.start;
      const bytes = Math.min(this.paddedEnd(at + run.end), target.sizeBytes) - from;
      if (run.zero) zeroBytes += bytes;
      else dataBytes += bytes;
      if (!run.zero) writes.push(target.write(buffer, run.start, bytes, from));
      else if (!targetIsZero) writes.push(target.zero(from, bytes));
    }
    // All of them, so that the buffer is free afterwards whatever happened.
    const results = await Promise.allSettled(writes);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    this.dataBytes += dataBytes;
    this.zeroBytes += zeroBytes;
    return buffer;
  }

  /** Requests to the target end with a block, or with the target. */
  private paddedEnd(end: number): number {
    return Math.min(this.blockCeiling(end), this.options.target.sizeBytes);
  }

  private blockFloor(offset: number): number {
    return offset - (offset % this.blockBytes);
  }

  private blockCeiling(offset: number): number {
    return this.blockFloor(offset + this.blockBytes - 1);
  }

  private saveSometimes(): void {
    const now = this.options.clock.now();
    if (this.saving !== null || now - this.savedAt < TRANSFER_BOOKMARK_MS) return;
    this.saving = this.save()
      .catch((thrown: unknown) => {
        this.failure ??= { thrown };
      })
      .finally(() => {
        this.saving = null;
      });
  }

  /** Makes durable what was copied, and then says so. */
  private async save(): Promise<void> {
    if (this.flushFailed) return;
    const { position } = this;
    try {
      await this.options.target.flush();
    } catch (error) {
      this.flushFailed = true;
      throw error;
    }
    this.savedAt = this.options.clock.now();
    const place =
      position === this.totalBytes ? position : position - (position % TRANSFER_CHUNK_BYTES);
    if (place <= this.saved) return;
    this.saved = place;
    this.options.bookmark(place);
  }
}

function zeroPart(end: number): Part {
  return { end, zero: true, done: false };
}

interface ZeroRun {
  readonly start: number;
  readonly end: number;
  readonly zero: boolean;
}

/** `buffer[0 .. length)`, whole blocks of `blockBytes`, cut where zeroes begin and end. */
function* zeroRuns(buffer: Buffer, length: number, blockBytes: number): Generator<ZeroRun> {
  const marks = zeroBlocks(buffer, length);
  const isZero = (from: number): boolean => {
    for (let at = from; at < from + blockBytes; at += BLOCK_BYTES) {
      const block = at / BLOCK_BYTES;
      if (((marks[block >> 3] ?? 0) & (1 << (block & 7))) === 0) return false;
    }
    return true;
  };
  let start = 0;
  let zero = isZero(0);
  for (let at = blockBytes; at < length; at += blockBytes) {
    const next = isZero(at);
    if (next === zero) continue;
    yield { start, end: at, zero };
    start = at;
    zero = next;
  }
  yield { start, end: length, zero };
}
