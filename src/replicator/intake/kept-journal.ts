/**
 * The journal of a volume that was promoted before all of it was durable in the volume: made part of the volume for good, in the
 * background, or by a process that finds it after a crash. docs/internals/failover.md says why that is sound.
 *
 * Invariants:
 * - The journal is not written, and the layers stay what they are, until the log says that it is released.
 * - New writes are in one layer alone, which has nothing else. What the journal brings again goes above it, and only to blocks
 *   that it does not hold: what was written since is never undone.
 * - Nobody reads or writes before that is done. Of a journal that cannot be read nothing is applied, and the volume is held until
 *   an operator gives the journal up: it is either kept, or given up for good.
 * - What is given up no mirror is assumed to lack: every block of each is compared.
 */
import type { Clock, Timer } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import type { Disk } from '../../io/disk.ts';
import { BlockferryError } from '../../io/errors.ts';
import { INTAKE_RETRY_MS } from '../../io/limits.ts';
import { beginAbove, nameBelow } from '../../volume/snapshots/late-snapshot.ts';
import type { VolumeState } from '../../volume/log/metadata-state.ts';
import type { Volume } from '../../volume/volume.ts';
import { forkName } from '../failover/fork.ts';
import { prove, replayAround } from './kept-replay.ts';

/** Volumes whose content is whole in this process: what was written is in their files, durable or not. */
const whole = new WeakSet<Volume>();

/** Everything that the journal of the volume holds was applied by this process. */
export function noteWhole(volume: Volume): void {
  whole.add(volume);
}

/**
 * Makes the content that the volume was promoted with durable, and the journal superfluous. Nothing when that was done before.
 * @throws BlockferryError METADATA_WRITE_FAILED, VOLUME_FAILED, SHUTTING_DOWN, and for a content that is not whole BUSY
 */
export async function releaseJournal(volume: Volume): Promise<void> {
  await volume.exclusive(async () => {
    const { kept } = volume.metadata.state;
    if (kept === null) return;
    if (volume.unusable !== null) throw volume.unusable;
    if (!whole.has(volume)) {
      const message = `the journal of ${volume.name} is being applied; try again`;
      throw new BlockferryError('BUSY', message);
    }
    // Durable with the fork, or neither is.
    await nameBelow(volume.snapshots, {
      layer: kept.layer,
      name: forkName(kept.generation),
      records: [{ kind: 'journal-released' }],
    });
  }, true);
}

/** Epochs of the old primary that a volume has in part. */
export interface PartialEpochs {
  readonly generation: number;
  readonly first: number;
  readonly last: number;
}

/** What is at stake while a journal is kept; null: none is. */
function atStake({ metadata }: Volume): PartialEpochs | null {
  const { kept, generations } = metadata.state;
  if (kept === null) return null;
  const before = generations.findLast(({ number }) => number < kept.generation);
  const generation = before?.number ?? kept.generation - 1;
  return { generation, first: kept.after + 1, last: kept.last };
}

/**
 * Gives up a journal that cannot be read: the content is what the layers have, durably, and the mirrors are compared with that.
 * Answers what may be lost; null when no journal is kept any more. The volume is hosted by nobody meanwhile.
 * @throws BlockferryError METADATA_WRITE_FAILED: the journal is kept as before; VOLUME_FAILED, SHUTTING_DOWN
 */
export async function giveUpJournal(volume: Volume): Promise<PartialEpochs | null> {
  const { metadata, snapshots, layers } = volume;
  return await volume.exclusive(async () => {
    const { kept, mirrors } = metadata.state;
    const lost = atStake(volume);
    if (kept === null) return null;
    // What a crash left of the layers is what everybody sees from now on: another one changes nothing of it.
    await snapshots.steps.durable(layers.unsealed());
    metadata.append({ kind: 'journal-released' });
    for (const mirror of mirrors.keys()) {
      metadata.append({ kind: 'mirror-bits-all', mirror, set: 'suspect' });
    }
    await released(volume, kept);
    volume.unusable = null;
    return lost;
  }, true);
}

