/**
 * Addresses as people write them: `host:port`, `[v6]:port` and `unix:PATH`.
 *
 * Invariants:
 * - `parseAddress(formatAddress(address))` gives the same address.
 * - A host that some resolver could take for a number (`127.1`, `0x7f000001`) is no name: it is refused,
 *   so `isLoopback` judges what the system will really connect to.
 */
import { BlockList, isIPv4, isIPv6 } from 'node:net';

import { BlockferryError } from './errors.ts';
import type { Address } from './network.ts';

/** Longest path of a unix socket: `sun_path` of Linux has 108 bytes, one of them the final zero. */
export const UNIX_PATH_BYTES_MAX = 107;

const PORT_MAX = 65_535;
const HOST_NAME_LENGTH_MAX = 253;
const UNIX_PREFIX = 'unix:';
const HOST_NAME = /^(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?$/i;
/** A last label like these makes resolvers read the whole name as an IPv4 address. */
const ENDS_IN_NUMBER = /(?:^|\.)(?:\d+|0x[0-9a-f]*)\.?$/i;
// eslint-disable-next-line no-control-regex -- control characters are what it looks for
const CONTROL_CHARACTER = /[\u0000-\u001f\u007f]/;

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/**
 * Reads `host:port`, `[v6]:port` or `unix:PATH`. Ports are 0 (any free one) to 65535, a path has 1 to
 * 107 bytes.
 * @throws BlockferryError ADDRESS_INVALID
 */
export function parseAddress(text: string): Address {
  if (text.startsWith(UNIX_PREFIX)) {
    return { kind: 'unix', path: checkedPath(text, text.slice(UNIX_PREFIX.length)) };
  }
  const colon = text.lastIndexOf(':');
  if (colon === -1) throw invalid(text, 'it has no port');
  const port = checkedPort(text, text.slice(colon + 1));
  return { kind: 'tcp', host: checkedHost(text, text.slice(0, colon)), port };
}

/** The text that `parseAddress` reads as this address. */
export function formatAddress(address: Address): string {
  if (address.kind === 'unix') return UNIX_PREFIX + address.path;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `${host}:${address.port}`;
}

/** Whether only this machine can reach it: unix sockets, `localhost`, 127.0.0.0/8 and ::1. */
export function isLoopback(address: Address): boolean {
  if (address.kind === 'unix') return true;
  const { host } = address;
  if (isIPv4(host)) return loopback.check(host, 'ipv4');
  if (isIPv6(host)) return loopback.check(host, 'ipv6');
  return /^localhost\.?$/i.test(host);
}

/** An IP address as the system writes it, without its scope, and an IPv4-mapped one as IPv4. */
export function plainIp(address: string): string {
  const scope = address.indexOf('%');
  const bare = scope === -1 ? address : address.slice(0, scope);
  const mapped = /^::ffff:(?=\d+\.)/i.exec(bare);
  return mapped === null ? bare : bare.slice(mapped[0].length);
}

function checkedPath(text: string, path: string): string {
  if (path === '') throw invalid(text, 'the path is empty');
  if (CONTROL_CHARACTER.test(path)) throw invalid(text, 'the path has a control character');
  const bytes = Buffer.byteLength(path);
  if (bytes > UNIX_PATH_BYTES_MAX) {
    throw invalid(text, `the path has ${bytes} bytes, at most ${UNIX_PATH_BYTES_MAX} fit`);
  }
  return path;
}

function checkedPort(text: string, port: string): number {
  const number = /^\d{1,5}$/.test(port) ? Number(port) : PORT_MAX + 1;
  if (number > PORT_MAX) throw invalid(text, `the port must be 0 to ${PORT_MAX}`);
  return number;
}

function checkedHost(text: string, host: string): string {
  if (host === '') throw invalid(text, 'it has no host');
  if (host.startsWith('[') && host.endsWith(']')) {
    const inner = host.slice(1, -1);
    if (!isIPv6(inner)) throw invalid(text, 'what stands in brackets is no IPv6 address');
    return inner;
  }
  if (host.includes(':')) throw invalid(text, 'an IPv6 address must stand in brackets');
  if (isIPv4(host)) return host;
  const isName = host.length <= HOST_NAME_LENGTH_MAX && HOST_NAME.test(host);
  if (!isName || ENDS_IN_NUMBER.test(host)) throw invalid(text, 'the host is no name or address');
  return host;
}

function invalid(text: string, why: string): BlockferryError {
  const shown = text.length > 300 ? `${text.slice(0, 300)}...` : text;
  return new BlockferryError('ADDRESS_INVALID', `bad address ${JSON.stringify(shown)}: ${why}`);
}
