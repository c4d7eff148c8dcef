/**
 * A write into blocks that the top layer does not hold: what the write leaves of its first and last block is copied up.
 *
 * Invariants:
 * - A block enters the top layer whole: in one write, with the bytes of the request and, around them, what it held below.
 * - The map says data of a block after that, and of no block that was not written.
 * - Nobody else changes the blocks meanwhile: the queue of changes keeps what overlaps them waiting.
 */
import { Status } from '../../io/device.ts';
import type { DiskCallback } from '../../io/disk.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { Layer } from './layer.ts';
import type { View } from './view.ts';

/** Whether the first or the last block of a write must be copied up, also where it reads as zeroes. */
export function needsCopyUp(view: View, offset: number, end: number): boolean {
  if (!view.layered || end === offset) return false;
  if (offset % BLOCK_BYTES !== 0 && !view.isTopAt(offset)) return true;
  return end % BLOCK_BYTES !== 0 && !view.isTopAt(end - 1);
}

export interface CopyUpWrite {
  readonly buffer: Buffer;
  readonly start: number;
  readonly offset: number;
  readonly end: number;
}

/** Writes on the pool; `callback` gets 0 or a negative errno, later. */
export function copyUpAndWrite(view: View, write: CopyUpWrite, callback: DiskCallback): void {
  new CopyUp(view, write, callback).next();
}

class CopyUp {
  private readonly view: View;
  private readonly top: Layer;
  private readonly write: CopyUpWrite;
  private readonly callback: DiskCallback;
  private position: number;

  constructor(view: View, write: CopyUpWrite, callback: DiskCallback) {
    this.view = view;
    this.top = view.top;
    this.write = write;
    this.callback = callback;
    this.position = write.offset;
  }

  /** The next block that is copied up, or what lies between such blocks. */
  next(): void {
    const { view, position } = this;
    const { offset, end } = this.write;
    if (position >= end) {
      this.callback(Status.OK);
      return;
    }
    const block = Math.floor(position / BLOCK_BYTES) * BLOCK_BYTES;
    const part = Math.min(end, block + BLOCK_BYTES);
    const whole = position === block && part === block + BLOCK_BYTES;
    if (!whole && !view.isTopAt(position)) {
      this.copyBlock(block, part);
      return;
    }
    // The last block is looked at on its own, unless it is this one.
    const tail = Math.floor(end / BLOCK_BYTES) * BLOCK_BYTES;
    const stop = tail > offset && tail > position ? tail : end;
    this.writeThrough(null, position, Math.max(stop, part));
  }

  private at(position: number): number {
    return this.write.start + (position - this.write.offset);
  }

  private copyBlock(block: number, partEnd: number): void {
    const { view, position, write } = this;
    const bytes = Buffer.alloc(BLOCK_BYTES);
    const fill = (): void => {
      write.buffer.copy(bytes, position - block, this.at(position), this.at(partEnd));
      this.writeThrough(bytes, block, block + BLOCK_BYTES);
    };
    const below = view.layerAt(block);
    if (below === null) return fill();
    below.pin();
    below.file.read(bytes, 0, BLOCK_BYTES, block, (result) => {
      below.unpin();
      if (result < BLOCK_BYTES) this.callback(result < 0 ? result : -Status.EIO);
      else fill();
    });
  }

  /** Writes blocks that were put together, or a part of the request where it lies. */
  private writeThrough(bytes: Buffer | null, from: number, to: number): void {
    const { top, write } = this;
    const written = (result: number): void => {
      if (result < 0) {
        // Blocks that the map does not call data keep what they held below.
        top.touched = true;
        this.callback(result);
        return;
      }
      top.markData(from, to);
      this.position = Math.min(to, write.end);
      this.next();
    };
    if (bytes === null) top.file.write(write.buffer, this.at(from), to - from, from, written);
    else top.file.write(bytes, 0, to - from, from, written);
  }
}
