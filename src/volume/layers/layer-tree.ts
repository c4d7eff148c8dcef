/**
 * Questions about the tree of layers of a volume, answered from its metadata alone.
 *
 * Invariants:
 * - Nothing here changes a state. Answers hold for the state as it is now.
 * - A layer is kept while the head or a snapshot looks through it: it is one of them, or below one of them.
 * - A pair may merge only when nobody looks at the lower layer but through the upper one: no snapshot names the
 *   lower, and nothing else lies on it. So whatever half of a merge is done, everybody reads what they read before.
 */
import assert from 'node:assert';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { LayerRecord, SnapshotRecord, VolumeState } from '../log/metadata-state.ts';
import { missingBlocks } from './layer-pieces.ts';

export { changedBlocks } from '../snapshots/changed-blocks.ts';
export type { ChangedRun, LayerStack, ViewLayer } from '../snapshots/changed-blocks.ts';
export { measureSnapshots, snapshotSizes } from '../snapshots/snapshot-sizes.ts';
export type { SnapshotSizes } from '../snapshots/snapshot-sizes.ts';

/** The layer and those below it, down to the base layer. */
export function chainOf(state: VolumeState, layer: number): LayerRecord[] {
  const chain: LayerRecord[] = [];
  for (let id = layer; id !== 0;) {
    const record = state.layers.get(id);
    assert(record, `layer ${id} exists`);
    chain.push(record);
    id = record.parent;
  }
  return chain;
}

/** The layers that lie directly on this one, oldest first. */
export function childrenOf(state: VolumeState, layer: number): LayerRecord[] {
  return [...state.layers.values()].filter(({ parent }) => parent === layer);
}

/** The snapshots of exactly this layer, in the order in which they were made. */
export function namesOf(state: VolumeState, layer: number): SnapshotRecord[] {
  return [...state.snapshots.values()].filter((snapshot) => snapshot.layer === layer);
}

/** Layers that nobody looks through, each before the one it lies on: in this order they may be removed. */
export function garbageOf(state: VolumeState): number[] {
  const kept = new Set<number>();
  const keep = (layer: number): void => {
    for (let id = layer; id !== 0 && !kept.has(id); id = state.layers.get(id)?.parent ?? 0) {
      kept.add(id);
    }
  };
  keep(state.topLayer);
  for (const { layer } of state.snapshots.values()) keep(layer);
  // Parents come before their children in the state.
  return [...state.layers.keys()].filter((layer) => !kept.has(layer)).toReversed();
}

/** One way to make two neighbours one: `from` goes, `into` stays. */
export interface MergePair {
  readonly from: number;
  readonly into: number;
  /** `up`: the lower layer goes into the one on it. `down`: the upper layer goes into the one below it. */
  readonly direction: 'up' | 'down';
  /** Bytes of the data blocks to copy. */
  readonly bytes: number;
}

/**
 * The pairs of layers that may merge now, each in the direction that copies less, the cheapest first.
 * Garbage is left out: it is removed, not merged.
 */
export function mergeable(state: VolumeState): MergePair[] {
  // A layer of new writes tells them from what the journal brings again: nothing may enter it.
  if (state.kept !== null) return [];
  const children = childCounts(state);
  const named = new Set([...state.snapshots.values()].map(({ layer }) => layer));
  const garbage = new Set(garbageOf(state));
  const pairs: MergePair[] = [];
  for (const upper of state.layers.values()) {
    const lower = state.layers.get(upper.parent);
    if (lower === undefined || !upper.sealed || !lower.sealed) continue;
    if (upper.id === state.topLayer || garbage.has(upper.id)) continue;
    if (named.has(lower.id) || children.get(lower.id) !== 1) continue;
    pairs.push(cheaperWay(upper, lower));
  }
  return pairs.toSorted((one, other) => one.bytes - other.bytes);
}

function childCounts(state: VolumeState): Map<number, number> {
  const counts = new Map<number, number>();
  for (const { parent } of state.layers.values()) {
    counts.set(parent, (counts.get(parent) ?? 0) + 1);
  }
  return counts;
}

function cheaperWay(upper: LayerRecord, lower: LayerRecord): MergePair {
  const down = upper.map.data.count;
  if (lower.place !== null) {
    // What lies in a container stays there.
    return { from: upper.id, into: lower.id, direction: 'down', bytes: down * BLOCK_BYTES };
  }
  const up = missingBlocks(lower.map, upper.map, down);
  return up <= down
    ? { from: lower.id, into: upper.id, direction: 'up', bytes: up * BLOCK_BYTES }
    : { from: upper.id, into: lower.id, direction: 'down', bytes: down * BLOCK_BYTES };
}
