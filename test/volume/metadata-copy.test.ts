/**
 * What the metadata reducer keeps for replication: generations, the reserve of epochs, source, position and run of a
 * secondary, and what is known of each mirror. Method: random records, most of which cannot follow the ones before; one
 * that is refused changes nothing, and the records of any state that is reached fold to the same state. Then each rule.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { GENERATIONS_MAX } from '../../src/io/limits.ts';
import {
  RecordRefused,
  emptyState,
  foldRecord,
  recordsOf,
} from '../../src/volume/log/metadata-state.ts';
import type { VolumeState } from '../../src/volume/log/metadata-state.ts';
import type { Generation, MetadataRecord, RunOpened } from '../../src/volume/log/records.ts';
import { REFUSALS } from '../../src/volume/refusals.ts';

const SIZE = 64 * 4096;
const hex = (digit: number): string => digit.toString(16).repeat(32);
const BASE = hex(10);

const BIRTH: MetadataRecord[] = [
  { kind: 'volume-created', id: hex(0), name: 'v', sizeBytes: SIZE, createdAt: 5, nextMirrorId: 1 },
  { kind: 'layer-created', layer: 1, parent: 0 },
  { kind: 'layer-sealed', layer: 1 },
  { kind: 'snapshot-created', id: BASE, name: 'b', layer: 1, createdAt: 6, sizeBytes: SIZE },
  { kind: 'layer-created', layer: 2, parent: 1 },
];

function folded(...records: readonly MetadataRecord[]): VolumeState {
  const state = emptyState();
  for (const record of [...BIRTH, ...records]) foldRecord(state, record);
  return state;
}

/** Everything in a state but the maps, in a form that compares. */
function shown(state: VolumeState): unknown {
  const mirrors = [...state.mirrors.values()].map(
    ({ dirty: _dirty, suspect: _suspect, ...rest }) => rest,
  );
  const { layers: _layers, snapshots, hot: _hot, ...rest } = state;
  return structuredClone({ ...rest, mirrors, snapshots: [...snapshots.keys()] });
}

function again(state: VolumeState): VolumeState {
  const same = emptyState();
  for (const record of recordsOf(state)) foldRecord(same, record);
  return same;
}

const small = fc.nat(6);
const id = fc.integer({ min: 1, max: 6 }).map(hex);
const position = { generation: fc.nat(4), epoch: fc.nat(30), time: fc.nat(9) };
const generation: fc.Arbitrary<Generation> = fc.record({
  number: fc.nat(5),
  id,
  firstEpoch: fc.nat(20),
});
const history = fc
  .uniqueArray(generation, { maxLength: 4, selector: ({ number }) => number })
  .map((some) => some.toSorted((one, other) => one.number - other.number));
