/**
 * Cuts a set of blocks of frozen content into batches that are read, looked at and sent together.
 *
 * Invariants:
 * - A batch has every wanted block from where it was asked to `end`, once: in `pieces`, or in `zeroes`.
 * - Its spans lie back to back in its buffer, in ascending order, DELTA_BATCH_BYTES of them at most, so a batch of scattered
 *   blocks is as large as one of neighbours.
 * - At most LOOKS_MAX runs are looked at for one batch.
 */
import { BLOCK_BYTES, DELTA_BATCH_BYTES, ZERO_PART_BYTES } from '../../io/limits.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';
import type { Piece } from './delta-batch.ts';
import type { FrozenSource } from './frozen-source.ts';

/** Consecutive blocks, in the volume from `first` and in a buffer from block `at`. */
export interface Placed extends Piece {
  readonly at: number;
}

export interface RunBatch {
  /** What to read with one call each: pieces that lie close together, and what is between them. */
  readonly spans: readonly Placed[];
  /** The wanted blocks among them. */
  readonly pieces: readonly Placed[];
  /** Wanted blocks that read as zeroes by the map: runs of ZERO_PART_BYTES at most. */
  readonly zeroes: readonly Piece[];
  /** Blocks of the buffer that are in use. */
  readonly blocks: number;
  /** The block after the last one looked at. */
  readonly end: number;
}

export const BATCH_BLOCKS: number = DELTA_BATCH_BYTES / BLOCK_BYTES;
/** Looks at the set and the map for one batch. */
export const LOOKS_MAX = 1024;
const ZERO_BLOCKS = ZERO_PART_BYTES / BLOCK_BYTES;
/** Pieces this close together are read with one call, and as short a hole with them: cheaper than two. */
const GAP_BLOCKS_MAX = 8;

type Mutable<Type> = { -readonly [Key in keyof Type]: Type[Key] };

/** The next batch of `set` at or after block `from`; null when there is none. */
export function nextBatch(source: FrozenSource, set: BlockSet, from: number): RunBatch | null {
  // The volume may have been resized while its old content is sent.
  const limit = Math.min(set.blockCount, source.sizeBytes / BLOCK_BYTES);
  const batch = new BatchBuilder();
  let at = from;
  for (let looks = 0; looks < LOOKS_MAX; looks += 1) {
    const run = at < limit ? set.nextRun(at, Math.min(ZERO_BLOCKS, limit - at)) : null;
    if (run === null || run.first >= limit) {
      at = Math.max(at, limit);
      break;
    }
    const runEnd = Math.min(limit, run.first + run.count);
    const seen = source.runAt(run.first * BLOCK_BYTES, runEnd * BLOCK_BYTES);
    const end = batch.add(run.first, Math.ceil(seen.end / BLOCK_BYTES), seen.zero);
    if (end === run.first) break;
    at = end;
  }
  return batch.empty && at >= limit ? null : batch.finish(at);
}

class BatchBuilder {
  private readonly spans: Mutable<Placed>[] = [];
  private readonly pieces: Mutable<Placed>[] = [];
  private readonly zeroes: Mutable<Piece>[] = [];
  private blocks = 0;

  get empty(): boolean {
    return this.blocks === 0 && this.zeroes.length === 0;
  }

  /** Takes blocks `first .. end` as far as there is room; answers how far that is. */
  add(first: number, end: number, zero: boolean): number {
    const count = end - first;
    const gap = this.gapBefore(first);
    const joins = gap <= GAP_BLOCKS_MAX && this.blocks + gap < BATCH_BLOCKS;
    if (zero && !(joins && count <= GAP_BLOCKS_MAX)) {
      this.addZeroes(first, count);
      return end;
    }
    const start = joins ? this.blocks + gap : this.blocks;
    const taken = Math.min(count, BATCH_BLOCKS - start);
    if (taken <= 0) return first;
    this.addSpan(first, taken, joins ? gap : null);
    this.addPiece(first, taken, start);
    return first + taken;
  }

  finish(end: number): RunBatch {
    const { spans, pieces, zeroes, blocks } = this;
    return { spans, pieces, zeroes, blocks, end };
  }

  private gapBefore(first: number): number {
    const span = this.spans.at(-1);
    return span === undefined ? Number.POSITIVE_INFINITY : first - (span.first + span.count);
  }

  private addSpan(first: number, count: number, gap: number | null): void {
    const span = this.spans.at(-1);
    if (gap === null || span === undefined) {
      this.spans.push({ first, count, at: this.blocks });
      this.blocks += count;
      return;
    }
    span.count += gap + count;
    this.blocks += gap + count;
  }

  private addPiece(first: number, count: number, at: number): void {
    const piece = this.pieces.at(-1);
    const follows = piece !== undefined && piece.first + piece.count === first;
    if (follows && piece.at + piece.count === at) piece.count += count;
    else this.pieces.push({ first, count, at });
  }

  private addZeroes(first: number, count: number): void {
    const run = this.zeroes.at(-1);
    const follows = run !== undefined && run.first + run.count === first;
    if (follows && run.count + count <= ZERO_BLOCKS) run.count += count;
    else this.zeroes.push({ first, count });
  }
}
