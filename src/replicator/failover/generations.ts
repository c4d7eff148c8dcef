/**
 * What to do with a mirror that was just reached: one pure function over the two histories and the two positions.
 *
 * Along one line of descent epochs only rise, so there an epoch alone names a content. Two nodes are on one line as far as
 * their generations have the same ids, and the last epoch of a generation is the one before the first of the next.
 *
 * Invariants:
 * - `stream` only when the mirror holds exactly what the primary had at that epoch; `delta` only when every block that may
 *   differ is in the mirror's sets of the primary, since it is at or after what it acknowledged.
 * - A mirror with writes of its own that the primary does not have is never written: `diverged`, `stale` or `unrelated`.
 * - Whoever has the older generation and opened none of its own since does not go on writing.
 */
import assert from 'node:assert';
import type { Generation, LinkPosition } from '../link/messages.ts';

export interface PrimarySide {
  /** Id of its volume, when both are known. */
  readonly volumeId?: string | undefined;
  /** Oldest first, at least one. */
  readonly generations: readonly Generation[];
  /** The last closed epoch. */
  readonly position: LinkPosition;
  /** No run of this node has used an epoch above this one. */
  readonly reservedEpoch: number;
  /** What this mirror is recorded to have held; null: nothing. */
  readonly acknowledged: LinkPosition | null;
}

export interface MirrorSide {
  /** Id of the volume that it is bound to. */
  readonly volumeId?: string | undefined;
  /** Oldest first; empty when it holds nothing. */
  readonly generations: readonly Generation[];
  readonly position: LinkPosition | null;
  /** A delta run that is not over; until then it can follow no epochs. */
  readonly run: { readonly id: string; readonly cursor: number } | null;
}

export type Decision =
  /** It holds `after`. With blocks marked nevertheless (dirty, or suspect after a crash) a delta run comes first. */
  | { readonly kind: 'stream'; readonly after: number }
  /** Send what is marked, compare what is suspect. */
  | { readonly kind: 'delta' }
  /** It holds nothing. */
  | { readonly kind: 'full'; readonly reason: string }
  /** Which blocks differ is not known: every one is suspect. */
  | { readonly kind: 'compare'; readonly reason: string }
  /** What either side changed since `common` is known. */
  | { readonly kind: 'rejoin'; readonly common: LinkPosition }
  /** Each has what the other has not. Nothing is sent until the operator says who gives up what. */
  | {
      readonly kind: 'diverged';
      /** The last that both had. */
      readonly common: LinkPosition;
      /** The first that the mirror alone has. */
      readonly mirrorSince: LinkPosition;
      readonly reason: string;
    }
  /** The mirror was promoted: this node must stop writing. */
  | {
      readonly kind: 'stale';
      readonly common: LinkPosition;
      /** The first that this node alone has; null: all that it has is at the mirror too. */
      readonly primarySince: LinkPosition | null;
      readonly reason: string;
    }
  /** They never were the same volume. */
  | { readonly kind: 'unrelated'; readonly reason: string };

export function decide(primary: PrimarySide, mirror: MirrorSide): Decision {
  assert(primary.generations.length > 0, 'a primary has a generation');
  if (differ(primary.volumeId, mirror.volumeId)) {
    return { kind: 'unrelated', reason: 'it is a mirror of another volume' };
  }
  if (mirror.generations.length === 0) {
    return mirror.position === null
      ? { kind: 'full', reason: 'the mirror holds nothing yet' }
      : { kind: 'unrelated', reason: 'the mirror does not know of what history its content is' };
  }
  const fork = forkOf(primary.generations, mirror.generations);
  if (fork === null) return { kind: 'unrelated', reason: 'the histories have nothing in common' };
  if (fork.contradicting) {
    return { kind: 'unrelated', reason: 'the histories contradict each other' };
  }
  if (fork.mirrorNext === null) return decideOnLine(primary, mirror, fork);
  if (fork.primaryNext === null) return stale(primary, fork, fork.mirrorNext);
  return bothPromoted(fork, fork.primaryNext, fork.mirrorNext);
}

/**
 * A mirror that took writes of its own, whose operator gave them up: `rejoin` is what it holds but for the blocks that it tells
 * of. `forkedAt`: what this node held when it was promoted, if what it changed since is known.
 */
export function decideRejoin(
  primary: PrimarySide & { readonly forkedAt: LinkPosition | null },
  mirror: { readonly generations: readonly Generation[]; readonly rejoin: LinkPosition },
): Extract<Decision, { kind: 'compare' | 'rejoin' }> {
  const { acknowledged, forkedAt } = primary;
  const fork = forkOf(primary.generations, mirror.generations);
  if (fork === null || fork.contradicting || fork.mirrorNext !== null) {
    return { kind: 'compare', reason: 'the histories do not tell what both had' };
  }
  // What either side knows of the other bounds from below where they parted; who was promoted knows it exactly.
  const [since, common] =
    acknowledged === null ? [mirror.rejoin, forkedAt] : [acknowledged, mirror.rejoin];
  if (common === null) {
    return { kind: 'compare', reason: 'what this node changed since it was promoted is not known' };
  }
  if (since.epoch > common.epoch) {
    const reason = `epoch ${since.epoch} was on both sides, and they parted after ${common.epoch}`;
    return { kind: 'compare', reason };
  }
  const known = mirror.generations.some(({ number }) => number === common.generation);
  const end = (fork.primaryNext?.firstEpoch ?? Number.POSITIVE_INFINITY) - 1;
  const used = Math.max(primary.reservedEpoch, primary.position.epoch);
  const impossible = whyImpossible(common, primary.generations) !== null;
  if (!known || impossible || common.epoch > Math.min(end, used)) {
    return { kind: 'compare', reason: 'where they parted is not in both histories' };
  }
  return { kind: 'rejoin', common };
}

