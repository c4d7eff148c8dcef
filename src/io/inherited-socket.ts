/**
 * What a descriptor is that the process was given by whoever started it: a stream socket that listens, or a
 * mistake. Without the system calls for it, a descriptor is taken as what Node makes of it.
 */
import { BlockferryError } from './errors.ts';
import type { Address } from './network.ts';
import { loadSyscalls } from './syscalls.ts';
import { systemError } from './system-error.ts';

const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
/** sun_path of struct sockaddr_un follows its 16-bit family. */
const PATH_AT = 2;

/** The path of a unix socket ('@NAME' if abstract, '' if it has none); null for TCP, or if it cannot be known. */
export interface InheritedSocket {
  readonly kind: Address['kind'] | 'unknown';
  readonly path: string | null;
}

/** @throws BlockferryError SOCKET_INVALID */
export function inheritedSocket(descriptor: number): InheritedSocket {
  const syscalls = loadSyscalls();
  if (syscalls === null || syscalls.accepts === null || syscalls.socketName === null) {
    return { kind: 'unknown', path: null };
  }
  const accepts = syscalls.accepts(descriptor);
  if (accepts < 0) {
    throw socketInvalid(descriptor, systemError(-accepts, 'getsockopt').message);
  }
  if (accepts === 0) throw socketInvalid(descriptor, 'it is a socket that does not listen');
  const name = syscalls.socketName(descriptor);
  if (typeof name === 'number') {
    throw socketInvalid(descriptor, systemError(-name, 'getsockname').message);
  }
  return named(descriptor, name);
}

export function socketInvalid(descriptor: number, why: string, cause?: unknown): BlockferryError {
  const message = `cannot listen on inherited descriptor ${descriptor}: ${why}`;
  return new BlockferryError('SOCKET_INVALID', message, { cause });
}

/** Families are in the order of the machine, and all that are bound here are little-endian. */
function named(descriptor: number, name: Buffer): InheritedSocket {
  const family = name.length < PATH_AT ? 0 : name.readUInt16LE(0);
  if (family === AF_INET || family === AF_INET6) return { kind: 'tcp', path: null };
  if (family !== AF_UNIX) throw socketInvalid(descriptor, 'it is neither a TCP nor a unix socket');
  return { kind: 'unix', path: pathOf(name.subarray(PATH_AT)) };
}

function pathOf(bytes: Buffer): string {
  if (bytes.length === 0) return '';
  // An abstract name begins with a zero; some programs fill it up with more of them.
  if (bytes[0] === 0) return `@${bytes.toString('utf8', 1).replace(/\0+$/, '')}`;
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end === -1 ? bytes.length : end);
}
