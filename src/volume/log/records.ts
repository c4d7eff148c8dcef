/** The records of the metadata log. Their bytes are in record-codec.ts and docs/internals/metadata-log.md. */
import type { ContainerKind } from '../containers.ts';
import type { RegionState } from '../maps/block-set.ts';
import type { Refusal } from '../refusals.ts';
import type { SnapshotMark } from '../volume-state.ts';
import type { BlockState } from '../maps/layer-map.ts';

/** Which of a mirror's two sets of blocks: known to differ, or to be compared first. */
export type MirrorSet = 'dirty' | 'suspect';

/** First record of every log; a compacted log repeats it with the values of that moment. */
export interface VolumeCreated {
  readonly kind: 'volume-created';
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** Wall-clock milliseconds since 1970. */
  readonly createdAt: number;
  readonly nextMirrorId: number;
}
export interface Resized {
  readonly kind: 'resized';
  readonly sizeBytes: number;
}
export interface LayerCreated {
  readonly kind: 'layer-created';
  readonly layer: number;
  /** The layer below; 0 for the base layer. It becomes the one that takes writes. */
  readonly parent: number;
}
/** The data of the base layer is not in a file of the volume's directory. Follows `layer-created`. */
export interface LayerPlaced {
  readonly kind: 'layer-placed';
  readonly layer: number;
  readonly container: ContainerKind;
  /** An absolute path, or an NBD URI in its canonical form. */
  readonly location: string;
}
/** The layer has another size than the volume: it was sealed before the volume was resized. */
export interface LayerResized {
  readonly kind: 'layer-resized';
  readonly layer: number;
  readonly sizeBytes: number;
}
/** The volume is a clone: below its base layer lies a snapshot of another volume. Comes before the first layer. */
export interface Cloned {
  readonly kind: 'cloned';
  /** Ids of that volume and that snapshot, 32 hexadecimal digits each. */
  readonly volume: string;
  readonly snapshot: string;
}
/** Nothing is written to the layer any more, and its map is exact. */
export interface LayerSealed {
  readonly kind: 'layer-sealed';
  readonly layer: number;
}
/** `into` holds what both held, for all who looked through `from`, and takes its place. Both were sealed. */
export interface LayersMerged {
  readonly kind: 'layers-merged';
  readonly from: number;
  readonly into: number;
}
/** A layer that nobody looks through is gone. */
export interface LayerRemoved {
  readonly kind: 'layer-removed';
  readonly layer: number;
}
/** The top, which holds nothing, is gone: the layer below it, which nobody else looks through, takes writes again. */
export interface TopRemoved {
  readonly kind: 'top-removed';
  /** The top that goes. */
  readonly layer: number;
}
/** A sealed layer, and what lies below it, is kept under a name. */
export interface SnapshotCreated {
  readonly kind: 'snapshot-created';
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly name: string;
  readonly layer: number;
  /** Wall-clock milliseconds since 1970 at which the content was the volume's. */
  readonly createdAt: number;
  /** The volume's size then. */
  readonly sizeBytes: number;
  /** The epoch whose end it is, if that is known. */
  readonly mark?: SnapshotMark;
}
/** The name is free again. */
export interface SnapshotRemoved {
  readonly kind: 'snapshot-removed';
  readonly id: string;
}
/** A run of blocks of a layer took a state, durably. */
export interface Allocated {
  readonly kind: 'allocated';
  readonly layer: number;
  readonly first: number;
  readonly count: number;
  readonly state: BlockState;
}
/** The whole map of one region of a layer: shorter than many runs. */
export interface LayerRegion {
  readonly kind: 'layer-region';
  readonly layer: number;
  readonly region: number;
  readonly data: Uint8Array;
  readonly zero: Uint8Array;
}
export interface MirrorAdded {
  readonly kind: 'mirror-added';
  readonly mirror: number;
  readonly uri: string;
  readonly mode: 'async' | 'sync';
  readonly stallPolicy: 'degrade' | 'block';
}
export interface MirrorRemoved {
  readonly kind: 'mirror-removed';
  readonly mirror: number;
}
export interface MirrorPaused {
  readonly kind: 'mirror-paused';
  readonly mirror: number;
  readonly paused: boolean;
}
/** The bits of one region replace what was known of it. */
export interface MirrorBits {
  readonly kind: 'mirror-bits';
  readonly mirror: number;
  readonly set: MirrorSet;
  readonly region: number;
  readonly state: RegionState;
  /** LEAF_BYTES when `state` is mixed, else null. */
  readonly leaf: Uint8Array | null;
}
/** A run of blocks entered or left a mirror's set: short for uniform regions in a row. */
export interface MirrorBitsRun {
  readonly kind: 'mirror-bits-run';
  readonly mirror: number;
  readonly set: MirrorSet;
  readonly first: number;
  readonly count: number;
  readonly value: boolean;
}
export interface MirrorBitsCleared {
  readonly kind: 'mirror-bits-cleared';
  readonly mirror: number;
  readonly set: MirrorSet;
}
export interface MirrorBitsAll {
  readonly kind: 'mirror-bits-all';
  readonly mirror: number;
  readonly set: MirrorSet;
}
export interface RegionsHot {
  readonly kind: 'regions-hot';
  readonly regions: readonly number[];
}
export interface RegionsCold {
  readonly kind: 'regions-cold';
  readonly regions: readonly number[];
}
/** Versions before 0.4 had no history of generations, only a number. It is read, and written no more. */
export interface GenerationNumbered {
  readonly kind: 'generation-numbered';
  readonly generation: number;
}
/** One era of writing. */
export interface Generation {
  /** Counts from 1. */
  readonly number: number;
  /** 32 hexadecimal digits, random: two nodes that open one alone never open the same. */
  readonly id: string;
  /** Its first epoch, from 1 on: the one before it is the last of the generation before. */
  readonly firstEpoch: number;
}
/** A generation follows those that are there. */
export interface GenerationOpened extends Generation {
  readonly kind: 'generation-opened';
}
/** These generations, oldest first, take the place of those that are there. */
export interface HistorySet {
  readonly kind: 'history-set';
  readonly generations: readonly Generation[];
}
/** No epoch up to this one is given to new writes by another run of the process. */
export interface EpochsReserved {
  readonly kind: 'epochs-reserved';
  readonly epoch: number;
}
/** The volume is a secondary of that node; `volumeId` is null until the first contact. */
export interface SourceBound {
  readonly kind: 'source-bound';
  readonly node: string;
  /** 32 hexadecimal digits. */
  readonly volumeId: string | null;
}
/** The volume is no secondary any more; epochs up to its position count as reserved. */
export interface SourceCleared {
  readonly kind: 'source-cleared';
}
/**
 * The volume was promoted with a journal that is not part of it for good: below `layer`, the top from this commit on, belongs what
 * the journal holds behind epoch `after`, up to epoch `last`.
 */
