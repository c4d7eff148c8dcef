/** What a mirror needs from the volume that it mirrors. */
import type { NbdUri } from '../../nbd/uri/uri.ts';
import type { Volume } from '../../volume/volume.ts';
import type { Examiner } from '../../workers/examiner.ts';
import type { EventKind } from '../event-kinds.ts';
import type { EpochReserve } from '../staging/epoch-reserve.ts';
import type { ParkedRegions } from './mirror-blocks.ts';
import type { Handover } from '../failover/handover.ts';
import type { LinkSurroundings } from './mirror-link.ts';
import type { Mirror } from './mirror.ts';
import type { SharedLimit } from '../pace/shared-limit.ts';
import type { StagingQueue } from '../staging/staging-queue.ts';

export interface MirrorHost {
  /** Name of this node: what a mirror on another node is told. */
  readonly node: string;
  readonly volume: Volume;
  readonly reserve: EpochReserve;
  readonly queue: StagingQueue;
  readonly surroundings: LinkSurroundings;
  readonly examiner: Examiner;
  /** How long a lost link is waited for with what is staged in memory, in milliseconds; 0: not at all, not on disk either. */
  readonly graceMs: number;
  /** Regions that are suspect in the log, for every mirror, until what was written to them is safe. */
  readonly parked: ParkedRegions;
  /** What all mirrors of the node may be sent; null: there is no such limit. */
  readonly nodeLimit: SharedLimit | null;
  /** Bytes that the host read and wrote since the process began. */
  readonly hostBytes: number;
  /** A synchronous write waits: an idle link should take the open epoch at once. */
  readonly hasWaiters: boolean;
  /** How this volume is given to a mirror; left out: it never is. */
  readonly handover?: Handover;
  emit(kind: EventKind, mirror: { readonly uri: NbdUri }, message: string): void;
  /** An attempt to reach the mirror is over, whatever came of it. */
  heard(mirror: Mirror): void;
  /** The mirror has a newer generation. */
  superseded(mirror: Mirror, reason: string): void;
  /** A mirror has more than before, or left the stream: waiting requests and regions may be let go. */
  progressed(): void;
  /** An epoch was closed for the sake of one mirror: the others may take it, also when it is empty. */
  wakeSoon(): void;
}
