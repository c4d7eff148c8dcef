/**
 * Takes what was applied to the volume into the staging queue, or into the marks of the mirrors.
 *
 * Invariants:
 * - Every changed block is staged for each mirror in stream and marked for each other one, in the turn in
 *   which it was changed (I5).
 * - What is staged is whole blocks as they are on the volume: requests that cover a block in part are
 *   read back.
 * - A change is in one epoch, whole, and mirrors are woken or sent away behind it: no boundary of epochs is
 *   ever inside a change.
 */
import type { Clock } from '../../io/clock.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { Volume } from '../../volume/volume.ts';
import type { Mirror } from '../mirror/mirror.ts';
import { isOutrun } from '../policy/policy.ts';
import type { RegionGate } from '../changes/region-gate.ts';
import type { StagingQueue } from './staging-queue.ts';
import { wholeBlocks } from '../changes/whole-blocks.ts';

const READ_BACK_BYTES = 256 * 1024;
/** A failed change of more than this is not read back: that would hold up everything else. */
const READ_BACK_DOUBTFUL_MAX = 4 * 1024 * 1024;

/** What staging asks of a mirror. */
export interface StagedMirror extends Pick<
  Mirror,
  'wake' | 'shed' | 'outrun' | 'backlog' | 'inStream'
> {
  readonly blocks: Pick<Mirror['blocks'], 'mark'>;
}

interface StagerParts {
  readonly clock: Clock;
  readonly volume: Pick<Volume, 'sizeBytes' | 'readNow'>;
  readonly queue: StagingQueue;
  readonly gate: Pick<RegionGate, 'wrote'>;
  readonly mirrors: readonly StagedMirror[];
}

export class Stager {
  private readBackBuffer: Buffer | null = null;
  /** Coarse clock time, for the age of regions. */
  private now: number;
  private readonly clock: Clock;
  private readonly volume: StagerParts['volume'];
  private readonly queue: StagingQueue;
  private readonly gate: StagerParts['gate'];
  private readonly mirrors: readonly StagedMirror[];

  constructor(options: StagerParts) {
    this.clock = options.clock;
    this.volume = options.volume;
    this.queue = options.queue;
    this.gate = options.gate;
    this.mirrors = options.mirrors;
    this.now = options.clock.now();
  }

  tick(now: number): void {
    this.now = now;
  }

  /** Bytes were written. Returns the epoch that a synchronous reply waits for. */
  wrote(offset: number, buffer: Buffer, start: number, length: number): number {
    if (offset % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0) {
      return this.wroteBlocks(offset, buffer, start, length);
    }
    const blocks = wholeBlocks(offset, length);
    const end = offset + length;
    const first = Math.min(end, Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES);
    const last = Math.max(first, Math.floor(end / BLOCK_BYTES) * BLOCK_BYTES);
    const isFirst = this.queue.openIsEmpty;
    this.queue.beginPayloads(blocks.offset, blocks.length);
    let epoch = 0;
    if (offset < first) epoch = this.readBack(offset, first - offset);
    if (first < last)
      epoch = this.appendBlocks(first, buffer, start + (first - offset), last - first);
    if (last < end) epoch = this.readBack(last, end - last);
    this.queue.endChange();
    this.staged(isFirst);
    return this.epochToWaitFor(epoch);
  }

  /** Whole blocks: the common case. */
  private wroteBlocks(offset: number, buffer: Buffer, start: number, length: number): number {
    const isFirst = this.queue.openIsEmpty;
    const epoch = this.appendBlocks(offset, buffer, start, length);
    this.staged(isFirst);
    return this.epochToWaitFor(epoch);
  }

  private appendBlocks(offset: number, buffer: Buffer, start: number, length: number): number {
    let epoch = 0;
    if (this.queue.active) {
      epoch = this.queue.append(offset, buffer, start, length, this.clock.now());
    }
    this.mark(offset, length, epoch);
    return epoch;
  }

