/**
 * What a merge has to do is what a look at every single block says, in bounded pieces and in ascending order, and it
 * is found without going through a large volume in one turn.
 * Method: random maps of two layers against a loop over their blocks; maps of many terabytes, and where they end.
 */
import { describe, expect, test } from 'vitest';
import {
  BLOCKS_PER_REGION,
  BLOCK_BYTES,
  MERGE_HOLE_BYTES,
  MERGE_PIECE_BYTES,
} from '../../src/io/limits.ts';
import { BlockState, LayerMap } from '../../src/volume/maps/layer-map.ts';
import { mergePieces } from '../../src/volume/merge/merge-plan.ts';
import type { MergeMaps, MergePiece } from '../../src/volume/merge/merge-plan.ts';
import { seeded } from './support/merge-world.ts';

const TIB_BLOCKS = 2 ** 40 / BLOCK_BYTES;

function pieces(maps: MergeMaps): MergePiece[] {
  return [...mergePieces(maps)].filter((piece) => piece !== null);
}

/** Block by block. */
function expected({ from, into, direction, base }: MergeMaps): string[] {
  const kinds: string[] = [];
  const upper = direction === 'up' ? into : from;
  for (let block = 0; block < Math.min(from.blockCount, upper.blockCount); block += 1) {
    const source = from.stateOf(block);
    const target = into.stateOf(block);
    let kind = '';
    if (direction === 'up') {
      if (target === BlockState.ABSENT && source === BlockState.DATA) kind = 'copy';
      if (target === BlockState.ABSENT && source === BlockState.ZERO && !base) kind = 'zero';
    } else if (source === BlockState.DATA) {
      kind = 'copy';
    } else if (source === BlockState.ZERO) {
      if (base ? target === BlockState.DATA : target !== BlockState.ZERO) kind = 'zero';
    }
    kinds.push(kind);
  }
  return kinds;
}

function randomMap(chance: () => number, blocks: number): LayerMap {
  const map = new LayerMap(blocks);
  const runs = Math.floor(chance() * 30);
  for (let run = 0; run < runs; run += 1) {
    const whole = chance() < 0.3;
    const first = whole
      ? Math.floor(chance() * (blocks / BLOCKS_PER_REGION)) * BLOCKS_PER_REGION
      : Math.floor(chance() * blocks);
    const length = whole ? BLOCKS_PER_REGION * 2 : Math.floor(chance() ** 3 * 700) + 1;
    const state = ([0, 1, 1, 2] as const)[Math.floor(chance() * 4)]!;
    map.set(first, Math.min(length, blocks - first), state);
  }
  return map;
}

describe('the plan of a merge', () => {
  test('names exactly the blocks that are missing, in bounded ascending pieces', () => {
    const chance = seeded(7);
    for (let round = 0; round < 400; round += 1) {
      const size = 1 + Math.floor(chance() * 6 * BLOCKS_PER_REGION);
      const other = chance() < 0.5 ? size : 1 + Math.floor(chance() * 6 * BLOCKS_PER_REGION);
      const direction = chance() < 0.5 ? 'up' : 'down';
      const maps: MergeMaps = {
        from: randomMap(chance, size),
        // A layer that is merged into has the size of the upper one, or more.
        into: randomMap(chance, direction === 'up' ? other : Math.max(size, other)),
        direction,
        base: chance() < 0.5,
      };
      const kinds = expected(maps);
      const found = kinds.map(() => '');
      let end = 0;
      for (const { first, count, kind } of pieces(maps)) {
        expect(first).toBeGreaterThanOrEqual(end);
        expect(count).toBeGreaterThan(0);
        const most = kind === 'copy' ? MERGE_PIECE_BYTES : MERGE_HOLE_BYTES;
        expect(count * BLOCK_BYTES).toBeLessThanOrEqual(most);
        found.fill(kind, first, first + count);
        end = first + count;
      }
      expect(end).toBeLessThanOrEqual(kinds.length);
      expect(found).toEqual(kinds);
    }
  });

  test('finds the last block of 16 TiB, past 2^32 blocks, at once', () => {
    const blocks = 16 * TIB_BLOCKS + 3;
    const from = new LayerMap(blocks);
    from.set(blocks - 1, 1, BlockState.DATA);
    for (const direction of ['up', 'down'] as const) {
      const found = pieces({ from, into: new LayerMap(blocks), direction, base: true });
      expect(found).toEqual([{ first: blocks - 1, count: 1, kind: 'copy' }]);
    }
  });

  test('cuts a terabyte of zeroes into pieces, and covers it', () => {
    const from = new LayerMap(TIB_BLOCKS);
    from.set(0, TIB_BLOCKS, BlockState.ZERO);
    const maps = { from, into: new LayerMap(TIB_BLOCKS), direction: 'down', base: false } as const;
    const found = pieces(maps);
    expect(found.every(({ kind }) => kind === 'zero')).toBe(true);
    expect(found.reduce((sum, { count }) => sum + count, 0)).toBe(TIB_BLOCKS);
    expect(pieces({ ...maps, base: true })).toEqual([]);
  });

  test('lets others have a turn while it finds nothing', () => {
    const from = new LayerMap(TIB_BLOCKS / 64);
    for (let block = 0; block < from.blockCount; block += BLOCKS_PER_REGION) {
      from.set(block, 1, BlockState.DATA);
    }
    const plan = mergePieces({ from, into: from.clone(), direction: 'up', base: true });
    expect(plan.next()).toEqual({ value: null, done: false });
    const rest = [...plan];
    expect(rest.every((piece) => piece === null)).toBe(true);
    expect(rest.length).toBeGreaterThan(3);
  });

  test('goes on where it was while what it did is marked behind it', () => {
    const size = 5000;
    const from = new LayerMap(size);
    from.set(10, 3000, BlockState.DATA);
    from.set(3500, 700, BlockState.ZERO);
    const maps: MergeMaps = { from, into: new LayerMap(size), direction: 'down', base: false };
    const kinds = expected(maps);
    const found = kinds.map(() => '');
    for (const piece of mergePieces(maps)) {
      if (piece === null) continue;
      found.fill(piece.kind, piece.first, piece.first + piece.count);
      maps.into.set(piece.first, piece.count, piece.kind === 'copy' ? 1 : 2);
      from.set(piece.first, piece.count, BlockState.ABSENT);
    }
    expect(found).toEqual(kinds);
  });
});
