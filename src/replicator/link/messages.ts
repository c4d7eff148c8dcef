/**
 * Control messages of the link between two nodes: msgpack on the wire, each checked against its schema before anybody
 * sees it. Versions: a node refuses a peer whose LINK_VERSION differs, and says so; what came later is a feature.
 * Bytes: message-codec.ts; bounds: message-schemas.ts.
 */
export {
  decodeCommand,
  decodeControl,
  decodeHello,
  decodeWelcome,
  encodeCommand,
  encodeControl,
  encodeHello,
  encodeWelcome,
} from './message-codec.ts';

export { LINK_VERSION } from './link-version.ts';

/** One era of writing: opened at the creation of a volume and at each promotion. */
export interface Generation {
  /** Counts from 1. */
  readonly number: number;
  /** 32 hexadecimal digits, random: two nodes that open one alone never open the same. */
  readonly id: string;
  /** Its first epoch: the one before it is the last of the generation before. */
  readonly firstEpoch: number;
}

export interface LinkPosition {
  readonly generation: number;
  readonly epoch: number;
}

/** What the primary says in the private option of the handshake. */
export interface Hello {
  readonly version: number;
  /** Name of the primary's node. */
  readonly node: string;
  /** The export that is to become the mirror. */
  readonly volume: string;
  /** Id and size of the primary's volume. */
  readonly volumeId: string;
  readonly sizeBytes: number;
  readonly generations: readonly Generation[];
  /** The last closed epoch. */
  readonly epoch: number;
  /** A further lane of a link that stands: its token, and which lane it is (1..15). Null: a new link. */
  readonly lane: { readonly token: string; readonly index: number } | null;
  /** How many lanes the primary wants (1..16). */
  readonly lanes: number;
  /** What it knows beyond the first version of the link (link-version.ts). Not there: nothing. */
  readonly features?: readonly string[];
}

/** What the mirror answers. */
export interface Welcome {
  readonly version: number;
  readonly node: string;
  /** 32 hexadecimal digits: what further lanes show. */
  readonly token: string;
  readonly lanes: number;
  readonly sizeBytes: number;
  /** Empty when the mirror holds nothing yet. */
  readonly generations: readonly Generation[];
  /** What the mirror holds, complete and durable; null: nothing yet. */
  readonly position: LinkPosition | null;
  /** A delta run that was interrupted, and up to which byte of the volume it is durable. */
  readonly run: { readonly id: string; readonly cursor: number } | null;
  /** As in the hello, and only in answer to one that has them. Neither side uses what the other did not name. */
  readonly features?: readonly string[];
  /** It took writes of its own, and holds this but for the blocks that it tells of (`may-differ`). Left out: it did not. */
  readonly rejoin?: LinkPosition;
}

/** The mirror that a volume has when it takes over: its old primary. */
export interface HandoverMirror {
  /** Of the old primary's export, as the new one reaches it. */
  readonly uri: string;
  readonly mode: 'async' | 'sync';
  readonly stallPolicy: 'degrade' | 'block';
  readonly lanes: number;
  /** Bytes per second; null: no limit. */
  readonly limit: number | null;
}

/** Another mirror of the old primary, which is to follow the new one. */
export interface OtherMirror extends HandoverMirror {
  /** Name of its node. */
  readonly node: string;
  /** It holds the very epoch at which the writes move, durably. */
  readonly whole: boolean;
}

