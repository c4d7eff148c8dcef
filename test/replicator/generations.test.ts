/**
 * What is to be done with a mirror, by histories and positions alone. Method: a truth table, one row for each way in which
 * two nodes can stand to each other; then histories that grow at random from one root, by writing, shipping, promoting and
 * restarting, where every epoch carries a token of its own, so that it is known which content each node really has.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decide } from '../../src/replicator/failover/generations.ts';
import type {
  Decision,
  MirrorSide,
  PrimarySide,
} from '../../src/replicator/failover/generations.ts';
import type { Generation, LinkPosition } from '../../src/replicator/link/messages.ts';

const generation = (number: number, firstEpoch: number, id = `${number}`): Generation => ({
  number,
  id: id.padStart(32, '0'),
  firstEpoch,
});
const at = (generationNumber: number, epoch: number): LinkPosition => ({
  generation: generationNumber,
  epoch,
});

const G1 = generation(1, 1);
const G2 = generation(2, 101);
const G3 = generation(3, 151);
/** Opened by the mirror, at the same place, or before, or after. */
const M2 = generation(2, 101, 'b2');
const M2_EARLY = generation(2, 91, 'b2');
const M2_LATE = generation(2, 121, 'b2');

/** A primary of two generations that has come to epoch 200 of a reserve up to 1000; the mirror acknowledged 150. */
const PRIMARY: PrimarySide = {
  generations: [G1, G2],
  position: at(2, 200),
  reservedEpoch: 1000,
  acknowledged: at(2, 150),
};
const FIRST: PrimarySide = {
  ...PRIMARY,
  generations: [G1],
  position: at(1, 200),
  acknowledged: at(1, 150),
};

const mirror = (generations: readonly Generation[], position: LinkPosition | null): MirrorSide => ({
  generations,
  position,
  run: null,
});

type Row = readonly [what: string, PrimarySide, MirrorSide, Partial<Decision>];

const FRESH: readonly Row[] = [
  ['an empty mirror', PRIMARY, mirror([], null), { kind: 'full' }],
  [
    'an empty mirror in the middle of its first run',
    PRIMARY,
    { ...mirror([], null), run: { id: 'r', cursor: 4096 } },
    { kind: 'full' },
  ],
  [
    'a position without a history',
    PRIMARY,
    mirror([], at(1, 4)),
    { kind: 'unrelated', reason: 'the mirror does not know of what history its content is' },
  ],
  [
    'a mirror of another volume',
    { ...PRIMARY, volumeId: 'a' },
    { ...mirror([G1, G2], at(2, 200)), volumeId: 'b' },
    { kind: 'unrelated', reason: 'it is a mirror of another volume' },
  ],
  [
    'an empty mirror that is bound to another volume',
    { ...PRIMARY, volumeId: 'a' },
    { ...mirror([], null), volumeId: 'b' },
    { kind: 'unrelated' },
  ],
  [
    'a mirror that does not say of which volume it is',
    { ...PRIMARY, volumeId: 'a' },
    mirror([G1, G2], at(2, 200)),
    { kind: 'stream', after: 200 },
  ],
  [
    'histories with nothing in common',
    PRIMARY,
    mirror([generation(1, 1, 'c1'), generation(2, 101, 'c2')], at(2, 200)),
    { kind: 'unrelated', reason: 'the histories have nothing in common' },
  ],
  [
    'histories that say different things of one generation',
    PRIMARY,
    mirror([G1, { ...G2, firstEpoch: 90 }], at(2, 200)),
    { kind: 'unrelated', reason: 'the histories contradict each other' },
  ],
  [
    'histories that give one generation another number',
    PRIMARY,
    mirror([G1, { ...G2, number: 3 }], at(3, 200)),
    { kind: 'unrelated' },
  ],
  [
    'histories that come together again',
    PRIMARY,
    mirror([generation(1, 1, 'c1'), G2], at(2, 200)),
    { kind: 'unrelated', reason: 'the histories contradict each other' },
  ],
];

