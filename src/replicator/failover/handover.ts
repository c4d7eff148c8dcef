/**
 * A living primary gives its writes to a mirror, or both go on alone on purpose (`split`).
 *
 * Invariants:
 * - Changes are held, not refused, from the first step on. They go on here whenever it is known that the mirror did not take over.
 * - The mirror is asked to take over when it holds durably all that this node ever answered, and not before the log says, durably,
 *   that it is asked. From then on nothing is applied here until it is known what became of that, whatever runs of the process
 *   follow: so never do both take writes.
 * - What became of it is known by the answer, or by the next welcome of that mirror: it is given only when nothing of an older link is
 *   on its way there.
 * - A split asks for nothing that is in doubt: this node is in a generation of its own before the mirror hears of it.
 */
import { BlockferryError } from '../../io/errors.ts';
import type { Timer } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import { HANDOVER_OTHERS_MS, HANDOVER_POLL_MS } from '../../io/limits.ts';
import type { MetadataRecord } from '../../volume/log/records.ts';
import type { Volume } from '../../volume/volume.ts';
import type { Fence } from '../changes/fence.ts';
import { hasFeature } from '../link/link-version.ts';
import type { ControlMessage, Generation, HandoverMirror, OtherMirror } from '../link/messages.ts';
import type { MirrorHost } from '../mirror/mirror-host.ts';
import type { Mirror } from '../mirror/mirror.ts';
import { randomId } from '../random-id.ts';

export type HandoverWanted = Extract<ControlMessage, { kind: 'handover-wanted' }>;

export interface HandoverWish {
  readonly mirror: Mirror;
  /** How the mirror reaches this node; null: nobody said. */
  readonly back: string | null;
  readonly withinMs: number;
  readonly split: boolean;
}

type Outcome = 'taken' | { readonly refused: string };

interface HandoverParts {
  readonly host: Pick<MirrorHost, 'volume' | 'queue' | 'surroundings'>;
  readonly fence: Fence;
  readonly mirrors: readonly Mirror[];
  /** No change is on its way. */
  readonly isQuiet: () => boolean;
}

export class Handover {
  /** A mirror's operator wants it. */
  onWanted: ((mirrorId: number, wanted: HandoverWanted) => void) | null = null;
  /** It turned out that the mirror has taken over, when nobody waited for that any more. */
  onTaken: (() => void) | null = null;
  private readonly parts: HandoverParts;
  private settle: ((outcome: Outcome) => void) | null = null;
  private timer: Timer | null = null;
  /** The mirror that is asked now. */
  private asking: number | null = null;

  constructor(parts: HandoverParts) {
    this.parts = parts;
  }

  private get volume(): Volume {
    return this.parts.host.volume;
  }

  /**
   * Resolves when the mirror takes writes; this node takes none from then on, and is to become its mirror (or takes them too, if it
   * is a split). @throws BlockferryError HANDOVER_FAILED: writes go on here. HANDOVER_IN_DOUBT: they wait
   */
  async run(wish: HandoverWish): Promise<void> {
    const { fence, host } = this.parts;
    const { clock } = host.surroundings;
    if (this.asking !== null || this.volume.metadata.state.handover !== null) {
      throw new BlockferryError(
        'HANDOVER_FAILED',
        `${this.volume.name} is being handed over already`,
      );
    }
    const deadline = clock.now() + wish.withinMs;
    this.asking = wish.mirror.id;
    fence.pause();
    try {
      const epoch = await this.shipped(wish.mirror, deadline);
      if (!wish.split) await this.shippedToOthers(wish.mirror, epoch, deadline);
      await (wish.split ? this.part(wish, epoch, deadline) : this.ask(wish, epoch, deadline));
    } finally {
      this.asking = null;
      if (wish.split || this.volume.metadata.state.handover === null) fence.unpause();
    }
  }

