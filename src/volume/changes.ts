/**
 * Changes to a volume: writes and zeroes, at once while that cannot block, else on the pool.
 *
 * Invariants:
 * - Writes that overlap end in the order in which they arrived (I2), whichever of them ran on the pool. A read of what
 *   the pool changes waits as they do: it would see a part of it, and of a sector too.
 * - Before the first change after an open, the log says durably that there are some, and in which run of the system.
 * - Once refused, nothing new is changed; what is under way ends, zeroes at the end of their piece.
 * - Above other layers a change of part of a block is alone with that block; zeroes are recorded before the answer, for a
 *   kill leaves no trace of them in the file. What a change that failed left there is settled before the answer.
 * - A change of the pool is told before another one of its blocks begins: what is read back at that moment, for a mirror, has no
 *   part of that.
 * - A request is answered once, and never before the method that took it returned. Nothing is allocated for a
 *   request that is answered at once.
 */
import assert from 'node:assert';
import type { Clock } from '../io/clock.ts';
import { PENDING, Status } from '../io/device.ts';
import type { DeviceRequest } from '../io/device.ts';
import { BLOCK_BYTES } from '../io/limits.ts';
import { copyUpAndWrite, needsCopyUp } from './layers/copy-up.ts';
import type { CopyUpWrite } from './layers/copy-up.ts';
import { settleLeftovers } from './layers/leftovers.ts';
import type { Metadata } from './log/metadata.ts';
import { OperationQueue } from './operation-queue.ts';
import type { Operation } from './operation-queue.ts';
import type { View } from './layers/view.ts';
import { WritePace } from './write-pace.ts';
import { ZeroPace } from './zero-pace.ts';
import { NO_BOOT } from './volume-state.ts';
import type { AllocatedRecord } from './recorded-zeroes.ts';
import { ZeroRecords } from './zero-records.ts';
import { ZEROES, isTooSlow, isZero, nextPiece, probePiece } from './zeroing.ts';
import type { ZeroAbilities } from './zeroing.ts';

/** Reasons for a change to look twice, as bits. None of them: it goes straight into the file. */
const Care = Object.freeze({
  /** The log says that nothing is written, or that it was in another run of the system: it must be told first. */
  UNARMED: 1,
  /** Changes are on the pool or waiting: this one may overlap them. */
  QUEUED: 2,
  /** Recent writes were slow. */
  SLOW: 4,
  /** The volume failed, or is closing. */
  REFUSED: 8,
  /** The disk works on a hole, and has locked the file for it: a write would wait on this thread. */
  LOCKED: 16,
  /** There are layers below: edges may have to be copied up. */
  LAYERED: 32,
  /** The top lies in a container that takes nothing on this thread. */
  REMOTE: 64,
  /** Another top is about to be shown, and this one takes nothing any more. */
  SWITCHING: 128,
} as const);

/** With any of these nothing is changed on this thread. */
const NOT_NOW = Care.REFUSED | Care.UNARMED | Care.LOCKED | Care.REMOTE | Care.SWITCHING;

/** Reads on the pool; `callback` gets 0 or an errno, never before this returned. */
type ReadAt = (
  buffer: Buffer,
  start: number,
  length: number,
  offset: number,
  callback: (status: number) => void,
) => void;

export class Changes {
  /** Changes so far that were answered at once, and that went to the pool. */
  atOnce = 0;
  pooled = 0;
  /** The top's file holds what its map does not show, for good. */
  tainted = false;
  readonly records: ZeroRecords;
  private readonly view: View;
  private readonly metadata: Metadata;
  private readonly clock: Clock;
  /** As `Disk.bootId`. */
  private readonly bootId: string;
  private readonly tellsBlocks: () => boolean;
  private readonly readAt: ReadAt;
  private readonly ended: () => void;
  private readonly queue: OperationQueue;
  private readonly pace = new WritePace();
  private readonly canZero: ZeroAbilities = { punch: 'unknown', provision: 'unknown' };
  private care = 0;
  private readonly zeroPace = new ZeroPace();
  /** Pieces of zeroes, other than written ones, that the disk works on. */
  private locking = 0;
  private refusal: number = Status.OK;
  private arming = false;

