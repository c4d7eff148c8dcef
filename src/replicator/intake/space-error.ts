/** Errors of a full disk: what was asked for is refused, and nothing is broken. */
import { Status } from '../../io/device.ts';

const EDQUOT = 122;
const EFBIG = 27;

export function isSpaceError(errno: number): boolean {
  return errno === Status.ENOSPC || errno === EDQUOT || errno === EFBIG;
}
