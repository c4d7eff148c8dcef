/** `[replication]` of the file, and what flags say of it: what the node holds for its mirrors. */
import { BlockferryError, errorText } from '../../io/errors.ts';
import {
  BANDWIDTH_MAX,
  BANDWIDTH_MIN,
  MIRROR_GRACE_MS,
  STAGING_BYTES_MAX,
  STAGING_DISK_BYTES_MAX,
  STAGING_DISK_BYTES_MIN,
  STAGING_MEMORY_BYTES_MAX,
  STAGING_MEMORY_BYTES_MIN,
} from '../../io/limits.ts';
import { parseNbdUri } from '../../nbd/uri/uri.ts';
import { parseBytes } from '../../volume/names.ts';
import type { ConfigFile } from './config-file.ts';

/** Of each volume with mirrors. */
export interface ReplicationConfig {
  readonly stagingMemoryBytes: number;
  /** Null: nothing is staged on disk. */
  readonly stagingDiskBytes: number | null;
  /** How long a lost link is bridged from memory. */
  readonly graceMs: number;
  /** Bytes a second that the mirrors of all volumes are sent at most; null: no limit. */
  readonly bandwidthLimit: number | null;
  /** URI without an export, by which other nodes reach this one; null: nobody said. */
  readonly address: string | null;
}

export interface ReplicationFlags {
  readonly stagingDisk?: string;
}

/** @throws BlockferryError CONFIG_INVALID or USAGE */
export function resolveReplication(flags: ReplicationFlags, file: ConfigFile): ReplicationConfig {
  const { replication = {} } = file.values;
  const { staging_memory: memory, staging_disk: disk, grace_seconds: grace } = replication;
  const { bandwidth_limit: bandwidth, address } = replication;
  const inFile = (key: string, text: string, range: Range): number =>
    bytesWithin(text, range, (why) => file.fault(['replication', key], why));
  const ofDisk = disk === undefined ? null : inFile('staging_disk', disk, DISK);
  const { stagingDisk: flag } = flags;
  return {
    stagingMemoryBytes:
      memory === undefined ? STAGING_BYTES_MAX : inFile('staging_memory', memory, MEMORY),
    stagingDiskBytes:
      flag === undefined
        ? ofDisk
        : bytesWithin(
            flag,
            DISK,
            (why) => new BlockferryError('USAGE', `--staging-disk ${JSON.stringify(flag)} ${why}`),
          ),
    graceMs: grace === undefined ? MIRROR_GRACE_MS : grace * 1000,
    bandwidthLimit:
      bandwidth === undefined ? null : inFile('bandwidth_limit', bandwidth, BANDWIDTH),
    address:
      address === undefined
        ? null
        : checkedAddress(address, (why) => file.fault(['replication', 'address'], why)),
  };
}

function checkedAddress(text: string, fault: (why: string) => Error): string {
  try {
    if (parseNbdUri(text).exportName === '') return text;
  } catch (thrown) {
    throw fault(errorText(thrown));
  }
  throw fault('must name no export: nbds://HOST[:PORT] or nbd+unix:///?socket=PATH');
}

/** How other nodes reach a volume of a node with that address. */
export function uriAt(address: string, volume: string): string {
  const [base = '', ...query] = address.split('?');
  const parameters = query.length === 0 ? '' : `?${query.join('?')}`;
  const path = `${base.endsWith('/') ? '' : '/'}${encodeURIComponent(volume)}`;
  return parseNbdUri(`${base}${path}${parameters}`).text;
}

interface Range {
  readonly least: number;
  readonly most: number;
}

const MEMORY: Range = { least: STAGING_MEMORY_BYTES_MIN, most: STAGING_MEMORY_BYTES_MAX };
const DISK: Range = { least: STAGING_DISK_BYTES_MIN, most: STAGING_DISK_BYTES_MAX };
const BANDWIDTH: Range = { least: BANDWIDTH_MIN, most: BANDWIDTH_MAX };

function bytesWithin(text: string, { least, most }: Range, fault: (why: string) => Error): number {
  // As people write it: 8G, 8GiB.
  const bytes = parseBytes(text.replace(/iB$/, ''));
  if (bytes !== null && bytes >= least && bytes <= most) return bytes;
  throw fault(`must be ${shown(least)} to ${shown(most)}, such as "8G"`);
}

/** A power of two in its largest unit. */
function shown(bytes: number): string {
  const power = Math.floor(Math.log2(bytes) / 10);
  return `${bytes / 1024 ** power}${['', 'K', 'M', 'G', 'T'][power] ?? ''}`;
}
