/**
 * A mirror that takes the writes from its living primary: asked by the primary, or asking it.
 *
 * Invariants:
 * - One commit takes them. Until it is known to be durable the primary is told nothing; behind it this mirror hears nothing more.
 * - A promotion by the operator and a takeover exclude each other.
 */
import type { Clock } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import { errorText } from '../../io/errors.ts';
import { parseNbdUri } from '../../nbd/uri/uri.ts';
import type { MetadataRecord } from '../../volume/log/records.ts';
import type { Volume } from '../../volume/volume.ts';
import { keepFork } from '../failover/fork.ts';
import { hasFeature } from '../link/link-version.ts';
import type { HandoverMirror, OtherMirror } from '../link/messages.ts';
import type { EventSink, Position } from '../status.ts';
import type { DeltaIntake } from './delta-intake.ts';
import { refusal, type EpochIntake } from './epoch-intake.ts';
import { openGeneration } from './open-generation.ts';
import type { HandOver, IntakeSession } from './session.ts';
import { whyNoHandover } from './source-policy.ts';
import type { Twins } from './twins.ts';

/** The mirror that takes over. */
export interface TakeoverHost {
  readonly volume: Volume;
  readonly clock: Clock;
  readonly events: EventSink;
  readonly intake: EpochIntake;
  readonly delta: DeltaIntake;
  readonly twins: Twins;
  /** Name of this node, and of its primary's. */
  readonly node: string;
  readonly sourceNode: string;
  readonly session: IntakeSession | null;
  readonly closing: boolean;
  /** From now on no link may begin. */
  promoting: boolean;
  /** The volume takes writes: the mirror is to be closed. */
  readonly onTakenOver: (() => void) | null;
  /** Why this node sends nothing to such a mirror; null: it may. */
  readonly whyNoMirror: ((uri: string) => string | null) | null;
}

/** For the answer of a primary that gave up at its deadline. */
const HANDOVER_GRACE_MS = 2000;

export class Takeover {
  private readonly host: TakeoverHost;
  /** Whoever asked for a handover. */
  private wanted: ((outcome: string | null) => void) | null = null;

  constructor(host: TakeoverHost) {
    this.host = host;
  }

  /**
   * Asks the primary to give its writes to this mirror, or to split. Resolves with null when this mirror takes them (its object is
   * being closed then), else with the reason why not.
   */
  async want(wish: {
    split: boolean;
    withinMs: number;
    back: string | null;
  }): Promise<string | null> {
    const { session, clock } = this.host;
    if (session === null || !session.streaming) return 'it does not follow its primary now';
    if (!hasFeature(session.hello, 'handover')) return 'its primary is of an older version';
    if (this.wanted !== null) return 'it is asked for already';
    session.link.sendControl({ kind: 'handover-wanted', ...wish });
    const timer = clock.after(wish.withinMs + HANDOVER_GRACE_MS, () =>
      this.wanted?.('the primary did not answer in time'),
    );
    const outcome = await new Promise<string | null>((resolve) => {
      this.wanted = resolve;
    });
    this.wanted = null;
    timer.cancel();
    return outcome;
  }

  /** The primary says no, or is gone. */
  denied(why: string): void {
    this.wanted?.(why);
  }

  /** The primary gives its writes away. */
  async take(session: IntakeSession, message: HandOver): Promise<void> {
    const why = await this.takeOver(session, message);
    const { link } = session;
    if (why !== null) {
      this.wanted?.(why);
      link.sendControl({ kind: 'handover-refused', message: why });
      if (session.deaf) link.end(`${this.host.volume.name} follows it anew`);
      return;
    }
    link.sendControl({ kind: 'handed-over' });
    link.end(`${this.host.volume.name} takes writes`);
    this.wanted?.(null);
    this.host.onTakenOver?.();
  }

  /** Null: the generation is open, durably. Else why not: nothing of it is, nor will be. */
  private async takeOver(session: IntakeSession, message: HandOver): Promise<string | null> {
    const { host } = this;
    const { intake, delta, volume } = host;
    const { epoch, id, split, back } = message;
    if (host.promoting || host.closing) return 'it is being promoted, or its node stops';
    if (!session.streaming || delta.open !== null || intake.received !== epoch) {
      return `it holds epoch ${intake.received}, not ${epoch}`;
    }
    const refused = this.wanted === null ? whyNoHandover(volume) : null;
    if (refused !== null) return refused;
    // Else a part of the commit would be refused, and the rest of it not.
    if (volume.metadata.state.generations.some((opened) => opened.id === id)) {
      return `generation ${id} was opened before`;
    }
    const unfit = back === null ? null : (this.host.whyNoMirror?.(back.uri) ?? null);
    if (unfit !== null) return unfit;
    host.promoting = true;
    try {
      const status = await intake.finish();
      if (status !== Status.OK) throw intake.trouble ?? refusal(volume.name, status);
      await host.twins.discardAll();
      const { generation, position } = volume.metadata.state;
      if (position?.epoch !== epoch) throw refusal(volume.name, Status.EIO);
      if (back === null || split) await keepFork(volume, generation + 1);
      // Without the link the primary would hear of it only when it asks: it is asked anew then.
      if (!split && (host.session !== session || !session.link.open)) {
        host.promoting = false;
        return 'the link was lost';
      }
      if (intake.received !== epoch) {
        host.promoting = false;
        return `epoch ${intake.received} came meanwhile`;
      }
      // Not an epoch more: what came would be of a generation that is over.
      session.hearNoMore();
      await openGeneration(volume, id, this.recordsOf(message, position));
      return null;
    } catch (thrown) {
      if (volume.failed) throw thrown;
      host.promoting = false;
      return errorText(thrown);
    }
  }

  /** The old primary, which holds the very position, and its other mirrors, as mirrors of this volume. */
  private recordsOf({ back, others = [], split }: HandOver, position: Position): MetadataRecord[] {
    if (split) return [];
    const { volume, sourceNode } = this.host;
    const { nextMirrorId } = volume.metadata.state;
    const fit = others.filter((other) => this.isTakenAlong(other));
    return [
      ...(back === null ? [] : recordsOfMirror(nextMirrorId, back, sourceNode, position)),
      ...fit.flatMap((other, index) =>
        recordsOfMirror(nextMirrorId + 1 + index, other, other.node, other.whole ? position : null),
      ),
    ];
  }

  private isTakenAlong({ uri, node }: OtherMirror): boolean {
    const why =
      node === this.host.node ? 'it is this node' : (this.host.whyNoMirror?.(uri) ?? null);
    if (why === null) return true;
    const { name } = this.host.volume;
    const message = `the mirror of ${name} on node ${node} is not taken along: ${why}; add it by its address as seen from here: blockferry mirror add ${name} URI`;
    this.host.events.emit({ kind: 'mirror-left-behind', volume: name, mirror: uri, message });
    return false;
  }
}

/** `held`: what it holds, and lacks nothing behind it; null: everything is compared. */
function recordsOfMirror(
  mirror: number,
  { uri, mode, stallPolicy, lanes, limit }: HandoverMirror,
  node: string,
  held: Position | null,
): MetadataRecord[] {
  return [
    { kind: 'mirror-added', mirror, uri: parseNbdUri(uri).text, mode, stallPolicy },
    { kind: 'mirror-options', mirror, lanes, limit },
    { kind: 'mirror-peer', mirror, node, volumeId: null },
    held === null
      ? { kind: 'mirror-bits-all', mirror, set: 'suspect' }
      : { kind: 'mirror-acknowledged', mirror, generation: held.generation, epoch: held.epoch },
  ];
}
