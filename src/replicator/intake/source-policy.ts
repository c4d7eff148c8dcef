/**
 * What a mirror's own policy does not let its primary do, whatever comes over the link: asked before anything changes.
 *
 * What is refused says what an operator can do about it, on the node of the mirror: the text goes to the primary too.
 */
import { isHidden } from '../../volume/names.ts';
import type { SnapshotRecord } from '../../volume/log/metadata-state.ts';
import type { Refusal } from '../../volume/refusals.ts';
import type { Volume } from '../../volume/volume.ts';
import type { SnapshotCommand } from '../link/messages.ts';

/** A snapshot that its primary would have deleted, or given another content. */
export interface KeptSnapshot {
  readonly snapshot: SnapshotRecord;
  readonly why: string;
}

/** The snapshot that this command would take away and that the mirror does not give up; null: it may be done. */
export function keptFrom(volume: Volume, command: SnapshotCommand): KeptSnapshot | null {
  const { refuses, snapshots } = volume.metadata.state;
  if (!refuses.includes('snapshot-delete')) return null;
  const id = command.kind === 'snapshot-create' ? command.replaces : command.id;
  // One that was done before a crash is not undone.
  if (command.kind === 'snapshot-create' && snapshots.has(command.id)) return null;
  const snapshot = id === null ? undefined : snapshots.get(id);
  // What was replaced already was let go of then.
  if (snapshot === undefined || isHidden(snapshot.name)) return null;
  // Nobody has a say in it but this node: it was refused before.
  if (command.kind === 'snapshot-delete' && snapshot.mark?.shipped !== true) return null;
  const what = `${volume.name}@${snapshot.name}`;
  const why = `its policy keeps ${what} (snapshot-delete is refused); there: blockferry snapshot delete ${what}, or ${allowing(volume, 'snapshot-delete')}`;
  return { snapshot, why };
}

/** Why its primary cannot give it the writes, or split; null: it can. */
export function whyNoHandover(volume: Volume): string | null {
  const { name, metadata } = volume;
  if (!metadata.state.refuses.includes('handover')) return null;
  return `its policy lets only its own operator make it take writes (handover is refused); there: blockferry switchover ${name}, or ${allowing(volume, 'handover')}`;
}

/** The command that lifts one of the refusals. */
function allowing({ name, metadata }: Volume, lifted: Refusal): string {
  const others = metadata.state.refuses.filter((refusal) => refusal !== lifted);
  return `blockferry volume set ${name} --refuse ${others.length === 0 ? 'none' : others.join(',')}`;
}
