/**
 * The part of the metadata reducer that keeps the tree of layers and the snapshots.
 *
 * Invariants:
 * - Parents stand before their children, one layer is the base, and the top is the one of those there that was made last.
 * - A snapshot's layer exists and is sealed. The top layer is not merged, and removed only when it holds nothing.
 * - The base layer alone may lie in a container, and then it stays the base layer.
 * - A layer that goes is one that nobody sees the loss of: nobody looks through it, or another holds what it held.
 */
import { BLOCK_BYTES } from '../../io/limits.ts';
import { LayerMap } from '../maps/layer-map.ts';
import type { MetadataRecord } from './records.ts';
import { RecordRefused, check, checkSize, hasBelow, layerOf } from '../volume-state.ts';
import type { MutableState, VolumeState } from '../volume-state.ts';

type TreeKind =
  | 'cloned'
  | 'layer-created'
  | 'layer-placed'
  | 'layer-resized'
  | 'layer-sealed'
  | 'layers-merged'
  | 'layer-removed'
  | 'top-removed'
  | 'snapshot-created'
  | 'snapshot-removed'
  | 'snapshot-kept';

/** Throws RecordRefused before any change. */
export function foldTreeRecord(
  state: MutableState,
  record: Extract<MetadataRecord, { kind: TreeKind }>,
): void {
  switch (record.kind) {
    case 'cloned': {
      check(state.layers.size === 0, 'a clone has its origin before its layers');
      check(record.volume !== state.id, 'a volume is not a clone of itself');
      const { volume, snapshot } = record;
      state.origin = { volume, snapshot };
      return;
    }
    case 'layer-created':
      createLayer(state, record.layer, record.parent);
      return;
    case 'layer-placed': {
      const { layer, container, location } = record;
      const placed = layerOf(state, layer);
      check(!hasBelow(state, placed), `layer ${layer} is no base layer`);
      check(placed.place === null, `layer ${layer} lies in a container already`);
      placed.place = { kind: container, location };
      return;
    }
    case 'layer-resized':
      checkSize(record.sizeBytes);
      layerOf(state, record.layer).map.resize(record.sizeBytes / BLOCK_BYTES);
      return;
    case 'layer-sealed':
      layerOf(state, record.layer).sealed = true;
      return;
    case 'layers-merged':
      checkNotKept(state, record.from);
      checkNotKept(state, record.into);
      mergeLayers(state, record.from, record.into);
      return;
    case 'layer-removed':
      checkNotKept(state, record.layer);
      removeLayer(state, record.layer);
      return;
    case 'top-removed':
      removeTop(state, record.layer);
      return;
    case 'snapshot-created': {
      const { kind: _, ...snapshot } = record;
      const { id, name, layer, sizeBytes } = snapshot;
      check(!state.snapshots.has(id), `snapshot ${id} exists already`);
      check(!hasName(state, name), `a snapshot has the name ${name} already`);
      check(layerOf(state, layer).sealed, `layer ${layer} is not sealed`);
      checkSize(sizeBytes);
      state.snapshots.set(id, snapshot);
      return;
    }
    case 'snapshot-removed':
      check(state.run?.base !== record.id, `snapshot ${record.id} is the base of a delta run`);
      check(state.snapshots.delete(record.id), `snapshot ${record.id} is unknown`);
      return;
    case 'snapshot-kept': {
      const kept = state.snapshots.get(record.id);
      check(kept !== undefined, `snapshot ${record.id} is unknown`);
      if (kept.mark === undefined) return;
      state.snapshots.set(kept.id, { ...kept, mark: { ...kept.mark, shipped: false } });
    }
  }
}

function createLayer(state: MutableState, layer: number, parent: number): void {
  check(!state.layers.has(layer), `layer ${layer} exists already`);
  check(layer >= state.nextLayer, `the number of layer ${layer} is used up`);
  check((parent === 0) === (state.layers.size === 0), 'one layer is the base layer');
  if (parent !== 0) layerOf(state, parent);
  const map = new LayerMap(state.sizeBytes / BLOCK_BYTES);
  state.layers.set(layer, { id: layer, parent, sealed: false, map, place: null });
  state.topLayer = layer;
  state.nextLayer = layer + 1;
}

