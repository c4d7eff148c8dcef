/**
 * The gate in front of a mirrored volume: a write passes when all its regions are recorded hot, durably.
 *
 * Invariants (I5, coverage):
 * - A write is handed on only while its regions are hot in the log.
 * - A region is recorded cold when its last write is durable on the local disk (a mirror must not have
 *   what a power cut takes from the primary) and on every mirror in stream, and when what the others lack is in
 *   their delta bitmaps; or when it is suspect in the log for every mirror, which says as much as hot
 *   (`parked`). So no write waits for a mirror.
 * - Changes that overlap pass in the order in which they came (arrivals.ts).
 * - Waiting requests are bounded by the in-flight limits of the sessions that sent them.
 */
import type { Clock } from '../../io/clock.ts';
import { PENDING, Status, type DeviceRequest } from '../../io/device.ts';
import {
  BLOCKS_PER_REGION,
  HOT_REGIONS_MAX,
  HOT_REGION_IDLE_MS,
  PARKED_REGIONS_MAX,
  REGION_BYTES,
} from '../../io/limits.ts';
import { ActivityLog, type HotRegion } from '../../volume/activity-log.ts';
import { RegionTable } from '../../volume/maps/hot-region.ts';
import type { Volume } from '../../volume/volume.ts';
import { Arrivals, type Claim } from './arrivals.ts';
import { syncLocally } from './local-sync.ts';
import type { Mirror } from '../mirror/mirror.ts';

/** Parked regions let go in one turn: each may need a record for each mirror. The tick takes up the rest. */
const SETTLE_REGIONS_MAX = 1024;

export class RegionGate {
  /** Regions recorded cold early, by number; never hot at the same time. */
  readonly parked: RegionTable;
  private readonly arrivals = new Arrivals();
  private refusal: number = Status.OK;
  private recording = false;
  /** Changes up to this number are durable on the local disk. */
  private synced = 0;
  private syncing = false;
  private syncedAt: number;
  /** The size that `log` knows. */
  private sizeBytes: number;
  private readonly log: ActivityLog;
  private readonly volume: Volume;
  private readonly clock: Clock;
  private readonly mirrors: readonly Mirror[];

  constructor(options: { volume: Volume; clock: Clock; mirrors: readonly Mirror[] }) {
    this.volume = options.volume;
    this.clock = options.clock;
    this.mirrors = options.mirrors;
    this.syncedAt = this.clock.now();
    this.sizeBytes = this.volume.sizeBytes;
    this.parked = new RegionTable(this.sizeBytes);
    this.log = new ActivityLog({
      sizeBytes: this.sizeBytes,
      hot: this.volume.metadata.state.hot,
      now: this.clock.now(),
    });
  }

  /** Whether the change may be applied now; `claim`: what it is a part of. */
  isOpen(request: DeviceRequest, claim: Claim | null): boolean {
    const { offset, length } = request;
    if (!this.log.isHot(offset, length)) return false;
    return this.arrivals.clear || !this.arrivals.holds(offset, offset + length, claim?.ticket);
  }

  /** Keeps the request until it may be applied, then applies and completes it. */
  wait(
    request: DeviceRequest,
    apply: (request: DeviceRequest) => number,
    claim: Claim | null,
  ): number {
    if (this.refusal !== Status.OK) return this.refusal;
    if (!this.fits(request)) return Status.ENOSPC;
    request.retain();
    this.arrivals.add(request, apply, claim);
    this.record();
    return PENDING;
  }

  /** Later changes to the range wait until it is given back. */
  claim(offset: number, end: number): Claim {
    return this.arrivals.claim(offset, end);
  }

  giveBack(claim: Claim): void {
    this.arrivals.giveBack(claim);
    this.letGo();
    // The regions of who waited for it may have turned cold meanwhile.
    this.record();
  }

  /** For good: what waits, and whatever would have to, is answered `status`. */
  refuse(status: number): void {
    this.refusal = status;
    for (const { request } of this.arrivals.remove(() => true)) request.complete(status);
  }

