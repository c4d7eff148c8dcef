/**
 * The sets of a run that is taken up again, after a loss of the link or of the process, while its content is still frozen.
 *
 * Why this is enough:
 * - What the mirror lacked of the frozen content was marked when the run began, and a run lets go of no mark before it is
 *   committed: so every such block is marked now, with those that changed since, and sending the frozen content of these as
 *   well does no harm. After a restart the marks are those in the log, which has them all: they were recorded between the
 *   comparison and the first block that was sent.
 * - What changed since is what the maps say of the time from the snapshot to the present. Marks that stand for nothing else
 *   need not stay for the next run: the mirror gets nothing newer than the frozen content before that.
 * - Blocks below the mirror's cursor are not sent (see PeerRun). They stay in the set until the mirror commits, since a run that
 *   is given up leaves nothing of itself there.
 */
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';

/** Of MirrorBlocks. */
export interface ResumedBlocks {
  readonly dirty: BlockSet;
  readonly inFlight: BlockSet;
}

/**
 * Makes `inFlight` what the interrupted run has to bring, and `dirty` what the next one will: `changed` is
 * `snapshots.changed(snapshot, null)`.
 */
export function resumeBlocks(
  blocks: ResumedBlocks,
  changed: Iterable<{ readonly offset: number; readonly length: number }>,
): void {
  const { dirty, inFlight } = blocks;
  inFlight.addSet(dirty);
  dirty.clear();
  for (const { offset, length } of changed) {
    const first = offset / BLOCK_BYTES;
    const end = Math.min(dirty.blockCount, (offset + length) / BLOCK_BYTES);
    if (end > first) dirty.add(first, end - first);
  }
}
