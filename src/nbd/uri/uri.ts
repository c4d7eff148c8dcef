/**
 * NBD URIs (protocol section 8): `nbd://HOST[:PORT]/EXPORT` and `nbd+unix:///EXPORT?socket=PATH`; with TLS, `nbds` and
 * `nbds+unix`, and what is in uri-tls.ts.
 *
 * Invariants:
 * - `text` is canonical: it parses to an equal value, and two spellings of one export have one text.
 *   The port is always written. So the text can be stored and compared.
 * - What is not understood is refused, not ignored: a mistyped parameter must not name another export.
 *   Only the experimental `x-` parameters may be ignored by anyone.
 */
import { parseAddress, UNIX_PATH_BYTES_MAX } from '../../io/address.ts';
import { BlockferryError } from '../../io/errors.ts';
import { NBD_STRING_BYTES_MAX } from '../../io/limits.ts';
import type { Address } from '../../io/network.ts';
import { printable } from '../client/client-text.ts';
import { NBD_PORT } from '../constants.ts';
import { decode, encodePath, Invalid } from './uri-parts.ts';
import { parseTls, TLS_CHARACTERS_MAX, TLS_PARAMETERS, type UriTls, writeTls } from './uri-tls.ts';

export interface NbdUri {
  /** Canonical form. Printable: whatever needs it is percent-encoded. */
  readonly text: string;
  readonly address: Address;
  /** Decoded. Empty for the server's default export. */
  readonly exportName: string;
  /** Null: in clear. */
  readonly tls: UriTls | null;
}

const HOST_CHARACTERS_MAX = 253;
const QUOTED_CHARACTERS_MAX = 80;
/** Every byte of name, path and host percent-encoded, and room for the punctuation. */
const URI_CHARACTERS_MAX =
  3 * (NBD_STRING_BYTES_MAX + UNIX_PATH_BYTES_MAX + HOST_CHARACTERS_MAX) + TLS_CHARACTERS_MAX + 256;

const FORBIDDEN = /[\p{Cc} "<>\\^`{|}]/u;

interface Parts {
  readonly scheme: string;
  readonly authority: string;
  /** Still encoded, without its leading slash. */
  readonly path: string;
  /** Still encoded, without its question mark. */
  readonly query: string;
}

/** Throws BlockferryError URI_INVALID, which says what is wrong. */
export function parseNbdUri(text: string): NbdUri {
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof Invalid)) throw error;
    const quoted = printable(text, QUOTED_CHARACTERS_MAX);
    throw new BlockferryError(
      'URI_INVALID',
      `"${quoted}" is not a usable NBD URI: ${error.message}`,
    );
  }
}

function parse(text: string): NbdUri {
  if (text.length > URI_CHARACTERS_MAX) throw new Invalid('it is too long');
  const forbidden = FORBIDDEN.exec(text);
  if (forbidden !== null) {
    throw new Invalid(`character ${forbidden.index + 1} must be percent-encoded`);
  }
  const parts = split(text);
  switch (parts.scheme) {
    case 'nbd':
    case 'nbds':
      return parseTcp(parts);
    case 'nbd+unix':
    case 'nbds+unix':
      return parseUnix(parts);
    default:
      throw new Invalid(
        `the scheme "${printable(parts.scheme, 20)}" is neither nbd://, nbd+unix://, nbds:// nor nbds+unix://`,
      );
  }
}

function split(text: string): Parts {
  const mark = text.indexOf('://');
  if (mark < 0) throw new Invalid('it does not begin with nbd:// or nbd+unix://');
  if (text.includes('#')) throw new Invalid('it has a fragment; write "#" in a name as %23');
  const rest = text.slice(mark + 3);
  const queryMark = rest.indexOf('?');
  const hierarchy = queryMark < 0 ? rest : rest.slice(0, queryMark);
  const slash = hierarchy.indexOf('/');
  return {
    scheme: text.slice(0, mark).toLowerCase(),
    authority: slash < 0 ? hierarchy : hierarchy.slice(0, slash),
    path: slash < 0 ? '' : hierarchy.slice(slash + 1),
    query: queryMark < 0 ? '' : rest.slice(queryMark + 1),
  };
}

function parseTcp(parts: Parts): NbdUri {
  const parameters = parseQuery(parts.query);
  if (parameters.has('socket'))
    throw new Invalid(`a socket parameter needs ${parts.scheme}+unix://`);
  const { user, place } = splitUser(parts.authority);
  const { host, port } = parseAuthority(place);
  const exportName = decodeName(parts.path);
  const tls = parseTls(parts.scheme.startsWith('nbds'), user, parameters, host);
  const { before, after } = writeTls(tls, host);
  const authority = host.includes(':') ? `[${host}]` : host;
  const query = after === '' ? '' : `?${after}`;
  return {
    text: `${parts.scheme}://${before}${authority}:${port}/${encodePath(exportName)}${query}`,
    address: { kind: 'tcp', host, port },
    exportName,
    tls,
  };
}