export interface JournalKept {
  readonly kind: 'journal-kept';
  readonly layer: number;
  /** The one that was opened. */
  readonly generation: number;
  readonly after: number;
  readonly last: number;
}
/** All of it is part of the volume for good. */
export interface JournalReleased {
  readonly kind: 'journal-released';
}
/** What the volume does not let its primary do, while it is a secondary. Takes the place of what was recorded before. */
export interface SourcePolicy {
  readonly kind: 'source-policy';
  readonly refuses: readonly Refusal[];
}
/** The snapshot is the volume's own: it is not deleted because its primary has it no more. */
export interface SnapshotKept {
  readonly kind: 'snapshot-kept';
  /** 32 hexadecimal digits. */
  readonly id: string;
}
/** What a secondary holds, complete and durable. */
export interface PositionReached {
  readonly kind: 'position';
  readonly generation: number;
  readonly epoch: number;
  /** The primary's wall-clock milliseconds since 1970 at the end of that epoch. */
  readonly time: number;
}
/** A secondary begins to receive a delta run; its content of this moment is kept as the snapshot `base`. */
export interface RunOpened {
  readonly kind: 'run-opened';
  /** 32 hexadecimal digits. */
  readonly run: string;
  /** What it holds when the run is committed. */
  readonly generation: number;
  readonly epoch: number;
  readonly time: number;
  readonly generations: readonly Generation[];
  /** 32 hexadecimal digits. */
  readonly base: string;
  /** What the run does not bring is zeroes. */
  readonly full: boolean;
}
/** Everything of the run below `cursor`, in bytes of the volume, is durable. */
export interface RunMarked {
  readonly kind: 'run-marked';
  readonly run: string;
  readonly cursor: number;
}
/** The run is over. If it is committed, its position and its history are the volume's from now on. */
export interface RunClosed {
  readonly kind: 'run-closed';
  readonly run: string;
  readonly committed: boolean;
}
/** The mirror is a blockferry node: it is never used as a plain NBD server again. */
export interface MirrorPeer {
  readonly kind: 'mirror-peer';
  readonly mirror: number;
  readonly node: string;
  /** 32 hexadecimal digits; null when it did not tell. */
  readonly volumeId: string | null;
}
/** The mirror held this durably; never less than was recorded before. */
export interface MirrorAcknowledged {
  readonly kind: 'mirror-acknowledged';
  readonly mirror: number;
  readonly generation: number;
  readonly epoch: number;
}
/** A delta run to the mirror was begun: it is read from `snapshot`, and gives the mirror that position. */
export interface MirrorRun {
  readonly kind: 'mirror-run';
  readonly mirror: number;
  /** 32 hexadecimal digits each. */
  readonly run: string;
  readonly snapshot: string;
  readonly generation: number;
  readonly epoch: number;
  readonly time: number;
}
/** The run was committed or given up. */
export interface MirrorRunOver {
  readonly kind: 'mirror-run-over';
  readonly mirror: number;
}
export interface MirrorOptions {
  readonly kind: 'mirror-options';
  readonly mirror: number;
  /** 1 to 16. */
  readonly lanes: number;
  /** Bytes per second, at least 1; null: no limit. */
  readonly limit: number | null;
}
/** When a mirror is sent what changed. */
export type MirrorSchedule =
  /** Every write follows. */
  | { readonly kind: 'stream' }
  /** By delta runs, so many milliseconds apart. */
  | { readonly kind: 'every'; readonly intervalMs: number }
  /** By a delta run when an operator asks for one. */
  | { readonly kind: 'on-demand' }
  /** When the host moves less than this, but at least that often. */
  | { readonly kind: 'quiet'; readonly bytesPerSecond: number; readonly intervalMs: number };
