/** NBD servers that nobody here wrote, on unix sockets in a directory of the test. */
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { parseNbdUri, type NbdUri } from '../../../src/nbd/uri/uri.ts';
import { start, type ManagedProcess } from '../../support/process.ts';
import type { Scope } from '../../support/scope.ts';
import { waitUntil } from '../../support/wait.ts';

/** Flags of a socket in /proc/net/unix that accepts connections. */
const LISTENS = '00010000';

export interface RealServer {
  readonly uri: NbdUri;
  readonly child: ManagedProcess;
}

async function onSocket(
  scope: Scope,
  exportName: string,
  command: string,
  args: (socket: string, pidFile: string) => readonly string[],
): Promise<RealServer> {
  const directory = scope.tempDir('bf-real-');
  const [socket, pidFile] = [join(directory, 's'), join(directory, 'pid')];
  const child = start(scope, command, args(socket, pidFile));
  // The socket is there before anybody listens on it; the file of the process, only when it is served.
  await waitUntil(`the socket of ${command}`, () => {
    if (!child.running) throw new Error(`it ended: ${child.output}`);
    return existsSync(pidFile) || (writesNone(command) && isServed(socket));
  });
  return { uri: parseNbdUri(`nbd+unix:///${exportName}?socket=${socket}`), child };
}

/** As the system tells it: a connection to try it with would be the only one that the server takes. */
function isServed(path: string): boolean {
  const lines = readFileSync('/proc/net/unix', 'latin1').split('\n');
  return lines.some((line) => line.endsWith(` ${path}`) && line.split(' ')[3] === LISTENS);
}

/** In the foreground. */
const writesNone = (command: string): boolean => command === 'nbd-server';

/** nbdkit with the given options in front and a plugin with its parameters behind. */
export function nbdkit(
  scope: Scope,
  options: readonly string[],
  plugin: readonly string[],
  exportName = '',
): Promise<RealServer> {
  return onSocket(scope, exportName, 'nbdkit', (socket, pidFile) => [
    '--foreground',
    '--exit-with-parent',
    `--pidfile=${pidFile}`,
    '--unix',
    socket,
    ...options,
    ...plugin,
  ]);
}

/** A sparse raw image behind qemu-nbd. */
export function qemuNbd(
  scope: Scope,
  bytes: number,
  exportName: string,
  options: readonly string[] = [],
): Promise<RealServer> {
  const image = join(scope.tempDir('bf-image-'), 'raw');
  writeFileSync(image, '');
  truncateSync(image, bytes);
  return onSocket(scope, exportName, 'qemu-nbd', (socket, pidFile) => [
    `--pid-file=${pidFile}`,
    '--format=raw',
    '--persistent',
    '--shared=4',
    '--discard=unmap',
    `--export-name=${exportName}`,
    `--socket=${socket}`,
    ...options,
    image,
  ]);
}

/** The reference server, over an existing file. It insists on a TCP port besides its socket. */
export async function nbdServer(
  scope: Scope,
  image: string,
  exportName: string,
  options: { readonly flush: boolean } = { flush: true },
): Promise<RealServer> {
  const dir = scope.tempDir('bf-conf-');
  const port = await freePort();
  return onSocket(scope, exportName, 'nbd-server', (socket) => {
    const config = join(dir, 'config');
    writeFileSync(
      config,
      `[generic]\nunixsock = ${socket}\nport = ${port}\nlistenaddr = 127.0.0.1\n[${exportName}]\nexportname = ${image}\nflush = ${String(options.flush)}\n`,
    );
    return ['-d', '-C', config, '-p', join(dir, 'pid')];
  });
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise<void>((resolve) => server.close(() => resolve()));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
