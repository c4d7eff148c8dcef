/**
 * A check names what is wrong in the history of a volume and in what it holds as a secondary. Method: the state of a
 * secondary in the middle of a delta run is spoilt in one way each time, in ways that no log can say.
 */
import { expect, test } from 'vitest';
import type { Finding } from '../../src/volume/check/check-finding.ts';
import { checkState } from '../../src/volume/check/check-tree.ts';
import { emptyState, foldRecord } from '../../src/volume/log/metadata-state.ts';
import type { VolumeState } from '../../src/volume/log/metadata-state.ts';
import type { Generation, MetadataRecord } from '../../src/volume/log/records.ts';
import type { MutableState } from '../../src/volume/volume-state.ts';
import { DIRECTORY, LAYERED, LOG, SIZE, codesOf } from './support/check-world.ts';

const id = (digit: string): string => digit.repeat(32);
const FIRST: Generation = { number: 1, id: id('1'), firstEpoch: 1 };
const SECOND: Generation = { number: 2, id: id('2'), firstEpoch: 50 };
const BASE = 'a0'.repeat(16);

const SECONDARY: MetadataRecord[] = [
  { kind: 'source-bound', node: 'north', volumeId: id('e') },
  { kind: 'history-set', generations: [FIRST] },
  { kind: 'position', generation: 1, epoch: 40, time: 1 },
  {
    kind: 'run-opened',
    run: id('c'),
    generation: 2,
    epoch: 60,
    time: 2,
    generations: [FIRST, SECOND],
    base: BASE,
    full: false,
  },
];

function spoilt(spoil: (state: MutableState & { run: object }) => void): Finding[] {
  const state: VolumeState = emptyState();
  for (const record of [...LAYERED.flat(), ...SECONDARY]) foldRecord(state, record);
  spoil(state as MutableState & { run: object });
  return checkState(state, { directory: DIRECTORY, logPath: LOG, snapshotOffsets: new Map() });
}

test('finds nothing in a sound secondary', () => {
  expect(spoilt(() => {})).toEqual([]);
});

test.each<[string, string[], RegExp, (state: MutableState & { run: object }) => void]>([
  [
    'numbers that do not rise',
    ['history-wrong'],
    /the history: the numbers of generations rise/,
    (state) => (state.generations = [SECOND, FIRST]),
  ],
  [
    'an id that stands there twice',
    ['history-wrong'],
    /generation 1111.* stands there twice/,
    (state) => (state.generations = [FIRST, { ...SECOND, id: FIRST.id }]),
  ],
  [
    'a wrong history of the run',
    ['history-wrong'],
    /the history of the delta run: the first epochs never fall/,
    (state) =>
      (state.run = { ...state.run, generations: [{ ...FIRST, firstEpoch: 70 }, SECOND] } as never),
  ],
  [
    'a position without a source',
    ['position-wrong'],
    /no secondary/,
    (state) => (state.source = null),
  ],
  [
    'a position in an unknown generation',
    ['position-wrong'],
    /lies in generation 7,/,
    (state) => (state.position = { generation: 7, epoch: 1, time: 1 }),
  ],
  [
    'a run to an unknown generation',
    ['position-wrong'],
    /leads to generation 9,/,
    (state) => (state.run = { ...state.run, generation: 9 } as never),
  ],
  [
    'a run past the end',
    ['position-wrong'],
    /past the end of the volume/,
    (state) => (state.run = { ...state.run, cursor: SIZE + 1 } as never),
  ],
  [
    'a run whose base is gone',
    ['run-base-missing'],
    /its base ffff.* is not there/,
    (state) => (state.run = { ...state.run, base: id('f') } as never),
  ],
])('names %s', (_, codes, text, spoil) => {
  const findings = spoilt(spoil);
  expect(codesOf(findings)).toEqual(codes);
  expect(findings[0]?.what).toMatch(text);
  expect(findings[0]?.repair).toBeNull();
});
