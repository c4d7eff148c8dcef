/** What a node says about itself, and what may be asked of it: the words of the control API (design section 9). */
import type { NbdServerCounters } from '../nbd/server/server.ts';
import type { TlsMode } from './config/defaults.ts';
import type { Role } from '../replicator/hosted-volume.ts';
import type { MirrorStatus, Position, SourceStatus } from '../replicator/status.ts';
import type { ContainerKind } from '../volume/containers.ts';
import type { Refusal } from '../volume/refusals.ts';
import type { IoCounts } from '../volume/io-counts.ts';
import type { ChangedRange, MergeStatus } from '../volume/snapshots/snapshot-types.ts';

export const VOLUME_ROLES = [
  'standalone',
  'primary',
  'secondary',
] as const satisfies readonly Role[];

/** Who may use a volume, and how. Addresses and names that may are the operator's own business. */
export interface VolumeAccess {
  readonly read_only: boolean;
  /** Left out of the list of exports. */
  readonly hidden: boolean;
  readonly tls: TlsMode;
}

export interface VolumeStatus {
  readonly name: string;
  readonly id: string;
  readonly size_bytes: number;
  /** Bytes that the volume takes on the disk. */
  readonly allocated_bytes: number;
  /** A primary has mirrors; a standalone volume has none; a secondary is the mirror of a volume of another node. */
  readonly role: Role;
  /** Of a secondary: what it receives, and from whom. Null in the other roles. */
  readonly source: SourceStatus | null;
  /** What the volume does not let its primary do while it is a secondary. */
  readonly refuses: readonly Refusal[];
  /** Of a secondary: the primary's time of what it holds, and how old that is. Null in the other roles, and while unknown. */
  readonly consistent_at: string | null;
  readonly lag_seconds: number | null;
  readonly generation: number;
  readonly position: Position;
  /** NBD connections that use the volume now. */
  readonly connections: number;
  readonly access: VolumeAccess;
  /** How its reads and writes went since the node started. */
  readonly io: IoCounts;
  /** Why the volume refuses writes, or null: until the system is restarted, or, held for a damaged journal, until an operator decides. */
  readonly failure: string | null;
  /** Why writes wait until an operator decides: a mirror of the volume was promoted. Null: they do not. */
  readonly fenced: string | null;
  /** What it held when it was promoted: blocks that are overwritten since are kept until a mirror is in step. Null: nothing is. */
  readonly kept_for_return: Position | null;
  /** How many there are. */
  readonly snapshots: number;
  /** The snapshot that it is a clone of, by its export name; null for a volume that is none. */
  readonly clone_of: string | null;
  /** The device, file or export that its base layer lies on; null: the data directory. */
  readonly on: ContainerStatus | null;
  readonly merge: MergeProgress;
  readonly mirrors: readonly MirrorStatus[];
}

/** A volume that was promoted. */
export interface PromotionStatus extends VolumeStatus {
  /** What it holds; null: it took writes before, and goes on with what it has. */
  readonly promotion: {
    /** The last epoch of its old primary that it has. */
    readonly position: Position;
    /** ISO 8601: the primary's time of that state. */
    readonly consistent_at: string;
    /** How old that state is. */
    readonly age_seconds: number;
    /** Epochs that the primary is known to have closed and that are not here. */
    readonly dropped_epochs: number;
    /** The snapshot whose content it has; null: that latest state. Then that state is the snapshot `kept_as`. */
    readonly at: string | null;
    readonly kept_as: string | null;
  } | null;
  /** Epochs of its old primary that it has in part, since the journal with them was damaged and is given up; null: none. */
  readonly given_up: {
    readonly generation: number;
    readonly first_epoch: number;
    readonly last_epoch: number;
  } | null;
}

/** What is left to do on one node. */
export interface NextStep {
  readonly node: string;
  /** URI of the mirror that it is about. */
  readonly mirror: string;
  readonly command: string;
}

/** A volume whose writes moved. */
export interface SwitchoverStatus extends VolumeStatus {
  /** How the new primary reaches the old one, its mirror; null: nobody said. */
  readonly back: string | null;
  /** Other mirrors that follow the new primary when they are told so. */
  readonly next: readonly NextStep[];
}

