/**
 * Histories of a primary with its mirrors: lists of steps that are data. They come from a seed alone, and any part of the
 * steps is a history too: that is how a failing one is made shorter.
 */
import { Dice } from '../../../scripts/fuzz/dice.ts';
import type { CallKind, DiskTraits } from '../sim-disk.ts';
import type { LineTraits } from './lines.ts';

const BLOCK = 4096;
const SECTOR = 512;

export interface StepFault {
  readonly calls: readonly CallKind[];
  readonly files: 'log' | 'data' | 'any';
  readonly errno: number;
  readonly passes: number;
  readonly fails: number;
}

export type LineTrouble =
  'cut' | 'cut-lane' | 'stall-forth' | 'stall-back' | 'stall' | 'refused' | 'silent';
export type Verb =
  'pause' | 'resume' | 'resync' | 'remove' | 'add' | 'verify' | 'repair' | 'limit' | 'unlimit';

interface StepBase {
  /** Names the dice that fall while this step runs. */
  readonly salt: number;
  /** Virtual milliseconds until the next step. */
  readonly ms: number;
}

export interface Place {
  readonly offset: number;
  readonly length: number;
}

/** `node`: 0 is the primary, the others are mirrors, modulo how many there are. */
export type Step = StepBase &
  (
    | ({ kind: 'write'; fua: boolean } & Place)
    | ({ kind: 'zero'; fua: boolean; noHole: boolean } & Place)
    | ({ kind: 'trim'; fua: boolean } & Place)
    /** Writes and flushes in one turn. */
    | { kind: 'burst'; count: number; blocks: number; flushes: boolean }
    | { kind: 'flush' }
    | { kind: 'time' }
    | { kind: 'kill' | 'cut'; node: number; calls: number; downMs: number }
    | { kind: 'close'; node: number; downMs: number }
    | { kind: 'line'; mirror: number; how: LineTrouble }
    | { kind: 'mend'; mirror: number }
    | ({ kind: 'fault'; node: number } & StepFault)
    | { kind: 'full'; node: number; pages: number }
    | { kind: 'room'; node: number }
    | { kind: 'slow'; node: number; slowMs: number }
    | { kind: 'verb'; mirror: number; verb: Verb; options: MirrorOptions }
    | { kind: 'probe'; mirror: number; how: 'kill' | 'cut' }
    | { kind: 'read'; mirror: number }
    | { kind: 'cover' }
    | { kind: 'snapshot'; how: 'take' | 'delete' | 'refresh'; name: string }
    /** All snapshots of the primary and of a mirror are read. */
    | { kind: 'read-snapshots'; mirror: number }
    | { kind: 'backup'; mirror: number }
    | { kind: 'set-back'; mirror: number }
  );

export interface MirrorOptions {
  readonly mode: 'async' | 'sync';
  readonly stallPolicy: 'degrade' | 'block';
  readonly lanes: number;
  readonly seeded: boolean;
}

export interface History {
  readonly seed: number;
  readonly blocks: number;
  readonly mirrors: readonly MirrorOptions[];
  readonly traits: DiskTraits;
  readonly line: LineTraits;
  readonly journalFileBytes: number;
  readonly stagingBytes: number;
  /** How long a lost link is bridged from memory, in milliseconds. */
  readonly graceMs: number;
  /** Of the staging ring; null: there is none. */
  readonly ringBytes: number | null;
  /** Writes before there is a mirror: what the first delta run brings. */
  readonly filled: readonly Place[];
  /** The mirrors are in step when it begins. */
  readonly settled: boolean;
  readonly steps: readonly Step[];
  /** How it ends: all finds back, or a mirror is promoted, and the old primary becomes its mirror. */
  readonly finale: 'heal' | Finale;
}

export interface Finale {
  /** What becomes of the primary before. */
  readonly primary: 'dead' | 'cut off' | 'alive';
  /** Mirrors are in step before. */
  readonly healed: boolean;
  /** Ends of either side on the way back: after so many calls to the disk. */
  readonly ends: readonly {
    readonly node: 0 | 1;
    readonly how: 'kill' | 'cut';
    readonly calls: number;
  }[];
}

