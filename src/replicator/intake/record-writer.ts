/**
 * Writes the records of epochs to a journal file, one batch at a time.
 *
 * Invariants:
 * - Small pieces travel together, through a buffer that is made once; large payloads are written from where they lie.
 * - A short batch goes into the page cache at once, as long as that is quick: the way to a thread and back takes longer.
 * - Nothing is kept of a batch after its callback.
 */
import type { Clock } from '../../io/clock.ts';
import {
  JOURNAL_AT_ONCE_BYTES_MAX,
  JOURNAL_DIRECT_BYTES_MIN,
  JOURNAL_GATHER_BYTES,
} from '../../io/limits.ts';
import { WritePace } from '../../volume/write-pace.ts';
import type { CompleteEpoch } from './epoch-assembly.ts';
import { aligned, encodeHead, headBytes } from './journal-codec.ts';
import type { JournalFile } from './journal-file.ts';

/** One call to the disk. */
interface Piece {
  readonly buffer: Buffer;
  readonly start: number;
  end: number;
  readonly position: number;
}

export class RecordWriter {
  private gather: Buffer | null = null;
  private gathered = 0;
  private pieces: Piece[] = [];
  private readonly pace = new WritePace();
  private readonly clock: Clock;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  /** Lays out the record of `epoch` behind those before it; false, with nothing done: it is for the next batch. */
  add(epoch: CompleteEpoch, position: number, place: { seed: number; synced: number }): boolean {
    const head = headBytes(epoch.frames.length);
    const isFirst = this.pieces.length === 0;
    if (!isFirst && this.gatherBytes(epoch, head) > JOURNAL_GATHER_BYTES - this.gathered) {
      return false;
    }
    let at = position;
    const space = this.room(head, at);
    encodeHead(space.buffer, space.at, epoch, place);
    at += head;
    for (const { payload } of epoch.frames) {
      const { buffer, length } = payload;
      if (length >= JOURNAL_DIRECT_BYTES_MIN) {
        this.pieces.push({ buffer, start: 0, end: length, position: at });
      } else {
        const room = this.room(aligned(length), at);
        buffer.copy(room.buffer, room.at, 0, length);
        room.buffer.fill(0, room.at + length, room.at + aligned(length));
      }
      at += aligned(length);
    }
    return true;
  }

  /** Writes what was added; 0, perhaps before it returned, or an errno, never before. */
  write(file: JournalFile, callback: (errno: number) => void): void {
    const { pieces } = this;
    this.pieces = [];
    this.gathered = 0;
    if (this.isQuick(pieces)) {
      const errno = this.writeNow(file, pieces);
      if (errno === 0) callback(0);
      else this.clock.soon(() => callback(errno));
      return;
    }
    const next = (index: number): void => {
      const piece = pieces[index];
      if (piece === undefined) {
        callback(0);
        return;
      }
      const { buffer, start, end, position } = piece;
      file.file.write(buffer, start, end - start, position, (count) => {
        if (count < 0) callback(-count);
        else next(index + 1);
      });
    };
    next(0);
  }

  private isQuick(pieces: readonly Piece[]): boolean {
    let bytes = 0;
    for (const { start, end } of pieces) bytes += end - start;
    if (bytes > JOURNAL_AT_ONCE_BYTES_MAX) return false;
    return !this.pace.pooled || !this.pace.retry(this.clock.now());
  }

  private writeNow({ file }: JournalFile, pieces: readonly Piece[]): number {
    for (const { buffer, start, end, position } of pieces) {
      const before = this.clock.now();
      const count = file.writeNow(buffer, start, end - start, position);
      this.pace.wrote(end - start, before, this.clock.now());
      if (count < 0) return -count;
    }
    return 0;
  }

  private gatherBytes({ frames }: CompleteEpoch, head: number): number {
    let bytes = head;
    for (const { payload } of frames) {
      if (payload.length < JOURNAL_DIRECT_BYTES_MIN) bytes += aligned(payload.length);
    }
    return bytes;
  }

  /** `bytes` of memory that are written at `position`: behind what was gathered, in one piece with it if it lies there. */
  private room(bytes: number, position: number): { buffer: Buffer; at: number } {
    this.gather ??= Buffer.allocUnsafeSlow(JOURNAL_GATHER_BYTES);
    if (this.gathered + bytes > this.gather.length) {
      // The one epoch of this batch has very many small frames.
      const buffer = Buffer.allocUnsafe(bytes);
      this.pieces.push({ buffer, start: 0, end: bytes, position });
      return { buffer, at: 0 };
    }
    const { gather, gathered } = this;
    this.gathered += bytes;
    const last = this.pieces.at(-1);
    if (last?.buffer === gather && last.position + (last.end - last.start) === position) {
      last.end += bytes;
    } else {
      this.pieces.push({ buffer: gather, start: gathered, end: gathered + bytes, position });
    }
    return { buffer: gather, at: gathered };
  }
}