export type ControlMessage =
  /** Primary: epochs follow from `after` + 1 on. The mirror holds `after`. */
  | { readonly kind: 'stream-begin'; readonly generation: number; readonly after: number }
  /** Primary: a delta run begins (or goes on, when the mirror said its id in the welcome). `number` is what its frames carry. */
  | {
      readonly kind: 'run-begin';
      readonly number: number;
      /** 32 hexadecimal digits. */
      readonly run: string;
      /** The position that the mirror has when the run is committed. */
      readonly generation: number;
      readonly epoch: number;
      /** Wall-clock milliseconds on the primary of that position. */
      readonly time: number;
      readonly sizeBytes: number;
      readonly generations: readonly Generation[];
      /** The present content of the mirror is of no use: what the run does not send is zeroes. */
      readonly full: boolean;
    }
  /** Mirror: the base is kept; frames may come. `cursor`: where an interrupted run goes on, 0 for a new one. */
  | { readonly kind: 'run-ready'; readonly run: string; readonly cursor: number }
  /** Primary: every frame below `frames` was sent; all blocks below `cursor` are in them. Asks for `run-durable`. */
  | {
      readonly kind: 'run-mark';
      readonly run: string;
      readonly cursor: number;
      readonly frames: number;
    }
  /** Mirror: everything up to the mark is durable. */
  | { readonly kind: 'run-durable'; readonly run: string; readonly cursor: number }
  /** Primary: the run is complete with `frames` frames. */
  | {
      readonly kind: 'run-commit';
      readonly run: string;
      readonly frames: number;
      /** Feature `snapshots`: what the run brought is kept as this snapshot, in the same step. */
      readonly snapshot?: SnapshotTwin;
    }
  /** Mirror: the run is part of the volume, durably. */
  | {
      readonly kind: 'run-committed';
      readonly run: string;
      /** Why the snapshot that was asked for is not there. */
      readonly refused?: string;
    }
  /** Primary: the run is given up; the mirror goes back to its base. */
  | { readonly kind: 'run-abort'; readonly run: string }
  /** Primary, feature `snapshots`: ids of all its snapshots. A mirror lets go of those that came from it and are no more. */
  | { readonly kind: 'snapshots-are'; readonly ids: readonly string[] }
  /** Mirror: which of them it has, and its position, all that came before applied. */
  | {
      readonly kind: 'snapshots-held';
      readonly ids: readonly string[];
      readonly position: LinkPosition | null;
      /** Feature `refusals`: why something is there that the primary has no more. */
      readonly refused?: string;
    }
  /** Mirror: what became of the command in `epoch`. `error` is null when it was done. */
  | { readonly kind: 'command-done'; readonly epoch: number; readonly error: string | null }
  /** Mirror that rejoins, first of all: blocks that may be other than at the position of its welcome. `more`: others follow. */
  | {
      readonly kind: 'may-differ';
      readonly runs: readonly (readonly [first: number, count: number])[];
      readonly more: boolean;
    }
  /** Mirror, feature `refusals`: what it does not let its primary do, when the link begins and whenever that changes. */
  | { readonly kind: 'policy'; readonly refuses: readonly string[] }
  /** Mirror: its operator wants it to take over (or, `split`, to take writes as well) within so many milliseconds. */
  | {
      readonly kind: 'handover-wanted';
      readonly split: boolean;
      readonly withinMs: number;
      /** As in `hand-over`. */
      readonly back: string | null;
    }
  /** Primary: it does not come to that, and why. */
  | { readonly kind: 'handover-denied'; readonly message: string }
  /**
   * Primary: it takes no writes any more, or with `split` goes on in a generation of its own. The mirror, which holds `epoch`, is
   * to open a generation of that id behind it. `back`: its mirror from then on; null: none.
   */
  | {
      readonly kind: 'hand-over';
      readonly id: string;
      readonly epoch: number;
      readonly split: boolean;
      readonly back: HandoverMirror | null;
      /** Feature `others`. */
      readonly others?: readonly OtherMirror[];
    }
  /** Mirror: it did, durably. */
  | { readonly kind: 'handed-over' }
  /** Mirror: it did not and will not, and why. */
  | { readonly kind: 'handover-refused'; readonly message: string }
  /** Mirror: it cannot go on (full disk, failed volume), and why. The link ends. */
  | { readonly kind: 'failed'; readonly code: string; readonly message: string };

/** What makes a snapshot on the mirror the same as that on the primary. */
export interface SnapshotTwin {
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly name: string;
  /** Wall-clock milliseconds on the primary. */
  readonly createdAt: number;
}

/** A command in the stream: the payload of a COMMAND frame. */
export type StreamCommand =
  /** Keep the content at this epoch under a hidden name, for comparing. */
  | { readonly kind: 'freeze'; readonly id: string }
  | { readonly kind: 'thaw'; readonly id: string }
  | SnapshotCommand;

/** Feature `snapshots`. */
export type SnapshotCommand =
  /** The content at this epoch is that snapshot, in place of the one with the id `replaces`. */
  | (SnapshotTwin & { readonly kind: 'snapshot-create'; readonly replaces: string | null })
  | { readonly kind: 'snapshot-delete'; readonly id: string };
