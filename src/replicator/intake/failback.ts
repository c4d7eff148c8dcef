/**
 * A volume that took writes becomes the mirror of the copy that goes on.
 *
 * Invariants:
 * - What it held stays, whole, under a name that operators see: that snapshot is durable before anything else changes.
 * - It holds nothing of the line that goes on until its new primary has brought it in step: it has no history, and no position.
 * - One commit makes it a secondary. Until then it is what it was; from then on only its new primary writes to it.
 */
import assert from 'node:assert';
import { Status } from '../../io/device.ts';
import type { Volume } from '../../volume/volume.ts';
import { refusal } from './epoch-intake.ts';

/**
 * `node`: whose volume it becomes a mirror of. `snapshot`: the name for what it holds. Nobody uses it, and nothing replicates it.
 * @throws BlockferryError SNAPSHOT_EXISTS, SNAPSHOT_LIMIT, VOLUME_FAILED, METADATA_WRITE_FAILED
 */
export async function becomeSecondary(
  volume: Volume,
  node: string,
  snapshot: string,
): Promise<void> {
  const { metadata, snapshots } = volume;
  const { state } = metadata;
  assert(state.source === null, 'it took writes');
  await snapshots.create(snapshot);
  const hot = [...state.hot];
  if (hot.length > 0) metadata.append({ kind: 'regions-cold', regions: hot });
  for (const mirror of state.mirrors.keys()) {
    metadata.append({ kind: 'mirror-removed', mirror });
  }
  metadata.append({ kind: 'history-set', generations: [] });
  metadata.append({ kind: 'source-bound', node, volumeId: null });
  const status = await volume.commit();
  if (status !== Status.OK) throw refusal(volume.name, status);
  // What was frozen for its mirrors. What a full disk keeps from being deleted only takes space.
  for (const name of snapshots.hidden) await snapshots.discard(name).catch(() => {});
}