function differ(one: string | undefined, other: string | undefined): boolean {
  return one !== undefined && other !== undefined && one !== other;
}

interface Fork {
  /** The last generation that both know. */
  readonly common: Generation;
  /** What each opened after it. */
  readonly primaryNext: Generation | null;
  readonly mirrorNext: Generation | null;
  /** What both know is not the same: no two nodes that work have such histories. */
  readonly contradicting: boolean;
}

function forkOf(primary: readonly Generation[], mirror: readonly Generation[]): Fork | null {
  const placeOf = new Map(mirror.map(({ id }, place) => [id, place]));
  const last = primary.findLastIndex(({ id }) => placeOf.has(id));
  const common = primary[last];
  if (common === undefined) return null;
  const place = placeOf.get(common.id) ?? 0;
  let contradicting = false;
  // The older part of a long history may be forgotten on one side.
  for (let back = 0; back <= Math.min(last, place); back += 1) {
    const one = primary[last - back];
    const other = mirror[place - back];
    contradicting ||=
      one?.id !== other?.id ||
      one?.number !== other?.number ||
      one?.firstEpoch !== other?.firstEpoch;
  }
  return {
    common,
    primaryNext: primary[last + 1] ?? null,
    mirrorNext: mirror[place + 1] ?? null,
    contradicting,
  };
}

/** The mirror knows no generation that the primary does not know. */
function decideOnLine(primary: PrimarySide, mirror: MirrorSide, fork: Fork): Decision {
  const { position } = mirror;
  if (position === null) return unknownPosition(fork);
  const why = whyImpossible(position, mirror.generations);
  if (why !== null) return { kind: 'compare', reason: why };
  const end = fork.primaryNext === null ? null : fork.primaryNext.firstEpoch - 1;
  if (end !== null && position.epoch > end) return aheadOfFork(fork.common, end);
  if (position.epoch > primary.reservedEpoch && position.epoch > primary.position.epoch) {
    return { kind: 'compare', reason: 'the mirror names an epoch that this node never used' };
  }
  return decideByEpoch(primary, mirror, position.epoch);
}

function decideByEpoch(primary: PrimarySide, mirror: MirrorSide, epoch: number): Decision {
  const { acknowledged, position } = primary;
  if (acknowledged !== null && epoch < acknowledged.epoch) {
    return {
      kind: 'compare',
      reason: `the mirror was set back: it holds epoch ${epoch}, and held ${acknowledged.epoch}`,
    };
  }
  if (epoch === position.epoch && mirror.run === null) return { kind: 'stream', after: epoch };
  if (acknowledged === null) {
    return { kind: 'compare', reason: 'what this node sent to the mirror is not known' };
  }
  // Also when it is ahead: the last writes before a crash reached it and not the disk here, and their regions are suspect.
  return { kind: 'delta' };
}

function unknownPosition({ common, primaryNext }: Fork): Decision {
  const reason = 'the mirror does not know which epoch it holds';
  if (primaryNext === null) return { kind: 'compare', reason };
  const end = primaryNext.firstEpoch - 1;
  return {
    ...aheadOfFork(common, end),
    reason: `${reason}: it may have more than epoch ${end}, with which this line went on`,
  };
}

/** It follows a line that ended: it has what nobody had who came to be the primary. */
function aheadOfFork(common: Generation, end: number): Extract<Decision, { kind: 'diverged' }> {
  const { number: generation } = common;
  return {
    kind: 'diverged',
    common: { generation, epoch: end },
    mirrorSince: { generation, epoch: end + 1 },
    reason: `the mirror has epochs of generation ${generation} after ${end}, with which this line went on`,
  };
}

/** What is wrong with a position by the history of the one who says it; null: nothing. */
function whyImpossible(position: LinkPosition, generations: readonly Generation[]): string | null {
  const place = generations.findIndex(({ number }) => number === position.generation);
  const generation = generations[place];
  if (generation === undefined) {
    return `the mirror names generation ${position.generation}, which it does not know itself`;
  }
  const end = (generations[place + 1]?.firstEpoch ?? Number.POSITIVE_INFINITY) - 1;
  if (position.epoch >= generation.firstEpoch - 1 && position.epoch <= end) return null;
  return `the mirror names epoch ${position.epoch}, which is not in generation ${generation.number}`;
}

/** The mirror went on from `end`, and this node opened no generation since. */
function stale(primary: PrimarySide, { common }: Fork, next: Generation): Decision {
  const end = next.firstEpoch - 1;
  const { epoch } = primary.position;
  const { number: generation } = common;
  const own = epoch > end;
  const ours = own ? `; epochs ${end + 1} to ${epoch} are here alone` : '';
  return {
    kind: 'stale',
    common: { generation, epoch: Math.min(epoch, end) },
    primarySince: own ? { generation, epoch: end + 1 } : null,
    reason: `the mirror, or the node that it follows, was promoted after epoch ${end} and has generation ${next.number}${ours}`,
  };
}

function bothPromoted({ common }: Fork, ours: Generation, theirs: Generation): Decision {
  const epoch = Math.min(ours.firstEpoch, theirs.firstEpoch) - 1;
  const { number: generation } = common;
  const wentOn = theirs.firstEpoch - 1 > epoch;
  return {
    kind: 'diverged',
    common: { generation, epoch },
    mirrorSince: { generation: wentOn ? generation : theirs.number, epoch: epoch + 1 },
    reason: `both were promoted after epoch ${epoch} of generation ${generation}`,
  };
}
