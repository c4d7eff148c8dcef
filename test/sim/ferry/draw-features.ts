/** What only some histories have: each of these is chosen by the seed, and most histories have one or none of them. */
import type { Dice } from '../../../scripts/fuzz/dice.ts';
import type { MirrorPolicy } from '../../../src/replicator/policy/mirror-policy.ts';
import type { Schedule } from '../../../src/replicator/policy/schedule.ts';
import type { Compression, History, Move, Place, Plain, Step } from './history.ts';
import { BLOCK } from './oracle.ts';
import { refusedOf, snapshotStep } from './draw-steps.ts';

type Feature = 'compression' | 'schedules' | 'limits' | 'refusals' | 'moves';

const FEATURES: readonly Feature[] = ['compression', 'schedules', 'limits', 'refusals', 'moves'];

/** Virtual milliseconds that a first copy may take over a slow line. */
const COPY_MS_MAX = 30_000;
const SLOW_WINDOW_BYTES = 4096;
/** They are what takes time. */
const STEPS_BEFORE_MOVES = 20;
/** Of one write. */
const FILL_BYTES = 256 * 1024;

export function withFeatures(history: History, dice: Dice): History {
  const count = dice.weighted([
    [5, 0],
    [5, 1],
    [1, 2],
  ]);
  const chosen = new Set(Array.from({ length: count }, () => dice.pick(FEATURES)));
  let result = history;
  for (const feature of FEATURES) if (chosen.has(feature)) result = ADD[feature](result, dice);
  return result;
}

const ADD: { readonly [Name in Feature]: (history: History, dice: Dice) => History } = {
  compression: withCompression,
  schedules: withSchedules,
  limits: withLimits,
  refusals: withRefusals,
  moves: withMoves,
};

/** Further steps behind some of those that are there; `stream` tells their dice apart from those of other features. */
function between(
  history: History,
  {
    dice,
    percent,
    stream,
    draw,
  }: { dice: Dice; percent: number; stream: number; draw: () => Plain },
): History {
  const steps = history.steps.flatMap<Step>((step) => {
    if (!dice.chance(percent)) return [step];
    const ms = dice.pick([0, dice.between(1, 60), dice.between(60, 3000)]);
    return [step, { salt: stream + step.salt, ms, ...draw() }];
  });
  return { ...history, steps };
}

/** Links over lines on which it pays to compress; what is written shrinks, or does not. */
function withCompression(history: History, dice: Dice): History {
  const compression: Compression = {
    bytesPerSecond: dice.pick([30e3, 2e6, 200e6]),
    noise: dice.pick([0, 40, 60, 95]),
  };
  const bytes = history.blocks * BLOCK;
  const least = (bytes / COPY_MS_MAX) * 1000;
  const rate = Math.max(least, dice.pick([60e3, 300e3, 1e6]));
  const delayMs = (SLOW_WINDOW_BYTES / rate) * 1000;
  const line = {
    ...history.line,
    delayMs: [delayMs / 2, delayMs],
    windowBytes: SLOW_WINDOW_BYTES,
  } as const;
  // Something waits for the line from the beginning.
  const filled = [...history.filled, ...wholeOf(bytes)];
  return between(
    { ...history, compression, line, filled },
    {
      dice,
      percent: 8,
      stream: 200_000,
      draw: () => {
        const mirror = dice.below(2);
        if (dice.chance(60)) return { kind: 'pays', mirror, pays: dice.chance(60) };
        const compress = dice.pick(['auto', 'auto', 'off'] as const);
        return { kind: 'policy', mirror, policy: { compress } };
      },
    },
  );
}

function wholeOf(bytes: number): Place[] {
  return Array.from({ length: Math.ceil(bytes / FILL_BYTES) }, (_, index) => {
    const offset = index * FILL_BYTES;
    return { offset, length: Math.min(FILL_BYTES, bytes - offset) };
  });
}

