/**
 * A volume with its mirrors, as a block device: what an NBD session talks to.
 *
 * Invariants:
 * - What changes the volume goes by `way`, and every mirror of the set sees it.
 * - While another node may have gone on from it nothing that changes passes (I7, fence.ts).
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../io/clock.ts';
import { Status, type DeviceRequest, type StatusContext } from '../io/device.ts';
import { BlockferryError } from '../io/errors.ts';
import { MIRROR_GRACE_MS, REPLICATOR_TICK_MS } from '../io/limits.ts';
import type { Disk } from '../io/disk.ts';
import type { Network, TlsClientContext } from '../io/network.ts';
import type { Random } from '../io/random.ts';
import type { NbdUri } from '../nbd/uri/uri.ts';
import type { MirrorRecord } from '../volume/log/metadata.ts';
import type { Volume } from '../volume/volume.ts';
import type { Compressor } from '../workers/compressor.ts';
import type { Examiner } from '../workers/examiner.ts';
import { ChangeWay } from './changes/change-way.ts';
import { DirtyContexts } from './mirror/dirty-context.ts';
import { EpochReserve } from './staging/epoch-reserve.ts';
import type { EventKind } from './event-kinds.ts';
import { Fence } from './changes/fence.ts';
import { chooseTaker, type TakerWish } from './failover/handover-taker.ts';
import { Handover } from './failover/handover.ts';
import type { HostedVolume, Role } from './hosted-volume.ts';
import { KeptJournal } from './intake/kept-journal.ts';
import type { ParkedRegions } from './mirror/mirror-blocks.ts';
import type { MirrorHost } from './mirror/mirror-host.ts';
import type { LinkSurroundings } from './mirror/mirror-link.ts';
import type { MirrorPolicy } from './policy/mirror-policy.ts';
import { MirrorSet, type NewMirror } from './mirror/mirror-set.ts';
import type { Mirror } from './mirror/mirror.ts';
import { randomId } from './random-id.ts';
import { RegionGate } from './changes/region-gate.ts';
import { Stager } from './staging/stager.ts';
import type { SlabPool } from './staging/slab.ts';
import { SnapshotStream } from './contact/snapshot-stream.ts';
import type { SharedLimit } from './pace/shared-limit.ts';
import { StartHold } from './changes/start-hold.ts';
import { StagingDisk } from './staging/staging-disk.ts';
import { StagingQueue } from './staging/staging-queue.ts';
import type {
  EventSink,
  MirrorRecordStatus,
  MirrorStatus,
  Position,
  VerifyReport,
} from './status.ts';
import { SyncReplies } from './changes/sync-replies.ts';

export class ReplicatedVolume implements HostedVolume, MirrorHost {
  readonly node: string;
  readonly volume: Volume;
  readonly reserve: EpochReserve;
  readonly queue: StagingQueue;
  readonly surroundings: LinkSurroundings;
  readonly examiner: Examiner;
  readonly graceMs: number;
  readonly readOnly = false;
  readonly description = '';

  readonly nodeLimit: SharedLimit | null;
  hostBytes = 0;
  private readonly clock: Clock;
  private readonly events: EventSink;
  private readonly mirrorSet: MirrorSet;
  private readonly mirrors: readonly Mirror[];
  private readonly gate: RegionGate;
  private readonly stager: Stager;
  private readonly fence: Fence;
  /** What a promotion left to be done; null: nothing. */
  private readonly kept: KeptJournal | null;
  /** Requests wait; null: they need not. */
  private hold: StartHold | null = null;
  private readonly stagingDisk: StagingDisk | null;
  private readonly replies: SyncReplies;
  private readonly way: ChangeWay;
  /** How it is given to a mirror. */
  readonly handover: Handover;
  private readonly dirtyContexts: DirtyContexts;
  private contextList: readonly StatusContext[];
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
    /** Compresses what links to other nodes carry; without it nothing is. */
    compressor?: Compressor;
    events: EventSink;
    /** Payload bytes staged in memory at most; STAGING_BYTES_MAX if not given. */
    stagingBytes?: number;
    /** What is sent ahead of the end of its epoch, in bytes; EPOCH_PUSH_BYTES if not given. */
    pushBytes?: number;
    /** Memory for it, shared by the volumes of the node; its own if not given. */
    slabs?: SlabPool;
    /** How long a lost link to another node is bridged from memory, in milliseconds, 0: never; MIRROR_GRACE_MS if not given. */
    graceMs?: number;
    /** What the mirrors of all volumes of the node may be sent; no such limit if not given. */
    nodeLimit?: SharedLimit;
    /** Where the journal of its promotion lies; without it the volume never was a mirror. */
    disk?: Disk;
    /** Where there is room for more: a file of at most so many bytes; null: there is none. */
    stagingDisk?: { readonly disk: Disk; readonly sizeBytes: number | null };
  }) {
    const { volume, clock, random, network, tls, stagingBytes, pushBytes, slabs } = options;
    this.node = options.node;
    this.reserve = new EpochReserve(volume.metadata);
    this.queue = new StagingQueue({
      firstEpoch: this.reserve.first,
      clock,
      ...(stagingBytes === undefined ? {} : { limitBytes: stagingBytes }),
      ...(pushBytes === undefined ? {} : { pushBytes }),
      ...(slabs === undefined ? {} : { slabs }),
    });
    this.volume = volume;
    this.contextList = [volume.allocation];
    this.clock = clock;
    const { compressor = null } = options;
    this.surroundings = {
      clock,
      random,
      network,
      compressor,
      ...(tls === undefined ? {} : { tls }),
    };
    this.examiner = options.examiner;
    this.graceMs = options.graceMs ?? MIRROR_GRACE_MS;
    this.nodeLimit = options.nodeLimit ?? null;
    this.events = options.events;
    this.stagingDisk = this.stagingDiskAt(options.stagingDisk);
    this.kept = keptOf(volume, clock, options.disk);
    if (this.kept?.torn === true) this.hold = new StartHold();
    this.mirrorSet = new MirrorSet(this, {
      prepare: () => this.way.open(),
      changed: () => this.mirrorsChanged(),
    });
    const { mirrors } = this.mirrorSet;
    this.mirrors = mirrors;
    this.fence = new Fence(volume.metadata, clock);
    this.gate = new RegionGate({ volume, clock, mirrors });
    this.dirtyContexts = new DirtyContexts(this.gate);
    this.stager = new Stager({ clock, volume, queue: this.queue, gate: this.gate, mirrors });
    this.replies = new SyncReplies({ clock, mirrors, wakeSoon: () => this.wakeSoon() });
    const { queue, fence, gate, stager, replies } = this;
    this.way = new ChangeWay({ volume, clock, mirrors, queue, fence, gate, stager, replies });
    const isQuiet = (): boolean => this.way.quiet;
    this.handover = new Handover({ host: this, fence, mirrors, isQuiet });
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
    return !this.replies.empty;
  }

  /** Takes up the mirrors that the metadata log names. Called once, before the first request. */
  start(): void {
    if (this.kept === null) this.begin();
    else this.kept.start(this.taken);
  }

  /** What is told of a journal that was kept. */
  private readonly taken = {
    ready: (): void => this.begin(),
    lost: (): void => this.refuseAll(),
  };

  private refuseAll(): void {
    this.hold?.refuse(Status.EIO);
    const { name, unusable } = this.volume;
    if (unusable === null) return;
    const { message } = unusable;
    this.events.emit({ kind: 'journal-unusable', volume: name, mirror: null, message });
  }

  private begin(): void {
    this.way.start(this.volume.metadata.state.mirrors.size > 0);
    this.stagingDisk?.clear();
    const { queue, volume } = this;
    volume.snapshots.witness = new SnapshotStream({
      queue,
      metadata: volume.metadata,
      wakeSoon: () => this.wakeSoon(),
    });
    this.mirrorSet.load();
    this.mirrorsChanged();
    void this.mirrorSet.discardFrozen();
    this.fence.ask(this.mirrors.filter((mirror) => this.isAsked(mirror)));
    for (const mirror of this.mirrors) mirror.start();
    const { hold } = this;
    this.hold = null;
    hold?.letGo();
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
      const { fenced, handover, generation, generations } = metadata.state;
      this.queue.close('command');
      const firstEpoch = this.queue.openNumber;
      if (fenced !== null || handover !== null) {
        const id = randomId(this.surroundings.random);
        metadata.append({ kind: 'generation-opened', number: generation + 1, id, firstEpoch });
      }
      const status = await this.volume.commit();
      if (status !== Status.OK) {
        // Taken back, in the same later commit: what waits goes on waiting.
        metadata.append({ kind: 'history-set', generations });
        if (fenced !== null) metadata.append({ kind: 'fenced', reason: fenced });
        if (handover !== null) metadata.append({ kind: 'handing-over', ...handover });
        const message = `the metadata of ${name} cannot be written (errno ${status})`;
        throw new BlockferryError('METADATA_WRITE_FAILED', message);
      }
      this.fence.lower();
      return this.position();
    });
  }

  /**
   * Gives the writes to a mirror, or with `split` takes them beside it. `to`: its URI, the name of its node, or null for the only one.
   * `wanted`: its own operator asked for it. Answers the name of its node. @throws BlockferryError MIRROR_NOT_FOUND, MIRROR_STATE, HANDOVER_FAILED, HANDOVER_IN_DOUBT
   */
  async handOver(wish: TakerWish): Promise<string> {
    this.refuseWhileHeld();
    const { mirror, node } = chooseTaker(this.volume, this.mirrors, wish);
    await this.handover.run({ ...wish, mirror });
    return node;
  }

  /** @throws BlockferryError URI_INVALID, MIRROR_*, METADATA_WRITE_FAILED: nothing was changed. */
  async addMirror(mirror: NewMirror): Promise<void> {
    return await this.settled.add(mirror);
  }

  /** Its mirrors are not taken up while requests wait. Throws BUSY, and what is wrong with its content. */
  refuseWhileHeld(): void {
    if (this.hold === null) return;
    if (this.volume.unusable !== null) throw this.volume.unusable;
    const message = `${this.volume.name} is applying what its journal held when it was promoted; try again`;
    throw new BlockferryError('BUSY', message);
  }

  private get settled(): MirrorSet {
    this.refuseWhileHeld();
    return this.mirrorSet;
  }

  async removeMirror(uri: string): Promise<void> {
    return await this.settled.remove(uri);
  }

  async pauseMirror(uri: string): Promise<void> {
    return await this.settled.pause(uri);
  }

  async resumeMirror(uri: string): Promise<void> {
    return await this.settled.resume(uri);
  }

  async resyncMirror(uri: string): Promise<void> {
    return await this.settled.resync(uri);
  }

  /** Bytes a second at most from now on; null: no limit. @throws BlockferryError MIRROR_NOT_FOUND, METADATA_WRITE_FAILED */
  async limitMirror(uri: string, bytesPerSecond: number | null): Promise<void> {
    return await this.settled.limit(uri, bytesPerSecond);
  }

  /** What of its policy is not given stays. @throws BlockferryError USAGE, MIRROR_NOT_FOUND, METADATA_WRITE_FAILED */
  async setMirror(uri: string, policy: Partial<MirrorPolicy>): Promise<void> {
    return await this.settled.set(uri, policy);
  }

  /** Has a delta run of its schedule begin now. @throws BlockferryError MIRROR_NOT_FOUND, MIRROR_STATE */
  async syncMirror(uri: string): Promise<void> {
    return await this.settled.sync(uri);
  }

  /** @throws BlockferryError MIRROR_NOT_FOUND, MIRROR_STATE, METADATA_WRITE_FAILED */
  async verifyMirror(uri: string, options: { repair: boolean }): Promise<VerifyReport> {
    return await this.settled.verify(uri, options);
  }

  /** Grows or shrinks the volume; what the mirrors have past the old end is brought in line. */
  async resize(sizeBytes: number): Promise<void> {
    this.refuseWhileHeld();
    await this.mirrorSet.resize(sizeBytes, () => this.gate.resize());
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
    return { generation: this.volume.metadata.state.generation, epoch: this.queue.stagedEpoch };
  }

  /** Ships what is staged, within a bound, and records what each mirror lacks. The volume stays open. */
  async close(): Promise<void> {
    await this.kept?.stop();
    this.hold?.refuse(Status.ESHUTDOWN);
    // Whoever gives the volume another role does not hear of what would be applied later.
    await this.way.stop();
    this.volume.snapshots.witness = null;
    await this.mirrorSet.close();
    this.tickTimer?.cancel();
    await this.stagingDisk?.close();
    // Mirrors that were not taken up cannot be told what they lack: the log goes on saying it.
    if (this.hold === null) await this.gate.retireAll();
  }

  // --- BlockDevice ---

  opened(): void {}

  closed(): void {}

  ending(): void {
    this.hold?.ending();
    this.fence.ending();
  }

  read(request: DeviceRequest): number {
    if (this.hold !== null) return this.hold.hold(request, (held) => this.read(held));
    this.hostBytes += request.length;
    return this.volume.read(request);
  }

  write(request: DeviceRequest): number {
    if (this.hold !== null) return this.hold.hold(request, (held) => this.write(held));
    this.hostBytes += request.length;
    return this.way.write(request);
  }

  zero(request: DeviceRequest): number {
    if (this.hold !== null) return this.hold.hold(request, (held) => this.zero(held));
    return this.way.zero(request);
  }

  trim(request: DeviceRequest): number {
    if (this.hold !== null) return this.hold.hold(request, (held) => this.trim(held));
    return this.way.trim(request);
  }

  flush(request: DeviceRequest): number {
    if (this.hold !== null) return this.hold.hold(request, (held) => this.flush(held));
    return this.way.flush(request);
  }

  cache(request: DeviceRequest): number {
    if (this.hold !== null) return Status.OK;
    return this.volume.cache(request);
  }

  /** While requests wait nothing is said of the maps, which are those of no one moment. */
  contexts(): readonly StatusContext[] {
    return this.hold === null ? this.contextList : [];
  }

  // --- MirrorHost ---

  emit(kind: EventKind, mirror: { readonly uri: NbdUri }, message: string): void {
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
    this.replies.progressed();
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

  // --- mirrors come and go ---

  private mirrorsChanged(): void {
    assert(this.way.mirrored || this.mirrors.length === 0, 'mirrors see every change');
    if (this.mirrors.length === 0) this.stopMirroring();
    else this.stagingDisk?.open();
    this.replies.needed = this.mirrors.some((mirror) => mirror.mode === 'sync');
    this.contextList = [this.volume.allocation, ...this.dirtyContexts.of(this.mirrors)];
    this.progressed();
    if (this.way.mirrored && this.tickTimer === null) this.tick();
  }

  /** The last mirror went: requests go straight to the volume again. */
  private stopMirroring(): void {
    this.way.close();
    this.tickTimer?.cancel();
    this.tickTimer = null;
    void this.stagingDisk?.close();
  }

  private tick(): void {
    const now = this.clock.now();
    this.stager.tick(now);
    this.gate.tick(now);
    this.stagingDisk?.look(now);
    this.replies.tick(now);
    this.checkReserve();
    this.way.delayMs = 0;
    for (const mirror of this.mirrors) {
      mirror.look();
      this.way.delayMs = Math.max(this.way.delayMs, mirror.hostDelayMs);
    }
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
}

/** Of a mirror that is being removed there is no record any more. */
function recordStatus(record: MirrorRecord | undefined): MirrorRecordStatus {
  const { peer = null, lanes = 1, limit = null } = record ?? {};
  return { kind: peer === null ? 'nbd' : 'blockferry', node: peer?.node ?? null, lanes, limit };
}

/** What a promotion left of the volume's journal; null: nothing. */
function keptOf(volume: Volume, clock: Clock, disk: Disk | undefined): KeptJournal | null {
  if (volume.metadata.state.kept === null) return null;
  assert(disk, 'a volume that was a mirror has a disk for its journal');
  return new KeptJournal({ volume, disk, clock });
}
