/**
 * What differs between two points in time, by the maps alone: the blocks that the two views hold in different layers.
 *
 * Invariants:
 * - Runs come in ascending order, do not touch or overlap unless `zero` differs, and lie inside the later view.
 * - Every block whose content differs is told; a block that was written again with what it held is told too.
 * - Memory is that of one region, and what both views share is looked at only where something above it changed.
 */
import type { LayerMap } from '../maps/layer-map.ts';
import { bytesOf, hasAny, newWords, piecesOf, readBits } from '../layers/layer-pieces.ts';
import type { Piece, Words } from '../layers/layer-pieces.ts';
import { bitOf, changeBits, scan } from '../maps/leaf.ts';

/** A run of blocks. `zero`: it reads as zeroes at the later point. */
export interface ChangedRun {
  readonly first: number;
  readonly count: number;
  readonly zero: boolean;
}

/** One layer of a stack; the head may lend the map that it works with. */
export interface ViewLayer {
  readonly id: number;
  readonly map: LayerMap;
}

/** What is read at one point in time. */
export interface LayerStack {
  /** Layers on each other, the topmost first and the base layer last. */
  readonly layers: readonly ViewLayer[];
  /** The layers may be longer. */
  readonly blockCount: number;
}

/**
 * What changed from the view `before` to the view `after` of the same volume, from block `start` on, which
 * begins a region. Blocks that are past the end of `before` count as changed.
 */
export function changedBlocks(
  before: LayerStack,
  after: LayerStack,
  start = 0,
): Generator<ChangedRun> {
  return joined(changedRuns(before, after, start));
}

function* changedRuns(before: LayerStack, after: LayerStack, start: number): Generator<ChangedRun> {
  const above = layersOnOneSide(before.layers, after.layers);
  const known = before.blockCount;
  const end = after.blockCount;
  const chain = after.layers.map(({ map }) => map);
  const sides = { above, chain, known };
  for (const outer of piecesOf(above, start, end, [known])) {
    const to = outer.first + outer.blocks;
    if (to <= known && !above.some((map) => holds(map, outer))) continue;
    for (const piece of piecesOf([...above, ...chain], outer.first, to, [known])) {
      yield* runsIn(piece, sides);
    }
  }
}

/** The same runs, as long as they can be. */
function* joined(runs: Iterable<ChangedRun>): Generator<ChangedRun> {
  let pending: ChangedRun = { first: 0, count: 0, zero: false };
  for (const run of runs) {
    if (continues(pending, run)) {
      pending = { ...pending, count: pending.count + run.count };
    } else {
      if (pending.count > 0) yield pending;
      pending = run;
    }
  }
  if (pending.count > 0) yield pending;
}

function continues(run: ChangedRun, next: ChangedRun): boolean {
  return run.first + run.count === next.first && run.zero === next.zero;
}

/** The maps above the youngest layer that both views have. */
function layersOnOneSide(before: readonly ViewLayer[], after: readonly ViewLayer[]): LayerMap[] {
  const ofBefore = new Set(before.map(({ id }) => id));
  const ofAfter = new Set(after.map(({ id }) => id));
  return [
    ...before.filter(({ id }) => !ofAfter.has(id)),
    ...after.filter(({ id }) => !ofBefore.has(id)),
  ].map(({ map }) => map);
}

function holds(map: LayerMap, piece: Piece): boolean {
  return hasAny(map.data, piece) || hasAny(map.zero, piece);
}

interface Sides {
  readonly above: readonly LayerMap[];
  /** The later view, topmost first. */
  readonly chain: readonly LayerMap[];
  /** Blocks of the earlier view. */
  readonly known: number;
}

function runsIn(piece: Piece, { above, chain, known }: Sides): ChangedRun[] {
  const changed = changedIn(piece, above, known);
  const zero = zeroesIn(piece, chain, changed);
  if (piece.words === 1) {
    const told = { first: piece.first, count: piece.blocks, zero: bitOf(zero, 0) };
    return bitOf(changed, 0) ? [told] : [];
  }
  const runs: ChangedRun[] = [];
  let position = scan(changed, 0, piece.blocks, false);
  while (position < piece.blocks) {
    const isZero = bitOf(zero, position);
    const limit = scan(changed, position, piece.blocks, true);
    const stop = scan(zero, position, limit, isZero);
    runs.push({ first: piece.first + position, count: stop - position, zero: isZero });
    position = stop === limit ? scan(changed, stop, piece.blocks, false) : stop;
  }
  return runs;
}

/** Blocks of the piece that a layer of one side alone holds, or that the earlier view did not reach. */
function changedIn(piece: Piece, above: readonly LayerMap[], known: number): Uint8Array {
  const changed = newWords();
  const bits = newWords();
  for (const map of above) {
    for (const set of [map.data, map.zero]) {
      if (!hasAny(set, piece)) continue;
      readBits(set, piece, bits);
      for (let index = 0; index < piece.words; index += 1) {
        changed[index] = (changed[index] ?? 0) | (bits[index] ?? 0);
      }
    }
  }
  const bytes = bytesOf(changed);
  if (piece.first + piece.blocks > known) {
    const from = Math.max(0, known - piece.first);
    changeBits(bytes, from, piece.words === 1 ? 1 : piece.blocks, true);
  }
  return bytes;
}

/** Those of the blocks `wanted` that the view reads as zeroes. */
function zeroesIn(piece: Piece, chain: readonly LayerMap[], wanted: Uint8Array): Uint8Array {
  const zero = Uint8Array.from(wanted);
  const open: Words = new Int32Array(zero.slice().buffer);
  const found: Words = new Int32Array(zero.buffer);
  const data = newWords();
  const held = newWords();
  for (const map of chain) {
    if (!holds(map, piece)) continue;
    readBits(map.data, piece, data);
    readBits(map.zero, piece, held);
    let left = 0;
    for (let index = 0; index < piece.words; index += 1) {
      const before = open[index] ?? 0;
      found[index] = (found[index] ?? 0) & ~(before & (data[index] ?? 0));
      open[index] = before & ~((data[index] ?? 0) | (held[index] ?? 0));
      left |= open[index] ?? 0;
    }
    if (left === 0) break;
  }
  return zero;
}
