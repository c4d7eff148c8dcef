/**
 * The way of a change to a volume with mirrors: past the fence and the gate, to the volume, into the staging queue, and to the reply.
 *
 * Invariants:
 * - A write is staged, or marked for each mirror that is not in stream, in the same turn in which it was
 *   applied locally, before its reply (I1, I2, I5).
 * - FLUSH and FUA close the open epoch before a later write can enter it.
 * - Without mirrors requests go straight to the volume.
 * - Behind `stop` nothing is applied: who has the volume then may change it, and mark nothing.
 */
import type { Clock } from '../../io/clock.ts';
import { PENDING, Status, type Completer, type DeviceRequest } from '../../io/device.ts';
import { BLOCK_BYTES, ZERO_PART_BYTES } from '../../io/limits.ts';
import type { Volume } from '../../volume/volume.ts';
import type { Claim } from './arrivals.ts';
import type { Fence } from './fence.ts';
import type { Mirror } from '../mirror/mirror.ts';
import { Piecewise, type PiecewiseHost } from './piecewise.ts';
import type { RegionGate } from './region-gate.ts';
import type { Stager } from '../staging/stager.ts';
import type { StagingQueue } from '../staging/staging-queue.ts';
import type { SyncReplies } from './sync-replies.ts';

export interface ChangeSurroundings {
  readonly volume: Volume;
  readonly clock: Clock;
  readonly mirrors: readonly Mirror[];
  readonly queue: StagingQueue;
  readonly fence: Fence;
  readonly gate: RegionGate;
  readonly stager: Stager;
  readonly replies: SyncReplies;
}

export class ChangeWay implements PiecewiseHost {
  readonly volume: Volume;
  readonly gate: RegionGate;
  /** Changes pass the gate and are staged or marked: from the first mirror on. */
  private gated = false;
  private stopped = false;
  /** Changes that the volume took before that and has not applied yet. */
  private ungated = 0;
  private ungatedOver: (() => void) | null = null;
  /** How long the reply to a write waits so that the mirrors catch up, in milliseconds: to THROTTLE_MS_MAX. */
  delayMs = 0;
  private readonly clock: Clock;
  private readonly mirrors: readonly Mirror[];
  private readonly queue: StagingQueue;
  private readonly fence: Fence;
  private readonly stager: Stager;
  private readonly replies: SyncReplies;

  constructor(surroundings: ChangeSurroundings) {
    this.volume = surroundings.volume;
    this.clock = surroundings.clock;
    this.mirrors = surroundings.mirrors;
    this.queue = surroundings.queue;
    this.fence = surroundings.fence;
    this.gate = surroundings.gate;
    this.stager = surroundings.stager;
    this.replies = surroundings.replies;
  }

  /** Whether there are mirrors, or one is about to be. */
  get mirrored(): boolean {
    return this.gated;
  }

  /** No change is on its way. */
  get quiet(): boolean {
    return this.ungated === 0 && this.gate.clear && this.volume.changes.changing === 0;
  }

  /** Before the first request: whether there are mirrors. */
  start(mirrored: boolean): void {
    this.gated = mirrored;
  }

  /** From now on changes pass the gate; resolves when those that did not are applied. */
  async open(): Promise<void> {
    this.gated = true;
    if (this.ungated === 0) return;
    await new Promise<void>((resolve) => {
      this.ungatedOver = resolve;
    });
    this.ungatedOver = null;
  }

  /** The last mirror went: requests go straight to the volume again. */
  close(): void {
    this.gated = false;
    this.gate.release();
  }

  /** What comes from now on, or has not begun, is answered ESHUTDOWN; resolves when nothing is on its way to the volume. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.fence.close();
    this.gate.refuse(Status.ESHUTDOWN);
    await this.volume.until(() => this.volume.changes.changing === 0);
  }

  write(request: DeviceRequest): number {
    if (this.fence.up) return this.fence.hold(request, this.writeLater);
    if (!this.gated) return this.applyUngated(request, this.ungatedDone, false);
    if (this.gate.isOpen(request, null)) return this.applyWrite(request);
    return this.gate.wait(request, this.applyWrite, null);
  }

  zero(request: DeviceRequest): number {
    if (this.fence.up) return this.fence.hold(request, this.zeroLater);
    request.free = false;
    return this.zeroOrTrim(request);
  }

  trim(request: DeviceRequest): number {
    if (this.fence.up) return this.fence.hold(request, this.trimLater);
    const first = Math.ceil(request.offset / BLOCK_BYTES) * BLOCK_BYTES;
    const end = Math.floor((request.offset + request.length) / BLOCK_BYTES) * BLOCK_BYTES;
    if (end <= first) return request.fua ? this.flush(request) : 0;
    request.offset = first;
    request.length = end - first;
    request.noHole = false;
    request.fastZero = false;
    request.free = true;
    return this.zeroOrTrim(request);
  }

  flush(request: DeviceRequest): number {
    // It would tell that what was written is safe, and it is only on the side that is to be given up.
    if (this.fence.up) return this.fence.hold(request, this.flushLater);
    request.epoch = this.gated ? this.barrier() : 0;
    return this.flushLocally(request);
  }

  private readonly writeLater = (request: DeviceRequest): number => this.write(request);
  private readonly zeroLater = (request: DeviceRequest): number => this.zero(request);
  private readonly trimLater = (request: DeviceRequest): number => this.trim(request);
  private readonly flushLater = (request: DeviceRequest): number => this.flush(request);

  private zeroOrTrim(request: DeviceRequest): number {
    if (this.gated && this.changesNothing(request)) {
      return this.applyUngated(request, this.ungatedDone, true);
    }
    if (!this.gated || request.length <= ZERO_PART_BYTES) return this.zeroPart(request, null);
    return new Piecewise(this, request).begin();
  }

  zeroPart(request: DeviceRequest, claim: Claim | null): number {
    if (this.stopped) return Status.ESHUTDOWN;
    if (!this.gated) return this.applyUngated(request, this.ungatedDone, true);
    if (this.gate.isOpen(request, claim)) return this.applyZero(request);
    return this.gate.wait(request, this.applyZero, claim);
  }

  /** What reads as zeroes by the map, and will not be written meanwhile, is the same on every mirror afterwards. */
  private changesNothing(request: DeviceRequest): boolean {
    const end = request.offset + request.length;
    if (request.fua || end > this.volume.sizeBytes || end === request.offset) return false;
    return (
      this.volume.dataFrom(request.offset, end) === end && !this.gate.holds(request.offset, end)
    );
  }

