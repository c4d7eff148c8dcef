/**
 * One epoch: the final content of every block that a run of consecutive writes touched.
 *
 * Invariants:
 * - Each block is in an epoch at most once: in one payload entry, or in zero ranges. So the parts of an
 *   epoch may be applied in any order, and overlapping writes are folded (design section 8).
 * - What a link took (`take`, also while the epoch is open) never changes again: entries and ranges that were
 *   taken do not grow, and their blocks are not overwritten. A write to such a block cannot be folded: the
 *   queue ends the epoch before it, so that the first invariant holds for every kind of mirror.
 * - A closed epoch never changes.
 * - Entries are whole blocks. Headers stand directly in front of their payload, so the used part of a
 *   slab is a run of complete NBD requests that can be sent as it is.
 */
import assert from 'node:assert';
import {
  BLOCK_BYTES,
  EPOCH_ENTRIES_MAX,
  EPOCH_ZERO_RANGES_MAX,
  STAGING_SLAB_BYTES,
} from '../../io/limits.ts';
import {
  encodeWriteHeader,
  encodeWriteLength,
  WRITE_HEADER_BYTES,
} from '../../nbd/client/client-prepared.ts';
import type { EpochCursor } from './epoch-cursor.ts';
import type { StoredEpoch } from './epoch-spill.ts';
import type { StreamCommand } from '../link/messages.ts';
import type { Slab, SlabPool } from './slab.ts';

/** Payload bytes of one entry at most: small enough for every NBD server, large enough not to matter. */
export const ENTRY_BYTES_MAX: number = 256 * 1024;

/** Why an epoch was closed. `barrier`: for a FLUSH or FUA. */
export type CloseReason = 'barrier' | 'size' | 'age' | 'conflict' | 'command';

export interface ZeroRange {
  readonly offset: number;
  readonly length: number;
  /** The host gave it up; else it was zeroed. */
  readonly trim: boolean;
}

/** A run of complete entries in one slab. */
export interface Segment {
  readonly slab: Slab;
  readonly start: number;
  end: number;
}

/** Where the writer stands: the slab that takes the next payload, shared by consecutive epochs. */
export class SlabWriter {
  private slab: Slab | null = null;
  private readonly pool: SlabPool;

  constructor(pool: SlabPool) {
    this.pool = pool;
  }

  /** A slab with room for a header and at least one block. */
  withRoom(): Slab {
    if (this.slab !== null && this.slab.free >= WRITE_HEADER_BYTES + BLOCK_BYTES) return this.slab;
    this.slab?.release();
    this.slab = this.pool.take();
    return this.slab;
  }

  /** Lets go of the slab: what comes next begins another. */
  close(): void {
    this.slab?.release();
    this.slab = null;
  }
}

export class Epoch {
  readonly number: number;
  /** Clock time of the first write in it; 0 while empty. */
  openedAt = 0;
  closed: CloseReason | null = null;
  /** Wall-clock milliseconds of its close; 0 while open. */
  closedAt = 0;
  /** A FLUSH or FUA of the host stands behind it; known at its close, or found out after. */
  barrier = false;
  /** Runs on a peer behind the writes of this epoch. */
  command: StreamCommand | null = null;
  /** Payload bytes, and entries that carry them. */
  bytes = 0;
  entryCount = 0;
  readonly zeroes: ZeroRange[] = [];
  /** Payload bytes appended to the queue up to the end of this epoch, since it began. */
  cumulativeBytes = 0;

  /** Where its payload is while it is on disk only; null: in memory. */
  stored: StoredEpoch | null = null;
  /** The queue let it go. */
  released = false;

  private readonly writer: SlabWriter;
  private ownSegments: Segment[] = [];
  /** What was taken: places below this one, and zero ranges. */
  private takenPlace = 0;
  private takenZeroes = 0;
  /** Block -> where its payload is: index of the slab in `slabs` * slab size + position in the slab. */
  private readonly places = new Map<number, number>();
  private slabs: Slab[] = [];
  /** Of each entry; the last one may still grow. */
  private offsets: number[] = [];
  private lengths: number[] = [];
  private entryHeader = -1;
  private entryEnd = -1;
  private entryLength = 0;
  private entrySlab: Slab | null = null;

  constructor(number: number, writer: SlabWriter) {
    this.number = number;
    this.writer = writer;
  }

  /** Runs of entries in their order. None while the payload is on disk. */
  get segments(): readonly Segment[] {
    return this.ownSegments;
  }

  get empty(): boolean {
    return this.entryCount === 0 && this.zeroes.length === 0;
  }

