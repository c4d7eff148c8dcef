/**
 * Listening sockets: made here, or inherited from whoever started the process.
 *
 * Invariants:
 * - Each accepted connection is handed on, once, or closed: a TCP client whose address cannot be told is
 *   gone already, and what it left behind must not pass for somebody on a unix socket.
 * - A unix socket file is replaced only when nobody listens on it.
 * - An error of one accept costs that client; the listener goes on.
 */
import * as net from 'node:net';

import { formatAddress, plainIp } from './address.ts';
import { BlockferryError, errorText } from './errors.ts';
import { inheritedSocket, socketInvalid } from './inherited-socket.ts';
import { LISTEN_BACKLOG } from './limits.ts';
import type { Address, Connection, Listener, SocketRights } from './network.ts';
import { adoptAccepted, type RemoteEnd } from './socket-connection.ts';
import { bindWithRights, clearSocketPath } from './unix-socket-file.ts';

type Accept = (connection: Connection) => void;

/** As `Network.listen`. */
export async function listen(
  address: Address,
  accept: Accept,
  rights?: SocketRights,
): Promise<Listener> {
  if (address.kind === 'unix') await claimSocketPath(address);
  const server = createServer();
  acceptAll(server, address, accept);
  try {
    await listening(server, () => bind(server, address, rights));
  } catch (error) {
    server.close();
    throw listenError(address, error as NodeJS.ErrnoException);
  }
  return listenerOf(server, boundAddress(server, address));
}

/** As `Network.adopt`. The path of a unix socket stays when the listener closes: it is not ours. */
export async function adopt(descriptor: number, accept: Accept): Promise<Listener> {
  const { kind, path } = inheritedSocket(descriptor);
  const server = createServer();
  try {
    await listening(server, () => server.listen({ fd: descriptor, backlog: LISTEN_BACKLOG }));
  } catch (error) {
    throw socketInvalid(descriptor, errorText(error), error);
  }
  const bound = server.address();
  const isTcp = kind === 'unknown' ? bound !== null && typeof bound === 'object' : kind === 'tcp';
  const unnamed = path ?? `descriptor ${descriptor}`;
  const address = boundAddress(server, isTcp ? ANY_TCP : { kind: 'unix', path: unnamed });
  acceptAll(server, address, accept);
  return listenerOf(server, address);
}

/** Replaced by what the system says. */
const ANY_TCP: Address = { kind: 'tcp', host: '', port: 0 };

function createServer(): net.Server {
  return net.createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true });
}

function acceptAll(server: net.Server, address: Address, accept: Accept): void {
  server.on('connection', (socket) => {
    const remote = remoteOf(socket, address);
    if (remote === null) socket.destroy();
    else accept(adoptAccepted(socket, remote));
  });
}

/** Who is at the other end; null for a TCP client that is gone already. */
function remoteOf(socket: net.Socket, listener: Address): RemoteEnd | null {
  if (listener.kind === 'unix') return { peer: formatAddress(listener), ip: null };
  const { remoteAddress, remotePort } = socket;
  if (remoteAddress === undefined || remotePort === undefined) return null;
  const ip = plainIp(remoteAddress);
  return { peer: formatAddress({ kind: 'tcp', host: ip, port: remotePort }), ip };
}

function listening(server: net.Server, begin: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    // Both stay: an accept that fails later (no descriptors left) costs that one client.
    server.on('error', reject);
    server.once('listening', resolve);
    begin();
  });
}

function bind(server: net.Server, address: Address, rights: SocketRights | undefined): void {
  if (address.kind === 'tcp') {
    server.listen({ host: address.host, port: address.port, backlog: LISTEN_BACKLOG });
    return;
  }
  const begin = (): boolean => {
    server.listen({ path: address.path, backlog: LISTEN_BACKLOG });
    // A path is bound at once; what went wrong is told by an event.
    return server.listening;
  };
  if (rights === undefined) begin();
  else bindWithRights(address.path, rights, begin);
}

function listenerOf(server: net.Server, address: Address): Listener {
  return {
    address,
    close: () =>
      new Promise((resolve) => {
        // Called with an error when it was closed before: then there is nothing to wait for.
        server.close(() => resolve());
      }),
  };
}

/** With the port that the system chose; an inherited socket has a host of its own, too. */
function boundAddress(server: net.Server, asked: Address): Address {
  const bound = server.address();
  if (asked.kind === 'unix' || bound === null || typeof bound === 'string') return asked;
  return { kind: 'tcp', host: asked.host === '' ? bound.address : asked.host, port: bound.port };
}

async function claimSocketPath(address: Address & { kind: 'unix' }): Promise<void> {
  const found = await clearSocketPath(address.path);
  if (found.kind === 'free') return;
  if (found.kind === 'error') throw listenError(address, found.error);
  const where = `cannot listen on ${formatAddress(address)}`;
  if (found.kind === 'in-use')
    throw new BlockferryError('ADDRESS_IN_USE', `${where}: it is in use`);
  throw new BlockferryError('ADDRESS_UNAVAILABLE', `${where}: a file that is no socket is there`);
}

function listenError(address: Address, error: NodeJS.ErrnoException): BlockferryError {
  const where = `cannot listen on ${formatAddress(address)}`;
  if (error.code === 'EADDRINUSE') {
    return new BlockferryError('ADDRESS_IN_USE', `${where}: it is in use`, { cause: error });
  }
  const ofRights = error.syscall === 'lchown' || error.syscall === 'chmod';
  const why = (ofRights ? undefined : WHY_UNAVAILABLE[error.code ?? '']) ?? errorText(error);
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
