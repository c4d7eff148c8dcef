/**
 * Why requests fail: the NBD error, and a text for the clients that can be told (protocol section 5: errors
 * of structured replies should carry a message). Texts are made once and are far under NBD_STRING_BYTES_MAX.
 */
import { NBD_PAYLOAD_BYTES_MAX } from '../../io/limits.ts';
import { nameOfCommand, nameOfErrno, NBD_ERRNO, type NbdErrno } from '../constants.ts';

export interface Refusal {
  readonly error: NbdErrno;
  /** UTF-8. */
  readonly text: Buffer;
}

const refusal = (error: NbdErrno, text: string): Refusal =>
  Object.freeze({ error, text: Buffer.from(text) });

const { EINVAL, ENOSPC, EPERM, EOVERFLOW, ESHUTDOWN } = NBD_ERRNO;
const TOO_LONG = `longer than the largest payload, ${NBD_PAYLOAD_BYTES_MAX} bytes`;

export const REFUSED = Object.freeze({
  COMMAND: refusal(EINVAL, 'unknown command, or one that this export does not offer'),
  NO_CONTEXTS: refusal(EINVAL, 'NBD_CMD_BLOCK_STATUS without a selected meta context'),
  FLAGS: refusal(
    EINVAL,
    'a flag that this command does not take, or that this export does not offer',
  ),
  NO_PAYLOAD: refusal(EINVAL, 'NBD_CMD_WRITE with extended headers needs NBD_CMD_FLAG_PAYLOAD_LEN'),
  PAST_END: refusal(EINVAL, 'the range passes the end of the export'),
  PAST_END_WRITE: refusal(ENOSPC, 'the range passes the end of the export'),
  READ_ONLY: refusal(EPERM, 'the export is read-only'),
  FLUSH_RANGE: refusal(EINVAL, 'NBD_CMD_FLUSH takes no offset and no length'),
  EMPTY_STATUS: refusal(EINVAL, 'NBD_CMD_BLOCK_STATUS of no bytes'),
  STATUS_PAYLOAD: refusal(
    EINVAL,
    'malformed payload of NBD_CMD_BLOCK_STATUS, or wrong context ids',
  ),
  READ_TOO_LONG: refusal(EOVERFLOW, TOO_LONG),
  /** EOVERFLOW is for clients that know structured replies. */
  READ_TOO_LONG_SIMPLE: refusal(EINVAL, TOO_LONG),
  WRITE_TOO_LONG: refusal(EINVAL, TOO_LONG),
  STOPPING: refusal(ESHUTDOWN, 'the server is stopping'),
} as const);

const ofDevice = new Map<number, Refusal>();
/** Error values are under this. */
const ERRORS = 256;

/** The device answered `error` (not OK) to a command that it was given. */
export function deviceRefusal(command: number, error: NbdErrno): Refusal {
  const key = command * ERRORS + error;
  let found = ofDevice.get(key);
  if (found === undefined) {
    found = refusal(error, `${nameOfCommand(command)} failed on the device: ${nameOfErrno(error)}`);
    ofDevice.set(key, found);
  }
  return found;
}
