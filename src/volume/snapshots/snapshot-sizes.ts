/**
 * How much of the data each snapshot has to itself, and how much it shares.
 *
 * A data block of a layer is reached by a snapshot, or by the head, when that view reads it. One that a single snapshot
 * reaches is that snapshot's own: a delete gives it back. One that others reach as well is shared.
 *
 * Invariants:
 * - Every block that some view reads from data is counted once in own, or in shared of each snapshot that reaches it.
 * - Memory is that of one piece for each layer, whatever the maps hold.
 */
import { BLOCKS_PER_REGION, BLOCK_BYTES } from '../../io/limits.ts';
import type { LayerMap } from '../maps/layer-map.ts';
import {
  bitsOf,
  bytesOf,
  countWords,
  hasAny,
  newWords,
  piecesOf,
  readBits,
} from '../layers/layer-pieces.ts';
import type { Piece, Words } from '../layers/layer-pieces.ts';
import { changeBits } from '../maps/leaf.ts';
import type { VolumeState } from '../log/metadata-state.ts';
import { Reach } from '../layers/reach.ts';

export interface SnapshotSizes {
  readonly ownBytes: number;
  readonly sharedBytes: number;
}

/** The sizes of every snapshot, by id. `head`: the map that the top layer works with, when the state's lags behind. */
export function snapshotSizes(
  state: VolumeState,
  head: LayerMap | null = null,
): Map<string, SnapshotSizes> {
  const measure = measureSnapshots(state, head);
  for (;;) {
    const step = measure.next();
    if (step.done === true) return step.value;
  }
}

/** As `snapshotSizes`, a piece of the volume a step: so that others can work between two. */
export function* measureSnapshots(
  state: VolumeState,
  head: LayerMap | null = null,
): Generator<void, Map<string, SnapshotSizes>> {
  const tree = treeOf(state, head);
  const maps = tree.map(({ map }) => map);
  const ids = [...state.snapshots.keys()];
  const sums = ids.map(() => ({ own: 0, all: 0 }));
  const ends = tree.flatMap(({ views }) => views.map(({ blockCount }) => blockCount));
  for (const piece of piecesOf(maps, 0, Math.max(0, ...ends), [...new Set(ends)])) {
    if (ids.length === 0) break;
    if (maps.some(({ data }) => hasAny(data, piece))) {
      const contents = tree.map(({ map }) => contentOf(map, piece));
      addVisible(tree, contents, piece, sums);
      addOwn(tree, contents, piece, sums);
    }
    yield;
  }
  return new Map(
    sums.map(({ own, all }, index) => [
      ids[index] ?? '',
      { ownBytes: own * BLOCK_BYTES, sharedBytes: (all - own) * BLOCK_BYTES },
    ]),
  );
}

/** The number of the head's view: those of the snapshots are 0 and up. */
const HEAD = -1;

interface TreeLayer {
  readonly map: LayerMap;
  /** Its parent's place among the layers; -1 for the base layer. */
  readonly below: number;
  readonly views: readonly View[];
}

interface View {
  /** Its place among the snapshots, or HEAD. */
  readonly number: number;
  /** Blocks that it has: its layer may be longer. */
  readonly blockCount: number;
}

/** The layers, parents before their children. */
function treeOf(state: VolumeState, head: LayerMap | null): TreeLayer[] {
  const places = new Map<number, number>();
  const headBlocks = head?.blockCount ?? state.sizeBytes / BLOCK_BYTES;
  const views = new Map([[state.topLayer, [{ number: HEAD, blockCount: headBlocks }]]]);
  [...state.snapshots.values()].forEach(({ layer, sizeBytes }, number) => {
    const view = { number, blockCount: sizeBytes / BLOCK_BYTES };
    const others = views.get(layer);
    if (others === undefined) views.set(layer, [view]);
    else others.push(view);
  });
  return [...state.layers.values()].map(({ id, parent, map }, place) => {
    places.set(id, place);
    return {
      map: id === state.topLayer && head !== null ? head : map,
      below: places.get(parent) ?? -1,
      views: views.get(id) ?? [],
    };
  });
}

/** What a layer says of a piece. */
interface Content {
  readonly data: Words;
  readonly zero: Words;
}

interface Sums {
  own: number;
  all: number;
}

function contentOf(map: LayerMap, piece: Piece): Content | null {
  if (!hasAny(map.data, piece) && !hasAny(map.zero, piece)) return null;
  const content = { data: newWords(), zero: newWords() };
  readBits(map.data, piece, content.data);
  readBits(map.zero, piece, content.zero);
  return content;
}

/** Counts, from the base layer up, what each snapshot reads from data. */
function addVisible(
  tree: readonly TreeLayer[],
  contents: readonly (Content | null)[],
  piece: Piece,
  sums: readonly Sums[],
): void {
  const visible: (Words | null)[] = [];
  tree.forEach(({ below, views }, place) => {
    const under = visible[below] ?? null;
    const content = contents[place] ?? null;
    let bits = under;
    if (content !== null) {
      bits = newWords();
      for (let index = 0; index < piece.words; index += 1) {
        const kept = (under?.[index] ?? 0) & ~(content.zero[index] ?? 0);
        bits[index] = (content.data[index] ?? 0) | kept;
      }
    }
    visible.push(bits);
    if (bits === null) return;
    for (const { number, blockCount } of views) {
      const sum = sums[number];
      if (sum !== undefined) sum.all += countBelow(bits, piece, blockCount);
    }
  });
}

/** Blocks of the piece that are set in `bits` and lie before `end`. */
function countBelow(bits: Words, piece: Piece, end: number): number {
  return countWords(maskedBelow(bits, piece, end), piece.words) * piece.blocksPerBit;
}

/** The bits of those blocks alone. No piece of more than one region goes past the end of a view. */
function maskedBelow(bits: Words, piece: Piece, end: number): Words {
  const inside = Int32Array.from(bits);
  if (piece.first + piece.blocks <= end) return inside;
  if (piece.words === 1) inside[0] = 0;
  else changeBits(bytesOf(inside), Math.max(0, end - piece.first), BLOCKS_PER_REGION, false);
  return inside;
}

/** Counts, from the youngest layers down, what a single view reads. */
function addOwn(
  tree: readonly TreeLayer[],
  contents: readonly (Content | null)[],
  piece: Piece,
  sums: readonly Sums[],
): void {
  const reaches: (Reach | null)[] = tree.map(() => null);
  for (let place = tree.length - 1; place >= 0; place -= 1) {
    const layer = tree[place];
    if (layer === undefined) continue;
    const { below, views } = layer;
    const reach = reaches[place] ?? new Reach(piece.words);
    reaches[place] = null;
    for (const { number, blockCount } of views) {
      if (piece.first < blockCount) {
        reach.join(number, maskedBelow(newWords().fill(-1), piece, blockCount));
      }
    }
    const content = contents[place] ?? null;
    if (content !== null) {
      for (const { view, words } of reach.sole) {
        const sum = sums[view];
        if (sum !== undefined) sum.own += common(words, content.data, piece);
      }
      reach.hide(content);
    }
    if (below < 0 || reach.isEmpty) continue;
    const under = reaches[below] ?? null;
    if (under === null) reaches[below] = reach;
    else under.joinAll(reach);
  }
}

function common(words: Words, data: Words, piece: Piece): number {
  let count = 0;
  for (let index = 0; index < piece.words; index += 1) {
    count += bitsOf((words[index] ?? 0) & (data[index] ?? 0));
  }
  return count * piece.blocksPerBit;
}