const SAME_LINE: readonly Row[] = [
  ['the same position', PRIMARY, mirror([G1, G2], at(2, 200)), { kind: 'stream', after: 200 }],
  [
    'the same position, nothing recorded as acknowledged',
    { ...PRIMARY, acknowledged: null },
    mirror([G1, G2], at(2, 200)),
    { kind: 'stream', after: 200 },
  ],
  [
    'the same position in the middle of a run',
    PRIMARY,
    { ...mirror([G1, G2], at(2, 200)), run: { id: 'r', cursor: 0 } },
    { kind: 'delta' },
  ],
  ['a mirror behind', PRIMARY, mirror([G1, G2], at(2, 199)), { kind: 'delta' }],
  ['a mirror at what it acknowledged', PRIMARY, mirror([G1, G2], at(2, 150)), { kind: 'delta' }],
  [
    'a mirror behind what it acknowledged',
    PRIMARY,
    mirror([G1, G2], at(2, 149)),
    { kind: 'compare', reason: 'the mirror was set back: it holds epoch 149, and held 150' },
  ],
  [
    'a mirror behind what it acknowledged, in the generation before',
    PRIMARY,
    mirror([G1], at(1, 100)),
    { kind: 'compare' },
  ],
  [
    'a mirror behind, nothing recorded as acknowledged',
    { ...PRIMARY, acknowledged: null },
    mirror([G1, G2], at(2, 199)),
    { kind: 'compare', reason: 'what this node sent to the mirror is not known' },
  ],
  ['a mirror ahead within the reserve', PRIMARY, mirror([G1, G2], at(2, 201)), { kind: 'delta' }],
  ['a mirror at the reserve', PRIMARY, mirror([G1, G2], at(2, 1000)), { kind: 'delta' }],
  [
    'a mirror ahead of the reserve',
    PRIMARY,
    mirror([G1, G2], at(2, 1001)),
    { kind: 'compare', reason: 'the mirror names an epoch that this node never used' },
  ],
  [
    'a history without a position',
    PRIMARY,
    mirror([G1, G2], null),
    { kind: 'compare', reason: 'the mirror does not know which epoch it holds' },
  ],
  [
    'a position in a generation that the mirror does not know',
    PRIMARY,
    mirror([G1], at(2, 199)),
    { kind: 'compare', reason: 'the mirror names generation 2, which it does not know itself' },
  ],
  [
    'a position before its generation',
    PRIMARY,
    mirror([G1, G2], at(2, 99)),
    { kind: 'compare', reason: 'the mirror names epoch 99, which is not in generation 2' },
  ],
  ['a position after its generation', PRIMARY, mirror([G1, G2], at(1, 101)), { kind: 'compare' }],
  [
    'a new generation in which nothing was written yet, on both',
    { ...PRIMARY, position: at(2, 100), acknowledged: null },
    mirror([G1, G2], at(2, 100)),
    { kind: 'stream', after: 100 },
  ],
  [
    'a history whose older part this node forgot',
    { ...PRIMARY, generations: [G2] },
    mirror([G1, G2], at(2, 199)),
    { kind: 'delta' },
  ],
  [
    'a history whose older part the mirror forgot',
    PRIMARY,
    mirror([G2], at(2, 199)),
    { kind: 'delta' },
  ],
];

const ANCESTOR: readonly Row[] = [
  [
    'inside the ancestor',
    { ...PRIMARY, acknowledged: at(1, 90) },
    mirror([G1], at(1, 99)),
    { kind: 'delta' },
  ],
  [
    'at its end',
    { ...PRIMARY, acknowledged: at(1, 90) },
    mirror([G1], at(1, 100)),
    { kind: 'delta' },
  ],
  [
    'at its end, and nothing was written since',
    { ...PRIMARY, position: at(2, 100), acknowledged: null },
    mirror([G1], at(1, 100)),
    { kind: 'stream', after: 100 },
  ],
  [
    'after its end',
    { ...PRIMARY, acknowledged: at(1, 90) },
    mirror([G1], at(1, 101)),
    { kind: 'diverged', common: at(1, 100), mirrorSince: at(1, 101) },
  ],
  [
    'after its end, and the epoch exists here too, in the next generation',
    PRIMARY,
    mirror([G1], at(1, 200)),
    { kind: 'diverged', common: at(1, 100), mirrorSince: at(1, 101) },
  ],
  [
    'after the end of the last generation but two',
    { ...PRIMARY, generations: [G1, G2, G3], position: at(3, 200) },
    mirror([G1], at(1, 120)),
    { kind: 'diverged', common: at(1, 100), mirrorSince: at(1, 101) },
  ],
  [
    'somewhere, which it does not know',
    PRIMARY,
    mirror([G1], null),
    { kind: 'diverged', common: at(1, 100), mirrorSince: at(1, 101) },
  ],
];

