/** What must hold at any moment (docs/internals: I3, I5, I6, and what synchronous hosts were promised). */
import { Dice } from '../../../scripts/fuzz/dice.ts';
import type { LinkPosition } from '../../../src/replicator/link/messages.ts';
import type { Mirror } from '../../../src/replicator/mirror/mirror.ts';
import type { StagingQueue } from '../../../src/replicator/staging/staging-queue.ts';
import { Wrong, wrongUnless } from '../failure.ts';
import { Platter } from '../platter.ts';
import type { MirrorNode } from './mirror-node.ts';
import { BLOCK, differences, originsOf, type Oracle } from './oracle.ts';
import type { PrimaryNode } from './primary-node.ts';
import { openedOn, type Found } from './probe.ts';
import type { SnapshotBook } from './snapshots.ts';

/** What a mirror says that it shows. */
export interface Shown {
  readonly position: LinkPosition | null;
  /** The epoch that a delta run brings, or brought. */
  readonly run: number | null;
  /** Durable, and applied in part or with a command that is not done: it may be shown, whole. */
  readonly next: number | null;
}

const PROBE_STREAM = 900_000_000;

export class Checks {
  private readonly seed: number;
  private readonly oracle: Oracle;
  private readonly snapshots: SnapshotBook;
  private readonly primary: PrimaryNode;
  private probes = 0;

  constructor(seed: number, oracle: Oracle, snapshots: SnapshotBook, primary: PrimaryNode) {
    this.seed = seed;
    this.oracle = oracle;
    this.snapshots = snapshots;
    this.primary = primary;
  }

  // ---- I3

  /** What the mirror would be if it ended now in that way. */
  async probe(node: MirrorNode, how: 'kill' | 'cut'): Promise<void> {
    this.probes += 1;
    const dice = new Dice(this.seed, PROBE_STREAM + this.probes);
    const platter = node.disk?.platter ?? node.platter;
    const copy = how === 'cut' ? platter.afterPowerCut(dice) : wholeCopy(platter, dice);
    const { traits, journalFileBytes } = node.surroundings;
    let found: Found;
    try {
      found = await openedOn(copy, { traits, journalFileBytes, dice });
    } catch (thrown) {
      if (thrown instanceof Wrong)
        throw new Wrong(`${node.name} after a ${how}: ${thrown.message}`);
      throw thrown;
    }
    const when = `after a ${how}`;
    this.mustBeBoundary(node, found, when);
    this.snapshots.mustFit(node, found.position, found.snapshots, when);
  }

  mustBeBoundary(
    node: MirrorNode,
    { position, bytes }: Pick<Found, 'position' | 'bytes'>,
    when: string,
  ): void {
    const { claimed, promised, name } = node;
    const shown = shownPosition(position);
    const held = position?.epoch ?? 0;
    wrongUnless(
      held >= (claimed?.epoch ?? 0),
      `${name} ${when} holds ${shown}, and acknowledged ${shownPosition(claimed)} as durable`,
    );
    const boundary = this.oracle.of(position);
    wrongUnless(boundary !== null, `${name} ${when} holds ${shown}, which never ended`);
    wrongUnless(
      position === null || boundary.generation === position.generation,
      `${name} ${when} holds ${shown}, which was of generation ${boundary.generation}`,
    );
    const wrong = differences(boundary.content, bytes);
    wrongUnless(
      wrong.length === 0,
      `${name} ${when} is not what the primary was at ${shown}: ${originsOf(this.oracle, wrong, bytes)}`,
    );
    wrongUnless(
      boundary.change >= promised,
      `${name} ${when} holds ${shown}, to change ${boundary.change}: a flush promised ${promised}`,
    );
  }

  /** A read that began and ended while what the mirror shows was between two of these. */
  mustBeOneOf(node: MirrorNode, bytes: Buffer, first: Shown, last: Shown): void {
    const candidates = this.oracle.between(first.position?.epoch ?? 0, last.position?.epoch ?? 0);
    if (first.position === null) candidates.push(this.oracle.of(null)!);
    // A run is shown, whole, a moment before that is recorded.
    for (const epoch of [first.run, last.run, first.next, last.next]) {
      const boundary = epoch === null ? null : this.oracle.at(epoch);
      if (boundary !== null) candidates.push(boundary);
    }
    let closest: number[] = [];
    for (const { content } of candidates) {
      const wrong = differences(content, bytes);
      if (wrong.length === 0) return;
      if (closest.length === 0 || wrong.length < closest.length) closest = wrong;
    }
    throw new Wrong(
      `a read of ${node.name} between ${shownPosition(first.position)} and ${shownPosition(last.position)} is of no ` +
        `moment of the primary: ${originsOf(this.oracle, closest, bytes)}`,
    );
  }

  // ---- I5, I6

  /** What the mirror may lack is marked or staged. */
  cover(node: MirrorNode): void {
    const mirror = this.primary.mirrorOf(node.name);
    if (mirror === null || node.setBack) return;
    const { queue } = this.primary.device!;
    const held = this.oracle.of(node.claimed);
    wrongUnless(held !== null, `${node.name} claims ${shownPosition(node.claimed)}`);
    const { now } = this.oracle;
    let staged: Set<number> | null = null;
    for (let block = 0; block < now.length; block += 1) {
      const [here, there] = [now[block] ?? null, held.content[block] ?? null];
      if (here === there || here === null || there === null || here.equals(there)) continue;
      if (mirror.blocks.marked(block)) continue;
      staged ??= stagedBlocks(mirror, queue);
      wrongUnless(
        staged.has(block),
        `block ${block} differs from ${node.name} at ${shownPosition(node.claimed)}, and is neither marked nor staged`,
      );
    }
  }
}

function stagedBlocks(mirror: Mirror, queue: StagingQueue): Set<number> {
  const blocks = new Set<number>();
  const { follower } = mirror.place;
  if (follower === null) return blocks;
  for (let number = follower.released + 1; number <= queue.openNumber; number += 1) {
    queue.epochOrOpen(number)?.eachRange((offset, length) => {
      for (let at = 0; at < length; at += BLOCK) blocks.add((offset + at) / BLOCK);
    });
  }
  return blocks;
}

/** As the page cache has it. */
function wholeCopy(platter: Platter, dice: Dice): Platter {
  return new Platter(dice, platter.root.afterPowerCut(dice, { per: 'sector', percent: 100 }));
}

export function shownPosition(position: LinkPosition | null): string {
  return position === null ? 'nothing' : `epoch ${position.epoch}`;
}