  /** No more entries fit: the queue closes the epoch. */
  get full(): boolean {
    return this.entryCount >= EPOCH_ENTRIES_MAX || this.zeroes.length >= EPOCH_ZERO_RANGES_MAX;
  }

  /** Whether a payload for these blocks must wait for the next epoch. */
  conflictsWithZeroes(offset: number, length: number): boolean {
    for (const zero of this.zeroes) {
      if (offset < zero.offset + zero.length && zero.offset < offset + length) return true;
    }
    return false;
  }

  /** Whether a zero range over these bytes must wait for the next epoch. */
  conflictsWithPayload(offset: number, length: number): boolean {
    if (this.places.size === 0) return false;
    const first = offset / BLOCK_BYTES;
    const end = (offset + length) / BLOCK_BYTES;
    if (end - first <= this.places.size) {
      for (let block = first; block < end; block += 1) if (this.places.has(block)) return true;
      return false;
    }
    for (const block of this.places.keys()) if (block >= first && block < end) return true;
    return false;
  }

  /** Whether a link took one of these blocks already: a new content of it must wait for the next epoch. */
  conflictsWithTaken(offset: number, length: number): boolean {
    if (this.takenPlace === 0) return false;
    const end = (offset + length) / BLOCK_BYTES;
    for (let block = offset / BLOCK_BYTES; block < end; block += 1) {
      const place = this.places.get(block);
      if (place !== undefined && place < this.takenPlace) return true;
    }
    return false;
  }

  /** Payload bytes of entry `index`. */
  entryBytes(index: number): number {
    const length = this.lengths[index];
    assert(length !== undefined, 'an entry of the epoch');
    return length;
  }

  /** Adds whole blocks; blocks that are in the epoch already are overwritten where they are. */
  add(offset: number, buffer: Buffer, start: number, length: number): void {
    assert(this.closed === null, 'a closed epoch never changes');
    assert(offset % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0, 'entries are whole blocks');
    const end = offset + length;
    let fresh = offset;
    for (let at = offset; at < end; at += BLOCK_BYTES) {
      const place = this.places.get(at / BLOCK_BYTES);
      if (place === undefined) continue;
      if (fresh < at) this.append(fresh, buffer, start + (fresh - offset), at - fresh);
      this.overwrite(place, buffer, start + (at - offset));
      fresh = at + BLOCK_BYTES;
    }
    if (fresh < end) this.append(fresh, buffer, start + (fresh - offset), end - fresh);
  }

  addZeroes(offset: number, length: number, trim: boolean): void {
    assert(this.closed === null, 'a closed epoch never changes');
    const last = this.zeroes.at(-1);
    const grows = this.zeroes.length > this.takenZeroes && last?.trim === trim;
    if (last !== undefined && grows && last.offset + last.length === offset) {
      const all = { offset: last.offset, length: last.length + length, trim };
      this.zeroes[this.zeroes.length - 1] = all;
    } else {
      this.zeroes.push({ offset, length, trim });
    }
  }

  /** `wall`: wall-clock milliseconds. */
  close(reason: CloseReason, wall: number): void {
    assert(this.closed === null, 'closed once');
    this.closed = reason;
    this.closedAt = wall;
    this.barrier = reason === 'barrier';
    this.places.clear();
  }

  /** All up to where `cursor` stands was handed to a link: it stays as it is from now on. */
  freeze(cursor: EpochCursor): void {
    assert(!this.released, 'what is gone cannot be taken');
    this.takenZeroes = Math.max(this.takenZeroes, cursor.zeroes);
    if (cursor.entry === 0) return;
    const start = this.ownSegments[cursor.segment]?.start;
    assert(start !== undefined, 'what was taken lies in a segment');
    const place = cursor.segment * STAGING_SLAB_BYTES + start + cursor.taken;
    this.takenPlace = Math.max(this.takenPlace, place);
    if (cursor.entry === this.entryCount) this.entrySlab = null;
  }

  /** The wire form of all entries: complete requests back to back. Valid until `release`. */
  chunks(): Buffer[] {
    assert(this.closed !== null && !this.released && this.stored === null);
    return this.segments.map(({ slab, start, end }) => slab.buffer.subarray(start, end));
  }

  /** Every range that the epoch changes: what becomes delta bits when a mirror leaves the stream. */
  eachRange(visit: (offset: number, length: number) => void): void {
    for (const zero of this.zeroes) visit(zero.offset, zero.length);
    this.eachPayload(visit);
  }

  /** Every range that it has a payload for. */
  eachPayload(visit: (offset: number, length: number) => void): void {
    assert(!this.released);
    for (let index = 0; index < this.entryCount; index += 1) {
      const offset = this.offsets[index];
      const length = this.lengths[index];
      assert(offset !== undefined && length !== undefined);
      visit(offset, length);
    }
  }