/** An old primary that became a mirror. */
export interface FailbackStatus extends VolumeStatus {
  readonly failback: {
    /** The snapshot of what it held. */
    readonly kept_as: string;
    /** What both sides held, and the bytes of the blocks that were changed here since. Null: not known, all is compared. */
    readonly common: Position | null;
    readonly bytes_that_may_differ: number;
    /** How the new primary reaches it; null: nobody said. */
    readonly uri: string | null;
  };
}

/** What a volume lies on, other than the data directory. */
export interface ContainerStatus {
  readonly kind: ContainerKind;
  /** An absolute path, or an NBD URI. */
  readonly location: string;
  /** Why it is out of reach, or null. Requests wait meanwhile, and fail in the end. */
  readonly trouble: string | null;
}

/** The work that follows the deleting of snapshots. */
export interface MergeProgress {
  readonly state: MergeStatus['state'];
  /** Of the merge on its way. */
  readonly done_bytes: number;
  readonly total_bytes: number;
  /** Merges that follow it. */
  readonly waiting: number;
  /** Bytes a second at most; null: what the host leaves. */
  readonly limit: number | null;
  /** Why it failed, or null. */
  readonly reason: string | null;
}

export interface SnapshotStatus {
  readonly volume: string;
  readonly name: string;
  /** What NBD clients call it. */
  readonly export: string;
  /** 32 hexadecimal digits; another content is another id. */
  readonly id: string;
  /** ISO 8601: when its content was the volume's. */
  readonly created_at: string;
  readonly size_bytes: number;
  /** NBD connections that use it now. */
  readonly connections: number;
}

/** A snapshot with the space that it takes: that is looked for in the maps of all layers. */
export interface MeasuredSnapshot extends SnapshotStatus {
  /** Bytes that nothing else holds: what deleting it gives back. */
  readonly own_bytes: number;
  /** Bytes that other snapshots, or the volume, hold too. */
  readonly shared_bytes: number;
}

/** A piece of what changed between a snapshot and another, or the present content. */
export interface SnapshotDiff {
  /** Ids: pages of one difference have the same. */
  readonly from: string;
  /** Null: the present content. */
  readonly to: string | null;
  /** Whole blocks, ascending. `zero`: it reads as zeroes at the later point. */
  readonly ranges: readonly ChangedRange[];
  /** The `offset` of the next page; null after the last. */
  readonly next: number | null;
}

/** A volume directory that could not be opened. Nothing in it was changed. */
export interface DamagedVolume {
  readonly id: string;
  readonly reason: string;
}

/** What is left: `low` below the threshold of the warning, `full` when nearly nothing is. */
export type SpaceLevel = 'ok' | 'low' | 'full';

/** The space of the data directory's file system. Null: it does not say, or was not asked yet. */
export interface SpaceStatus {
  readonly level: SpaceLevel | null;
  /** That this node may take. */
  readonly free_bytes: number | null;
  readonly total_bytes: number | null;
  /** Of all volumes. */
  readonly size_bytes: number;
  /** Of all volumes with their snapshots. */
  readonly allocated_bytes: number;
  /** `size_bytes` as a multiple of what is free and what is allocated. Over 1, not every volume can be filled. */
  readonly over_provisioning: number | null;
}

export interface NodeStatus {
  readonly node: string;
  readonly volumes: readonly VolumeStatus[];
  readonly damaged: readonly DamagedVolume[];
  readonly space: SpaceStatus;
}

/** The process behind a control address. */
export interface NodeFacts {
  readonly name: string;
  readonly version: string;
  readonly pid: number;
  /** Where NBD clients connect, as addresses are written. */
  readonly nbd: readonly string[];
  readonly tls: TlsMode;
  /** NBD clients, now and since the node started. */
  readonly clients: NbdServerCounters;
}

/** What reading the configuration again changed. */
export interface ReloadReport {
  readonly reloaded: true;
  /** Keys that changed in the file and wait for a restart of the node. */
  readonly restart_needed: readonly string[];
}

/** What can be done to a mirror that is there; the last part of the path in the control API. */
export const MIRROR_ACTIONS = ['remove', 'pause', 'resume', 'resync', 'sync'] as const;
export type MirrorAction = (typeof MIRROR_ACTIONS)[number];
