/** A tree of layers at random, as a metadata state, and the same as plain arrays of block states. */
import * as fc from 'fast-check';
import { BLOCK_BYTES } from '../../../src/io/limits.ts';
import { LayerMap } from '../../../src/volume/maps/layer-map.ts';
import type { BlockState } from '../../../src/volume/maps/layer-map.ts';
import type {
  LayerRecord,
  SnapshotRecord,
  VolumeState,
} from '../../../src/volume/log/metadata-state.ts';
import { emptyState } from '../../../src/volume/log/metadata-state.ts';

export interface Range {
  readonly first: number;
  readonly count: number;
  readonly state: BlockState;
}

export interface LayerPlan {
  /** Which of the layers before it is below, as a fraction. */
  readonly under: number;
  readonly blocks: number;
  readonly ranges: readonly Range[];
  /** Snapshots of it, and how many blocks each is shorter. */
  readonly names: readonly number[];
}

const REGION = 1024;

/** Sizes that end inside regions, at their edges, and one of many regions. */
const size = fc.oneof(
  { weight: 4, arbitrary: fc.constant(5 * REGION + 100) },
  { weight: 1, arbitrary: fc.constantFrom(5 * REGION, REGION, 1, 257 * REGION + 3) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 6 * REGION }) },
);

const range = fc.record({
  first: fc.oneof(
    fc.nat(6 * REGION),
    fc.nat(6).map((region) => region * REGION),
  ),
  count: fc.oneof(
    fc.integer({ min: 1, max: 40 }),
    fc.integer({ min: 1, max: 3 * REGION }),
    fc.constantFrom(REGION, 400 * REGION),
  ),
  state: fc.constantFrom<BlockState>(0, 1, 1, 2),
});

export const layerPlans: fc.Arbitrary<LayerPlan[]> = fc.array(
  fc.record({
    under: fc.double({ min: 0, max: 1, noNaN: true }),
    blocks: size,
    ranges: fc.array(range, { maxLength: 6 }),
    names: fc.array(fc.oneof(fc.constant(0), fc.nat(2000)), { maxLength: 2 }),
  }),
  { minLength: 1, maxLength: 7 },
);

/** The last layer is the head: it has no names, and is not sealed. */
export function stateOf(plans: readonly LayerPlan[]): VolumeState {
  const layers = new Map<number, LayerRecord>();
  const snapshots = new Map<string, SnapshotRecord>();
  plans.forEach((plan, index) => {
    const id = index + 1;
    const top = id === plans.length;
    const map = new LayerMap(plan.blocks);
    for (const { first, count, state } of plan.ranges) {
      const end = Math.min(plan.blocks, first + count);
      if (first < end) map.set(first, end - first, state);
    }
    const parent = index === 0 ? 0 : Math.min(index, 1 + Math.floor(plan.under * index));
    layers.set(id, { id, parent, sealed: !top, map, place: null });
    if (top) return;
    plan.names.forEach((shorter, number) => {
      const name = `s${id}-${number}`;
      const blocks = Math.max(1, plan.blocks - shorter);
      const sizeBytes = blocks * BLOCK_BYTES;
      snapshots.set(name, { id: name, name, layer: id, createdAt: 0, sizeBytes });
    });
  });
  const sizeBytes = (plans.at(-1)?.blocks ?? 0) * BLOCK_BYTES;
  return { ...emptyState(), sizeBytes, layers, snapshots, topLayer: plans.length };
}

/** What each layer of the plan says of each of its blocks, by its number. */
export function cellsOf(plans: readonly LayerPlan[]): Map<number, Uint8Array> {
  const cells = plans.map((plan, index): [number, Uint8Array] => {
    const states = new Uint8Array(plan.blocks);
    for (const { first, count, state } of plan.ranges) states.fill(state, first, first + count);
    return [index + 1, states];
  });
  return new Map(cells);
}

/** Where a view finds each of its blocks: the layer, or 0; negative when the layer says zero. */
export function ownersOf(
  state: VolumeState,
  cells: ReadonlyMap<number, Uint8Array>,
  view: { readonly layer: number; readonly blocks: number },
): Int8Array {
  const owners = new Int8Array(view.blocks);
  const chain: number[] = [];
  for (let id = view.layer; id !== 0; id = state.layers.get(id)!.parent) chain.push(id);
  for (const id of chain.toReversed()) {
    const states = cells.get(id)!;
    for (let block = 0; block < Math.min(view.blocks, states.length); block += 1) {
      if (states[block] === 1) owners[block] = id;
      if (states[block] === 2) owners[block] = -id;
    }
  }
  return owners;
}
