/** Why a server could not be reached, or was lost before anything was agreed, in words for people. */
import { BlockferryError, errorText } from '../../io/errors.ts';
import { NBD_CLIENT_MESSAGE_CHARACTERS_MAX } from '../../io/limits.ts';
import { printable } from './client-text.ts';
import type { NbdUri } from '../uri/uri.ts';

/** MIRROR_UNREACHABLE: there was a connection. */
export function unusable(uri: NbdUri, why: string, cause?: unknown): BlockferryError {
  return new BlockferryError('MIRROR_UNREACHABLE', `${uri.text} cannot be used: ${why}`, { cause });
}

const WHY_UNREACHABLE: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  ECONNREFUSED: 'nobody listens there',
  EHOSTUNREACH: 'there is no way to that host',
  ENETUNREACH: 'there is no way to that network',
  ENOENT: 'that socket does not exist',
  ENOTFOUND: 'the host name is not known',
};

/** MIRROR_UNREACHABLE: there was no connection; `error` is the system's. */
export function unreachable(uri: NbdUri, connectMs: number, error: unknown): BlockferryError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const text = printable(errorText(error), NBD_CLIENT_MESSAGE_CHARACTERS_MAX);
  const why =
    code === 'ETIMEDOUT' ? `no answer within ${connectMs} ms` : (WHY_UNREACHABLE[code] ?? text);
  return new BlockferryError('MIRROR_UNREACHABLE', `${uri.text} cannot be reached: ${why}`, {
    cause: error,
  });
}
