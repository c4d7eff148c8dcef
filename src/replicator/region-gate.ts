/**
 * The gate in front of a mirrored volume: a write passes when all its regions are recorded hot, durably.
 *
 * Invariants (I5, coverage):
 * - A write is handed on only while its regions are hot in the log.
 * - Before a region is recorded cold, what each mirror lacks of it is recorded in its delta bitmap, and
 *   every mirror in stream has its last write durable.
 * - Waiting requests are bounded by the in-flight limits of the sessions that sent them.
 */
import type { Clock } from '../io/clock.ts';
import { PENDING, Status, type DeviceRequest } from '../io/device.ts';
import { REGION_BYTES } from '../io/limits.ts';
import { ActivityLog, type HotRegion } from '../volume/activity-log.ts';
import type { Volume } from '../volume/volume.ts';
import type { Mirror } from './mirror.ts';

interface Waiting {
  readonly request: DeviceRequest;
  /** Applies the request; returns its status or PENDING. */
  readonly apply: (request: DeviceRequest) => number;
}

export class RegionGate {
  private waiting: Waiting[] = [];
  private recording = false;
  private readonly log: ActivityLog;
  private readonly volume: Volume;
  private readonly clock: Clock;
  private readonly mirrors: readonly Mirror[];

  constructor(options: { volume: Volume; clock: Clock; mirrors: readonly Mirror[] }) {
    this.volume = options.volume;
    this.clock = options.clock;
    this.mirrors = options.mirrors;
    this.log = new ActivityLog({
      sizeBytes: this.volume.sizeBytes,
      hot: this.volume.metadata.state.hot,
      now: this.clock.now(),
    });
  }

  get hotCount(): number {
    return this.log.hotCount;
  }

  isOpen(offset: number, length: number): boolean {
    return this.log.isHot(offset, length);
  }

  /** Keeps the request until its regions are hot, then applies and completes it. */
  wait(request: DeviceRequest, apply: (request: DeviceRequest) => number): number {
    request.retain();
    this.waiting.push({ request, apply });
    this.record();
    return PENDING;
  }

  /** A write was handed to the volume and is not applied yet. */
  began(request: DeviceRequest): void {
    this.log.began(request.offset, request.length);
  }

  ended(request: DeviceRequest): void {
    this.log.ended(request.offset, request.length);
  }

  /** A write was applied and staged in `epoch` (0: not staged). */
  wrote(offset: number, length: number, now: number, epoch: number): void {
    this.log.wrote(offset, length, now, epoch);
    // Just entered a region: have the next ones ready before a sequential writer gets there.
    if (offset % REGION_BYTES < length) {
      this.log.admitAhead(offset);
      this.record();
    }
  }

  /** Some mirror has more than before: regions may be let go for those that wait. */
  progressed(): void {
    if (this.waiting.length > 0) this.record();
  }

  /** Retires regions that saw no write for a while. */
  tick(now: number): void {
    const idle = this.log.retireIdle(now, (region) => this.covered(region));
    if (idle.length > 0) this.recordCold(idle);
    this.progressed();
  }

  resize(): void {
    this.log.resize(this.volume.sizeBytes);
  }

  /** Records every region cold that has no write in flight. No mirror is in stream. */
  retireAll(): void {
    this.recordCold(this.log.retireAll());
  }

  private record(): void {
    if (this.recording) return;
    this.admitWaiting();
    const batch = this.log.takeBatch();
    if (batch.length === 0) return;
    this.recording = true;
    const { metadata } = this.volume;
    metadata.append({ kind: 'regions-hot', regions: batch });
    metadata.commit((status) => {
      this.recording = false;
      if (status === 0) {
        this.log.activated(batch, this.clock.now());
        this.applyWaiting();
      } else {
        this.log.abandoned(batch);
        this.failWaiting(status);
      }
      this.record();
    });
  }

  private admitWaiting(): void {
    for (const { request } of this.waiting) {
      if (this.log.admit(request.offset, request.length)) continue;
      const retired = this.log.retireOldest((region) => this.covered(region));
      if (retired.length > 0) this.recordCold(retired);
      if (!this.log.admit(request.offset, request.length)) return;
    }
  }

  private applyWaiting(): void {
    const waiting = this.waiting;
    this.waiting = [];
    for (const entry of waiting) {
      const { request, apply } = entry;
      if (!this.log.isHot(request.offset, request.length)) {
        this.waiting.push(entry);
        continue;
      }
      const status = apply(request);
      if (status !== PENDING) request.complete(status);
    }
  }

  private failWaiting(status: number): void {
    const waiting = this.waiting;
    this.waiting = [];
    const told = status === Status.ENOSPC ? Status.ENOSPC : Status.EIO;
    for (const { request } of waiting) request.complete(told);
  }

  private covered(region: HotRegion): boolean {
    return this.mirrors.every((mirror) => mirror.covers(region.lastEpoch));
  }

  private recordCold(regions: readonly number[]): void {
    for (const mirror of this.mirrors) {
      for (const region of regions) mirror.blocks.record(region);
    }
    if (regions.length > 0) this.volume.metadata.append({ kind: 'regions-cold', regions });
  }
}