  soon(callback: () => void): void {
    this.clock.soon(callback);
  }

  private applyUngated(request: DeviceRequest, done: Completer, zeroes: boolean): number {
    request.push(done);
    const status = zeroes ? this.volume.zero(request) : this.volume.write(request);
    if (status === PENDING) {
      this.ungated += 1;
      return PENDING;
    }
    request.pop(done);
    return this.changedUngated(request, status);
  }

  private readonly ungatedDone: Completer = {
    completed: (request, status) => {
      this.ungated -= 1;
      if (this.ungated === 0) this.ungatedOver?.();
      answer(request, this.changedUngated(request, status));
    },
  };

  private changedUngated(request: DeviceRequest, status: number): number {
    if (status !== 0) return status;
    if (request.fua) {
      request.epoch = 0;
      return this.flushLocally(request);
    }
    // What it found done may still be on its way to a mirror.
    request.epoch = this.queue.stagedEpoch;
    return this.replies.wait(request, 'held');
  }

  private readonly applyWrite = (request: DeviceRequest): number => {
    request.push(this.writeDone);
    const status = this.volume.write(request);
    if (status === PENDING) {
      this.gate.began(request);
      return PENDING;
    }
    request.pop(this.writeDone);
    return this.wrote(request, status);
  };

  private readonly writeDone: Completer = {
    completed: (request, status) => {
      this.gate.ended(request);
      answer(request, this.wrote(request, status));
    },
  };

  private wrote(request: DeviceRequest, status: number): number {
    const { offset, length } = request;
    if (status !== 0) {
      this.stager.doubtful(offset, length);
      return status;
    }
    request.epoch = this.stager.wrote(offset, request.buffer, request.start, length);
    if (this.delayMs === 0) return this.applied(request);
    this.clock.after(this.delayMs, () => {
      answer(request, this.stopped ? Status.ESHUTDOWN : this.applied(request));
    });
    return PENDING;
  }

  private readonly applyZero = (request: DeviceRequest): number => {
    request.push(this.zeroDone);
    const status = this.volume.zero(request);
    if (status === PENDING) {
      this.gate.began(request);
      return PENDING;
    }
    request.pop(this.zeroDone);
    return this.zeroed(request, status);
  };

  private readonly zeroDone: Completer = {
    completed: (request, status) => {
      this.gate.ended(request);
      answer(request, this.zeroed(request, status));
    },
  };

  private zeroed(request: DeviceRequest, status: number): number {
    const { offset, length } = request;
    // Refused before anything changed: the disk cannot do it fast.
    if (status === Status.ENOTSUP) return status;
    if (status !== 0) {
      this.stager.doubtful(offset, length);
      return status;
    }
    request.epoch = this.stager.zeroed(offset, length, request.free);
    return this.applied(request);
  }

  private applied(request: DeviceRequest): number {
    if (!request.fua) return this.replies.wait(request, 'held');
    this.barrier();
    return this.flushLocally(request);
  }

  /** Ends the open epoch: what comes later is not mixed with what came before. */
  private barrier(): number {
    if (!this.queue.active) return this.queue.openNumber;
    const epoch = this.queue.close('barrier');
    for (const mirror of this.mirrors) mirror.barrier(epoch);
    return epoch;
  }

  private flushLocally(request: DeviceRequest): number {
    request.push(this.flushDone);
    const status = this.volume.flush(request);
    if (status === PENDING) return PENDING;
    request.pop(this.flushDone);
    return this.flushed(request, status);
  }

  private readonly flushDone: Completer = {
    completed: (request, status) => answer(request, this.flushed(request, status)),
  };

  private flushed(request: DeviceRequest, status: number): number {
    return status === 0 ? this.replies.wait(request, 'durable') : status;
  }
}

function answer(request: DeviceRequest, status: number): void {
  if (status !== PENDING) request.complete(status);
}
