/**
 * How a range becomes zeroes: the next piece of work for the disk, decided one at a time.
 *
 * Invariants:
 * - Whole blocks are punched (or provisioned, with `noHole`); edges that are not whole blocks are written.
 * - What already reads as zeroes costs nothing, unless it is to be provisioned.
 * - A piece is bounded in bytes and in runs of blocks, so that neither the map nor the disk is busy with it for
 *   long. A hole is punched where that pays, or where the space is to be given back; else zeroes are written.
 * - Where the disk cannot punch or provision, zeroes are written in bounded pieces, unless the request wants
 *   it fast or not at all: then nothing is changed. What the disk can is found out by the first whole block of
 *   such a request, before anything else of it is touched.
 */
import type { DeviceRequest } from '../io/device.ts';
import { BLOCK_BYTES, ZERO_PUNCH_BYTES_MAX, ZERO_WRITE_BYTES_MAX } from '../io/limits.ts';
import type { ReadSource } from './layers/layer.ts';
import type { Operation } from './operation-queue.ts';
import type { ZeroPace } from './zero-pace.ts';

/** Runs of one request that are punched out before it is asked whether that pays. */
const FRAGMENTS_MIN = 256;
/** A run of data from this length on is always punched out. */
const FRAGMENT_BYTES_MAX = 64 * 1024;

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
  operation.runs = 1;
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
  pace: ZeroPace,
): boolean {
  const noHole = operation.request?.noHole === true;
  const { end } = operation;
  if (!noHole && operation.position < end && !source.isDataAt(operation.position)) {
    operation.position = source.runEndAt(operation.position, end);
  }
  const { position } = operation;
  if (position >= end) return false;
  operation.pieceStart = position;
  operation.runs = 1;
  const blockStart = Math.floor(position / BLOCK_BYTES) * BLOCK_BYTES;
  if (position !== blockStart || end - position < BLOCK_BYTES) {
    operation.piece = 'write';
    operation.pieceEnd = Math.min(end, blockStart + BLOCK_BYTES);
    return true;
  }
  const wholeEnd = Math.floor(end / BLOCK_BYTES) * BLOCK_BYTES;
  if (noHole) setProvision(operation, source, wholeEnd, can.provision !== 'no' ? pace : null);
  else setHole(operation, source, wholeEnd, can.punch !== 'no' ? pace : null);
  return true;
}

function setProvision(
  operation: Operation,
  source: ReadSource,
  wholeEnd: number,
  pace: ZeroPace | null,
): void {
  operation.piece = pace === null ? 'write' : 'provision';
  if (pace === null) {
    operation.pieceEnd = Math.min(wholeEnd, operation.pieceStart + ZERO_WRITE_BYTES_MAX);
  } else {
    extendOverRuns(operation, source, wholeEnd, pace.runsMax);
  }
}

function setHole(
  operation: Operation,
  source: ReadSource,
  wholeEnd: number,
  pace: ZeroPace | null,
): void {
  const { pieceStart, request } = operation;
  const limit = Math.min(wholeEnd, pieceStart + ZERO_WRITE_BYTES_MAX);
  const runEnd = Math.min(limit, source.runEndAt(pieceStart, limit));
  const pays = pace !== null && (request?.free === true || isWorthAHole(operation, runEnd, pace));
  operation.piece = pays ? 'punch' : 'write';
  operation.pieceEnd = runEnd;
  // Nothing is said of what lies between runs of data: a hole in a hole costs nothing.
  if (pays) extendOverRuns(operation, source, wholeEnd, pace.runsMax);
}

/** Space is given back, as a rule. Only of a range in many small fragments, on a disk that is slow at it, it is not. */
function isWorthAHole(operation: Operation, runEnd: number, pace: ZeroPace): boolean {
  const bytes = runEnd - operation.pieceStart;
  if (operation.punchedRuns < FRAGMENTS_MIN || bytes >= FRAGMENT_BYTES_MAX) return true;
  return pace.paysFor(bytes);
}

/** Lets a piece reach over several runs, of which it counts those of data. */
function extendOverRuns(
  operation: Operation,
  source: ReadSource,
  wholeEnd: number,
  runsMax: number,
): void {
  const limit = Math.min(wholeEnd, operation.pieceStart + ZERO_PUNCH_BYTES_MAX);
  let at = operation.pieceStart;
  let runs = 0;
  while (at < limit && runs < runsMax) {
    at = source.runEndAt(at, limit);
    runs += 1;
  }
  operation.runs = runs;
  operation.pieceEnd = at;
}
