/**
 * The private option of the server in memory: a node that takes links for `mirror` from the node `fuzz`, knows a reason to
 * refuse those for `busy`, and nobody else. What comes over a link is counted and dropped.
 */
import type { Clock } from '../../src/io/clock.ts';
import { PeerAcceptor, type Judgement } from '../../src/replicator/link/accept-peer.ts';
import type { LinkHandler } from '../../src/replicator/link/link-types.ts';
import { encodeHello, LINK_VERSION, type Hello } from '../../src/replicator/link/messages.ts';
import type { PeerLink } from '../../src/replicator/link/peer-link.ts';
import type { Dice } from './dice.ts';

const ID = '00112233445566778899aabbccddeeff';

export class MemoryMirror {
  readonly acceptor: PeerAcceptor;
  private readonly links: PeerLink[] = [];
  /** Tokens that come again are as good as random ones here, and play the same each time. */
  private tokens = 0;

  constructor(clock: Clock) {
    this.acceptor = new PeerAcceptor({
      clock,
      random: {
        fraction: () => 0,
        bytes: (count) => Buffer.alloc(count, ++this.tokens),
      },
      judge: (hello) => this.judge(hello),
    });
  }

  /** What is left when every connection is gone; empty if all is well. */
  leftovers(): string[] {
    const left: string[] = [];
    if (this.acceptor.halfOpen > 0) left.push(`${this.acceptor.halfOpen} links without lanes`);
    const held = this.links.reduce((sum, { heldBytes }) => sum + heldBytes, 0);
    if (held > 0) left.push(`${held} bytes of frames`);
    const open = this.links.filter((link) => link.open).length;
    if (open > 0) left.push(`${open} links`);
    return left;
  }

  private judge(hello: Hello): Judgement {
    if (hello.node !== 'fuzz') return { kind: 'refuse', known: false, reason: 'another node' };
    if (hello.volume === 'busy') return { kind: 'refuse', known: true, reason: 'a link stands' };
    if (hello.volume !== 'mirror') return { kind: 'refuse', known: false, reason: 'no mirror' };
    return {
      kind: 'accept',
      welcome: { node: 'memory', sizeBytes: 2 ** 20, generations: [], position: null, run: null },
      accepted: (link) => {
        this.links.push(link);
        link.start(dropping);
      },
      abandoned: nothing,
    };
  }
}

const nothing = (): void => {};

const dropping: LinkHandler = {
  frame: (_header, payload) => payload?.release(),
  control: nothing,
  heartbeat: nothing,
  drained: nothing,
  closed: nothing,
};

/** The data of a private option, mostly such as a primary sends. */
export function privateData(dice: Dice): Buffer {
  return encodeHello({
    version: LINK_VERSION,
    node: dice.chance(85) ? 'fuzz' : 'other',
    volume: dice.weighted([
      [70, 'mirror'],
      [15, 'busy'],
      [15, 'disk0'],
    ]),
    volumeId: ID,
    sizeBytes: 4096 * dice.between(1, 1000),
    generations: Array.from({ length: dice.skewed(200) }, (_, index) => ({
      number: index + 1,
      id: ID,
      firstEpoch: 10 * index,
    })),
    epoch: dice.below(2 ** 31),
    lane: dice.chance(20)
      ? {
          token: Buffer.alloc(16, dice.below(4)).toString('hex'),
          index: dice.between(1, 15),
        }
      : null,
    lanes: dice.pick([1, 1, 1, 2, 16]),
  });
}
