/**
 * The snapshots of one volume: operations on its tree of layers.
 *
 * Invariants:
 * - One operation at a time. What it refuses it refuses before anything changes; what it answered is durable.
 * - The content changes hands between two turns in which nothing is on its way to the top layer. The host waits for that
 *   and for nothing else.
 * - A snapshot is recorded after its layer was sealed: its data and its map are durable by then.
 * - A layer is given up when the record of that is durable.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import type { BlockDevice } from '../../io/device.ts';
import { BlockferryError } from '../../io/errors.ts';
import {
  BLOCK_BYTES,
  BLOCKS_PER_REGION,
  REGION_BYTES,
  SNAPSHOTS_PER_VOLUME_MAX,
} from '../../io/limits.ts';
import type { Random } from '../../io/random.ts';
import type { Changes } from '../changes.ts';
import type { Layer } from '../layers/layer.ts';
import type { LayerSet } from '../layers/layer-set.ts';
import { changedBlocks, garbageOf, measureSnapshots } from '../layers/layer-tree.ts';
import type { LayerStack, ViewLayer } from '../layers/layer-tree.ts';
import type { MergeQueue } from '../merge/merge-host.ts';
import { writeError } from '../log/metadata.ts';
import type { Metadata } from '../log/metadata.ts';
import type { SnapshotRecord } from '../log/metadata-state.ts';
import type { MetadataRecord } from '../log/records.ts';
import { isHidden, validateSnapshotName } from '../names.ts';
import type { SnapshotMark } from '../volume-state.ts';
import { freeze } from './freeze.ts';
import type { Freezing, Frozen } from './freeze.ts';
import { restoreRange } from './restore-range.ts';
import { SnapshotDevice } from './snapshot-device.ts';
import type {
  ChangedRange,
  MergeStatus,
  SnapshotInfo,
  SnapshotUsage,
  SnapshotWitness,
  Twin,
  VolumeSnapshots,
} from './snapshot-types.ts';

/** What a volume lends to operations on its layers. */
export interface SnapshotHost {
  readonly name: string;
  readonly layers: LayerSet;
  readonly changes: Changes;
  readonly metadata: Metadata;
  readonly clock: Clock;
  readonly random: Random;
  /** Runs one operation at a time. Throws SHUTTING_DOWN when the volume closes, METADATA_WRITE_FAILED while a journal is kept. */
  exclusive<Result>(run: () => Promise<Result>): Promise<Result>;
  until(ready: () => boolean): Promise<void>;
  flushed(): Promise<number>;
  /** `frees`: space comes of it, so what is kept back for that may be used. */
  commit(frees?: boolean): Promise<number>;
  /** Throws VOLUME_FAILED. */
  refuseIfFailed(): void;
  noticeIdle(): void;
  /** Names of the volumes that are clones of a snapshot, by its id. */
  clonesOf(snapshot: string): readonly string[];
}

const ID_BYTES = 16;
/** How long sizes are measured before others get a turn, in milliseconds. */
const MEASURE_MS = 2;

export class Snapshots implements VolumeSnapshots {
  readonly host: SnapshotHost;
  witness: SnapshotWitness | null = null;
  private readonly merger: MergeQueue;
  private readonly devices = new Map<string, SnapshotDevice>();
  /** Layers that the log gave up; durably, once a commit succeeds. */
  private readonly givenUp = new Set<number>();

  constructor(host: SnapshotHost, merger: MergeQueue) {
    this.host = host;
    this.merger = merger;
  }

  // ---- reading

  get merge(): MergeStatus {
    return this.merger.status;
  }

  /** The pool works for a snapshot's device. */
  get inUse(): boolean {
    for (const device of this.devices.values()) if (device.inUse) return true;
    return false;
  }

  list(): SnapshotInfo[] {
    const all = [...this.host.metadata.state.snapshots.values()];
    return all.filter(({ name }) => !isHidden(name)).map(infoOf);
  }

  /** Names of those that only the replicator knows. */
  get hidden(): string[] {
    const all = [...this.host.metadata.state.snapshots.values()];
    return all.map(({ name }) => name).filter(isHidden);
  }

