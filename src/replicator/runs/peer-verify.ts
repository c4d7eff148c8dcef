/**
 * Compares all blocks of frozen content with the twin that a mirror froze at the same epoch. Neither changes meanwhile, so
 * what is found different is different.
 */
import type { Clock } from '../../io/clock.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import { BlockSet } from '../../volume/maps/block-set.ts';
import type { Examiner } from '../../workers/examiner.ts';
import { RunAborted } from './delta-run.ts';
import type { FrozenSource } from './frozen-source.ts';
import type { FrameHeader, Link, ReceivedPayload } from '../link/link-types.ts';
import { PeerCompare } from './peer-compare.ts';
import { RunPace, type RunLimiter } from './run-pace.ts';
import { RunReader } from './run-reader.ts';

export interface PeerVerifyOptions {
  readonly link: Link;
  readonly clock: Clock;
  readonly source: FrozenSource;
  readonly examiner: Examiner;
  readonly limiter: RunLimiter | null;
  /** The epoch that the command `freeze` ended, on the mirror too. */
  readonly epoch: number;
  /** The mirror may be asked for groups of blocks. */
  readonly groups: boolean;
}

export class PeerVerify {
  /** Blocks that differ, as far as answers came. */
  readonly differing: BlockSet;
  private readonly pace: RunPace;
  private readonly compare: PeerCompare;

  constructor(options: PeerVerifyOptions) {
    const { link, clock, limiter, source, examiner, epoch, groups } = options;
    this.differing = new BlockSet(source.sizeBytes / BLOCK_BYTES);
    this.pace = new RunPace({ link, clock, limiter });
    this.compare = new PeerCompare({
      tools: { source, pace: this.pace, reader: new RunReader(source, examiner) },
      examiner,
      against: { epoch, twin: true },
      groups,
      answered: (first, count, differs) => {
        if (differs) this.differing.add(first, count);
      },
    });
  }

  get bytesSent(): number {
    return this.compare.bytesAsked;
  }

  get bytesCompared(): number {
    return this.compare.bytesCompared;
  }

  /**
   * Resolves when all blocks were compared; `differing` tells. Rejects with RunAborted, with RunFailed when the content cannot
   * be read, or with LINK_PROTOCOL.
   */
  async run(): Promise<void> {
    const all = new BlockSet(this.differing.blockCount);
    all.addAll();
    await this.compare.compare(all, 0);
  }

  abort(): void {
    this.pace.end(new RunAborted('the comparison was aborted'));
  }

  /** Messages of the mirror: none is for a comparison. */
  control(): void {}

  /** Answers of the mirror. The payload is released here. */
  frame(header: FrameHeader, payload: ReceivedPayload | null): void {
    this.compare.frame(header, payload);
    payload?.release();
  }

  /** The link takes more. */
  drained(): void {
    this.pace.wake();
  }
}

/** The runs of a set in ascending order, as byte ranges. */
export function* rangesOf(set: BlockSet): Generator<{ offset: number; length: number }> {
  for (let at = 0; at < set.blockCount;) {
    const run = set.nextRun(at, set.blockCount);
    if (run === null) return;
    yield { offset: run.first * BLOCK_BYTES, length: run.count * BLOCK_BYTES };
    at = run.first + run.count;
  }
}