  /** All that was answered is durable on both sides, and nothing comes. Returns the last epoch. */
  private async shipped(mirror: Mirror, deadline: number): Promise<number> {
    const { host, isQuiet } = this.parts;
    await this.until(deadline, 'writes on their way did not end', isQuiet);
    const status = await this.volume.flushed();
    if (status !== Status.OK) throw failed(`its disk answered errno ${status}`);
    host.queue.close('command');
    const epoch = host.queue.openNumber - 1;
    mirror.wake();
    await this.until(deadline, `${mirror.uri.text} did not get everything`, () =>
      mirror.has(epoch, 'durable'),
    );
    if (!isQuiet() || host.queue.openNumber - 1 !== epoch || !host.queue.openIsEmpty) {
      throw failed('another command changed the volume meanwhile');
    }
    return epoch;
  }

  /** Those that follow too are given a moment, so that they need not be compared; the one that is asked keeps time for its answer. */
  private async shippedToOthers(mirror: Mirror, epoch: number, deadline: number): Promise<void> {
    const { mirrors, host } = this.parts;
    const { clock } = host.surroundings;
    const others = mirrors.filter((each) => each !== mirror && each.peer !== null);
    for (const each of others) each.wake();
    const whole = (): boolean =>
      others.every((each) => each.peer === null || each.has(epoch, 'durable'));
    const now = clock.now();
    const waitMs = Math.min(HANDOVER_OTHERS_MS, (deadline - now) / 2);
    // What came meanwhile is seen as before: the queue is closed at this epoch.
    await this.until(now + waitMs, '', whole).catch(() => {});
  }

  private async until(deadline: number, why: string, ready: () => boolean): Promise<void> {
    const { clock } = this.parts.host.surroundings;
    while (!ready()) {
      if (clock.now() >= deadline) throw failed(`${why} in time`);
      await new Promise<void>((resolve) => clock.after(HANDOVER_POLL_MS, resolve));
    }
  }

  /** Each goes on in a generation of its own behind `epoch`. */
  private async part({ mirror }: HandoverWish, epoch: number, deadline: number): Promise<void> {
    const { host } = this.parts;
    const { random } = host.surroundings;
    const contact = mirror.peer;
    if (contact === null) throw failed(`the link to ${mirror.uri.text} was lost`);
    const number = this.volume.metadata.state.generation + 1;
    const id = randomId(random);
    const { generations } = this.volume.metadata.state;
    await this.record(
      [
        { kind: 'generation-opened', number, id, firstEpoch: epoch + 1 },
        { kind: 'mirror-paused', mirror: mirror.id, paused: true },
      ],
      [
        { kind: 'history-set', generations },
        { kind: 'mirror-paused', mirror: mirror.id, paused: false },
      ],
    );
    const outcome = this.outcome(deadline);
    const asked = { kind: 'hand-over', id: randomId(random), epoch, split: true } as const;
    contact.link.sendControl({ ...asked, back: null });
    const came = await outcome;
    await mirror.pause();
    if (came === 'taken') return;
    const why = came === null ? 'it did not answer in time' : came.refused;
    const { name } = this.volume;
    const message = `${name} goes on alone, and its mirror is paused, but is none that takes writes: ${why}; there: blockferry promote ${name}`;
    throw new BlockferryError('HANDOVER_FAILED', message);
  }

  /** What becomes of the question; null: nothing was heard until then. */
  private async outcome(deadline: number): Promise<Outcome | null> {
    const { clock } = this.parts.host.surroundings;
    const came = await new Promise<Outcome | null>((resolve) => {
      this.settle = resolve;
      this.timer = clock.after(Math.max(1, deadline - clock.now()), () => resolve(null));
    });
    this.settle = null;
    this.timer?.cancel();
    return came;
  }

  private async ask(
    { mirror, back }: HandoverWish,
    epoch: number,
    deadline: number,
  ): Promise<void> {
    const id = randomId(this.parts.host.surroundings.random);
    const undo: MetadataRecord = { kind: 'handover-over' };
    await this.record([{ kind: 'handing-over', mirror: mirror.id, id, epoch }], [undo]);
    const contact = mirror.peer;
    const outcome = this.outcome(deadline);
    if (contact === null) this.settle?.({ refused: `the link to ${mirror.uri.text} was lost` });
    else {
      const backTo = this.mirrorBack(mirror, back);
      const others = hasFeature(contact.welcome, 'others')
        ? { others: this.othersThan(mirror, epoch) }
        : {};
      const wish = { kind: 'hand-over', id, epoch, split: false, back: backTo } as const;
      contact.link.sendControl({ ...wish, ...others });
    }
    const came = await outcome;
    if (came === 'taken') return;
    if (came === null) {
      const message = `${this.volume.name}: it is not known whether ${mirror.uri.text} took over; writes wait until it is reached`;
      throw new BlockferryError('HANDOVER_IN_DOUBT', message);
    }
    await this.record([undo]);
    throw failed(came.refused);
  }

