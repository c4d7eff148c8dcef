/**
 * Who takes the writes of a volume: promoted, made the mirror of the copy that goes on.
 *
 * Invariants:
 * - What a command refuses, it refuses before it changes anything.
 * - What one side alone held is never lost silently: it is a snapshot with the time in its name.
 * - Clients of a volume that gives its writes up are cut off without an answer, so that those that reconnect send again what was
 *   not answered.
 */
import assert from 'node:assert';
import { isoTime, type Clock } from '../../io/clock.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import { isLoopback } from '../../io/address.ts';
import type { Address } from '../../io/network.ts';
import { parseNbdUri } from '../../nbd/uri/uri.ts';
import { forkOf, releaseForks } from '../../replicator/failover/fork.ts';
import type { HostedVolume } from '../../replicator/hosted-volume.ts';
import { giveUpJournal, releaseJournal } from '../../replicator/intake/kept-journal.ts';
import {
  becomeSecondary,
  followAnother,
  followNewPrimary,
} from '../../replicator/intake/failback.ts';
import type { Promotion } from '../../replicator/intake/parting.ts';
import { SecondaryVolume } from '../../replicator/intake/secondary.ts';
import { ReplicatedVolume } from '../../replicator/replicated-volume.ts';
import { isHidden } from '../../volume/names.ts';
import type { Volume } from '../../volume/volume.ts';
import { refuseFenced, type CommandRoom } from './command-room.ts';
import { exportName } from '../exports/export-name.ts';
import { stepsBehind } from './next-steps.ts';
import { uriAt } from '../config/replication-config.ts';
import type {
  FailbackStatus,
  NextStep,
  PromotionStatus,
  SwitchoverStatus,
  VolumeStatus,
} from '../status.ts';
import type { VolumeCommands } from './volumes.ts';

interface FailoverOptions {
  readonly room: CommandRoom;
  readonly clock: Clock;
  readonly commands: VolumeCommands;
  /** Whether an export at this address is one of our own. */
  readonly isOurs: (address: Address) => boolean;
  /** The operator said that the network is trusted. */
  readonly insecure: boolean;
  /** How other nodes reach this one; null: nobody said. */
  readonly address: string | null;
}

export interface HandoverOrder {
  /** Of several mirrors: its URI, or the name of its node. */
  readonly to: string | null;
  /** The export of the old primary, as the new one reaches it: its mirror from then on. */
  readonly back: string | null;
  readonly withinMs: number;
  /** The operator of that mirror asked for it. */
  readonly wanted?: boolean;
}

type Moved = Pick<SwitchoverStatus, 'back' | 'next'>;

export interface PromoteWish {
  /** Also while the primary is alive; of a primary: although another node goes on. */
  readonly force: boolean;
  /** The snapshot whose content the volume gets; null: the latest state. */
  readonly at: string | null;
}

export class FailoverCommands {
  private readonly room: CommandRoom;
  private readonly clock: Clock;
  private readonly commands: VolumeCommands;
  private readonly isOurs: FailoverOptions['isOurs'];
  private readonly insecure: boolean;
  private readonly address: string | null;

  constructor({ room, clock, commands, isOurs, insecure, address }: FailoverOptions) {
    this.room = room;
    this.clock = clock;
    this.commands = commands;
    this.isOurs = isOurs;
    this.insecure = insecure;
    this.address = address;
    commands.onAttached = (device) => this.watch(device);
    for (const device of room.devices.values()) this.watch(device);
  }

