/**
 * From a URI to a mirror: a link, where the other side is a blockferry node that expects this volume, else a client of the
 * NBD server that is there.
 *
 * Invariants:
 * - One connection asks and is used, whatever the answer: a server that does not know the private option goes on with the
 *   export on it.
 * - A link is handed out with all of its lanes, or not at all: if one cannot be had, the others are closed.
 * - What the other side named no feature of is never sent to it; one that knows of no features is asked again without.
 * - A node that knows this one and refuses is an error, and so is any refusal where `peerOnly`; it is never taken for a plain
 *   server instead.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import { MIRROR_CONNECT_MS_MAX, MIRROR_REPLY_MS_MAX } from '../../io/limits.ts';
import type { Network, TlsClientContext } from '../../io/network.ts';
import { NbdClient, type NbdClientOptions, type PrivateWish } from '../../nbd/client/client.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';
import type { Compressor } from '../../workers/compressor.ts';
import { HandedConnection } from './handed-connection.ts';
import { hasFeature } from './link-version.ts';
import { decodeWelcome, encodeHello, type Hello, type Welcome } from './messages.ts';
import { ChecksumKind } from '../payload-checksum.ts';
import { PeerLink } from './peer-link.ts';

export interface PeerSurroundings {
  readonly network: Network;
  readonly clock: Clock;
  /** For URIs with TLS that name no files of their own. */
  readonly tls?: TlsClientContext | undefined;
  /** Compresses payloads for mirrors that can expand them; the link does not until it is told to. Null: never. */
  readonly compressor?: Compressor | null | undefined;
  /** A server that is no blockferry node is refused: the mirror was one before. */
  readonly peerOnly?: boolean;
}

export type ConnectedPeer =
  | { readonly kind: 'plain'; readonly client: NbdClient }
  | { readonly kind: 'peer'; readonly link: PeerLink; readonly welcome: Welcome };

/**
 * `hello.lane` is null. The link is not started.
 * @throws BlockferryError MIRROR_UNREACHABLE, MIRROR_TLS, TLS_INVALID, PROTOCOL: as NbdClient.connect. MIRROR_REFUSED: it has
 *   nothing for this node, or is no node where `peerOnly`. PEER_REFUSED: it knows this node and says why not.
 *   PEER_VERSION, LINK_PROTOCOL: its answer is of no use.
 */
export async function connectPeer(
  uri: NbdUri,
  hello: Hello,
  surroundings: PeerSurroundings,
): Promise<ConnectedPeer> {
  try {
    return await connectAs(uri, hello, surroundings);
  } catch (thrown) {
    const { features, ...plainly } = hello;
    if (features === undefined || !isOlder(thrown)) throw thrown;
    return connectAs(uri, plainly, surroundings);
  }
}

/** A node of the first version calls a hello malformed that names features. */
function isOlder(thrown: unknown): boolean {
  if (!(thrown instanceof BlockferryError) || thrown.code !== 'MIRROR_REFUSED') return false;
  return thrown.message.includes('(it says: malformed)');
}

async function connectAs(
  uri: NbdUri,
  hello: Hello,
  surroundings: PeerSurroundings,
): Promise<ConnectedPeer> {
  const { peerOnly = false } = surroundings;
  const first = await connectLane(uri, hello, surroundings, peerOnly);
  if (first.kind === 'client') return { kind: 'plain', client: first.client };
  const { welcome, connection } = first;
  const fault = whyUnfit(hello, welcome);
  if (fault !== null) {
    connection.destroy();
    throw new BlockferryError('LINK_PROTOCOL', `${uri.text}: ${fault}`);
  }
  const { clock, compressor = null } = surroundings;
  const { token, node } = welcome;
  const link = new PeerLink({
    clock,
    side: 'primary',
    token,
    peer: `${node} at ${uri.text}`,
    compressor: hasFeature(hello, 'brotli') && hasFeature(welcome, 'brotli') ? compressor : null,
    checksums:
      hasFeature(hello, 'xxh64') && hasFeature(welcome, 'xxh64')
        ? ChecksumKind.XXH64
        : ChecksumKind.CRC32,
  });
  link.addLane(0, connection, NOTHING);
  const outcomes = await Promise.allSettled(
    Array.from({ length: welcome.lanes - 1 }, (_, at) =>
      addLane(link, uri, { ...hello, lane: { token, index: at + 1 } }, surroundings),
    ),
  );
  for (const outcome of outcomes) {
    if (outcome.status === 'fulfilled') continue;
    const error: unknown = outcome.reason;
    if (error instanceof BlockferryError) link.destroy(error);
    throw error;
  }
  return { kind: 'peer', link, welcome };
}

const NOTHING = Buffer.alloc(0);

function whyUnfit(hello: Hello, welcome: Welcome): string | null {
  if (welcome.lanes <= hello.lanes) return null;
  return `it wants ${welcome.lanes} lanes where ${hello.lanes} were offered`;
}

async function addLane(
  link: PeerLink,
  uri: NbdUri,
  hello: Hello & { readonly lane: NonNullable<Hello['lane']> },
  surroundings: PeerSurroundings,
): Promise<void> {
  const lane = await connectLane(uri, hello, surroundings, true);
  assert(lane.kind === 'lane', 'a lane is never a plain client');
  if (lane.welcome.token !== hello.lane.token) {
    lane.connection.destroy();
    throw new BlockferryError('LINK_PROTOCOL', `${uri.text}: it took a lane for another link`);
  }
  link.addLane(hello.lane.index, lane.connection, NOTHING);
}

type ConnectedLane =
  | { readonly kind: 'client'; readonly client: NbdClient }
  | { readonly kind: 'lane'; readonly connection: HandedConnection; readonly welcome: Welcome };

async function connectLane(
  uri: NbdUri,
  hello: Hello,
  { network, clock, tls }: PeerSurroundings,
  required: boolean,
): Promise<ConnectedLane> {
  let welcome: Welcome | null = null;
  const wish: PrivateWish<HandedConnection> = {
    data: encodeHello(hello),
    required,
    accepted: (connection, reply) => {
      welcome = decodeWelcome(reply);
      return new HandedConnection(connection, clock);
    },
  };
  const options: NbdClientOptions = {
    network,
    clock,
    connectMs: MIRROR_CONNECT_MS_MAX,
    replyMs: MIRROR_REPLY_MS_MAX,
    tls,
  };
  const opened = await NbdClient.connectOr(uri, options, wish);
  if (opened.kind === 'client') return opened;
  assert(welcome !== null, 'what was accepted was welcomed');
  return { kind: 'lane', connection: opened.next, welcome };
}