  /** Other nodes: what any other server holds under that address is for an operator to say. */
  private othersThan(mirror: Mirror, epoch: number): OtherMirror[] {
    return this.parts.mirrors.flatMap((each) => {
      const record = this.volume.metadata.state.mirrors.get(each.id);
      if (each === mirror || record === undefined || record.peer === null || record.paused)
        return [];
      const { uri, mode, stallPolicy, lanes, limit, peer } = record;
      const whole = each.has(epoch, 'durable');
      return [{ uri, mode, stallPolicy, lanes, limit, node: peer.node, whole }];
    });
  }

  private mirrorBack({ id }: Mirror, uri: string | null): HandoverMirror | null {
    const record = this.volume.metadata.state.mirrors.get(id);
    if (uri === null || record === undefined) return null;
    const { mode, stallPolicy, lanes, limit } = record;
    return { uri, mode, stallPolicy, lanes, limit };
  }

  // ---- what is heard of it

  /** A message of a mirror about it. What another answers than the one that was asked counts for nothing. */
  heard(mirrorId: number, message: ControlMessage): void {
    if (message.kind === 'handover-wanted') this.onWanted?.(mirrorId, message);
    if (mirrorId !== (this.asking ?? this.volume.metadata.state.handover?.mirror)) return;
    if (message.kind === 'handed-over') this.taken();
    if (message.kind !== 'handover-refused') return;
    if (this.settle !== null) this.settle({ refused: message.message });
    // It came late.
    else void this.notTaken(mirrorId);
  }

  /** Tells a mirror that asked for it that it does not come to that. */
  deny(mirrorId: number, message: string): void {
    const mirror = this.parts.mirrors.find(({ id }) => id === mirrorId);
    mirror?.peer?.link.sendControl({ kind: 'handover-denied', message });
  }

  /** The history of a mirror that was reached, or that comes as the new primary. True: it has taken over. */
  learned(generations: readonly Generation[]): boolean {
    const { handover } = this.volume.metadata.state;
    if (handover === null || !generations.some(({ id }) => id === handover.id)) return false;
    this.taken();
    return true;
  }

  /** The mirror that was asked is one still, and knows of nobody else who goes on. */
  async notTaken(mirrorId: number): Promise<void> {
    const { handover } = this.volume.metadata.state;
    if (handover?.mirror !== mirrorId) return;
    if (this.asking !== null) {
      // Not before the question was asked.
      this.settle?.({ refused: 'the link was lost before it took over' });
      return;
    }
    this.volume.metadata.append({ kind: 'handover-over' });
    // What a full disk keeps from being recorded goes with the next commit: after a crash the mirror is asked once more.
    await this.volume.commit();
    // Another handover may have begun meanwhile, and pauses for itself.
    if (this.asking === null) this.parts.fence.unpause();
  }

  private taken(): void {
    if (this.settle !== null) this.settle('taken');
    else if (this.volume.metadata.state.handover !== null) this.onTaken?.();
  }

  private async record(
    records: readonly MetadataRecord[],
    undo: readonly MetadataRecord[] = [],
  ): Promise<void> {
    const { metadata } = this.volume;
    for (const record of records) metadata.append(record);
    const status = await this.volume.commit();
    if (status === Status.OK) return;
    for (const record of undo) metadata.append(record);
    throw failed(`its log cannot be written (errno ${status})`);
  }
}

function failed(why: string): BlockferryError {
  return new BlockferryError(
    'HANDOVER_FAILED',
    `it does not come to that, writes go on here: ${why}`,
  );
}
