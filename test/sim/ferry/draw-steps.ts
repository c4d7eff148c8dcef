/** Draws the steps of a history, one after another. */
import type { Dice } from '../../../scripts/fuzz/dice.ts';
import type { CallKind } from '../sim-disk.ts';
import type {
  LineTrouble,
  MirrorOptions,
  Place,
  Plain,
  Refused,
  Step,
  StepFault,
  Verb,
} from './history.ts';
import { BLOCK } from './oracle.ts';

const SECTOR = 512;
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

export function optionsOf(dice: Dice): MirrorOptions {
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

export function snapshotStep(dice: Dice): Plain {
  const name = dice.pick(['s1', 's2', 's3']);
  return dice.weighted<() => Plain>([
    [5, () => ({ kind: 'snapshot', how: 'take', name })],
    [3, () => ({ kind: 'snapshot', how: 'delete', name })],
    [1, () => ({ kind: 'snapshot', how: 'refresh', name })],
    [2, () => ({ kind: 'read-snapshots', mirror: dice.below(2) })],
  ])();
}

export function refusedOf(dice: Dice): Refused[] {
  if (!dice.chance(25)) return [];
  return Array.from({ length: dice.between(1, 2) }, () => ({
    node: dice.pick([0, 1] as const),
    passes: dice.skewed(12),
    fails: dice.between(1, 3),
  }));
}

export class DrawnSteps {
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
