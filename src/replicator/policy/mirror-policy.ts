/** What operators choose about the pace of a mirror: what can be chosen, how it is recorded, and what it is called. Pure. */
import { BlockferryError } from '../../io/errors.ts';
import type { MetadataRecord } from '../../volume/log/records.ts';
import { formatDuration, formatSchedule, type Schedule } from './schedule.ts';
import type { CompressMode, MirrorMode } from '../status.ts';

export interface MirrorPolicy {
  readonly schedule: Schedule;
  /** Lag in milliseconds above which writes of the host are slowed down; null: none. */
  readonly lagLimitMs: number | null;
  /** Whether what a link carries is compressed while that pays, or never. */
  readonly compress: CompressMode;
}

/** What holds for a mirror of which nothing was chosen. */
export const FOLLOWS: MirrorPolicy = {
  schedule: { kind: 'stream' },
  lagLimitMs: null,
  compress: 'auto',
};

/** What makes `before` into `policy`. */
export function policyRecords(
  mirror: number,
  { schedule, lagLimitMs, compress }: MirrorPolicy,
  before: MirrorPolicy,
): MetadataRecord[] {
  const records: MetadataRecord[] = [];
  const same = schedule.kind === 'stream' && before.schedule.kind === 'stream';
  if (!same || lagLimitMs !== before.lagLimitMs) {
    records.push({ kind: 'mirror-policy', mirror, schedule, lagLimitMs });
  }
  if (compress !== before.compress)
    records.push({ kind: 'mirror-compress', mirror, mode: compress });
  return records;
}

/** Replies wait for every write. @throws BlockferryError USAGE */
export function refuseSync(mode: MirrorMode, { schedule }: MirrorPolicy): void {
  if (mode === 'async' || schedule.kind === 'stream') return;
  const message = 'a synchronous mirror follows every write: delta runs are for mode async';
  throw new BlockferryError('USAGE', message);
}

export function describePolicy({ schedule, lagLimitMs, compress }: MirrorPolicy): string {
  const slowed =
    lagLimitMs === null ? 'never' : `while it lags more than ${formatDuration(lagLimitMs)}`;
  return `delta ${formatSchedule(schedule)}; host writes are slowed down ${slowed}; compress ${compress}`;
}
