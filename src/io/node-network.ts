/**
 * TCP and unix sockets of the machine, in the form of `Network`.
 *
 * Invariants:
 * - All connections of a thread read into one buffer: a read is handled to the end before the next one
 *   begins, so no bytes are kept here, and memory does not grow with connections.
 * - Of each connection that a listener or `connect` made, `closed` is called exactly once and last.
 * - What a handler throws is not caught here: it is a bug and reaches the process.
 */
import assert from 'node:assert';

import { formatAddress, plainIp, UNIX_PATH_BYTES_MAX } from './address.ts';
import type { Address, Connection, Network } from './network.ts';
import { adopt, listen } from './node-listener.ts';
import { createReceivingSocket, SocketConnection } from './socket-connection.ts';
import { systemError } from './system-error.ts';

const ETIMEDOUT = 110;

export const nodeNetwork: Network = {
  async listen(address, accept, rights) {
    checkPath(address);
    return listen(address, accept, rights);
  },
  adopt,
  connect,
};

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
      const { remoteAddress } = socket;
      const ip = remoteAddress === undefined ? null : plainIp(remoteAddress);
      resolve(new SocketConnection(socket, receiving, { peer: formatAddress(address), ip }));
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