export interface MirrorPolicy {
  readonly kind: 'mirror-policy';
  readonly mirror: number;
  readonly schedule: MirrorSchedule;
  /** Writes of the host are slowed down while the mirror lags more than so many milliseconds; null: never. */
  readonly lagLimitMs: number | null;
}
/** Whether what a mirror is sent may be compressed. */
export interface MirrorCompress {
  readonly kind: 'mirror-compress';
  readonly mirror: number;
  /** `auto`: while that pays. `off`: never. */
  readonly mode: 'auto' | 'off';
}
/** A delta run of a schedule is over: the mirror holds what the volume held at that time. */
export interface MirrorRan {
  readonly kind: 'mirror-ran';
  readonly mirror: number;
  /** The primary's wall-clock milliseconds since 1970. */
  readonly time: number;
}
/** A sync failed in this run of the system: what its page cache holds may not be on the disk. */
export interface SyncFailed {
  readonly kind: 'sync-failed';
  /** 32 hexadecimal digits. */
  readonly boot: string;
}
/** Another node goes on from this volume under a newer generation: no writes are taken, whatever runs of the process follow. */
export interface Fenced {
  readonly kind: 'fenced';
  /** For operators. */
  readonly reason: string;
}
/**
 * A secondary that took writes of its own: outside of what the sets of `mirror` mark it holds what its line held at that
 * position. The entry stands for marks alone, and goes with them when a run is committed.
 */
export interface Rejoining {
  readonly kind: 'rejoining';
  readonly mirror: number;
  readonly generation: number;
  readonly epoch: number;
}
/** The mirror is asked to go on from that epoch, in a generation of that id: until it is known whether it did, no writes are taken. */
export interface HandingOver {
  readonly kind: 'handing-over';
  readonly mirror: number;
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly epoch: number;
}
/** The mirror did not go on, and will not. */
export interface HandoverOver {
  readonly kind: 'handover-over';
}
/** Writes may follow: until `closed-clean` the maps may lag behind the data files. */
export interface Opened {
  readonly kind: 'opened';
}
/** The run of the system in which writes may follow: while it lasts, what was written is in its page cache. */
export interface Booted {
  readonly kind: 'booted';
  /** 32 hexadecimal digits. */
  readonly id: string;
}
/** Nothing was written after this record: the maps are exact. */
export interface ClosedClean {
  readonly kind: 'closed-clean';
}

export type MetadataRecord =
  | VolumeCreated
  | Resized
  | LayerCreated
  | Cloned
  | LayerResized
  | LayerSealed
  | LayersMerged
  | LayerRemoved
  | TopRemoved
  | SnapshotCreated
  | SnapshotRemoved
  | Allocated
  | LayerRegion
  | MirrorAdded
  | MirrorRemoved
  | MirrorPaused
  | MirrorBits
  | MirrorBitsRun
  | MirrorBitsCleared
  | MirrorBitsAll
  | RegionsHot
  | RegionsCold
  | GenerationNumbered
  | Opened
  | Booted
  | ClosedClean
  | HistorySet
  | GenerationOpened
  | EpochsReserved
  | SourceBound
  | SourceCleared
  | PositionReached
  | RunOpened
  | RunMarked
  | RunClosed
  | MirrorPeer
  | MirrorAcknowledged
  | MirrorRun
  | MirrorRunOver
  | MirrorOptions
  | SyncFailed
  | LayerPlaced
  | Fenced
  | Rejoining
  | HandingOver
  | HandoverOver
  | MirrorPolicy
  | MirrorCompress
  | MirrorRan
  | SourcePolicy
  | SnapshotKept
  | JournalKept
  | JournalReleased;

export type RecordKind = MetadataRecord['kind'];
