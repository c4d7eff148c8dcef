/**
 * Addresses and raw byte plumbing for the drill's own proxies.
 *
 * Nothing here comes from src/: what judges blockferry must not share its mistakes. An address is
 * `host:port` or `unix:PATH`; port 0 lets the system choose.
 */
import { connect as connectSocket, createServer, type Server, type Socket } from 'node:net';

export type SocketAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export function parseAddress(text: string): SocketAddress {
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length);
    if (path === '') throw new Error(`no path in ${text}`);
    return { kind: 'unix', path };
  }
  const colon = text.lastIndexOf(':');
  const port = Number(text.slice(colon + 1));
  if (colon < 1 || !Number.isInteger(port) || port < 0 || port > 65535) {
    throw new Error(`not an address: ${text}`);
  }
  return { kind: 'tcp', host: text.slice(0, colon), port };
}

export function formatAddress(address: SocketAddress): string {
  return address.kind === 'unix' ? `unix:${address.path}` : `${address.host}:${address.port}`;
}

/** The NBD URI of an export behind an address. */
export function nbdUri(address: string, exportName: string): string {
  const parsed = parseAddress(address);
  const name = encodeURIComponent(exportName);
  if (parsed.kind === 'tcp') return `nbd://${parsed.host}:${parsed.port}/${name}`;
  return `nbd+unix:///${name}?socket=${encodeURIComponent(parsed.path).replaceAll('%2F', '/')}`;
}

/** Connects without waiting: errors arrive at the socket's own 'error' event. */
export function dial(address: SocketAddress): Socket {
  if (address.kind === 'unix') return connectSocket({ path: address.path, allowHalfOpen: true });
  const socket = connectSocket({ host: address.host, port: address.port, allowHalfOpen: true });
  socket.setNoDelay(true);
  return socket;
}

/** Listens, and resolves with the address that clients can use. */
export async function listen(
  address: SocketAddress,
  accept: (socket: Socket) => void,
): Promise<{ server: Server; bound: string }> {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, accept);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    const listening = (): void => {
      server.removeListener('error', reject);
      resolve();
    };
    if (address.kind === 'unix') server.listen(address.path, listening);
    else server.listen(address.port, address.host, listening);
  });
  const actual = server.address();
  if (address.kind === 'unix' || actual === null || typeof actual === 'string') {
    return { server, bound: formatAddress(address) };
  }
  return { server, bound: `${address.host}:${actual.port}` };
}

/** Stops listening; live connections are the caller's. */
export async function stopListening(server: Server): Promise<void> {
  await new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
}

/** Ends a connection the hard way: RST on TCP, a plain close on a unix socket. */
export function reset(socket: Socket): void {
  if (socket.destroyed) return;
  if (socket.remoteFamily === undefined) socket.destroy();
  else socket.resetAndDestroy();
}
