/**
 * The steps of which operations on the snapshots of one volume consist: layers, and what the log says of them. Whoever takes them
 * holds the volume's lock.
 *
 * Invariants:
 * - A snapshot is recorded after its layer was sealed: its data and its map are durable by then.
 * - A layer is given up when the record of that is durable.
 * - The content changes hands in a turn in which nothing is on its way to the top layer.
 */
import assert from 'node:assert';
import { Status } from '../../io/device.ts';
import { BlockferryError } from '../../io/errors.ts';
import type { Layer } from '../layers/layer.ts';
import { garbageOf } from '../layers/layer-tree.ts';
import { writeError } from '../log/metadata.ts';
import type { SnapshotRecord } from '../log/metadata-state.ts';
import { whyTopStays } from '../log/metadata-tree.ts';
import type { MetadataRecord } from '../log/records.ts';
import type { MergeQueue } from '../merge/merge-host.ts';
import { replacedName } from '../names.ts';
import type { Freezing, Frozen } from './freeze.ts';
import { infoOf, type SnapshotCatalog } from './snapshot-catalog.ts';
import type { SnapshotHost } from './snapshot-host.ts';
import type { SnapshotInfo } from './snapshot-types.ts';

const ID_BYTES = 16;

export class SnapshotSteps {
  readonly host: SnapshotHost;
  private readonly catalog: SnapshotCatalog;
  private readonly merger: MergeQueue;
  /** Layers that the log gave up; durably, once a commit succeeds. */
  private readonly givenUp = new Set<number>();

  constructor(host: SnapshotHost, catalog: SnapshotCatalog, merger: MergeQueue) {
    this.host = host;
    this.catalog = catalog;
    this.merger = merger;
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
    await this.returnTop();
    if (this.givenUp.size > 0 && (await this.host.commit(true)) === Status.OK) {
      for (const id of this.givenUp) layers.removable(id);
      this.givenUp.clear();
    }
    this.merger.kick();
  }

  /**
   * A top that holds nothing over a layer that nobody else looks through goes, and the layer below takes writes again: in place,
   * where the space for them is there already. Changes wait for one commit; for others that run already they do not.
   */
  private async returnTop(): Promise<void> {
    const { host } = this;
    const { layers, changes } = host;
    const mayGo = (): boolean => this.topMayGo && changes.running === 0;
    if (!mayGo()) return;
    changes.hold();
    try {
      // Whoever waited goes on in a later turn of its own: another may have come in between.
      while (changes.isArming) await host.until(() => !changes.isArming);
      if (!mayGo()) return;
      this.givenUp.add(layers.top.id);
      changes.switching();
      layers.announceBelow();
      const status = await host.commit(true);
      // What was announced is shown in any case: the log has no word that takes it back.
      layers.showBelow();
      changes.switched();
      if (status !== Status.OK) changes.rearm();
    } finally {
      changes.release();
    }
  }