  /** Handovers that another node begins, or whose end is heard of when no command waits for it. */
  private watch(device: HostedVolume): void {
    const { name } = device.volume;
    if (device instanceof SecondaryVolume) {
      device.whyNoMirror = (uri) => this.whyNoMirror(uri);
      device.onTakenOver = () => void this.inBackground(name, () => this.takenOver(device));
    } else if (device instanceof ReplicatedVolume) {
      device.handover.onTaken = () => void this.inBackground(name, () => this.followTaker(device));
      let wanted = false;
      device.handover.onWanted = (mirrorId, { split, withinMs, back }) => {
        // A mirror that asks again and again fills nobody's queue.
        if (wanted) return device.handover.deny(mirrorId, 'it is asked for already');
        wanted = true;
        const mirror = device.volume.metadata.state.mirrors.get(mirrorId);
        const order = { to: mirror?.uri ?? null, back, withinMs, wanted: true };
        void this.inBackground(name, async () => {
          try {
            await (split ? this.splitHere(device, order) : this.giveAway(device, order));
          } catch (thrown) {
            device.handover.deny(mirrorId, errorText(thrown));
          }
        }).finally(() => {
          wanted = false;
        });
      };
    }
  }

  private async inBackground(name: string, run: () => Promise<unknown>): Promise<void> {
    try {
      await this.room.command(name, run);
    } catch (thrown) {
      this.room.tell('handover-failed', name, `volume ${name}: ${errorText(thrown)}`);
    }
  }

  private whyNoMirror(text: string): string | null {
    try {
      const { address, tls } = parseNbdUri(text);
      if (this.isOurs(address)) return `${text} leads back to this node`;
      if (this.insecure || tls !== null || isLoopback(address)) return null;
      return `${text} is reached in clear, and is not on this machine`;
    } catch (thrown) {
      return errorText(thrown);
    }
  }

  // ---- switchover and split

  /**
   * Moves the writes from the primary to its mirror with nothing lost, from either side. The old primary becomes the mirror, at the very
   * position. @throws BlockferryError VOLUME_NOT_FOUND, MIRROR_NOT_FOUND, MIRROR_STATE, VOLUME_FENCED, HANDOVER_FAILED, HANDOVER_IN_DOUBT
   */
  async switchover(name: string, order: HandoverOrder): Promise<SwitchoverStatus> {
    const secondary = this.room.secondary(name);
    if (secondary !== null) {
      const status = await this.want(secondary, { ...order, split: false });
      const old = status.mirrors.find(({ node }) => node === secondary.sourceNode);
      return { ...status, back: old?.uri ?? null, next: this.stepsHere(secondary) };
    }
    return await this.room.command(name, async () => {
      const device = this.room.requirePrimary(name, 'give its writes away');
      const moved = await this.giveAway(device, order);
      return { ...this.commands.show(name), ...moved };
    });
  }

  /** Has a mirror take writes too, on purpose: both go on alone. Throws as `switchover`. */
  async split(name: string, order: HandoverOrder): Promise<VolumeStatus> {
    const secondary = this.room.secondary(name);
    if (secondary !== null) return await this.want(secondary, { ...order, split: true });
    return await this.room.command(name, async () => {
      await this.splitHere(this.room.requirePrimary(name, 'be split'), order);
      return this.commands.show(name);
    });
  }

  /** From the side of the mirror: the primary is asked for it. */
  private async want(
    secondary: SecondaryVolume,
    { split, back, withinMs }: HandoverOrder & { readonly split: boolean },
  ): Promise<VolumeStatus> {
    const { name } = secondary.volume;
    const why = await secondary.want({ split, back, withinMs });
    if (why !== null) throw new BlockferryError('HANDOVER_FAILED', `volume ${name}: ${why}`);
    // Behind what makes it one that takes writes.
    return await this.room.command(name, () => Promise.resolve(this.commands.show(name)));
  }

  private async giveAway(device: ReplicatedVolume, order: HandoverOrder): Promise<Moved> {
    refuseFenced(device);
    const back = order.back ?? this.addressOf(device.volume.name);
    await device.handOver({ wanted: false, ...order, back, split: false });
    return { back, next: await this.followTaker(device) };
  }

  /** As other nodes reach it; null: nobody said. */
  private addressOf(volume: string): string | null {
    return this.address === null ? null : uriAt(this.address, volume);
  }

  private async splitHere(device: ReplicatedVolume, order: HandoverOrder): Promise<void> {
    refuseFenced(device);
    const node = await device.handOver({ wanted: false, ...order, split: true });
    const { name } = device.volume;
    const { generation, epoch } = device.position();
    const message = `volume ${name} and its mirror on ${node} both take writes: generation ${generation} begins here after epoch ${epoch}`;
    this.room.tell('volume-split', name, message);
  }

