/**
 * Sends the blocks of a delta run to a node: data as entries of RUN_DATA, zeroes as ranges of RUN_RANGES.
 *
 * Invariants:
 * - Every block of the set from where it began to `sentEnd` is in a frame that was sent, or in the table that `flush` sends.
 * - A block that reads as zeroes never travels as data, and not at all when the mirror began with zeroes.
 * - Data goes from the buffer that it was read into, which is in use until the link let go of it.
 */
import assert from 'node:assert';
import {
  BLOCK_BYTES,
  LINK_FRAME_BYTES_MAX,
  LINK_RANGES_MAX,
  ZERO_PART_BYTES,
} from '../../io/limits.ts';
import { WRITE_HEADER_BYTES, encodeWriteHeader } from '../../nbd/client/client-prepared.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';
import { bitOf, scan } from '../../volume/maps/leaf.ts';
import type { Examiner } from '../../workers/examiner.ts';
import { FrameKind } from '../link/link-types.ts';
import { RANGE_BYTES, encodeRanges } from '../link/ranges.ts';
import { BATCH_BLOCKS, LOOKS_MAX, type Placed, type RunBatch } from './run-batches.ts';
import { runThrough, type RunTools } from './run-pipeline.ts';
import type { RunBuffer } from './run-reader.ts';

export interface ShipperOptions {
  readonly tools: RunTools;
  readonly examiner: Examiner;
  /** What the frames of the run carry. */
  readonly number: number;
  /** The mirror began with zeroes. */
  readonly full: boolean;
  /** A batch was handed on. */
  readonly advanced: (batch: RunBatch) => Promise<void>;
}

interface Examined {
  readonly buffer: RunBuffer;
  /** Bit n: block n of the buffer is all zeroes. */
  readonly zero: Uint8Array;
}

/** Entries laid out for one frame. */
interface Entries {
  readonly chunks: Buffer[];
  bytes: number;
  count: number;
}

assert(
  BATCH_BLOCKS * (BLOCK_BYTES + WRITE_HEADER_BYTES) <= LINK_FRAME_BYTES_MAX,
  'a batch is a frame',
);
/** A table with so many ranges is sent: those of one more batch would still have had room. */
const TABLE_RANGES = LINK_RANGES_MAX / 2;
assert(TABLE_RANGES + LOOKS_MAX + BATCH_BLOCKS <= LINK_RANGES_MAX, 'a batch has room in a table');

export class RunShipper {
  /** Payload bytes of the frames so far. */
  bytesSent = 0;
  /** Frames sent so far. */
  frames = 0;
  /** The block before which everything wanted was sent, or stands in the table. */
  sentEnd = 0;
  private readonly options: ShipperOptions;
  private table: { offset: number; length: number; readonly trim: false }[] = [];

  constructor(options: ShipperOptions) {
    this.options = options;
  }

  /** Sends every block of `set` from block `from` on. */
  async ship(set: BlockSet, from: number): Promise<void> {
    this.sentEnd = from;
    await runThrough(
      this.options.tools,
      { set, from },
      {
        prepare: (batch, buffer) => this.examine(batch, buffer),
        handOn: (batch, examined) => this.handOn(batch, examined),
      },
    );
    await this.flush();
  }

  /** Sends the ranges that were gathered. */
  async flush(): Promise<void> {
    const { table } = this;
    const first = table[0];
    if (first === undefined) return;
    this.table = [];
    await this.options.tools.pace.room(table.length * RANGE_BYTES);
    const length = table.reduce((sum, range) => sum + range.length, 0);
    this.send(FrameKind.RUN_RANGES, { offset: first.offset, length }, [encodeRanges(table)]);
  }

  private async examine(batch: RunBatch, buffer: RunBuffer | null): Promise<Examined | null> {
    if (buffer === null) return null;
    const { zero } = await this.options.examiner.examine(
      buffer.data,
      null,
      batch.blocks * BLOCK_BYTES,
    );
    return { buffer, zero };
  }

  private async handOn(batch: RunBatch, examined: Examined | null): Promise<void> {
    for (const { first, count } of batch.zeroes) this.addZeroes(first, count);
    if (examined !== null) await this.sendData(batch, examined);
    if (this.table.length >= TABLE_RANGES) await this.flush();
    this.sentEnd = batch.end;
    await this.options.advanced(batch);
  }

  private async sendData(batch: RunBatch, { buffer, zero }: Examined): Promise<void> {
    const entries: Entries = { chunks: [], bytes: 0, count: 0 };
    for (const piece of batch.pieces) this.layOut(piece, buffer, zero, entries);
    const { reader, pace } = this.options.tools;
    if (entries.count === 0) {
      reader.give(buffer);
      return;
    }
    await pace.room(entries.bytes);
    const offset = (batch.spans[0]?.first ?? 0) * BLOCK_BYTES;
    this.send(FrameKind.RUN_DATA, { offset, length: entries.bytes }, entries.chunks, () => {
      reader.give(buffer);
      pace.wake();
    });
  }

  /** Cuts a piece into runs of data, which become entries, and of zeroes. */
  private layOut(piece: Placed, buffer: RunBuffer, zero: Uint8Array, entries: Entries): void {
    const end = piece.at + piece.count;
    for (let at = piece.at; at < end;) {
      const isZero = bitOf(zero, at);
      const stop = scan(zero, at, end, isZero);
      const first = piece.first + (at - piece.at);
      if (isZero) this.addZeroes(first, stop - at);
      else this.addEntry({ first, count: stop - at, at }, buffer, entries);
      at = stop;
    }
  }

  private addEntry({ first, count, at }: Placed, buffer: RunBuffer, entries: Entries): void {
    const length = count * BLOCK_BYTES;
    const headerAt = entries.count * WRITE_HEADER_BYTES;
    const offset = first * BLOCK_BYTES;
    const { number: batch } = this.options;
    encodeWriteHeader(buffer.headers, headerAt, { offset, length, batch, index: entries.count });
    entries.chunks.push(
      buffer.headers.subarray(headerAt, headerAt + WRITE_HEADER_BYTES),
      buffer.data.subarray(at * BLOCK_BYTES, at * BLOCK_BYTES + length),
    );
    entries.bytes += WRITE_HEADER_BYTES + length;
    entries.count += 1;
  }

  private addZeroes(first: number, count: number): void {
    if (this.options.full) return;
    const offset = first * BLOCK_BYTES;
    const length = count * BLOCK_BYTES;
    const last = this.table.at(-1);
    const follows = last !== undefined && last.offset + last.length === offset;
    if (follows && last.length + length <= ZERO_PART_BYTES) last.length += length;
    else this.table.push({ offset, length, trim: false });
  }

  private send(
    kind: FrameKind,
    about: { readonly offset: number; readonly length: number },
    payload: Buffer[],
    sent?: () => void,
  ): void {
    const { tools, number } = this.options;
    const header = { kind, flags: 0, volume: 0, epoch: number, index: this.frames, aux: 0 };
    this.frames += 1;
    for (const { length } of payload) this.bytesSent += length;
    tools.pace.link.send({ ...header, ...about }, payload, sent);
  }
}
