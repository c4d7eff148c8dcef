/**
 * What the tree of layers says of garbage, merges, changes and sizes is what a block by block look at every view
 * says. Method: random trees with layers and snapshots of many sizes; the answers beside those of plain arrays; and by
 * hand the cases that a volume meets.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BLOCK_BYTES } from '../../src/io/limits.ts';
import { LayerMap } from '../../src/volume/maps/layer-map.ts';
import {
  chainOf,
  changedBlocks,
  childrenOf,
  garbageOf,
  measureSnapshots,
  mergeable,
  namesOf,
  snapshotSizes,
} from '../../src/volume/layers/layer-tree.ts';
import type { ChangedRun } from '../../src/volume/layers/layer-tree.ts';
import type { VolumeState } from '../../src/volume/log/metadata-state.ts';
import { cellsOf, layerPlans, ownersOf, stateOf } from './support/layer-model.ts';

function tree(...layers: [parent: number, names: number][]): VolumeState {
  return stateOf(
    layers.map(([parent, names], index) => ({
      under: index === 0 ? 0 : (parent - 0.5) / index,
      blocks: 10,
      ranges: [],
      names: Array.from({ length: names }, () => 0),
    })),
  );
}

interface ViewOf {
  readonly id: string;
  readonly layer: number;
  readonly blocks: number;
}

/** The snapshots, and the head without a name. */
function viewsOf(state: VolumeState): ViewOf[] {
  const head = { id: '', layer: state.topLayer, blocks: state.sizeBytes / BLOCK_BYTES };
  const named = [...state.snapshots.values()].map(({ id, layer, sizeBytes }) => ({
    id,
    layer,
    blocks: sizeBytes / BLOCK_BYTES,
  }));
  return [...named, head];
}

function pairs(state: VolumeState): string[] {
  return mergeable(state).map(({ from, into }) => {
    return [from, into].toSorted((one, other) => one - other).join('-');
  });
}

describe('the tree of layers', () => {
  // 1 <- 2 <- 3 (two names) <- 4 <- 5: a restore gave up 4 and 5.
  //      2 <- 6 (the head)
  const state = tree([0, 0], [1, 0], [2, 2], [3, 0], [4, 0], [2, 0]);

  test('knows chains, children and names', () => {
    expect(chainOf(state, 5).map(({ id }) => id)).toEqual([5, 4, 3, 2, 1]);
    expect(childrenOf(state, 2).map(({ id }) => id)).toEqual([3, 6]);
    expect(namesOf(state, 3).map(({ name }) => name)).toEqual(['s3-0', 's3-1']);
    expect(namesOf(state, 2)).toEqual([]);
  });

  test('gives up what nobody looks through, the upper layers first', () => {
    expect(garbageOf(state)).toEqual([5, 4]);
    expect(garbageOf(tree([0, 0], [1, 0], [2, 1], [3, 0]))).toEqual([]);
  });

  test('merges sealed neighbours whose lower one has no name and no other child', () => {
    // 1-2 may merge; 2 carries two layers, 3 has a name, and 4 and 5 are garbage.
    expect(pairs(state)).toEqual(['1-2']);
    // The head is not sealed.
    expect(pairs(tree([0, 0], [1, 0]))).toEqual([]);
    expect(pairs(tree([0, 0], [1, 0], [2, 0]))).toEqual(['1-2']);
    expect(pairs(tree([0, 1], [1, 0], [2, 0]))).toEqual([]);
    expect(pairs(tree([0, 0], [1, 1], [2, 0]))).toEqual(['1-2']);
  });

  test('keeps what a view needs and nothing else', () => {
    fc.assert(
      fc.property(layerPlans, (plans) => {
        const random = stateOf(plans);
        const kept = new Set(viewsOf(random).flatMap(({ layer }) => chainOf(random, layer)));
        const garbage = garbageOf(random);
        const left = [...random.layers.values()].filter(({ id }) => !garbage.includes(id));
        expect(new Set(left)).toEqual(kept);
        const gone = new Set<number>();
        for (const layer of garbage) {
          expect(childrenOf(random, layer).every(({ id }) => gone.has(id))).toBe(true);
          gone.add(layer);
        }
      }),
    );
  });
});

describe('a merge', () => {
  test('copies the blocks that the other layer lacks, in the cheaper direction', () => {
    fc.assert(
      fc.property(layerPlans, (plans) => {
        const state = stateOf(plans);
        const cells = cellsOf(plans);
        let last = 0;
        for (const { from, into, direction, bytes } of mergeable(state)) {
          const upper = state.layers.get(direction === 'up' ? into : from)!;
          const lower = state.layers.get(direction === 'up' ? from : into)!;
          expect(upper.parent).toBe(lower.id);
          const over = cells.get(upper.id)!;
          const up = cells.get(lower.id)!.filter((told, at) => told === 1 && over[at] === 0).length;
          const down = over.filter((told) => told === 1).length;
          expect(bytes).toBe(Math.min(up, down) * BLOCK_BYTES);
          expect(direction).toBe(up <= down ? 'up' : 'down');
          expect(bytes).toBeGreaterThanOrEqual(last);
          last = bytes;
        }
      }),
      { numRuns: 150 },
    );
  });
});

