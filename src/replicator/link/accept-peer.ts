/**
 * The mirror's side of the handshake: answers the private option, and gathers the lanes of a link.
 *
 * Invariants:
 * - Who may not know hears one and the same text, whatever the reason; the reason goes to the log.
 * - A link is handed out once, with all of its lanes. One whose lanes do not come within LINK_LANES_MS_MAX, or whose primary
 *   begins another, is given up. At most LINKS_HALF_OPEN_MAX wait.
 * - A lane joins a link only by its token, which is 16 random bytes and compared in constant time, and only for the client
 *   that TLS proved when the link began.
 */
import { timingSafeEqual } from 'node:crypto';
import type { Clock, Timer } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import { LINK_LANES_MAX, LINK_LANES_MS_MAX, LINKS_HALF_OPEN_MAX } from '../../io/limits.ts';
import type { Connection } from '../../io/network.ts';
import type { Random } from '../../io/random.ts';
import type { ClientFacts, PrivateAnswer, Successor } from '../../nbd/server/server.ts';
import type { Compressor } from '../../workers/compressor.ts';
import { HandedConnection } from './handed-connection.ts';
import { decodeHello, encodeWelcome, type Hello, type Welcome } from './messages.ts';
import { hasFeature, LINK_FEATURES, LINK_VERSION } from './link-version.ts';
import { LinkMemory } from './link-memory.ts';
import { ChecksumKind } from '../payload-checksum.ts';
import { PeerLink } from './peer-link.ts';

/** What the mirror says of itself. */
export type WelcomeFacts = Omit<Welcome, 'version' | 'token' | 'lanes'>;

export type Judgement =
  | {
      readonly kind: 'accept';
      readonly welcome: WelcomeFacts;
      /** Lanes at most, 1 to LINK_LANES_MAX; LINK_LANES_MAX if not given. */
      readonly lanes?: number;
      /** Called once, in a later turn, when all lanes are there. The link is not started; it may have been lost already. */
      accepted(link: PeerLink, hello: Hello): void;
      /** Called once instead, when nothing comes of it. */
      abandoned(): void;
    }
  | {
      readonly kind: 'refuse';
      /** The client is the rightful one, and hears the reason. Else it learns nothing. */
      readonly known: boolean;
      readonly reason: string;
    };

export interface PeerAcceptorOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Expands payloads of primaries that can compress; null: they come as they are. */
  readonly compressor?: Compressor | null;
  /** Whether a new link may begin. It must not throw. */
  judge(hello: Hello, client: ClientFacts): Judgement;
}

const STRANGER = 'there is nothing here for this node';
const TOKEN_BYTES = 16;
const NOTHING = Buffer.alloc(0);

interface HalfOpen {
  readonly token: Buffer;
  readonly hello: Hello;
  readonly client: ClientFacts;
  readonly link: PeerLink;
  readonly welcome: Buffer;
  /** Lanes that were not promised to a connection. */
  readonly missing: Set<number>;
  /** Lanes that are there. */
  arrived: number;
  readonly lanes: number;
  readonly timer: Timer;
  readonly accepted: (link: PeerLink, hello: Hello) => void;
  readonly abandoned: () => void;
}

export class PeerAcceptor {
  private readonly options: PeerAcceptorOptions;
  private readonly waiting = new Set<HalfOpen>();
  private readonly memory: LinkMemory;
  private over = false;

  constructor(options: PeerAcceptorOptions) {
    this.options = options;
    this.memory = new LinkMemory(options.clock);
  }

  /** Links that wait for lanes. */
  get halfOpen(): number {
    return this.waiting.size;
  }

  /** For NbdServerOptions.privateOption. */
  readonly option = (data: Buffer, client: ClientFacts): PrivateAnswer => {
    let hello: Hello;
    try {
      hello = decodeHello(data);
    } catch (error) {
      if (!(error instanceof BlockferryError)) throw error;
      // Whoever asks may know which version this is: it is written on the package.
      const known = error.code === 'PEER_VERSION';
      return refuse(
        known ? 'policy' : 'invalid',
        known ? error.message : 'malformed',
        '',
        error.message,
      );
    }
    if (this.over) return refuse('policy', 'the node is stopping', hello.volume, 'stopping');
    return hello.lane === null
      ? this.newLink(hello, client)
      : this.furtherLane(hello, hello.lane, client);
  };

  /** Gives up what waits, and refuses what comes. */
  close(): void {
    this.over = true;
    for (const each of this.waiting) this.giveUp(each, 'the node is stopping');
  }

  private newLink(hello: Hello, client: ClientFacts): PrivateAnswer {
    const verdict = this.options.judge(hello, client);
    if (verdict.kind === 'refuse') {
      const { known, reason } = verdict;
      return known
        ? refuse('policy', reason, hello.volume, reason)
        : refuse('unknown', STRANGER, hello.volume, `node ${hello.node}: ${reason}`);
    }
    // Its primary gave that one up. Another node may be here to hear who goes on: that is no reason.
    for (const each of this.waiting) {
      const { volume, node } = each.hello;
      if (volume === hello.volume && node === hello.node) {
        this.giveUp(each, 'its primary begins another');
      }
    }
    if (this.waiting.size >= LINKS_HALF_OPEN_MAX) {
      verdict.abandoned();
      return refuse('policy', 'too many links begin at one time', hello.volume, 'too many links');
    }
    const begun = this.begin(hello, client, verdict);
    return this.acceptLane(begun, 0, `link of ${hello.node} for ${hello.volume}`);
  }

