/**
 * The snapshots of one volume: what operators, and the replicator, have done with them.
 *
 * Invariants:
 * - One operation at a time. What it refuses it refuses before anything changes; what it answered is durable.
 * - The content changes hands between two turns in which nothing is on its way to the top layer. The host waits for that
 *   and for nothing else.
 */
import assert from 'node:assert';
import type { BlockDevice } from '../../io/device.ts';
import { BlockferryError } from '../../io/errors.ts';
import type { SnapshotRecord } from '../log/metadata-state.ts';
import type { MetadataRecord } from '../log/records.ts';
import type { MergeQueue } from '../merge/merge-host.ts';
import { isHidden, isReplaced, replacedName } from '../names.ts';
import type { SnapshotMark } from '../volume-state.ts';
import { freeze } from './freeze.ts';
import type { Freezing } from './freeze.ts';
import { restoreRange } from './restore-range.ts';
import { SnapshotCatalog } from './snapshot-catalog.ts';
import type { SnapshotHost } from './snapshot-host.ts';
import { SnapshotSteps } from './snapshot-steps.ts';
import type {
  ChangedRange,
  MergeStatus,
  SnapshotInfo,
  SnapshotUsage,
  SnapshotWitness,
  Twin,
  VolumeSnapshots,
} from './snapshot-types.ts';

export class Snapshots implements VolumeSnapshots {
  readonly host: SnapshotHost;
  readonly catalog: SnapshotCatalog;
  readonly steps: SnapshotSteps;
  witness: SnapshotWitness | null = null;
  private readonly merger: MergeQueue;

  constructor(host: SnapshotHost, merger: MergeQueue) {
    this.host = host;
    this.merger = merger;
    this.catalog = new SnapshotCatalog(host);
    this.steps = new SnapshotSteps(host, this.catalog, merger);
  }

  // ---- reading

  list(): SnapshotInfo[] {
    return this.catalog.list();
  }

  /** Names of those that only the replicator knows. */
  get hidden(): string[] {
    return this.catalog.hidden;
  }

  measure(): Promise<SnapshotUsage[]> {
    return this.catalog.measure();
  }

  find(name: string): SnapshotRecord | null {
    return this.catalog.find(name);
  }

  /** Throws SNAPSHOT_NOT_FOUND, for hidden ones too: they are not the operator's. */
  require(name: string): SnapshotRecord {
    return this.catalog.require(name);
  }

  device(name: string): BlockDevice | null {
    return this.catalog.device(name);
  }

  changed(from: string, to: string | null, start = 0): Generator<ChangedRange> {
    return this.catalog.changed(from, to, start);
  }

  /** Throws what keeps a snapshot from being deleted, or given another content: SNAPSHOT_NOT_FOUND, SNAPSHOT_HAS_CLONES. */
  refuseReplacing(name: string): void {
    this.catalog.refuseCloned(this.catalog.require(name));
  }

  // ---- operations

