/**
 * What two sides that parted need to compare: which positions let them trust each other's marks, and how marks are told over a link.
 * Plain calls.
 */
import { describe, expect, test } from 'vitest';
import { LINK_MESSAGE_BYTES_MAX, REJOIN_RUNS_MAX } from '../../src/io/limits.ts';
import { decideRejoin } from '../../src/replicator/failover/generations.ts';
import { decodeControl, encodeControl } from '../../src/replicator/link/messages.ts';
import { tellBlocks, ToldBlocks, type MayDiffer } from '../../src/replicator/failover/rejoin.ts';
import { BlockSet } from '../../src/volume/maps/block-set.ts';

const id = (byte: number): string => byte.toString(16).padStart(2, '0').repeat(16);
const first = { number: 1, id: id(1), firstEpoch: 1 };
const second = { number: 2, id: id(2), firstEpoch: 51 };
const other = { number: 2, id: id(3), firstEpoch: 51 };
const at = (epoch: number) => ({ generation: 1, epoch });

type Primary = Parameters<typeof decideRejoin>[0];

/** It was promoted after epoch 50, and kept what it held. */
const promoted: Primary = {
  generations: [first, second],
  position: { generation: 2, epoch: 80 },
  reservedEpoch: 1000,
  acknowledged: null,
  forkedAt: at(50),
};

/** It went on too, and has the marks of the mirror since epoch 40. */
const wentOn: Primary = {
  ...promoted,
  generations: [first, other],
  acknowledged: at(40),
  forkedAt: null,
};

const passed = (message: MayDiffer): MayDiffer => {
  const bytes = encodeControl(message);
  expect(bytes.length).toBeLessThanOrEqual(LINK_MESSAGE_BYTES_MAX);
  const decoded = decodeControl(bytes);
  if (decoded.kind !== 'may-differ') throw new Error('another message');
  return decoded;
};

describe('two sides that parted', () => {
  test('trust the fork of the one and the marks of the other', () => {
    const mirror = { generations: [first], rejoin: at(40) };
    expect(decideRejoin(promoted, mirror)).toEqual({ kind: 'rejoin', common: at(50) });
    expect(decideRejoin(wentOn, { generations: [first], rejoin: at(50) })).toEqual({
      kind: 'rejoin',
      common: at(50),
    });
  });

  test.each<[string, Primary, Parameters<typeof decideRejoin>[1]]>([
    ['the fork is gone', { ...promoted, forkedAt: null }, { generations: [first], rejoin: at(40) }],
    ['the fork lies before what both held', promoted, { generations: [first], rejoin: at(51) }],
    ['the mirror was set back', wentOn, { generations: [first], rejoin: at(39) }],
    ['the mirror has more than the line', wentOn, { generations: [first], rejoin: at(51) }],
    [
      'they have nothing in common',
      promoted,
      { generations: [{ ...first, id: id(9) }], rejoin: at(40) },
    ],
    ['the mirror has a line of its own', promoted, { generations: [first, other], rejoin: at(40) }],
    ['the mirror knows no history', promoted, { generations: [], rejoin: at(40) }],
  ])('compare everything when %s', (_, primary, mirror) => {
    expect(decideRejoin(primary, mirror).kind).toBe('compare');
  });
});

describe('marks that are told', () => {
  test('come as they are, or with more around them when they are too many', () => {
    const blocks = 2 ** 33;
    const few = new BlockSet(blocks);
    few.add(3, 2);
    few.add(blocks - 1, 1);
    const [only, ...none] = [...tellBlocks([few, new BlockSet(blocks)])].map(passed);
    expect(none).toEqual([]);
    expect(only).toEqual({
      kind: 'may-differ',
      runs: [
        [3, 2],
        [blocks - 1, 1],
      ],
      more: false,
    });
    const many = new BlockSet(2 ** 20);
    for (let block = 0; block < 2 ** 20; block += 4) many.add(block, 1);
    const messages = [...tellBlocks([many])].map(passed);
    const runs = messages.flatMap((message) => message.runs);
    expect(runs.length).toBeLessThanOrEqual(REJOIN_RUNS_MAX);
    const told = new BlockSet(2 ** 20);
    for (const [start, count] of runs) told.add(start, count);
    let missing = 0;
    for (let block = 0; block < 2 ** 20; block += 4) if (!told.has(block)) missing += 1;
    expect(missing).toBe(0);
    expect(messages.map(({ more }) => more)).toEqual(
      messages.map((_, at) => at < messages.length - 1),
    );
  });

  test('of nothing are one message, so that the other side does not wait', () => {
    expect([...tellBlocks([new BlockSet(16)])]).toEqual([
      { kind: 'may-differ', runs: [], more: false },
    ]);
  });

  test('are refused past the end, and behind the last ones', () => {
    const told = new ToldBlocks(16);
    expect(() => told.take({ kind: 'may-differ', runs: [[15, 2]], more: false })).toThrow(
      /past the end/,
    );
    expect(told.take({ kind: 'may-differ', runs: [[15, 1]], more: true })).toBe(false);
    expect(told.take({ kind: 'may-differ', runs: [], more: false })).toBe(true);
    expect(() => told.take({ kind: 'may-differ', runs: [], more: false })).toThrow(
      /behind the last/,
    );
  });
});
