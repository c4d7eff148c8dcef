/**
 * One delta run to another node: compares what is suspect, then sends what is dirty, all of it from frozen content, so that
 * the mirror has the state of one moment when it commits the run.
 *
 * Invariants:
 * - `blocks.inFlight` is what the mirror lacks of the frozen content, from the beginning to the end: nothing is taken out of it
 *   by the run. Whoever began it settles those blocks when the mirror committed, and marks them again when it did not.
 * - A suspect block is dropped when it was found equal, or joins `inFlight`.
 * - Blocks below the mirror's cursor are not sent again; they stay in `inFlight`, since a run that is given up leaves nothing.
 *   What is suspect there was compared before the first block was sent; if it is suspect again, the next run compares it.
 * - One bookmark at a time waits for its answer, so that what has to be sent again after a loss of the link follows the pace
 *   of the mirror.
 */
import { BlockferryError } from '../../io/errors.ts';
import { BLOCK_BYTES, RUN_MARK_BYTES, RUN_MARK_MS } from '../../io/limits.ts';
import type { Clock } from '../../io/clock.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';
import type { Examiner } from '../../workers/examiner.ts';
import { RunAborted } from './delta-run.ts';
import type { FrozenSource } from './frozen-source.ts';
import type { FrameHeader, Link, ReceivedPayload } from '../link/link-types.ts';
import type { ControlMessage, Generation, SnapshotTwin } from '../link/messages.ts';
import { PeerCompare } from './peer-compare.ts';
import { LOOKS_MAX, type RunBatch } from './run-batches.ts';
import { RunPace, type RunLimiter } from './run-pace.ts';
import type { RunTools } from './run-pipeline.ts';
import { RunReader } from './run-reader.ts';
import { RunShipper } from './run-shipper.ts';

export interface PeerRunParameters {
  /** What its frames carry; another one for each run on a link. */
  readonly number: number;
  /** 32 hexadecimal digits. */
  readonly run: string;
  /** The position of the frozen content, and its wall-clock milliseconds. */
  readonly generation: number;
  readonly epoch: number;
  readonly time: number;
  readonly generations: readonly Generation[];
  /** The mirror begins with zeroes: everything that is not zero is sent. All blocks are marked then, by the run at the latest. */
  readonly full: boolean;
  /** The mirror said that it has a part of this run: it may begin past 0. */
  readonly resumed: boolean;
  /** It may be asked for groups of blocks. */
  readonly groups: boolean;
}

export interface PeerRunHooks {
  /**
   * Comparing is over; shipping begins when this resolves. The marks of the run, `inFlight`, have to be in the log by then,
   * durably: a run that is resumed after a restart has no others.
   */
  compared(): void | Promise<void>;
  /** The mirror has everything below byte `cursor`, durably: what a lost link does not make us send again. */
  durable(cursor: number): void;
}

/** Of MirrorBlocks; the two are looked up each time, since settling puts another set in place. */
export interface RunBlocks {
  readonly inFlight: BlockSet;
  readonly suspect: BlockSet;
}

export interface PeerRunOptions {
  readonly link: Link;
  readonly clock: Clock;
  readonly source: FrozenSource;
  readonly blocks: RunBlocks;
  readonly examiner: Examiner;
  readonly limiter: RunLimiter | null;
  readonly run: PeerRunParameters;
  /** The frozen content is that snapshot, and becomes one of the mirror. */
  readonly snapshot?: SnapshotTwin | null;
  readonly hooks: PeerRunHooks;
}

export class PeerRun {
  /** Why the mirror did not keep the snapshot, when the run is over. */
  refused: string | null = null;
  private readonly options: PeerRunOptions;
  private readonly pace: RunPace;
  private readonly compare: PeerCompare;
  private readonly shipper: RunShipper;
  private readonly tools: RunTools;
  /** Byte at which the mirror wants the run to go on; null: it did not say yet. */
  private start: number | null = null;
  private committing = false;
  private committed = false;
  /** Blocks to be sent from here on; null: comparing may add some. */
  private left: number | null = null;
  /** The bookmark that was asked for and not answered. */
  private asked: number | null = null;
  private markedEnd = 0;
  private markedBytes = 0;
  private markedAt = 0;

  constructor(options: PeerRunOptions) {
    const { link, clock, limiter, source, examiner, run } = options;
    this.options = options;
    this.pace = new RunPace({ link, clock, limiter });
    this.tools = { source, pace: this.pace, reader: new RunReader(source, examiner) };
    this.compare = new PeerCompare({
      tools: this.tools,
      examiner,
      against: { epoch: run.number, twin: false },
      groups: run.groups,
      answered: (first, count, differs) => this.learned(first, count, differs),
    });
    this.shipper = new RunShipper({
      tools: this.tools,
      examiner,
      number: run.number,
      full: run.full,
      advanced: (batch) => this.advanced(batch),
    });
  }

  /** Payload bytes of its frames, questions included. */
  get bytesSent(): number {
    return this.shipper.bytesSent + this.compare.bytesAsked;
  }

  get bytesCompared(): number {
    return this.compare.bytesCompared;
  }

  /** What is left to compare and to send: bytes of the volume. */
  get remainingBytes(): number {
    const { blocks } = this.options;
    const left = this.left ?? blocks.inFlight.count + blocks.suspect.count;
    return left * BLOCK_BYTES;
  }