  /**
   * `recorded` is told of what was appended for zeroes; `readAt` reads on the pool; `ended` is told when a request of the pool was
   * answered; `tellsBlocks` as the function of that name (extents-probe.ts).
   */
  constructor(options: {
    view: View;
    metadata: Metadata;
    clock: Clock;
    bootId: string;
    tellsBlocks: () => boolean;
    recorded: (record: AllocatedRecord) => void;
    readAt: ReadAt;
    ended: () => void;
  }) {
    this.view = options.view;
    this.metadata = options.metadata;
    this.clock = options.clock;
    this.bootId = options.bootId;
    this.tellsBlocks = options.tellsBlocks;
    this.records = new ZeroRecords(options);
    this.readAt = options.readAt;
    this.ended = options.ended;
    this.queue = new OperationQueue(
      (operation) => this.start(operation),
      (operation, result) => this.diskDone(operation, result),
    );
    const { clean, boot } = this.metadata.state;
    if (clean || (this.bootId !== '' && boot !== this.bootId)) this.care = Care.UNARMED;
    this.layersChanged();
  }

  /** Changes on the pool or waiting for it, and reads that wait or waited for such. */
  get inFlight(): number {
    return this.queue.length;
  }

  /** Changes on the pool or waiting for it. */
  get changing(): number {
    return this.queue.changeCount;
  }

  /** Changes that the disk is working on. */
  get running(): number {
    return this.queue.runningCount;
  }

  /** The volume's content shows through other layers than before. Nothing is on the pool. */
  layersChanged(): void {
    if (this.view.layered) this.care |= Care.LAYERED;
    else this.care &= ~Care.LAYERED;
    if (this.view.top.container?.canNow === false) this.care |= Care.REMOTE;
    else this.care &= ~Care.REMOTE;
  }

  /** Until `switched` no change is done at once either; the caller holds those that wait. */
  switching(): void {
    this.care |= Care.SWITCHING;
  }

  /** The new top is shown. */
  switched(): void {
    this.care &= ~Care.SWITCHING;
    this.layersChanged();
  }

  /** The log may not know the top yet, whose record found no space: before the next change it has to, also before one that waits. */
  rearm(): void {
    this.care |= Care.UNARMED;
    if (this.queue.length > 0) this.arm();
  }

  /** Whether a change to the range is on the pool or waiting. */
  overlap(offset: number, end: number): boolean {
    return (this.care & Care.QUEUED) !== 0 && this.queue.changes(offset, end);
  }

  /** Reads what changes to the range that came before leave there; those that come later wait for it. PENDING. */
  readBehind(request: DeviceRequest): number {
    request.retain();
    this.care |= Care.QUEUED;
    this.queue.enter(request, 'read');
    return PENDING;
  }

  /** Times that writes became so slow that they went to the pool for a while. */
  get slowPeriods(): number {
    return this.pace.periods;
  }

  /** The log is about to say that something is written: changes wait for that. */
  get isArming(): boolean {
    return this.arming;
  }

  /** Nothing waiting starts until `release`; holds add up. */
  hold(): void {
    this.queue.hold();
  }

  release(): void {
    this.queue.release();
  }

  /** From now on every new change is answered `status`. What waits may still run. */
  refuse(status: number): void {
    this.refusal = status;
    this.care |= Care.REFUSED;
  }

  /** Answers all that has not started. */
  refuseWaiting(status: number): void {
    const requests = this.queue.takeWaiting();
    if (this.queue.length === 0) this.care &= ~Care.QUEUED;
    for (const request of requests) request.complete(status);
  }

