/**
 * An open export for the kernel's own client: the handshake is done here, and what follows on the connection is
 * between the kernel and the server.
 *
 * Invariant: after the handshake nothing is read from the connection here; a server says nothing unasked then.
 */
import type { Connection, ConnectionHandler } from '../../io/network.ts';
import type { ExportInfo } from './client-export-info.ts';
import { openExport, type OpeningOptions } from './client-opening.ts';
import { NBD_FLAG } from '../constants.ts';
import type { NbdUri } from '../uri/uri.ts';

/** Whoever speaks on the connection after the handshake. */
export type KernelSide = (connection: Connection) => ConnectionHandler;

export interface KernelExport {
  readonly connection: Connection;
  readonly info: ExportInfo;
}

/**
 * Replies on the connection are simple ones: the kernel knows no others. Nothing is read unless `side` does it.
 * @throws BlockferryError, as `openExport`
 */
export async function openKernelExport(
  uri: NbdUri,
  options: Omit<OpeningOptions, 'allocation'>,
  side: KernelSide = silent,
): Promise<KernelExport> {
  let opened: Connection | null = null;
  const { info } = await openExport(uri, options, (connection) => {
    opened = connection;
    connection.pause();
    return side(connection);
  });
  if (opened === null) throw new TypeError('an open export has a connection');
  return { connection: opened, info };
}

const silent: KernelSide = () => ({ received() {}, drained() {}, ended() {}, closed() {} });

/** The transmission flags that the kernel is told. */
export function kernelFlags(info: ExportInfo): number {
  let flags: number = NBD_FLAG.HAS_FLAGS;
  if (info.readOnly) flags |= NBD_FLAG.READ_ONLY;
  if (info.canFlush) flags |= NBD_FLAG.SEND_FLUSH;
  if (info.canFua) flags |= NBD_FLAG.SEND_FUA;
  if (info.canTrim) flags |= NBD_FLAG.SEND_TRIM;
  if (info.canWriteZeroes) flags |= NBD_FLAG.SEND_WRITE_ZEROES;
  if (info.canMultiConn) flags |= NBD_FLAG.CAN_MULTI_CONN;
  return flags;
}
