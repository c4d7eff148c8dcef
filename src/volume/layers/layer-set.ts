/**
 * The open layers of a volume: a tree, as the metadata log says it, with a file for each.
 *
 * Invariants:
 * - One layer takes writes, the top; of those that are there it was made last. A volume's own content is what its chain shows.
 * - A layer that goes is taken out of every view in the same turn; its file is removed when the record of that is
 *   durable and nobody uses it any more.
 * - Files that the log does not name are removed when the volume is opened.
 */
import assert from 'node:assert';
import type { Disk, DiskFile } from '../../io/disk.ts';
import { BlockferryError, errnoOf } from '../../io/errors.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { Container, Place } from '../containers.ts';
import { keepProbe, tellsBlocks } from './extents-probe.ts';
import { freeSpace } from './free-space.ts';
import { Layer } from './layer.ts';
import { LayerMap } from '../maps/layer-map.ts';
import { writeError } from '../log/metadata.ts';
import type { LayerRecord, Metadata } from '../log/metadata.ts';
import { layerPath, openLayerFile, removeStrayLayers } from '../recovery.ts';
import type { Spare } from './spare.ts';
import { isDistrusted } from '../volume-state.ts';
import { View } from './view.ts';

/** Layers of another volume, and the one of them that a clone's base layer lies on. */
export interface Origin {
  readonly layers: LayerSet;
  readonly layer: Layer;
}

export interface LayerSetOptions {
  /** What lies below the base layer of a clone. */
  readonly origin: Origin | null;
  readonly disk: Disk;
  readonly directory: string;
  readonly metadata: Metadata;
  /** A little space, for what a full disk must not keep from being opened. */
  readonly spare: Spare | null;
  /** Opens what the base layer lies in. Throws the CONTAINER_ codes. */
  readonly containerOf?: ((place: Place, sizeBytes: number) => Container) | undefined;
}

export class LayerSet {
  /** The volume's own content. */
  readonly head: View;
  private readonly disk: Disk;
  private readonly directory: string;
  private readonly metadata: Metadata;
  private readonly spare: Spare | null;
  private readonly layers = new Map<number, Layer>();
  /** Views of snapshots. */
  private readonly views = new Set<View>();
  /** Those that are not sealed, the top last. */
  private open: readonly Layer[] = [];
  private nextId: number;
  /** Files on their way out. */
  private readonly removals = new Set<Promise<void>>();
  private closing = false;
  private extentsTold = false;
  private readonly origin: LayerSet | null;
  /** Layers of clones: their chains go on through these. */
  private readonly clones = new Set<LayerSet>();

  private constructor(options: LayerSetOptions, layers: Map<number, Layer>, top: Layer) {
    this.disk = options.disk;
    this.directory = options.directory;
    this.metadata = options.metadata;
    this.spare = options.spare;
    this.origin = options.origin?.layers ?? null;
    this.layers = layers;
    this.nextId = this.metadata.state.nextLayer;
    this.head = new View(top, null);
    top.shownBy = this.head;
    this.noteOpen();
  }

  /** Opens every layer's file, and takes up what a process that was killed wrote. Throws METADATA_CORRUPT, or what the disk throws. */
  static open(options: LayerSetOptions): LayerSet {
    const { disk, directory, metadata, origin } = options;
    const { state } = metadata;
    const layers = new Map<number, Layer>();
    try {
      for (const record of state.layers.values()) {
        const { id, sealed } = record;
        const parent = layers.get(record.parent) ?? origin?.layer ?? null;
        const container = openContainer(options, record);
        const file = container?.file ?? openLayerFile(disk, directory, record);
        const map = sealed ? record.map : record.map.clone();
        layers.set(id, new Layer({ id, file, parent, map, sealed, container }));
      }
      // Only now: where a layer has no file, a stray one may be it.
      removeStrayLayers(disk, directory, state);
      const top = layers.get(state.topLayer);
      assert(top, 'a volume has a top layer');
      const set = new LayerSet(options, layers, top);
      if (metadata.unclean) set.recover();
      if (top.parent !== null) set.noteExtents();
      origin?.layers.clones.add(set);
      return set;
    } catch (thrown) {
      for (const layer of layers.values()) layer.file.closeNow();
      throw thrown;
    }
  }

  get top(): Layer {
    return this.head.top;
  }

  /** What the base layer of the volume itself lies in; null: a file in its directory. */
  get container(): Container | null {
    for (const { container } of this.layers.values()) if (container !== null) return container;
    return null;
  }

  /** Layers that are not sealed, the top last. */
  readonly unsealed = (): readonly Layer[] => this.open;

  /** The extents of files are the blocks that were written, as far as that is known (extents-probe.ts). */
  readonly tellsBlocks = (): boolean => {
    this.noteExtents();
    return this.extentsTold;
  };