  /** The payload is on disk: its memory is free. */
  toDisk(stored: StoredEpoch): void {
    assert(this.closed !== null && !this.released && this.stored === null, 'a closed epoch');
    this.stored = stored;
    this.giveBack();
  }

  /** The payload is in memory again: the same runs of entries, each with a hold on its slab. */
  toMemory(segments: Segment[]): void {
    assert(!this.released && this.stored !== null, 'an epoch on disk');
    this.stored = null;
    this.ownSegments = segments;
    this.slabs = segments.map(({ slab }) => slab);
  }

  /** Keeps the payloads alive for a send in flight, beyond the life of the epoch in the queue. */
  holdSlabs(): () => void {
    const held = [...this.slabs];
    for (const slab of held) slab.hold();
    return () => {
      for (const slab of held) slab.release();
    };
  }

  /** Its payloads are not needed any more, nor what was where: the queue keeps the epoch itself a while longer. */
  release(): void {
    assert(!this.released, 'released once');
    this.released = true;
    this.giveBack();
    this.offsets = [];
    this.lengths = [];
  }

  /** Gives back the slabs. A slab that is still reached from here would stay in memory, though its pool has no use for it. */
  private giveBack(): void {
    for (const slab of this.slabs) slab.release();
    this.slabs = [];
    this.ownSegments = [];
    this.entrySlab = null;
  }

  private append(offset: number, buffer: Buffer, start: number, length: number): void {
    let from = start;
    let at = offset;
    let left = length;
    while (left > 0) {
      const taken = this.extend(at, buffer, from, left) || this.begin(at, buffer, from, left);
      from += taken;
      at += taken;
      left -= taken;
    }
    this.bytes += length;
  }

  /** Continues the last entry when the bytes follow on it; returns the bytes taken. */
  private extend(offset: number, buffer: Buffer, start: number, length: number): number {
    const slab = this.entrySlab;
    if (slab === null || offset !== this.entryEnd || this.writer.withRoom() !== slab) return 0;
    const room = Math.min(ENTRY_BYTES_MAX - this.entryLength, slab.free);
    const taken = Math.min(length, room - (room % BLOCK_BYTES));
    if (taken <= 0) return 0;
    this.copy(slab, offset, buffer, start, taken);
    this.entryLength += taken;
    this.entryEnd += taken;
    this.lengths[this.entryCount - 1] = this.entryLength;
    encodeWriteLength(slab.buffer, this.entryHeader, this.entryLength);
    return taken;
  }

  private begin(offset: number, buffer: Buffer, start: number, length: number): number {
    const slab = this.writer.withRoom();
    const room = Math.min(ENTRY_BYTES_MAX, slab.free - WRITE_HEADER_BYTES);
    const taken = Math.min(length, room - (room % BLOCK_BYTES));
    assert(taken > 0);
    this.entryHeader = slab.used;
    this.entryLength = taken;
    this.entryEnd = offset + taken;
    this.entrySlab = slab;
    this.openSegment(slab);
    encodeWriteHeader(slab.buffer, slab.used, {
      offset,
      length: taken,
      batch: this.number,
      index: this.entryCount,
    });
    slab.used += WRITE_HEADER_BYTES;
    this.offsets.push(offset);
    this.lengths.push(taken);
    this.entryCount += 1;
    this.copy(slab, offset, buffer, start, taken);
    return taken;
  }

  private openSegment(slab: Slab): void {
    if (this.slabs.at(-1) === slab) return;
    slab.hold();
    this.slabs.push(slab);
    this.ownSegments.push({ slab, start: slab.used, end: slab.used });
  }

  private copy(slab: Slab, offset: number, buffer: Buffer, start: number, length: number): void {
    buffer.copy(slab.buffer, slab.used, start, start + length);
    const base = (this.slabs.length - 1) * STAGING_SLAB_BYTES + slab.used;
    const first = offset / BLOCK_BYTES;
    for (let index = 0; index * BLOCK_BYTES < length; index += 1) {
      this.places.set(first + index, base + index * BLOCK_BYTES);
    }
    slab.used += length;
    const segment = this.ownSegments.at(-1);
    assert(segment !== undefined && segment.slab === slab);
    segment.end = slab.used;
  }

  private overwrite(place: number, buffer: Buffer, start: number): void {
    const slab = this.slabs[Math.floor(place / STAGING_SLAB_BYTES)];
    assert(slab !== undefined);
    buffer.copy(slab.buffer, place % STAGING_SLAB_BYTES, start, start + BLOCK_BYTES);
  }
}
