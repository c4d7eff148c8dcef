/**
 * What a volume held when it was promoted: kept as a hidden snapshot, so that what it changed since is known when its old
 * primary becomes its mirror.
 *
 * Invariants:
 * - There is one fork at most, and it holds the content of the last epoch before the generation that it is named after.
 * - It is durable before that generation is opened. One whose generation the history does not know means nothing.
 */
import type { CopyPosition } from '../../volume/log/metadata-state.ts';
import type { Volume } from '../../volume/volume.ts';

const PREFIX = '.fork-';

export interface Fork {
  /** Name of the hidden snapshot. */
  readonly snapshot: string;
  /** What it holds. */
  readonly position: CopyPosition;
}

/** The fork of a volume that was promoted, as long as it is kept. */
export function forkOf({ metadata, snapshots }: Volume): Fork | null {
  const { generations } = metadata.state;
  for (const snapshot of snapshots.hidden) {
    if (!snapshot.startsWith(PREFIX)) continue;
    const place = generations.findIndex(({ number }) => forkName(number) === snapshot);
    const [before, opened] = place < 1 ? [] : generations.slice(place - 1, place + 1);
    if (before === undefined || opened === undefined) continue;
    return {
      snapshot,
      position: { generation: before.number, epoch: opened.firstEpoch - 1 },
    };
  }
  return null;
}

/** The hidden snapshot of what generation `opened` begins with. */
export function forkName(opened: number): string {
  return `${PREFIX}${opened}`;
}

/** Keeps the present content as what generation `next` begins with. Throws METADATA_WRITE_FAILED, VOLUME_FAILED. */
export async function keepFork(volume: Volume, next: number): Promise<void> {
  await dropForks(volume);
  await volume.snapshots.freeze(forkName(next), () => {});
}

/** Nobody comes back from there any more. Throws METADATA_WRITE_FAILED. */
export async function dropForks({ snapshots }: Volume): Promise<void> {
  for (const name of snapshots.hidden) {
    if (name.startsWith(PREFIX)) await snapshots.discard(name);
  }
}

/**
 * The same, and its space is wanted at once: what was written since is sealed, for only such layers are merged. Throws VOLUME_FAILED,
 * METADATA_WRITE_FAILED.
 */
export async function releaseForks(volume: Volume): Promise<void> {
  const wasKept = forkOf(volume) !== null;
  await dropForks(volume);
  if (!wasKept) return;
  // No generation has that number: what a crash leaves of it means nothing, and goes with the next one.
  const sealed = `${PREFIX}0`;
  await volume.snapshots.freeze(sealed, () => {});
  await volume.snapshots.discard(sealed);
}