const MIB = 1024 * 1024;
const FILL_BLOCKS_MAX = 256;
const CALLS: readonly CallKind[] = [
  'read',
  'write',
  'sync',
  'zero',
  'open',
  'entry',
  'size',
  'sync-entry',
];

export function historyOf(seed: number): History {
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
  const steps = new Steps(dice, blocks);
  return {
    seed,
    blocks,
    mirrors,
    traits: traitsOf(dice),
    line: lineOf(dice),
    // The longest epoch of so small a volume fits; a short file is used up soon.
    journalFileBytes: blocks > 256 ? 16 * MIB : dice.pick([MIB, 8 * MIB]),
    stagingBytes: dice.pick([256 * MIB, 256 * MIB, 256 * 1024]),
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
    const name = dice.pick(['s1', 's2', 's3']);
    const plain = dice.weighted<() => Plain>([
      [5, () => ({ kind: 'snapshot', how: 'take', name })],
      [3, () => ({ kind: 'snapshot', how: 'delete', name })],
      [1, () => ({ kind: 'snapshot', how: 'refresh', name })],
      [2, () => ({ kind: 'read-snapshots', mirror: dice.below(2) })],
    ])();
    return [step, { salt: 100_000 + step.salt, ms, ...plain }];
  });
}

function finaleOf(dice: Dice): Finale {
  const ends = Array.from(
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
  return {
    primary: dice.pick(['dead', 'cut off', 'alive'] as const),
    healed: dice.chance(40),
    ends,
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

function optionsOf(dice: Dice): MirrorOptions {
  return {
    mode: dice.pick(['async', 'sync']),
    stallPolicy: dice.chance(70) ? 'degrade' : 'block',
    lanes: dice.weighted([
      [3, 1],
      [3, 2],
      [2, 4],
    ]),
    seeded: dice.chance(15),
  };
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

type Plain = Step extends infer Each
  ? Each extends Step
    ? Omit<Each, keyof StepBase>
    : never
  : never;

class Steps {
  private readonly dice: Dice;
  private readonly blocks: number;
  private readonly hot: readonly number[];
  private readonly shapes: 'small' | 'blocks' | 'mixed';
  private readonly rough: boolean;

  constructor(dice: Dice, blocks: number) {
    this.dice = dice;
    this.blocks = blocks;
    this.hot = [dice.below(blocks), dice.below(blocks), blocks - 1];
    this.shapes = dice.pick(['small', 'blocks', 'mixed', 'mixed']);
    this.rough = dice.chance(40);
  }

  next(salt: number): Step {
    const { dice } = this;
    const ms = dice.weighted([
      [8, 0],
      [6, dice.between(1, 6)],
      [5, dice.between(5, 60)],
      [3, dice.between(60, 900)],
      [1, dice.between(900, 7000)],
    ]);
    return { salt, ms, ...this.plain() };
  }

  private plain(): Plain {
    const { dice } = this;
    if (dice.chance(5)) return this.ending();
    if (dice.chance(7)) return this.trouble();
    if (dice.chance(5)) return this.verb();
    if (this.rough && dice.chance(4)) return this.diskTrouble();
    if (dice.chance(9)) return this.check();
    const fua = dice.chance(12);
    return dice.weighted<() => Plain>([
      [30, () => ({ kind: 'write', ...this.place(), fua })],
      [6, () => this.burst()],
      [6, () => ({ kind: 'zero', ...this.place(), noHole: dice.chance(40), fua })],
      [6, () => ({ kind: 'trim', ...this.place(), fua })],
      [12, () => ({ kind: 'flush' })],
      [8, () => ({ kind: 'time' })],
    ])();
  }

  private burst(): Plain {
    const { dice } = this;
    return {
      kind: 'burst',
      count: dice.between(2, 12),
      blocks: dice.between(1, 8),
      flushes: dice.chance(40),
    };
  }

  private check(): Plain {
    const { dice } = this;
    const mirror = dice.below(2);
    return dice.weighted<() => Plain>([
      [3, () => ({ kind: 'probe', mirror, how: dice.pick(['kill', 'cut', 'cut'] as const) })],
      [4, () => ({ kind: 'read', mirror })],
      [3, () => ({ kind: 'cover' })],
    ])();
  }

  private ending(): Plain {
    const { dice } = this;
    const node = dice.below(3);
    const downMs = dice.weighted([
      [3, 0],
      [3, dice.between(1, 300)],
      [2, dice.between(300, 9000)],
    ]);
    const kind = dice.pick(['kill', 'cut', 'cut', 'close'] as const);
    if (kind === 'close') return { kind, node, downMs };
    return { kind, node, calls: dice.chance(40) ? 0 : dice.skewed(60), downMs };
  }

  private trouble(): Plain {
    const { dice } = this;
    const mirror = dice.below(2);
    if (dice.chance(35)) return { kind: 'mend', mirror };
    const how = dice.weighted<LineTrouble>([
      [5, 'cut'],
      [2, 'cut-lane'],
      [2, 'stall-forth'],
      [2, 'stall-back'],
      [2, 'stall'],
      [2, 'refused'],
      [1, 'silent'],
    ]);
    return { kind: 'line', mirror, how };
  }

  private verb(): Plain {
    const { dice } = this;
    const verb = dice.weighted<Verb>([
      [3, 'pause'],
      [5, 'resume'],
      [3, 'resync'],
      [2, 'remove'],
      [3, 'add'],
      [3, 'verify'],
      [1, 'repair'],
      [1, 'limit'],
      [1, 'unlimit'],
    ]);
    return { kind: 'verb', mirror: dice.below(2), verb, options: optionsOf(dice) };
  }

  private diskTrouble(): Plain {
    const { dice } = this;
    const node = dice.below(3);
    return dice.weighted<() => Plain>([
      [4, () => ({ kind: 'full', node, pages: dice.skewed(60) })],
      [4, () => ({ kind: 'room', node })],
      [3, () => ({ kind: 'fault', node, ...this.fault() })],
      [3, () => ({ kind: 'slow', node, slowMs: dice.pick([0, 20, 400]) })],
      [2, () => ({ kind: dice.pick(['backup', 'backup', 'set-back'] as const), mirror: node })],
    ])();
  }

  private fault(): StepFault {
    const { dice } = this;
    const calls = dice.weighted<readonly CallKind[]>([
      [6, ['sync']],
      [3, ['write']],
      [3, ['read']],
      [2, ['zero']],
      [3, [dice.pick(CALLS)]],
      [2, CALLS],
    ]);
    return {
      calls,
      files: dice.pick(['log', 'data', 'any']),
      errno: dice.chance(75) ? 5 : 28,
      passes: dice.skewed(12),
      fails: dice.chance(80) ? 1 : dice.between(2, 5),
    };
  }

  private place(): Place {
    const { dice, blocks } = this;
    const block = dice.chance(55) ? dice.pick(this.hot) : dice.below(blocks);
    const shape = this.shapes === 'mixed' ? dice.pick(['small', 'blocks']) : this.shapes;
    const start = block * BLOCK;
    const size = blocks * BLOCK;
    const { offset, length } =
      shape === 'blocks'
        ? { offset: start, length: BLOCK * (dice.chance(60) ? 1 : dice.between(1, 16)) }
        : dice.weighted([
            [4, { offset: start + dice.below(8) * SECTOR, length: SECTOR * dice.between(1, 12) }],
            [3, { offset: start + dice.below(BLOCK), length: dice.between(1, 600) }],
            [2, { offset: start + dice.below(BLOCK), length: dice.between(1, 16 * BLOCK) }],
          ]);
    return { offset, length: Math.min(length, size - offset) };
  }
}
