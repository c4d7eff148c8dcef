/**
 * A check names what is wrong in the tree of layers, in the snapshots and in the maps' sizes. Method: the state of a sound
 * volume is spoilt in one way each time, also in ways that no log can say; and, where a log can say it, by records.
 */
import { describe, expect, test } from 'vitest';
import { BlockSet } from '../../src/volume/maps/block-set.ts';
import { LayerMap } from '../../src/volume/maps/layer-map.ts';
import { foldRecord, emptyState } from '../../src/volume/log/metadata-state.ts';
import type { LayerRecord } from '../../src/volume/log/metadata-state.ts';
import { checkState, overlapsOf } from '../../src/volume/check/check-tree.ts';
import type { Finding } from '../../src/volume/check/check-finding.ts';
import {
  BLOCKS,
  DIRECTORY,
  LAYERED,
  LOG,
  SIZE,
  World,
  codesOf,
  layerFile,
  snapshot,
} from './support/check-world.ts';

interface Spoilt {
  layers: Map<number, LayerRecord>;
  snapshots: Map<string, unknown>;
  topLayer: number;
  name: string;
  sizeBytes: number;
  hot: Set<number>;
}

function spoilt(spoil: (state: Spoilt, of: (layer: number) => LayerRecord) => void): Finding[] {
  const state = emptyState();
  for (const record of LAYERED.flat()) foldRecord(state, record);
  const open = state as unknown as Spoilt;
  spoil(open, (layer) => open.layers.get(layer)!);
  return checkState(state, {
    directory: DIRECTORY,
    logPath: LOG,
    snapshotOffsets: new Map([['b0'.repeat(16), 1234]]),
  });
}