  /** Writes the payload; `fua` is the caller's business. 0, PENDING or an errno. */
  write(request: DeviceRequest): number {
    const layer = this.view.top;
    if (request.offset + request.length > layer.sizeBytes) return Status.ENOSPC;
    if (this.care !== 0 && !this.mayChangeNow(request)) return this.changeLater(request, 'write');
    const before = this.clock.now();
    const { buffer, start, length, offset } = request;
    const result = layer.file.writeNow(buffer, start, length, offset);
    this.notePace(length, before);
    // What it left there is in the way: on the pool it is tried again, and cleaned up after.
    if (result < 0 && layer.parent !== null) return this.changeLater(request, 'write');
    this.markWritten(offset, offset + length, result);
    this.atOnce += 1;
    return result < 0 ? -result : Status.OK;
  }

  /** A write that failed may have left something: in the base layer's file that is the content, above others it is not. */
  private markWritten(offset: number, end: number, result: number): void {
    const layer = this.view.top;
    if (result >= 0 || layer.parent === null) layer.markData(offset, end);
    else layer.touched = true;
  }

  /**
   * Makes the range read as zeroes; frees whole blocks unless `noHole`. 0, PENDING or an errno; ENOTSUP, with
   * nothing changed, for a `fastZero` that the disk cannot do without writing the zeroes.
   */
  zero(request: DeviceRequest): number {
    const { view } = this;
    const layer = view.top;
    const { offset, length } = request;
    const end = offset + length;
    if (end > layer.sizeBytes) return Status.ENOSPC;
    if (request.fastZero && isTooSlow(request, view, this.abilities)) return Status.ENOTSUP;
    if (this.care !== 0 && !this.mayChangeNow(request)) return this.changeLater(request, 'zero');
    if (length === 0) return Status.OK;
    if (!request.noHole && isZero(view, offset, end)) return Status.OK;
    if (length >= BLOCK_BYTES) return this.changeLater(request, 'zero');
    const before = this.clock.now();
    const result = layer.file.writeNow(ZEROES, 0, length, offset);
    this.notePace(length, before);
    this.markWritten(offset, end, result);
    this.atOnce += 1;
    return result < 0 ? -result : Status.OK;
  }

  private mayChangeNow(request: DeviceRequest): boolean {
    const { care } = this;
    if ((care & NOT_NOW) !== 0) return false;
    const { offset } = request;
    const end = offset + request.length;
    if ((care & Care.QUEUED) !== 0 && this.queue.overlaps(offset, end)) return false;
    if ((care & Care.LAYERED) !== 0 && needsCopyUp(this.view, offset, end)) return false;
    if ((care & Care.SLOW) === 0) return true;
    if (this.pace.retry(this.clock.now())) return false;
    this.care &= ~Care.SLOW;
    return true;
  }

  private changeLater(request: DeviceRequest, kind: 'write' | 'zero'): number {
    if ((this.care & Care.REFUSED) !== 0) return this.refusal;
    if (request.length === 0) return Status.OK;
    if ((this.care & Care.UNARMED) !== 0) this.arm();
    if (kind === 'write') request.retain();
    this.care |= Care.QUEUED;
    this.pooled += 1;
    this.queue.enter(request, kind);
    return PENDING;
  }

  /** Invalidates the clean mark, durably; until then changes wait. */
  private arm(): void {
    if (this.arming) return;
    this.arming = true;
    this.queue.hold();
    const { bootId, metadata } = this;
    // After `distrust` no run of the system is named any more.
    if (bootId !== '' && metadata.state.boot !== bootId && !this.tainted) {
      metadata.append({ kind: 'booted', id: bootId });
    }
    if (metadata.state.clean) metadata.append({ kind: 'opened' });
    this.metadata.commit((status) => {
      this.arming = false;
      if (status === Status.OK) this.care &= ~Care.UNARMED;
      else this.refuseWaiting(status);
      this.queue.release();
      this.ended();
    });
  }

