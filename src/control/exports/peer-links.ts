/**
 * Who may bring a volume of another node here: the judge of links that begin.
 *
 * Invariants:
 * - A link is for the volume that an operator made for that very node, under the rules for its export, and from whoever TLS
 *   proves to be that node where this node asks its clients for proof.
 * - Everybody else learns nothing: not that there is such a volume, nor that it is a secondary, nor of which node. The log does.
 */
import type { ClientFacts } from '../../nbd/server/server.ts';
import type { Descendant } from '../../replicator/intake/descendant.ts';
import type { SecondaryVolume } from '../../replicator/intake/secondary.ts';
import type { Judgement } from '../../replicator/link/accept-peer.ts';
import type { Hello } from '../../replicator/link/messages.ts';
import { provesNode } from '../../replicator/link/node-identity.ts';

/** A secondary, or what was one, as links know it. */
export type LinkTarget =
  | Pick<SecondaryVolume, 'judge' | 'attach' | 'unexpected'>
  | Pick<Descendant, 'judge' | 'attach' | 'unexpected'>;

interface PeerLinksOptions {
  /** Null: there is no such volume. */
  readonly find: (volume: string) => LinkTarget | null;
  /** Why the rules for the export keep a client out; null when they do not. */
  readonly whyDenied: (volume: string, client: ClientFacts) => string | null;
  /** Whether clients can prove who they are: there are certificates or keys of clients. */
  readonly asksProof: () => boolean;
}

export class PeerLinks {
  private readonly options: PeerLinksOptions;

  constructor(options: PeerLinksOptions) {
    this.options = options;
  }

  judge(hello: Hello, client: ClientFacts): Judgement {
    const target = this.options.find(hello.volume);
    if (target === null) return stranger('there is no mirror of that name');
    const why = this.whyStranger(hello, client);
    if (why !== null) return stranger(why);
    const verdict = target.judge(hello, client.tls);
    switch (verdict.kind) {
      case 'stranger':
        return stranger(verdict.reason);
      case 'refused':
        return { kind: 'refuse', known: true, reason: verdict.text };
      case 'welcome':
        return {
          kind: 'accept',
          welcome: verdict.welcome,
          accepted: (link, of) => target.attach(link, of),
          abandoned: () => target.unexpected(hello),
        };
    }
  }

  private whyStranger({ volume, node }: Hello, client: ClientFacts): string | null {
    const denied = this.options.whyDenied(volume, client);
    if (denied !== null) return denied;
    if (!this.options.asksProof() || provesNode(client.tls, node)) return null;
    return `TLS does not prove that it is ${node}`;
  }
}

function stranger(reason: string): Judgement {
  return { kind: 'refuse', known: false, reason };
}
