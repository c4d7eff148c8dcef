/**
 * The tree of layers and the snapshots in the metadata reducer. Method: random records, most of which cannot follow the
 * ones before; a record that is refused changes nothing, one that is taken leaves a sound tree, and the records of any
 * state that is reached fold to the same state. Then each rule by its own record.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BLOCK_BYTES } from '../../src/io/limits.ts';
import {
  RecordRefused,
  emptyState,
  foldRecord,
  recordsOf,
} from '../../src/volume/log/metadata-state.ts';
import type { VolumeState } from '../../src/volume/log/metadata-state.ts';
import type { MetadataRecord } from '../../src/volume/log/records.ts';

const BLOCKS = 3000;
const SIZE = BLOCKS * BLOCK_BYTES;

const hex = (digit: number): string => String(digit).repeat(32);

const BIRTH: MetadataRecord[] = [
  { kind: 'volume-created', id: hex(0), name: 'v', sizeBytes: SIZE, createdAt: 5, nextMirrorId: 1 },
  { kind: 'layer-created', layer: 1, parent: 0 },
];

function folded(records: readonly MetadataRecord[]): VolumeState {
  const state = emptyState();
  for (const record of records) foldRecord(state, record);
  return state;
}

/** Everything in a state, in a form that compares. */
function shown(state: VolumeState): unknown {
  const layers = [...state.layers.values()].map(({ map, ...rest }) => {
    const runs: string[] = [];
    for (let block = 0; block < map.blockCount;) {
      const end = map.runEnd(block, map.blockCount);
      runs.push(`${map.stateOf(block)} to ${end}`);
      block = end;
    }
    return { ...rest, runs, zeroes: map.zero.blockCount };
  });
  const mirrors = [...state.mirrors.values()].map(({ dirty, suspect, ...rest }) => {
    return { ...rest, dirty: dirty.count, suspect: suspect.count, blocks: dirty.blockCount };
  });
  const snapshots = [...state.snapshots];
  return { ...state, layers, snapshots, mirrors, hot: [...state.hot] };
}

function expectSound(state: VolumeState): void {
  const seen = new Set<number>();
  for (const { id, parent } of state.layers.values()) {
    expect(parent === 0 ? seen.size === 0 : seen.has(parent)).toBe(true);
    seen.add(id);
  }
  expect([...state.layers.keys()].at(-1)).toBe(state.topLayer);
  expect(state.nextLayer).toBeGreaterThan(Math.max(...seen));
  const names = new Set<string>();
  for (const { name, layer } of state.snapshots.values()) {
    expect(state.layers.get(layer)?.sealed).toBe(true);
    names.add(name);
  }
  expect(names.size).toBe(state.snapshots.size);
}

function placed(of: number): MetadataRecord {
  return { kind: 'layer-placed', layer: of, container: 'device', location: '/dev/x' };
}

const layer = fc.integer({ min: 0, max: 9 });
const size = fc.oneof(fc.integer({ min: -1, max: 5000 }), fc.constant(0.5));
const record: fc.Arbitrary<MetadataRecord> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('layer-created'), layer, parent: layer }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('layer-sealed'), layer }) },
  { weight: 1, arbitrary: layer.map(placed) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('layers-merged'), from: layer, into: layer }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('layer-removed'), layer }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('top-removed'), layer }) },
  {
    weight: 1,
    arbitrary: fc.record({ layer, size }).map(({ layer: which, size: blocks }) => ({
      kind: 'layer-resized' as const,
      layer: which,
      sizeBytes: blocks * BLOCK_BYTES,
    })),
  },
  {
    weight: 1,
    arbitrary: size.map((blocks) => ({
      kind: 'resized' as const,
      sizeBytes: blocks * BLOCK_BYTES,
    })),
  },
  {
    weight: 3,
    arbitrary: fc
      .record({ id: fc.nat(6), name: fc.nat(4), layer, createdAt: fc.nat(9), size })
      .map(({ id, name, size: blocks, ...rest }) => ({
        kind: 'snapshot-created' as const,
        ...rest,
        id: hex(id),
        name: `s${name}`,
        sizeBytes: blocks * BLOCK_BYTES,
      })),
  },
  {
    weight: 1,
    arbitrary: fc.nat(6).map((id) => ({ kind: 'snapshot-removed' as const, id: hex(id) })),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('allocated'),
      layer,
      first: fc.nat(4000),
      count: fc.nat(2000),
      state: fc.constantFrom(0, 1, 2),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('layer-region'),
      layer,
      region: fc.nat(5),
      data: fc.constantFrom(0, 0x0f, 0xff).map((byte) => new Uint8Array(128).fill(byte)),
      zero: fc.constantFrom(0, 0x30, 0x11).map((byte) => new Uint8Array(128).fill(byte)),
    }),
  },
);

