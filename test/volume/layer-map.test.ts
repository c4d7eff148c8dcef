/**
 * A layer map agrees with an array of states, and its records give it back. Method: random changes on both; the
 * records of the whole map, and of the changed blocks alone, folded into other maps.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlockSet } from '../../src/volume/maps/block-set.ts';
import { LayerMap } from '../../src/volume/maps/layer-map.ts';
import type { BlockState } from '../../src/volume/maps/layer-map.ts';
import { recordsOfMap } from '../../src/volume/log/metadata-state.ts';

const BLOCKS = 3000;

const change = fc.record({
  first: fc.nat(BLOCKS - 1),
  count: fc.oneof(fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: BLOCKS })),
  state: fc.constantFrom<BlockState>(0, 1, 2),
});

function states(map: LayerMap): BlockState[] {
  return Array.from({ length: BLOCKS }, (_, block) => map.stateOf(block));
}

function replay(map: LayerMap, only: BlockSet | null, onto: LayerMap): number {
  let records = 0;
  for (const record of recordsOfMap(1, map, only)) {
    records += 1;
    if (record.kind === 'allocated') onto.set(record.first, record.count, record.state);
    if (record.kind === 'layer-region') {
      onto.data.setRegion(record.region, 2, record.data);
      onto.zero.setRegion(record.region, 2, record.zero);
    }
  }
  return records;
}

describe('a layer map', () => {
  test('agrees with an array of states, and its records give it back', () => {
    fc.assert(
      fc.property(fc.array(change), fc.array(change), (before, after) => {
        const map = new LayerMap(BLOCKS);
        const model = Array.from({ length: BLOCKS }, (): BlockState => 0);
        const apply = ({ first, count, state }: (typeof before)[number]): boolean => {
          const end = Math.min(BLOCKS, first + count);
          const changes = model.slice(first, end).some((old) => old !== state);
          model.fill(state, first, end);
          const changed = map.set(first, end - first, state);
          if (changes) expect(changed).toBe(true);
          return changed;
        };
        for (const each of before) apply(each);
        expect(states(map)).toEqual(model);
        const recorded = new LayerMap(BLOCKS);
        replay(map, null, recorded);
        expect(states(recorded)).toEqual(model);

        const unrecorded = new BlockSet(BLOCKS);
        for (const each of after) {
          if (apply(each)) {
            unrecorded.add(each.first, Math.min(each.count, BLOCKS - each.first));
          }
        }
        const records = replay(map, unrecorded, recorded);
        expect(states(recorded)).toEqual(model);
        expect(records).toBeLessThanOrEqual(3 * 4);
        for (let block = 0; block < BLOCKS; block += 61) {
          let end = block;
          while (end < BLOCKS && model[end] === model[block]) end += 1;
          expect(map.runEnd(block, BLOCKS)).toBe(end);
        }
      }),
    );
  });
});
