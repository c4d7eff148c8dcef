/**
 * One volume that nobody has open, under a check: log, state, layers and files, in this order. Each is judged by what
 * came before it, so a log with a fault ends the check of its volume.
 */
import type { Disk } from '../../io/disk.ts';
import { errorText } from '../../io/errors.ts';
import type { CheckTools } from './check-extents.ts';
import { atFile, finding, hasUnmendable } from './check-finding.ts';
import type { Finding } from './check-finding.ts';
import { checkLayer, checkNames, mergingLayers } from './check-layers.ts';
import type { CheckedDirectory } from './check-layers.ts';
import { checkLog } from './check-log.ts';
import type { CheckedLog } from './check-log.ts';
import { checkState } from './check-tree.ts';
import { LOG_NAME } from '../log/metadata.ts';
import type { VolumeState } from '../log/metadata-state.ts';
import { isDistrusted } from '../volume-state.ts';

export interface VolumeLog extends CheckedLog {
  readonly directory: string;
  readonly path: string;
}

/** Reads and checks the log of the volume in `directory`. */
export function checkVolumeLog(disk: Disk, directory: string): VolumeLog {
  const path = `${directory}/${LOG_NAME}`;
  const failed = (found: Finding): VolumeLog => ({
    directory,
    path,
    findings: [found],
    state: null,
    snapshotOffsets: new Map(),
  });
  try {
    if (!disk.list(directory).includes(LOG_NAME)) {
      return failed(finding('log-missing', atFile(path), 'the volume has no log'));
    }
    return { directory, path, ...checkLog(disk.readFile(path), path) };
  } catch (thrown) {
    return failed(finding('unreadable', atFile(path), errorText(thrown)));
  }
}

/** The rest of the check of a volume whose log was read. The repairs that it proposes may all be done. */
export async function checkVolume(
  disk: Disk,
  log: VolumeLog,
  tools: CheckTools,
): Promise<Finding[]> {
  const { directory, path, state } = log;
  const findings: Finding[] = [...log.findings];
  if (state !== null) {
    findings.push(...checkIdentity(state, directory, path));
    findings.push(...checkState(state, { ...log, logPath: path }));
    // A tree with a fault cannot be walked.
    const sound = !findings.some(({ severity }) => severity === 'fault');
    if (sound)
      findings.push(
        ...(await checkFiles({ disk, directory, state, tools, merging: mergingLayers(state) })),
      );
    if (isDistrusted(state, disk.bootId)) {
      const what =
        'a sync failed since the system was started: what is read may not be on the disk';
      findings.push(finding('sync-failed', atFile(path), what));
    }
  }
  return withoutRisk(findings);
}

function checkIdentity(state: VolumeState, directory: string, path: string): Finding[] {
  if (directory.endsWith(`/${state.id}`)) return [];
  const what = `the directory holds the volume ${state.id}, whose name it should have`;
  return [finding('volume-misplaced', atFile(path), what)];
}

async function checkFiles(checked: CheckedDirectory): Promise<Finding[]> {
  const findings: Finding[] = [];
  try {
    findings.push(...checkNames(checked));
  } catch (thrown) {
    findings.push(finding('unreadable', atFile(checked.directory), errorText(thrown)));
  }
  for (const layer of checked.state.layers.values()) {
    findings.push(...(await checkLayer(checked, layer)));
    await checked.tools.turn();
  }
  return findings;
}

/**
 * While there is a fault that nothing mends, what looks like a leftover may be what a mending hand needs: the file
 * of a layer under another name, say. Then no repair is proposed at all.
 */
export function withoutRisk(findings: readonly Finding[]): Finding[] {
  if (!hasUnmendable(findings)) return [...findings];
  return findings.map((found) => ({ ...found, repair: null }));
}
