/**
 * One open volume: a base layer in a sparse file whose block n is block n of the volume, its map, and the
 * metadata log that makes the map durable.
 *
 * Invariants:
 * - The map changes after the file did. It is recorded at the next flush, after the data was synced.
 * - After a failed sync nothing is written or flushed any more (I10); reads go on.
 * - The files are closed when nothing uses them any more, and the clean mark is the last thing written.
 */
import assert from 'node:assert';
import type { Clock } from '../io/clock.ts';
import { PENDING, Status } from '../io/device.ts';
import type { DeviceRequest, StatusContext } from '../io/device.ts';
import type { Disk, DiskFile } from '../io/disk.ts';
import { BlockferryError } from '../io/errors.ts';
import { BLOCK_BYTES } from '../io/limits.ts';
import type { Random } from '../io/random.ts';
import { AllocationContext } from './allocation-context.ts';
import { Changes } from './changes.ts';
import { Flusher } from './flusher.ts';
import type { FlushOwner } from './flusher.ts';
import { IdleWaiters } from './idle.ts';
import type { IoCounts } from './io-counts.ts';
import { Layer } from './layer.ts';
import { Metadata } from './metadata.ts';
import { validateSize } from './names.ts';
import { ReadAhead } from './read-ahead.ts';
import { Reader } from './reader.ts';
import { openLayerFile } from './recovery.ts';
import { growVolume, shrinkVolume } from './resize.ts';
import type { ResizeHost } from './resize.ts';

export interface VolumeOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  /** The directory of the volume. */
  readonly directory: string;
  /** Length from which the metadata log is compacted. */
  readonly compactBytes?: number;
}

export class Volume implements FlushOwner, ResizeHost {
  readonly metadata: Metadata;
  readonly layer: Layer;
  readonly changes: Changes;
  /** `base:allocation`, by the layer map. */
  readonly allocation: StatusContext;
  onFailed: ((reason: string) => void) | null = null;

  private readonly reader: Reader;
  private readonly flusher: Flusher;
  private readonly readAhead: ReadAhead;
  private readonly idle = new IdleWaiters();
  private failureReason: string | null = null;
  private closing = false;
  private resizing = false;

  private constructor(options: VolumeOptions, metadata: Metadata, file: DiskFile) {
    const { state } = metadata;
    const { clock } = options;
    const top = state.layers.get(state.topLayer);
    assert(top, 'a volume has a top layer');
    const ended = (): void => this.noticeIdle();
    this.metadata = metadata;
    this.layer = new Layer(top.id, file, top.map.clone());
    this.changes = new Changes({ layer: this.layer, metadata, clock, ended });
    this.reader = new Reader(this.layer, clock, ended);
    this.readAhead = new ReadAhead(this.layer, ended);
    this.flusher = new Flusher(this.layer, this);
    this.allocation = new AllocationContext(this.layer);
    metadata.onFailed = (reason) => this.fail(reason);
  }

  /** Opens the volume in a directory. Throws METADATA_CORRUPT, DATA_DIR_FORMAT_NEWER, or what the disk throws. */
  static open(options: VolumeOptions): Volume {
    const metadata = Metadata.open(options);
    try {
      const file = openLayerFile(options.disk, options.directory, metadata.state);
      const volume = new Volume(options, metadata, file);
      if (metadata.unclean) volume.layer.recover(options.disk);
      return volume;
    } catch (thrown) {
      metadata.close();
      throw thrown;
    }
  }

  get id(): string {
    return this.metadata.state.id;
  }

  get name(): string {
    return this.metadata.state.name;
  }

  get sizeBytes(): number {
    return this.layer.sizeBytes;
  }

  /** A sync failed: writes and flushes answer EIO from then on. */
  get failed(): boolean {
    return this.failureReason !== null;
  }

  get failure(): string | null {
    return this.failureReason;
  }

  /** Bytes of the blocks that hold data. */
  get allocatedBytes(): number {
    return this.layer.allocatedBytes;
  }

  /** How its input and output went so far. */
  get io(): IoCounts {
    const { reader, changes } = this;
    return {
      reads_at_once: reader.atOnce,
      reads_on_pool: reader.pooled,
      writes_at_once: changes.atOnce,
      writes_on_pool: changes.pooled,
      pool_depth: reader.inFlight + changes.running,
      slow_write_periods: changes.slowPeriods,
      read_ahead_pieces: this.readAhead.pieces,
      syncs: this.flusher.syncs,
    };
  }

  // ---- requests: 0, PENDING or an errno

  /** Reads `request.length` bytes. */
  read(request: DeviceRequest): number {
    return this.closing ? Status.ESHUTDOWN : this.reader.read(request);
  }

  /** Writes the payload; `fua` is the caller's business. */
  write(request: DeviceRequest): number {
    return this.changes.write(request);
  }

  /** Makes the range read as zeroes, as `noHole` and `fastZero` ask. */
  zero(request: DeviceRequest): number {
    return this.changes.zero(request);
  }