/** Steps that fit the state more often than a record at random does. */
const move = fc.record({
  step: fc.constantFrom('push', 'push', 'fork', 'fork', 'up', 'down', 'remove', 'back', 'forget'),
  pick: fc.nat(99),
});

const history = fc.array(fc.oneof(record, move), { maxLength: 60, size: 'max' });

function recordsOfMove(
  state: VolumeState,
  { step, pick }: { step: string; pick: number },
): MetadataRecord[] {
  const layers = [...state.layers.values()];
  const { id, parent } = layers[pick % layers.length]!;
  if (step === 'up') return [{ kind: 'layers-merged', from: parent, into: id }];
  if (step === 'down') return [{ kind: 'layers-merged', from: id, into: parent }];
  if (step === 'remove') return [{ kind: 'layer-removed', layer: id }];
  if (step === 'forget') {
    const ids = [...state.snapshots.keys()];
    return ids.length === 0 ? [] : [{ kind: 'snapshot-removed', id: ids[pick % ids.length]! }];
  }
  if (step === 'back') return [{ kind: 'top-removed', layer: state.topLayer }];
  const { topLayer, nextLayer } = state;
  return [
    { kind: 'layer-sealed', layer: topLayer },
    { kind: 'layer-created', layer: nextLayer, parent: step === 'push' ? topLayer : id },
  ];
}

describe('records of layers and snapshots', () => {
  test('are taken whole or refused whole, and a state is what its records fold to', () => {
    const taken = new Map<string, number>();
    const refused = new Map<string, number>();
    fc.assert(
      fc.property(history, (steps) => {
        const state = folded(BIRTH);
        for (const each of steps) {
          for (const next of 'kind' in each ? [each] : recordsOfMove(state, each)) {
            const before = shown(state);
            try {
              foldRecord(state, next);
              taken.set(next.kind, (taken.get(next.kind) ?? 0) + 1);
            } catch (thrown) {
              expect(thrown).toBeInstanceOf(RecordRefused);
              expect(shown(state)).toEqual(before);
              refused.set(next.kind, (refused.get(next.kind) ?? 0) + 1);
            }
          }
        }
        expectSound(state);
        expect(shown(folded([...recordsOf(state)]))).toEqual(shown(state));
      }),
      { numRuns: 300 },
    );
    // Every kind was met both ways.
    const kinds = [
      'layer-created',
      'layer-sealed',
      'layers-merged',
      'layer-removed',
      'top-removed',
    ];
    for (const kind of [...kinds, 'layer-resized', 'snapshot-created', 'snapshot-removed']) {
      expect([kind, taken.get(kind) ?? 0]).not.toEqual([kind, 0]);
      expect([kind, refused.get(kind) ?? 0]).not.toEqual([kind, 0]);
    }
  });
});

/** 1 <- 2 <- 3 <- 6 (the top), and 2 <- 5. All but the top are sealed. */
const TREE: MetadataRecord[] = [
  ...BIRTH,
  { kind: 'layer-sealed', layer: 1 },
  { kind: 'layer-created', layer: 2, parent: 1 },
  { kind: 'layer-sealed', layer: 2 },
  { kind: 'layer-created', layer: 3, parent: 2 },
  { kind: 'layer-sealed', layer: 3 },
  { kind: 'layer-created', layer: 5, parent: 2 },
  { kind: 'layer-sealed', layer: 5 },
  { kind: 'layer-created', layer: 6, parent: 3 },
];

