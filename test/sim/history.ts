/**
 * Histories: a machine with its volumes, and a list of steps that are data. They come from a seed alone, and any part
 * of the steps is a history too: that is how a failing one is made shorter. Numbers in a step are taken modulo what
 * there is when it runs.
 */
import { Dice } from '../../scripts/fuzz/dice.ts';
import { SECTOR } from './sectors.ts';
import type { CallKind, DiskTraits } from './sim-disk.ts';

const BLOCK = 4096;
const REGION_BLOCKS = 1024;

interface StepBase {
  /** Names the dice that fall while this step runs. */
  readonly salt: number;
  readonly volume: number;
  /** Pieces of work that are done before the next step; -1: until this one is answered. */
  readonly turns: number;
}

/** As `Fault`. */
export interface StepFault {
  readonly calls: readonly CallKind[];
  readonly files: 'log' | 'data' | 'any';
  readonly errno: number;
  readonly passes: number;
  readonly fails: number;
}

export type Step = StepBase &
  (
    | { kind: 'write'; offset: number; length: number; fill: 'tag' | 'zeroes' }
    | { kind: 'zero'; offset: number; length: number; noHole: boolean; fastZero: boolean }
    | { kind: 'trim'; offset: number; length: number }
    | { kind: 'read'; offset: number; length: number }
    | { kind: 'flush' }
    | { kind: 'turns' }
    | { kind: 'resize'; blocks: number }
    | { kind: 'snapshot'; name: number; together: boolean }
    | { kind: 'copy'; from: number; name: number }
    | { kind: 'delete'; from: number }
    | { kind: 'refresh'; from: number }
    | { kind: 'synchronise'; from: number; to: number }
    | { kind: 'restore'; from: number }
    | { kind: 'restore-range'; from: number; offset: number; length: number }
    | { kind: 'read-snapshot'; from: number; offset: number; length: number }
    | { kind: 'create'; name: number; blocks: number }
    | { kind: 'clone'; from: number; name: number }
    | { kind: 'remove' }
    | { kind: 'merge'; what: 'pause' | 'resume' | 'limit' | 'unlimit' }
    | ({ kind: 'fault' } & StepFault)
    | { kind: 'full'; pages: number }
    | { kind: 'room' }
    | { kind: 'verify' }
    /**
     * `calls` of the disk later; `again`: that many into the recovery, more than once; `fault`: what a recovery meets before
     * that.
     */
    | { kind: 'kill' | 'cut'; calls: number; again: readonly number[]; fault: StepFault | null }
    | { kind: 'close' }
  );

export interface History {
  readonly seed: number;
  readonly traits: DiskTraits;
  /** Blocks of each volume. */
  readonly volumes: readonly number[];
  /** Nobody makes room before a node is started again. */
  readonly startsFull: boolean;
  /** Null: as a node does. */
  readonly compactBytes: number | null;
  readonly steps: readonly Step[];
  /** How it ends: what was found last is looked at once more after that. */
  readonly finally: 'close' | 'kill' | 'cut';
}

export const SNAPSHOT_NAMES = 6;
export const VOLUME_NAMES = 4;
/** Volumes that a step tells apart: those of the beginning, and what came after. */
const VOLUMES_TOLD = 4;
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
  const sizes = (): number =>
    dice.weighted([
      [12, 64],
      [4, dice.between(1, 40)],
      [5, dice.between(65, 300)],
      [2, REGION_BLOCKS + dice.between(1, 60)],
      [1, 3 * REGION_BLOCKS],
    ]);
  const volumes = dice.chance(20) ? [sizes(), sizes()] : [sizes()];
  const count = dice.weighted([
    [3, dice.between(3, 20)],
    [4, dice.between(20, 60)],
    [1, dice.between(60, 150)],
  ]);
  const steps = new Steps(dice, volumes);
  return {
    seed,
    traits: traitsOf(dice),
    volumes,
    startsFull: dice.chance(30),
    compactBytes: dice.chance(35) ? dice.between(200, 4000) : null,
    steps: Array.from({ length: count }, (_, index) => steps.next(index + 1)),
    finally: dice.pick(['close', 'kill', 'cut', 'cut'] as const),
  };
}

function traitsOf(dice: Dice): DiskTraits {
  return {
    knowsExtents: !dice.chance(4),
    knowsBoot: !dice.chance(4),
    canPunch: !dice.chance(10),
    canProvision: !dice.chance(15),
    canCopy: !dice.chance(30),
    grain: dice.chance(3) ? 4 : 1,
    cold: dice.weighted([
      [4, 0],
      [3, 15],
      [1, 90],
    ]),
    slow: dice.weighted([
      [5, 0],
      [2, 5],
      [2, 60],
    ]),
  };
}

class Steps {
  private readonly dice: Dice;
  private readonly volumes: readonly number[];
  /** Places that are hit again and again, in blocks, for each volume. */
  private readonly hot: readonly (readonly number[])[];
  private readonly sizes: string;
  private readonly rough: boolean;

  constructor(dice: Dice, volumes: readonly number[]) {
    this.dice = dice;
    this.volumes = volumes;
    this.sizes = dice.pick(['small', 'mixed', 'mixed', 'blocks']);
    this.rough = dice.chance(30);
    this.hot = volumes.map((blocks) => [
      dice.below(blocks),
      dice.below(blocks),
      // The edge of a region, where there is one; else the last block.
      blocks > REGION_BLOCKS ? REGION_BLOCKS - 1 : blocks - 1,
    ]);
  }