/** It tells new writes from what a journal brings. */
function checkNotKept(state: MutableState, layer: number): void {
  check(state.kept?.layer !== layer, `a journal is kept for layer ${layer}`);
}

/** One of the two lies on the other, which carries nothing else when it is the one that goes. */
function mergeLayers(state: MutableState, from: number, into: number): void {
  const gone = layerOf(state, from);
  const kept = layerOf(state, into);
  check(gone.sealed && kept.sealed, 'only sealed layers are merged');
  check(gone.place === null, `layer ${from} stays in its container`);
  check(from !== state.topLayer && into !== state.topLayer, 'the top layer is not merged');
  const children = childrenOf(state, from);
  if (kept.parent === from) {
    check(children.length === 1, `layer ${from} carries more than layer ${into}`);
    check(!isNamed(state, from), `layer ${from} is a snapshot`);
    kept.parent = gone.parent;
  } else {
    check(gone.parent === into, `layers ${from} and ${into} are no neighbours`);
    check(!isNamed(state, into), `layer ${into} is a snapshot`);
    check(childrenOf(state, into).length === 1, `layer ${into} carries more than layer ${from}`);
    for (const child of children) child.parent = into;
    for (const snapshot of state.snapshots.values()) {
      if (snapshot.layer === from) state.snapshots.set(snapshot.id, { ...snapshot, layer: into });
    }
  }
  state.layers.delete(from);
}

function removeLayer(state: MutableState, layer: number): void {
  check(layerOf(state, layer).place === null, `layer ${layer} stays in its container`);
  check(layer !== state.topLayer, 'the top layer is not removed');
  check(!isNamed(state, layer), `layer ${layer} is a snapshot`);
  check(childrenOf(state, layer).length === 0, `layer ${layer} carries others`);
  state.layers.delete(layer);
}

/**
 * Why the top cannot go, so that the layer below it takes writes again; null: it can. That one has to be the last of those that
 * stay, or a compacted log would not give it the same place.
 */
export function whyTopStays(state: VolumeState, layer: number): string | null {
  const gone = state.layers.get(layer);
  if (gone === undefined || layer !== state.topLayer) return `layer ${layer} is not the top`;
  const { map, parent } = gone;
  if (map.data.count > 0 || map.zero.count > 0) return `layer ${layer} is not empty`;
  const below = state.layers.get(parent);
  if (below === undefined) return `layer ${layer} lies on no layer of this volume`;
  if (state.kept?.layer === layer || state.kept?.layer === parent) {
    return `a journal is kept for layer ${state.kept.layer}`;
  }
  if (!below.sealed) return `layer ${parent} is not sealed`;
  if (below.map.blockCount !== map.blockCount) return `layer ${parent} has another size`;
  if (isNamed(state, parent)) return `layer ${parent} is a snapshot`;
  if ([...state.layers.keys()].at(-2) !== parent) return `layer ${parent} is older than others`;
  return childrenOf(state, parent).length === 1 ? null : `layer ${parent} carries others`;
}

function removeTop(state: MutableState, layer: number): void {
  const why = whyTopStays(state, layer);
  if (why !== null) throw new RecordRefused(why);
  const below = layerOf(state, layerOf(state, layer).parent);
  state.layers.delete(layer);
  below.sealed = false;
  state.topLayer = below.id;
  state.nextLayer = below.id + 1;
}

function childrenOf<Record extends { readonly parent: number }>(
  state: { readonly layers: ReadonlyMap<number, Record> },
  layer: number,
): Record[] {
  return [...state.layers.values()].filter(({ parent }) => parent === layer);
}

function hasName(state: MutableState, wanted: string): boolean {
  return [...state.snapshots.values()].some(({ name }) => name === wanted);
}

function isNamed(state: VolumeState, layer: number): boolean {
  return [...state.snapshots.values()].some((snapshot) => snapshot.layer === layer);
}
