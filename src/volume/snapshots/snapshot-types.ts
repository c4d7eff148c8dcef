/** Snapshots of a volume, as the rooms above the volume see them. */
import type { BlockDevice } from '../../io/device.ts';
import type { MetadataRecord } from '../log/records.ts';
import type { CopyPosition, SnapshotMark } from '../volume-state.ts';

export interface SnapshotInfo {
  /** 32 hexadecimal digits. Another content is another id: refresh and synchronise give a new one. */
  readonly id: string;
  readonly name: string;
  /** Wall-clock milliseconds since 1970 at which its content was the volume's. */
  readonly createdAt: number;
  /** The volume's size then. */
  readonly sizeBytes: number;
}

/** Hears of snapshots that operators see: what keeps them the same elsewhere. */
export interface SnapshotWitness {
  /**
   * In the turn of the instant: changes that are in the snapshot were answered before, all others begin after it. It takes
   * the place of the snapshot `replaces`. Answers which epoch ends there. `removed` follows when it could not be kept.
   */
  taken(snapshot: Twin, replaces: string | null): CopyPosition;
  /** There is no such snapshot any more. */
  removed(id: string): void;
}

/** What makes a snapshot on one node the same as that on another. */
export interface Twin {
  readonly id: string;
  readonly name: string;
  readonly createdAt: number;
}

/** A snapshot and the space that it takes. */
export interface SnapshotUsage extends SnapshotInfo {
  /** Bytes of its content that nothing else holds: what a delete would give back. */
  readonly ownBytes: number;
  /** Bytes of its content that it shares with other snapshots, or with the volume. */
  readonly sharedBytes: number;
}

/** A run of blocks that two points in time hold in different layers. Whole blocks, in bytes. */
export interface ChangedRange {
  readonly offset: number;
  readonly length: number;
  /** Reads as zeroes at the later point. */
  readonly zero: boolean;
}

/** The work that follows a delete: layers that no snapshot names any more become one with their neighbours. */
export interface MergeStatus {
  /** `failed`: an error of the disk stopped it; `reason` says which, and resuming tries again. */
  readonly state: 'idle' | 'running' | 'paused' | 'failed';
  /** Bytes of the merge on its way. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Merges that follow it. */
  readonly waiting: number;
  /** Most bytes a second; null: what the host leaves. */
  readonly limit: number | null;
  readonly reason: string | null;
}

export interface VolumeSnapshots {
  readonly merge: MergeStatus;

  /** In the order in which they were made; without hidden ones. */
  list(): SnapshotInfo[];

  /** The same with the space they take: all maps are looked through, in pieces, while others work. */
  measure(): Promise<SnapshotUsage[]>;

  /** A read-only device with the content of a snapshot: the same object while that snapshot exists. Null: no such name. */
  device(name: string): BlockDevice | null;

  /**
   * Keeps the present content under a name. Constant time; durable when it resolves.
   * @throws BlockferryError SNAPSHOT_NAME_INVALID, SNAPSHOT_EXISTS, SNAPSHOT_LIMIT, VOLUME_FAILED,
   *   METADATA_WRITE_FAILED: then there is no such snapshot
   */
  create(name: string): Promise<SnapshotInfo>;

  /** Another name for the content of a snapshot. Throws as `create`, and SNAPSHOT_NOT_FOUND. */
  copy(name: string, copyName: string): Promise<SnapshotInfo>;

  /** The name is gone when it resolves; its blocks are merged in the background. Throws SNAPSHOT_NOT_FOUND, METADATA_WRITE_FAILED. */
  delete(name: string): Promise<void>;

  /**
   * The volume's content becomes the snapshot's; what the volume is larger reads as zeroes. No data is copied. What the volume
   * held is given up. Throws SNAPSHOT_NOT_FOUND, SNAPSHOT_TOO_LARGE, VOLUME_FAILED, METADATA_WRITE_FAILED.
   */
  restore(name: string): Promise<void>;