const PROMOTED: readonly Row[] = [
  [
    'the mirror, at what this node has',
    { ...FIRST, position: at(1, 100), acknowledged: null },
    mirror([G1, M2], at(2, 130)),
    { kind: 'stale', common: at(1, 100), primarySince: null },
  ],
  [
    'the mirror, and nothing was written there yet',
    { ...FIRST, position: at(1, 100), acknowledged: null },
    mirror([G1, M2], at(1, 100)),
    { kind: 'stale', common: at(1, 100), primarySince: null },
  ],
  [
    'the mirror, before this node had its last epochs',
    FIRST,
    mirror([G1, M2], at(2, 130)),
    { kind: 'stale', common: at(1, 100), primarySince: at(1, 101) },
  ],
  [
    'the mirror, ahead of a node that was set back',
    { ...FIRST, position: at(1, 50), acknowledged: null },
    mirror([G1, M2], at(2, 130)),
    { kind: 'stale', common: at(1, 50), primarySince: null },
  ],
  [
    'the mirror twice',
    FIRST,
    mirror([G1, M2, generation(3, 150, 'b3')], at(3, 160)),
    { kind: 'stale', common: at(1, 100), primarySince: at(1, 101) },
  ],
  [
    'both at the same place',
    PRIMARY,
    mirror([G1, M2], at(2, 130)),
    { kind: 'diverged', common: at(1, 100), mirrorSince: at(2, 101) },
  ],
  [
    'both, the mirror earlier',
    PRIMARY,
    mirror([G1, M2_EARLY], at(2, 130)),
    { kind: 'diverged', common: at(1, 90), mirrorSince: at(2, 91) },
  ],
  [
    'both, the mirror later',
    PRIMARY,
    mirror([G1, M2_LATE], at(2, 130)),
    { kind: 'diverged', common: at(1, 100), mirrorSince: at(1, 101) },
  ],
];

describe.each([
  ['fresh and foreign mirrors', FRESH],
  ['one line', SAME_LINE],
  ['a mirror in an ancestor generation', ANCESTOR],
  ['promoted', PROMOTED],
])('%s', (_, rows) => {
  test.each(rows)('%s', (__, primary, other, expected) => {
    expect(decide(primary, other)).toMatchObject(expected);
  });
});

/** A node of the model: the token of every epoch of its line, and who opened its last generation. */
interface ModelNode {
  name: string;
  generations: Generation[];
  tokens: number[];
  reserved: number;
  writes: boolean;
  acknowledged: Map<string, LinkPosition>;
}

const RESERVE = 8;

const emptyNode = (name: string): ModelNode => ({
  name,
  generations: [],
  tokens: [],
  reserved: 0,
  writes: false,
  acknowledged: new Map(),
});

class Model {
  readonly nodes: ModelNode[];
  private token = 0;
  private opened = 0;

  constructor() {
    this.nodes = ['a', 'b', 'c'].map(emptyNode);
    this.promote(this.nodes[0]!);
  }

  promote(node: ModelNode): void {
    this.opened += 1;
    const number = (node.generations.at(-1)?.number ?? 0) + 1;
    const firstEpoch = node.tokens.length + 1;
    node.generations.push(generation(number, firstEpoch, this.opened.toString(16)));
    node.reserved = Math.max(node.reserved, node.tokens.length + RESERVE);
    node.writes = true;
  }

  write(node: ModelNode): void {
    if (!node.writes) return;
    this.token += 1;
    node.tokens.push(this.token);
    if (node.tokens.length > node.reserved) node.reserved += RESERVE;
  }

  /** After a crash no number is used again: the skipped epochs are of this line, and bring nothing. */
  restart(node: ModelNode): void {
    if (!node.writes) return;
    while (node.tokens.length < node.reserved) {
      this.token += 1;
      node.tokens.push(this.token);
    }
    node.reserved += RESERVE;
  }

  side(node: ModelNode): MirrorSide {
    const { generations, tokens } = node;
    const { number } = generations.findLast(
      ({ firstEpoch }) => firstEpoch <= tokens.length + 1,
    ) ?? {
      number: 0,
    };
    const position = generations.length === 0 ? null : at(number, tokens.length);
    return { generations, position, run: null };
  }

  decide(primary: ModelNode, other: ModelNode): Decision {
    const { position, generations } = this.side(primary);
    const acknowledged = primary.acknowledged.get(other.name) ?? null;
    const { reserved: reservedEpoch } = primary;
    return decide(
      { generations, position: position!, reservedEpoch, acknowledged },
      this.side(other),
    );
  }

  /** As the link does it: only with a decision that allows it, and up to an epoch that the mirror has not. */
  ship(primary: ModelNode, other: ModelNode, part: number): void {
    if (!primary.writes || primary === other) return;
    const { kind } = this.decide(primary, other);
    if (kind === 'diverged' || kind === 'stale' || kind === 'unrelated') return;
    const from =
      kind === 'full' || kind === 'compare' ? primary.tokens.length : other.tokens.length;
    const length = Math.max(from, Math.round(primary.tokens.length * part));
    other.tokens = primary.tokens.slice(0, length);
    // A history goes as far as the content: what was opened after it is told with what follows it.
    other.generations = primary.generations.filter(({ firstEpoch }) => firstEpoch <= length + 1);
    other.writes = false;
    primary.acknowledged.set(other.name, this.side(other).position!);
  }
}

