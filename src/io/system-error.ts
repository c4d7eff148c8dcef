/** Errors in the form that Node gives to those of the operating system. */
import { getSystemErrorName } from 'node:util';

/** `errno` is positive; the error carries it negative, as Node's own do. */
export function systemError(errno: number, syscall: string, path?: string): NodeJS.ErrnoException {
  const code = getSystemErrorName(-errno);
  const error: NodeJS.ErrnoException = new Error(
    path === undefined ? `${code}: ${syscall}` : `${code}: ${syscall} '${path}'`,
  );
  error.code = code;
  error.errno = -errno;
  error.syscall = syscall;
  if (path !== undefined) error.path = path;
  return error;
}
