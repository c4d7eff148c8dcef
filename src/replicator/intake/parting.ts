/**
 * The end of being a mirror: it is promoted while its primary says nothing, or follows another node.
 *
 * Invariants:
 * - No link begins from the first step on; after an error one may again.
 * - Nothing is on its way when it is over, and no run is left half done (I8).
 */
import { Status } from '../../io/device.ts';
import { BlockferryError } from '../../io/errors.ts';
import type { Random } from '../../io/random.ts';
import type { Volume } from '../../volume/volume.ts';
import { randomId } from '../random-id.ts';
import type { Position, SourceStatus } from '../status.ts';
import type { DeltaIntake } from './delta-intake.ts';
import { refusal, type EpochIntake } from './epoch-intake.ts';
import { promoteKeeping, promoteNow } from './promotion.ts';
import type { IntakeSession } from './session.ts';
import type { Twins } from './twins.ts';

export interface PromotionWish {
  readonly force: boolean;
  readonly keptAs: string | null;
}

/** What a mirror was promoted with. */
export interface Promotion extends Position {
  /** The primary's wall-clock milliseconds since 1970 of that state. */
  readonly time: number;
  /** Epochs that the primary is known to have closed after it. */
  readonly dropped: number;
}

/** The mirror that is to be none any more. */
export interface PartingHost {
  readonly volume: Volume;
  readonly intake: EpochIntake;
  readonly delta: DeltaIntake;
  readonly twins: Twins;
  readonly sourceNode: string;
  readonly session: IntakeSession | null;
  /** Its primary was heard of in the last moments. */
  readonly follows: boolean;
  readonly closing: boolean;
  /** From now on no link may begin. */
  promoting: boolean;
  sourceStatus(): SourceStatus;
  /** What the last process left is taken up. Throws what broke it. */
  takenUp(): Promise<void>;
  /** Ends the link, if there is one, and what was to be done behind it. */
  endLink(reason: string): Promise<void>;
}

export class Parting {
  private readonly host: PartingHost;
  private readonly random: Random;

  constructor(host: PartingHost, random: Random) {
    this.host = host;
    this.random = random;
  }

  /**
   * Becomes a volume that takes writes, at the latest whole state that it holds: the epochs that are complete are applied, a run
   * that is not is given up (I8). Waits for no primary. When it resolves a generation was opened, durably, and this object is to
   * be closed: the volume is no mirror any more. After an error it may be tried again.
   * `keptAs`: a name for the snapshot that is to keep this state; null: none is made.
   * @throws BlockferryError PRIMARY_ALIVE (unless `force`), MIRROR_EMPTY, VOLUME_FAILED, METADATA_WRITE_FAILED, JOURNAL_UNUSABLE,
   *   SHUTTING_DOWN
   */
  async promote({ force, keptAs }: PromotionWish): Promise<Promotion> {
    const { host } = this;
    await host.takenUp();
    const { volume, intake, delta, twins } = host;
    volume.refuseIfFailed();
    if (host.promoting) {
      throw new BlockferryError('BUSY', `${volume.name} is being handed over by its primary`);
    }
    if (!force) this.refuseWhileAlive();
    const heard = host.session?.heardEpoch ?? 0;
    if (volume.metadata.state.position === null) {
      const message = `${volume.name} holds nothing whole yet`;
      throw new BlockferryError('MIRROR_EMPTY', message);
    }
    host.promoting = true;
    try {
      await host.endLink(`${volume.name} is promoted`);
      this.refuseWhileClosing();
      const parts = { volume, intake, delta, twins, id: randomId(this.random) };
      const held = await (keptAs === null ? promoteNow(parts) : promoteKeeping(parts, keptAs));
      const { generation } = volume.metadata.state;
      const { epoch, time } = held;
      return { generation, epoch, time, dropped: Math.max(0, heard - epoch) };
    } catch (thrown) {
      host.promoting = false;
      throw thrown;
    }
  }

  /**
   * Ends what it takes from its primary, for good: nothing is on its way then, and no run is left half done. This object is to be closed.
   * After an error it may be tried again, or the node restarted. @throws BlockferryError BUSY and as `promote`
   */
  async leaveSource(): Promise<void> {
    const { host } = this;
    await host.takenUp();
    const { volume, intake, delta, twins } = host;
    volume.refuseIfFailed();
    if (host.promoting) throw new BlockferryError('BUSY', `${volume.name} is being taken over`);
    host.promoting = true;
    try {
      await host.endLink(`${volume.name} follows another`);
      this.refuseWhileClosing();
      const status = await intake.finish();
      if (status !== Status.OK) throw intake.trouble ?? refusal(volume.name, status);
      await delta.abandon();
      await twins.discardAll();
    } catch (thrown) {
      host.promoting = false;
      throw thrown;
    }
  }

  /** What is durable and not applied is left for the next process, which can be told the same. */
  private refuseWhileClosing(): void {
    if (this.host.closing) throw new BlockferryError('SHUTTING_DOWN', 'the node is stopping');
  }

  private refuseWhileAlive(): void {
    const { session, follows, intake, volume, sourceNode } = this.host;
    if (session === null || !follows) return;
    const { lag_seconds } = this.host.sourceStatus();
    const behind = Math.max(0, session.heardEpoch - intake.received);
    const lag =
      lag_seconds === null
        ? ''
        : `${behind} epochs (${lag_seconds.toFixed(1)} s) of its writes, and `;
    const message = `node ${sourceNode} is alive and sends to ${volume.name}: ${lag}what it writes from now on would be lost`;
    throw new BlockferryError('PRIMARY_ALIVE', message);
  }
}
