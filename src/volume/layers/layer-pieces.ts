/**
 * Several layer maps looked at together, piece by piece: a run of regions where each of them says one thing, or
 * one region where some of them do not.
 *
 * Invariants:
 * - Memory is that of one piece, whatever the maps hold; a piece where all are uniform has one bit a set.
 * - A block past the end of a map is absent in it. A region in which one of the maps ends is never uniform.
 * - Maps may change between two pieces: each piece is what they say when it is made.
 */
import { BLOCKS_PER_REGION } from '../../io/limits.ts';
import { RegionState } from '../maps/block-set.ts';
import type { BlockSet } from '../maps/block-set.ts';
import type { LayerMap } from '../maps/layer-map.ts';
import { LEAF_BYTES, changeBits } from '../maps/leaf.ts';

/** Words of the bits of one region. */
const LEAF_WORDS = LEAF_BYTES / 4;

/** Regions of one uniform piece: so looking for its end takes a bounded number of steps. */
const PIECE_REGIONS_MAX = 65_536;

/** A run of blocks. Bit n of its words stands for block `first + n`; with `blocksPerBit` not 1, bit 0 for all of it. */
export interface Piece {
  readonly region: number;
  /** The region after it. */
  readonly end: number;
  readonly first: number;
  readonly blocks: number;
  readonly words: number;
  readonly blocksPerBit: number;
}

/** Bits of the blocks of a piece. Those that are no block of it are never set by `readBits`. */
export type Words = Int32Array;

/**
 * The pieces of the blocks `from .. to - 1`, in ascending order, for all of `maps`. `from` begins a region.
 * No piece goes past one of `stops`, which are blocks, but for a region that holds one inside.
 */
export function* piecesOf(
  maps: readonly LayerMap[],
  from: number,
  to: number,
  stops: readonly number[] = [],
): Generator<Piece> {
  let region = from / BLOCKS_PER_REGION;
  const regions = Math.ceil(to / BLOCKS_PER_REGION);
  while (region < regions) {
    let end = Math.min(regions, region + PIECE_REGIONS_MAX);
    for (const stop of stops) end = endBefore(stop, to, region, end);
    for (const map of maps) {
      if (end === region) break;
      end = uniformEnd(map, to, region, end);
    }
    const uniform = end > region;
    if (!uniform) end = region + 1;
    const first = region * BLOCKS_PER_REGION;
    const blocks = Math.min(to, end * BLOCKS_PER_REGION) - first;
    yield uniform
      ? { region, end, first, blocks, words: 1, blocksPerBit: blocks }
      : { region, end, first, blocks, words: LEAF_WORDS, blocksPerBit: 1 };
    region = end;
  }
}

/** The last end, up to `end`, of a run from `region` that the block `stop` does not lie inside of; `region` for none. */
function endBefore(stop: number, to: number, region: number, end: number): number {
  if (stop >= to || stop <= region * BLOCKS_PER_REGION) return end;
  return Math.min(end, Math.max(region, Math.floor(stop / BLOCKS_PER_REGION)));
}

function uniformEnd(map: LayerMap, to: number, region: number, end: number): number {
  const blocks = map.blockCount;
  if (region * BLOCKS_PER_REGION >= blocks) return end;
  const limit = Math.min(endBefore(blocks, to, region, end), map.data.regionCount);
  if (limit <= region) return region;
  const data = map.data.uniformEnd(region, limit);
  if (data <= region || map.zero.count === 0) return data;
  return map.zero.uniformEnd(region, data);
}

/** The set has a block in the piece. */
export function hasAny(set: BlockSet, { region }: Piece): boolean {
  return region < set.regionCount && set.regionState(region) !== RegionState.NONE;
}

/** Copies the bits of a set into the first words of `into`. */
export function readBits(set: BlockSet, piece: Piece, into: Words): void {
  if (!hasAny(set, piece)) into.fill(0, 0, piece.words);
  else if (piece.words === 1) into[0] = 1;
  else {
    set.readLeaf(piece.region, bytesOf(into));
    if (piece.blocks < BLOCKS_PER_REGION) {
      changeBits(bytesOf(into), piece.blocks, BLOCKS_PER_REGION, false);
    }
  }
}

/** The same bits as bytes, in the order of a leaf. */
export function bytesOf(words: Words): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

export function newWords(): Words {
  return new Int32Array(LEAF_WORDS);
}

/** Set bits of the first `count` words. */
export function countWords(words: Words, count: number): number {
  let total = 0;
  for (let index = 0; index < count; index += 1) total += bitsOf(words[index] ?? 0);
  return total;
}

/** Set bits of a word. */
export function bitsOf(word: number): number {
  const pairs = word - ((word >>> 1) & 0x55555555);
  const fours = (pairs & 0x33333333) + ((pairs >>> 2) & 0x33333333);
  return Math.imul((fours + (fours >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/**
 * Data blocks of `lower` that `upper` says nothing of, and that lie inside of it. Stops counting, with what it
 * has, when that is more than `enough`.
 */
export function missingBlocks(lower: LayerMap, upper: LayerMap, enough: number): number {
  const least = lower.data.count - upper.data.count - upper.zero.count;
  if (least > enough && lower.blockCount <= upper.blockCount) return least;
  const held = newWords();
  const data = newWords();
  const zero = newWords();
  const to = Math.min(lower.blockCount, upper.blockCount);
  let missing = 0;
  for (const piece of piecesOf([lower, upper], 0, to)) {
    if (!hasAny(lower.data, piece)) continue;
    readBits(lower.data, piece, held);
    readBits(upper.data, piece, data);
    readBits(upper.zero, piece, zero);
    for (let index = 0; index < piece.words; index += 1) {
      held[index] = (held[index] ?? 0) & ~((data[index] ?? 0) | (zero[index] ?? 0));
    }
    missing += countWords(held, piece.words) * piece.blocksPerBit;
    if (missing > enough) break;
  }
  return missing;
}