const mirror = fc.integer({ min: 1, max: 3 });
const kinds = <Kind extends string>(kind: Kind): fc.Arbitrary<Kind> => fc.constant(kind);
const record: fc.Arbitrary<MetadataRecord> = fc.oneof(
  fc.record({ kind: kinds('generation-numbered'), generation: small }),
  fc.record({ kind: kinds('history-set'), generations: history }),
  fc.record({ kind: kinds('generation-opened'), number: small, id, firstEpoch: fc.nat(40) }),
  fc.record({ kind: kinds('epochs-reserved'), epoch: fc.nat(50) }),
  fc.record({
    kind: kinds('source-bound'),
    node: fc.constantFrom('n', 's'),
    volumeId: fc.option(id, { nil: null }),
  }),
  fc.record({ kind: kinds('source-cleared') }),
  fc.record({ kind: kinds('position'), ...position }),
  fc.record({
    kind: kinds('run-opened'),
    run: fc.constantFrom(hex(7), hex(8)),
    ...position,
    generations: history,
    base: fc.constantFrom(BASE, BASE, hex(11)),
    full: fc.boolean(),
  }),
  fc.record({
    kind: kinds('run-marked'),
    run: fc.constantFrom(hex(7), hex(8)),
    cursor: fc.nat(70).map((blocks) => blocks * 4096),
  }),
  fc.record({
    kind: kinds('run-closed'),
    run: fc.constantFrom(hex(7), hex(8)),
    committed: fc.boolean(),
  }),
  fc.record({ kind: kinds('snapshot-removed'), id: fc.constant(BASE) }),
  fc.record({ kind: kinds('resized'), sizeBytes: fc.constantFrom(SIZE, SIZE / 2) }),
  fc.record({
    kind: kinds('mirror-added'),
    mirror,
    uri: fc.constant('nbd://h/v'),
    mode: fc.constant('async' as const),
    stallPolicy: fc.constant('degrade' as const),
  }),
  fc.record({ kind: kinds('mirror-removed'), mirror }),
  fc.record({
    kind: kinds('mirror-peer'),
    mirror,
    node: fc.constantFrom('n', 's'),
    volumeId: fc.option(id, { nil: null }),
  }),
  fc.record({
    kind: kinds('mirror-acknowledged'),
    mirror,
    generation: small,
    epoch: fc.nat(30),
  }),
  fc.record({ kind: kinds('mirror-run'), mirror, run: id, snapshot: id, ...position }),
  fc.record({ kind: kinds('mirror-run-over'), mirror }),
  fc.record({
    kind: kinds('mirror-options'),
    mirror,
    lanes: fc.nat(20),
    limit: fc.option(fc.nat(9), { nil: null }),
  }),
  fc.record({
    kind: kinds('mirror-policy'),
    mirror,
    schedule: fc.constantFrom(
      { kind: 'stream' as const },
      { kind: 'every' as const, intervalMs: 1000 },
    ),
    lagLimitMs: fc.option(fc.nat(9), { nil: null }),
  }),
  fc.record({
    kind: kinds('mirror-compress'),
    mirror,
    mode: fc.constantFrom('auto' as const, 'off' as const),
  }),
  fc.record({ kind: kinds('mirror-ran'), mirror, time: fc.nat(30) }),
  fc.record({ kind: kinds('source-policy'), refuses: fc.subarray([...REFUSALS]) }),
  fc.record({ kind: kinds('snapshot-kept'), id }),
  fc.record({ kind: kinds('sync-failed'), boot: id }),
  fc.record({ kind: kinds('rejoining'), mirror, generation: small, epoch: fc.nat(30) }),
  fc.record({ kind: kinds('handing-over'), mirror, id, epoch: fc.nat(30) }),
  fc.record({ kind: kinds('handover-over') }),
  fc.record({
    kind: kinds('journal-kept'),
    layer: fc.integer({ min: 1, max: 3 }),
    generation: small,
    after: fc.nat(9),
    last: fc.nat(9),
  }),
  fc.record({ kind: kinds('journal-released') }),
  fc.record({ kind: kinds('fenced'), reason: fc.constantFrom('promoted', 'gone on') }),
  fc.record({ kind: kinds('booted'), id: fc.oneof(id, fc.constant(hex(0))) }),
);

test('random records are taken whole or refused whole, and a state is what its records fold to', () => {
  let taken = 0;
  let refused = 0;
  fc.assert(
    fc.property(fc.array(record, { minLength: 20, maxLength: 60 }), (records) => {
      const state = folded({ kind: 'source-bound', node: 'n', volumeId: null });
      for (const each of records) {
        const before = shown(state);
        try {
          foldRecord(state, each);
          taken += 1;
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(RecordRefused);
          expect(shown(state)).toEqual(before);
          refused += 1;
        }
        expect(shown(again(state))).toEqual(shown(state));
      }
    }),
    { numRuns: 200 },
  );
  expect(Math.min(taken, refused)).toBeGreaterThan(1000);
});

const G1: Generation = { number: 1, id: hex(1), firstEpoch: 1 };
const G2: Generation = { number: 2, id: hex(2), firstEpoch: 11 };
const open = (generation: Generation): MetadataRecord => ({
  kind: 'generation-opened',
  ...generation,
});

const reserved = (epoch: number): MetadataRecord => ({ kind: 'epochs-reserved', epoch });