  /** No change waits, or has parts to come. */
  get clear(): boolean {
    return this.arrivals.clear;
  }

  /** Whether an earlier change to the range waits, or has parts to come. */
  holds(offset: number, end: number): boolean {
    return !this.arrivals.clear && this.arrivals.holds(offset, end);
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
    this.log.wrote(offset, length, now, epoch, this.settledEpoch());
    // Just entered a region: have the next ones ready before a sequential writer gets there.
    if (offset % REGION_BYTES < length) {
      this.log.admitAhead(offset);
      this.record();
    }
  }

  /** Whether the block was written and is neither durable on the mirror nor marked for it. */
  isStaged(mirror: Mirror, block: number): boolean {
    const index = Math.floor(block / BLOCKS_PER_REGION);
    const region = this.unsettled(mirror, index);
    return region !== null && region.wroteBlock(block - index * BLOCKS_PER_REGION);
  }

  /** The end of a run from `block` of equal `isStaged`; at most `limit`. May be cut short. */
  stagedRunEnd(mirror: Mirror, block: number, limit: number): number {
    const index = Math.floor(block / BLOCKS_PER_REGION);
    const base = index * BLOCKS_PER_REGION;
    const region = this.unsettled(mirror, index);
    if (region !== null) return Math.min(limit, base + region.writtenRunEnd(block - base));
    const last = Math.ceil(limit / BLOCKS_PER_REGION);
    const next = this.parked.nextFrom(index + 1, this.log.nextFrom(index + 1, last));
    return Math.min(limit, next * BLOCKS_PER_REGION);
  }

  /** Some mirror has more than before: regions may be let go for those that wait. */
  progressed(): void {
    if (this.arrivals.waitingCount === 0) return;
    if (this.parked.size >= PARKED_REGIONS_MAX) this.settleParked();
    this.record();
  }

  /** Retires regions that saw no write for a while. */
  tick(now: number): void {
    this.retireIdle(now);
    if (this.needsSync(now)) this.sync();
    this.progressed();
  }

  /** The volume may have a new size: what lies past the end is over. */
  resize(): void {
    if (this.volume.sizeBytes === this.sizeBytes) return;
    this.sizeBytes = this.volume.sizeBytes;
    this.log.resize(this.sizeBytes);
    this.parked.resize(this.sizeBytes);
    const past = this.arrivals.remove((request) => !this.fits(request));
    for (const { request } of past) request.complete(Status.ENOSPC);
    if (past.length > 0) this.letGo();
  }

  /** There are no mirrors any more: nothing is to be covered. */
  release(): void {
    this.parked.clear();
    this.recordCold(this.log.retireAll());
  }

  /**
   * Records what each mirror lacks, and every region cold that has no write in flight, if the local disk
   * has everything. No mirror is in stream.
   */
  async retireAll(): Promise<void> {
    const status = await new Promise<number>((resolve) => {
      syncLocally(this.volume, this.clock, resolve);
    });
    if (status === Status.OK) this.parked.clear();
    for (const mirror of this.mirrors) mirror.blocks.recordAll();
    if (status === Status.OK) this.recordCold(this.log.retireAll());
  }

  /** The region, if it holds writes that the mirror may lack and that are not marked. */
  private unsettled(mirror: Mirror, index: number): HotRegion | null {
    const region = this.log.region(index) ?? this.parked.get(index) ?? null;
    if (region === null || (region.inFlight === 0 && mirror.covers(region.lastEpoch))) return null;
    return region;
  }

  /** What was staged up to this epoch is durable on every mirror, or marked. */
  private settledEpoch(): number {
    let settled = Number.POSITIVE_INFINITY;
    for (const mirror of this.mirrors) settled = Math.min(settled, mirror.settledEpoch);
    return settled;
  }