  private begin(
    hello: Hello,
    client: ClientFacts,
    verdict: Judgement & { readonly kind: 'accept' },
  ): HalfOpen {
    const { clock, random } = this.options;
    const compressor = this.compressorFor(hello);
    const token = random.bytes(TOKEN_BYTES);
    const lanes = Math.min(hello.lanes, verdict.lanes ?? LINK_LANES_MAX);
    const welcome: Welcome = {
      ...verdict.welcome,
      version: LINK_VERSION,
      token: token.toString('hex'),
      lanes,
      ...(hello.features === undefined ? {} : { features: featuresWith(compressor) }),
    };
    const { memory } = this;
    const checksums = hasFeature(hello, 'xxh64') ? ChecksumKind.XXH64 : ChecksumKind.CRC32;
    const parts = { clock, token: welcome.token, compressor, memory, checksums };
    const link = new PeerLink({ ...parts, side: 'mirror', peer: hello.node });
    const begun: HalfOpen = {
      token,
      hello,
      client,
      link,
      welcome: encodeWelcome(welcome),
      missing: new Set(Array.from({ length: lanes }, (_, index) => index)),
      arrived: 0,
      lanes,
      timer: clock.after(LINK_LANES_MS_MAX, () => this.giveUp(begun, 'its lanes did not come')),
      accepted: (ready, of) => verdict.accepted(ready, of),
      abandoned: () => verdict.abandoned(),
    };
    this.waiting.add(begun);
    return begun;
  }

  private compressorFor(hello: Hello): Compressor | null {
    const { compressor = null } = this.options;
    return compressor?.usable === true && hasFeature(hello, 'brotli') ? compressor : null;
  }

  private furtherLane(
    hello: Hello,
    { token, index }: NonNullable<Hello['lane']>,
    client: ClientFacts,
  ): PrivateAnswer {
    const shown = Buffer.from(token, 'hex');
    let found: HalfOpen | null = null;
    for (const each of this.waiting) if (timingSafeEqual(each.token, shown)) found = each;
    const fault = found === null ? 'no link waits for it' : whyNotOf(found, hello, index, client);
    if (found === null || fault !== null) {
      return refuse('unknown', STRANGER, hello.volume, `lane ${index} of ${hello.node}: ${fault}`);
    }
    return this.acceptLane(found, index, `lane ${index} of ${hello.node} for ${hello.volume}`);
  }

  private acceptLane(begun: HalfOpen, index: number, purpose: string): PrivateAnswer {
    begun.missing.delete(index);
    return {
      kind: 'accept',
      reply: begun.welcome,
      purpose,
      takeOver: (connection) => this.takeOver(begun, index, connection),
    };
  }

  private takeOver(begun: HalfOpen, index: number, connection: Connection): Successor {
    const { clock } = this.options;
    const { link } = begun;
    const handed = new HandedConnection(connection, clock);
    const successor = { handler: handed, stop: () => link.end('the node is stopping') };
    if (!this.waiting.has(begun)) {
      // Given up since the answer.
      handed.destroy();
      return successor;
    }
    handed.onLost = () => this.giveUp(begun, `lane ${index} was lost`);
    link.addLane(index, handed, NOTHING);
    begun.arrived += 1;
    if (begun.arrived === begun.lanes) {
      this.waiting.delete(begun);
      begun.timer.cancel();
      // Nothing that the owner does happens inside the handshake.
      clock.soon(() => begun.accepted(link, begun.hello));
    }
    return successor;
  }

  private giveUp(begun: HalfOpen, why: string): void {
    if (!this.waiting.delete(begun)) return;
    begun.timer.cancel();
    begun.abandoned();
    begun.link.destroy(new BlockferryError('LINK_LOST', `${begun.link.peer}: ${why}`));
  }
}

function featuresWith(compressor: Compressor | null): string[] {
  return LINK_FEATURES.filter((feature) => feature !== 'brotli' || compressor !== null);
}

/** Why a lane is not one of `begun`, or null. */
function whyNotOf(
  begun: HalfOpen,
  hello: Hello,
  index: number,
  client: ClientFacts,
): string | null {
  if (!begun.missing.has(index)) return 'the link has it already, or has fewer';
  const { node, volume, volumeId } = begun.hello;
  if (hello.node !== node || hello.volume !== volume || hello.volumeId !== volumeId) {
    return 'it is of another node or volume';
  }
  const [was, is] = [begun.client.tls, client.tls];
  const same = was?.kind === is?.kind && was?.identity === is?.identity;
  return same ? null : 'it is another client';
}

function refuse(
  as: 'invalid' | 'unknown' | 'policy',
  text: string,
  name: string,
  reason: string,
): PrivateAnswer {
  return { kind: 'refuse', as, text, denied: { name, reason } };
}