/** Delta runs by choice, and hosts that are slowed down for a mirror that lags. */
function withSchedules(history: History, dice: Dice): History {
  const mirrors = history.mirrors.map((options) =>
    dice.chance(85) ? ({ ...options, mode: 'async' } as const) : options,
  );
  const steps = history.steps.map((step) => {
    if (step.kind !== 'verb' || step.verb !== 'add' || dice.chance(50)) return step;
    const options = {
      ...step.options,
      mode: 'async',
      policy: { schedule: scheduleOf(dice) },
    } as const;
    return { ...step, options };
  });
  const keepsSchedules = dice.chance(50);
  return between(
    { ...history, mirrors, steps, keepsSchedules },
    {
      dice,
      percent: 12,
      stream: 300_000,
      draw: () => {
        const mirror = dice.below(2);
        if (dice.chance(30)) return { kind: 'sync', mirror };
        const lagLimitMs = dice.pick([null, 5, 100, 2000]);
        const policy = dice.weighted<() => Partial<MirrorPolicy>>([
          [3, () => ({ schedule: scheduleOf(dice) })],
          [1, () => ({ schedule: { kind: 'stream' } })],
          [1, () => ({ lagLimitMs })],
          [1, () => ({ schedule: scheduleOf(dice), lagLimitMs })],
        ])();
        return { kind: 'policy', mirror, policy };
      },
    },
  );
}

function scheduleOf(dice: Dice): Schedule {
  return dice.pick<Schedule>([
    { kind: 'on-demand' },
    { kind: 'every', intervalMs: dice.between(1, 5) * 1000 },
    { kind: 'quiet', bytesPerSecond: dice.pick([1024, 1024 * 1024]), intervalMs: 30_000 },
  ]);
}

/** Limits in bytes a second, of mirrors and of their node. */
function withLimits(history: History, dice: Dice): History {
  return between(
    { ...history, keepsLimits: dice.chance(60) },
    {
      dice,
      percent: 10,
      stream: 400_000,
      draw: () => ({
        kind: 'limit',
        mirror: dice.pick([null, 0, 1]),
        bytesPerSecond: dice.pick([null, 2000, 20_000, 200_000, 5_000_000]),
      }),
    },
  );
}

/** What a mirror does not let its primary do; there are snapshots that come and go. */
function withRefusals(history: History, dice: Dice): History {
  return between(history, {
    dice,
    percent: 25,
    stream: 500_000,
    draw: () =>
      dice.weighted<() => Plain>([
        [
          3,
          () => ({
            kind: 'refuse',
            mirror: dice.below(2),
            refuses: dice.pick([
              [],
              ['snapshot-delete'],
              ['snapshot-delete'],
              ['snapshot-delete', 'handover'],
            ] as const),
          }),
        ],
        [4, () => snapshotStep(dice)],
      ])(),
  });
}

/** In the end the writes move between the nodes. */
function withMoves(history: History, dice: Dice): History {
  const moves = Array.from({ length: dice.between(1, 4) }, (): Move => ({
    what: dice.chance(75) ? 'switchover' : 'split',
    at: dice.pick(['primary', 'primary', 'mirror'] as const),
    withinMs: dice.pick([1000, 10_000]),
    ends: dice.chance(60) ? movesEnds(dice) : [],
    line: dice.weighted([
      [6, 'open'],
      [2, 'cut'],
      [1, 'silent'],
    ]),
    loser: dice.pick([0, 1] as const),
    full: dice.chance(25) ? movesFull(dice) : [],
    refused: refusedOf(dice),
  }));
  // Nobody waits for a mirror that does not come along.
  const mirrors = history.mirrors.map((options, index) =>
    index === 0 ? options : ({ ...options, stallPolicy: 'degrade' } as const),
  );
  const steps = history.steps.slice(0, STEPS_BEFORE_MOVES);
  return { ...history, mirrors, steps, finale: { moves } };
}

function movesEnds(dice: Dice): Move['ends'] {
  return Array.from({ length: dice.between(1, 2) }, () => ({
    node: dice.pick([0, 1] as const),
    how: dice.pick(['kill', 'cut'] as const),
    calls: dice.skewed(120),
  }));
}

function movesFull(dice: Dice): Move['full'] {
  return Array.from({ length: dice.between(1, 2) }, () => ({
    node: dice.pick([0, 1] as const),
    pages: dice.skewed(40),
    stays: dice.chance(50),
  }));
}