  /** The mirror has taken over: this volume becomes its mirror. */
  private async followTaker(device: ReplicatedVolume): Promise<NextStep[]> {
    const { volume } = device;
    const { name } = volume;
    const { handover, mirrors } = volume.metadata.state;
    // Heard of more than once.
    if (handover === null || this.room.devices.get(name) !== device) return [];
    const node = mirrors.get(handover.mirror)?.peer?.node;
    assert(node !== undefined, 'a mirror that took over is another node');
    const others = [...mirrors.values()].filter(({ id }) => id !== handover.mirror);
    const next = stepsBehind(name, others, node);
    const time = this.clock.wall();
    await this.commands.rehost(device, () => followNewPrimary(volume, node, time), true);
    const message = `volume ${name} is the mirror of node ${node}, which took over after epoch ${handover.epoch}; nothing is lost`;
    this.room.tell('volume-demoted', name, message);
    this.tellSteps(name, next);
    return next;
  }

  /** That a mirror stays behind is never silent. */
  private tellSteps(name: string, next: readonly NextStep[]): void {
    for (const { node, mirror, command } of next) {
      const message = `the mirror ${mirror} of ${name} does not follow by itself; on ${node}: ${command}`;
      this.room.tell('mirror-left-behind', name, message);
    }
  }

  /** Of a mirror that took over: the mirrors that its old primary had besides. */
  private stepsHere({ volume, sourceNode }: SecondaryVolume): NextStep[] {
    const others = [...volume.metadata.state.mirrors.values()].filter(
      ({ peer }) => peer !== null && peer.node !== sourceNode,
    );
    return stepsBehind(volume.name, others, this.commands.node);
  }

  /** This mirror takes writes: its generation is open. */
  private async takenOver(device: SecondaryVolume): Promise<void> {
    const { name } = device.volume;
    if (this.room.devices.get(name) !== device) return;
    await this.commands.rehost(device, () => Promise.resolve());
    const { position } = this.commands.show(name);
    const message = `volume ${name} takes writes: generation ${position.generation}, handed over by its primary with nothing lost`;
    this.room.tell('volume-promoted', name, message);
    this.tellSteps(name, this.stepsHere(device));
  }

  // ---- promotion and failback

  /**
   * Makes a mirror a volume that takes writes, at the latest whole state that it holds, or at one of its snapshots: then that
   * latest state is kept as `before-promotion-TIME`. Its readers are disconnected. By force also a volume that another node went on
   * from: both go on, and what waits here is written; and one that is held for a damaged journal, which is given up.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_PRIMARY, VOLUME_FENCED, SNAPSHOT_NOT_FOUND, SNAPSHOT_TOO_LARGE,
   *   JOURNAL_UNUSABLE and what `SecondaryVolume.promote` does
   */
  promote(name: string, { force, at }: PromoteWish): Promise<PromotionStatus> {
    return this.room.command(name, async () => {
      const device = this.room.require(name);
      if (device instanceof ReplicatedVolume) {
        const isDamaged = device.volume.unusable?.code === 'JOURNAL_UNUSABLE';
        if (isDamaged && force) return await this.withoutJournal(device, at);
        device.refuseWhileHeld();
        return await this.goOnAlone(device, force);
      }
      const secondary = this.room.secondary(name);
      assert(secondary !== null, 'a volume is one or the other');
      if (at !== null) refuseAt(secondary.volume, at);
      const kept = at === null ? null : timedName('before-promotion', this.clock.wall());
      const promotion = await secondary.promote({ force, keptAs: kept });
      await this.commands.rehost(device, () => this.restored(secondary, at));
      const { generation, epoch } = promotion;
      const back = at === null ? '' : ` with the content of ${exportName(name, at)}`;
      const message = `volume ${name} takes writes${back}: generation ${generation} begins after epoch ${epoch}`;
      this.room.tell('volume-promoted', name, message);
      return {
        ...this.commands.show(name),
        promotion: this.told(promotion, at, kept),
        given_up: null,
      };
    });
  }