  private notePace(length: number, before: number): void {
    this.pace.wrote(length, before, this.clock.now());
    if (this.pace.pooled) this.care |= Care.SLOW;
  }

  // ---- on the pool

  private start(operation: Operation): void {
    const { kind, request } = operation;
    if (operation.end > this.view.sizeBytes) {
      // The volume shrank while this waited.
      const status = kind === 'read' ? Status.EINVAL : Status.ENOSPC;
      this.clock.soon(() => this.finish(operation, status));
      return;
    }
    assert(request, 'an operation has its request');
    if (kind === 'zero') {
      this.startZeroes(operation, request);
      return;
    }
    const { buffer, start, length, offset } = request;
    if (kind === 'read') {
      this.readAt(buffer, start, length, offset, operation.done);
      return;
    }
    this.writeOnPool({ buffer, start, offset, end: offset + length }, operation);
  }

  private writeOnPool(write: CopyUpWrite, operation: Operation): void {
    const { view } = this;
    const { buffer, start, offset, end } = write;
    if (needsCopyUp(view, offset, end)) copyUpAndWrite(view, write, operation.done);
    else view.top.file.write(buffer, start, end - offset, offset, operation.done);
  }

  private startZeroes(operation: Operation, request: DeviceRequest): void {
    const tooSlow = request.fastZero && isTooSlow(request, this.view, this.abilities);
    if (!tooSlow && this.startPiece(operation)) return;
    this.clock.soon(() => this.finish(operation, tooSlow ? Status.ENOTSUP : Status.OK));
  }

  private startPiece(operation: Operation): boolean {
    const { view, abilities, zeroPace } = this;
    if (!probePiece(operation, abilities) && !nextPiece(operation, view, abilities, zeroPace)) {
      return false;
    }
    const { pieceStart, pieceEnd, piece } = operation;
    if (piece === 'write') {
      this.writeOnPool({ buffer: ZEROES, start: 0, offset: pieceStart, end: pieceEnd }, operation);
    } else if (view.top.parent === null) {
      this.zeroFile(operation);
    } else if (view.top.hasDataIn(pieceStart, pieceEnd)) {
      this.recordAndZero(operation);
    } else {
      // Only the map has to say so.
      this.lock(operation);
      this.clock.soon(() => operation.done(0));
    }
    return true;
  }

  /** Above other layers zeroes that keep their space are written: a file that was provisioned shows nothing of it to the next process. */
  private get abilities(): Readonly<ZeroAbilities> {
    const { canZero, view } = this;
    return view.top.parent === null ? canZero : { punch: canZero.punch, provision: 'no' };
  }

  private zeroFile(operation: Operation): void {
    const { pieceStart, pieceEnd, done } = operation;
    const { file } = this.view.top;
    const length = pieceEnd - pieceStart;
    this.lock(operation);
    if (operation.piece === 'punch') file.punchHole(pieceStart, length, done);
    else file.provisionZeroes(pieceStart, length, done);
  }

  /**
   * Above other layers the log has it first, durably: when the file is a hole already, a kill would else bring up what lies
   * below, which is older than what was answered.
   */
  private recordAndZero(operation: Operation): void {
    this.records.addAhead(operation);
    this.metadata.commit((status) => {
      if (status === Status.OK) return this.zeroFile(operation);
      this.lock(operation);
      operation.done(-status);
    }, true);
  }

  /** The disk, or the map, works on a hole. */
  private lock(operation: Operation): void {
    this.locking += 1;
    this.care |= Care.LOCKED;
    operation.startedAt = this.clock.now();
  }

  private unlock(): void {
    this.locking -= 1;
    if (this.locking === 0) this.care &= ~Care.LOCKED;
  }

  /** The disk let go of the file again. */
  private unlocked(operation: Operation): void {
    this.unlock();
    const ms = this.clock.now() - operation.startedAt;
    if (operation.piece === 'punch') {
      operation.punchedRuns += operation.runs;
      this.zeroPace.punched(operation.runs, ms);
    } else {
      this.zeroPace.took(operation.runs, ms);
    }
  }

