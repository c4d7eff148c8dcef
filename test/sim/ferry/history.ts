/**
 * Histories of a primary with its mirrors: lists of steps that are data. They come from a seed alone (draw.ts), and any part of
 * the steps is a history too: that is how a failing one is made shorter.
 */
import type { MirrorPolicy } from '../../../src/replicator/policy/mirror-policy.ts';
import type { Refusal } from '../../../src/volume/refusals.ts';
import type { CallKind, DiskTraits } from '../sim-disk.ts';
import type { LineTraits } from './lines.ts';

export interface StepFault {
  readonly calls: readonly CallKind[];
  readonly files: 'log' | 'data' | 'any';
  readonly errno: number;
  readonly passes: number;
  readonly fails: number;
}

export type LineTrouble =
  'cut' | 'cut-lane' | 'stall-forth' | 'stall-back' | 'stall' | 'refused' | 'silent';
export type Verb =
  'pause' | 'resume' | 'resync' | 'remove' | 'add' | 'verify' | 'repair' | 'limit' | 'unlimit';

interface StepBase {
  /** Names the dice that fall while this step runs. */
  readonly salt: number;
  /** Virtual milliseconds until the next step. */
  readonly ms: number;
}

export interface Place {
  readonly offset: number;
  readonly length: number;
}

/** `node`: 0 is the primary, the others are mirrors, modulo how many there are. */
export type Step = StepBase &
  (
    | ({ kind: 'write'; fua: boolean } & Place)
    | ({ kind: 'zero'; fua: boolean; noHole: boolean } & Place)
    | ({ kind: 'trim'; fua: boolean } & Place)
    /** Writes and flushes in one turn. */
    | { kind: 'burst'; count: number; blocks: number; flushes: boolean }
    | { kind: 'flush' }
    | { kind: 'time' }
    | { kind: 'kill' | 'cut'; node: number; calls: number; downMs: number }
    | { kind: 'close'; node: number; downMs: number }
    | { kind: 'line'; mirror: number; how: LineTrouble }
    | { kind: 'mend'; mirror: number }
    | ({ kind: 'fault'; node: number } & StepFault)
    | { kind: 'full'; node: number; pages: number }
    | { kind: 'room'; node: number }
    | { kind: 'slow'; node: number; slowMs: number }
    | { kind: 'verb'; mirror: number; verb: Verb; options: MirrorOptions }
    /** What is not said stays. */
    | { kind: 'policy'; mirror: number; policy: Partial<MirrorPolicy> }
    /** Whether compressing pays from now on, where links are compressed. */
    | { kind: 'pays'; mirror: number; pays: boolean }
    /** A delta run of a schedule. */
    | { kind: 'sync'; mirror: number }
    /** Of a mirror, or (null) of the node, in bytes a second; null: no limit. */
    | { kind: 'limit'; mirror: number | null; bytesPerSecond: number | null }
    /** What a mirror does not let its primary do. */
    | { kind: 'refuse'; mirror: number; refuses: readonly Refusal[] }
    | { kind: 'probe'; mirror: number; how: 'kill' | 'cut' }
    | { kind: 'read'; mirror: number }
    | { kind: 'cover' }
    | { kind: 'snapshot'; how: 'take' | 'delete' | 'refresh'; name: string }
    /** All snapshots of the primary and of a mirror are read. */
    | { kind: 'read-snapshots'; mirror: number }
    | { kind: 'backup'; mirror: number }
    | { kind: 'set-back'; mirror: number }
  );

export interface MirrorOptions {
  readonly mode: 'async' | 'sync';
  readonly stallPolicy: 'degrade' | 'block';
  readonly lanes: number;
  readonly seeded: boolean;
  /** Follows every write if not given. */
  readonly policy?: Partial<MirrorPolicy>;
}

/** How payloads of links are compressed. */
export interface Compression {
  /** What one thread is said to take, in bytes a second. */
  readonly bytesPerSecond: number;
  /** Percent of each block that do not shrink. */
  readonly noise: number;
}

export interface History {
  readonly seed: number;
  readonly blocks: number;
  readonly mirrors: readonly MirrorOptions[];
  readonly traits: DiskTraits;
  readonly line: LineTraits;
  readonly journalFileBytes: number;
  readonly stagingBytes: number;
  /** What is sent ahead of the end of its epoch, in bytes. */
  readonly pushBytes: number;
  /** How long a lost link is bridged from memory, in milliseconds. */
  readonly graceMs: number;
  /** Null: nothing is. */
  readonly compression: Compression | null;
  /** Of the staging ring; null: there is none. */
  readonly ringBytes: number | null;
  /** Writes before there is a mirror: what the first delta run brings. */
  readonly filled: readonly Place[];
  /** The mirrors are in step when it begins. */
  readonly settled: boolean;
  readonly steps: readonly Step[];
  /** In the end mirrors with a schedule come to hold everything by it, before they follow every write. */
  readonly keepsSchedules: boolean;
  /** In the end limits stay, as far as a mirror can get everything in time. */
  readonly keepsLimits: boolean;
  /** How it ends: all finds back; a mirror is promoted, and the old primary becomes its mirror; or writes move there and back again. */
  readonly finale: 'heal' | Finale | Moves;
}

/** Of a pair that is in step, one move after another. */
export interface Moves {
  readonly moves: readonly Move[];
}

export interface Move {
  readonly what: 'switchover' | 'split';
  /** Who is asked. */
  readonly at: 'primary' | 'mirror';
  /** Virtual milliseconds. */
  readonly withinMs: number;
  /** Ends meanwhile of the node that gives the writes (0) or takes them (1): after so many calls to the disk. */
  readonly ends: Finale['ends'];
  /** What becomes of the line between them. */
  readonly line: 'open' | 'cut' | 'silent';
  /** Disks that have room for so many pages more until it is over, or (not `stays`) until their node begins anew. */
  readonly full: readonly {
    readonly node: 0 | 1;
    readonly pages: number;
    readonly stays: boolean;
  }[];
  /** Of the node that gives the writes (0) or takes them (1). */
  readonly refused: readonly Refused[];
  /** Which of the two nodes gives up what it has, when both went on alone. */
  readonly loser: 0 | 1;
}

/** Some writes to the metadata log of a node that find no room, after so many that do. */
export interface Refused {
  readonly node: 0 | 1;
  readonly passes: number;
  readonly fails: number;
}

export interface Finale {
  /** What becomes of the primary before. */
  readonly primary: 'dead' | 'cut off' | 'alive';
  /** Mirrors are in step before. */
  readonly healed: boolean;
  /** Ends of either side on the way back: after so many calls to the disk. */
  readonly ends: readonly {
    readonly node: 0 | 1;
    readonly how: 'kill' | 'cut';
    readonly calls: number;
  }[];
  /** Of the new primary (0) or the old one (1), on the way back. */
  readonly refused: readonly Refused[];
}

/** A step without its place in time. */
export type Plain = Step extends infer Each
  ? Each extends Step
    ? Omit<Each, keyof StepBase>
    : never
  : never;
