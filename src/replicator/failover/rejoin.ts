/**
 * A mirror that took writes of its own and follows again: what has to be compared or sent is the union of what either side
 * changed since the position that both had.
 *
 * Why that is enough: outside of its marks the mirror holds what the common line held at that position, and so does this node
 * outside of its own marks. So a block that neither marked is the same on both.
 *
 * Invariants:
 * - What the mirror says is taken as a whole, or not at all: until then every block that was marked stays marked.
 * - Its ranges are bounded in number, and lie inside the volume.
 */
import { BlockferryError } from '../../io/errors.ts';
import {
  BLOCK_BYTES,
  BLOCKS_PER_REGION,
  REJOIN_RUNS_MAX,
  REJOIN_RUNS_PER_MESSAGE,
} from '../../io/limits.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';
import type { Volume } from '../../volume/volume.ts';
import type { ControlMessage } from '../link/messages.ts';
import type { MirrorBlocks } from '../mirror/mirror-blocks.ts';

/** How the marks of a mirror that took writes, or that this node was promoted from, come about. */
export interface Rejoin {
  /** What changed here since that snapshot is to be sent; null: it is marked already. */
  readonly since: string | null;
  /** The mirror tells what it changed. */
  readonly tells: boolean;
}

export type MayDiffer = Extract<ControlMessage, { kind: 'may-differ' }>;
type Run = readonly [first: number, count: number];

/** What the mirror changed, as it comes in messages. */
export class ToldBlocks {
  private readonly runs: Run[] = [];
  private readonly blockCount: number;
  private done = false;

  constructor(blockCount: number) {
    this.blockCount = blockCount;
  }

  /** Returns whether that was all. @throws BlockferryError LINK_PROTOCOL */
  take({ runs, more }: MayDiffer): boolean {
    if (this.done) throw wrong('ranges behind the last one');
    if (this.runs.length + runs.length > REJOIN_RUNS_MAX) throw wrong('too many ranges');
    for (const run of runs) {
      const [first, count] = run;
      if (first + count > this.blockCount) throw wrong('a range past the end');
      this.runs.push(run);
    }
    this.done = !more;
    return this.done;
  }

  addTo(blocks: MirrorBlocks): void {
    for (const [first, count] of this.runs) blocks.suspect.add(first, count);
  }
}

/**
 * Marks of a mirror whose content is that of the snapshot `since`: what changed here since then, and nothing else. False when
 * the snapshot is gone.
 */
export function markSince(volume: Volume, blocks: MirrorBlocks, since: string): boolean {
  if (!volume.snapshots.hidden.includes(since)) return false;
  // In one turn with what follows: a change that comes later marks its blocks itself.
  blocks.dirty.clear();
  blocks.suspect.clear();
  for (const { offset, length } of volume.snapshots.changed(since, null)) {
    const end = Math.min(offset + length, volume.sizeBytes);
    // Compared: what was written again, or restored, may be what the mirror has.
    if (end > offset) blocks.suspect.add(offset / BLOCK_BYTES, (end - offset) / BLOCK_BYTES);
  }
  return true;
}

/** The messages that tell of these sets. Of more than REJOIN_RUNS_MAX runs, whole regions are told. */
export function* tellBlocks(sets: readonly BlockSet[]): Generator<MayDiffer> {
  const runs = boundedRuns(sets);
  for (let at = 0; at < runs.length || at === 0; at += REJOIN_RUNS_PER_MESSAGE) {
    const end = at + REJOIN_RUNS_PER_MESSAGE;
    yield { kind: 'may-differ', runs: runs.slice(at, end), more: end < runs.length };
  }
}

/** Bytes of the blocks in any of the sets. */
export function bytesOf(sets: readonly BlockSet[]): number {
  return union(sets).count * BLOCK_BYTES;
}

function boundedRuns(sets: readonly BlockSet[]): Run[] {
  const all = union(sets);
  const exact = joined(runsOf(all), 0);
  // Whole regions then, which are found quickly; and what lies between them, when these are too many as well.
  for (let gap = 0, runs = exact; ; gap = Math.max(1, gap * 8)) {
    if (runs !== null) return runs;
    runs = joined(regionsOf(all), gap * BLOCKS_PER_REGION);
  }
}

function* runsOf(set: BlockSet): Generator<Run> {
  for (let from = 0; ;) {
    const run = set.nextRun(from, set.blockCount);
    if (run === null) return;
    yield [run.first, run.count];
    from = run.first + run.count;
  }
}

/** The regions that hold a block of the set. */
function* regionsOf(set: BlockSet): Generator<Run> {
  for (let region = set.nextRegion(0); region >= 0; region = set.nextRegion(region + 1)) {
    const first = region * BLOCKS_PER_REGION;
    yield [first, Math.min(BLOCKS_PER_REGION, set.blockCount - first)];
  }
}

/** Runs with at most `gap` blocks between them are one; null: they are more than REJOIN_RUNS_MAX. */
function joined(each: Iterable<Run>, gap: number): Run[] | null {
  const runs: Run[] = [];
  for (const [first, count] of each) {
    const last = runs.at(-1);
    if (last !== undefined && first - (last[0] + last[1]) <= gap) {
      runs[runs.length - 1] = [last[0], first + count - last[0]];
    } else if (runs.length === REJOIN_RUNS_MAX) return null;
    else runs.push([first, count]);
  }
  return runs;
}

function union(sets: readonly BlockSet[]): BlockSet {
  const [first, ...others] = sets;
  if (first === undefined) throw new Error('there is a set');
  const all = first.clone();
  for (const set of others) all.addSet(set);
  return all;
}

function wrong(what: string): BlockferryError {
  return new BlockferryError('LINK_PROTOCOL', `a mirror that rejoins told of ${what}`);
}
