/**
 * One step of a merge: a few pieces that share a buffer, gathered from the plan and done one after another.
 *
 * Invariants:
 * - What is read for a step fits into its buffer: runs of data that lie close to each other are read in one go, with the
 *   gap between them. Only the runs are written.
 * - A long run of data is copied by the system, without a look at it, where that can be done.
 * - A step can be done again: what is done twice ends up the same.
 */
import type { Clock } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import type { DiskCallback, DiskFile } from '../../io/disk.ts';
import {
  BLOCK_BYTES,
  MERGE_DIRECT_BYTES,
  MERGE_GAP_BYTES,
  MERGE_PIECE_BYTES,
  MERGE_STEP_RUNS_MAX,
} from '../../io/limits.ts';
import type { LayerMap } from '../maps/layer-map.ts';
import type { MergePiece } from './merge-plan.ts';
import type { ZeroPace } from '../zero-pace.ts';

/** Bytes of the buffer of a step: any one piece fits. */
export const STEP_BUFFER_BYTES: number = MERGE_PIECE_BYTES;

/** What went wrong, and where: a positive errno, and the beginning of a sentence. */
export interface MergeFault {
  readonly errno: number;
  readonly what: string;
  /** Another attempt is of no use. */
  readonly final?: boolean;
}

/** A piece, and where its data is in the buffer; -1: it is copied on its own. */
interface Placed extends MergePiece {
  readonly start: number;
}

const DIRECT = -1;
const NO_ROOM = -2;

/** Blocks that are read together. */
interface Reading {
  readonly first: number;
  readonly start: number;
  count: number;
}

export class MergeStep {
  readonly pieces: Placed[] = [];
  readonly readings: Reading[] = [];
  /** Bytes of data to copy. */
  bytes = 0;
  /** Something in it becomes zero. */
  zeroes = false;
  private taken = 0;

  /** Takes a piece, which lies behind the ones before; false when it does not fit. */
  add(piece: MergePiece): boolean {
    if (this.pieces.length >= MERGE_STEP_RUNS_MAX) return false;
    const start = piece.kind === 'copy' ? this.place(piece) : 0;
    if (start === NO_ROOM) return false;
    if (piece.kind === 'zero') this.zeroes = true;
    this.pieces.push({ ...piece, start });
    return true;
  }

  /** Where the data of a piece goes, or DIRECT, or NO_ROOM. */
  private place({ first, count }: MergePiece): number {
    if (count * BLOCK_BYTES >= MERGE_DIRECT_BYTES) return this.takeDirect(count * BLOCK_BYTES);
    const last = this.readings.at(-1);
    const gap = last === undefined ? Infinity : first - last.first - last.count;
    const near = gap * BLOCK_BYTES <= MERGE_GAP_BYTES;
    const more = (near ? gap + count : count) * BLOCK_BYTES;
    if (this.taken + more > STEP_BUFFER_BYTES) return NO_ROOM;
    if (last !== undefined && near) last.count += gap + count;
    else this.readings.push({ first, start: this.taken, count });
    this.taken += more;
    this.bytes += count * BLOCK_BYTES;
    return this.taken - count * BLOCK_BYTES;
  }

  private takeDirect(bytes: number): number {
    if (this.taken + bytes > STEP_BUFFER_BYTES) return NO_ROOM;
    this.taken += bytes;
    this.bytes += bytes;
    return DIRECT;
  }
}

export interface MergeFiles {
  readonly from: DiskFile;
  readonly into: DiskFile;
  /** What is recorded of `into`. */
  readonly map: LayerMap;
  readonly clock: Clock;
  /** Whether the system can copy between the two, as far as is known. */
  readonly ability: { copies: boolean };
  /** How much of `into` is punched out in one go: its readers wait meanwhile. */
  readonly zeroPace: ZeroPace;
}

