/**
 * The state of a volume as its metadata log tells it, and what every fold of a record asks of it.
 */
import { BLOCK_BYTES, VOLUME_BYTES_MAX } from '../io/limits.ts';
import type { Place } from './containers.ts';
import type { BlockSet } from './maps/block-set.ts';
import type { Refusal } from './refusals.ts';
import type { Generation, MirrorSchedule } from './log/records.ts';
import type { LayerMap } from './maps/layer-map.ts';

export interface LayerRecord {
  readonly id: number;
  /** The layer below; 0 for the base layer. */
  readonly parent: number;
  /** Nothing is written to it any more, and `map` is exact. */
  readonly sealed: boolean;
  /** A sealed layer keeps the size that it had: it may be smaller or larger than the volume. */
  readonly map: LayerMap;
  /** Of a base layer: the container that holds its data; null: a file in the volume's directory. */
  readonly place: Place | null;
}

/** What a copy holds: an epoch of a generation. */
export interface CopyPosition {
  readonly generation: number;
  readonly epoch: number;
}

/** The epoch whose end the content of a snapshot is. */
export interface SnapshotMark extends CopyPosition {
  /** It came from the primary that the volume is a mirror of. */
  readonly shipped: boolean;
}

export interface SnapshotRecord {
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly name: string;
  readonly layer: number;
  /** Wall-clock milliseconds since 1970. */
  readonly createdAt: number;
  readonly sizeBytes: number;
  /** Not there for the replicator's own, for copies, and for those of versions before 0.5. */
  readonly mark?: SnapshotMark;
}

/** The same, with the primary's wall-clock milliseconds since 1970 of the end of that epoch. */
export interface TimedPosition extends CopyPosition {
  readonly time: number;
}

/** A delta run that a mirror receives: ids of the run and of the snapshot that is shown meanwhile. */
export interface RunRecord extends TimedPosition {
  readonly run: string;
  /** What the history is when the run is committed. */
  readonly generations: readonly Generation[];
  readonly base: string;
  /** What the run does not bring is zeroes. */
  readonly full: boolean;
  /** Bytes of the volume below which the run is durable. */
  readonly cursor: number;
}

/** A delta run that a primary sends: ids of the run and of the snapshot that it is read from. */
export interface MirrorRunRecord extends TimedPosition {
  readonly run: string;
  readonly snapshot: string;
}

export interface MirrorRecord {
  readonly id: number;
  readonly uri: string;
  readonly mode: 'async' | 'sync';
  readonly stallPolicy: 'degrade' | 'block';
  readonly paused: boolean;
  /** Connections that carry the link to it. */
  readonly lanes: number;
  /** Bytes per second sent to it at most; null: no limit. */
  readonly limit: number | null;
  /** When it is sent what changed. */
  readonly schedule: MirrorSchedule;
  /** Lag in milliseconds above which writes of the host are slowed down; null: none. */
  readonly lagLimitMs: number | null;
  /** What it is sent may be compressed, while that pays; or never is. */
  readonly compress: 'auto' | 'off';
  /** Wall-clock milliseconds of what the last run of its schedule brought; null: none did yet. */
  readonly ranAt: number | null;
  /** It is a blockferry node, once known as one: by name, and by the id of its volume when it told one. */
  readonly peer: { readonly node: string; readonly volumeId: string | null } | null;
  /** What it is known to have held, durably. */
  readonly acknowledged: CopyPosition | null;
  /** A run that was begun and is not known to be over. */
  readonly run: MirrorRunRecord | null;
  /** Blocks that differ. Folded from records: what is durable, or buffered for the next commit. */
  readonly dirty: BlockSet;
  /** Blocks that may differ and are to be compared. */
  readonly suspect: BlockSet;
}

