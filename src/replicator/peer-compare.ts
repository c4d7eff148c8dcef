/**
 * Asks a mirror which blocks of it differ from frozen content: digests go there, bits come back.
 *
 * Invariants:
 * - Each wanted block is answered for once: equal, or differing.
 * - At most COMPARE_QUESTIONS_MAX questions have no answer. An answer to none of them, or of a wrong length, ends the run.
 */
import { BlockferryError } from '../io/errors.ts';
import { BLOCK_BYTES, COMPARE_QUESTIONS_MAX } from '../io/limits.ts';
import type { BlockSet } from '../volume/maps/block-set.ts';
import { bitOf, scan } from '../volume/maps/leaf.ts';
import type { Examiner } from '../workers/examiner.ts';
import { DIGEST_BYTES, bitmapBytes } from '../workers/kernels.ts';
import type { Piece } from './delta-batch.ts';
import { FrameKind, type FrameHeader, type ReceivedPayload } from './link/link-types.ts';
import type { Placed, RunBatch } from './run-batches.ts';
import { COMPARE_TWIN, COMPARE_ZERO } from './run-frames.ts';
import { runThrough, type RunTools } from './run-pipeline.ts';
import type { RunBuffer } from './run-reader.ts';

interface Question extends Piece {
  readonly flags: number;
  /** Those of its blocks that somebody wants to know of. */
  readonly wanted: readonly Piece[];
}

export interface CompareOptions {
  readonly tools: RunTools;
  readonly examiner: Examiner;
  /** What the mirror compares: see run-frames.ts. */
  readonly against: { readonly epoch: number; readonly twin: boolean };
  /** Hears of all wanted blocks, in runs. */
  readonly answered: (first: number, count: number, differs: boolean) => void;
}

export class PeerCompare {
  /** Bytes that were answered for. */
  bytesCompared = 0;
  /** Payload bytes of the questions so far. */
  bytesAsked = 0;
  private readonly options: CompareOptions;
  private readonly epoch: number;
  private readonly twinFlag: number;
  private readonly open = new Map<number, Question>();
  private asked = 0;

  constructor(options: CompareOptions) {
    this.options = options;
    this.epoch = options.against.epoch;
    this.twinFlag = options.against.twin ? COMPARE_TWIN : 0;
  }

  /** Resolves when every block of `set` from block `from` on was answered for. */
  async compare(set: BlockSet, from: number): Promise<void> {
    const { tools } = this.options;
    await runThrough(
      tools,
      { set, from },
      {
        prepare: (batch, buffer) => this.digest(batch, buffer),
        handOn: (batch, digests) => this.ask(batch, digests),
      },
    );
    await tools.pace.until(() => this.open.size === 0);
  }

  /** Takes DIFFERS; false for what is not its own. The payload stays the caller's. */
  frame(header: FrameHeader, payload: ReceivedPayload | null): boolean {
    if (header.kind !== FrameKind.DIFFERS || header.epoch !== this.epoch) return false;
    const question = this.open.get(header.index);
    const { pace } = this.options.tools;
    if (question === undefined || !isAnswer(question, header, payload)) {
      pace.end(new BlockferryError('LINK_PROTOCOL', 'the mirror answered what was not asked'));
      return true;
    }
    this.open.delete(header.index);
    for (const piece of question.wanted) this.tell(question, piece, payload?.buffer ?? null);
    pace.wake();
    return true;
  }

  private async digest(batch: RunBatch, buffer: RunBuffer | null): Promise<Buffer | null> {
    if (buffer === null) return null;
    const { examiner, tools } = this.options;
    const digests = await examiner.digest(buffer.data, batch.blocks * BLOCK_BYTES);
    tools.reader.give(buffer);
    tools.pace.wake();
    return digests;
  }

  private async ask(batch: RunBatch, digests: Buffer | null): Promise<void> {
    for (const run of batch.zeroes) {
      await this.put({ ...run, flags: COMPARE_ZERO | this.twinFlag, wanted: [run] }, null);
    }
    if (digests === null) return;
    let next = 0;
    for (const span of batch.spans) {
      const from = next;
      while (isInside(batch.pieces[next], span)) next += 1;
      const wanted = batch.pieces.slice(from, next);
      const payload = digests.subarray(
        span.at * DIGEST_BYTES,
        (span.at + span.count) * DIGEST_BYTES,
      );
      await this.put({ ...span, flags: this.twinFlag, wanted }, payload);
    }
  }

  private async put(question: Question, payload: Buffer | null): Promise<void> {
    const { pace } = this.options.tools;
    await pace.until(() => this.open.size < COMPARE_QUESTIONS_MAX);
    await pace.room(payload?.length ?? 0);
    const index = this.asked;
    this.asked += 1;
    this.open.set(index, question);
    this.bytesAsked += payload?.length ?? 0;
    pace.link.send(
      {
        kind: FrameKind.DIGESTS,
        flags: question.flags,
        volume: 0,
        epoch: this.epoch,
        index,
        offset: question.first * BLOCK_BYTES,
        length: question.count * BLOCK_BYTES,
        aux: 0,
      },
      payload === null ? undefined : [payload],
    );
  }

  private tell(question: Question, piece: Piece, bits: Uint8Array | null): void {
    const { answered } = this.options;
    this.bytesCompared += piece.count * BLOCK_BYTES;
    if (bits === null) {
      answered(piece.first, piece.count, false);
      return;
    }
    const end = piece.first + piece.count - question.first;
    for (let at = piece.first - question.first; at < end;) {
      const differs = bitOf(bits, at);
      const stop = scan(bits, at, end, differs);
      answered(question.first + at, stop - at, differs);
      at = stop;
    }
  }
}

function isInside(piece: Piece | undefined, span: Placed): boolean {
  return piece !== undefined && piece.first < span.first + span.count;
}

function isAnswer(
  { first, count, flags }: Question,
  header: FrameHeader,
  payload: ReceivedPayload | null,
): boolean {
  const length = count * BLOCK_BYTES;
  const same = header.offset === first * BLOCK_BYTES && header.length === length;
  const fits = payload === null || payload.length === bitmapBytes(length);
  return same && fits && header.flags === flags;
}
