/** The servers that are compared, each with a disk of its own that is fully written beforehand. */
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { once } from 'node:events';
import { run, start } from '../../test/support/process.ts';
import { startNode, type TestNode } from '../../test/support/node.ts';
import type { Scope } from '../../test/support/scope.ts';
import { waitUntil } from '../../test/support/wait.ts';
import type { TlsFiles } from './certificates.ts';
import type { Runtime } from './runtimes.ts';
import type { Transport } from './workloads.ts';

export const COPY_MS_MAX = 300_000;
export const VOLUME = 'disk';

export interface Contender {
  readonly name: string;
  /** Null when it does not serve that way. */
  readonly uri: (transport: Transport) => string | null;
  /** Everything it stores lies here. */
  readonly dir: string;
  /** The process whose memory is watched; absent for peers. */
  readonly pid?: number;
  /** Bytes that the mirror still lacks; absent when there is no mirror. */
  readonly behind?: () => Promise<number>;
  /** Runs at the start of each round. */
  readonly before?: () => Promise<void>;
  /** One line about what happened beside the speed, or null. */
  readonly remark?: () => Promise<string | null>;
}

/** Where a contender lives, how large its disk is, and the image that every disk starts from. */
export interface Ground {
  readonly scope: Scope;
  readonly dir: string;
  readonly sizeBytes: number;
  readonly image: string;
  /** How the chosen rows reach a server. */
  readonly transports: ReadonlySet<Transport>;
  /** Present when `tls` is among the transports. */
  readonly tls: TlsFiles | null;
}

export type Maker = (ground: Ground) => Promise<Contender>;

export function unixUri(socket: string): string {
  return `nbd+unix:///${VOLUME}?socket=${socket}`;
}

/**
 * The client does not check the certificate: fio lets libnbd read no file of the user's, the authority's
 * included. The traffic is encrypted all the same.
 */
function tlsUri(socket: string): string {
  return `nbds+unix:///${VOLUME}?socket=${socket}&tls-verify-peer=false`;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** A directory with a disk that is a full copy of the image. */
export async function copyOfImage(
  ground: Ground,
  name: string,
): Promise<{ dir: string; file: string }> {
  const dir = join(ground.dir, name);
  await run('mkdir', ['-p', dir]);
  const file = join(dir, 'disk.img');
  await run('cp', ['--reflink=never', '--sparse=never', ground.image, file], {
    timeoutMs: COPY_MS_MAX,
  });
  return { dir, file };
}

export async function answering(uri: string): Promise<void> {
  await waitUntil(
    `${uri} to answer`,
    async () => (await run('nbdinfo', ['--size', uri])).code === 0,
  );
}

/** One nbdkit for each transport, because it listens in one place only; all serve the same file. */
export async function nbdkit(ground: Ground): Promise<Contender> {
  const { dir, file } = await copyOfImage(ground, 'nbdkit');
  const uris = new Map<Transport, string>();
  const serve = async (transport: Transport, uri: string, flags: string[]): Promise<void> => {
    const common = ['-f', '--exit-with-parent', '-e', VOLUME];
    start(ground.scope, 'nbdkit', [...common, ...flags, 'file', file]);
    await answering(uri);
    uris.set(transport, uri);
  };
  for (const transport of ground.transports) {
    const socket = join(dir, `${transport}.sock`);
    if (transport === 'unix') {
      await serve(transport, unixUri(socket), ['-U', socket]);
    } else if (transport === 'tcp') {
      const port = await freePort();
      const flags = ['-i', '127.0.0.1', '-p', String(port)];
      await serve(transport, `nbd://127.0.0.1:${port}/${VOLUME}`, flags);
    } else {
      const flags = ['--tls=require', `--tls-certificates=${ground.tls?.dir}`];
      await serve(transport, tlsUri(socket), ['-U', socket, ...flags]);
    }
  }
  return { name: 'nbdkit', uri: (transport) => uris.get(transport) ?? null, dir };
}

/** A qemu-nbd of its own disk, over a unix socket. */
export async function serveWithQemu(
  ground: Ground,
  name: string,
): Promise<{ dir: string; socket: string }> {
  const { dir, file } = await copyOfImage(ground, name);
  const socket = join(dir, 'nbd.sock');
  const flags = ['-t', '-e', '8', '-f', 'raw', '--cache=writeback', '-x', VOLUME, '-k', socket];
  start(ground.scope, 'qemu-nbd', [...flags, file]);
  await answering(unixUri(socket));
  return { dir, socket };
}

export async function qemuNbd(ground: Ground): Promise<Contender> {
  const { dir, socket } = await serveWithQemu(ground, 'qemu-nbd');
  const uri = (transport: Transport): string | null =>
    transport === 'unix' ? unixUri(socket) : null;
  return { name: 'qemu-nbd', uri, dir };
}

/** A node without volumes; with profiling it is stopped at the end, because a killed Node writes none. */
export async function blockferryNode(
  scope: Scope,
  runtime: Runtime,
  dir: string,
  extra: {
    readonly name?: string;
    readonly nbd?: readonly string[];
    readonly flags?: readonly string[];
  } = {},
): Promise<TestNode> {
  const node = await startNode(scope, { name: 'bench', dir, runtime: runtime.command, ...extra });
  if (runtime.profiled) scope.defer(`stop ${runtime.name}`, () => node.stop());
  return node;
}

export async function fill(ground: Ground, uri: string): Promise<void> {
  await run('nbdcopy', ['--flush', ground.image, uri], { timeoutMs: COPY_MS_MAX });
}

/** One process that serves every transport. */
export async function blockferry(ground: Ground, runtime: Runtime): Promise<Contender> {
  const { tls } = ground;
  const address = ground.transports.has('tcp') ? `127.0.0.1:${await freePort()}` : null;
  const dir = join(ground.dir, runtime.name.replaceAll(' ', '-').toLowerCase());
  const node = await blockferryNode(ground.scope, runtime, dir, {
    nbd: address === null ? [] : [address],
    flags: tls === null ? [] : ['--tls-certificate', tls.certificate, '--tls-key', tls.key],
  });
  await node.createVolume(VOLUME, String(ground.sizeBytes));
  const uris: Record<Transport, string | null> = {
    unix: node.uri(VOLUME),
    tcp: address === null ? null : `nbd://${address}/${VOLUME}`,
    tls: tls === null ? null : tlsUri(node.nbdSocket),
  };
  await fill(ground, node.uri(VOLUME));
  return { name: runtime.name, uri: (transport) => uris[transport], dir: node.dir, pid: node.pid };
}
