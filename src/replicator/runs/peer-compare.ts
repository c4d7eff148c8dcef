/**
 * Asks a mirror which blocks of it differ from frozen content: digests go there, bits come back.
 *
 * Invariants:
 * - Each wanted block is answered for once: equal, or differing.
 * - Long pieces are asked for in groups of blocks first, if the mirror knows that. What a group leaves open is asked for block by
 *   block, when all groups were answered for.
 * - At most COMPARE_QUESTIONS_MAX questions have no answer. An answer to none of them, or of a wrong length, ends the run.
 */
import { BlockferryError } from '../../io/errors.ts';
import { BLOCK_BYTES, COMPARE_GROUP_BYTES, COMPARE_QUESTIONS_MAX } from '../../io/limits.ts';
import { BlockSet } from '../../volume/maps/block-set.ts';
import { bitOf, scan } from '../../volume/maps/leaf.ts';
import type { Examiner } from '../../workers/examiner.ts';
import { DIGEST_BYTES, bitmapBytes } from '../../workers/kernels.ts';
import type { Piece } from './delta-batch.ts';
import { FrameKind, type FrameHeader, type ReceivedPayload } from '../link/link-types.ts';
import type { Placed, RunBatch } from './run-batches.ts';
import { COMPARE_GROUPS, COMPARE_TWIN, COMPARE_ZERO } from './run-frames.ts';
import { runThrough, type RunTools } from './run-pipeline.ts';
import type { RunBuffer } from './run-reader.ts';

const GROUP_BLOCKS = COMPARE_GROUP_BYTES / BLOCK_BYTES;

interface Question extends Piece {
  readonly flags: number;
  /** Those of its blocks that somebody wants to know of. */
  readonly wanted: readonly Piece[];
}

/** The digests of a batch: those of its spans, each on its own. */
interface Digests {
  readonly ofSpans: readonly Buffer[];
  readonly flags: number;
}

export interface CompareOptions {
  readonly tools: RunTools;
  readonly examiner: Examiner;
  /** What the mirror compares: see run-frames.ts. */
  readonly against: { readonly epoch: number; readonly twin: boolean };
  /** The mirror knows groups of blocks. */
  readonly groups: boolean;
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
  /** In groups that differ. */
  private unsure: BlockSet | null = null;

  constructor(options: CompareOptions) {
    this.options = options;
    this.epoch = options.against.epoch;
    this.twinFlag = options.against.twin ? COMPARE_TWIN : 0;
  }

  /** Resolves when every block of `set` from block `from` on was answered for. */
  async compare(set: BlockSet, from: number): Promise<void> {
    await this.pass(set, from, this.options.groups);
    const { unsure } = this;
    this.unsure = null;
    if (unsure !== null) await this.pass(unsure, from, false);
  }

  private async pass(set: BlockSet, from: number, groups: boolean): Promise<void> {
    const { tools } = this.options;
    await runThrough(
      tools,
      { set, from },
      {
        prepare: (batch, buffer) => this.digest(batch, buffer, groups),
        handOn: (batch, digests) => this.ask(batch, digests),
      },
    );
    await tools.pace.until(() => this.open.size === 0);
  }

  /** Takes DIFFERS; false for what is not its own. The payload stays the caller's. */
  frame(header: FrameHeader, payload: ReceivedPayload | null): boolean {
    if (header.kind !== FrameKind.DIFFERS || !this.isOwn(header)) return false;
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

  /** An epoch and a run may have the same number: the late answer to a comparison of twins is of no run. */
  private isOwn({ epoch, flags }: FrameHeader): boolean {
    return epoch === this.epoch && (flags & COMPARE_TWIN) === this.twinFlag;
  }

  private async digest(
    { spans, blocks }: RunBatch,
    buffer: RunBuffer | null,
    groups: boolean,
  ): Promise<Digests | null> {
    if (buffer === null) return null;
    const { tools } = this.options;
    // Short spans gain nothing, and are cheaper to ask for together.
    const grouped = groups && blocks >= spans.length * GROUP_BLOCKS;
    const ofSpans = grouped
      ? await this.inGroups(spans, buffer)
      : await this.inBlocks(spans, buffer);
    tools.reader.give(buffer);
    tools.pace.wake();
    return { ofSpans, flags: grouped ? COMPARE_GROUPS : 0 };
  }

  private inGroups(spans: readonly Placed[], { data }: RunBuffer): Promise<Buffer[]> {
    const { examiner } = this.options;
    return Promise.all(
      spans.map(({ at, count }) => {
        const bytes = data.subarray(at * BLOCK_BYTES, (at + count) * BLOCK_BYTES);
        return examiner.digest(bytes, bytes.length, COMPARE_GROUP_BYTES);
      }),
    );
  }

  private async inBlocks(spans: readonly Placed[], { data }: RunBuffer): Promise<Buffer[]> {
    const last = spans.at(-1);
    const blocks = last === undefined ? 0 : last.at + last.count;
    const digests = await this.options.examiner.digest(data, blocks * BLOCK_BYTES, BLOCK_BYTES);
    return spans.map(({ at, count }) =>
      digests.subarray(at * DIGEST_BYTES, (at + count) * DIGEST_BYTES),
    );
  }

  private async ask(batch: RunBatch, digests: Digests | null): Promise<void> {
    for (const run of batch.zeroes) {
      await this.put({ ...run, flags: COMPARE_ZERO | this.twinFlag, wanted: [run] }, null);
    }
    if (digests === null) return;
    let next = 0;
    for (const [index, span] of batch.spans.entries()) {
      const from = next;
      while (isInside(batch.pieces[next], span)) next += 1;
      const wanted = batch.pieces.slice(from, next);
      const flags = digests.flags | this.twinFlag;
      await this.put({ ...span, flags, wanted }, digests.ofSpans[index] ?? null);
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
    if (bits === null) {
      this.told(piece.first, piece.count, false);
      return;
    }
    const inGroups = (question.flags & COMPARE_GROUPS) !== 0;
    const end = piece.first + piece.count - question.first;
    for (let at = piece.first - question.first; at < end;) {
      const differs = bitOf(bits, at);
      const stop = scan(bits, at, end, differs);
      if (differs && inGroups) this.doubt(question.first + at, stop - at);
      else this.told(question.first + at, stop - at, differs);
      at = stop;
    }
  }

  private told(first: number, count: number, differs: boolean): void {
    this.bytesCompared += count * BLOCK_BYTES;
    this.options.answered(first, count, differs);
  }

  private doubt(first: number, count: number): void {
    this.unsure ??= new BlockSet(this.options.tools.source.sizeBytes / BLOCK_BYTES);
    this.unsure.add(first, count);
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