describe('the check of a state', () => {
  test('finds nothing in a sound one', () => {
    expect(spoilt(() => {})).toEqual([]);
  });

  test.each<[string, string[], RegExp, (state: Spoilt, of: (id: number) => LayerRecord) => void]>([
    [
      'a parent that is gone',
      ['layer-parent-unknown'],
      /layer 3 lies on layer 9/,
      ({ layers }, of) => layers.set(3, { ...of(3), parent: 9 }),
    ],
    [
      'a loop',
      ['layer-loop', 'layer-loop', 'layer-base-wrong'],
      /layer 1 lies on itself/,
      ({ layers }, of) => layers.set(1, { ...of(1), parent: 2 }),
    ],
    [
      'two base layers',
      ['layer-base-wrong'],
      /2 layers lie on nothing instead of one: 1, 2/,
      ({ layers }, of) => layers.set(2, { ...of(2), parent: 0 }),
    ],
    [
      'a head that is gone',
      ['head-wrong'],
      /layer 8, which takes the writes, does not exist/,
      (state) => (state.topLayer = 8),
    ],
    [
      'a head that is sealed',
      ['head-wrong'],
      /layer 3, which takes the writes, is sealed/,
      ({ layers }, of) => layers.set(3, { ...of(3), sealed: true }),
    ],
    [
      'a head that carries a layer',
      ['head-wrong', 'head-wrong'],
      /layer 2, which takes the writes, is sealed/,
      (state) => (state.topLayer = 2),
    ],
    [
      'a layer without a seal, and the snapshot of it',
      ['layer-not-sealed', 'snapshot-layer-not-sealed'],
      /layer 2 has no seal/,
      ({ layers }, of) => layers.set(2, { ...of(2), sealed: false }),
    ],
    [
      'a snapshot of no layer',
      ['snapshot-layer-unknown'],
      /snapshot "x" \(c0.*is layer 12/,
      ({ snapshots }) =>
        snapshots.set('c0', { id: 'c0', name: 'x', layer: 12, createdAt: 0, sizeBytes: SIZE }),
    ],
    [
      'a bad name of a volume',
      ['volume-name-invalid'],
      /holds a \/ or @/,
      (state) => (state.name = 'a@b'),
    ],
    [
      'a map of another size than the volume',
      ['map-size-wrong', 'mirror-map-size-wrong', 'mirror-map-size-wrong'],
      /layer 3 has 64 blocks instead of 32/,
      (state) => (state.sizeBytes = SIZE / 2),
    ],
    [
      'a map whose two sets differ in size',
      ['map-size-wrong'],
      /the zeroes of layer 2 has 65 blocks/,
      (_, of) => of(2).map.zero.resize(BLOCKS + 1),
    ],
    [
      'a hot region past the end',
      ['hot-region-outside'],
      /region 5 was written/,
      ({ hot }) => hot.add(5),
    ],
  ])('names %s', (_, codes, text, spoil) => {
    const findings = spoilt(spoil);
    expect(codesOf(findings)).toEqual(codes);
    expect(findings[0]?.what).toMatch(text);
    for (const { place } of findings) expect(place.file).toBe(LOG);
  });

  test('names snapshots of one name, as a fold that took them would show', () => {
    const findings = spoilt(({ snapshots }) => {
      const one = { id: 'c0', name: 'first', layer: 2, createdAt: 0, sizeBytes: SIZE };
      snapshots.set('c0', one);
    });
    expect(codesOf(findings)).toEqual(['snapshot-name-twice']);
    expect(findings[0]?.what).toContain('a0'.repeat(16));
  });

  test('names a bad name by the record that gave it', async () => {
    const world = await World.layered();
    const end = world.bytes(LOG).length;
    world.appendUnchecked(snapshot('d0'.repeat(16), 'a/b', 2));
    const findings = await world.found();
    expect(codesOf(findings)).toEqual(['snapshot-name-invalid']);
    expect(findings[0]?.place.bytes?.offset).toBe(end);
    expect(findings[0]?.repair).toBeNull();
  });

  test('names layers that nothing looks through, the upper ones first', async () => {
    const world = await World.layered();
    // A restore: a new top above the first snapshot; then the second snapshot goes.
    await world.append([
      [{ kind: 'layer-created', layer: 4, parent: 1 }],
      [
        { kind: 'layer-sealed', layer: 3 },
        { kind: 'snapshot-removed', id: 'b0'.repeat(16) },
      ],
    ]);
    world.disk.open(layerFile(4), { create: true }).truncateNow(SIZE);
    const findings = await world.found();
    expect(codesOf(findings)).toEqual(['layer-unreachable', 'layer-unreachable']);
    expect(findings.map(({ place }) => place.file)).toEqual([layerFile(3), layerFile(2)]);
    expect(findings.map(({ severity }) => severity)).toEqual(['info', 'info']);
    expect(findings[0]?.repair).toEqual({ kind: 'drop-layer', layer: 3, path: layerFile(3) });
  });
});

function layer(map: LayerMap): LayerRecord {
  return { id: 1, parent: 0, sealed: true, map, place: null };
}

describe('the check of a map', () => {
  test('finds a block that is data and zero at once, wherever it is', () => {
    for (const block of [0, 7, 8, 1023, 1024, 5000, 400_000]) {
      const map = new LayerMap(400_001);
      map.set(0, 400_001, 1);
      expect([...overlapsOf(layer(map), LOG)].filter(Boolean)).toEqual([]);
      map.zero.add(block, 1);
      const [found] = [...overlapsOf(layer(map), LOG)].filter((each) => each !== null);
      expect(found?.code).toBe('map-overlap');
      expect(found?.place.blocks).toEqual({ first: block, count: 1 });
    }
    const apart = new LayerMap(5000);
    apart.data.add(1, 3);
    apart.zero.add(0, 1);
    apart.zero.add(4, 4996);
    expect([...overlapsOf(layer(apart), LOG)].filter(Boolean)).toEqual([]);
  });

  test('finds it in a log', async () => {
    const world = await World.layered();
    const both = new BlockSet(BLOCKS);
    both.add(0, 3);
    const leaf = both.leafOf(0);
    world.appendUnchecked({ kind: 'layer-region', layer: 3, region: 0, data: leaf, zero: leaf });
    const [found] = await world.found(true);
    // Where the fold takes it; else the record is named.
    expect(['map-overlap', 'log-record-refused']).toContain(found?.code);
  });
});
