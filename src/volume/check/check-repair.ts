/**
 * Repairs of a data directory that nobody has open.
 *
 * Invariants:
 * - The log changes as it does in operation: records are committed, or a new log is renamed over the old one.
 * - A record that a layer is gone is durable before the layer's file goes. So a crash at any moment leaves what a check
 *   finds and mends again.
 */
import type { Clock } from '../../io/clock.ts';
import type { Disk } from '../../io/disk.ts';
import { errorText } from '../../io/errors.ts';
import type { Random } from '../../io/random.ts';
import type { Finding, RepairStep } from './check-finding.ts';
import { Metadata, writeError } from '../log/metadata.ts';
import { FORMAT_TEXT } from '../store.ts';

export interface RepairTools {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
}

export interface RepairResult {
  readonly finding: Finding;
  readonly step: RepairStep;
  /** Null: it was done, durably. */
  readonly error: string | null;
}

/** Does what `findings` of one volume, or of the data directory itself, propose. `directory` is where their files are. */
export async function repair(
  tools: RepairTools,
  directory: string,
  findings: readonly Finding[],
): Promise<RepairResult[]> {
  const results: RepairResult[] = [];
  const inLog = findings.filter((found) => isOfLog(found.repair));
  const logError =
    inLog.length > 0 ? await attempt(() => repairLog(tools, directory, inLog)) : null;
  for (const found of findings) {
    const { repair: step } = found;
    if (step === null) continue;
    const error =
      isOfLog(step) && logError !== null ? logError : await attempt(() => repairFile(tools, step));
    results.push({ finding: found, step, error });
  }
  if (results.length === 0) return results;
  const syncError = await attempt(async () => tools.disk.syncDirectory(directory));
  return results.map((result) => ({ ...result, error: result.error ?? syncError }));
}

function isOfLog(step: RepairStep | null): boolean {
  return step !== null && (step.kind === 'rewrite-log' || step.kind === 'drop-layer');
}

/** Null, or what was thrown. */
async function attempt(action: () => Promise<void>): Promise<string | null> {
  try {
    await action();
    return null;
  } catch (thrown) {
    return errorText(thrown);
  }
}

/** A log that was cut short is replaced by the first commit; layers are dropped in the same one. */
async function repairLog(
  tools: RepairTools,
  directory: string,
  findings: readonly Finding[],
): Promise<void> {
  const metadata = Metadata.open({ ...tools, directory });
  try {
    for (const { repair: step } of findings) {
      if (step?.kind !== 'drop-layer') continue;
      metadata.append({ kind: 'layer-removed', layer: step.layer });
    }
    const status = await new Promise<number>((resolve) => metadata.commit(resolve));
    if (status !== 0) throw writeError(directory, status);
  } finally {
    metadata.close();
  }
}

async function repairFile({ disk }: RepairTools, step: RepairStep): Promise<void> {
  switch (step.kind) {
    case 'rewrite-log':
      return;
    case 'write-format':
      disk.replaceFile(step.path, Buffer.from(FORMAT_TEXT));
      return;
    case 'remove':
    case 'drop-layer':
      // The log was opened for its own repair, perhaps, and has removed a leftover itself.
      if (disk.exists(step.path)) disk.remove(step.path);
      return;
    case 'set-length': {
      const file = disk.open(step.path, { create: false });
      try {
        file.truncateNow(step.sizeBytes);
        const synced = await new Promise<number>((resolve) => file.datasync(resolve));
        if (synced < 0) throw writeError(step.path, -synced);
      } finally {
        file.closeNow();
      }
    }
  }
}