describe('generations', () => {
  test('of a log that knows only numbers: one, with an id of its own that is always the same', () => {
    const first = folded();
    expect(first.generation).toBe(1);
    expect(first.generations).toEqual([
      { number: 1, id: expect.stringMatching(/^[0-9a-f]{32}$/) as string, firstEpoch: 1 },
    ]);
    const third = folded({ kind: 'generation-numbered', generation: 3 });
    expect(third.generations).toMatchObject([{ number: 3, firstEpoch: 1 }]);
    expect(third.generations[0]?.id).not.toBe(first.generations[0]?.id);
    expect(folded({ kind: 'generation-numbered', generation: 1 }).generations).toEqual(
      first.generations,
    );
    const known = folded({ kind: 'history-set', generations: [G1] }, open(G2));
    foldRecord(known, { kind: 'generation-numbered', generation: 2 });
    expect(known.generations).toEqual([G1, G2]);
    const numbered = { kind: 'generation-numbered', generation: 2 } as const;
    expect(() => folded({ kind: 'generation-numbered', generation: 3 }, numbered)).toThrow('back');
    expect(folded(numbered).generations).toEqual(folded(numbered).generations);
  });

  test('follow one another, and their epochs count as reserved', () => {
    const state = folded({ kind: 'history-set', generations: [G1] }, open(G2));
    expect(state.generations).toEqual([G1, G2]);
    expect(state.generation).toBe(2);
    expect(state.reservedEpoch).toBe(10);
  });

  test.each<[string, Generation, string]>([
    ['the same number', { ...G2, number: 1 }, 'rise'],
    ['the same id', { ...G2, id: G1.id }, 'twice'],
    ['no first epoch', { ...G2, firstEpoch: 0 }, 'fall'],
  ])('with %s are refused', (_, next, why) => {
    expect(() => folded({ kind: 'history-set', generations: [G1] }, open(next))).toThrow(why);
  });

  test('beyond the limit push out the oldest', () => {
    const many = Array.from({ length: GENERATIONS_MAX }, (_, index) => ({
      number: index + 1,
      id: (index + 1).toString(16).padStart(32, '0'),
      firstEpoch: index + 1,
    }));
    const next = { number: 5000, id: hex(15), firstEpoch: 5000 };
    const state = folded({ kind: 'history-set', generations: many }, open(next));
    expect(state.generations).toHaveLength(GENERATIONS_MAX);
    expect(state.generations[0]?.number).toBe(2);
    expect(state.generations.at(-1)).toEqual(next);
    expect(() => folded({ kind: 'history-set', generations: [...many, next] })).toThrow('too many');
  });

  test('of a secondary that holds nothing are none', () => {
    const state = folded({ kind: 'history-set', generations: [] });
    expect(state.generation).toBe(0);
    expect(again(state).generations).toEqual([]);
  });

  test('the reserve of epochs never falls', () => {
    expect(folded(reserved(5), reserved(9)).reservedEpoch).toBe(9);
    expect(() => folded(reserved(9), reserved(5))).toThrow('never falls');
  });
});

const BOUND: MetadataRecord = { kind: 'source-bound', node: 'n', volumeId: null };
const HISTORY: MetadataRecord = { kind: 'history-set', generations: [G1] };
const at = (epoch: number, number = 1): MetadataRecord => {
  return { kind: 'position', generation: number, epoch, time: 7 };
};
const RUN: RunOpened = {
  kind: 'run-opened',
  run: hex(7),
  generation: 2,
  epoch: 12,
  time: 9,
  generations: [G1, G2],
  base: BASE,
  full: true,
};
const closed = (committed: boolean): MetadataRecord => {
  return { kind: 'run-closed', run: hex(7), committed };
};
const marked = (cursor: number): MetadataRecord => ({ kind: 'run-marked', run: hex(7), cursor });