/** Does a step; resolves with null, or with what went wrong. */
export async function runStep(
  step: MergeStep,
  files: MergeFiles,
  buffer: Buffer,
): Promise<MergeFault | null> {
  const { from, into } = files;
  // Those that need all of the buffer, if they need it, come first.
  for (const piece of step.pieces) {
    if (piece.start !== DIRECT) continue;
    const fault = await copyDirect(piece, files, buffer);
    if (fault !== null) return fault;
  }
  for (const { first, count, start } of step.readings) {
    const length = count * BLOCK_BYTES;
    const fault = await readInto(buffer, from, { start, length, position: first * BLOCK_BYTES });
    if (fault !== null) return fault;
  }
  for (const piece of step.pieces) {
    if (piece.start === DIRECT) continue;
    const status = await (piece.kind === 'zero'
      ? punch(piece, files)
      : answer((done) => {
          const { first, count, start } = piece;
          into.write(buffer, start, count * BLOCK_BYTES, first * BLOCK_BYTES, done);
        }));
    if (status < 0) return { errno: -status, what: `${into.path} could not be written` };
  }
  return null;
}

/** Copies a piece by the system, or through the buffer where that cannot be done. */
async function copyDirect(
  { first, count }: MergePiece,
  { from, into, ability }: MergeFiles,
  buffer: Buffer,
): Promise<MergeFault | null> {
  const position = first * BLOCK_BYTES;
  const length = count * BLOCK_BYTES;
  if (ability.copies && into.copyFrom !== undefined) {
    const copied = await answer((done) => into.copyFrom?.(from, position, length, done));
    if (copied >= 0) return copied < length ? tooShort(from) : null;
    if (copied !== -Status.ENOTSUP) {
      return { errno: -copied, what: `${from.path} could not be copied to ${into.path}` };
    }
    ability.copies = false;
  }
  const fault = await readInto(buffer, from, { start: 0, length, position });
  if (fault !== null) return fault;
  const written = await answer((done) => into.write(buffer, 0, length, position, done));
  return written < 0 ? { errno: -written, what: `${into.path} could not be written` } : null;
}

async function readInto(
  buffer: Buffer,
  from: DiskFile,
  place: { readonly start: number; readonly length: number; readonly position: number },
): Promise<MergeFault | null> {
  const { start, length, position } = place;
  const read = await answer((done) => from.read(buffer, start, length, position, done));
  if (read < 0) return { errno: -read, what: `${from.path} could not be read` };
  return read < length ? tooShort(from) : null;
}

function tooShort({ path }: DiskFile): MergeFault {
  return { errno: Status.EIO, what: `${path} is shorter than its map` };
}

/** Gives back the space of the data in a piece, a few runs at a time. */
async function punch(
  piece: MergePiece,
  { into, map, clock, zeroPace }: MergeFiles,
): Promise<number> {
  const end = piece.first + piece.count;
  let block = nextData(map, piece.first, end);
  while (block < end) {
    const first = block;
    let runs = 0;
    let stop = block;
    for (; block < end && runs < zeroPace.runsMax; runs += 1) {
      stop = map.data.runEnd(block, end);
      block = nextData(map, stop, end);
    }
    const began = clock.now();
    const length = (stop - first) * BLOCK_BYTES;
    const status = await answer((done) => into.punchHole(first * BLOCK_BYTES, length, done));
    // Where no hole can be punched, the space is not given back: the map says zero all the same.
    if (status === -Status.ENOTSUP) return 0;
    if (status < 0) return status;
    zeroPace.punched(runs, clock.now() - began);
  }
  return 0;
}

/** The first data block from `block` on; `end` when there is none before it. */
function nextData({ data }: LayerMap, block: number, end: number): number {
  return block >= end || data.has(block) ? block : data.runEnd(block, end);
}

export function answer(call: (done: DiskCallback) => void): Promise<number> {
  return new Promise((resolve) => {
    call(resolve);
  });
}