  /** Makes durable what was answered before this call. */
  flush(request: DeviceRequest): number {
    return this.closing ? Status.ESHUTDOWN : this.flusher.flush(request);
  }

  /** A hint that the range will be read soon. Answered at once. */
  cache(request: DeviceRequest): number {
    const { offset, length } = request;
    if (this.closing) return Status.ESHUTDOWN;
    if (offset + length > this.layer.sizeBytes) return Status.EINVAL;
    this.readAhead.add(offset, length);
    return Status.OK;
  }

  // ---- for the replicator

  /** Reads on the calling thread, blocking if it must; 0 or an errno. Sees every change applied so far. */
  readNow(buffer: Buffer, start: number, length: number, offset: number): number {
    return this.reader.readNow(buffer, start, length, offset);
  }

  /** Reads on the pool; `callback` gets 0 or an errno, never before this returned. */
  readAt(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: (status: number) => void,
  ): void {
    assert(!this.closing, 'the volume is open');
    this.reader.readAt(buffer, start, length, offset, callback);
  }

  /** The longest run from `offset` (whole blocks) that is all data, or all zero, by the map; at most to `end`. */
  runAt(offset: number, end: number): { end: number; zero: boolean } {
    assert(offset % BLOCK_BYTES === 0, 'the offset is a block');
    return { end: this.layer.runEndAt(offset, end), zero: !this.layer.isDataAt(offset) };
  }

  /**
   * Where the first byte at or after `offset` is that zeroing could change, or that a change under way may;
   * `end` when there is none before it. Past the end of the volume nothing is known.
   */
  dataFrom(offset: number, end: number): number {
    if (end > this.layer.sizeBytes || this.layer.isDataAt(offset)) return offset;
    const next = this.layer.runEndAt(offset, end);
    return this.changes.overlap(offset, next) ? offset : next;
  }

  // ---- failing

  syncFailed(errno: number): void {
    this.fail(`the data file could not be synced (errno ${errno})`);
  }

  refuseIfFailed(): void {
    if (this.failureReason === null) return;
    throw new BlockferryError(
      'VOLUME_FAILED',
      `the volume ${this.name} failed: ${this.failureReason}`,
    );
  }

  private fail(reason: string): void {
    if (this.failed) return;
    this.failureReason = reason;
    if (!this.closing) this.changes.refuse(Status.EIO);
    const { onFailed } = this;
    this.onFailed = null;
    onFailed?.(reason);
    this.changes.refuseWaiting(Status.EIO);
  }

  // ---- resizing and closing

  /**
   * Grows or shrinks the volume; after a crash it has the old or the new size. Shrinking drops what is past the
   * new end. Throws SIZE_INVALID, VOLUME_BUSY (another resize), VOLUME_FAILED or METADATA_WRITE_FAILED.
   */
  async resize(sizeBytes: number): Promise<void> {
    validateSize(sizeBytes);
    if (this.resizing) throw new BlockferryError('VOLUME_BUSY', `${this.name} is being resized`);
    this.refuseIfFailed();
    this.resizing = true;
    try {
      if (sizeBytes > this.sizeBytes) await growVolume(this, sizeBytes);
      else if (sizeBytes < this.sizeBytes) await shrinkVolume(this, sizeBytes);
    } finally {
      this.resizing = false;
      this.noticeIdle();
    }
  }

  /** Waits for what is in flight, makes everything durable, writes the clean mark and closes the files. */
  async close(): Promise<void> {
    if (this.closing) return;
    this.closing = true;
    this.changes.refuse(Status.ESHUTDOWN);
    this.readAhead.stop();
    await this.until(() => !this.resizing && !this.inUse);
    let status = await this.flushed();
    while (status === Status.OK && !this.layer.isRecorded) {
      // What a flush left over; the clean mark says that the maps are exact.
      this.layer.touched = true;
      status = await this.flushed();
    }
    if (status === Status.OK && !this.metadata.state.clean) {
      this.metadata.append({ kind: 'closed-clean' });
    }
    await this.commit();
    await this.until(() => !this.flusher.active);
    while (this.metadata.committing) await this.commit();
    this.metadata.close();
    this.layer.file.closeNow();
  }

  /** Closes the files of a volume that was opened and never used. */
  abandon(): void {
    assert(!this.inUse, 'nothing is in flight');
    this.closing = true;
    this.changes.refuse(Status.ESHUTDOWN);
    this.metadata.close();
    this.layer.file.closeNow();
  }

  /** The pool works for a request, or one waits for it. */
  private get inUse(): boolean {
    return this.changes.inFlight > 0 || this.reader.inFlight > 0 || this.readAhead.active;
  }

  flushed(): Promise<number> {
    return new Promise((resolve) => {
      const status = this.flusher.flush({ complete: resolve });
      if (status !== PENDING) resolve(status);
    });
  }

  commit(): Promise<number> {
    return new Promise((resolve) => this.metadata.commit(resolve));
  }

  until(ready: () => boolean): Promise<void> {
    return this.idle.until(ready);
  }

  noticeIdle(): void {
    this.idle.notice();
  }
}