describe('a secondary', () => {
  test('alone has a position or a run', () => {
    for (const record of [at(3), RUN, { kind: 'source-cleared' } as const]) {
      expect(() => folded(HISTORY, record)).toThrow('no secondary');
    }
  });

  test('goes forward, in generations that it knows', () => {
    expect(folded(BOUND, HISTORY, at(3), at(3), at(4)).position?.epoch).toBe(4);
    expect(() => folded(BOUND, HISTORY, at(4), at(3))).toThrow('never goes back');
    expect(() => folded(BOUND, HISTORY, at(4, 2))).toThrow('not in the history');
  });

  test('gets position and history of a run when that is committed, and nothing when it is not', () => {
    const before = folded(BOUND, HISTORY, at(3), RUN, marked(4096));
    expect(before.run).toMatchObject({ run: hex(7), base: BASE, full: true, cursor: 4096 });
    expect(before.position?.epoch).toBe(3);
    const committed = folded(BOUND, HISTORY, at(3), RUN, closed(true));
    expect(committed.position).toEqual({ generation: 2, epoch: 12, time: 9 });
    expect(committed.generations).toEqual([G1, G2]);
    expect(committed.run).toBeNull();
    const aborted = folded(BOUND, HISTORY, at(3), RUN, closed(false));
    expect(aborted.position?.epoch).toBe(3);
    expect(aborted.generations).toEqual([G1]);
    expect(aborted.run).toBeNull();
  });

  test('may be set back by a run, and by nothing else', () => {
    const back: MetadataRecord = { ...RUN, generation: 1, epoch: 2 };
    expect(folded(BOUND, HISTORY, at(30), back, closed(true)).position?.epoch).toBe(2);
    // Its commit may name the position beforehand.
    expect(folded(BOUND, HISTORY, at(30), back, at(2), closed(true)).position?.epoch).toBe(2);
  });

  test('has one run at a time, whose cursor goes forward inside the volume', () => {
    expect(() => folded(BOUND, RUN, RUN)).toThrow('not over');
    expect(() => folded(BOUND, RUN, marked(8192), marked(4096))).toThrow('back');
    expect(() => folded(BOUND, RUN, marked(SIZE + 1))).toThrow('past the end');
    expect(() => folded(BOUND, marked(0))).toThrow('unknown');
    expect(() => folded(BOUND, RUN, { kind: 'run-closed', run: hex(8), committed: true })).toThrow(
      'unknown',
    );
    const shrunk = folded(BOUND, RUN, marked(SIZE), { kind: 'resized', sizeBytes: SIZE / 2 });
    expect(shrunk.run?.cursor).toBe(SIZE / 2);
  });

  test('keeps the base of a run until the run is over', () => {
    const gone: MetadataRecord = { kind: 'snapshot-removed', id: BASE };
    expect(() => folded(BOUND, { ...RUN, base: hex(11) })).toThrow('unknown');
    expect(() => folded(BOUND, RUN, gone)).toThrow('base of a delta run');
    expect(folded(BOUND, RUN, closed(true), gone).snapshots.size).toBe(0);
  });

  test('does not leave its source in the middle of a run; its epochs are used up when it does', () => {
    const cleared: MetadataRecord = { kind: 'source-cleared' };
    expect(() => folded(BOUND, RUN, cleared)).toThrow('not over');
    const free = folded(BOUND, HISTORY, at(30), cleared);
    expect(free).toMatchObject({ source: null, position: null, reservedEpoch: 30 });
  });

  test('holds nothing that counts when its history is another', () => {
    const other = { kind: 'history-set', generations: [G2] } as const;
    expect(folded(BOUND, HISTORY, at(3), other).position).toBeNull();
  });
});

const ADDED: MetadataRecord = {
  kind: 'mirror-added',
  mirror: 1,
  uri: 'nbd://h/v',
  mode: 'async',
  stallPolicy: 'degrade',
};
const peer = (node: string, volumeId: string | null): MetadataRecord => {
  return { kind: 'mirror-peer', mirror: 1, node, volumeId };
};
const held = (generation: number, epoch: number): MetadataRecord => {
  return { kind: 'mirror-acknowledged', mirror: 1, generation, epoch };
};
const SENT: MetadataRecord = {
  kind: 'mirror-run',
  mirror: 1,
  run: hex(7),
  snapshot: hex(8),
  generation: 1,
  epoch: 4,
  time: 5,
};

