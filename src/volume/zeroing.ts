/**
 * How a range becomes zeroes: the next piece of work for the disk, decided one at a time.
 *
 * Invariants:
 * - Whole blocks are punched (or provisioned, with `noHole`); edges that are not whole blocks are written.
 * - What already reads as zeroes costs nothing, unless it is to be provisioned.
 * - Where the disk cannot punch or provision, zeroes are written in bounded pieces, unless the request wants
 *   it fast or not at all: then nothing is changed. What the disk can is found out by the first whole block of
 *   such a request, before anything else of it is touched.
 */
import type { DeviceRequest } from '../io/device.ts';
import { BLOCK_BYTES, ZERO_PUNCH_BYTES_MAX, ZERO_WRITE_BYTES_MAX } from '../io/limits.ts';
import type { ReadSource } from './layer.ts';
import type { Operation } from './operation-queue.ts';

/** Bytes of zeroes to write from. Never written to. */
export const ZEROES: Buffer = Buffer.alloc(ZERO_WRITE_BYTES_MAX);

/** What the disk of a volume turned out to be able to do. */
export type Ability = 'unknown' | 'yes' | 'no';
export interface ZeroAbilities {
  punch: Ability;
  provision: Ability;
}

/** The first whole block of a range, or `end` when there is none. Byte offsets. */
function firstWholeBlock(offset: number, end: number): number {
  const first = Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES;
  return first + BLOCK_BYTES <= end ? first : end;
}

/**
 * Whether a request that must be fast has to be refused: for whole blocks there is only the slow way. Edges
 * are small writes, which is as fast as it gets, and what reads as zeroes already costs nothing.
 */
export function isTooSlow(
  request: DeviceRequest,
  source: ReadSource,
  can: Readonly<ZeroAbilities>,
): boolean {
  const { offset, noHole } = request;
  if (can[noHole ? 'provision' : 'punch'] !== 'no') return false;
  const end = offset + request.length;
  return firstWholeBlock(offset, end) < end && (noHole || !isZero(source, offset, end));
}

/** Sets the piece that finds out whether a request can be fast; false when that is known, or asked by nobody. */
export function probePiece(operation: Operation, can: Readonly<ZeroAbilities>): boolean {
  const { request, end } = operation;
  const way = request?.noHole === true ? 'provision' : 'punch';
  if (request?.fastZero !== true || can[way] !== 'unknown') return false;
  const first = firstWholeBlock(operation.offset, end);
  if (first === end) return false;
  operation.piece = way;
  operation.pieceStart = first;
  operation.pieceEnd = first + BLOCK_BYTES;
  return true;
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
    operation.pieceStart = position;
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
    if (can[noHole ? 'provision' : 'punch'] !== 'no') {
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
