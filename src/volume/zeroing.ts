/**
 * How a range becomes zeroes: the next piece of work for the disk, decided one at a time.
 *
 * Invariants:
 * - Whole blocks are punched (or provisioned, with `noHole`); edges that are not whole blocks are written.
 * - What already reads as zeroes costs nothing, unless it is to be provisioned.
 * - Where the disk cannot punch or provision, zeroes are written in bounded pieces.
 */
import { BLOCK_BYTES, ZERO_PUNCH_BYTES_MAX, ZERO_WRITE_BYTES_MAX } from '../io/limits.ts';
import type { Operation } from './operation-queue.ts';
import type { ReadSource } from './pool-read.ts';

/** Bytes of zeroes to write from. Never written to. */
export const ZEROES: Buffer = Buffer.alloc(ZERO_WRITE_BYTES_MAX);

/** What the disk of a volume turned out to be able to do. */
export interface ZeroAbilities {
  punch: boolean;
  provision: boolean;
}

/** Whether the range reads as zeroes by the map alone. */
export function isZero(source: ReadSource, offset: number, end: number): boolean {
  return !source.isDataAt(offset) && source.runEndAt(offset, end) === end;
}

/** Sets the operation's next piece, from its position; false when there is none left. */
export function nextPiece(
  operation: Operation,
  source: ReadSource,
  can: Readonly<ZeroAbilities>,
): boolean {
  const noHole = operation.request?.noHole === true;
  const { end } = operation;
  while (operation.position < end) {
    const { position } = operation;
    const runEnd = source.runEndAt(position, end);
    if (!noHole && !source.isDataAt(position)) {
      operation.position = runEnd;
      continue;
    }
    const blockStart = Math.floor(position / BLOCK_BYTES) * BLOCK_BYTES;
    if (position !== blockStart || end - position < BLOCK_BYTES) {
      operation.piece = 'write';
      operation.pieceEnd = Math.min(end, blockStart + BLOCK_BYTES);
      return true;
    }
    const wholeEnd = Math.floor(end / BLOCK_BYTES) * BLOCK_BYTES;
    if (noHole ? can.provision : can.punch) {
      operation.piece = noHole ? 'provision' : 'punch';
      operation.pieceEnd = Math.min(wholeEnd, position + ZERO_PUNCH_BYTES_MAX);
    } else {
      const limit = Math.min(wholeEnd, position + ZERO_WRITE_BYTES_MAX);
      operation.piece = 'write';
      operation.pieceEnd = noHole ? limit : Math.min(limit, runEnd);
    }
    return true;
  }
  return false;
}