  /** Nothing is in the top, and what lies below may be written. Who read it through a snapshot that is gone hears of that. */
  private get topMayGo(): boolean {
    const { metadata, layers, changes } = this.host;
    const { parent } = layers.top;
    if (parent === null || !layers.mayRemoveTop || changes.tainted) return false;
    return !this.merger.uses(parent.id) && whyTopStays(metadata.state, layers.top.id) === null;
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

  // ---- freezing

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

  // ---- what the log says of snapshots

  /** Takes a snapshot back whose group could not be completed. */
  async giveUp(id: string): Promise<void> {
    this.host.metadata.append({ kind: 'snapshot-removed', id });
    this.catalog.forget(id);
    await this.host.commit();
    await this.tidy();
  }

  /**
   * Records a snapshot in place of another, durably. With `records` nothing is taken back: all of it waits for space; and what it
   * replaces is kept under a hidden name, for it may come back.
   */
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
      if (replaced !== null) this.hide(replaced, snapshot.id);
      await this.recorded();
      return infoOf(snapshot);
    }
    await this.committed(() => {
      metadata.append({ kind: 'snapshot-removed', id: snapshot.id });
      if (replaced !== null) metadata.append({ kind: 'snapshot-created', ...replaced });
    });
    if (replaced !== null) this.catalog.forget(replaced.id);
    await this.tidy();
    return infoOf(snapshot);
  }

  private hide(replaced: SnapshotRecord, by: string): void {
    const { metadata } = this.host;
    // That it took the place of another one holds: it was replaced itself.
    const before = this.catalog.find(replacedName(replaced.id));
    if (before !== null) metadata.append({ kind: 'snapshot-removed', id: before.id });
    metadata.append({ kind: 'snapshot-created', ...replaced, name: replacedName(by) });
    this.catalog.forget(replaced.id);
  }

  /** Deletes a snapshot, durably, and has the hidden one that it took the place of be there again. Throws as `remove`. */
  async bringBack(snapshot: SnapshotRecord, hidden: SnapshotRecord): Promise<void> {
    const { metadata } = this.host;
    const { name } = snapshot;
    metadata.append({ kind: 'snapshot-removed', id: snapshot.id });
    metadata.append({ kind: 'snapshot-removed', id: hidden.id });
    metadata.append({ kind: 'snapshot-created', ...hidden, name });
    await this.committed(() => {
      metadata.append({ kind: 'snapshot-removed', id: hidden.id });
      metadata.append({ kind: 'snapshot-created', ...hidden });
      metadata.append({ kind: 'snapshot-created', ...snapshot });
    });
    this.catalog.forget(snapshot.id);
    this.catalog.forget(hidden.id);
    await this.tidy();
  }

  /** Makes what was appended durable, however often that is asked for. Throws METADATA_WRITE_FAILED. */
  async recorded(): Promise<void> {
    await this.committed(() => {});
    await this.tidy();
  }

  /** Deletes a snapshot, durably, and records more with it; throws, and it stays: METADATA_WRITE_FAILED, VOLUME_FAILED. */
  async remove(snapshot: SnapshotRecord, records: readonly MetadataRecord[]): Promise<void> {
    const { metadata } = this.host;
    for (const record of records) metadata.append(record);
    metadata.append({ kind: 'snapshot-removed', id: snapshot.id });
    const undo = (): void => metadata.append({ kind: 'snapshot-created', ...snapshot });
    await this.committed(undo, true);
    this.catalog.forget(snapshot.id);
    await this.tidy();
  }

  /** Makes what was appended durable; else takes it back with `undo` and throws. */
  private async committed(undo: () => void, frees = false): Promise<void> {
    const status = await this.host.commit(frees);
    if (status === Status.OK) return;
    this.host.refuseIfFailed();
    undo();
    throw writeError(this.host.layers.top.file.path, status);
  }

  // ---- another top

  /**
   * Puts the top that `announce` names in place when the log says so durably, while nothing is on its way to the old one;
   * else the content stays, and throws.
   */
  async switchOver(announce: () => Layer, unused: readonly Layer[]): Promise<void> {
    const { host } = this;
    const { layers, changes } = host;
    const again = await this.preparedBesides(unused);
    changes.hold();
    try {
      const top = await this.announced(announce, [...unused, again]);
      const status = await this.committedOrOver(again);
      if (status !== Status.OK) {
        layers.show(again);
        changes.layersChanged();
        changes.rearm();
        throw writeError(top.file.path, status);
      }
      layers.drop(again);
      layers.show(top);
      changes.layersChanged();
    } finally {
      changes.release();
    }
  }

  private async preparedBesides(unused: readonly Layer[]): Promise<Layer> {
    const { layers } = this.host;
    try {
      return await layers.prepare();
    } catch (thrown) {
      for (const layer of unused) layers.drop(layer);
      throw thrown;
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

  /**
   * Commits the announced top. When the log has no space for it: the log has no word that takes it back, but a yet newer top over
   * the old one is the same. Announced in the same turn: what another commit takes along is both of them. Throws VOLUME_FAILED.
   */
  private committedOrOver(again: Layer): Promise<number> {
    const { host } = this;
    const { layers, metadata } = host;
    const old = layers.top;
    return new Promise<number>((resolve, reject) => {
      metadata.commit((status) => {
        try {
          host.refuseIfFailed();
        } catch (thrown) {
          layers.drop(again);
          reject(thrown);
          return;
        }
        if (status !== Status.OK) layers.announce(again, old);
        resolve(status);
      });
    });
  }
}