describe('a mirror', () => {
  test('keeps what is recorded of it, until it is removed', () => {
    const options: MetadataRecord = { kind: 'mirror-options', mirror: 1, lanes: 4, limit: 1000 };
    const records = [ADDED, peer('n', null), held(1, 3), SENT, options];
    const { kind: _, mirror: __, ...run } = SENT as typeof SENT & { mirror: number };
    const known = {
      peer: { node: 'n', volumeId: null },
      acknowledged: { generation: 1, epoch: 3 },
      run,
      lanes: 4,
      limit: 1000,
    };
    expect(folded(...records).mirrors.get(1)).toMatchObject(known);
    const fresh = folded(...records, { kind: 'mirror-removed', mirror: 1 }, ADDED).mirrors.get(1);
    expect(fresh).toMatchObject({
      peer: null,
      acknowledged: null,
      run: null,
      lanes: 1,
      limit: null,
    });
    const over = folded(...records, { kind: 'mirror-run-over', mirror: 1 }).mirrors.get(1);
    expect(over).toMatchObject({ ...known, run: null });
  });

  test('that is another peer has acknowledged nothing', () => {
    const volume = (...records: MetadataRecord[]) =>
      folded(ADDED, peer('n', hex(1)), held(1, 3), SENT, ...records).mirrors.get(1)?.acknowledged;
    expect(volume(peer('n', hex(1)))).toEqual({ generation: 1, epoch: 3 });
    expect(volume(peer('n', hex(2)))).toBeNull();
    expect(volume(peer('s', hex(1)))).toBeNull();
    const told = folded(ADDED, peer('n', null), held(1, 3), peer('n', hex(1))).mirrors.get(1);
    expect(told?.acknowledged).toEqual({ generation: 1, epoch: 3 });
  });

  test('never takes back what it acknowledged', () => {
    expect(folded(ADDED, held(1, 9), held(2, 3)).mirrors.get(1)?.acknowledged?.epoch).toBe(3);
    expect(() => folded(ADDED, held(1, 9), held(1, 8))).toThrow('never goes back');
    expect(() => folded(ADDED, held(2, 3), held(1, 8))).toThrow('never goes back');
  });

  test('keeps its policy and its last run of a schedule, and follows every write when it is synchronous', () => {
    const schedule = { kind: 'every' as const, intervalMs: 600_000 };
    const policy = { kind: 'mirror-policy' as const, mirror: 1, schedule, lagLimitMs: 5000 };
    const found = folded(ADDED, policy, { kind: 'mirror-ran', mirror: 1, time: 7 }).mirrors.get(1);
    expect(found).toMatchObject({ schedule, lagLimitMs: 5000, ranAt: 7 });
    const none = { schedule: { kind: 'stream' }, lagLimitMs: null, ranAt: null };
    expect(folded(ADDED).mirrors.get(1)).toMatchObject(none);
    expect(() => folded(ADDED, { ...policy, lagLimitMs: 0 })).toThrow(RecordRefused);
    const sync = { ...ADDED, mode: 'sync' } as typeof ADDED;
    expect(() => folded(sync, policy)).toThrow('a synchronous mirror follows every write');
  });

  test('has lanes and a limit in their range', () => {
    for (const [lanes, limit] of [
      [0, null],
      [17, null],
      [1, 0],
    ] as const) {
      expect(() => folded(ADDED, { kind: 'mirror-options', mirror: 1, lanes, limit })).toThrow(
        RecordRefused,
      );
    }
  });
});

test('a sync that failed is remembered until another run of the system', () => {
  const failed: MetadataRecord = { kind: 'sync-failed', boot: hex(4) };
  const booted = (digit: number): MetadataRecord => ({ kind: 'booted', id: hex(digit) });
  expect(folded(booted(4), failed).failedBoot).toBe(hex(4));
  expect(folded(failed, booted(4)).failedBoot).toBe(hex(4));
  expect(folded(failed, booted(0)).failedBoot).toBe(hex(4));
  expect(folded(failed, booted(5)).failedBoot).toBe('');
});

test('a volume that another node goes on from stays fenced until it goes on alone, or becomes a secondary', () => {
  const fenced: MetadataRecord = { kind: 'fenced', reason: 'promoted' };
  const bound: MetadataRecord = { kind: 'source-bound', node: 'n', volumeId: null };
  const opened: MetadataRecord = {
    kind: 'generation-opened',
    number: 7,
    id: hex(7),
    firstEpoch: 40,
  };
  const closed: MetadataRecord = { kind: 'closed-clean' };
  expect(folded(fenced, { kind: 'epochs-reserved', epoch: 90 }, closed).fenced).toBe('promoted');
  expect(again(folded(fenced)).fenced).toBe('promoted');
  expect(folded(fenced, opened).fenced).toBeNull();
  expect(folded(fenced, bound).fenced).toBeNull();
  expect(() => folded(bound, fenced)).toThrow(RecordRefused);
});
