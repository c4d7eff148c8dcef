/**
 * TCP and unix sockets of the machine, in the form of `Network`.
 *
 * Invariants:
 * - All connections of a thread read into one buffer: a read is handled to the end before the next one
 *   begins, so no bytes are kept here, and memory does not grow with connections.
 * - Of each connection that a listener or `connect` made, `closed` is called exactly once and last.
 * - A unix socket file is replaced only when nobody listens on it.
 * - What a handler throws is not caught here: it is a bug and reaches the process.
 */
import assert from 'node:assert';
import * as fs from 'node:fs';
import * as net from 'node:net';
import { dirname } from 'node:path';

import { formatAddress, UNIX_PATH_BYTES_MAX } from './address.ts';
import { BlockferryError, errorText } from './errors.ts';
import { LISTEN_BACKLOG, UNIX_PROBE_MS_MAX } from './limits.ts';
import type { Address, Connection, Listener, Network } from './network.ts';
import { adoptAccepted, createReceivingSocket, SocketConnection } from './socket-connection.ts';
import { systemError } from './system-error.ts';

const ENOENT = 2;
const ETIMEDOUT = 110;

export const nodeNetwork: Network = { listen, connect };

async function listen(
  address: Address,
  accept: (connection: Connection) => void,
): Promise<Listener> {
  checkPath(address);
  if (address.kind === 'unix') await clearSocketPath(address);
  const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true });
  server.on('connection', (socket) => accept(adoptAccepted(socket, peerOf(socket, address))));
  await listening(server, address);
  return { address: boundAddress(server, address), close: () => closed(server) };
}

function listening(server: net.Server, address: Address): Promise<void> {
  return new Promise((resolve, reject) => {
    // It stays: an accept that fails later (no descriptors left) costs that one client, and the
    // listener goes on.
    server.on('error', (error) => reject(listenError(address, error)));
    server.listen({ ...target(address), backlog: LISTEN_BACKLOG }, resolve);
  });
}

function closed(server: net.Server): Promise<void> {
  return new Promise((resolve) => {
    // Called with an error when it was closed before: then there is nothing to wait for.
    server.close(() => resolve());
  });
}

function boundAddress(server: net.Server, asked: Address): Address {
  const bound = server.address();
  if (asked.kind === 'unix' || bound === null || typeof bound === 'string') return asked;
  return { kind: 'tcp', host: asked.host, port: bound.port };
}

function listenError(address: Address, error: NodeJS.ErrnoException): BlockferryError {
  const where = `cannot listen on ${formatAddress(address)}`;
  if (error.code === 'EADDRINUSE') {
    return new BlockferryError('ADDRESS_IN_USE', `${where}: it is in use`, { cause: error });
  }
  const why = WHY_UNAVAILABLE[error.code ?? ''] ?? errorText(error);
  return new BlockferryError('ADDRESS_UNAVAILABLE', `${where}: ${why}`, { cause: error });
}

const WHY_UNAVAILABLE: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EADDRNOTAVAIL: 'this host does not have that address',
  EAFNOSUPPORT: 'this host does not have addresses of that kind',
  ENOENT: 'its directory does not exist',
  ENOTDIR: 'a part of its path is no directory',
  ENOTFOUND: 'the host name is not known',
  EROFS: 'the file system is read-only',
};

/** A socket file outlives a killed process. Whoever answers on it is alive; a refusal means it is stale. */
async function clearSocketPath(address: Address & { kind: 'unix' }): Promise<void> {
  const found = fs.lstatSync(address.path, { throwIfNoEntry: false });
  if (found === undefined) {
    // Asked here, since the socket itself reports a missing directory as "permission denied".
    if (fs.existsSync(dirname(address.path))) return;
    throw listenError(address, systemError(ENOENT, 'bind', address.path));
  }
  if (!found.isSocket()) {
    const message = `cannot listen on ${formatAddress(address)}: a file that is no socket is there`;
    throw new BlockferryError('ADDRESS_UNAVAILABLE', message);
  }
  try {
    const probe = await connect(address, UNIX_PROBE_MS_MAX);
    probe.destroy();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ECONNREFUSED') fs.rmSync(address.path, { force: true });
    if (code === 'ECONNREFUSED' || code === 'ENOENT') return;
    if (code === 'EACCES') throw listenError(address, error as Error);
  }
  const message = `cannot listen on ${formatAddress(address)}: it is in use`;
  throw new BlockferryError('ADDRESS_IN_USE', message);
}

function connect(address: Address, timeoutMs: number): Promise<Connection> {
  checkPath(address);
  return new Promise((resolve, reject) => {
    const receiving = createReceivingSocket();
    const { socket } = receiving;
    const fail = (error: Error): void => {
      clearTimeout(deadline);
      socket.destroy();
      reject(lastCause(error));
    };
    const deadline = setTimeout(() => {
      fail(systemError(ETIMEDOUT, 'connect', formatAddress(address)));
    }, timeoutMs);
    // Kept after a failure: the socket may fail again while it is torn down.
    socket.on('error', fail);
    socket.once('connect', () => {
      clearTimeout(deadline);
      socket.off('error', fail);
      resolve(new SocketConnection(socket, receiving, formatAddress(address)));
    });
    socket.connect(target(address));
  });
}

/** A name with several addresses fails with an error for each and an empty message: the last one says it. */
function lastCause(error: Error): Error {
  const cause: unknown = error instanceof AggregateError ? error.errors.at(-1) : error;
  return cause instanceof Error ? cause : error;
}

function target(address: Address): { path: string } | { host: string; port: number } {
  return address.kind === 'unix'
    ? { path: address.path }
    : { host: address.host, port: address.port };
}

/** Longer paths would be cut by the system, and another file would be used. */
function checkPath(address: Address): void {
  if (address.kind !== 'unix') return;
  const bytes = Buffer.byteLength(address.path);
  assert(bytes > 0, 'a socket path has bytes');
  assert(bytes <= UNIX_PATH_BYTES_MAX, 'a socket path fits the system');
}

function peerOf(socket: net.Socket, listener: Address): string {
  const { remoteAddress, remotePort } = socket;
  if (remoteAddress === undefined || remotePort === undefined) return formatAddress(listener);
  return formatAddress({ kind: 'tcp', host: remoteAddress, port: remotePort });
}