  /** `run` rejects with RunAborted. The mirror keeps what it has, until another run begins there. */
  abort(): void {
    this.pace.end(new RunAborted('the run was aborted'));
  }

  /**
   * Resolves when the mirror committed the run. Rejects with RunAborted, with RunFailed when the content cannot be read, or
   * with LINK_PROTOCOL when the mirror says what it cannot mean. Then no read is on its way.
   */
  async run(): Promise<void> {
    this.begin();
    await this.pace.until(() => this.start !== null);
    const { blocks, hooks, run, link, snapshot = null } = this.options;
    const first = (this.start ?? 0) / BLOCK_BYTES;
    if (!run.full) await this.compare.compare(blocks.suspect, first);
    await hooks.compared();
    this.left = await this.countLeft(first);
    this.markedEnd = first;
    this.markedAt = this.options.clock.now();
    await this.shipper.ship(blocks.inFlight, first);
    this.left = 0;
    this.committing = true;
    const { frames } = this.shipper;
    const told = { kind: 'run-commit', run: run.run, frames } as const;
    link.sendControl(snapshot === null ? told : { ...told, snapshot });
    await this.pace.until(() => this.committed);
  }

  /** Messages of the mirror. Those of another run mean nothing. */
  control(message: ControlMessage): void {
    if (!('run' in message) || message.run !== this.options.run.run) return;
    if (!this.accept(message)) {
      const text = `the mirror said ${message.kind} when it could not mean it`;
      this.pace.end(new BlockferryError('LINK_PROTOCOL', text));
    }
    this.pace.wake();
  }

  /** Answers of the mirror. The payload is this run's to release. */
  frame(header: FrameHeader, payload: ReceivedPayload | null): void {
    this.compare.frame(header, payload);
    payload?.release();
  }

  /** The link takes more. */
  drained(): void {
    this.pace.wake();
  }

  private begin(): void {
    const { link, blocks, run, source } = this.options;
    const { sizeBytes } = source;
    const { resumed: _, groups: __, ...told } = run;
    if (run.full) {
      blocks.inFlight.addAll();
      blocks.suspect.clear();
    }
    link.sendControl({ kind: 'run-begin', ...told, sizeBytes });
  }

  private learned(first: number, count: number, differs: boolean): void {
    const { blocks } = this.options;
    if (differs) blocks.inFlight.add(first, count);
    blocks.suspect.remove(first, count);
  }

  /** Blocks to be sent from block `first` on. In a full run holes are not among them, and a map may be long. */
  private async countLeft(first: number): Promise<number> {
    const { source, blocks, run } = this.options;
    if (!run.full) return blocks.inFlight.count - blocks.inFlight.clone().remove(0, first);
    let blocksLeft = 0;
    let at = first * BLOCK_BYTES;
    for (let looks = 1; at < source.sizeBytes; looks += 1) {
      const { end, zero } = source.runAt(at, source.sizeBytes);
      if (!zero) blocksLeft += (end - at) / BLOCK_BYTES;
      at = end;
      if (looks % LOOKS_MAX === 0) await this.pace.turn();
    }
    return blocksLeft;
  }

  private async advanced(batch: RunBatch): Promise<void> {
    let passed = 0;
    for (const { count } of batch.pieces) passed += count;
    if (!this.options.run.full) for (const { count } of batch.zeroes) passed += count;
    this.left = Math.max(0, (this.left ?? 0) - passed);
    if (!this.markIsDue) return;
    await this.shipper.flush();
    const cursor = Math.min(this.shipper.sentEnd * BLOCK_BYTES, this.options.source.sizeBytes);
    this.asked = cursor;
    this.markedEnd = this.shipper.sentEnd;
    this.markedBytes = this.shipper.bytesSent;
    this.markedAt = this.options.clock.now();
    const { run, link } = this.options;
    link.sendControl({ kind: 'run-mark', run: run.run, cursor, frames: this.shipper.frames });
  }

  private get markIsDue(): boolean {
    const { shipper, asked } = this;
    if (asked !== null || shipper.sentEnd === this.markedEnd) return false;
    if (shipper.bytesSent - this.markedBytes >= RUN_MARK_BYTES) return true;
    return this.options.clock.now() - this.markedAt >= RUN_MARK_MS;
  }

  /** False: it makes no sense now. */
  private accept(message: ControlMessage): boolean {
    if (message.kind === 'run-ready') return this.readyAt(message.cursor);
    if (message.kind === 'run-durable') return this.durableTo(message.cursor);
    if (message.kind !== 'run-committed' || !this.committing) return false;
    this.refused = message.refused ?? null;
    this.committed = true;
    return true;
  }

  private readyAt(cursor: number): boolean {
    if (this.start !== null || !this.isCursor(cursor)) return false;
    this.start = cursor;
    return true;
  }

  private durableTo(cursor: number): boolean {
    if (cursor !== this.asked) return false;
    this.asked = null;
    this.options.hooks.durable(cursor);
    return true;
  }

  private isCursor(cursor: number): boolean {
    const { source, run } = this.options;
    if (cursor % BLOCK_BYTES !== 0 || cursor > source.sizeBytes) return false;
    return cursor === 0 || run.resumed;
  }
}
