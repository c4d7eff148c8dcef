/** Draws the history of a seed: its machines, its lines, its steps and its end. */
import { Dice } from '../../../scripts/fuzz/dice.ts';
import { EPOCH_PUSH_BYTES } from '../../../src/io/limits.ts';
import type { DiskTraits } from '../sim-disk.ts';
import { withFeatures } from './draw-features.ts';
import { DrawnSteps, optionsOf, refusedOf, snapshotStep } from './draw-steps.ts';
import type { Finale, History, Place, Step } from './history.ts';
import type { LineTraits } from './lines.ts';
import { BLOCK } from './oracle.ts';

const MIB = 1024 * 1024;
const FILL_BLOCKS_MAX = 256;

export function historyOf(seed: number): History {
  return withFeatures(plainHistory(seed), new Dice(seed, 6));
}

function plainHistory(seed: number): History {
  const dice = new Dice(seed, 0);
  const aside = new Dice(seed, 3);
  const blocks = dice.weighted([
    [6, 64],
    [3, dice.between(16, 200)],
    [1, 256],
    // Delta runs of several frames.
    [2, dice.between(500, 1500)],
  ]);
  const mirrors = Array.from({ length: dice.chance(25) ? 2 : 1 }, () => optionsOf(dice));
  const count = dice.weighted([
    [3, dice.between(5, 25)],
    [4, dice.between(25, 70)],
    [1, dice.between(70, 140)],
  ]);
  const steps = new DrawnSteps(dice, blocks);
  return {
    seed,
    blocks,
    mirrors,
    traits: traitsOf(dice),
    line: lineOf(dice),
    // The longest epoch of so small a volume fits; a short file is used up soon.
    journalFileBytes: blocks > 256 ? 16 * MIB : dice.pick([MIB, 8 * MIB]),
    stagingBytes: dice.pick([256 * MIB, 256 * MIB, 256 * 1024]),
    // Mostly at every turn: what is taken of an open epoch is what has the most to it.
    pushBytes: new Dice(seed, 9).pick([0, 0, 0, 16 * 1024, EPOCH_PUSH_BYTES]),
    compression: null,
    keepsSchedules: false,
    keepsLimits: false,
    graceMs: aside.pick([0, 200, 2000, 10_000]),
    ringBytes: aside.pick([null, null, 64 * 1024, MIB]),
    filled: filledBy(dice, blocks),
    settled: dice.chance(60),
    steps: withSnapshots(
      Array.from({ length: count }, (_, index) => steps.next(index + 1)),
      new Dice(seed, 4),
    ),
    finale: aside.chance(60) ? 'heal' : finaleOf(aside),
  };
}

/** Half of the histories have snapshots, here and there between the other steps. */
function withSnapshots(steps: readonly Step[], dice: Dice): Step[] {
  const percent = dice.pick([0, 0, 8, 25]);
  return steps.flatMap((step) => {
    if (!dice.chance(percent)) return [step];
    const ms = dice.pick([0, 0, dice.between(1, 60)]);
    return [step, { salt: 100_000 + step.salt, ms, ...snapshotStep(dice) }];
  });
}

function endsOf(dice: Dice): Finale['ends'] {
  return Array.from(
    {
      length: dice.weighted([
        [2, 0],
        [2, 1],
        [1, 3],
      ]),
    },
    () => ({
      node: dice.pick([0, 1] as const),
      how: dice.pick(['kill', 'cut'] as const),
      calls: dice.skewed(400),
    }),
  );
}

function finaleOf(dice: Dice): Finale {
  const ends = endsOf(dice);
  return {
    primary: dice.pick(['dead', 'cut off', 'alive'] as const),
    healed: dice.chance(40),
    ends,
    refused: refusedOf(dice),
  };
}

function filledBy(dice: Dice, blocks: number): Place[] {
  const count = dice.weighted([
    [1, 0],
    [1, dice.between(1, 12)],
  ]);
  return Array.from({ length: count }, () => {
    const first = dice.below(blocks);
    const most = Math.min(blocks - first, FILL_BLOCKS_MAX);
    return { offset: first * BLOCK, length: dice.between(1, most) * BLOCK };
  });
}

function traitsOf(dice: Dice): DiskTraits {
  return {
    knowsExtents: !dice.chance(4),
    knowsBoot: !dice.chance(4),
    canPunch: !dice.chance(10),
    canProvision: !dice.chance(15),
    grain: dice.chance(3) ? 4 : 1,
    cold: dice.weighted([
      [4, 0],
      [3, 15],
      [1, 90],
    ]),
    slow: dice.weighted([
      [5, 0],
      [2, 5],
      [1, 40],
    ]),
  };
}

function lineOf(dice: Dice): LineTraits {
  const most = dice.pick([0, 1, 5, 40]);
  return {
    delayMs: [0, most],
    pieceBytes: dice.pick([
      [MIB, MIB],
      [1, 3000],
      [1, 64 * 1024],
    ]),
    windowBytes: dice.pick([4096, 64 * 1024, 256 * 1024]),
  };
}
