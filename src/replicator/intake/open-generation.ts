/**
 * The commit that makes a mirror a volume that takes writes, and what takes it back where the log has no space for it.
 *
 * Invariant: what is taken back goes with the very next commit, and both are durable or none is.
 */
import assert from 'node:assert';
import { Status } from '../../io/device.ts';
import type { MetadataRecord } from '../../volume/log/records.ts';
import type { Volume } from '../../volume/volume.ts';
import type { Position } from '../status.ts';
import { refusal } from './epoch-intake.ts';

/**
 * `more`: recorded in the same commit. What the log has no space for is taken back: it goes with the next commit, and both are
 * durable or none is. Throws METADATA_WRITE_FAILED, and when the log failed, of which it is not known what is durable.
 */
export async function openGeneration(
  volume: Volume,
  id: string,
  more: readonly MetadataRecord[],
): Promise<Position> {
  const { metadata } = volume;
  const { generations, position, source, generation } = metadata.state;
  assert(position !== null && source !== null, 'it was looked at before');
  const firstEpoch = position.epoch + 1;
  const shipped = shippedIds(volume);
  metadata.append({ kind: 'source-cleared' });
  metadata.append({ kind: 'generation-opened', number: generation + 1, id, firstEpoch });
  for (const record of more) metadata.append(record);
  const status = await volume.commit();
  if (status === Status.OK) return { generation: generation + 1, epoch: position.epoch };
  if (!volume.failed) {
    for (const record of more) {
      if (record.kind !== 'mirror-added') continue;
      metadata.append({ kind: 'mirror-removed', mirror: record.mirror });
    }
    metadata.append({ kind: 'history-set', generations });
    metadata.append({ kind: 'source-bound', ...source });
    metadata.append({ kind: 'position', ...position });
    for (const record of shippedAgain(volume, shipped)) metadata.append(record);
  }
  throw refusal(volume.name, status);
}

/** Snapshots that came from the primary. */
export function shippedIds({ metadata }: Volume): string[] {
  const all = [...metadata.state.snapshots.values()];
  return all.filter(({ mark }) => mark?.shipped === true).map(({ id }) => id);
}

/** They are its own by `source-cleared`, which is taken back: the log says it of each that is still there by recording it anew. */
export function* shippedAgain(
  { metadata }: Volume,
  ids: readonly string[],
): Generator<MetadataRecord> {
  for (const id of ids) {
    const snapshot = metadata.state.snapshots.get(id);
    if (snapshot?.mark === undefined) continue;
    yield { kind: 'snapshot-removed', id };
    yield { kind: 'snapshot-created', ...snapshot, mark: { ...snapshot.mark, shipped: true } };
  }
}
