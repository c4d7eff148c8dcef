/**
 * A node as the handshake of a link sees it: an NBD server with one writable volume, over real sockets, whose private option
 * is answered by an acceptor; the test judges. Everything ends with the scope.
 */
import { join } from 'node:path';
import { formatAddress } from '../../../../src/io/address.ts';
import { systemClock } from '../../../../src/io/clock.ts';
import type { BlockferryError } from '../../../../src/io/errors.ts';
import type { Address } from '../../../../src/io/network.ts';
import { nodeNetwork } from '../../../../src/io/node-network.ts';
import { systemRandom } from '../../../../src/io/random.ts';
import { type ClientFacts, NbdServer, type ServerTls } from '../../../../src/nbd/server/server.ts';
import { parseNbdUri, type NbdUri } from '../../../../src/nbd/uri/uri.ts';
import { type Judgement, PeerAcceptor } from '../../../../src/replicator/link/accept-peer.ts';
import {
  connectPeer,
  type ConnectedPeer,
  type PeerSurroundings,
} from '../../../../src/replicator/link/connect-peer.ts';
import type {
  FrameHeader,
  LinkHandler,
  ReceivedPayload,
} from '../../../../src/replicator/link/link-types.ts';
import {
  decodeHello,
  LINK_VERSION,
  type ControlMessage,
  type Hello,
} from '../../../../src/replicator/link/messages.ts';
import type { PeerLink } from '../../../../src/replicator/link/peer-link.ts';
import { MemoryDevice, sourceOf } from '../../../nbd/support/memory-device.ts';
import type { Scope } from '../../../support/scope.ts';

export const MIB = 1024 * 1024;
export const ID = '0123456789abcdef'.repeat(2);

export const HELLO: Hello = {
  version: LINK_VERSION,
  node: 'north',
  volume: 'vault',
  volumeId: ID,
  sizeBytes: MIB,
  generations: [{ number: 1, id: ID, firstEpoch: 1 }],
  epoch: 7,
  lane: null,
  lanes: 1,
};

/** What this mirror says of itself. */
export const FACTS = {
  node: 'south',
  sizeBytes: MIB,
  generations: [],
  position: { generation: 1, epoch: 6 },
  run: null,
} as const;

export interface Standing {
  readonly link: PeerLink;
  readonly hello: Hello;
}

export class HandshakeNode {
  readonly server: NbdServer;
  readonly acceptor: PeerAcceptor;
  readonly device = new MemoryDevice(MIB);
  readonly log: string[] = [];
  readonly links: Standing[] = [];
  readonly asked: { hello: Hello; client: ClientFacts }[] = [];
  lanes = 16;
  /** It is of the first version, which knew of no features. */
  old = false;
  /** Links that were welcome and came to nothing. */
  abandoned = 0;
  judgement: (hello: Hello, client: ClientFacts) => Judgement = () => this.welcome();
  address: Address = { kind: 'unix', path: '' };

  private constructor(tls: ServerTls) {
    this.acceptor = new PeerAcceptor({
      clock: systemClock,
      random: systemRandom,
      judge: (hello, client) => {
        this.asked.push({ hello, client });
        return this.judgement(hello, client);
      },
    });
    const note = (fields: object, text: string): void => {
      this.log.push(`${text} ${JSON.stringify(fields)}`);
    };
    this.server = new NbdServer({
      network: nodeNetwork,
      clock: systemClock,
      exports: sourceOf('vault', this.device),
      log: { info: note, warn: note },
      tls,
      privateOption: (data, client) => {
        if (!this.old || decodeHello(data).features === undefined) {
          return this.acceptor.option(data, client);
        }
        const denied = { name: '', reason: 'malformed' };
        return { kind: 'refuse', as: 'invalid', text: 'malformed', denied };
      },
    });
  }

  static async start(
    scope: Scope,
    { tls = { mode: 'off' }, tcp = false }: { tls?: ServerTls; tcp?: boolean } = {},
  ): Promise<HandshakeNode> {
    const node = new HandshakeNode(tls);
    const path = join(scope.tempDir('bf-link-'), 's');
    node.address = await node.server.listen(
      tcp ? { kind: 'tcp', host: '127.0.0.1', port: 0 } : { kind: 'unix', path },
    );
    scope.reportOnFailure('log of the node', () => node.log.join('\n'));
    scope.defer('stop the node', async () => {
      node.acceptor.close();
      await node.server.close();
    });
    return node;
  }

  welcome(): Judgement {
    return {
      kind: 'accept',
      welcome: FACTS,
      lanes: this.lanes,
      accepted: (link, hello) => this.links.push({ link, hello }),
      abandoned: () => {
        this.abandoned += 1;
      },
    };
  }

  /** `parameters`: more of the query. */
  uri(parameters = '', scheme = 'nbd'): NbdUri {
    const { address } = this;
    if (address.kind === 'unix') {
      const more = parameters === '' ? '' : `&${parameters}`;
      return parseNbdUri(`${scheme}+unix:///vault?socket=${address.path}${more}`);
    }
    const more = parameters === '' ? '' : `?${parameters}`;
    return parseNbdUri(`${scheme}://${formatAddress(address)}/vault${more}`);
  }
}

/** Connects as a primary; what comes of it ends with the scope. */
export async function connect(
  scope: Scope,
  uri: NbdUri,
  hello: Partial<Hello> = {},
  surroundings: Partial<PeerSurroundings> = {},
): Promise<ConnectedPeer> {
  const connected = await connectPeer(
    uri,
    { ...HELLO, ...hello },
    { network: nodeNetwork, clock: systemClock, ...surroundings },
  );
  scope.defer('end the connection', async () => {
    if (connected.kind === 'peer') return connected.link.end('the test is over');
    connected.client.destroy();
    await connected.client.close();
  });
  return connected;
}

export async function connectLink(
  scope: Scope,
  uri: NbdUri,
  hello: Partial<Hello> = {},
  surroundings: Partial<PeerSurroundings> = {},
): Promise<ConnectedPeer & { readonly kind: 'peer' }> {
  const connected = await connect(scope, uri, hello, surroundings);
  if (connected.kind !== 'peer') throw new Error('it became a plain mirror');
  return connected;
}

/** What one end of a link heard. */
export class Heard implements LinkHandler {
  readonly frames: { header: FrameHeader; payload: string }[] = [];
  readonly controls: ControlMessage[] = [];
  error: BlockferryError | null = null;

  frame(header: FrameHeader, payload: ReceivedPayload | null): void {
    const text = payload?.buffer.toString('latin1', 0, payload.length) ?? '';
    payload?.release();
    this.frames.push({ header, payload: text });
  }

  control(message: ControlMessage): void {
    this.controls.push(message);
  }

  heartbeat(): void {}
  drained(): void {}

  closed(error: BlockferryError): void {
    this.error = error;
  }
}