  async measure(): Promise<SnapshotUsage[]> {
    const { clock, metadata, layers } = this.host;
    const measure = measureSnapshots(metadata.state, layers.top.map);
    let step = measure.next();
    for (let until = clock.now() + MEASURE_MS; step.done !== true; step = measure.next()) {
      if (clock.now() < until) continue;
      await new Promise<void>((resolve) => clock.soon(resolve));
      until = clock.now() + MEASURE_MS;
    }
    const sizes = step.value;
    return this.list().map((info) => ({
      ...info,
      ...(sizes.get(info.id) ?? { ownBytes: 0, sharedBytes: 0 }),
    }));
  }

  device(name: string): BlockDevice | null {
    const snapshot = this.find(name);
    if (snapshot === null) return null;
    const known = this.devices.get(snapshot.id);
    if (known !== undefined) return known;
    const { host } = this;
    const device = new SnapshotDevice({
      view: host.layers.viewOf(snapshot.layer, snapshot.sizeBytes),
      description: `snapshot ${name} of volume ${host.name}`,
      clock: host.clock,
      ended: () => host.noticeIdle(),
    });
    this.devices.set(snapshot.id, device);
    return device;
  }

  *changed(from: string, to: string | null, start = 0): Generator<ChangedRange> {
    const before = this.viewOf(this.any(from));
    const after = to === null ? this.present() : this.viewOf(this.any(to));
    const region = Math.floor(start / REGION_BYTES) * BLOCKS_PER_REGION;
    for (const { first, count, zero } of changedBlocks(before, after, region)) {
      const offset = Math.max(start, first * BLOCK_BYTES);
      const end = (first + count) * BLOCK_BYTES;
      if (end > offset) yield { offset, length: end - offset, zero };
    }
  }

  // ---- operations