  /** The generation is open: a crash, or an error, leaves the latest state, and restoring it is all that is missing. */
  private async restored({ volume }: SecondaryVolume, at: string | null): Promise<void> {
    if (at === null) return;
    try {
      await volume.snapshots.restore(at);
    } catch (thrown) {
      const { name } = volume;
      const message = `volume ${name} was promoted, and is not at ${exportName(name, at)}: ${errorText(thrown)}; finish with: blockferry snapshot restore ${exportName(name, at)} --force`;
      throw new BlockferryError('METADATA_WRITE_FAILED', message);
    }
  }

  private told(
    { generation, epoch, time, dropped }: Promotion,
    at: string | null,
    kept: string | null,
  ): PromotionStatus['promotion'] {
    return {
      position: { generation, epoch },
      consistent_at: isoTime(time),
      age_seconds: Math.max(0, (this.clock.wall() - time) / 1000),
      dropped_epochs: dropped,
      at,
      kept_as: kept,
    };
  }

  private async goOnAlone(device: ReplicatedVolume, force: boolean): Promise<PromotionStatus> {
    const { name } = device.volume;
    if (device.fenced === null) {
      throw new BlockferryError('VOLUME_IS_PRIMARY', `volume ${name} takes writes already`);
    }
    if (!force) refuseFenced(device);
    const { generation, epoch } = await device.goOnAlone();
    const message = `volume ${name} takes writes although another node does: generation ${generation} begins after epoch ${epoch}`;
    this.room.tell('volume-promoted', name, message);
    return { ...this.commands.show(name), promotion: null, given_up: null };
  }

  /** Goes on with what the layers of a volume have of a journal that is damaged. */
  private async withoutJournal(
    device: ReplicatedVolume,
    at: string | null,
  ): Promise<PromotionStatus> {
    const { volume } = device;
    const { name } = volume;
    if (at !== null) {
      const message = `volume ${name} was promoted before: without --at its damaged journal is given up; then blockferry snapshot restore ${exportName(name, at)} --force`;
      throw new BlockferryError('REQUEST_INVALID', message);
    }
    const lost = await this.commands.rehost(device, () => giveUpJournal(volume));
    assert(lost !== null, 'a journal is kept as long as it cannot be used');
    const { generation, first, last } = lost;
    const message = `volume ${name} takes writes again without its damaged journal: of epochs ${first} to ${last} of generation ${generation} it has a part; its mirrors are compared`;
    this.room.tell('journal-given-up', name, message);
    const given = { generation, first_epoch: first, last_epoch: last };
    return { ...this.commands.show(name), promotion: null, given_up: given };
  }

  /**
   * Makes a volume that `node` has gone on from a mirror of that copy. Its clients are cut off, its mirrors are none any more; what
   * it holds is kept as the snapshot `diverged-TIME`. `force`: also if this node has not heard of the other copy.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_SECONDARY, VOLUME_NOT_FENCED, NODE_NAME_INVALID, MIRROR_SELF, and what
   *   `becomeSecondary` does
   */
  failback(name: string, node: string, { force }: { force: boolean }): Promise<FailbackStatus> {
    return this.room.command(name, async () => {
      const device = this.room.requirePrimary(name, 'become one of another volume');
      this.commands.checkSource(node);
      if (device.fenced === null && !force) {
        const message = `volume ${name} takes writes: no mirror of it was promoted, as far as this node knows`;
        throw new BlockferryError('VOLUME_NOT_FENCED', message);
      }
      const snapshot = timedName('diverged', this.clock.wall());
      const next = stepsHome(device.volume, node);
      const change = (): ReturnType<typeof becomeSecondary> =>
        becomeSecondary(device.volume, node, snapshot);
      const { position, bytes } = await this.commands.rehost(device, change, true);
      const kept = exportName(name, snapshot);
      const differs =
        position === null
          ? 'what it changed is not known, and everything is compared'
          : `at most ${bytes} bytes differ here from position ${position.generation}:${position.epoch}`;
      const message = `volume ${name} is a mirror that waits for node ${node}; what it held is ${kept}; ${differs}`;
      this.room.tell('volume-demoted', name, message);
      this.tellSteps(name, next);
      const status: VolumeStatus = this.commands.show(name);
      return {
        ...status,
        failback: {
          kept_as: snapshot,
          common: position,
          bytes_that_may_differ: bytes,
          uri: this.addressOf(name),
        },
      };
    });
  }

