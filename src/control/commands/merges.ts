/**
 * The merging of layers that no snapshot names any more, as operators see it: how far it is, and how fast it
 * may go. Pausing and limits hold until the node is restarted.
 */
import type { EventKind } from '../../replicator/event-kinds.ts';
import type { Volume } from '../../volume/store.ts';
import type { CommandRoom } from './command-room.ts';
import type { MergeProgress } from '../status.ts';

export class MergeCommands {
  private readonly room: CommandRoom;

  constructor(room: CommandRoom) {
    this.room = room;
  }

  /** @throws BlockferryError VOLUME_NOT_FOUND */
  show(volume: string): MergeProgress {
    return mergeStatusOf(this.room.require(volume).volume);
  }

  /** Also what has not begun waits, until `resume`. */
  pause(volume: string): MergeProgress {
    this.room.require(volume).volume.snapshots.pauseMerge();
    return this.changed(volume, 'merge-paused', `volume ${volume} merges nothing until resumed`);
  }

  /** A merge that failed is tried again. */
  resume(volume: string): MergeProgress {
    this.room.require(volume).volume.snapshots.resumeMerge();
    return this.changed(volume, 'merge-resumed', `volume ${volume} goes on merging`);
  }

  /** Bytes a second; null for what the host leaves. */
  limit(volume: string, bytesPerSecond: number | null): MergeProgress {
    this.room.require(volume).volume.snapshots.limitMerge(bytesPerSecond);
    const limit = bytesPerSecond === null ? 'no limit' : `at most ${bytesPerSecond} bytes a second`;
    return this.changed(volume, 'merge-limited', `volume ${volume} merges with ${limit}`);
  }

  private changed(volume: string, kind: EventKind, message: string): MergeProgress {
    this.room.tell(kind, volume, message);
    return this.show(volume);
  }
}

export function mergeStatusOf({ snapshots }: Volume): MergeProgress {
  const { state, doneBytes, totalBytes, waiting, limit, reason } = snapshots.merge;
  return { state, done_bytes: doneBytes, total_bytes: totalBytes, waiting, limit, reason };
}
