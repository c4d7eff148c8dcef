/**
 * One open volume: layers in sparse files whose block n is block n of the volume, their maps, and the metadata log that
 * makes the maps durable. The layer on top takes the writes; those below it are snapshots, or were.
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
import { refuseIfTooLarge } from './containers.ts';
import type { Container, Place } from './containers.ts';
import type { AllocatedRecord } from './recorded-zeroes.ts';
import { Flusher } from './flusher.ts';
import type { FlushOwner } from './flusher.ts';
import { IdleWaiters } from './idle.ts';
import type { IoCounts } from './io-counts.ts';
import type { Layer } from './layers/layer.ts';
import { LayerSet } from './layers/layer-set.ts';
import type { Origin } from './layers/layer-set.ts';
import { mergeable } from './layers/layer-tree.ts';
import type { MergePair } from './layers/layer-tree.ts';
import type { MergeHost, MergeLayer } from './merge/merge-host.ts';
import { Merger } from './merge/merger.ts';
import { Metadata } from './log/metadata.ts';
import type { MapRecord } from './log/metadata-state.ts';
import { validateSize } from './names.ts';
import { ReadAhead } from './read-ahead.ts';
import { OwnRead } from './own-read.ts';
import { Reader } from './reader.ts';
import { growVolume, shrinkVolume } from './resize.ts';
import type { ResizeHost } from './resize.ts';
import { Snapshots } from './snapshots/snapshots.ts';
import type { SnapshotHost } from './snapshots/snapshot-host.ts';
import type { Spare } from './layers/spare.ts';
import { isDistrusted } from './volume-state.ts';

const FAILED_BEFORE =
  'a sync failed since the system was started, and what is read may not be on the disk; check the disk and restart the system';

export interface VolumeOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  /** The directory of the volume. */
  readonly directory: string;
  /** Length from which the metadata log is compacted. */
  readonly compactBytes?: number;
  /** Space for records that free more of it. */
  readonly spare?: Spare | undefined;
  /** Opens what the base layer lies in. Throws the CONTAINER_ codes. */
  readonly containerOf?: (place: Place, sizeBytes: number) => Container;
  /** Finds what lies below a clone. Throws METADATA_CORRUPT. */
  readonly originOf?: (origin: { volume: string; snapshot: string }) => Origin;
}

export class Volume implements FlushOwner, ResizeHost, SnapshotHost, MergeHost {
  readonly directory: string;
  readonly metadata: Metadata;
  readonly layers: LayerSet;
  readonly snapshots: Snapshots;
  readonly clock: Clock;
  readonly random: Random;
  readonly changes: Changes;
  /** `base:allocation`, by the layer map. */
  readonly allocation: StatusContext;
  onFailed: ((reason: string) => void) | null = null;
  /** Why its content is not made whole, until an operator decides; what it is made of is there. Null: it is whole, or will be. */
  unusable: BlockferryError | null = null;

  private readonly reader: Reader;
  private readonly flusher: Flusher;
  private readonly readAhead: ReadAhead;
  private readonly idle = new IdleWaiters();
  private failureReason: string | null = null;
  /** As `Disk.bootId`. */
  private readonly bootId: string;
  private closing = false;
  /** Operations on the layers and the size, one after another: the last of them. */
  private operations: Promise<unknown> = Promise.resolve();
  private operating = 0;
  private readonly merger: Merger;
  /** Snapshots that clones read through: id of the snapshot by name of the clone. Kept by the store. */
  readonly clones = new Map<string, string>();