  /**
   * The old primary of a volume that was promoted does not come back: what is kept for that, the blocks that were overwritten since, goes.
   * If it does come back after all, everything is compared. Nothing when nothing is kept.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_SECONDARY, METADATA_WRITE_FAILED
   */
  forget(name: string): Promise<VolumeStatus> {
    return this.room.command(name, async () => {
      const { volume } = this.room.requirePrimary(name, 'forget whom it was promoted from');
      // Else it is kept a moment later.
      await releaseJournal(volume);
      const fork = forkOf(volume);
      await releaseForks(volume);
      if (fork !== null) {
        const { generation, epoch } = fork.position;
        const message = `volume ${name} keeps nothing any more of what it held at position ${generation}:${epoch}, when it was promoted`;
        this.room.tell('fork-released', name, message);
      }
      return this.commands.show(name);
    });
  }

  /**
   * Has a mirror follow another node, which goes on with what it is a copy of. `force`: also one that follows its primary now, and gives up
   * what it holds, as the snapshot `diverged-TIME`: everything is compared.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_PRIMARY, PRIMARY_ALIVE, NODE_NAME_INVALID, MIRROR_SELF, and what
   *   `SecondaryVolume.leaveSource` and `followAnother` do
   */
  follow(name: string, node: string, { force }: { force: boolean }): Promise<VolumeStatus> {
    return this.room.command(name, async () => {
      const { volume } = this.room.require(name);
      const secondary = this.room.secondary(name);
      if (secondary === null) {
        const message = `volume ${name} takes writes; to have it follow ${node}: blockferry failback ${name} ${node}`;
        throw new BlockferryError('VOLUME_IS_PRIMARY', message);
      }
      this.commands.checkSource(node);
      const before = volume.metadata.state.source?.node;
      if (secondary.follows && !force) {
        const message = `node ${before} is alive and sends to ${name}, which would not follow it any more`;
        throw new BlockferryError('PRIMARY_ALIVE', message);
      }
      await secondary.leaveSource();
      const keptAs = force ? timedName('diverged', this.clock.wall()) : null;
      const change = (): Promise<boolean> => followAnother(volume, node, keptAs);
      const isKept = await this.commands.rehost(secondary, change);
      const what = isKept ? `; what it held is ${exportName(name, keptAs ?? '')}` : '';
      const message = `volume ${name} is a mirror that waits for node ${node}, and no more for ${before}${what}`;
      this.room.tell('volume-rebound', name, message);
      return this.commands.show(name);
    });
  }
}

/** What the mirrors besides `node` need of a volume that follows that node: nobody took them along. */
function stepsHome({ name, metadata }: Volume, node: string): NextStep[] {
  const others = [...metadata.state.mirrors.values()].filter(({ peer }) => peer?.node !== node);
  return stepsBehind(name, others, node, { isTold: false });
}

function refuseAt({ name, sizeBytes, snapshots }: Volume, at: string): void {
  const found = isHidden(at) ? undefined : snapshots.list().find((each) => each.name === at);
  if (found === undefined) {
    throw new BlockferryError('SNAPSHOT_NOT_FOUND', `volume ${name} has no snapshot ${at}`);
  }
  if (found.sizeBytes <= sizeBytes) return;
  const message = `${exportName(name, at)} has ${found.sizeBytes} bytes, the volume ${sizeBytes}`;
  throw new BlockferryError('SNAPSHOT_TOO_LARGE', message);
}

/** `diverged-20261121T123805Z` */
function timedName(what: string, wall: number): string {
  return `${what}-${isoTime(wall).replace(/[-:]|\.\d+/g, '')}`;
}