/** Where a server on a unix socket has no other name in its certificate. */
const HOST_OF_UNIX = 'localhost';

function parseUnix(parts: Parts): NbdUri {
  const { scheme } = parts;
  const { user, place } = splitUser(parts.authority);
  if (place !== '') {
    throw new Invalid(`${scheme}:// takes no host; write three slashes: ${scheme}:///EXPORT`);
  }
  const parameters = parseQuery(parts.query);
  const path = parseSocket(parameters.get('socket'));
  const exportName = decodeName(parts.path);
  const tls = parseTls(scheme.startsWith('nbds'), user, parameters, HOST_OF_UNIX);
  const { before, after } = writeTls(tls, HOST_OF_UNIX);
  const query = `socket=${encodePath(path)}${after === '' ? '' : `&${after}`}`;
  return {
    text: `${scheme}://${before}/${encodePath(exportName)}?${query}`,
    address: { kind: 'unix', path },
    exportName,
    tls,
  };
}

function parseSocket(encoded: string | undefined): string {
  if (encoded === undefined || encoded === '') {
    throw new Invalid('it names no socket; add ?socket=PATH');
  }
  const path = decode(encoded, 'socket path');
  if (path.startsWith('\0')) throw new Invalid('abstract sockets are not supported');
  if (/\p{Cc}/u.test(path)) throw new Invalid('the socket path has a control character');
  if (Buffer.byteLength(path) > UNIX_PATH_BYTES_MAX) {
    throw new Invalid(`the socket path is longer than ${UNIX_PATH_BYTES_MAX} bytes`);
  }
  return path;
}

const PARAMETERS: ReadonlySet<string> = new Set(['socket', ...TLS_PARAMETERS]);

/** Known parameters, still encoded. */
function parseQuery(query: string): ReadonlyMap<string, string> {
  const parameters = new Map<string, string>();
  for (const pair of query.split('&')) {
    if (pair === '') continue;
    const equals = pair.indexOf('=');
    const key = decode(equals < 0 ? pair : pair.slice(0, equals), 'parameter');
    if (key.startsWith('x-')) continue;
    if (!PARAMETERS.has(key)) throw new Invalid(`the parameter "${printable(key, 20)}" is unknown`);
    if (parameters.has(key)) throw new Invalid(`the parameter "${key}" is given twice`);
    parameters.set(key, equals < 0 ? '' : pair.slice(equals + 1));
  }
  return parameters;
}

/** Both still encoded. */
function splitUser(authority: string): { user: string | null; place: string } {
  const at = authority.indexOf('@');
  if (at < 0) return { user: null, place: authority };
  return { user: authority.slice(0, at), place: authority.slice(at + 1) };
}

function parseAuthority(authority: string): { host: string; port: number } {
  const bracket = authority.lastIndexOf(']');
  const colon = authority.indexOf(':', bracket + 1);
  const host = colon < 0 ? authority : authority.slice(0, colon);
  const port = colon < 0 ? '' : authority.slice(colon + 1);
  return { host: parseHost(host), port: parsePort(port) };
}

function parseHost(text: string): string {
  if (text === '') throw new Invalid('it names no host');
  if (text.startsWith('[')) return parseIpv6(text);
  const host = text.toLowerCase();
  try {
    // One judge of host names for the whole program.
    parseAddress(`${host}:${NBD_PORT}`);
  } catch {
    throw new Invalid(`"${printable(text, 40)}" is not a host name or address`);
  }
  return host;
}

/** The URL parser knows the grammar of IPv6 and its one shortest spelling. */
function parseIpv6(text: string): string {
  const url = `http://${text}/`;
  if (!text.endsWith(']') || !URL.canParse(url)) {
    throw new Invalid(`"${printable(text, 50)}" is not an IPv6 address in brackets`);
  }
  return new URL(url).hostname.slice(1, -1);
}

function parsePort(text: string): number {
  if (text === '') return NBD_PORT;
  const port = /^[0-9]{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65535) {
    throw new Invalid(`"${printable(text, 20)}" is not a port from 1 to 65535`);
  }
  return port;
}

function decodeName(encoded: string): string {
  const name = decode(encoded, 'export name');
  if (name.includes('\0')) throw new Invalid('the export name has a NUL byte');
  if (Buffer.byteLength(name) > NBD_STRING_BYTES_MAX) {
    throw new Invalid(`the export name is longer than ${NBD_STRING_BYTES_MAX} bytes`);
  }
  return name;
}