  private constructor(options: VolumeOptions, metadata: Metadata) {
    const { clock, disk, directory } = options;
    const ended = (): void => this.noticeIdle();
    this.directory = directory;
    this.metadata = metadata;
    this.clock = clock;
    this.random = options.random;
    const { origin } = metadata.state;
    const below = origin === null ? null : (options.originOf?.(origin) ?? lost(origin));
    const spare = options.spare ?? null;
    const { containerOf } = options;
    this.layers = LayerSet.open({
      disk,
      directory,
      metadata,
      origin: below,
      spare,
      containerOf,
    });
    const { head, tellsBlocks } = this.layers;
    const { bootId } = disk;
    const recorded = (record: AllocatedRecord): void => this.flusher.noteRecorded(record);
    this.changes = new Changes({
      view: head,
      metadata,
      clock,
      bootId,
      tellsBlocks,
      recorded,
      readAt: (...range) => this.reader.readAt(...range),
      ended,
    });
    this.reader = new Reader(
      head,
      clock,
      ended,
      (request) => void this.changes.readBehind(request),
    );
    this.readAhead = new ReadAhead(head, ended);
    this.flusher = new Flusher(this.layers.unsealed, this);
    this.allocation = new AllocationContext(head);
    this.merger = new Merger(this, clock);
    this.snapshots = new Snapshots(this, this.merger);
    metadata.onFailed = (reason, unsynced) => {
      this.fail(reason);
      if (unsynced) this.recordFailure();
    };
    if (this.container !== null) this.container.onLost = (reason) => this.fail(reason);
    this.bootId = bootId;
    if (isDistrusted(metadata.state, bootId)) this.fail(FAILED_BEFORE);
  }

  /** Opens the volume in a directory. Throws METADATA_CORRUPT, DATA_DIR_FORMAT_NEWER, or what the disk throws. */
  static open(options: VolumeOptions): Volume {
    const metadata = Metadata.open(options);
    const { clock } = options;
    try {
      const volume = new Volume(options, metadata);
      clock.soon(() => {
        if (volume.failureReason !== null) volume.tellFailed(volume.failureReason);
        volume.tidyUp();
      });
      return volume;
    } catch (thrown) {
      metadata.close();
      throw thrown;
    }
  }

  /** What a crash interrupted among the layers goes on. */
  private tidyUp(): void {
    if (this.closing || this.failed) return;
    const { state } = this.metadata;
    if (state.layers.size === 1) return;
    const tidied = this.exclusive(async () => {
      const { steps } = this.snapshots;
      if (steps.unsettled) await steps.settle();
      await steps.tidy();
    });
    // A full or failing disk is told to whoever writes next; the next operation tries again.
    tidied.catch(() => {});
  }

  get id(): string {
    return this.metadata.state.id;
  }

  get name(): string {
    return this.metadata.state.name;
  }

  get sizeBytes(): number {
    return this.layers.head.sizeBytes;
  }

  /** The layer that takes writes. */
  get layer(): Layer {
    return this.layers.top;
  }

  /** What its base layer lies in; null: a file in its directory. */
  get container(): Container | null {
    return this.layers.container;
  }

  /** `readNow` may be called: no layer below lies where only the pool gets to, in a clone's origin neither. */
  get canReadNow(): boolean {
    for (let layer: Layer | null = this.layer; layer !== null; layer = layer.parent) {
      if (layer.container?.canNow === false) return false;
    }
    return true;
  }

  /** A sync failed: writes and flushes answer EIO from then on. */
  get failed(): boolean {
    return this.failureReason !== null;
  }

  get failure(): string | null {
    return this.failureReason;
  }

  /** Bytes of the blocks that hold data, in all layers with files of their own. */
  get allocatedBytes(): number {
    let blocks = 0;
    for (const { map, container } of this.layers.all()) {
      if (container === null) blocks += map.data.count;
    }
    return blocks * BLOCK_BYTES;
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
    if (this.closing) return Status.ESHUTDOWN;
    const { offset, length } = request;
    const { changes, reader } = this;
    if (!changes.overlap(offset, offset + length)) return reader.read(request);
    reader.pooled += 1;
    return changes.readBehind(request);
  }

  /** Writes the payload; `fua` is the caller's business. */
  write(request: DeviceRequest): number {
    if (this.reader.inFlight > 0) this.reader.changing(request.offset, request.length);
    return this.changes.write(request);
  }

  /** Makes the range read as zeroes, as `noHole` and `fastZero` ask. */
  zero(request: DeviceRequest): number {
    if (this.reader.inFlight > 0) this.reader.changing(request.offset, request.length);
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
    if (offset + length > this.sizeBytes) return Status.EINVAL;
    this.readAhead.add(offset, length);
    return Status.OK;
  }

  // ---- for the replicator

  /** Reads on the calling thread, blocking if it must; 0 or an errno. Sees every change applied so far. See `canReadNow`. */
  readNow(buffer: Buffer, start: number, length: number, offset: number): number {
    return this.reader.readNow(buffer, start, length, offset);
  }

