/**
 * NBD_CMD_CACHE: data that a client will read soon is read into memory, in the background.
 *
 * Invariants:
 * - A hint is answered before it is followed, and costs no more than its place in the queue.
 * - One piece of READ_AHEAD_PIECE_BYTES is on its way at a time, so that nothing else waits for the pool.
 * - A hint reads at most READ_AHEAD_BYTES_MAX of data; READ_AHEAD_HINTS_MAX hints wait, later ones are dropped.
 */
import { Status } from '../io/device.ts';
import type { DiskCallback } from '../io/disk.ts';
import {
  READ_AHEAD_BYTES_MAX,
  READ_AHEAD_HINTS_MAX,
  READ_AHEAD_PIECE_BYTES,
} from '../io/limits.ts';
import type { Layer, ReadSource } from './layers/layer.ts';

interface Hint {
  offset: number;
  readonly end: number;
  bytesLeft: number;
}

export class ReadAhead {
  /** Pieces so far that were asked of the disk. */
  pieces = 0;
  private readonly hints: Hint[] = [];
  private running = false;
  private stopped = false;
  private readonly source: ReadSource;
  /** Whose file the pool is reading. */
  private layer: Layer | null = null;
  private readonly ended: () => void;
  private readonly done: DiskCallback;

  /** `ended` is called when a piece is done. */
  constructor(source: ReadSource, ended: () => void) {
    this.source = source;
    this.ended = ended;
    this.done = (result) => this.pieceDone(result);
  }

  /** A piece is on its way. */
  get active(): boolean {
    return this.running;
  }

  /** Takes a hint; it may be dropped. */
  add(offset: number, length: number): void {
    if (this.stopped || length === 0 || this.hints.length >= READ_AHEAD_HINTS_MAX) return;
    this.hints.push({ offset, end: offset + length, bytesLeft: READ_AHEAD_BYTES_MAX });
    if (!this.running) this.next();
  }

  /** Drops what waits. */
  stop(): void {
    this.stopped = true;
    this.hints.length = 0;
  }

  private next(): void {
    for (;;) {
      const hint = this.hints[0];
      if (hint === undefined) return;
      if (this.startPiece(hint)) return;
      this.hints.shift();
    }
  }

  /** False when nothing of the hint is left to be read. */
  private startPiece(hint: Hint): boolean {
    const { source } = this;
    const end = Math.min(hint.end, source.sizeBytes);
    let layer = hint.offset < end ? source.layerAt(hint.offset) : null;
    if (hint.offset < end && layer === null) {
      hint.offset = source.runEndAt(hint.offset, end);
      layer = hint.offset < end ? source.layerAt(hint.offset) : null;
    }
    const { offset } = hint;
    const most = Math.min(READ_AHEAD_PIECE_BYTES, hint.bytesLeft);
    if (layer === null || most <= 0) return false;
    const length = source.runEndAt(offset, Math.min(end, offset + most)) - offset;
    hint.offset += length;
    hint.bytesLeft -= length;
    this.running = true;
    this.pieces += 1;
    layer.pin();
    this.layer = layer;
    layer.file.readAhead(offset, length, this.done);
    return true;
  }

  private pieceDone(result: number): void {
    this.running = false;
    const { layer } = this;
    this.layer = null;
    layer?.unpin();
    // Here no file can do it. Other errors are for the read that will meet them.
    if (result === -Status.ENOTSUP) this.stop();
    this.next();
    this.ended();
  }
}