  private record(): void {
    if (this.recording) return;
    // The log refuses regions past the end from the moment at which the volume begins to shrink.
    this.resize();
    this.admitWaiting();
    const batch = this.log.takeBatch();
    if (batch.length === 0) return;
    this.recording = true;
    const { metadata } = this.volume;
    metadata.append({ kind: 'regions-hot', regions: batch });
    metadata.commit((status) => {
      this.recording = false;
      if (status === Status.OK) this.activated(batch);
      else this.abandoned(batch, status);
      this.record();
    });
  }

  private activated(batch: readonly number[]): void {
    this.log.activated(batch, this.clock.now(), this.parked);
    for (const region of batch) this.parked.delete(region);
    this.letGo();
  }

  private letGo(): void {
    this.arrivals.letGo(
      ({ offset, length }) => this.log.isHot(offset, length),
      ({ request, apply }) => {
        const status = apply(request);
        if (status !== PENDING) request.complete(status);
      },
    );
  }

  private abandoned(batch: readonly number[], status: number): void {
    this.log.abandoned(batch);
    // The records may become durable with a later commit; nothing was written under them.
    this.volume.metadata.append({ kind: 'regions-cold', regions: batch });
    const told = status === Status.ENOSPC ? Status.ENOSPC : Status.EIO;
    for (const { request } of this.arrivals.remove(() => true)) request.complete(told);
  }

  private admitWaiting(): void {
    for (const { request } of this.arrivals.waiting) {
      if (this.log.admit(request.offset, request.length)) continue;
      this.makeRoom();
      if (!this.log.admit(request.offset, request.length)) return;
    }
  }

  private makeRoom(): void {
    const mayPark = this.parked.size < PARKED_REGIONS_MAX;
    const oldest = this.log.retireOldest((region) => mayPark || this.covered(region));
    for (const region of oldest) {
      if (!this.covered(region)) this.parked.add(region);
    }
    this.recordCold(oldest);
    if (this.parked.size >= HOT_REGIONS_MAX) this.sync();
  }

  private retireIdle(now: number): void {
    const idle = this.log.retireIdle(now, (region) => this.covered(region));
    this.recordCold(idle);
    const settled = this.settleParked();
    if (idle.length + settled > 0) this.volume.metadata.commit(() => {});
  }

  /** Lets go of parked regions that are covered by now, of so many at one time; says how many. */
  private settleParked(): number {
    let count = 0;
    for (const region of this.parked.values()) {
      if (count === SETTLE_REGIONS_MAX) break;
      if (!this.covered(region)) continue;
      this.parked.delete(region.index);
      for (const mirror of this.mirrors) mirror.blocks.record(region.index);
      count += 1;
    }
    return count;
  }

  /** Whether everything written to the region is durable here, and there or in recorded bits. */
  private covered(region: HotRegion): boolean {
    if (region.lastChange > this.synced) return false;
    return this.mirrors.every((mirror) => mirror.covers(region.lastEpoch));
  }

  private needsSync(now: number): boolean {
    if (now - this.syncedAt < HOT_REGION_IDLE_MS) return false;
    if (this.parked.size > 0) return true;
    return this.log.idle(now).some((region) => region.lastChange > this.synced);
  }

  private sync(): void {
    if (this.syncing) return;
    this.syncing = true;
    const { changes } = this.log;
    syncLocally(this.volume, this.clock, (status) => {
      this.syncing = false;
      this.syncedAt = this.clock.now();
      // A failed sync is final (I10): what is hot or parked stays so, and is compared after the restart.
      if (status !== Status.OK) return;
      this.synced = changes;
      this.retireIdle(this.syncedAt);
      this.progressed();
    });
  }

  private recordCold(regions: readonly HotRegion[]): void {
    if (regions.length === 0) return;
    const indexes = regions.map((region) => region.index);
    for (const mirror of this.mirrors) {
      for (const index of indexes) mirror.blocks.record(index);
    }
    this.volume.metadata.append({ kind: 'regions-cold', regions: indexes });
  }

  private fits(request: DeviceRequest): boolean {
    return request.offset + request.length <= this.volume.sizeBytes;
  }
}