export interface VolumeState {
  /** 32 hexadecimal digits; empty before the first record. */
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** Wall-clock milliseconds since 1970. */
  readonly createdAt: number;
  /** Who descends from whom: oldest first, their numbers rise. Empty on a secondary that holds nothing yet. */
  readonly generations: readonly Generation[];
  /** Number of the last of them; 0 when there is none. */
  readonly generation: number;
  /** No epoch up to this one is given to new writes by another run of the process. */
  readonly reservedEpoch: number;
  /** The volume is a secondary: it takes what the node of that name sends, of the volume of that id once it is known. */
  readonly source: { readonly node: string; readonly volumeId: string | null } | null;
  /** What it does not let that node do; of one that takes writes, what it will not when it is a secondary. */
  readonly refuses: readonly Refusal[];
  /** What a secondary holds, complete and durable; null when nothing. */
  readonly position: TimedPosition | null;
  /**
   * It was promoted, and what its journal holds behind `after`, up to `last`, is not known to be durable below that layer. Null: it is.
   */
  readonly kept: {
    readonly layer: number;
    readonly generation: number;
    readonly after: number;
    readonly last: number;
  } | null;
  /** The delta run that a secondary is in the middle of. */
  readonly run: RunRecord | null;
  /** Why no writes are taken: another node goes on under a newer generation. Null: nothing is known of one. */
  readonly fenced: string | null;
  /** A secondary that took writes: outside of the sets of that mirror entry it holds what its line held there. Null: it is none. */
  readonly rejoin: (CopyPosition & { readonly mirror: number }) | null;
  /** A mirror was asked to go on from that epoch in a generation of that id, and it is not known whether it did. */
  readonly handover: {
    readonly mirror: number;
    readonly id: string;
    readonly epoch: number;
  } | null;
  /** The snapshot below the base layer, by the ids of its volume and its own; null: nothing is below it. */
  readonly origin: { readonly volume: string; readonly snapshot: string } | null;
  /** Parents before their children, as they came. */
  readonly layers: ReadonlyMap<number, LayerRecord>;
  /** The layer that takes writes; 0 before the first. */
  readonly topLayer: number;
  /** Greater than the number of any layer that there ever was. */
  readonly nextLayer: number;
  /** By id, in the order in which they were made. */
  readonly snapshots: ReadonlyMap<string, SnapshotRecord>;
  readonly mirrors: ReadonlyMap<number, MirrorRecord>;
  /** Regions that were recorded hot. */
  readonly hot: ReadonlySet<number>;
  readonly nextMirrorId: number;
  /** The last word about writing is `closed-clean`, or nothing was ever written. */
  readonly clean: boolean;
  /** The run of the system in which it was last opened for writing; empty before the first. */
  readonly boot: string;
  /** The run of the system in which a sync failed: while it lasts its page cache is not believed. Empty: none. */
  readonly failedBoot: string;
}

/** What a layer does not hold is looked for below it; if nothing is below, it reads as zeroes. */
export function hasBelow(state: VolumeState, layer: LayerRecord): boolean {
  return layer.parent !== 0 || state.origin !== null;
}

/** A sync failed in this run of the system, which is called `boot`: the page cache may hold what the disk does not. */
export function isDistrusted(state: VolumeState, boot: string): boolean {
  return boot !== '' && state.failedBoot === boot;
}

/** A record that cannot follow the ones before it. */
export class RecordRefused extends Error {}

/** An id that names no run of the system: its page cache proves nothing. */
export const NO_BOOT = '0'.repeat(32);

export type Writable<Value> = { -readonly [Key in keyof Value]: Value[Key] };
/** The same, for those who fold. */
export interface MutableState extends Writable<
  Omit<VolumeState, 'layers' | 'snapshots' | 'mirrors' | 'hot'>
> {
  readonly layers: Map<number, Writable<LayerRecord>>;
  readonly snapshots: Map<string, SnapshotRecord>;
  readonly mirrors: Map<number, Writable<MirrorRecord>>;
  readonly hot: Set<number>;
}

export function emptyState(): VolumeState {
  const state: MutableState = {
    id: '',
    name: '',
    sizeBytes: 0,
    createdAt: 0,
    generations: [],
    generation: 0,
    reservedEpoch: 0,
    source: null,
    refuses: [],
    position: null,
    kept: null,
    run: null,
    fenced: null,
    rejoin: null,
    handover: null,
    origin: null,
    layers: new Map<number, LayerRecord>(),
    topLayer: 0,
    nextLayer: 1,
    snapshots: new Map<string, SnapshotRecord>(),
    mirrors: new Map<number, MirrorRecord>(),
    hot: new Set<number>(),
    nextMirrorId: 1,
    clean: true,
    boot: '',
    failedBoot: '',
  };
  return state;
}

/** Throws RecordRefused. */
export function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new RecordRefused(message);
}

/** A size that a volume may have. Throws RecordRefused. */
export function checkSize(sizeBytes: number): void {
  check(Number.isSafeInteger(sizeBytes), 'the size is not an integer');
  check(sizeBytes > 0 && sizeBytes <= VOLUME_BYTES_MAX, `the size ${sizeBytes} is out of range`);
  check(sizeBytes % BLOCK_BYTES === 0, `the size ${sizeBytes} is not whole blocks`);
}

/** Throws RecordRefused for a layer that does not exist. */
export function layerOf(state: MutableState, layer: number): Writable<LayerRecord> {
  const found = state.layers.get(layer);
  check(found !== undefined, `layer ${layer} is unknown`);
  return found;
}