/** Makes durable what was appended with the release, or takes that back. Throws METADATA_WRITE_FAILED, VOLUME_FAILED. */
async function released(volume: Volume, kept: NonNullable<VolumeState['kept']>): Promise<void> {
  const status = await volume.commit();
  volume.refuseIfFailed();
  if (status !== Status.OK) {
    // In this turn, so that neither is durable without the other.
    volume.metadata.append({ kind: 'journal-kept', ...kept });
    throw new BlockferryError('METADATA_WRITE_FAILED', `the disk of ${volume.name} is full`);
  }
  // What an open volume tidies up among its layers was refused until now.
  volume.released();
}

/** What an operator is told of a journal that cannot be read. */
function heldFor(volume: Volume, { code, message: why }: BlockferryError): BlockferryError {
  const { name } = volume;
  const lost = atStake(volume);
  if (code !== 'JOURNAL_UNUSABLE' || lost === null) {
    return new BlockferryError(code, `volume ${name} takes and answers nothing: ${why}`);
  }
  const { generation, first, last } = lost;
  const message = `volume ${name} takes and answers nothing: the journal that it was promoted with is damaged (${why}). Of epochs ${first} to ${last} of generation ${generation} it has a part; a mirror, or its old primary, may have them whole. To go on with what is here: blockferry promote ${name} --force`;
  return new BlockferryError(code, message);
}

/** One of the two is called, in the turn of the start or a later one; none when it is stopped before. */
export interface KeptUser {
  /** The volume may be used. */
  ready(): void;
  /** Nobody sees its content: it failed, or is `unusable`. */
  lost(): void;
}

export class KeptJournal {
  private readonly volume: Volume;
  private readonly disk: Disk;
  private readonly clock: Clock;
  private working: Promise<void> | null = null;
  private stopped = false;
  private wake: (() => void) | null = null;

  constructor({ volume, disk, clock }: { volume: Volume; disk: Disk; clock: Clock }) {
    this.volume = volume;
    this.disk = disk;
    this.clock = clock;
  }

  /** The content is not that of one moment: nobody may look at it, or change it, until `start` says so. */
  get torn(): boolean {
    return this.volume.metadata.state.kept !== null && !whole.has(this.volume);
  }

  start(user: KeptUser): void {
    const { torn } = this;
    this.working = torn ? this.takeUp(user) : this.release();
    if (!torn) user.ready();
  }

  /** Resolves when nothing is under way. What is not done is done by the next process. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.wake?.();
    await this.working;
  }

  private async release(): Promise<void> {
    await this.persist(() => releaseJournal(this.volume));
  }

  private async takeUp(user: KeptUser): Promise<void> {
    this.volume.unusable = null;
    const done = await this.persist(() => this.volume.exclusive(() => this.replay(), true));
    if (this.stopped) return;
    if (done) user.ready();
    else user.lost();
  }

  /** Tries again what a full disk refuses. False: it is given up. */
  private async persist(attempt: () => Promise<void>): Promise<boolean> {
    while (!this.stopped) {
      try {
        await attempt();
        return true;
      } catch (thrown) {
        if (!(thrown instanceof BlockferryError)) throw thrown;
        if (thrown.code === 'JOURNAL_UNUSABLE' || thrown.code === 'DATA_DIR_FORMAT_NEWER') {
          this.volume.unusable = heldFor(this.volume, thrown);
        }
        if (thrown.code !== 'METADATA_WRITE_FAILED') return false;
      }
      await this.pause();
    }
    return false;
  }

  private async replay(): Promise<void> {
    const { volume } = this;
    const { metadata, snapshots, layers } = volume;
    const { kept } = metadata.state;
    if (kept === null) return;
    const parts = { volume, disk: this.disk, kept };
    await prove(parts);
    // What the journal brings must be told from what was written since.
    if (layers.top.id === kept.layer) {
      await beginAbove(snapshots, { records: () => [], undo: () => [] });
    }
    await replayAround(parts);
    await snapshots.steps.durable(layers.unsealed());
    metadata.append({ kind: 'journal-released' });
    await released(volume, kept);
    noteWhole(volume);
  }

  /** Resolves after INTAKE_RETRY_MS, or at the stop. */
  private pause(): Promise<void> {
    if (this.stopped) return Promise.resolve();
    return new Promise((resolve) => {
      const timer: Timer = this.clock.after(INTAKE_RETRY_MS, () => this.wake?.());
      this.wake = () => {
        this.wake = null;
        timer.cancel();
        resolve();
      };
    });
  }
}