  /** Reads on the pool, all of a change or nothing; `callback` gets 0 or an errno, never before this returned. */
  readAt(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: (status: number) => void,
  ): void {
    assert(!this.closing, 'the volume is open');
    assert(offset + length <= this.sizeBytes, 'the range is inside the volume');
    const { changes, reader } = this;
    const request = new OwnRead(buffer, start, length, offset, callback);
    if (changes.overlap(offset, offset + length)) changes.readBehind(request);
    else reader.readLater(request);
  }

  /** The longest run from `offset` (whole blocks) that is all data, or all zero, by the map; at most to `end`. */
  runAt(offset: number, end: number): { end: number; zero: boolean } {
    assert(offset % BLOCK_BYTES === 0, 'the offset is a block');
    const { head } = this.layers;
    return { end: head.runEndAt(offset, end), zero: !head.isDataAt(offset) };
  }

  /**
   * Where the first byte at or after `offset` is that zeroing could change, or that a change under way may;
   * `end` when there is none before it. Past the end of the volume nothing is known.
   */
  dataFrom(offset: number, end: number): number {
    const { head } = this.layers;
    if (end > head.sizeBytes || head.isDataAt(offset)) return offset;
    const next = head.runEndAt(offset, end);
    return this.changes.overlap(offset, next) ? offset : next;
  }

  // ---- failing

  syncFailed(errno: number, file: DiskFile): void {
    this.fail(`${file.path} could not be synced (errno ${errno})`);
    const { container } = this;
    // What lies behind an export is not in the page cache of this system.
    if (container?.canNow === false && container.file === file) return;
    this.recordFailure();
  }

  /** The next process, if the system goes on, finds in the page cache what may not be on the disk. */
  private recordFailure(): void {
    if (this.bootId !== '') this.metadata.recordFailure(this.bootId);
  }

  /** Something that its content rests on failed, for good (I10): nothing is written or flushed any more. */
  giveUp(reason: string): void {
    this.fail(reason);
    this.recordFailure();
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
    this.tellFailed(reason);
    this.changes.refuseWaiting(Status.EIO);
  }

  private tellFailed(reason: string): void {
    const { onFailed } = this;
    this.onFailed = null;
    onFailed?.(reason);
  }

  // ---- resizing and closing

  /**
   * Grows or shrinks the volume; after a crash it has the old or the new size. Shrinking drops what is past the
   * new end. Throws SIZE_INVALID, CONTAINER_TOO_SMALL, VOLUME_FAILED or METADATA_WRITE_FAILED.
   */
  async resize(sizeBytes: number): Promise<void> {
    validateSize(sizeBytes);
    this.refuseIfFailed();
    // Also when the top is a file: layers are merged into the container.
    if (this.container !== null) refuseIfTooLarge(this.container, sizeBytes);
    await this.exclusive(async () => {
      if (sizeBytes > this.sizeBytes) await growVolume(this, sizeBytes);
      else if (sizeBytes < this.sizeBytes) await shrinkVolume(this, sizeBytes);
    });
  }

  /**
   * Operations on layers and size run one at a time. `keeping`: also while a journal is kept, whose layer stays what it is then.
   * Throws SHUTTING_DOWN when the volume closes, METADATA_WRITE_FAILED while a journal is kept, and what is wrong with that.
   */
  exclusive<Result>(run: () => Promise<Result>, keeping = false): Promise<Result> {
    const result = this.operations.then(() => {
      if (this.closing) {
        throw new BlockferryError('SHUTTING_DOWN', `the volume ${this.name} is closing`);
      }
      if (!keeping) this.refuseWhileKept();
      return run();
    });
    this.operating += 1;
    this.operations = result
      .catch(() => {})
      .finally(() => {
        this.operating -= 1;
        this.noticeIdle();
      });
    return result;
  }

  /** Only a disk that refuses something keeps it for long. */
  private refuseWhileKept(): void {
    if (this.metadata.state.kept === null) return;
    if (this.unusable !== null) throw this.unusable;
    const message = `the volume ${this.name} could not yet make durable what it held when it was promoted; see that its disk has space, and try again`;
    throw new BlockferryError('METADATA_WRITE_FAILED', message);
  }

