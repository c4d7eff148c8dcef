/**
 * What an NBD URI says of TLS: `nbds://[USER@]HOST/EXPORT?tls-certificates=DIR&tls-hostname=NAME&tls-psk-file=FILE`.
 *
 * Invariants:
 * - The server is always verified: what would switch that off is refused.
 * - Nothing of it is a secret: keys stay in their files.
 */
import { parseAddress } from '../../io/address.ts';
import { FILE_PATH_BYTES_MAX, PSK_USER_BYTES_MAX } from '../../io/limits.ts';
import { printable } from '../client/client-text.ts';
import { decode, encodePath, Invalid } from './uri-parts.ts';

export interface UriTls {
  /** Directory with `ca-cert.pem`, and `client-cert.pem` with `client-key.pem` where the server asks for them. */
  readonly certificates: string | null;
  /** File of pre-shared keys. */
  readonly pskFile: string | null;
  /** Whose key of that file. */
  readonly user: string | null;
  /** Name or address that the server's certificate must have. */
  readonly serverName: string;
}

export const TLS_PARAMETERS: readonly string[] = [
  'tls-certificates',
  'tls-hostname',
  'tls-psk-file',
  'tls-type',
  'tls-verify-peer',
];

const HOST_CHARACTERS_MAX = 253;
/** All of it percent-encoded, with room for the names of the parameters. */
export const TLS_CHARACTERS_MAX: number =
  3 * (2 * FILE_PATH_BYTES_MAX + HOST_CHARACTERS_MAX + PSK_USER_BYTES_MAX) + 128;

/** `secure`: the scheme says so. `user` and the values of `parameters` are still encoded. Throws Invalid. */
export function parseTls(
  secure: boolean,
  user: string | null,
  parameters: ReadonlyMap<string, string>,
  host: string,
): UriTls | null {
  if (!secure) {
    if (user !== null) throw new Invalid('a user name needs nbds:// or nbds+unix://');
    const given = TLS_PARAMETERS.find((name) => parameters.has(name));
    if (given === undefined) return null;
    throw new Invalid(`the parameter "${given}" needs nbds:// or nbds+unix://`);
  }
  if (parameters.has('tls-type')) {
    throw new Invalid('tls-type is not needed: give tls-certificates or tls-psk-file');
  }
  if ((parameters.get('tls-verify-peer') ?? '1') !== '1') {
    throw new Invalid('the server is always verified: tls-verify-peer can only be 1');
  }
  return {
    certificates: parsePath(parameters, 'tls-certificates'),
    pskFile: parsePath(parameters, 'tls-psk-file'),
    user: user === null ? null : parseUser(user),
    serverName: parseServerName(parameters.get('tls-hostname')) ?? host,
  };
}

/** What stands in front of the host, and in the query, in the canonical form. */
export function writeTls(tls: UriTls | null, host: string): { before: string; after: string } {
  if (tls === null) return { before: '', after: '' };
  const { certificates, pskFile, serverName, user } = tls;
  const pairs = [
    ['tls-certificates', certificates],
    ['tls-hostname', serverName === host ? null : serverName],
    ['tls-psk-file', pskFile],
  ] as const;
  return {
    before: user === null ? '' : `${encodeURIComponent(user)}@`,
    after: pairs
      .flatMap(([name, value]) => (value === null ? [] : [`${name}=${encodePath(value)}`]))
      .join('&'),
  };
}

function parsePath(parameters: ReadonlyMap<string, string>, name: string): string | null {
  const encoded = parameters.get(name);
  if (encoded === undefined) return null;
  const path = decode(encoded, name);
  // Whoever opens it may stand in another directory.
  if (!path.startsWith('/')) throw new Invalid(`${name} must be an absolute path`);
  if (/\p{Cc}/u.test(path)) throw new Invalid(`${name} has a control character`);
  if (Buffer.byteLength(path) > FILE_PATH_BYTES_MAX) {
    throw new Invalid(`${name} is longer than ${FILE_PATH_BYTES_MAX} bytes`);
  }
  return path;
}

function parseUser(encoded: string): string {
  if (encoded.includes(':')) throw new Invalid('a password has no use: keys stand in tls-psk-file');
  const user = decode(encoded, 'user name');
  if (user === '') throw new Invalid('the user name is empty');
  if (/\p{Cc}/u.test(user)) throw new Invalid('the user name has a control character');
  if (Buffer.byteLength(user) > PSK_USER_BYTES_MAX) {
    throw new Invalid(`the user name is longer than ${PSK_USER_BYTES_MAX} bytes`);
  }
  return user;
}

/** A name, or an address, of IPv6 without brackets. */
function parseServerName(encoded: string | undefined): string | null {
  if (encoded === undefined) return null;
  const name = decode(encoded, 'tls-hostname').toLowerCase();
  try {
    // One judge of host names for the whole program.
    parseAddress(name.includes(':') ? `[${name}]:1` : `${name}:1`);
  } catch {
    throw new Invalid(`"${printable(name, 40)}" is not a host name or address`);
  }
  return name;
}
