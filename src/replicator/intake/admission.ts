/**
 * Who may send to a volume that is a mirror: what is answered to a node that asks for a link to it.
 *
 * Invariants:
 * - Only the node that the volume is bound to is told anything of it; a node that it was once a copy of hears of its history.
 * - One welcome at a time. A new one is given when nothing of the last link is on its way any more: the position that it tells
 *   is the one that stays.
 */
import type { Clock } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import { INTAKE_SILENT_MS, INTAKE_WELCOME_MS, LINK_LANES_MAX } from '../../io/limits.ts';
import type { TlsPeer } from '../../io/network.ts';
import type { Random } from '../../io/random.ts';
import { SubjectList } from '../../nbd/server/subject-list.ts';
import type { Volume } from '../../volume/volume.ts';
import { hasFeature } from '../link/link-version.ts';
import { LINK_VERSION } from '../link/messages.ts';
import type { Hello, Welcome } from '../link/messages.ts';
import type { DeltaIntake } from './delta-intake.ts';
import type { EpochIntake } from './epoch-intake.ts';
import { historyWelcome, isOfDescent } from './history-welcome.ts';
import type { IntakeSession } from './session.ts';

/** `stranger`: must not learn that there is such a volume; `reason` is for the log. `refused`: the rightful node hears `text`. */
export type Verdict =
  | { readonly kind: 'welcome'; readonly welcome: Welcome }
  | { readonly kind: 'stranger'; readonly reason: string }
  | { readonly kind: 'refused'; readonly text: string };

/** The mirror that is asked for. */
export interface AdmissionHost {
  readonly volume: Volume;
  readonly clock: Clock;
  readonly intake: EpochIntake;
  readonly delta: DeltaIntake;
  /** Name of this node, and of its primary's. */
  readonly node: string;
  readonly sourceNode: string;
  readonly session: IntakeSession | null;
  /** Why it takes no link now, whoever asks; null: it may. */
  readonly whyNoLink: string | null;
  /** What an operator is told. */
  lastError: string | null;
  /** Ends what a run left that could not be recorded. */
  maintain(): void;
  /** That is under way: its position is told when it is over. */
  readonly isMaintaining: boolean;
}

const TOKEN_BYTES = 16;

export class LinkAdmission {
  private readonly host: AdmissionHost;
  private readonly random: Random;
  private readonly subjects: SubjectList;
  /** Somebody was welcomed at this time of the clock, whose link has not come yet. */
  private expectedAt: number | null = null;

  constructor(host: AdmissionHost, random: Random) {
    this.host = host;
    this.random = random;
    this.subjects = SubjectList.parse([`CN=${host.sourceNode}`, `psk:${host.sourceNode}`]);
  }

  /** Whether a new link of this primary may begin. `tls`: what it showed of itself, null when it came in clear. */
  judge(hello: Hello, tls: TlsPeer | null): Verdict {
    const other = this.judgeOther(hello);
    if (other !== null) return other;
    const reason = this.strangeness(hello, tls);
    if (reason !== null) return { kind: 'stranger', reason };
    const text = this.objection(hello);
    if (text !== null) return { kind: 'refused', text: `${this.host.volume.name}: ${text}` };
    this.expectedAt = this.host.clock.now();
    return { kind: 'welcome', welcome: this.welcome(hello) };
  }

  private strangeness(hello: Hello, tls: TlsPeer | null): string | null {
    const { sourceNode } = this.host;
    if (hello.node !== sourceNode) return `it is a mirror of node ${sourceNode}, not ${hello.node}`;
    if (tls === null || tls.kind === 'anonymous' || this.subjects.has(tls)) return null;
    return `TLS says that it is ${tls.identity}, not ${sourceNode}`;
  }

  /**
   * Another node that this volume was a copy of, and shows that by a generation, whose id nobody guesses. If it does not know of the
   * latest one here, somebody went on from it: it hears that, before it takes a write. Else its operator hears what to do here.
   * Null: it is no such node.
   */
  private judgeOther({ node, generations }: Hello): Verdict | null {
    const { sourceNode, volume, node: self } = this.host;
    if (node === sourceNode || !isOfDescent(volume, generations)) return null;
    const latest = volume.metadata.state.generations.at(-1);
    if (!generations.some(({ id }) => id === latest?.id)) {
      return { kind: 'welcome', welcome: historyWelcome(volume, self) };
    }
    const text = `${volume.name} follows node ${sourceNode}; to have it follow ${node}, there: blockferry volume set ${volume.name} --mirror-of ${node}`;
    if (this.host.session === null) this.host.lastError = text;
    return { kind: 'refused', text };
  }

  private objection(hello: Hello): string | null {
    const { volume, whyNoLink } = this.host;
    const { source } = volume.metadata.state;
    const bound = source?.volumeId ?? hello.volumeId;
    if (bound !== hello.volumeId) {
      return `it is a mirror of the volume ${bound}; create another one for ${hello.volumeId}`;
    }
    if (hello.sizeBytes !== volume.sizeBytes) {
      return `it has ${volume.sizeBytes} bytes and the primary ${hello.sizeBytes}; create it with that size`;
    }
    return whyNoLink ?? this.occupied();
  }

  private occupied(): string | null {
    const { host } = this;
    const now = host.clock.now();
    if (host.session !== null) {
      if (now - host.session.heardAt < INTAKE_SILENT_MS) return 'it has a link already; try again';
      const error = new BlockferryError('MIRROR_UNREACHABLE', 'a new link takes the place of it');
      host.session.link.destroy(error);
      return 'its last link is being ended; try again';
    }
    if (this.expectedAt !== null && now - this.expectedAt < INTAKE_WELCOME_MS) {
      return 'another link to it is being made; try again';
    }
    if (!host.delta.settled) {
      host.maintain();
      return `it cannot make durable what it has${host.lastError === null ? '' : `: ${host.lastError}`}`;
    }
    if (host.isMaintaining) return 'what its last run left is being ended; try again';
    return host.intake.settled ? null : 'its last epochs are being made durable; try again';
  }

  private welcome(hello: Hello): Welcome {
    const { volume, intake, delta, node } = this.host;
    const { state } = volume.metadata;
    const held = intake.durable;
    const { open } = delta;
    return {
      version: LINK_VERSION,
      node,
      token: this.random.bytes(TOKEN_BYTES).toString('hex'),
      lanes: Math.min(hello.lanes, LINK_LANES_MAX),
      sizeBytes: volume.sizeBytes,
      generations: state.generations,
      position: held === null ? null : { generation: held.generation, epoch: held.epoch },
      run: open === null ? null : { id: open.run, cursor: open.cursor },
      // Who does not know of that compares everything.
      ...(state.rejoin === null || !hasFeature(hello, 'rejoin')
        ? {}
        : { rejoin: { generation: state.rejoin.generation, epoch: state.rejoin.epoch } }),
    };
  }

  /** The link that the last welcome was for. */
  arrived(): void {
    this.expectedAt = null;
  }

  /** Nothing comes of the last welcome of whoever said `hello`: another may be made. */
  unexpected({ node }: Pick<Hello, 'node'>): void {
    if (node === this.host.sourceNode) this.expectedAt = null;
  }
}