  private diskDone(operation: Operation, result: number): void {
    if (operation.kind === 'zero') return this.pieceDone(operation, result);
    if (operation.kind === 'read') return this.finish(operation, result);
    this.markWritten(operation.offset, operation.end, result);
    if (result < 0) this.fail(operation, -result);
    else this.finish(operation, Status.OK);
  }

  /** Ends a change that the disk refused. */
  private fail(operation: Operation, status: number): void {
    const { top } = this.view;
    if (top.parent === null) return this.finish(operation, status);
    void this.settleAndFinish(operation, status);
  }

  private async settleAndFinish(operation: Operation, status: number): Promise<void> {
    this.lock(operation);
    const range = { from: operation.lockStart, end: operation.lockEnd };
    const settled = await settleLeftovers(this.view, range, this.tellsBlocks);
    this.unlock();
    if (!settled) this.distrust();
    this.finish(operation, status);
  }

  /** The top's file has what its map does not show, for good: nobody may take its extents for what was written. */
  private distrust(): void {
    this.tainted = true;
    this.metadata.append({ kind: 'booted', id: NO_BOOT });
  }

  private pieceDone(operation: Operation, result: number): void {
    const { piece, request } = operation;
    const { records } = this;
    if (piece !== 'write') this.unlocked(operation);
    if (piece !== 'write' && result === -Status.ENOTSUP) {
      // Until this is known it is the first thing that is tried for a request, also for one beside another.
      const { recorded } = operation;
      if (recorded) records.again(operation);
      records.isMapped(operation);
      const untouched = this.canZero[piece] !== 'yes' && operation.position === operation.offset;
      this.canZero[piece] = 'no';
      if (request?.fastZero === true && untouched) {
        if (recorded) records.takeBack(operation);
        this.finish(operation, Status.ENOTSUP);
        return;
      }
    } else {
      if (piece !== 'write' && result >= 0) this.canZero[piece] = 'yes';
      this.markPiece(operation, result);
      if (result < 0) {
        this.fail(operation, -result);
        return;
      }
      // A piece that was a probe may lie ahead, behind an edge that is still to be written.
      if (operation.pieceStart === operation.position) operation.position = operation.pieceEnd;
    }
    if ((this.care & Care.REFUSED) !== 0 && operation.position < operation.end) {
      // What is left may be terabytes: a volume that failed is not written (I10), one that closes does not wait.
      this.finish(operation, this.refusal);
      return;
    }
    if (!this.startPiece(operation)) this.finish(operation, Status.OK);
  }

  private markPiece(operation: Operation, result: number): void {
    const { pieceStart, pieceEnd, piece, recorded } = operation;
    const { records } = this;
    const layer = this.view.top;
    records.isMapped(operation);
    if (piece === 'write') this.markWritten(pieceStart, pieceEnd, result);
    // A hole that failed half-way: the map goes on saying data, which is true of any content.
    else if (result < 0) layer.touched = true;
    else {
      if (piece === 'punch') layer.markHole(pieceStart, pieceEnd);
      else layer.markData(pieceStart, pieceEnd);
      if (layer.parent !== null && !recorded) {
        // The file shows nothing of it, so the log has to, also for the next process.
        records.add(operation);
        operation.holed = true;
      }
    }
    if (recorded && result < 0) records.again(operation);
  }

  private finish(operation: Operation, status: number): void {
    const { request } = operation;
    assert(request, 'an operation has its request');
    if (operation.holed) {
      operation.holed = false;
      this.metadata.commit((committed) => this.finish(operation, committed || status));
      return;
    }
    // Whoever hears of it may look at what is there before the next change of the block begins.
    request.complete(status);
    this.queue.leave(operation);
    if (this.queue.length === 0) this.care &= ~Care.QUEUED;
    this.ended();
  }
}
