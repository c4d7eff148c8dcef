/**
 * A link to another node was lost while the mirror was in the stream: what is staged waits for the next link, for a while, so that
 * the stream goes on where it was. Nothing is marked meanwhile, since nothing is let go of.
 *
 * Invariants:
 * - The stream goes on only from an epoch that the queue still has the next one of, and that was sent whole: the mirror's word
 *   alone is not enough.
 * - In memory it waits no longer than so long, and takes no room from mirrors that are there.
 */
import { PARKED_REGIONS_MAX } from '../../io/limits.ts';
import type { BlockferryError, ErrorCode } from '../../io/errors.ts';
import type { LinkPosition } from '../link/messages.ts';
import type { MirrorHost } from './mirror-host.ts';
import type { PeerContact } from '../contact/peer-contact.ts';
import type { Follower } from '../staging/staging-queue.ts';
import type { SyncLevel } from '../changes/sync-waiters.ts';

/** Ends of a link behind which the mirror may be as it was. Any other one says that something is wrong with it. */
const LOSSES: ReadonlySet<ErrorCode> = new Set(['LINK_LOST', 'LINK_ENDED', 'MIRROR_UNREACHABLE']);

/** Whether a link that ended so may be bridged. */
export function isLoss(error: BlockferryError): boolean {
  return LOSSES.has(error.code);
}

export class StreamBridge {
  private readonly host: MirrorHost;
  private readonly follower: Follower;
  /** The last epoch that was sent whole, and the last that the mirror is known to have durably. */
  private readonly sent: number;
  private readonly durable: number;
  private readonly until: number;

  constructor(options: { host: MirrorHost; follower: Follower; sent: number; durable: number }) {
    this.host = options.host;
    this.follower = options.follower;
    this.sent = options.sent;
    this.durable = options.durable;
    this.until = this.host.surroundings.clock.now() + this.host.graceMs;
  }

  /** Whether the mirror answered every epoch up to `epoch` (`held`), or flushed it: what was shed it only answered. */
  has(epoch: number, level: SyncLevel): boolean {
    return epoch <= (level === 'held' ? this.follower.released : this.durable);
  }

  /** Why it has to end, or null. */
  over(now: number): string | null {
    const { queue, parked, graceMs } = this.host;
    if (parked.size >= PARKED_REGIONS_MAX / 2) return 'writes are all over the volume';
    // Those that need the oldest epoch go first: for the others there may be room then.
    if (queue.starved && queue.needsOldest(this.follower)) return 'other mirrors need its memory';
    if (queue.hasDisk) return null;
    if (queue.crowded) return 'half of the staging queue is full';
    return now >= this.until ? `out of contact for ${graceMs / 1000} s` : null;
  }

  /** The epoch behind which the stream goes on with this contact; null: it cannot. */
  goesOnBehind({ welcome, full, blocks }: PeerContact): number | null {
    const { position, run } = welcome;
    const { generation } = this.host.volume.metadata.state;
    if (position === null || run !== null || full) return null;
    if (blocks.dirty.count > 0 || blocks.suspect.count > 0) return null;
    return this.reaches(position, generation) ? position.epoch : null;
  }

  private reaches(position: LinkPosition, generation: number): boolean {
    if (position.generation !== generation) return false;
    return position.epoch >= this.follower.released && position.epoch <= this.sent;
  }
}
