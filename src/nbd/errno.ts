/**
 * The one place where a system errno becomes an NBD error (protocol section 1.9, last rows of
 * section 7). Nothing but the values of NBD_ERRNO ever reaches a reply.
 */
import { NBD_ERRNO, type NbdErrno } from './constants.ts';

/** Linux errno values that a backend may answer and that NBD folds into one of its own. */
const LINUX = Object.freeze({
  EPERM: 1,
  ENOMEM: 12,
  EACCES: 13,
  EINVAL: 22,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  ESHUTDOWN: 108,
  ENOTSUP: 95,
  EDQUOT: 122,
} as const);

/**
 * `status` is 0 or a positive Linux errno, as a device answers it. What NBD has no word for is EIO; so are
 * EOVERFLOW, which is for lengths that never reach a device, and ENOTSUP, unless the request had FAST_ZERO.
 */
export function nbdErrnoOf(status: number, fastZero: boolean): NbdErrno {
  switch (status) {
    case 0:
      return NBD_ERRNO.OK;
    case LINUX.EPERM:
    case LINUX.EACCES:
    case LINUX.EROFS:
      return NBD_ERRNO.EPERM;
    case LINUX.ENOSPC:
    case LINUX.EDQUOT:
    case LINUX.EFBIG:
      return NBD_ERRNO.ENOSPC;
    case LINUX.ENOMEM:
      return NBD_ERRNO.ENOMEM;
    case LINUX.EINVAL:
      return NBD_ERRNO.EINVAL;
    case LINUX.ENOTSUP:
      return fastZero ? NBD_ERRNO.ENOTSUP : NBD_ERRNO.EIO;
    case LINUX.ESHUTDOWN:
      return NBD_ERRNO.ESHUTDOWN;
    default:
      return NBD_ERRNO.EIO;
  }
}