  create(name: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      this.catalog.refuseName(name);
      return this.freezeAlone({ name });
    });
  }

  freeze(name: string, atInstant: () => void): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      assert(isHidden(name) && this.catalog.find(name) === null, 'a hidden name that is free');
      return this.freezeAlone({ name, atInstant });
    });
  }

  copy(name: string, copyName: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      const original = this.catalog.require(name);
      this.catalog.refuseName(copyName);
      return this.steps.record(this.copyOf(original, copyName), null);
    });
  }

  /** Without a mark: that is of a content which came at the end of an epoch, and this one comes later. */
  private copyOf(original: SnapshotRecord, name: string): SnapshotRecord {
    const { layer, createdAt, sizeBytes } = original;
    return { id: this.steps.newId(), name, layer, createdAt, sizeBytes };
  }

  refresh(name: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      const replaced = this.catalog.require(name);
      this.catalog.refuseCloned(replaced);
      const info = await this.freezeAlone({ name, replaced });
      this.witness?.removed(replaced.id);
      return info;
    });
  }

  private async freezeAlone(freezing: Freezing): Promise<SnapshotInfo> {
    const [info] = await freeze([this], freezing);
    assert(info, 'a volume was frozen');
    return info;
  }

  synchronise(from: string, to: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      const source = this.catalog.require(from);
      const target = this.catalog.require(to);
      this.catalog.refuseCloned(target);
      const info = await this.steps.record(this.copyOf(source, to), target);
      this.witness?.removed(target.id);
      return info;
    });
  }

  delete(name: string): Promise<void> {
    return this.host.exclusive(async () => {
      const snapshot = this.catalog.require(name);
      this.catalog.refuseCloned(snapshot);
      await this.steps.remove(snapshot, []);
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
      if (snapshots.has(twin.id)) return await this.steps.recorded();
      const replaced = (replaces === null ? null : snapshots.get(replaces)) ?? null;
      if (replaced !== null) this.catalog.refuseCloned(replaced);
      if (replaced?.name !== twin.name) this.catalog.refuseName(twin.name);
      await this.freezeAlone({ name: twin.name, replaced, twin: { twin, mark }, records });
    });
  }

  showTwin(hidden: string, { id, name, createdAt }: Twin, mark: SnapshotMark): void {
    const { metadata } = this.host;
    if (metadata.state.snapshots.has(id)) return;
    this.catalog.refuseName(name);
    const { layer, sizeBytes } = this.catalog.requireHidden(hidden);
    metadata.append({ kind: 'snapshot-created', id, name, layer, createdAt, sizeBytes, mark });
  }

  removeTwin(id: string): Promise<void> {
    return this.host.exclusive(async () => {
      const snapshot = this.host.metadata.state.snapshots.get(id);
      if (snapshot === undefined) return;
      if (isHidden(snapshot.name) && !isReplaced(snapshot.name)) return;
      this.catalog.refuseCloned(snapshot);
      const before = this.catalog.find(replacedName(id));
      if (before === null) await this.steps.remove(snapshot, []);
      else await this.steps.bringBack(snapshot, before);
    });
  }

  ownTwin(id: string): Promise<void> {
    return this.host.exclusive(async () => {
      const { metadata } = this.host;
      const snapshot = metadata.state.snapshots.get(id);
      if (snapshot === undefined || isHidden(snapshot.name)) return;
      if (snapshot.mark?.shipped === true) metadata.append({ kind: 'snapshot-kept', id });
      await this.steps.recorded();
    });
  }

  shadow(id: string, hidden: string): Promise<SnapshotInfo> {
    return this.host.exclusive(async () => {
      assert(isHidden(hidden) && this.catalog.find(hidden) === null, 'a hidden name that is free');
      const original = this.catalog.requireId(id);
      return this.steps.record(this.copyOf(original, hidden), null);
    });
  }

  discard(name: string, records: readonly MetadataRecord[] = []): Promise<void> {
    return this.host.exclusive(async () => {
      assert(isHidden(name), 'a hidden snapshot');
      // With nothing else to record it may be gone: two let go of it at once.
      if (records.length === 0 && this.catalog.find(name) === null) return;
      await this.steps.remove(this.catalog.requireHidden(name), records);
    });
  }

  restore(name: string): Promise<void> {
    return this.becomes(() => this.catalog.require(name));
  }

  restoreHidden(name: string): Promise<void> {
    return this.becomes(() => this.catalog.requireHidden(name));
  }

  private becomes(find: () => SnapshotRecord): Promise<void> {
    return this.host.exclusive(async () => {
      const { layers, metadata } = this.host;
      const snapshot = find();
      this.catalog.refuseLarger(snapshot);
      this.host.refuseIfFailed();
      await this.steps.settle();
      const top = await layers.prepare();
      await this.steps.switchOver(() => {
        // A merge may have moved it to another layer meanwhile.
        layers.announce(top, layers.layerOf(find().layer));
        if (snapshot.sizeBytes < top.sizeBytes) {
          top.markHole(snapshot.sizeBytes, top.sizeBytes);
          for (const record of top.takeChanges(Number.POSITIVE_INFINITY)) metadata.append(record);
        }
        return top;
      }, [top]);
      await this.steps.tidy();
    });
  }

  restoreRange(name: string, offset: number, length: number): Promise<void> {
    return this.host.exclusive(async () => {
      const snapshot = this.catalog.require(name);
      this.catalog.refuseRange(snapshot, offset, length);
      this.host.refuseIfFailed();
      const source = this.catalog.deviceOf(snapshot);
      const frozen = this.host.layers.top;
      await this.steps.settle();
      await restoreRange(this.host, source.view, { offset, length }, (announce, unused) =>
        this.steps.switchOver(announce, unused),
      );
      // It is done: what a full disk keeps from being sealed is sealed by the next operation.
      await this.steps.settle().catch(ignoreFullDisk);
      if (frozen.sealed) await this.steps.tidy();
    });
  }

  // ---- merging

  get merge(): MergeStatus {
    return this.merger.status;
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
}

function ignoreFullDisk(thrown: unknown): void {
  if (!(thrown instanceof BlockferryError) || thrown.code !== 'METADATA_WRITE_FAILED') throw thrown;
}