function snapshot(id: number, of: number, name = `s${id}`): MetadataRecord {
  const { createdAt, sizeBytes } = { createdAt: 1, sizeBytes: SIZE };
  return { kind: 'snapshot-created', id: hex(id), name, layer: of, createdAt, sizeBytes };
}

const BACK: MetadataRecord = { kind: 'top-removed', layer: 6 };
/** Then 3 is the last but the top. */
const ALONE: MetadataRecord = { kind: 'layer-removed', layer: 5 };

describe('the fold refuses', () => {
  const refusals: [what: string, records: MetadataRecord[], why: string][] = [
    ['a second base layer', [{ kind: 'layer-created', layer: 9, parent: 0 }], 'base layer'],
    ['a layer over nothing', [{ kind: 'layer-created', layer: 9, parent: 8 }], 'unknown'],
    ['a number that was used', [{ kind: 'layer-created', layer: 4, parent: 3 }], 'used up'],
    ['a seal of nothing', [{ kind: 'layer-sealed', layer: 4 }], 'unknown'],
    ['a merge of no neighbours', [{ kind: 'layers-merged', from: 1, into: 3 }], 'no neighbours'],
    ['a merge with itself', [{ kind: 'layers-merged', from: 3, into: 3 }], 'no neighbours'],
    ['a merge of the top', [{ kind: 'layers-merged', from: 3, into: 6 }], 'only sealed'],
    [
      'a merge of the top after its seal',
      [
        { kind: 'layer-sealed', layer: 6 },
        { kind: 'layers-merged', from: 6, into: 3 },
      ],
      'top layer',
    ],
    [
      'a merge up past another child',
      [{ kind: 'layers-merged', from: 2, into: 3 }],
      'carries more',
    ],
    [
      'a merge down past another child',
      [{ kind: 'layers-merged', from: 3, into: 2 }],
      'carries more',
    ],
    [
      'a merge up of a snapshot',
      [snapshot(1, 1), { kind: 'layers-merged', from: 1, into: 2 }],
      'is a snapshot',
    ],
    [
      'a merge down over a snapshot',
      [snapshot(1, 1), { kind: 'layers-merged', from: 2, into: 1 }],
      'is a snapshot',
    ],
    ['the end of the top', [{ kind: 'layer-removed', layer: 6 }], 'top layer'],
    ['the end of what carries others', [{ kind: 'layer-removed', layer: 2 }], 'carries others'],
    ['the end of a snapshot', [snapshot(1, 5), { kind: 'layer-removed', layer: 5 }], 'snapshot'],
    [
      'a return to a layer from one that is not on top',
      [{ kind: 'top-removed', layer: 3 }],
      'not the top',
    ],
    [
      'a return from a top that holds data',
      [{ kind: 'allocated', layer: 6, first: 1, count: 1, state: 1 }, BACK],
      'not empty',
    ],
    [
      'a return from a top that holds zeroes',
      [{ kind: 'allocated', layer: 6, first: 1, count: 1, state: 2 }, BACK],
      'not empty',
    ],
    ['a return to a layer that others came after', [BACK], 'older than others'],
    ['a return to a snapshot', [ALONE, snapshot(1, 3), BACK], 'is a snapshot'],
    [
      'a return to a layer of another size',
      [ALONE, { kind: 'layer-resized', layer: 3, sizeBytes: 4096 }, BACK],
      'another size',
    ],
    [
      'a return to what is not sealed',
      [
        { kind: 'layer-created', layer: 7, parent: 6 },
        { kind: 'top-removed', layer: 7 },
      ],
      'not sealed',
    ],
    [
      'a return to nothing',
      [
        { kind: 'layers-merged', from: 1, into: 2 },
        ALONE,
        { kind: 'layers-merged', from: 2, into: 3 },
        BACK,
        { kind: 'top-removed', layer: 3 },
      ],
      'no layer of this volume',
    ],
    [
      'a return while a journal is kept for the top',
      [ALONE, { kind: 'journal-kept', layer: 6, generation: 1, after: 0, last: 1 }, BACK],
      'a journal is kept',
    ],
    ['a snapshot of the top', [snapshot(1, 6)], 'not sealed'],
    ['a snapshot of nothing', [snapshot(1, 4)], 'unknown'],
    ['an id twice', [snapshot(1, 1), snapshot(1, 2, 'other')], 'exists already'],
    ['the end of no snapshot', [{ kind: 'snapshot-removed', id: hex(1) }], 'unknown'],
    ['a container of nothing', [placed(9)], 'unknown'],
    ['a container above others', [placed(2)], 'no base layer'],
    ['two containers', [placed(1), placed(1)], 'already'],
    [
      'a merge out of a container',
      [placed(1), { kind: 'layers-merged', from: 1, into: 2 }],
      'stays in its container',
    ],
    ['a layer of no size', [{ kind: 'layer-resized', layer: 1, sizeBytes: 0 }], 'out of range'],
    ['a size of no layer', [{ kind: 'layer-resized', layer: 4, sizeBytes: SIZE }], 'unknown'],
    [
      'a block past the end of its layer',
      [
        { kind: 'layer-resized', layer: 1, sizeBytes: 4096 },
        { kind: 'allocated', layer: 1, first: 1, count: 1, state: 1 },
      ],
      'passes the end',
    ],
    [
      'a block that is data and zero',
      [
        {
          kind: 'layer-region',
          layer: 1,
          region: 0,
          data: new Uint8Array(128).fill(3),
          zero: new Uint8Array(128).fill(2),
        },
      ],
      'data and zero',
    ],
  ];

  test.each(refusals)('%s', (_what, records, why) => {
    const state = folded([...TREE, ...records.slice(0, -1)]);
    const before = shown(state);
    const last = records.at(-1)!;
    expect(() => foldRecord(state, last)).toThrow(RecordRefused);
    expect(() => foldRecord(state, last)).toThrow(why);
    expect(shown(state)).toEqual(before);
  });

  test('a new size before there is a layer', () => {
    const state = folded(BIRTH.slice(0, 1));
    const before = shown(state);
    expect(() => foldRecord(state, { kind: 'resized', sizeBytes: 4096 })).toThrow('unknown');
    expect(shown(state)).toEqual(before);
  });
});

