/**
 * Which blocks a merge of two neighbouring layers has still to do, found a little at a time.
 *
 * Invariants:
 * - `up`: what the upper layer lacks and the lower one has. `down`: what the upper layer has. Nothing past the end of the
 *   upper layer: nobody looks at the lower one past it.
 * - Pieces come in ascending order, do not overlap, and are bounded in bytes.
 * - What the maps say of the blocks behind the last piece may change while it runs.
 */
import {
  BLOCKS_PER_REGION,
  BLOCK_BYTES,
  MERGE_HOLE_BYTES,
  MERGE_LOOKS_MAX,
  MERGE_PIECE_BYTES,
} from '../../io/limits.ts';
import { BlockState } from '../maps/layer-map.ts';
import type { LayerMap } from '../maps/layer-map.ts';
import { bytesOf, hasAny, newWords, piecesOf, readBits } from '../layers/layer-pieces.ts';
import type { Piece, Words } from '../layers/layer-pieces.ts';
import { bitOf, scan } from '../maps/leaf.ts';

export interface MergeMaps {
  readonly from: LayerMap;
  readonly into: LayerMap;
  readonly direction: 'up' | 'down';
  /** There is no layer below the two: absent reads as zeroes. */
  readonly base: boolean;
}

/** A run of blocks: its data is to be copied, or it is to read as zeroes. */
export interface MergePiece {
  readonly first: number;
  readonly count: number;
  readonly kind: 'copy' | 'zero';
}

const COPY_BLOCKS = MERGE_PIECE_BYTES / BLOCK_BYTES;
const HOLE_BLOCKS = MERGE_HOLE_BYTES / BLOCK_BYTES;

/** What `into` says of the blocks of a piece when they are done. */
export function mergedState(maps: MergeMaps, piece: MergePiece): BlockState {
  if (piece.kind === 'copy') return BlockState.DATA;
  return maps.base ? BlockState.ABSENT : BlockState.ZERO;
}

/** The pieces to do; null after MERGE_LOOKS_MAX looks at the maps, which is the time to let others have a turn. */
export function* mergePieces(maps: MergeMaps): Generator<MergePiece | null, undefined> {
  const { from, into } = maps;
  const wanted = { copy: newWords(), zero: newWords(), taken: newWords(), zeroed: newWords() };
  let looks = 0;
  for (const piece of piecesOf([from, into], 0, Math.min(from.blockCount, into.blockCount))) {
    looks += 1;
    if (looks > MERGE_LOOKS_MAX) {
      looks = 0;
      yield null;
    }
    if (!hasAny(from.data, piece) && !hasAny(from.zero, piece)) continue;
    look(maps, piece, wanted);
    if (piece.words > 1) yield* mixedRuns(piece, wanted);
    else if (wanted.copy[0] !== 0) yield* split(piece.first, piece.blocks, 'copy');
    else if (wanted.zero[0] !== 0) yield* split(piece.first, piece.blocks, 'zero');
  }
  return undefined;
}

interface Wanted {
  readonly copy: Words;
  readonly zero: Words;
  /** What `into` holds as data, and as zeroes. */
  readonly taken: Words;
  readonly zeroed: Words;
}

/** Finds the blocks of the piece to copy and those to make zero. */
function look(maps: MergeMaps, piece: Piece, { copy, zero, taken, zeroed }: Wanted): void {
  const { from, into, direction, base } = maps;
  readBits(from.data, piece, copy);
  readBits(from.zero, piece, zero);
  readBits(into.data, piece, taken);
  readBits(into.zero, piece, zeroed);
  for (let index = 0; index < piece.words; index += 1) {
    const data = taken[index] ?? 0;
    const zeroes = zeroed[index] ?? 0;
    const zeroAbove = zero[index] ?? 0;
    if (direction === 'up') {
      const free = ~(data | zeroes);
      copy[index] = (copy[index] ?? 0) & free;
      zero[index] = base ? 0 : zeroAbove & free;
    } else {
      zero[index] = base ? zeroAbove & data : zeroAbove & ~zeroes;
    }
  }
}

function* mixedRuns(piece: Piece, wanted: Wanted): Generator<MergePiece> {
  const copy = bytesOf(wanted.copy);
  const zero = bytesOf(wanted.zero);
  let position = 0;
  while (position < BLOCKS_PER_REGION) {
    const isCopy = bitOf(copy, position);
    if (isCopy || bitOf(zero, position)) {
      const end = scan(isCopy ? copy : zero, position, BLOCKS_PER_REGION, true);
      yield* split(piece.first + position, end - position, isCopy ? 'copy' : 'zero');
      position = end;
    } else {
      const nextCopy = scan(copy, position, BLOCKS_PER_REGION, false);
      position = scan(zero, position, nextCopy, false);
    }
  }
}

function* split(first: number, count: number, kind: 'copy' | 'zero'): Generator<MergePiece> {
  const most = kind === 'copy' ? COPY_BLOCKS : HOLE_BLOCKS;
  for (let done = 0; done < count; done += most) {
    yield { first: first + done, count: Math.min(most, count - done), kind };
  }
}