  next(salt: number): Step {
    const { dice } = this;
    const volume = dice.below(dice.chance(30) ? VOLUMES_TOLD : this.volumes.length);
    const turns = dice.weighted([
      [4, -1],
      [3, 0],
      [2, dice.between(1, 4)],
      [1, dice.between(5, 60)],
    ]);
    const base = { salt, volume, turns };
    if (dice.chance(28)) return { ...base, ...this.snapshotStep() };
    if (dice.chance(this.rough ? 12 : 4)) return { ...base, ...this.trouble() };
    if (dice.chance(7)) return { ...base, ...this.ending() };
    return { ...base, ...this.plain(volume) };
  }

  private plain(volume: number): Plain {
    const { dice } = this;
    const name = (): number => dice.below(VOLUME_NAMES);
    const place = (): { offset: number; length: number } => this.place(volume);
    return dice.weighted<() => Plain>([
      [40, () => ({ kind: 'write', ...place(), fill: dice.chance(5) ? 'zeroes' : 'tag' })],
      [8, () => ({ kind: 'zero', ...place(), noHole: dice.chance(40), fastZero: dice.chance(25) })],
      [8, () => ({ kind: 'trim', ...place() })],
      [12, () => ({ kind: 'read', ...place() })],
      [16, () => ({ kind: 'flush' })],
      [6, () => ({ kind: 'turns' })],
      [3, () => ({ kind: 'resize', blocks: this.otherSize(volume) })],
      [3, () => ({ kind: 'verify' })],
      [1, () => ({ kind: 'create', name: name(), blocks: this.otherSize(volume) })],
      [1, () => ({ kind: 'remove' })],
    ])();
  }

  private snapshotStep(): Plain {
    const { dice } = this;
    const name = (): number => dice.below(SNAPSHOT_NAMES);
    return dice.weighted<() => Plain>([
      [4, () => ({ kind: 'clone', from: name(), name: dice.below(VOLUME_NAMES) })],
      [22, () => ({ kind: 'snapshot', name: name(), together: dice.chance(25) })],
      [5, () => ({ kind: 'copy', from: name(), name: name() })],
      [14, () => ({ kind: 'delete', from: name() })],
      [6, () => ({ kind: 'refresh', from: name() })],
      [4, () => ({ kind: 'synchronise', from: name(), to: name() })],
      [8, () => ({ kind: 'restore', from: name() })],
      [6, () => ({ kind: 'restore-range', from: name(), ...this.place(0) })],
      [8, () => ({ kind: 'read-snapshot', from: name(), ...this.place(0) })],
      [3, () => ({ kind: 'merge', what: dice.pick(['pause', 'resume', 'limit', 'unlimit']) })],
    ])();
  }

  private trouble(): Plain {
    const { dice } = this;
    return dice.weighted<() => Plain>([
      [5, () => ({ kind: 'full', pages: dice.skewed(40) })],
      [4, () => ({ kind: 'room' })],
      [3, () => ({ kind: 'fault', ...this.fault() })],
    ])();
  }

  private fault(): StepFault {
    const { dice } = this;
    const calls = dice.weighted<readonly CallKind[]>([
      [6, ['sync']],
      [3, ['write']],
      [3, ['read']],
      [3, ['zero']],
      [3, ['open', 'entry', 'sync-entry', 'size']],
      [4, [dice.pick(CALLS)]],
      [3, CALLS],
    ]);
    return {
      calls,
      files: dice.pick(['log', 'data', 'any']),
      errno: dice.chance(75) ? 5 : 28,
      passes: dice.skewed(12),
      fails: dice.chance(80) ? 1 : dice.between(2, 5),
    };
  }

  private ending(): Plain {
    const { dice } = this;
    const kind = dice.pick(['kill', 'cut', 'cut', 'close'] as const);
    if (kind === 'close') return { kind };
    const again = dice.chance(25) ? [dice.skewed(40), dice.skewed(200)] : [];
    const fault = dice.chance(10) ? this.fault() : null;
    return { kind, calls: dice.chance(40) ? 0 : dice.skewed(60), again, fault };
  }

  private otherSize(volume: number): number {
    const { dice } = this;
    const blocks = this.volumes[volume % this.volumes.length]!;
    return dice.chance(50) ? dice.between(1, blocks * 2) : blocks + dice.between(-3, 3);
  }

  private place(volume: number): { offset: number; length: number } {
    const { dice } = this;
    const blocks = this.volumes[volume % this.volumes.length]!;
    const block = dice.chance(65)
      ? dice.pick(this.hot[volume % this.hot.length]!) + dice.between(-2, 2)
      : dice.below(blocks);
    const shape = this.sizes === 'mixed' ? dice.pick(['small', 'blocks']) : this.sizes;
    const start = Math.max(0, block) * BLOCK;
    if (shape === 'blocks') {
      return {
        offset: start,
        length:
          BLOCK *
          dice.weighted([
            [6, 1],
            [3, dice.between(1, 4)],
            [1, dice.between(1, 16)],
          ]),
      };
    }
    return dice.weighted([
      [4, { offset: start + dice.below(8) * SECTOR, length: SECTOR * dice.between(1, 12) }],
      [3, { offset: start + dice.below(BLOCK), length: dice.between(1, 600) }],
      [2, { offset: start + dice.below(BLOCK), length: dice.between(1, 3 * BLOCK) }],
      [1, { offset: start + dice.below(BLOCK), length: dice.between(1, 16 * BLOCK) }],
    ]);
  }
}

type Plain = Step extends infer Each
  ? Each extends Step
    ? Omit<Each, keyof StepBase>
    : never
  : never;
