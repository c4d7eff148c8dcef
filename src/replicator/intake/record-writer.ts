/**
 * Writes the records of epochs to a journal file, one batch at a time.
 *
 * Invariants:
 * - Small pieces travel together, through a buffer that is made once; large payloads are written from where they lie.
 * - Nothing is kept of a batch after its callback.
 */
import { JOURNAL_DIRECT_BYTES_MIN, JOURNAL_GATHER_BYTES } from '../../io/limits.ts';
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

  /** Writes what was added; 0 or an errno. */
  write(file: JournalFile, callback: (errno: number) => void): void {
    const { pieces } = this;
    this.pieces = [];
    this.gathered = 0;
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