  /** All layers. */
  all(): IterableIterator<Layer> {
    return this.layers.values();
  }

  /** The layer is of this volume, not of a clone's origin. */
  owns(layer: Layer): boolean {
    return this.layers.get(layer.id) === layer;
  }

  layerOf(id: number): Layer {
    const layer = this.layers.get(id);
    assert(layer, 'a layer of the log is open');
    return layer;
  }

  /** A view of a sealed layer and what lies below it, until `forget`. */
  viewOf(id: number, sizeBytes: number): View {
    const view = new View(this.layerOf(id), sizeBytes);
    this.views.add(view);
    return view;
  }

  forget(view: View): void {
    this.views.delete(view);
  }

  /**
   * Makes the file of the next layer; `announce` and `show` put it in place. Durable but for its content when it resolves.
   * Throws METADATA_WRITE_FAILED.
   */
  async prepare(): Promise<Layer> {
    this.noteExtents();
    const sizeBytes = this.top.map.blockCount * BLOCK_BYTES;
    const layer = this.create(sizeBytes);
    const lengthSynced = await new Promise<number>((resolve) => layer.file.datasync(resolve));
    const linked = await new Promise<number>((resolve) =>
      this.disk.syncDirectoryLater(this.directory, resolve),
    );
    const synced = Math.min(lengthSynced, linked);
    if (synced < 0) {
      this.drop(layer);
      throw writeError(layer.file.path, -synced);
    }
    return layer;
  }

  /** Gives a layer up that is not, or no longer, in the tree: its file goes as soon as nobody uses it. */
  drop(layer: Layer): void {
    layer.retire(() => {
      const removal = this.removeFile(layer.id).finally(() => this.removals.delete(removal));
      this.removals.add(removal);
    });
  }

  /** Resolves when no file is being removed; the rest of what is goes at the next open. */
  async stopRemoving(): Promise<void> {
    this.closing = true;
    await Promise.all(this.removals);
  }

  /** A prepared layer becomes the top, above `parent`. Nothing may be on its way to the old one. */
  push(layer: Layer, parent: Layer): void {
    this.announce(layer, parent);
    this.show(layer);
  }

  /** The log gets a prepared layer above `parent`, as the top that it will be; `show` follows, or `push` of another. */
  announce(layer: Layer, parent: Layer): void {
    assert(
      layer.id >= this.metadata.state.nextLayer,
      'layers are used in the order in which they were made',
    );
    this.metadata.append({ kind: 'layer-created', layer: layer.id, parent: parent.id });
    layer.parent = parent;
    this.layers.set(layer.id, layer);
    this.noteOpen();
  }

  /** An announced layer becomes the top. Nothing may be on its way to the old one. */
  show(layer: Layer): void {
    this.top.shownBy = null;
    layer.shownBy = this.head;
    this.head.look(layer);
    this.noteOpen();
  }

  /** Seals a layer that is durable as it is. */
  seal(layer: Layer): void {
    if (layer.sealed) return;
    this.metadata.append({ kind: 'layer-sealed', layer: layer.id });
    this.share(layer);
  }

  /** The top holds nothing and the layer below it may take writes again, as far as the layers know; the tree says whether it is its own. */
  get mayRemoveTop(): boolean {
    const { top } = this;
    const { parent } = top;
    if (parent === null || !this.owns(parent) || !parent.mayReopen) return false;
    if (top.touched || !top.isRecorded || parent.map.blockCount !== top.map.blockCount)
      return false;
    return top.map.data.count === 0 && top.map.zero.count === 0;
  }

  /** The log gets the end of the top, which holds nothing and whose record says so too (`whyTopStays`); `showBelow` follows. */
  announceBelow(): void {
    this.metadata.append({ kind: 'top-removed', layer: this.top.id });
  }

  /** The layer below the top takes writes; `removable` follows for the old top. Nothing may be on its way to that. */
  showBelow(): void {
    const { parent } = this.top;
    assert(parent, 'something lies below the top');
    const record = this.metadata.state.layers.get(parent.id);
    assert(record?.sealed === false, 'the log has it open');
    parent.reopen(record.map.clone());
    this.show(parent);
  }

  /** `into` took up `from`, which nobody looks through from now on; `removable` follows. */
  merged(from: number, into: number): void {
    const gone = this.layerOf(from);
    const kept = this.layerOf(into);
    if (kept.parent === gone) kept.parent = gone.parent;
    kept.mergeEnds();
    this.replace(gone, kept);
  }

  /** Wherever a chain leads through `gone` it leads through `kept`, also in clones, and clones of clones. */
  private replace(gone: Layer, kept: Layer): void {
    for (const layer of this.layers.values()) if (layer.parent === gone) layer.parent = kept;
    for (const view of this.allViews()) view.look(view.top === gone ? kept : view.top);
    for (const clone of this.clones) clone.replace(gone, kept);
  }