function commonLength(one: ModelNode, other: ModelNode): number {
  const end = Math.min(one.tokens.length, other.tokens.length);
  for (let index = 0; index < end; index += 1) {
    if (one.tokens[index] !== other.tokens[index]) return index;
  }
  return end;
}

const node = fc.nat(2);
type Step = (model: Model) => void;
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: node.map(
      (which): Step =>
        (m) =>
          m.write(m.nodes[which]!),
    ),
  },
  {
    weight: 6,
    arbitrary: fc.tuple(node, node, fc.double({ min: 0, max: 1, noNaN: true })).map(
      ([from, to, part]): Step =>
        (m) =>
          m.ship(m.nodes[from]!, m.nodes[to]!, part),
    ),
  },
  {
    weight: 2,
    arbitrary: node.map((which): Step => (m) => {
      const promoted = m.nodes[which]!;
      if (promoted.generations.length > 0) m.promote(promoted);
    }),
  },
  {
    weight: 1,
    arbitrary: node.map(
      (which): Step =>
        (m) =>
          m.restart(m.nodes[which]!),
    ),
  },
);

/** What the decision must be by what both really have. */
function expectRight(model: Model, one: ModelNode, other: ModelNode): string {
  const decision = model.decide(one, other);
  const common = commonLength(one, other);
  const oneAlone = one.tokens.length > common;
  const otherAlone = other.tokens.length > common;
  const known = other.generations.every(({ id }) => one.generations.some((g) => g.id === id));
  if (other.generations.length === 0) {
    expect(decision.kind).toBe('full');
  } else if (!known) {
    const bothOpened = one.generations.some(
      ({ id }) => !other.generations.some((g) => g.id === id),
    );
    expect(decision).toMatchObject({ kind: bothOpened ? 'diverged' : 'stale' });
    if (decision.kind === 'diverged') expect(decision.common.epoch).toBe(common);
    if (decision.kind === 'stale') {
      expect(decision.common.epoch).toBe(common);
      expect(decision.primarySince !== null).toBe(oneAlone);
    }
  } else if (otherAlone) {
    expect(decision).toMatchObject({ kind: 'diverged', common: { epoch: common } });
  } else if (oneAlone) {
    expect(['delta', 'compare']).toContain(decision.kind);
  } else {
    expect(decision).toMatchObject({ kind: 'stream', after: common });
  }
  return decision.kind;
}

const asPrimary = (side: MirrorSide): PrimarySide => ({
  generations: side.generations,
  position: side.position!,
  reservedEpoch: 100,
  acknowledged: null,
});

describe('histories that grow from one root', () => {
  test('are told apart by what each node really has', () => {
    const seen = new Map<string, number>();
    fc.assert(
      fc.property(fc.array(step, { minLength: 5, maxLength: 60 }), (steps) => {
        const model = new Model();
        for (const take of steps) {
          take(model);
          for (const one of model.nodes) {
            if (!one.writes) continue;
            for (const other of model.nodes) {
              if (one === other) continue;
              const kind = expectRight(model, one, other);
              seen.set(kind, (seen.get(kind) ?? 0) + 1);
            }
          }
        }
      }),
      { numRuns: 300 },
    );
    for (const kind of ['full', 'stream', 'delta', 'stale', 'diverged']) {
      expect(seen.get(kind) ?? 0).toBeGreaterThan(20);
    }
  });

  test('are seen alike from both sides', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 5, maxLength: 60 }), (steps) => {
        const model = new Model();
        for (const take of steps) take(model);
        for (const one of model.nodes) {
          for (const other of model.nodes) {
            if (one === other || !one.writes || !other.writes) continue;
            const here = model.decide(one, other);
            const there = model.decide(other, one);
            if (here.kind === 'stale') expect(there.kind).not.toBe('stale');
            if (here.kind === 'diverged' && there.kind === 'diverged') {
              expect(there.common).toEqual(here.common);
            }
            // Two that both write and agree to stream would be one generation with two writers.
            expect([here.kind, there.kind]).not.toEqual(['stream', 'stream']);
            expect(here.kind === 'unrelated').toBe(there.kind === 'unrelated');
          }
        }
      }),
      { numRuns: 300 },
    );
  });

  test('of two volumes are unrelated from both sides', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), fc.array(step, { maxLength: 30 }), (s, t) => {
        const [one, other] = [new Model(), new Model()];
        for (const take of s) take(one);
        for (const take of t) take(other);
        const mine = one.side(one.nodes[0]!);
        const renamed = other.nodes[0]!.generations.map((g) => ({
          ...g,
          id: `f${g.id.slice(1)}`,
        }));
        const theirs = { ...other.side(other.nodes[0]!), generations: renamed };
        expect(decide(asPrimary(mine), theirs).kind).toBe('unrelated');
        expect(decide(asPrimary(theirs), mine).kind).toBe('unrelated');
      }),
    );
  });
});
