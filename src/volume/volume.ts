/**
 * One open volume: a base layer in a sparse file whose block n is block n of the volume, its map, and the
 * metadata log that makes the map durable.
 *
 * Invariants:
 * - A block that the map does not call data is a hole, or zeroes, in the base layer's file. So the map may lag
 *   behind the file after a crash and be completed from the file's extents (recovery.ts says why that is sound).
 * - The map changes after the file did. It is recorded at the next flush, after the data was synced.
 * - Writes that overlap end in the order in which they arrived (I2), whichever of them ran on the pool.
 * - Before the first write after a clean open, the clean mark is durably invalidated.
 * - After a failed sync nothing is written or flushed any more (I10); reads go on.
 * - A request is answered once, and never before the method that took it returned. Nothing is allocated for a
 *   request that is answered at once.
 */
import assert from 'node:assert';
import type { Clock } from '../io/clock.ts';
import { PENDING, Status } from '../io/device.ts';
import type { DeviceRequest, StatusContext } from '../io/device.ts';
import { WOULD_BLOCK } from '../io/disk.ts';
import type { Disk, DiskFile } from '../io/disk.ts';
import { BlockferryError, errnoOf } from '../io/errors.ts';
import { BLOCK_BYTES } from '../io/limits.ts';
import type { Random } from '../io/random.ts';
import { AllocationContext } from './allocation-context.ts';
import { BlockSet } from './block-set.ts';
import { Flusher } from './flusher.ts';
import type { FlushOwner } from './flusher.ts';
import { BlockState } from './layer-map.ts';
import type { LayerMap } from './layer-map.ts';
import { Metadata, writeError } from './metadata.ts';
import { recordsOfMap } from './metadata-state.ts';
import { validateSize } from './names.ts';
import { OperationQueue } from './operation-queue.ts';
import type { Operation } from './operation-queue.ts';
import { PoolRead } from './pool-read.ts';
import type { ReadSource } from './pool-read.ts';
import { openLayerFile, recoverMap } from './recovery.ts';
import type { MetadataRecord } from './records.ts';
import { WritePace } from './write-pace.ts';
import { ZEROES, isTooSlow, isZero, nextPiece, probePiece } from './zeroing.ts';
import type { ZeroAbilities } from './zeroing.ts';

export interface VolumeOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  /** The directory of the volume. */
  readonly directory: string;
  /** Length from which the metadata log is compacted. */
  readonly compactBytes?: number;
}

/** Reasons for a write to look twice, as bits. None of them: it goes straight into the file. */
const Care = Object.freeze({
  /** The clean mark stands; it must go first. */
  UNARMED: 1,
  /** Changes are on the pool or waiting: this one may overlap them. */
  QUEUED: 2,
  /** Recent writes were slow. */
  SLOW: 4,
  /** The volume failed, or is closing. */
  REFUSED: 8,
} as const);

/** Reads kept for reuse. More are left to the garbage collector. */
const SPARE_READS_MAX = 256;

export class Volume implements ReadSource, FlushOwner {
  readonly metadata: Metadata;
  readonly file: DiskFile;
  readonly path: string;
  /** `base:allocation`, by the layer map. */
  readonly allocation: StatusContext = new AllocationContext(this);
  onFailed: ((reason: string) => void) | null = null;

  private readonly clock: Clock;
  private readonly map: LayerMap;
  /** Blocks whose state in `map` changed since their last allocation record. */
  private readonly unrecorded: BlockSet;
  private readonly layer: number;
  private readonly flusher: Flusher;
  private readonly queue: OperationQueue;
  private readonly pace = new WritePace();
  private readonly canZero: ZeroAbilities = { punch: 'unknown', provision: 'unknown' };
  private size: number;
  private care = 0;
  private failureReason: string | null = null;
  private closing = false;
  private resizing = false;
  private arming = false;
  private readsInFlight = 0;
  private readonly spareReads: PoolRead[] = [];
  private idleWaiters: { ready: () => boolean; resolve: () => void }[] = [];

  private constructor(options: VolumeOptions, metadata: Metadata, file: DiskFile) {
    const { state } = metadata;
    const top = state.layers.get(state.topLayer);
    assert(top, 'a volume has a top layer');
    this.clock = options.clock;
    this.metadata = metadata;
    this.file = file;
    this.path = file.path;
    this.layer = top.id;
    this.size = state.sizeBytes;
    this.map = top.map.clone();
    this.unrecorded = new BlockSet(this.map.blockCount);
    this.flusher = new Flusher(file, this);
    this.queue = new OperationQueue(
      (operation) => this.startOperation(operation),
      (operation, result) => this.operationDone(operation, result),
    );
    if (state.clean) this.care = Care.UNARMED;
    metadata.onFailed = (reason) => this.fail(reason);
  }

