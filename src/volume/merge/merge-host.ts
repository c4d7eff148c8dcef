/** What the merging of layers needs of its volume, and what it offers to it. */
import type { DiskFile } from '../../io/disk.ts';
import type { MergePair } from '../layers/layer-tree.ts';
import type { LayerMap } from '../maps/layer-map.ts';
import type { Metadata } from '../log/metadata.ts';
import type { MergeStatus } from '../snapshots/snapshot-types.ts';

/** A sealed layer of the volume, as its readers see it. */
export interface MergeLayer {
  readonly id: number;
  readonly file: DiskFile;
  /** It changes while the layer is merged; what is read through the layers does not. */
  readonly map: LayerMap;
  /** The map, and whatever goes with it, gets another size. The file has it already, or gets it later. */
  resize(sizeBytes: number): void;
  /** The file may keep data, for good or until a power cut, where the map says zero from now on. */
  distrust(): void;
}

export interface MergeHost {
  readonly metadata: Metadata;
  /** Pairs that may merge now, the best first (layer-tree.ts). None when the volume failed. */
  mergeable(): readonly MergePair[];
  /** One of the layers of such a pair. It stays open until `removable` names it, or `Merger.uses` denies it. */
  layerOf(id: number): MergeLayer;
  /** Requests of hosts so far: a count that grows with each. While it stands still the hosts are at rest. */
  requests(): number;
  /** Requests of hosts that are not answered yet. */
  inFlight(): number;
  /**
   * The layers are one: the record is appended in this turn, and is not durable yet. Whoever looks through `from`
   * looks through `into` from now on: chains, parents, names and owners are to be found anew in the metadata.
   */
  merged(from: number, into: number): void;
  /**
   * That record is durable: the file of `from` may go as soon as no read uses it. To unlink a file of many extents
   * may take milliseconds for each of them: its space is to be given back in pieces, on the pool, before.
   */
  removable(from: number): void;
  /** A merge is over, or was given up: what of its layers is garbage may go now. */
  released(): void;
  /** The file of a layer could not be synced: that is final for the volume (I10). */
  syncFailed(errno: number, file: DiskFile): void;
}

export interface MergerOptions {
  readonly paused?: boolean;
  /** Bytes a second; null, or absent, for what the hosts leave. */
  readonly limit?: number | null;
}

/** The merges of one volume, one after another. */
export interface MergeQueue {
  readonly status: MergeStatus;
  /** Layers may have become mergeable, or garbage. Looked at in a later turn. */
  kick(): void;
  /** A merge on its way uses the file of this layer, or lies on it: it must stay, until `merged` or `released`. */
  uses(layer: number): boolean;
  /** Nothing begins any more; what is on its way ends. */
  pause(): void;
  /** Goes on, also after a failure. */
  resume(): void;
  /** Bytes a second, at least 1; null for what the hosts leave. */
  limit(bytesPerSecond: number | null): void;
  /** As `pause`, for good; resolves when nothing of it is in flight, and before the files are closed. */
  stop(): Promise<void>;
}
