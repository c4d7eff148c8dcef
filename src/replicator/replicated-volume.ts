/**
 * A volume with its mirrors, as a block device: what an NBD session talks to.
 *
 * Invariants:
 * - A write is staged, or marked for each mirror that is not in stream, in the same turn in which it was
 *   applied locally, before its reply (I1, I2, I5).
 * - FLUSH and FUA close the open epoch before a later write can enter it.
 * - Synchronous mirrors: a write's reply waits until each holds it, a FLUSH's until each has it durable;
 *   a mirror that its policy lets degrade is not waited for while it is away (design section 8).
 * - Without mirrors requests go straight to the volume.
 * - While another node may have gone on from it nothing that changes passes (I7, fence.ts).
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../io/clock.ts';
import {
  PENDING,
  Status,
  type Completer,
  type DeviceRequest,
  type StatusContext,
} from '../io/device.ts';
import { BlockferryError } from '../io/errors.ts';
import {
  BLOCK_BYTES,
  MIRROR_GRACE_MS,
  REPLICATOR_TICK_MS,
  SYNC_DEADLINE_MS,
  ZERO_PART_BYTES,
} from '../io/limits.ts';
import type { Disk } from '../io/disk.ts';
import type { Network, TlsClientContext } from '../io/network.ts';
import type { Random } from '../io/random.ts';
import type { MirrorRecord } from '../volume/log/metadata.ts';
import type { Volume } from '../volume/volume.ts';
import type { Examiner } from '../workers/examiner.ts';
import type { Claim } from './arrivals.ts';
import { DirtyContext } from './dirty-context.ts';
import { EpochReserve } from './epoch-reserve.ts';
import type { EventKind } from './event-kinds.ts';
import { Fence } from './fence.ts';
import type { HostedVolume, Role } from './hosted-volume.ts';
import type { ParkedRegions } from './mirror-blocks.ts';
import type { MirrorHost } from './mirror-host.ts';
import type { LinkSurroundings } from './mirror-link.ts';
import { MirrorSet, type NewMirror } from './mirror-set.ts';
import type { Mirror } from './mirror.ts';
import { Piecewise, type PiecewiseHost } from './piecewise.ts';
import { randomId } from './random-id.ts';
import { RegionGate } from './region-gate.ts';
import { Stager } from './stager.ts';
import { StagingDisk } from './staging-disk.ts';
import { StagingQueue } from './staging-queue.ts';
import type {
  EventSink,
  MirrorRecordStatus,
  MirrorStatus,
  Position,
  VerifyReport,
} from './status.ts';
import { SyncWaiters, type SyncLevel } from './sync-waiters.ts';

export class ReplicatedVolume implements HostedVolume, MirrorHost, PiecewiseHost {
  readonly node: string;
  readonly volume: Volume;
  readonly reserve: EpochReserve;
  readonly queue: StagingQueue;
  readonly surroundings: LinkSurroundings;
  readonly examiner: Examiner;
  readonly graceMs: number;
  readonly readOnly = false;
  readonly description = '';

  private readonly clock: Clock;
  private readonly events: EventSink;
  private readonly mirrorSet: MirrorSet;
  private readonly mirrors: readonly Mirror[];
  readonly gate: RegionGate;
  private readonly stager: Stager;
  private readonly fence: Fence;
  private readonly stagingDisk: StagingDisk | null;
  private readonly waiters = new SyncWaiters();
  private readonly dirtyContexts = new Map<Mirror, DirtyContext>();
  private contextList: readonly StatusContext[];
  /** Changes pass the gate and are staged or marked: from the first mirror on. */
  private mirrored = false;
  private synchronous = false;
  /** Changes that the volume took before that and has not applied yet. */
  private ungated = 0;
  private ungatedOver: (() => void) | null = null;
  private wakePlanned = false;
  private tickTimer: Timer | null = null;

  constructor(options: {
    /** Name of the node. */
    node: string;
    volume: Volume;
    clock: Clock;
    random: Random;
    network: Network;
    /** What links are secured with where their URI does not say. */
    tls?: () => TlsClientContext | undefined;
    examiner: Examiner;
    events: EventSink;
    /** Payload bytes staged in memory at most; STAGING_BYTES_MAX if not given. */
    stagingBytes?: number;
    /** How long a lost link to another node is bridged from memory, in milliseconds, 0: never; MIRROR_GRACE_MS if not given. */
    graceMs?: number;
    /** Where there is room for more: a file of at most so many bytes; null: there is none. */
    stagingDisk?: { readonly disk: Disk; readonly sizeBytes: number | null };
  }) {
    const { volume, clock, random, network, tls, stagingBytes } = options;
    this.node = options.node;
    this.reserve = new EpochReserve(volume.metadata);
    this.queue = new StagingQueue({
      firstEpoch: this.reserve.first,
      clock,
      ...(stagingBytes === undefined ? {} : { limitBytes: stagingBytes }),
    });
    this.volume = volume;
    this.contextList = [volume.allocation];
    this.clock = clock;
    this.surroundings = { clock, random, network, ...(tls === undefined ? {} : { tls }) };
    this.examiner = options.examiner;
    this.graceMs = options.graceMs ?? MIRROR_GRACE_MS;
    this.events = options.events;
    this.stagingDisk = this.stagingDiskAt(options.stagingDisk);
    this.mirrorSet = new MirrorSet(this, {
      prepare: () => this.becomeMirrored(),
      changed: () => this.mirrorsChanged(),
    });
    const { mirrors } = this.mirrorSet;
    this.mirrors = mirrors;
    this.fence = new Fence(volume.metadata, clock);
    this.gate = new RegionGate({ volume, clock, mirrors });
    this.stager = new Stager({ clock, volume, queue: this.queue, gate: this.gate, mirrors });
  }

  get sizeBytes(): number {
    return this.volume.sizeBytes;
  }

  get role(): Role {
    return this.mirrors.length > 0 ? 'primary' : 'standalone';
  }

  get parked(): ParkedRegions {
    return this.gate.parked;
  }

  get hasWaiters(): boolean {
    return !this.waiters.empty;
  }

  /** Takes up the mirrors that the metadata log names. Called once, before the first request. */
  start(): void {
    this.mirrored = this.volume.metadata.state.mirrors.size > 0;
    this.stagingDisk?.clear();
    this.mirrorSet.load();
    this.mirrorsChanged();
    void this.mirrorSet.discardFrozen();
    this.fence.ask(this.mirrors.filter((mirror) => this.isAsked(mirror)));
    for (const mirror of this.mirrors) mirror.start();
  }

  /** Another node may have gone on from this volume: such a mirror is asked before anything changes here. */
  private isAsked(mirror: Mirror): boolean {
    const peer = this.volume.metadata.state.mirrors.get(mirror.id)?.peer ?? null;
    return peer !== null && mirror.state !== 'paused';
  }

  /** Why no writes are taken until an operator decides: a mirror was promoted. Null: they are. */
  get fenced(): string | null {
    return this.fence.reason;
  }

  /**
   * Takes writes although another node went on from this volume: under a generation of its own. What waits goes on. After an
   * error it may be tried again. @throws BlockferryError METADATA_WRITE_FAILED
   */
  goOnAlone(): Promise<Position> {
    return this.mirrorSet.apart('begins a generation of its own', async () => {
      const { metadata, name } = this.volume;
      const { fenced, generation } = metadata.state;
      this.queue.close('command');
      const firstEpoch = this.queue.openNumber;
      // A commit that failed left the record waiting: it is not made twice.
      if (fenced !== null) {
        const id = randomId(this.surroundings.random);
        metadata.append({ kind: 'generation-opened', number: generation + 1, id, firstEpoch });
      }
      const status = await this.volume.commit();
      if (status !== Status.OK) {
        const message = `the metadata of ${name} cannot be written (errno ${status})`;
        throw new BlockferryError('METADATA_WRITE_FAILED', message);
      }
      this.fence.lower();
      return this.position();
    });
  }

  /** @throws BlockferryError URI_INVALID, MIRROR_*, METADATA_WRITE_FAILED: nothing was changed. */
  addMirror(mirror: NewMirror): Promise<void> {
    return this.mirrorSet.add(mirror);
  }

  removeMirror(uri: string): Promise<void> {
    return this.mirrorSet.remove(uri);
  }

  pauseMirror(uri: string): Promise<void> {
    return this.mirrorSet.pause(uri);
  }

  resumeMirror(uri: string): Promise<void> {
    return this.mirrorSet.resume(uri);
  }

  resyncMirror(uri: string): Promise<void> {
    return this.mirrorSet.resync(uri);
  }

  /** Bytes a second at most from now on; null: no limit. @throws BlockferryError MIRROR_NOT_FOUND, METADATA_WRITE_FAILED */
  limitMirror(uri: string, bytesPerSecond: number | null): Promise<void> {
    return this.mirrorSet.limit(uri, bytesPerSecond);
  }

  /** @throws BlockferryError MIRROR_NOT_FOUND, MIRROR_STATE, METADATA_WRITE_FAILED */
  verifyMirror(uri: string, options: { repair: boolean }): Promise<VerifyReport> {
    return this.mirrorSet.verify(uri, options);
  }

  /** Grows or shrinks the volume; what the mirrors have past the old end is brought in line. */
  resize(sizeBytes: number): Promise<void> {
    return this.mirrorSet.resize(sizeBytes, () => this.gate.resize());
  }

  mirrorStatuses(): MirrorStatus[] {
    const { generation, mirrors: records } = this.volume.metadata.state;
    return this.mirrors.map((mirror) => {
      const { durableEpoch, ...running } = mirror.status();
      const position = durableEpoch === null ? null : { generation, epoch: durableEpoch };
      return { ...recordStatus(records.get(mirror.id)), ...running, position };
    });
  }

  sourceStatus(): null {
    return null;
  }

  position(): Position {
    return { generation: this.volume.metadata.state.generation, epoch: this.stagedEpoch };
  }

  /** The last epoch that has something in it, or was closed. */
  private get stagedEpoch(): number {
    const { openIsEmpty, openNumber } = this.queue;
    return openIsEmpty ? openNumber - 1 : openNumber;
  }

  /** Ships what is staged, within a bound, and records what each mirror lacks. The volume stays open. */
  async close(): Promise<void> {
    this.fence.close();
    await this.mirrorSet.close();
    this.tickTimer?.cancel();
    await this.stagingDisk?.close();
    await this.gate.retireAll();
  }

  // --- BlockDevice ---

  opened(): void {}

  closed(): void {}

  ending(): void {
    this.fence.ending();
  }

  read(request: DeviceRequest): number {
    return this.volume.read(request);
  }

  write(request: DeviceRequest): number {
    if (this.fence.up) return this.fence.hold(request, this.writeLater);
    if (!this.mirrored) return this.applyUngated(request, this.ungatedDone, false);
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
    request.epoch = this.mirrored ? this.barrier() : 0;
    return this.flushLocally(request);
  }

  private readonly writeLater = (request: DeviceRequest): number => this.write(request);
  private readonly zeroLater = (request: DeviceRequest): number => this.zero(request);
  private readonly trimLater = (request: DeviceRequest): number => this.trim(request);
  private readonly flushLater = (request: DeviceRequest): number => this.flush(request);

  cache(request: DeviceRequest): number {
    return this.volume.cache(request);
  }

  contexts(): readonly StatusContext[] {
    return this.contextList;
  }

  // --- MirrorHost ---

  emit(kind: EventKind, mirror: Mirror, message: string): void {
    this.events.emit({ kind, volume: this.volume.name, mirror: mirror.uri.text, message });
  }

  heard(mirror: Mirror): void {
    this.fence.heard(mirror);
  }

  superseded(mirror: Mirror, reason: string): void {
    if (this.fence.raise(reason)) this.emit('volume-fenced', mirror, reason);
  }

  progressed(): void {
    this.gate.progressed();
    if (!this.waiters.empty) this.waiters.release(this.satisfied);
  }

  /** Once a turn, so that the writes of one turn go in one epoch. */
  wakeSoon(): void {
    if (this.wakePlanned) return;
    this.wakePlanned = true;
    this.clock.soon(() => {
      this.wakePlanned = false;
      for (const mirror of this.mirrors) mirror.wake();
    });
  }

  // --- the way of a change ---

  private zeroOrTrim(request: DeviceRequest): number {
    if (this.mirrored && this.changesNothing(request)) {
      return this.applyUngated(request, this.ungatedDone, true);
    }
    if (!this.mirrored || request.length <= ZERO_PART_BYTES) return this.zeroPart(request, null);
    return new Piecewise(this, request).begin();
  }

  zeroPart(request: DeviceRequest, claim: Claim | null): number {
    if (!this.mirrored) return this.applyUngated(request, this.ungatedDone, true);
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
    request.epoch = this.stagedEpoch;
    return this.waitForMirrors(request, 'held');
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
    return this.applied(request);
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
    if (!request.fua) return this.waitForMirrors(request, 'held');
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
    return status === 0 ? this.waitForMirrors(request, 'durable') : status;
  }

  private waitForMirrors(request: DeviceRequest, level: SyncLevel): number {
    if (!this.synchronous || this.satisfied(level, request.epoch)) return 0;
    this.waiters.add(request, level, request.epoch, this.clock.now());
    this.wakeSoon();
    return PENDING;
  }

  private readonly satisfied = (level: SyncLevel, epoch: number): boolean =>
    this.mirrors.every((mirror) => !mirror.isWaitedFor || mirror.has(epoch, level));

  // --- mirrors come and go ---

  /** From now on changes pass the gate; resolves when those that did not are applied. */
  private async becomeMirrored(): Promise<void> {
    this.mirrored = true;
    if (this.ungated === 0) return;
    await new Promise<void>((resolve) => {
      this.ungatedOver = resolve;
    });
    this.ungatedOver = null;
  }

  private mirrorsChanged(): void {
    assert(this.mirrored || this.mirrors.length === 0, 'mirrors see every change');
    if (this.mirrors.length === 0) this.stopMirroring();
    else this.stagingDisk?.open();
    this.synchronous = this.mirrors.some((mirror) => mirror.mode === 'sync');
    this.listContexts();
    this.progressed();
    if (this.mirrored && this.tickTimer === null) this.tick();
  }

  private listContexts(): void {
    for (const [mirror, context] of this.dirtyContexts) {
      if (this.mirrors.includes(mirror)) continue;
      context.detach();
      this.dirtyContexts.delete(mirror);
    }
    for (const mirror of this.mirrors) {
      if (this.dirtyContexts.has(mirror)) continue;
      this.dirtyContexts.set(mirror, new DirtyContext(mirror, this.gate));
    }
    this.contextList = [this.volume.allocation, ...this.dirtyContexts.values()];
  }

  /** The last mirror went: requests go straight to the volume again. */
  private stopMirroring(): void {
    this.mirrored = false;
    this.tickTimer?.cancel();
    this.tickTimer = null;
    this.gate.release();
    void this.stagingDisk?.close();
  }

  private tick(): void {
    const now = this.clock.now();
    this.stager.tick(now);
    this.gate.tick(now);
    this.stagingDisk?.look(now);
    this.checkDeadline(now);
    this.checkReserve();
    for (const mirror of this.mirrors) mirror.look();
    this.tickTimer = this.clock.after(REPLICATOR_TICK_MS, () => this.tick());
  }

  /** Epochs whose numbers might be used again after a crash go to no mirror. */
  private checkReserve(): void {
    if (this.reserve.allows(this.queue.openNumber)) return;
    this.sendAllAway('no more epochs can be reserved: the log cannot be written');
  }

  private sendAllAway(message: string): void {
    for (const mirror of this.mirrors) mirror.outrun(message);
  }

  private stagingDiskAt(
    place: { readonly disk: Disk; readonly sizeBytes: number | null } | undefined,
  ): StagingDisk | null {
    if (place === undefined) return null;
    return new StagingDisk({
      ...place,
      directory: this.volume.directory,
      clock: this.clock,
      queue: this.queue,
      onUnreadable: () => this.sendAllAway('what is staged cannot be read back from the disk'),
      onFailed: (reason) => this.stagingDiskFailed(reason),
    });
  }

  private stagingDiskFailed(reason: string): void {
    const message = `${reason}; what is staged is kept in memory alone`;
    this.events.emit({
      kind: 'staging-disk-failed',
      volume: this.volume.name,
      mirror: null,
      message,
    });
  }

  /** A synchronous mirror that keeps the host waiting too long is given up, if its policy says so. */
  private checkDeadline(now: number): void {
    this.waiters.overdue(now - SYNC_DEADLINE_MS, (level, epoch) => {
      for (const mirror of this.mirrors) {
        // Others may be what the host waits for: one that has the epoch is not to blame.
        if (!mirror.isWaitedFor || mirror.has(epoch, level)) continue;
        if (mirror.stallPolicy !== 'degrade') continue;
        mirror.stalled(`no answer for ${SYNC_DEADLINE_MS / 1000} s; writes go on without it`);
      }
    });
  }
}

function answer(request: DeviceRequest, status: number): void {
  if (status !== PENDING) request.complete(status);
}

/** Of a mirror that is being removed there is no record any more. */
function recordStatus(record: MirrorRecord | undefined): MirrorRecordStatus {
  const { peer = null, lanes = 1, limit = null } = record ?? {};
  return { kind: peer === null ? 'nbd' : 'blockferry', node: peer?.node ?? null, lanes, limit };
}