  /** Waits for what is in flight, makes everything durable, writes the clean mark and closes the files. */
  async close(): Promise<void> {
    if (this.closing) return;
    this.closing = true;
    this.changes.refuse(Status.ESHUTDOWN);
    this.readAhead.stop();
    this.snapshots.catalog.close();
    await this.merger.stop();
    await this.until(() => this.operating === 0 && !this.inUse);
    let status = await this.flushed();
    while (status === Status.OK && !this.isRecorded) {
      // What a flush left over; the clean mark says that the maps are exact.
      this.layer.touched = true;
      status = await this.flushed();
    }
    if (status === Status.OK && !this.metadata.state.clean && !this.changes.tainted) {
      this.metadata.append({ kind: 'closed-clean' });
    }
    await this.commit();
    await this.until(() => !this.flusher.active);
    while (this.metadata.committing) await this.commit();
    await this.layers.stopRemoving();
    this.metadata.close();
    this.layers.close();
  }

  /** Closes the files of a volume that was opened and never used. */
  abandon(): void {
    assert(!this.inUse, 'nothing is in flight');
    this.closing = true;
    this.changes.refuse(Status.ESHUTDOWN);
    this.metadata.close();
    this.layers.close();
  }

  /** Every layer's map is in the log, or on its way. */
  private get isRecorded(): boolean {
    return this.layers.unsealed().every((layer) => layer.isRecorded);
  }

  /** The pool works for a request, or one waits for it. */
  private get inUse(): boolean {
    const { changes, reader, readAhead, snapshots } = this;
    return (
      changes.inFlight > 0 || reader.inFlight > 0 || readAhead.active || snapshots.catalog.inUse
    );
  }

  flushed(): Promise<number> {
    return new Promise((resolve) => {
      const status = this.flusher.flush({ complete: resolve });
      if (status !== PENDING) resolve(status);
    });
  }

  commit(frees = false): Promise<number> {
    return new Promise((resolve) => this.metadata.commit(resolve, frees));
  }

  /** Appends what a sync under way was to tell of a layer: not what was given up, or cut off, meanwhile. */
  record(record: MapRecord): void {
    const map = this.metadata.state.layers.get(record.layer)?.map;
    if (map === undefined) return;
    if (record.kind === 'allocated') {
      const count = Math.min(record.count, map.blockCount - record.first);
      if (count > 0) this.metadata.append({ ...record, count });
    } else if (record.region < map.data.regionCount) {
      this.metadata.append(record);
    }
  }

  eachAhead(visit: (record: AllocatedRecord) => void): void {
    this.changes.records.eachAhead(visit);
  }

  beneathAhead(record: () => void): void {
    this.changes.records.beneathAhead(record);
  }

  recorded(): void {
    const { layers } = this.metadata.state;
    for (const { id, map } of this.layers.unsealed()) {
      const known = layers.get(id);
      if (known !== undefined) map.shareWith(known.map);
    }
  }

  soon(callback: () => void): void {
    this.clock.soon(callback);
  }

  clonesOf(snapshot: string): readonly string[] {
    return [...this.clones].filter(([, below]) => below === snapshot).map(([name]) => name);
  }

  // ---- for merging

  mergeable(): readonly MergePair[] {
    return this.failed || this.closing ? [] : mergeable(this.metadata.state);
  }

  layerOf(id: number): MergeLayer {
    const layer = this.layers.layerOf(id);
    layer.mergeBegins();
    return {
      id,
      file: layer.file,
      map: layer.map,
      resize: () => layer.resized(),
      distrust: () => layer.distrust(),
    };
  }

  requests(): number {
    const { reader, changes, snapshots } = this;
    const own = reader.atOnce + reader.pooled + changes.atOnce + changes.pooled;
    return own + snapshots.catalog.requests;
  }

  inFlight(): number {
    return this.reader.inFlight + this.changes.inFlight + this.snapshots.catalog.inFlight;
  }

  merged(from: number, into: number): void {
    this.layers.merged(from, into);
    this.changes.layersChanged();
  }

  removable(from: number): void {
    this.layers.removable(from);
  }

  released(): void {
    this.tidyUp();
  }

  until(ready: () => boolean): Promise<void> {
    return this.idle.until(ready);
  }

  noticeIdle(): void {
    this.idle.notice();
  }
}

function lost(origin: { volume: string; snapshot: string }): never {
  throw new BlockferryError(
    'METADATA_CORRUPT',
    `the snapshot ${origin.snapshot} of the volume ${origin.volume}, which lies below this one, is not here`,
  );
}