describe('what changed from one view to another', () => {
  test('is what they hold in different layers', () => {
    fc.assert(
      fc.property(layerPlans, (plans) => {
        const state = stateOf(plans);
        const cells = cellsOf(plans);
        const views = viewsOf(state).slice(-5);
        for (const before of views) {
          for (const after of views) expectChanges(state, cells, [before, after]);
        }
      }),
      { numRuns: 60 },
    );
  });

  test('is told in a few runs of a volume of the largest size', () => {
    const blocks = 2 ** 38;
    const base = { id: 1, map: new LayerMap(blocks) };
    base.map.set(0, blocks, 1);
    base.map.set(5, 1, 0);
    const head = { id: 2, map: new LayerMap(blocks) };
    head.map.set(blocks / 2, blocks / 4, 1);
    head.map.set(7, 1, 2);
    const before = { layers: [base], blockCount: blocks };
    const after = { layers: [head, base], blockCount: blocks };
    const started = performance.now();
    expect([...changedBlocks(before, after)]).toEqual([
      { first: 7, count: 1, zero: true },
      { first: blocks / 2, count: blocks / 4, zero: false },
    ]);
    expect([...changedBlocks(after, before)].map(({ zero }) => zero)).toEqual([false, false]);
    // A step for each region would take minutes.
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});

/** Each run's place is filled with 1, or with 2 when it is told to read as zeroes. */
function cellsOfRuns(runs: Iterable<ChangedRun>, blocks: number): Uint8Array {
  const told = new Uint8Array(blocks);
  let end = 0;
  let last: boolean | null = null;
  for (const { first, count, zero } of runs) {
    expect(count).toBeGreaterThan(0);
    expect(first > end || (first === end && last !== zero)).toBe(true);
    expect(first + count).toBeLessThanOrEqual(blocks);
    told.fill(zero ? 2 : 1, first, first + count);
    end = first + count;
    last = zero;
  }
  return told;
}

function expectChanges(
  state: VolumeState,
  cells: ReadonlyMap<number, Uint8Array>,
  [before, after]: readonly [ViewOf, ViewOf],
): void {
  const old = ownersOf(state, cells, before);
  const now = ownersOf(state, cells, after);
  const oldChain = chainOf(state, before.layer).map(({ id }) => id);
  const newChain = chainOf(state, after.layer).map(({ id }) => id);
  const above = [
    ...oldChain.filter((id) => !newChain.includes(id)),
    ...newChain.filter((id) => !oldChain.includes(id)),
  ].map((id) => cells.get(id)!);
  const runs = changedBlocks(
    { layers: chainOf(state, before.layer), blockCount: before.blocks },
    { layers: chainOf(state, after.layer), blockCount: after.blocks },
  );
  const told = cellsOfRuns(runs, after.blocks);
  for (let block = 0; block < after.blocks; block += 1) {
    const changed = block >= before.blocks || above.some((states) => (states[block] ?? 0) !== 0);
    const expected = !changed ? 0 : now[block]! > 0 ? 1 : 2;
    if (told[block] !== expected) {
      throw new Error(`block ${block} is told as ${told[block]}, not ${expected}`);
    }
    if (!changed && old[block] !== now[block]) throw new Error(`block ${block} is forgotten`);
  }
}

describe('the size of a snapshot', () => {
  test('is its own blocks and those that it shares', () => {
    fc.assert(
      fc.property(layerPlans, (plans) => {
        const state = stateOf(plans);
        const views = viewsOf(state);
        const owners = views.map((view) => ownersOf(state, cellsOf(plans), view));
        const longest = Math.max(...views.map(({ blocks }) => blocks));
        const own = views.map(() => 0);
        const all = views.map(() => 0);
        for (let block = 0; block < longest; block += 1) {
          owners.forEach((each, index) => {
            const owner = each[block] ?? 0;
            if (owner <= 0) return;
            all[index]! += 1;
            if (!owners.some((other, at) => at !== index && other[block] === owner))
              own[index]! += 1;
          });
        }
        const expected = new Map<string, unknown>();
        views.forEach(({ id }, index) => {
          const sharedBytes = (all[index]! - own[index]!) * BLOCK_BYTES;
          if (id !== '') expected.set(id, { ownBytes: own[index]! * BLOCK_BYTES, sharedBytes });
        });
        expect(snapshotSizes(state)).toEqual(expected);
      }),
      { numRuns: 60 },
    );
  });

  test('counts with the map that the head works with', () => {
    const state = stateOf([
      { under: 0, blocks: 100, ranges: [{ first: 0, count: 10, state: 1 }], names: [0] },
      { under: 1, blocks: 100, ranges: [], names: [] },
    ]);
    expect(snapshotSizes(state).get('s1-0')).toEqual({ ownBytes: 0, sharedBytes: 10 * 4096 });
    const head = new LayerMap(100);
    head.set(0, 4, 1);
    head.set(4, 1, 2);
    expect(snapshotSizes(state, head).get('s1-0')).toEqual({
      ownBytes: 5 * 4096,
      sharedBytes: 5 * 4096,
    });
  });

  test('of a full volume of the largest size takes a bounded number of steps', () => {
    const state = stateOf([
      { under: 0, blocks: 2 ** 38, ranges: [{ first: 0, count: 2 ** 38, state: 1 }], names: [0] },
      { under: 1, blocks: 2 ** 38, ranges: [{ first: 9, count: 2 ** 20, state: 1 }], names: [] },
    ]);
    let steps = 0;
    const measure = measureSnapshots(state);
    for (;;) {
      const step = measure.next();
      if (step.done === true) {
        const sizes = { ownBytes: 2 ** 32, sharedBytes: 2 ** 50 - 2 ** 32 };
        expect(step.value.get('s1-0')).toEqual(sizes);
        break;
      }
      steps += 1;
    }
    expect(steps).toBeLessThan(5_000);
  });
});