  /**
   * As `restore`, for whole blocks `offset .. offset + length`, all at one instant. What differs is copied.
   * Throws also RANGE_INVALID.
   */
  restoreRange(name: string, offset: number, length: number): Promise<void>;

  /** The snapshot takes the volume's present content. Throws as `create`, and SNAPSHOT_NOT_FOUND. */
  refresh(name: string): Promise<SnapshotInfo>;

  /** The snapshot `to` takes the content of the snapshot `from`. Throws SNAPSHOT_NOT_FOUND, METADATA_WRITE_FAILED. */
  synchronise(from: string, to: string): Promise<SnapshotInfo>;

  /**
   * What changed from a snapshot to another, or to the present content (null), in ascending order, from byte `start` (a
   * block; 0 if not given) on: who asks piece by piece pays for each piece alone. A generator lives for one turn.
   * Throws SNAPSHOT_NOT_FOUND.
   */
  changed(from: string, to: string | null, start?: number): Generator<ChangedRange>;

  /**
   * For the replicator: a snapshot under a hidden name (it begins with a dot), which operators do not see. `atInstant` runs
   * in the turn of the instant: changes that are in the snapshot were answered before it, all others begin after it. It ran
   * also when this throws afterwards. Throws VOLUME_FAILED, METADATA_WRITE_FAILED: then there is no such snapshot.
   */
  freeze(name: string, atInstant: () => void): Promise<SnapshotInfo>;

  /**
   * Deletes a hidden snapshot, if it is there; or, with `records`, one that is there, and records those with it: all of it is durable, or
   * nothing. Throws METADATA_WRITE_FAILED.
   */
  discard(name: string, records?: readonly MetadataRecord[]): Promise<void>;

  /** `restore`, for a hidden snapshot. */
  restoreHidden(name: string): Promise<void>;

  /** Told of what becomes of snapshots that operators see; null: nobody is. */
  witness: SnapshotWitness | null;

  /**
   * For a mirror: keeps the present content as that snapshot of its primary, in place of the snapshot `replaces`, and records
   * more with it: all of it becomes durable, or nothing. What is replaced stays under a hidden name (`replacedName`) until `removeTwin`
   * of either. Does nothing when it is there. Throws as `create`, and SNAPSHOT_HAS_CLONES;
   * behind METADATA_WRITE_FAILED it is to be called again, and what it recorded may become durable with any later commit.
   */
  keepTwin(
    twin: Twin,
    replaces: string | null,
    mark: SnapshotMark,
    records: readonly MetadataRecord[],
  ): Promise<void>;

  /**
   * For a mirror: a hidden snapshot becomes that snapshot of its primary with the commit that follows; nothing waits for it
   * here. Throws SNAPSHOT_NAME_INVALID, SNAPSHOT_EXISTS, SNAPSHOT_LIMIT: nothing was changed.
   */
  showTwin(hidden: string, twin: Twin, mark: SnapshotMark): void;

  /**
   * For a mirror: deletes the snapshot of that id; nothing when there is none. What it took the place of is there again. Throws SNAPSHOT_HAS_CLONES, METADATA_WRITE_FAILED. */
  removeTwin(id: string): Promise<void>;

  /**
   * For a mirror: the snapshot of that id is its own from now on, whatever its primary has; nothing when there is none. Throws
   * METADATA_WRITE_FAILED: it is to be called again, or is recorded with any later commit.
   */
  ownTwin(id: string): Promise<void>;

  /** Another name for the content of the snapshot of that id: a hidden one, that is free. Throws SNAPSHOT_NOT_FOUND, METADATA_WRITE_FAILED. */
  shadow(id: string, hidden: string): Promise<SnapshotInfo>;

  /** Names of the hidden snapshots. */
  readonly hidden: readonly string[];

  /** Merging stops after the piece on its way, and goes on where it was. */
  pauseMerge(): void;
  resumeMerge(): void;
  /** Bytes a second; null for what the host leaves. */
  limitMerge(bytesPerSecond: number | null): void;
}
