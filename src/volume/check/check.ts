/**
 * A data directory that no node uses, under a check: its format, what lies in it, and its volumes; and the repair of
 * what can be proven (check-repair.ts).
 *
 * Invariants:
 * - The directory is locked from beginning to end: nothing changes while it is looked at.
 * - Without `repair` nothing is written but the lock.
 * - After a repair everything is checked again: the findings of a report are what is there when it is made.
 */
import { BlockferryError, errorText } from '../../io/errors.ts';
import { CHECK_READ_BYTES } from '../../io/limits.ts';
import type { CheckTools } from './check-extents.ts';
import { atFile, finding } from './check-finding.ts';
import type { Finding } from './check-finding.ts';
import { repair } from './check-repair.ts';
import type { RepairResult, RepairTools } from './check-repair.ts';
import { checkVolume, checkVolumeLog, withoutRisk } from './check-volume.ts';
import type { VolumeLog } from './check-volume.ts';
import { FORMAT_NAME, FORMAT_VERSION, formatVersionOf } from '../store.ts';

export interface CheckOptions extends RepairTools {
  /** The data directory. */
  readonly path: string;
  /** Name or id of the one volume to check; null for all, and for the directory itself. */
  readonly volume: string | null;
  readonly repair: boolean;
  /** See `CheckTools`. */
  readonly deviceBytes?: (path: string) => number;
}

export interface VolumeReport {
  readonly id: string;
  /** Null when the log does not say. */
  readonly name: string | null;
  readonly findings: readonly Finding[];
}

export interface CheckReport {
  /** Of the directory itself. */
  readonly findings: readonly Finding[];
  /** In the order of their names. */
  readonly volumes: readonly VolumeReport[];
  readonly repairs: readonly RepairResult[];
}

/**
 * Checks, and repairs when asked.
 * @throws BlockferryError DATA_DIR_UNUSABLE, DATA_DIR_IN_USE, VOLUME_NOT_FOUND
 */
export async function checkDataDirectory(options: CheckOptions): Promise<CheckReport> {
  const lock = lockExisting(options);
  try {
    const report = await inspect(options);
    if (!options.repair) return report;
    const repairs = await repairAll(options, report);
    if (repairs.length === 0) return report;
    return { ...(await inspect(options)), repairs };
  } finally {
    lock.release();
  }
}

function lockExisting({ disk, path }: CheckOptions): { release(): void } {
  let lock: { release(): void } | null;
  try {
    // A directory without volumes is somebody's typing error: nothing is made in it.
    if (!disk.exists(`${path}/volumes`)) throw new Error('there are no volumes in it');
    lock = disk.lock(path);
  } catch (thrown) {
    throw new BlockferryError('DATA_DIR_UNUSABLE', `${path}: ${errorText(thrown)}`, {
      cause: thrown,
    });
  }
  if (lock !== null) return lock;
  throw new BlockferryError('DATA_DIR_IN_USE', `${path} is in use by another process`);
}

async function inspect(options: CheckOptions): Promise<CheckReport> {
  const { disk, path, volume } = options;
  const format = checkFormat(options);
  const done = (findings: readonly Finding[], volumes: readonly VolumeReport[]): CheckReport => ({
    findings,
    volumes,
    repairs: [],
  });
  // What another format means by the rest is not known.
  if (format.some(({ severity }) => severity === 'fault')) return done(format, []);
  const { ids, findings } = listVolumes(options);
  const logs = new Map<string, VolumeLog>();
  for (const id of ids) {
    const log = checkVolumeLog(disk, `${path}/volumes/${id}`);
    // Of a volume that is not asked for only the name counts.
    if (volume === null || isAsked(log, id, volume)) logs.set(id, log);
    else if (log.state?.name !== undefined) logs.set(id, { ...log, directory: '' });
  }
  const asked = [...logs].filter(([, { directory }]) => directory !== '');
  if (volume !== null && asked.length === 0) throw notFound(volume, ids.length - logs.size);
  const tools = toolsOf(options);
  const across = [...namesTwice(logs), ...originsMissing(logs)];
  const volumes: VolumeReport[] = [];
  for (const [id, log] of asked) {
    const own = await checkVolume(disk, log, tools);
    const found = withoutRisk([...own, ...across.filter(({ place }) => place.file === log.path)]);
    volumes.push({ id, name: log.state?.name ?? null, findings: found });
  }
  volumes.sort((one, other) => ((one.name ?? '') < (other.name ?? '') ? -1 : 1));
  return done(volume === null ? [...format, ...findings] : format, volumes);
}

