/** What an export of any NBD server must be to become a mirror. */
import { BlockferryError } from '../../io/errors.ts';
import type { ExportInfo } from '../../nbd/client/client.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';
import { ENTRY_BYTES_MAX } from '../staging/epoch.ts';

const BLOCK_SIZE_MAX = 4096;

/** Why an export cannot be a mirror of `sizeBytes`; null: it can. */
export function unfitAsMirror(
  uri: NbdUri,
  info: ExportInfo,
  sizeBytes: number,
): BlockferryError | null {
  if (info.readOnly) {
    return new BlockferryError('MIRROR_READ_ONLY', `${uri.text} is read-only`);
  }
  if (info.sizeBytes < sizeBytes) {
    return new BlockferryError(
      'MIRROR_TOO_SMALL',
      `mirror ${uri.text} has ${info.sizeBytes} bytes, the volume has ${sizeBytes}`,
    );
  }
  if (info.minimumBlock > BLOCK_SIZE_MAX || info.maximumPayload < ENTRY_BYTES_MAX) {
    return new BlockferryError(
      'MIRROR_REFUSED',
      `mirror ${uri.text} wants blocks of ${info.minimumBlock} to ${info.maximumPayload} bytes, ` +
        `${BLOCK_SIZE_MAX} to ${ENTRY_BYTES_MAX} are needed`,
    );
  }
  return null;
}