  /** A range now reads as zeroes. `trim`: because the host gave it up. */
  zeroed(offset: number, length: number, trim: boolean): number {
    if (offset % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0) {
      return this.zeroedBlocks(offset, length, trim);
    }
    const blocks = wholeBlocks(offset, length);
    const end = offset + length;
    const first = Math.min(end, Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES);
    const last = Math.max(first, Math.floor(end / BLOCK_BYTES) * BLOCK_BYTES);
    const isFirst = this.queue.openIsEmpty;
    this.queue.beginMixed(blocks.offset, blocks.length);
    let epoch = 0;
    if (offset < first) epoch = this.readBack(offset, first - offset);
    if (first < last) epoch = this.appendZeroes(first, last - first, trim);
    if (last < end) epoch = this.readBack(last, end - last);
    this.queue.endChange();
    this.staged(isFirst);
    return this.epochToWaitFor(epoch);
  }

  /** A change failed halfway: what the blocks hold now is what travels. */
  doubtful(offset: number, length: number): void {
    // A request may have been refused because the volume became smaller under it.
    const inside = Math.min(length, this.volume.sizeBytes - offset);
    if (inside > READ_BACK_DOUBTFUL_MAX) this.unstaged(offset, inside);
    else if (inside > 0) this.readBackWhole(offset, inside);
  }

  private readBackWhole(offset: number, length: number): void {
    const blocks = wholeBlocks(offset, length);
    const isFirst = this.queue.openIsEmpty;
    this.queue.beginPayloads(blocks.offset, blocks.length);
    this.readBack(offset, length);
    this.queue.endChange();
    this.staged(isFirst);
  }

  /** Too much to be read here and now: every mirror leaves the stream, and it is marked. */
  private unstaged(offset: number, length: number): void {
    for (const mirror of this.mirrors) mirror.outrun(`a change of ${length} bytes failed halfway`);
    this.mark(offset, length, 0);
  }

  private zeroedBlocks(offset: number, length: number, trim: boolean): number {
    const isFirst = this.queue.openIsEmpty;
    const epoch = this.appendZeroes(offset, length, trim);
    this.staged(isFirst);
    return this.epochToWaitFor(epoch);
  }

  private appendZeroes(offset: number, length: number, trim: boolean): number {
    let epoch = 0;
    if (this.queue.active) {
      epoch = this.queue.appendZeroes(offset, length, this.clock.now(), trim);
    }
    this.mark(offset, length, epoch);
    return epoch;
  }

  /** Stages whole blocks as they are on the volume now. */
  private readBack(offset: number, length: number): number {
    const blocks = wholeBlocks(offset, length);
    const end = blocks.offset + blocks.length;
    let epoch = 0;
    for (let at = blocks.offset; at < end && this.queue.active; at += READ_BACK_BYTES) {
      const bytes = Math.min(READ_BACK_BYTES, end - at);
      this.readBackBuffer ??= Buffer.alloc(READ_BACK_BYTES);
      const status = this.volume.readNow(this.readBackBuffer, 0, bytes, at);
      if (status !== 0) {
        this.unreadable(status);
        break;
      }
      epoch = this.queue.append(at, this.readBackBuffer, 0, bytes, this.clock.now());
    }
    this.mark(blocks.offset, blocks.length, epoch);
    return epoch;
  }

  /** Blocks that cannot be read cannot be staged: every mirror leaves the stream, and they are marked. */
  private unreadable(status: number): void {
    for (const mirror of this.mirrors) {
      mirror.outrun(`a block just written cannot be read back (errno ${status})`);
    }
  }

  private mark(offset: number, length: number, epoch: number): void {
    for (const mirror of this.mirrors) {
      if (!mirror.inStream) mirror.blocks.mark(offset, length);
    }
    this.gate.wrote(offset, length, this.now, epoch);
  }

  /** Behind every change; `isFirst`: it began an epoch. */
  private staged(isFirst: boolean): void {
    // Both are asked: a wake is taken once.
    const isWanted = this.queue.takeWake();
    if (isFirst || isWanted) {
      for (const mirror of this.mirrors) mirror.wake();
    }
    if (this.queue.crowded) this.relieve();
  }

  private relieve(): void {
    for (const mirror of this.mirrors) {
      mirror.shed();
      const { backlog } = mirror;
      if (backlog === null || !isOutrun(backlog)) continue;
      const behind = `${backlog.bytes} bytes and ${backlog.epochs} epochs`;
      mirror.outrun(`it lags ${behind} behind, more than the staging queue holds`);
    }
  }

  /** Nothing staged: what waits, waits for the mirrors to come back into the stream. */
  private epochToWaitFor(epoch: number): number {
    return epoch === 0 ? this.queue.openNumber : epoch;
  }
}