function isAsked({ state }: VolumeLog, id: string, volume: string): boolean {
  return id === volume || state?.name === volume;
}

function notFound(volume: string, unreadable: number): BlockferryError {
  const more =
    unreadable === 0 ? '' : `; of ${unreadable} volumes the log is damaged: name them by their id`;
  const message = `there is no volume ${JSON.stringify(volume)}${more}`;
  return new BlockferryError('VOLUME_NOT_FOUND', message);
}

function checkFormat({ disk, path }: CheckOptions): Finding[] {
  const file = `${path}/${FORMAT_NAME}`;
  const place = atFile(file);
  try {
    if (!disk.exists(file)) {
      const step = { kind: 'write-format', path: file } as const;
      return [finding('format-missing', place, 'nothing says which format the data has', step)];
    }
    const version = formatVersionOf(disk.readFile(file).toString('utf8'));
    if (version === null) {
      return [finding('format-unreadable', place, 'this is not a format that can be read')];
    }
    if (version <= FORMAT_VERSION) return [];
    const what = `the data has format ${version}, this version knows ${FORMAT_VERSION}`;
    return [finding('format-newer', place, what)];
  } catch (thrown) {
    return [finding('unreadable', place, errorText(thrown))];
  }
}

function listVolumes({ disk, path }: CheckOptions): { ids: string[]; findings: Finding[] } {
  const directory = `${path}/volumes`;
  const ids: string[] = [];
  const findings: Finding[] = [];
  let names: string[] = [];
  try {
    names = disk.list(directory);
  } catch (thrown) {
    findings.push(finding('unreadable', atFile(directory), errorText(thrown)));
  }
  for (const name of names) {
    const entry = `${directory}/${name}`;
    const leftover = /^(creating|deleting)-[0-9a-f]{32}$/.exec(name);
    if (/^[0-9a-f]{32}$/.test(name)) ids.push(name);
    else if (leftover === null) {
      findings.push(finding('foreign-entry', atFile(entry), 'no volume has such a directory'));
    } else {
      const what = `a volume whose ${leftover[1] === 'creating' ? 'creation' : 'deletion'} did not end`;
      const step = { kind: 'remove', path: entry } as const;
      findings.push(finding('volume-leftover', atFile(entry), what, step));
    }
  }
  return { ids, findings };
}

/** One finding for each volume whose name another one has too. */
function namesTwice(logs: ReadonlyMap<string, VolumeLog>): Finding[] {
  const findings: Finding[] = [];
  const entries = [...logs];
  for (const [id, { path, state }] of entries) {
    const other = entries.find(
      ([otherId, log]) => otherId !== id && log.state?.name === state?.name,
    );
    if (state === null || other === undefined) continue;
    const what = `the volume ${other[0]} has the name ${JSON.stringify(state.name)} too: one of them is not served`;
    findings.push(finding('volume-name-twice', atFile(path), what));
  }
  return findings;
}

/** Clones of which what lies below is not there: told of the clone, and of the volume that should have it. */
function originsMissing(logs: ReadonlyMap<string, VolumeLog>): Finding[] {
  const findings: Finding[] = [];
  for (const [id, { path, state }] of logs) {
    const origin = state?.origin ?? null;
    if (origin === null) continue;
    const below = logs.get(origin.volume);
    if (below?.state?.snapshots.has(origin.snapshot) === true) continue;
    const why =
      below === undefined
        ? 'is not there, or has a damaged log'
        : `has no such snapshot${below.state === null ? ' that can be read' : ''}`;
    const what = `the clone ${id} lies on the snapshot ${origin.snapshot}, but its volume ${origin.volume} ${why}`;
    findings.push(finding('clone-origin-missing', atFile(path), what));
    if (below !== undefined)
      findings.push(finding('clone-origin-missing', atFile(below.path), what));
  }
  return findings;
}

function toolsOf({ clock, deviceBytes }: CheckOptions): CheckTools {
  return {
    turn: () => new Promise((resolve) => clock.soon(resolve)),
    buffer: Buffer.alloc(CHECK_READ_BYTES),
    deviceBytes,
  };
}

async function repairAll(options: CheckOptions, report: CheckReport): Promise<RepairResult[]> {
  const results: RepairResult[] = [];
  for (const { id, findings } of report.volumes) {
    results.push(...(await repair(options, `${options.path}/volumes/${id}`, findings)));
  }
  results.push(...(await repair(options, `${options.path}/volumes`, report.findings)));
  return results;
}
