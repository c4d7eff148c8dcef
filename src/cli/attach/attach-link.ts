/** Connections to servers for the kernel to speak on, in clear or through a relay that encrypts. */
import { systemClock } from '../../io/clock.ts';
import { BlockferryError, type ErrorCode } from '../../io/errors.ts';
import { KernelRelay } from '../../io/kernel/kernel-relay.ts';
import { ATTACH_CONNECT_MS_MAX } from '../../io/limits.ts';
import { nodeNetwork } from '../../io/node-network.ts';
import { SocketConnection } from '../../io/socket-connection.ts';
import type { ExportInfo } from '../../nbd/client/client-export-info.ts';
import { openKernelExport } from '../../nbd/client/kernel-export.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';

/** A connection on which the handshake is done and nobody reads. */
export interface KernelLink {
  readonly info: ExportInfo;
  /** The descriptor to hand over. */
  readonly socket: number;
  /** The kernel has it, and holds it open. */
  handedOver(): void;
  /** It is not wanted. */
  drop(): void;
}

export type OpenLink = (uri: NbdUri) => Promise<KernelLink>;

/** @throws BlockferryError ATTACH_SERVER, ATTACH_TLS, or TLS_INVALID */
export const openKernelLink: OpenLink = async (uri) => {
  const options = { network: nodeNetwork, clock: systemClock, connectMs: ATTACH_CONNECT_MS_MAX };
  try {
    return await (uri.tls === null ? openClear(uri, options) : openSecure(uri, options));
  } catch (error) {
    throw asAttachError(error);
  }
};

type Options = Parameters<typeof openKernelExport>[1];

async function openClear(uri: NbdUri, options: Options): Promise<KernelLink> {
  const { connection, info } = await openKernelExport(uri, options);
  const socket = connection instanceof SocketConnection ? connection.descriptor() : null;
  if (socket === null) {
    connection.destroy();
    throw new BlockferryError('ATTACH_SERVER', `${uri.text} was lost after the handshake`);
  }
  const close = (): void => connection.destroy();
  return { info, socket, handedOver: close, drop: close };
}

async function openSecure(uri: NbdUri, options: Options): Promise<KernelLink> {
  let made: KernelRelay | null = null;
  const { info } = await openKernelExport(uri, options, (connection) => {
    made = new KernelRelay(connection);
    return made;
  });
  const relay: KernelRelay | null = made;
  if (relay === null) throw new TypeError('an open export has a relay');
  return linkOver(relay, info);
}

function linkOver(relay: KernelRelay, info: ExportInfo): KernelLink {
  return {
    info,
    socket: relay.descriptor,
    handedOver: () => relay.handedOver(),
    drop: () => relay.drop(),
  };
}

/** The words of the client are about mirrors. */
function asAttachError(error: unknown): unknown {
  if (!(error instanceof BlockferryError)) return error;
  const { code, message } = error;
  const cause = { cause: error };
  if (code === 'MIRROR_TLS') return new BlockferryError('ATTACH_TLS', message, cause);
  return OF_THE_SERVER.has(code) ? new BlockferryError('ATTACH_SERVER', message, cause) : error;
}

const OF_THE_SERVER: ReadonlySet<ErrorCode> = new Set([
  'MIRROR_UNREACHABLE',
  'MIRROR_REFUSED',
  'PROTOCOL',
]);