describe('a merge', () => {
  test('moves children and names down with their layer', () => {
    const state = folded([
      ...TREE,
      { kind: 'layer-removed', layer: 5 },
      snapshot(1, 3),
      { kind: 'layers-merged', from: 3, into: 2 },
    ]);
    expect([...state.layers.values()].map(({ id, parent }) => [id, parent])).toEqual([
      [1, 0],
      [2, 1],
      [6, 2],
    ]);
    expect(state.snapshots.get(hex(1))?.layer).toBe(2);
  });

  test('up leaves the upper layer on what was below both', () => {
    const state = folded([...TREE, snapshot(1, 2), { kind: 'layers-merged', from: 1, into: 2 }]);
    expect(state.layers.get(2)?.parent).toBe(0);
    expect(state.layers.has(1)).toBe(false);
  });
});

describe('a top that holds nothing', () => {
  test('goes, and the layer below it takes writes and numbers again', () => {
    const state = folded([...TREE, ALONE, BACK]);
    expect([state.topLayer, state.nextLayer, [...state.layers.keys()]]).toEqual([3, 4, [1, 2, 3]]);
    expect(state.layers.get(3)?.sealed).toBe(false);
    expect(shown(folded([...recordsOf(state)]))).toEqual(shown(state));
  });
});

describe('a volume that grows', () => {
  test('shows nothing of longer layers below it', () => {
    const state = folded([
      ...BIRTH,
      { kind: 'layer-sealed', layer: 1 },
      { kind: 'layer-created', layer: 2, parent: 1 },
      { kind: 'resized', sizeBytes: SIZE / 2 },
      { kind: 'resized', sizeBytes: SIZE },
    ]);
    const { map } = state.layers.get(2)!;
    expect([map.stateOf(BLOCKS / 2 - 1), map.runEnd(0, BLOCKS)]).toEqual([0, BLOCKS / 2]);
    expect([map.stateOf(BLOCKS / 2), map.runEnd(BLOCKS / 2, BLOCKS)]).toEqual([2, BLOCKS]);
    expect(state.layers.get(1)?.map.blockCount).toBe(BLOCKS);
  });
});
