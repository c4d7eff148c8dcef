/** What the replicator says about itself: the words of `status --json` (design section 9). */
import type { EventKind } from './event-kinds.ts';

export const MIRROR_STATES = [
  'connecting',
  'comparing',
  'shipping',
  'streaming',
  'delta',
  'paused',
  'diverged',
  'not-converging',
] as const;

export type MirrorState = (typeof MIRROR_STATES)[number];
export type MirrorMode = 'async' | 'sync';
/** What a synchronous mirror does when it stalls: go on without it after a deadline, or make writes wait. */
export type StallPolicy = 'degrade' | 'block';

/** Position of a copy: an epoch of a generation. */
export interface Position {
  readonly generation: number;
  readonly epoch: number;
}

/** What of a mirror its record says. */
export interface MirrorRecordStatus {
  /** `blockferry`: another node, for whom everything works. `nbd`: any other server, or one that was not reached yet. */
  readonly kind: 'nbd' | 'blockferry';
  /** Name of that node; null for any other server. */
  readonly node: string | null;
  /** Connections that carry the link, 1 to 16. */
  readonly lanes: number;
  /** Bytes per second sent to it at most; null: no limit. */
  readonly limit: number | null;
}

/** Whether payloads on their way to another node are compressed: while that pays, by what is measured, or never. */
export type CompressMode = 'auto' | 'off';

export interface CompressionStatus {
  readonly mode: CompressMode;
  /** Payloads are compressed now. */
  readonly active: boolean;
  /** Which part of their bytes is left, while it is active; else null. */
  readonly ratio: number | null;
  /** Bytes of payloads that were sent compressed since the node started: before, and after. */
  readonly bytes_in: number;
  readonly bytes_out: number;
}

/** What a mirror says of itself while it runs. */
export interface MirrorRunningStatus {
  readonly uri: string;
  /** The NBD metadata context that tells which blocks it may lack. */
  readonly dirty_context: string;
  readonly mode: MirrorMode;
  readonly stall_policy: StallPolicy;
  /** When it is sent delta runs, as operators write it; null: it follows every write. */
  readonly delta: string | null;
  /** ISO 8601: the time of what the last run of its schedule brought; null: none did. */
  readonly last_run_at: string | null;
  /** Writes are slowed down while it lags more; null: never. */
  readonly lag_limit_seconds: number | null;
  /** How long a write is held back for it now; 0: not at all. */
  readonly host_delay_ms: number;
  readonly state: MirrorState;
  /** The mirror holds a state that the primary really had (up to the epoch in flight, for a plain NBD mirror). */
  readonly consistent: boolean;
  readonly staged_bytes: number;
  /** Marked in the delta bitmap, or still to be compared. */
  readonly dirty_bytes: number;
  readonly suspect_bytes: number;
  readonly lag_seconds: number;
  /** Null while unknown: never a guess. */
  readonly eta_seconds: number | null;
  /** Payload sent since the node started: all of it, and the part sent in delta runs. */
  readonly bytes_sent: number;
  readonly delta_bytes_sent: number;
  readonly bytes_compared: number;
  readonly compression: CompressionStatus;
  readonly last_error: string | null;
  /** What the mirror does not let this node do, as far as it told since the link stands; empty while there is none. */
  readonly refuses: readonly string[];
  /** What the mirror refused last to do about a snapshot, since the node started, and why; null: nothing. */
  readonly last_refusal: string | null;
}

export interface MirrorStatus extends MirrorRecordStatus, MirrorRunningStatus {
  /** What it holds, durably; null while that is not known. */
  readonly position: Position | null;
}

/** What a comparison of a mirror with its volume found, both as they were at one moment. */
export interface VerifyReport {
  readonly bytes_compared: number;
  /** Bytes of the blocks that differ. */
  readonly bytes_differing: number;
  /** The first VERIFY_RANGES_MAX runs of them, in bytes. */
  readonly ranges: readonly { readonly offset: number; readonly length: number }[];
  /** They are being sent again. */
  readonly repaired: boolean;
}

/** Of a secondary. `waiting`: no link. `receiving`: a delta run is under way. `streaming`: every epoch follows. */
export const SOURCE_STATES = ['waiting', 'receiving', 'streaming', 'failed'] as const;
export type SourceState = (typeof SOURCE_STATES)[number];

/** What a secondary says of the primary that it receives from. */
export interface SourceStatus {
  /** Name of the primary's node. */
  readonly node: string;
  /** Id of the primary's volume; null before the first contact. */
  readonly volume_id: string | null;
  readonly state: SourceState;
  /** ISO 8601: the primary's time of what this copy holds; null while it holds nothing. */
  readonly consistent_at: string | null;
  /** Between that time and the last that was heard of the primary, or now while there is no link. */
  readonly lag_seconds: number | null;
  /** Epochs that arrived, are durable, are readable here; while a restart takes up the journal, as far as it came. */
  readonly received_epoch: number;
  readonly durable_epoch: number;
  readonly applied_epoch: number;
  readonly bytes_received: number;
  readonly journal_bytes: number;
  readonly last_error: string | null;
}

/** Something an operator may want to know. `kind` is stable; the same words appear in the log. */
export interface BlockferryEvent {
  readonly sequence: number;
  /** ISO 8601. */
  readonly time: string;
  readonly kind: EventKind;
  readonly volume: string | null;
  readonly mirror: string | null;
  readonly message: string;
}

export interface EventSink {
  emit(event: Omit<BlockferryEvent, 'sequence' | 'time'>): void;
}
