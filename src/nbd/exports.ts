/** What a server exports, and what it promises of it. */
import type { BlockDevice } from '../io/device.ts';
import { NBD_PAYLOAD_BYTES_MAX } from '../io/limits.ts';
import { NBD_BLOCK_SIZE, NBD_FLAG } from './constants.ts';
import type { BlockSizes } from './option-codec.ts';

/** The names that clients may ask for. The source decides what '' (the default export) is. */
export interface ExportSource {
  find(name: string): BlockDevice | null;
  /** Names to show. Each is under NBD_STRING_BYTES_MAX bytes. */
  list(): string[];
}

/** Offered, never demanded: requests of any size and offset are served. */
export const BLOCK_SIZES: BlockSizes = Object.freeze({
  minimum: 1,
  preferred: NBD_BLOCK_SIZE.PREFERRED_DEFAULT,
  maximum: NBD_PAYLOAD_BYTES_MAX,
});

/**
 * One device object serves all connections and its flush covers all of them, so multi-conn holds
 * (protocol section 6.3).
 */
const FLAGS: number =
  NBD_FLAG.HAS_FLAGS |
  NBD_FLAG.SEND_FLUSH |
  NBD_FLAG.SEND_FUA |
  NBD_FLAG.SEND_TRIM |
  NBD_FLAG.SEND_WRITE_ZEROES |
  NBD_FLAG.CAN_MULTI_CONN;

export const transmissionFlagsOf = (device: BlockDevice): number =>
  device.readOnly ? FLAGS | NBD_FLAG.READ_ONLY : FLAGS;

/** The name under which a device is listed; the name asked for, if it is none of them. */
export function canonicalNameOf(source: ExportSource, asked: string, device: BlockDevice): string {
  if (asked !== '') return asked;
  return source.list().find((name) => source.find(name) === device) ?? asked;
}