  /** Opens the volume in a directory. Throws METADATA_CORRUPT, DATA_DIR_FORMAT_NEWER, or what the disk throws. */
  static open(options: VolumeOptions): Volume {
    const metadata = Metadata.open(options);
    try {
      const file = openLayerFile(options.disk, options.directory, metadata.state);
      const volume = new Volume(options, metadata, file);
      if (metadata.unclean) volume.recover(options.disk);
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
    return this.size;
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
    return this.map.data.count * BLOCK_BYTES;
  }

  // ---- reading

  /** Reads `request.length` bytes; 0, PENDING or an errno. */
  read(request: DeviceRequest): number {
    const { offset, length } = request;
    const end = offset + length;
    if (end > this.size) return Status.EINVAL;
    if (this.closing) return Status.ESHUTDOWN;
    let position = offset;
    let start = request.start;
    while (position < end) {
      const runLength = this.runEndAt(position, end) - position;
      if (this.isDataAt(position)) {
        const result = this.file.readNow(request.buffer, start, runLength, position);
        if (result <= 0) return this.readOnPool(request, position, end, result);
        position += result;
        start += result;
      } else {
        request.buffer.fill(0, start, start + runLength);
        position += runLength;
        start += runLength;
      }
    }
    return Status.OK;
  }

  /** Reads on the calling thread, blocking if it must; 0 or an errno. Sees every change applied so far. */
  readNow(buffer: Buffer, start: number, length: number, offset: number): number {
    const end = offset + length;
    assert(end <= this.size, 'the range is inside the volume');
    let position = offset;
    while (position < end) {
      const at = start + (position - offset);
      const runLength = this.runEndAt(position, end) - position;
      if (this.isDataAt(position)) {
        const result = this.file.readBlocking(buffer, at, runLength, position);
        if (result <= 0) return result === 0 ? Status.EIO : -result;
        position += result;
      } else {
        buffer.fill(0, at, at + runLength);
        position += runLength;
      }
    }
    return Status.OK;
  }

  /** Reads on the pool; `callback` gets 0 or an errno, never before this returned. */
  readAt(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: (status: number) => void,
  ): void {
    const end = offset + length;
    assert(end <= this.size, 'the range is inside the volume');
    assert(!this.closing, 'the volume is open');
    if (isZero(this, offset, end)) {
      buffer.fill(0, start, start + length);
      this.clock.soon(() => callback(Status.OK));
      return;
    }
    const read = this.takeRead();
    read.callback = callback;
    read.begin(buffer, start, offset, end);
  }

  /** The longest run from `offset` (whole blocks) that is all data, or all zero, by the map; at most to `end`. */
  runAt(offset: number, end: number): { end: number; zero: boolean } {
    assert(offset % BLOCK_BYTES === 0, 'the offset is a block');
    return { end: this.runEndAt(offset, end), zero: !this.isDataAt(offset) };
  }

  runEndAt(offset: number, end: number): number {
    const first = Math.floor(offset / BLOCK_BYTES);
    const limit = Math.ceil(end / BLOCK_BYTES);
    return Math.min(end, this.map.data.runEnd(first, limit) * BLOCK_BYTES);
  }

  isDataAt(offset: number): boolean {
    return this.map.data.has(Math.floor(offset / BLOCK_BYTES));
  }

  private readOnPool(
    request: DeviceRequest,
    position: number,
    end: number,
    result: number,
  ): number {
    if (result < 0 && result !== WOULD_BLOCK) return -result;
    request.retain();
    const read = this.takeRead();
    read.request = request;
    read.begin(request.buffer, request.start + (position - request.offset), position, end);
    return PENDING;
  }

  private takeRead(): PoolRead {
    this.readsInFlight += 1;
    return (
      this.spareReads.pop() ?? new PoolRead(this, (read, status) => this.readDone(read, status))
    );
  }

  private readDone(read: PoolRead, status: number): void {
    const { request, callback } = read;
    read.request = null;
    read.callback = null;
    if (this.spareReads.length < SPARE_READS_MAX) this.spareReads.push(read);
    this.readsInFlight -= 1;
    if (request !== null) request.complete(status);
    else callback?.(status);
    this.noticeIdle();
  }

  // ---- writing

  /** Writes the payload; `fua` is the caller's business. 0, PENDING or an errno. */
  write(request: DeviceRequest): number {
    if (request.offset + request.length > this.size) return Status.ENOSPC;
    if (this.care !== 0 && !this.mayWriteNow(request)) return this.changeLater(request, false);
    const before = this.clock.now();
    const { buffer, start, length, offset } = request;
    const result = this.file.writeNow(buffer, start, length, offset);
    this.notePace(length, before);
    this.markData(offset, offset + length);
    return result < 0 ? -result : Status.OK;
  }

  /**
   * Makes the range read as zeroes; frees whole blocks unless `noHole`. 0, PENDING or an errno; ENOTSUP, with
   * nothing changed, for a `fastZero` that the disk cannot do without writing the zeroes.
   */
  zero(request: DeviceRequest): number {
    const { offset, length } = request;
    const end = offset + length;
    if (end > this.size) return Status.ENOSPC;
    if (request.fastZero && isTooSlow(request, this, this.canZero)) return Status.ENOTSUP;
    if (this.care !== 0 && !this.mayWriteNow(request)) return this.changeLater(request, true);
    if (length === 0) return Status.OK;
    if (!request.noHole && isZero(this, offset, end)) return Status.OK;
    if (length >= BLOCK_BYTES) return this.changeLater(request, true);
    const before = this.clock.now();
    const result = this.file.writeNow(ZEROES, 0, length, offset);
    this.notePace(length, before);
    this.markData(offset, end);
    return result < 0 ? -result : Status.OK;
  }

  /** Makes durable what was answered before this call. 0, PENDING or an errno. */
  flush(request: DeviceRequest): number {
    if (this.closing) return Status.ESHUTDOWN;
    return this.flusher.flush(request);
  }

  /** A hint that the range will be read soon. */
  cache(request: DeviceRequest): number {
    if (this.closing) return Status.ESHUTDOWN;
    return request.offset + request.length > this.size ? Status.EINVAL : Status.OK;
  }

  private mayWriteNow(request: DeviceRequest): boolean {
    const { care } = this;
    if ((care & (Care.REFUSED | Care.UNARMED)) !== 0) return false;
    if ((care & Care.QUEUED) !== 0) {
      if (this.queue.overlaps(request.offset, request.offset + request.length)) return false;
    }
    if ((care & Care.SLOW) === 0) return true;
    if (this.pace.retry(this.clock.now())) return false;
    this.care &= ~Care.SLOW;
    return true;
  }

  private changeLater(request: DeviceRequest, zeroes: boolean): number {
    if (this.closing) return Status.ESHUTDOWN;
    if (this.failed) return Status.EIO;
    if (request.length === 0) return Status.OK;
    if ((this.care & Care.UNARMED) !== 0) this.arm();
    if (!zeroes) request.retain();
    this.care |= Care.QUEUED;
    this.queue.enter(request, zeroes);
    return PENDING;
  }

  /** Invalidates the clean mark, durably; until then changes wait. */
  private arm(): void {
    if (this.arming) return;
    this.arming = true;
    this.queue.hold();
    if (this.metadata.state.clean) this.metadata.append({ kind: 'opened' });
    this.metadata.commit((status) => {
      this.arming = false;
      if (status === Status.OK) this.care &= ~Care.UNARMED;
      else this.refuseWaiting(status);
      this.queue.release();
      this.noticeIdle();
    });
  }

  private refuseWaiting(status: number): void {
    const requests = this.queue.takeWaiting();
    if (this.queue.length === 0) this.care &= ~Care.QUEUED;
    for (const request of requests) request.complete(status);
  }

  private notePace(length: number, before: number): void {
    this.pace.wrote(length, before, this.clock.now());
    if (this.pace.pooled) this.care |= Care.SLOW;
  }

  /** The bytes from `offset` to `end` may have changed in the file. */
  private markData(offset: number, end: number): void {
    const first = Math.floor(offset / BLOCK_BYTES);
    this.mark(first, Math.ceil(end / BLOCK_BYTES) - first, BlockState.DATA);
  }

  private mark(first: number, count: number, state: BlockState): void {
    this.flusher.touched = true;
    if (count > 0 && this.map.set(first, count, state)) this.unrecorded.add(first, count);
  }

  // ---- changes on the pool

  private startOperation(operation: Operation): void {
    if (operation.end > this.size) {
      // The volume shrank while this waited.
      this.clock.soon(() => this.finishOperation(operation, Status.ENOSPC));
      return;
    }
    const { request } = operation;
    assert(request, 'an operation has its request');
    if (operation.zeroes) {
      const tooSlow = request.fastZero && isTooSlow(request, this, this.canZero);
      if (tooSlow || !this.startPiece(operation)) {
        const status = tooSlow ? Status.ENOTSUP : Status.OK;
        this.clock.soon(() => this.finishOperation(operation, status));
      }
      return;
    }
    const { buffer, start, length, offset } = request;
    this.file.write(buffer, start, length, offset, operation.done);
  }

  private startPiece(operation: Operation): boolean {
    if (!probePiece(operation, this.canZero) && !nextPiece(operation, this, this.canZero))
      return false;
    const { pieceStart, pieceEnd, done } = operation;
    const length = pieceEnd - pieceStart;
    if (operation.piece === 'punch') this.file.punchHole(pieceStart, length, done);
    else if (operation.piece === 'provision') this.file.provisionZeroes(pieceStart, length, done);
    else this.file.write(ZEROES, 0, length, pieceStart, done);
    return true;
  }

  private operationDone(operation: Operation, result: number): void {
    if (!operation.zeroes) {
      this.markData(operation.offset, operation.end);
      this.finishOperation(operation, result < 0 ? -result : Status.OK);
      return;
    }
    const { piece, request } = operation;
    if (piece !== 'write' && result === -Status.ENOTSUP) {
      // While this was unknown, it was the first thing that was tried for the request: nothing is changed.
      const untouched = this.canZero[piece] === 'unknown';
      this.canZero[piece] = 'no';
      if (request?.fastZero === true && untouched) {
        this.finishOperation(operation, Status.ENOTSUP);
        return;
      }
    } else {
      if (piece !== 'write' && result >= 0) this.canZero[piece] = 'yes';
      this.pieceDone(operation, result);
      if (result < 0) {
        this.finishOperation(operation, -result);
        return;
      }
      // A piece that was a probe may lie ahead, behind an edge that is still to be written.
      if (operation.pieceStart === operation.position) operation.position = operation.pieceEnd;
    }
    if (!this.startPiece(operation)) this.finishOperation(operation, Status.OK);
  }

  private pieceDone(operation: Operation, result: number): void {
    const { pieceStart, pieceEnd, piece } = operation;
    if (piece !== 'punch') {
      this.markData(pieceStart, pieceEnd);
      return;
    }
    this.flusher.touched = true;
    // A hole that failed half-way: the map goes on saying data, which is true of any content.
    if (result < 0) return;
    const first = pieceStart / BLOCK_BYTES;
    // The base layer has nothing below it: absent reads as zeroes.
    this.mark(first, pieceEnd / BLOCK_BYTES - first, BlockState.ABSENT);
  }

  private finishOperation(operation: Operation, status: number): void {
    const { request } = operation;
    assert(request, 'an operation has its request');
    this.queue.leave(operation);
    if (this.queue.length === 0) this.care &= ~Care.QUEUED;
    request.complete(status);
    this.noticeIdle();
  }

  // ---- flushing, failing

  takeChanges(): MetadataRecord[] {
    if (this.unrecorded.count === 0) return [];
    const records = [...recordsOfMap(this.layer, this.map, this.unrecorded)];
    this.unrecorded.clear();
    return records;
  }

  syncFailed(errno: number): void {
    this.fail(`the data file could not be synced (errno ${errno})`);
  }

  private fail(reason: string): void {
    if (this.failed) return;
    this.failureReason = reason;
    this.care |= Care.REFUSED;
    const { onFailed } = this;
    this.onFailed = null;
    onFailed?.(reason);
    this.refuseWaiting(Status.EIO);
  }

  private recover(disk: Disk): void {
    // What the process before this one wrote may still be in the page cache alone.
    this.flusher.touched = true;
    recoverMap(disk, this.file, this.map, (first, count) => {
      this.unrecorded.add(first, count);
      this.flusher.touched = true;
    });
  }

  // ---- changing the size

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
      if (sizeBytes > this.size) await this.grow(sizeBytes);
      else if (sizeBytes < this.size) await this.shrink(sizeBytes);
    } finally {
      this.resizing = false;
      this.noticeIdle();
    }
  }

  /** The file first: a size that is recorded always has its bytes. */
  private async grow(sizeBytes: number): Promise<void> {
    const before = this.size;
    this.setFileSize(before);
    this.setFileSize(sizeBytes);
    const synced = await new Promise<number>((resolve) => this.file.datasync(resolve));
    if (synced < 0) this.syncFailed(-synced);
    this.refuseIfFailed();
    this.metadata.append({ kind: 'resized', sizeBytes });
    // What the mirrors hold past the old end is unknown: marked in the same commit as the new size.
    this.markForMirrors(before / BLOCK_BYTES, (sizeBytes - before) / BLOCK_BYTES);
    const status = await this.commit();
    if (status !== Status.OK) {
      this.refuseIfFailed();
      this.metadata.append({ kind: 'resized', sizeBytes: before });
      throw writeError(this.path, status);
    }
    this.setSize(sizeBytes);
  }

  /** The record first: what is cut off is not needed by any state that recovery can find. */
  private async shrink(sizeBytes: number): Promise<void> {
    this.queue.hold();
    try {
      await this.until(() => this.queue.runningCount === 0);
      await this.flushed();
      this.refuseIfFailed();
      const before = this.size;
      this.size = sizeBytes;
      this.metadata.append({ kind: 'resized', sizeBytes });
      const status = await this.commit();
      if (status !== Status.OK) this.undoShrink(before, status);
      this.setSize(sizeBytes);
      this.cutFile(sizeBytes);
    } finally {
      this.queue.release();
    }
  }

  /** The record could not be made durable: the volume keeps its size, and the log learns again what it dropped. */
  private undoShrink(before: number, status: number): never {
    this.size = before;
    this.refuseIfFailed();
    const { metadata } = this;
    const first = metadata.state.sizeBytes / BLOCK_BYTES;
    const count = this.map.blockCount - first;
    metadata.append({ kind: 'resized', sizeBytes: before });
    this.unrecorded.add(first, count);
    this.flusher.touched = true;
    // The mirrors' bits past the cut went with the fold: too many bits are safe, too few are not.
    this.markForMirrors(first, count);
    throw writeError(this.path, status);
  }

  private markForMirrors(first: number, count: number): void {
    const { metadata } = this;
    for (const mirror of metadata.state.mirrors.keys()) {
      metadata.append({ kind: 'mirror-bits-run', mirror, set: 'dirty', first, count, value: true });
    }
  }

  private setSize(sizeBytes: number): void {
    this.size = sizeBytes;
    this.map.resize(sizeBytes / BLOCK_BYTES);
    this.unrecorded.resize(sizeBytes / BLOCK_BYTES);
  }

  private setFileSize(sizeBytes: number): void {
    try {
      this.file.truncateNow(sizeBytes);
    } catch (thrown) {
      throw writeError(this.path, errnoOf(thrown));
    }
  }

  /** The new size is durable already: a file that is still too long is cut before it grows, or at the next open. */
  private cutFile(sizeBytes: number): void {
    try {
      this.file.truncateNow(sizeBytes);
    } catch {
      // Only its space is not given back yet.
    }
  }

  private refuseIfFailed(): void {
    if (this.failureReason === null) return;
    throw new BlockferryError(
      'VOLUME_FAILED',
      `the volume ${this.name} failed: ${this.failureReason}`,
    );
  }

  // ---- closing

  /** Waits for what is in flight, makes everything durable, writes the clean mark and closes the files. */
  async close(): Promise<void> {
    if (this.closing) return;
    this.closing = true;
    this.care |= Care.REFUSED;
    await this.until(() => !this.resizing && this.queue.length === 0 && this.readsInFlight === 0);
    const status = await this.flushed();
    if (status === Status.OK && !this.metadata.state.clean) {
      this.metadata.append({ kind: 'closed-clean' });
    }
    await this.commit();
    await this.until(() => !this.flusher.active);
    while (this.metadata.committing) await this.commit();
    this.metadata.close();
    this.file.closeNow();
  }

  /** Closes the files of a volume that was opened and never used. */
  abandon(): void {
    assert(this.queue.length === 0, 'nothing is in flight');
    this.closing = true;
    this.care |= Care.REFUSED;
    this.metadata.close();
    this.file.closeNow();
  }

  private flushed(): Promise<number> {
    return new Promise((resolve) => {
      const status = this.flusher.flush({ complete: resolve });
      if (status !== PENDING) resolve(status);
    });
  }

  private commit(): Promise<number> {
    return new Promise((resolve) => this.metadata.commit(resolve));
  }

  private until(ready: () => boolean): Promise<void> {
    if (ready()) return Promise.resolve();
    return new Promise((resolve) => this.idleWaiters.push({ ready, resolve }));
  }

  noticeIdle(): void {
    if (this.idleWaiters.length === 0) return;
    const waiters = this.idleWaiters;
    this.idleWaiters = waiters.filter((waiter) => !waiter.ready());
    for (const waiter of waiters) {
      if (!this.idleWaiters.includes(waiter)) waiter.resolve();
    }
  }
}
