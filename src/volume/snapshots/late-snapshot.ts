/**
 * A snapshot whose name comes later: what is written goes to a new top at once, and what lies below it is made durable and
 * named when there is time for that.
 *
 * Invariants:
 * - The new top, and what is recorded with it, is durable before a write enters it.
 * - What the log has no space for is taken back in the same turn: it is durable with what takes it back, or not at all.
 */
import assert from 'node:assert';
import { Status } from '../../io/device.ts';
import { writeError } from '../log/metadata.ts';
import type { MetadataRecord } from '../log/records.ts';
import type { Snapshots } from './snapshots.ts';

/** What goes into the commit that names the new top, and what takes it back. */
export interface TopRecords {
  readonly records: (layer: number) => readonly MetadataRecord[];
  readonly undo: () => readonly MetadataRecord[];
}

/**
 * Puts a new top over the present content, whether that is durable or not, in one commit with more records. The caller holds the
 * volume's lock. Throws METADATA_WRITE_FAILED: none of them counts; VOLUME_FAILED: of them it is not known.
 */
export async function beginAbove(
  snapshots: Snapshots,
  { records, undo }: TopRecords,
): Promise<void> {
  const { host } = snapshots;
  host.refuseIfFailed();
  await snapshots.steps.settle();
  const top = await host.layers.prepare();
  host.changes.hold();
  try {
    await host.until(() => host.changes.running === 0);
    host.layers.announce(top, host.layers.top);
    for (const record of records(top.id)) host.metadata.append(record);
    const status = await host.commit();
    // What was announced is shown in any case: the log has no word that takes it back.
    snapshots.steps.split(top);
    host.refuseIfFailed();
    if (status === Status.OK) return;
    for (const record of undo()) host.metadata.append(record);
    host.changes.rearm();
    throw writeError(top.file.path, status);
  } finally {
    host.changes.release();
  }
}

/**
 * Makes what lies below `layer` durable and keeps it under a hidden name, with more records: all of it is durable, or nothing.
 * The caller holds the volume's lock. Behind METADATA_WRITE_FAILED what was appended goes with any later commit.
 */
export async function nameBelow(
  snapshots: Snapshots,
  { layer, name, records }: { layer: number; name: string; records: readonly MetadataRecord[] },
): Promise<void> {
  const { host } = snapshots;
  host.refuseIfFailed();
  const below = host.layers.layerOf(layer).parent;
  assert(below !== null && host.layers.owns(below), 'what was the top lies below');
  const id = snapshots.steps.newId();
  const createdAt = Math.floor(host.clock.wall());
  const { sizeBytes } = host.layers.top;
  const frozen = { layer: below, sizeBytes, createdAt, id, mark: null, witnessed: false };
  await snapshots.steps.keep(frozen, { name, records });
}
