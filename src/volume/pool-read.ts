/**
 * A read that needs the disk: it walks the runs of its range and waits for the pool where data is not in
 * memory. Many run side by side, so that a cold volume keeps as many reads in flight as were asked.
 */
import type { DeviceRequest } from '../io/device.ts';
import { Status } from '../io/device.ts';
import { WOULD_BLOCK } from '../io/disk.ts';
import type { DiskCallback } from '../io/disk.ts';
import type { Layer, ReadSource } from './layers/layer.ts';

/** Pooled: `begin` takes a range, `finished` is called once with a status. */
export class PoolRead {
  request: DeviceRequest | null = null;
  callback: ((status: number) => void) | null = null;
  /** The range was changed since it began, and the disk may have shown a part of that. */
  changed = false;
  private buffer: Buffer = NOTHING;
  private start = 0;
  private offset = 0;
  private end = 0;
  /** Whose file the pool is reading. */
  private layer: Layer | null = null;
  private readonly source: ReadSource;
  private readonly isOver: () => boolean;
  private readonly finished: (read: PoolRead, status: number) => void;
  private readonly received: DiskCallback;

  /** `isOver`: the source is none any more, and what was read may be something else's. */
  constructor(
    source: ReadSource,
    isOver: () => boolean,
    finished: (read: PoolRead, status: number) => void,
  ) {
    this.source = source;
    this.isOver = isOver;
    this.finished = finished;
    this.received = (result) => this.advance(result);
  }

  /** Reads `buffer[start ..]` up to byte `end` of the volume. The first data run goes to the pool. */
  begin(buffer: Buffer, start: number, offset: number, end: number): void {
    this.buffer = buffer;
    this.start = start;
    this.offset = offset;
    this.end = end;
    this.step(false);
  }

  private advance(result: number): void {
    const { layer } = this;
    this.layer = null;
    layer?.unpin();
    if (this.isOver()) {
      this.finish(Status.ESHUTDOWN);
      return;
    }
    if (this.end > this.source.sizeBytes) {
      // The volume shrank meanwhile: its map ends before the range does.
      this.finish(Status.EINVAL);
      return;
    }
    if (result <= 0) {
      // Nothing before the end of the volume: the data file was cut by someone else.
      this.finish(result === 0 ? Status.EIO : -result);
      return;
    }
    this.take(result);
    this.step(true);
  }

  private step(tryNow: boolean): void {
    const { source } = this;
    while (this.offset < this.end) {
      const length = source.runEndAt(this.offset, this.end) - this.offset;
      const layer = source.layerAt(this.offset);
      if (layer === null) {
        this.buffer.fill(0, this.start, this.start + length);
        this.take(length);
        continue;
      }
      const result = tryNow
        ? layer.file.readNow(this.buffer, this.start, length, this.offset)
        : WOULD_BLOCK;
      if (result < 0 && result !== WOULD_BLOCK) {
        this.finish(-result);
        return;
      }
      const count = Math.max(0, result);
      this.take(count);
      if (count === length) continue;
      layer.pin();
      this.layer = layer;
      layer.file.read(this.buffer, this.start, length - count, this.offset, this.received);
      return;
    }
    this.finish(Status.OK);
  }

  private take(length: number): void {
    this.start += length;
    this.offset += length;
  }

  private finish(status: number): void {
    this.buffer = NOTHING;
    this.finished(this, status);
  }
}

const NOTHING = Buffer.alloc(0);
