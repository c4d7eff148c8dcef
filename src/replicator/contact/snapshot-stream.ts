/**
 * Snapshots of a volume in the order of its writes: each is the end of an epoch, and a command there takes it on the mirrors that
 * follow.
 *
 * Invariants (I9):
 * - The epoch is ended in the turn of the instant: what is in the snapshot is in this epoch or an earlier one, what is not in a later
 *   one.
 * - Mirrors that do not follow get nothing here: delta runs bring them what they lack (snapshot-rounds.ts).
 */
import type { SnapshotWitness, Twin } from '../../volume/snapshots/snapshot-types.ts';
import type { CopyPosition } from '../../volume/log/metadata-state.ts';
import type { Metadata } from '../../volume/log/metadata.ts';
import type { StagingQueue } from '../staging/staging-queue.ts';

export interface SnapshotStreamHost {
  readonly queue: StagingQueue;
  readonly metadata: Metadata;
  /** An epoch was closed: whoever follows may take it. */
  wakeSoon(): void;
}

export class SnapshotStream implements SnapshotWitness {
  private readonly host: SnapshotStreamHost;

  constructor(host: SnapshotStreamHost) {
    this.host = host;
  }

  taken({ id, name, createdAt }: Twin, replaces: string | null): CopyPosition {
    const { queue, metadata } = this.host;
    const epoch = queue.active
      ? queue.closeWithCommand({ kind: 'snapshot-create', id, name, createdAt, replaces })
      : queue.seal();
    this.host.wakeSoon();
    return { generation: metadata.state.generation, epoch };
  }

  removed(id: string): void {
    const { queue } = this.host;
    if (!queue.active) return;
    queue.closeWithCommand({ kind: 'snapshot-delete', id });
    this.host.wakeSoon();
  }
}
