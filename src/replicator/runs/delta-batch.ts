/** Cuts a set of blocks into batches that a delta run reads, compares and sends. */
import { BLOCK_BYTES, DELTA_BATCH_BYTES, DELTA_ZERO_BYTES_MAX } from '../../io/limits.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';
import type { Volume } from '../../volume/volume.ts';

/** Consecutive blocks. */
export interface Piece {
  readonly first: number;
  readonly count: number;
}

/** Blocks of at most DELTA_BATCH_BYTES of the volume, from the first to the last. */
export interface DataBatch {
  readonly kind: 'data';
  readonly first: number;
  readonly pieces: readonly Piece[];
  /** What to read with one call each: pieces that lie close together, and what is between them. */
  readonly spans: readonly Piece[];
  /** The block after the last one. */
  readonly end: number;
}

/** Blocks that read as zeroes by the map: no data travels for them. */
export interface ZeroBatch {
  readonly kind: 'zero';
  readonly first: number;
  readonly end: number;
  readonly pieces: readonly Piece[];
}

const BATCH_BLOCKS = DELTA_BATCH_BYTES / BLOCK_BYTES;
const ZERO_BLOCKS = DELTA_ZERO_BYTES_MAX / BLOCK_BYTES;
/** Pieces this close together are read with one call: cheaper than two. */
const GAP_BLOCKS_MAX = 8;

export class BatchPlanner {
  private readonly volume: Pick<Volume, 'runAt'>;

  constructor(volume: Pick<Volume, 'runAt'>) {
    this.volume = volume;
  }

  /** The next batch of `set` at or after block `from`, or null. */
  next(set: BlockSet, from: number): DataBatch | ZeroBatch | null {
    const run = set.nextRun(from, ZERO_BLOCKS);
    if (run === null) return null;
    const { end, zero } = this.mapRun(run);
    if (zero) {
      const count = end - run.first;
      return { kind: 'zero', first: run.first, end, pieces: [{ first: run.first, count }] };
    }
    return this.dataBatch(set, run.first);
  }

  private dataBatch(set: BlockSet, first: number): DataBatch {
    const limit = Math.min(set.blockCount, first + BATCH_BLOCKS);
    const pieces: Piece[] = [];
    let at = first;
    while (at < limit) {
      const run = set.nextRun(at, limit - at);
      if (run === null || run.first >= limit) break;
      const cut = { first: run.first, count: Math.min(run.count, limit - run.first) };
      const { end, zero } = this.mapRun(cut);
      if (zero) break;
      pieces.push({ first: cut.first, count: end - cut.first });
      at = end;
    }
    const last = pieces.at(-1);
    const end = last === undefined ? first : last.first + last.count;
    return { kind: 'data', first, pieces, spans: spansOf(pieces), end };
  }

  /** How far the blocks of `run` are all data or all zero by the map. */
  private mapRun(run: Piece): { end: number; zero: boolean } {
    const { end, zero } = this.volume.runAt(
      run.first * BLOCK_BYTES,
      (run.first + run.count) * BLOCK_BYTES,
    );
    return { end: Math.ceil(end / BLOCK_BYTES), zero };
  }
}

function spansOf(pieces: readonly Piece[]): Piece[] {
  const spans: { first: number; count: number }[] = [];
  for (const piece of pieces) {
    const span = spans.at(-1);
    if (span !== undefined && piece.first - (span.first + span.count) <= GAP_BLOCKS_MAX) {
      span.count = piece.first + piece.count - span.first;
    } else {
      spans.push({ first: piece.first, count: piece.count });
    }
  }
  return spans;
}