  /** The log says, durably, that the layer is gone, and nobody looks through it. */
  removable(id: number): void {
    const gone = this.layerOf(id);
    this.layers.delete(id);
    this.noteOpen();
    this.drop(gone);
  }

  close(): void {
    this.origin?.clones.delete(this);
    for (const layer of this.layers.values()) layer.retire(() => {});
  }

  private *allViews(): Generator<View> {
    yield this.head;
    yield* this.views;
  }

  /** Sees to it that the next process can tell, too. */
  private noteExtents(): void {
    this.extentsTold ||= keepProbe(this.disk, this.directory);
  }

  private noteOpen(): void {
    const { top } = this;
    const others = [...this.layers.values()].filter((layer) => !layer.sealed && layer !== top);
    this.open = [...others, top];
  }

  private share(layer: Layer): void {
    const record = this.metadata.state.layers.get(layer.id);
    assert(record, 'an open layer is in the log');
    layer.seal(record.map);
    this.noteOpen();
  }

  /** The log had no clean mark. */
  private recover(): void {
    const { state } = this.metadata;
    // Where extents are not known, all of a layer would be called data, and hide what lies below it.
    const sameRun = state.boot !== '' && state.boot === this.disk.bootId;
    const above = this.top.parent !== null;
    const killed = above && sameRun && tellsBlocks(this.disk, this.directory, this.spare);
    let overZeroes = false;
    for (const layer of this.unsealed()) {
      if (layer.parent !== null && !killed) continue;
      const recorded = state.layers.get(layer.id)?.map;
      assert(recorded, 'an open layer is in the log');
      if (layer.recover(this.disk, recorded)) overZeroes = true;
    }
    this.head.look(this.top);
    // A volume that opens as failed is read and never written.
    if (isDistrusted(state, this.disk.bootId)) return;
    if (overZeroes) this.recordNow();
    if (!above || killed) return;
    // Its file may hold blocks that the map does not know: nothing is written there any more.
    for (const layer of this.unsealed()) {
      if (layer.parent === null) continue;
      // It may have been a kill after all: what is in the page cache alone would be sealed.
      layer.file.datasyncNow();
      this.seal(layer);
      layer.distrust();
    }
    // Without it nothing can be opened.
    this.push(
      this.withSpare(() => this.createNow()),
      this.top,
    );
  }

  /**
   * Zeroes are in the log before they are in the file. A kill between the two leaves what was there before, which is shown from now on;
   * with the log as it is a power cut would take it away again. So nobody sees it before the log tells of it too, but for a full
   * disk, or a log that is to be replaced.
   */
  private recordNow(): void {
    for (const layer of this.unsealed()) {
      if (layer.parent === null) continue;
      layer.file.datasyncNow();
      for (const record of layer.takeChanges(Number.POSITIVE_INFINITY))
        this.metadata.append(record);
    }
    this.metadata.commitNow();
  }

  /** On a full disk this takes what is kept back: it is for what must not fail. */
  private withSpare(make: () => Layer): Layer {
    try {
      return make();
    } catch (thrown) {
      if (this.spare?.release() !== true) throw thrown;
      try {
        return make();
      } finally {
        this.spare.refill();
      }
    }
  }

  /** The file of the next layer, durably. */
  private createNow(): Layer {
    const layer = this.create(this.top.map.blockCount * BLOCK_BYTES);
    try {
      layer.file.datasyncNow();
      this.disk.syncDirectory(this.directory);
    } catch (thrown) {
      layer.file.closeNow();
      throw thrown;
    }
    return layer;
  }

  private create(sizeBytes: number): Layer {
    const id = this.nextId;
    this.nextId += 1;
    const path = layerPath(this.directory, id);
    let file: DiskFile | null = null;
    try {
      file = this.disk.open(path, { create: true, exclusive: true });
      file.truncateNow(sizeBytes);
    } catch (thrown) {
      file?.closeNow();
      throw writeError(path, errnoOf(thrown));
    }
    const map = new LayerMap(sizeBytes / BLOCK_BYTES);
    return new Layer({ id, file, parent: null, map, sealed: false });
  }

  private async removeFile(id: number): Promise<void> {
    const path = layerPath(this.directory, id);
    await freeSpace(this.disk, path, () => this.closing);
    try {
      this.disk.remove(path);
    } catch {
      // The next open removes it.
    }
  }
}

/** Null for a layer with a file of its own. */
function openContainer({ containerOf }: LayerSetOptions, layer: LayerRecord): Container | null {
  const { place, map } = layer;
  if (place === null) return null;
  if (containerOf === undefined) {
    throw new BlockferryError('CONTAINER_UNUSABLE', `${place.location} cannot be opened here`);
  }
  return containerOf(place, map.blockCount * BLOCK_BYTES);
}
