/** What users may ask of a volume and its snapshots: names and sizes. */
import {
  BLOCK_BYTES,
  SNAPSHOT_NAME_BYTES_MAX,
  VOLUME_BYTES_MAX,
  VOLUME_NAME_BYTES_MAX,
} from '../io/limits.ts';
import { BlockferryError } from '../io/errors.ts';

const REPLACED = '.replaced-';
const SUFFIX_POWER: Readonly<Record<string, number>> = { '': 0, K: 1, M: 2, G: 3, T: 4, P: 5 };

/** Bytes of a text such as `512M`, `10G` or `4096`; suffixes are powers of 1024. Null if it is none. */
export function parseBytes(text: string): number | null {
  const match = /^(\d{1,16})([KMGTP]?)$/i.exec(text);
  const power = SUFFIX_POWER[match?.[2]?.toUpperCase() ?? '?'];
  return match?.[1] === undefined || power === undefined ? null : Number(match[1]) * 1024 ** power;
}

/** Bytes of a volume's size, as `parseBytes` reads it. Throws SIZE_INVALID. */
export function parseSize(text: string): number {
  const bytes = parseBytes(text);
  if (bytes !== null) return validateSize(bytes);
  throw new BlockferryError('SIZE_INVALID', `the size ${JSON.stringify(text)} cannot be read`);
}

/** Returns `sizeBytes` if a volume can have it, else throws SIZE_INVALID. */
export function validateSize(sizeBytes: number): number {
  const refuse = (why: string): never => {
    throw new BlockferryError('SIZE_INVALID', `a volume of ${sizeBytes} bytes ${why}`);
  };
  if (!Number.isFinite(sizeBytes) || sizeBytes > VOLUME_BYTES_MAX) {
    refuse(`is larger than ${VOLUME_BYTES_MAX} bytes`);
  }
  if (sizeBytes <= 0) refuse('has no block');
  if (sizeBytes % BLOCK_BYTES !== 0) refuse(`is not a multiple of ${BLOCK_BYTES} bytes`);
  return sizeBytes;
}

/** Returns `name` if a volume can have it, else throws VOLUME_NAME_INVALID. */
export function validateVolumeName(name: string): string {
  const fault = faultOf(name, VOLUME_NAME_BYTES_MAX);
  if (fault === null) return name;
  throw new BlockferryError('VOLUME_NAME_INVALID', `the volume name ${shown(name)} ${fault}`);
}

/** Whether a snapshot of this name is the replicator's own, which operators neither see nor name. */
export function isHidden(snapshotName: string): boolean {
  return snapshotName.startsWith('.');
}

/** The hidden name of what the snapshot `id` took the place of on a mirror, until its primary says that this holds. */
export function replacedName(id: string): string {
  return `${REPLACED}${id}`;
}

/** Whether that is the hidden name of such a snapshot. */
export function isReplaced(snapshotName: string): boolean {
  return snapshotName.startsWith(REPLACED);
}

/** Returns `name` if an operator can give it to a snapshot, else throws SNAPSHOT_NAME_INVALID. */
export function validateSnapshotName(name: string): string {
  const fault = faultOfSnapshot(name) ?? (isHidden(name) ? 'begins with a dot' : null);
  if (fault === null) return name;
  throw new BlockferryError('SNAPSHOT_NAME_INVALID', `the snapshot name ${shown(name)} ${fault}`);
}

/** Why a recorded snapshot cannot have this name, hidden or not; null: it can. */
export function faultOfSnapshot(name: string): string | null {
  return faultOf(name, SNAPSHOT_NAME_BYTES_MAX);
}

function faultOf(name: string, bytesMax: number): string | null {
  const bytes = Buffer.byteLength(name, 'utf8');
  if (bytes === 0) return 'is empty';
  if (bytes > bytesMax) return `is longer than ${bytesMax} bytes`;
  if (Buffer.from(name, 'utf8').toString('utf8') !== name) return 'is not valid Unicode';
  if (/[/@]/.test(name)) return 'holds a / or @';
  if (/\p{Cc}/u.test(name)) return 'holds a control character';
  return name === '.' || name === '..' ? 'is not a name' : null;
}

function shown(name: string): string {
  return JSON.stringify(name.length > 64 ? `${name.slice(0, 64)}...` : name);
}

/** Files beside the log of a secondary: the epochs that are not part of it for good (docs/internals/journal.md). */
export const JOURNAL_NAMES: readonly string[] = ['journal-a', 'journal-b'];

/** File beside the log of a volume with mirrors: what is staged for them and memory has no room for. Means nothing to the next process. */
export const STAGING_NAME = 'staging';
