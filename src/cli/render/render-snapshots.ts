/** Snapshots and merging as a person reads them. Pure. */
import type { MergeProgress, MeasuredSnapshot } from '../../control/status.ts';
import type { ChangedRange } from '../../volume/snapshots/snapshot-types.ts';
import { formatBytes, formatTable, oneLine } from './format.ts';

export function renderSnapshotList(volume: string, snapshots: readonly MeasuredSnapshot[]): string {
  if (snapshots.length === 0) {
    return `no snapshots; keep one with: blockferry snapshot create ${oneLine(volume)} NAME\n`;
  }
  const heads = ['SNAPSHOT', 'CREATED', 'SIZE', 'OWN', 'SHARED', 'CONNECTIONS'];
  const rows = snapshots.map((snapshot) => [
    oneLine(snapshot.export),
    `${snapshot.created_at.slice(0, 19)}Z`,
    formatBytes(snapshot.size_bytes),
    formatBytes(snapshot.own_bytes),
    formatBytes(snapshot.shared_bytes),
    String(snapshot.connections),
  ]);
  return formatTable([heads, ...rows]);
}

/** For scripts: three fields, bytes. */
export function renderRange({ offset, length, zero }: ChangedRange): string {
  return `${offset} ${length} ${zero ? 'zero' : 'data'}\n`;
}

/** `merging 1.0 MiB of 3.5 MiB, 2 more to follow, at most 50.0 MiB a second`. */
export function renderMerge(merge: MergeProgress): string {
  const { state, done_bytes: done, total_bytes: total, waiting, limit, reason } = merge;
  const progress = `${formatBytes(done)} of ${formatBytes(total)}`;
  const words = {
    idle: 'nothing to merge',
    running: `merging, ${progress}`,
    paused: total === 0 ? 'merging is paused' : `merging is paused at ${progress}`,
    failed: `merging FAILED at ${progress}: ${oneLine(reason ?? 'the disk failed')}`,
  };
  const parts: string[] = [words[state]];
  if (waiting > 0) parts.push(`${waiting} more to follow`);
  if (limit !== null) parts.push(`at most ${formatBytes(limit)} a second`);
  return parts.join(', ');
}