  create(name: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      this.refuseName(name);
      return this.freezeAlone({ name });
    });
  }

  freeze(name: string, atInstant: () => void): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      assert(isHidden(name) && this.find(name) === null, 'a hidden name that is free');
      return this.freezeAlone({ name, atInstant });
    });
  }

  copy(name: string, copyName: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      const original = this.require(name);
      this.refuseName(copyName);
      return this.record(this.copyOf(original, copyName), null);
    });
  }

  /** Without a mark: that is of a content which came at the end of an epoch, and this one comes later. */
  private copyOf(original: SnapshotRecord, name: string): SnapshotRecord {
    const { layer, createdAt, sizeBytes } = original;
    return { id: this.newId(), name, layer, createdAt, sizeBytes };
  }

  refresh(name: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      const replaced = this.require(name);
      this.refuseCloned(replaced);
      return this.freezeAlone({ name, replaced });
    });
  }

  private async freezeAlone(freezing: Freezing): Promise<SnapshotInfo> {
    const [info] = await freeze([this], freezing);
    assert(info, 'a volume was frozen');
    return info;
  }

  synchronise(from: string, to: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      const source = this.require(from);
      const target = this.require(to);
      this.refuseCloned(target);
      const info = await this.record(this.copyOf(source, to), target);
      this.witness?.removed(target.id);
      return info;
    });
  }

  delete(name: string): Promise<void> {
    return this.host.exclusive(async () => {
      const snapshot = this.require(name);
      this.refuseCloned(snapshot);
      await this.remove(snapshot, []);
      this.witness?.removed(snapshot.id);
    });
  }

  // ---- snapshots that are the same on two nodes

  keepTwin(
    twin: Twin,
    replaces: string | null,
    mark: SnapshotMark,
    records: readonly MetadataRecord[],
  ): Promise<void> {
    return this.host.exclusive(async () => {
      const { snapshots } = this.host.metadata.state;
      // Taken before a crash, or before its record found space: it has the right content, and a second one might not.
      if (snapshots.has(twin.id)) return await this.recorded();
      const replaced = (replaces === null ? null : snapshots.get(replaces)) ?? null;
      if (replaced !== null) this.refuseCloned(replaced);
      if (replaced?.name !== twin.name) this.refuseName(twin.name);
      await this.freezeAlone({ name: twin.name, replaced, twin: { twin, mark }, records });
    });
  }

  showTwin(hidden: string, { id, name, createdAt }: Twin, mark: SnapshotMark): void {
    const { metadata } = this.host;
    if (metadata.state.snapshots.has(id)) return;
    this.refuseName(name);
    const { layer, sizeBytes } = this.requireHidden(hidden);
    metadata.append({ kind: 'snapshot-created', id, name, layer, createdAt, sizeBytes, mark });
  }

  removeTwin(id: string): Promise<void> {
    return this.host.exclusive(async () => {
      const snapshot = this.host.metadata.state.snapshots.get(id);
      if (snapshot === undefined || isHidden(snapshot.name)) return;
      this.refuseCloned(snapshot);
      await this.remove(snapshot, []);
    });
  }

  ownTwin(id: string): Promise<void> {
    return this.host.exclusive(async () => {
      const { metadata } = this.host;
      const snapshot = metadata.state.snapshots.get(id);
      if (snapshot === undefined || isHidden(snapshot.name)) return;
      if (snapshot.mark?.shipped === true) metadata.append({ kind: 'snapshot-kept', id });
      await this.recorded();
    });
  }

  shadow(id: string, hidden: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      assert(isHidden(hidden) && this.find(hidden) === null, 'a hidden name that is free');
      const original = this.host.metadata.state.snapshots.get(id);
      if (original === undefined) throw notFound(this.host.name, id);
      return this.record(this.copyOf(original, hidden), null);
    });
  }

  discard(name: string, records: readonly MetadataRecord[] = []): Promise<void> {
    return this.host.exclusive(() => this.remove(this.requireHidden(name), records));
  }

  private async remove(
    snapshot: SnapshotRecord,
    records: readonly MetadataRecord[],
  ): Promise<void> {
    const { metadata } = this.host;
    for (const record of records) metadata.append(record);
    metadata.append({ kind: 'snapshot-removed', id: snapshot.id });
    const undo = (): void => metadata.append({ kind: 'snapshot-created', ...snapshot });
    await this.committed(undo, true);
    this.forgetDevice(snapshot.id);
    await this.tidy();
  }

  restore(name: string): Promise<void> {
    return this.becomes(() => this.require(name));
  }

  restoreHidden(name: string): Promise<void> {
    return this.becomes(() => this.requireHidden(name));
  }

  private becomes(find: () => SnapshotRecord): Promise<void> {
    return this.host.exclusive(async () => {
      const { layers, metadata } = this.host;
      const snapshot = find();
      this.refuseLarger(snapshot);
      this.host.refuseIfFailed();
      await this.settle();
      const top = await layers.prepare();
      await this.switchOver(() => {
        // A merge may have moved it to another layer meanwhile.
        layers.announce(top, layers.layerOf(find().layer));
        if (snapshot.sizeBytes < top.sizeBytes) {
          top.markHole(snapshot.sizeBytes, top.sizeBytes);
          for (const record of top.takeChanges(Number.POSITIVE_INFINITY)) metadata.append(record);
        }
        return top;
      }, [top]);
      await this.tidy();
    });
  }

  restoreRange(name: string, offset: number, length: number): Promise<void> {
    return this.host.exclusive(async () => {
      const snapshot = this.require(name);
      this.refuseRange(snapshot, offset, length);
      this.host.refuseIfFailed();
      const source = this.device(name);
      if (!(source instanceof SnapshotDevice)) throw notFound(this.host.name, name);
      const frozen = this.host.layers.top;
      await this.settle();
      await restoreRange(this.host, source.view, { offset, length }, (announce, unused) =>
        this.switchOver(announce, unused),
      );
      // It is done: what a full disk keeps from being sealed is sealed by the next operation.
      await this.settle().catch(ignoreFullDisk);
      if (frozen.sealed) await this.tidy();
    });
  }

  pauseMerge(): void {
    this.merger.pause();
  }

  resumeMerge(): void {
    this.merger.resume();
  }

  limitMerge(bytesPerSecond: number | null): void {
    this.merger.limit(bytesPerSecond);
  }

  // ---- upkeep

  /** Removes layers that nobody looks through, and has others merged. */
  async tidy(): Promise<void> {
    const { metadata, layers } = this.host;
    for (const id of garbageOf(metadata.state)) {
      if (this.merger.uses(id)) continue;
      metadata.append({ kind: 'layer-removed', layer: id });
      this.givenUp.add(id);
    }
    if (this.givenUp.size > 0 && (await this.host.commit(true)) === Status.OK) {
      for (const id of this.givenUp) layers.removable(id);
      this.givenUp.clear();
    }
    this.merger.kick();
  }

  /** Seals what an interrupted operation left: layers below the top that may have been written. */
  async settle(): Promise<void> {
    const { layers, metadata } = this.host;
    // What the log gave up is still open while that is not durable.
    const kept = (layer: Layer): boolean => metadata.state.layers.has(layer.id);
    const open = layers.unsealed().filter((layer) => layer !== layers.top && kept(layer));
    if (open.length === 0) return;
    await this.durable(open);
    for (const layer of open) layers.seal(layer);
  }

  /** Whether `settle` has something to do. */
  get unsettled(): boolean {
    return this.host.layers.unsealed().length > 1;
  }

  close(): void {
    for (const device of this.devices.values()) device.remove();
  }

  /** Requests to snapshots so far, and those not answered. */
  get requests(): number {
    let sum = 0;
    for (const device of this.devices.values()) sum += device.requests;
    return sum;
  }

  get inFlight(): number {
    let sum = 0;
    for (const device of this.devices.values()) sum += device.inFlight;
    return sum;
  }

  // ---- steps of freezing, shared by several volumes

  /** Throws what keeps a snapshot from being made. */
  refuseName(name: string): void {
    validateSnapshotName(name);
    const { name: volume, metadata } = this.host;
    if (this.find(name) !== null) {
      throw new BlockferryError('SNAPSHOT_EXISTS', `${volume}@${name} exists already`);
    }
    if (metadata.state.snapshots.size >= SNAPSHOTS_PER_VOLUME_MAX) {
      throw new BlockferryError(
        'SNAPSHOT_LIMIT',
        `volume ${volume} has ${SNAPSHOTS_PER_VOLUME_MAX} snapshots`,
      );
    }
  }

  newId(): string {
    return this.host.random.bytes(ID_BYTES).toString('hex');
  }

  /** Whether the sealed layer below the top holds all of the present content, so that a snapshot needs no new top. */
  get isUnchanged(): boolean {
    const { layers } = this.host;
    const { top } = layers;
    const { parent } = top;
    if (parent?.sealed !== true || !layers.owns(parent) || top.touched) return false;
    const empty = top.map.data.count === 0 && top.map.zero.count === 0;
    return empty && parent.map.blockCount === top.map.blockCount;
  }

  /**
   * Has the log name the next top, durably, before it takes a write: a kill would else lose what was answered. `status` is
   * not 0 when it could not; `show` follows in any case. Throws METADATA_WRITE_FAILED when there is no layer.
   */
  async announceTop(): Promise<{ layer: Layer; status: number }> {
    const { host } = this;
    const layer = await host.layers.prepare();
    host.layers.announce(layer, host.layers.top);
    return { layer, status: await host.commit() };
  }

  /** The layer that holds the present content from now on, under the announced top. Nothing may be on its way to the old one. */
  split(announced: Layer | null): Layer {
    const { layers, changes } = this.host;
    const { top } = layers;
    if (announced === null) {
      if (top.parent === null) throw new BlockferryError('INTERNAL', 'nothing is below the top');
      return top.parent;
    }
    layers.show(announced);
    changes.layersChanged();
    return top;
  }

  /** Makes everything in these layers durable. Throws VOLUME_FAILED or METADATA_WRITE_FAILED. */
  async durable(open: readonly Layer[]): Promise<void> {
    // At least one: a flush of the host may have taken all of it, and be on its way.
    do {
      const status = await this.host.flushed();
      this.host.refuseIfFailed();
      if (status !== Status.OK) throw writeError(this.host.layers.top.file.path, status);
    } while (open.some((layer) => !layer.isRecorded || layer.touched));
  }

  /** Makes the frozen content durable and records it under a name. */
  async keep(
    { layer, sizeBytes, createdAt, id, mark }: Frozen,
    { name, replaced = null, records = [] }: Freezing,
  ): Promise<SnapshotInfo> {
    if (!layer.sealed) {
      await this.durable([layer]);
      this.host.layers.seal(layer);
    }
    const holder = this.holderOf(layer).id;
    const snapshot = { id, name, layer: holder, createdAt, sizeBytes };
    return this.record(mark === null ? snapshot : { ...snapshot, mark }, replaced, records);
  }

  /** Where the content of a frozen layer is by now: one that was sealed before may have been merged meanwhile. */
  private holderOf(layer: Layer): Layer {
    const { layers, metadata } = this.host;
    if (metadata.state.layers.has(layer.id)) return layer;
    const { parent } = layers.top;
    assert(parent, 'what lay below the top still does');
    return parent;
  }

  /** Takes a snapshot back whose group could not be completed. */
  async giveUp(id: string): Promise<void> {
    this.host.metadata.append({ kind: 'snapshot-removed', id });
    this.forgetDevice(id);
    await this.host.commit();
    await this.tidy();
  }

  /** Records a snapshot in place of another, durably. With `records` nothing is taken back: all of it waits for space. */
  async record(
    snapshot: SnapshotRecord,
    replaced: SnapshotRecord | null,
    records: readonly MetadataRecord[] = [],
  ): Promise<SnapshotInfo> {
    const { metadata } = this.host;
    for (const record of records) metadata.append(record);
    if (replaced !== null) metadata.append({ kind: 'snapshot-removed', id: replaced.id });
    metadata.append({ kind: 'snapshot-created', ...snapshot });
    if (records.length > 0) {
      if (replaced !== null) this.forgetDevice(replaced.id);
      await this.recorded();
      return infoOf(snapshot);
    }
    await this.committed(() => {
      metadata.append({ kind: 'snapshot-removed', id: snapshot.id });
      if (replaced !== null) metadata.append({ kind: 'snapshot-created', ...replaced });
    });
    if (replaced !== null) this.forgetDevice(replaced.id);
    await this.tidy();
    return infoOf(snapshot);
  }

  /** Makes what was appended durable, however often that is asked for. Throws METADATA_WRITE_FAILED. */
  private async recorded(): Promise<void> {
    await this.committed(() => {});
    await this.tidy();
  }

  /**
   * Puts the top that `announce` names in place when the log says so durably, while nothing is on its way to the old one;
   * else the content stays, and throws.
   */
  private async switchOver(announce: () => Layer, unused: readonly Layer[]): Promise<void> {
    const { host } = this;
    host.changes.hold();
    try {
      const top = await this.announced(announce, unused);
      const status = await host.commit();
      host.refuseIfFailed();
      if (status !== Status.OK) {
        await this.takeBack(top);
        throw writeError(top.file.path, status);
      }
      host.layers.show(top);
      host.changes.layersChanged();
    } finally {
      host.changes.release();
    }
  }

  private async announced(announce: () => Layer, unused: readonly Layer[]): Promise<Layer> {
    const { host } = this;
    try {
      await host.until(() => host.changes.running === 0);
      host.refuseIfFailed();
      return announce();
    } catch (thrown) {
      for (const layer of unused) host.layers.drop(layer);
      throw thrown;
    }
  }

  /** The log could not take `top`. It has no word for that, but a yet newer top over the old one is the same. */
  private async takeBack(top: Layer): Promise<void> {
    const { layers, changes } = this.host;
    const again = await layers.prepare(true).catch(() => null);
    // Not even an empty file can be made: then what was announced holds.
    if (again === null) layers.show(top);
    else layers.push(again, layers.top);
    changes.layersChanged();
    changes.rearm();
  }

  /** Makes what was appended durable; else takes it back with `undo` and throws. */
  private async committed(undo: () => void, frees = false): Promise<void> {
    const status = await this.host.commit(frees);
    if (status === Status.OK) return;
    this.host.refuseIfFailed();
    undo();
    throw writeError(this.host.layers.top.file.path, status);
  }

  find(name: string): SnapshotRecord | null {
    for (const snapshot of this.host.metadata.state.snapshots.values()) {
      if (snapshot.name === name) return snapshot;
    }
    return null;
  }

  /** Throws SNAPSHOT_NOT_FOUND, for hidden ones too: they are not the operator's. */
  require(name: string): SnapshotRecord {
    const snapshot = this.find(name);
    if (snapshot === null || isHidden(name)) throw notFound(this.host.name, name);
    return snapshot;
  }

  private any(name: string): SnapshotRecord {
    return isHidden(name) ? this.requireHidden(name) : this.require(name);
  }

  private requireHidden(name: string): SnapshotRecord {
    const snapshot = this.find(name);
    assert(isHidden(name) && snapshot !== null, 'a hidden snapshot that exists');
    return snapshot;
  }

  /** Throws what keeps a snapshot from being deleted, or given another content: SNAPSHOT_NOT_FOUND, SNAPSHOT_HAS_CLONES. */
  refuseReplacing(name: string): void {
    this.refuseCloned(this.require(name));
  }

  /** A clone reads through its snapshot, as long as it exists. */
  private refuseCloned({ id, name }: SnapshotRecord): void {
    const { name: volume } = this.host;
    const clones = this.host.clonesOf(id);
    if (clones.length === 0) return;
    throw new BlockferryError(
      'SNAPSHOT_HAS_CLONES',
      `${volume}@${name} is below ${clones.length === 1 ? 'the volume' : 'the volumes'} ${clones.join(', ')}`,
    );
  }

  private refuseLarger({ name, sizeBytes }: SnapshotRecord): void {
    const { name: volume, layers } = this.host;
    if (sizeBytes <= layers.top.sizeBytes) return;
    throw new BlockferryError(
      'SNAPSHOT_TOO_LARGE',
      `${volume}@${name} has ${sizeBytes} bytes, the volume ${layers.top.sizeBytes}`,
    );
  }

  private refuseRange({ sizeBytes }: SnapshotRecord, offset: number, length: number): void {
    const end = Math.min(sizeBytes, this.host.layers.top.sizeBytes);
    const whole = offset % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0;
    const inside = offset >= 0 && length > 0 && offset + length <= end;
    if (whole && inside && Number.isSafeInteger(offset + length)) return;
    throw new BlockferryError(
      'RANGE_INVALID',
      `${length} bytes from ${offset} are no whole blocks of the first ${end} bytes`,
    );
  }

  private forgetDevice(id: string): void {
    const device = this.devices.get(id);
    if (device === undefined) return;
    this.devices.delete(id);
    device.remove();
    this.host.layers.forget(device.view);
  }

  private viewOf({ layer, sizeBytes }: SnapshotRecord): LayerStack {
    const top = this.host.layers.layerOf(layer);
    return { layers: chainFrom(top), blockCount: sizeBytes / BLOCK_BYTES };
  }

  private present(): LayerStack {
    const { top } = this.host.layers;
    return { layers: chainFrom(top), blockCount: top.sizeBytes / BLOCK_BYTES };
  }
}

/** The layers of a view, those of a clone's origin with them: numbers of layers are those of one volume. */
function chainFrom(top: Layer): ViewLayer[] {
  const chain: ViewLayer[] = [];
  for (let layer: Layer | null = top; layer !== null; layer = layer.parent) {
    chain.push({ id: layer.key, map: layer.map });
  }
  return chain;
}

function infoOf({ id, name, createdAt, sizeBytes }: SnapshotRecord): SnapshotInfo {
  return { id, name, createdAt, sizeBytes };
}

function ignoreFullDisk(thrown: unknown): void {
  if (!(thrown instanceof BlockferryError) || thrown.code !== 'METADATA_WRITE_FAILED') throw thrown;
}

function notFound(volume: string, name: string): BlockferryError {
  const shown = JSON.stringify(`${volume}@${name}`);
  return new BlockferryError('SNAPSHOT_NOT_FOUND', `there is no snapshot ${shown}`);
}
