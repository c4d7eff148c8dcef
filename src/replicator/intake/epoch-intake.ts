/**
 * The way of a whole epoch on a mirror: into the journal, acknowledged, into the volume, for good.
 *
 * Invariants (I3):
 * - Epochs are made durable and applied in their order. One is applied when the journal has it durably.
 * - The content moves from the end of one epoch to the end of a later one while no read is under way; one that the disk took
 *   only in part is shown whole from memory, and is applied again until it is whole there too.
 * - The position is recorded after a flush that covers everything up to it; then the journal may forget.
 * - Memory: what is not durable is bounded by the assembly, what is and is not applied by INTAKE_BACKLOG_BYTES_MAX.
 */
import type { Clock, Timer } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import type { Disk } from '../../io/disk.ts';
import { BlockferryError } from '../../io/errors.ts';
import {
  INTAKE_BACKLOG_BYTES_MAX,
  INTAKE_PHASE_BYTES_MAX,
  INTAKE_RETRY_MS,
  JOURNAL_IDLE_MS,
} from '../../io/limits.ts';
import type { Random } from '../../io/random.ts';
import { isBefore } from '../../volume/log/metadata-copy.ts';
import type { TimedPosition } from '../../volume/log/metadata-state.ts';
import type { Volume } from '../../volume/volume.ts';
import { FrameKind } from '../link/link-types.ts';
import { decodeCommand } from '../link/messages.ts';
import type { StreamCommand } from '../link/messages.ts';
import { Applier, faultInFrame } from './apply.ts';
import type { CompleteEpoch } from './epoch-assembly.ts';
import { EpochPatch } from './epoch-patch.ts';
import { Journal } from './journal.ts';
import type { JournalOwner } from './journal.ts';
import type { ReadGate } from './read-gate.ts';
import { isSpaceError } from './space-error.ts';
import type { PrimarySnapshots } from './primary-snapshots.ts';
import type { Twins } from './twins.ts';

export interface IntakeHooks {
  /** `received`, `durable` or `applied` changed. */
  progressed(): void;
  commandDone(epoch: number, error: string | null): void;
  /** It cannot go on, now or for good: the link ends. */
  troubled(error: BlockferryError): void;
}

export interface EpochIntakeOptions {
  readonly volume: Volume;
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  readonly gate: ReadGate;
  readonly twins: Twins;
  readonly snapshots: PrimarySnapshots;
  readonly hooks: IntakeHooks;
  /** See `Journal`. */
  readonly journalFileBytes?: number;
}

export class EpochIntake implements JournalOwner {
  /** All up to these epochs arrived, is durable, is readable. */
  received = 0;
  durable: TimedPosition | null = null;
  applied: TimedPosition | null = null;
  /** Why it cannot go on; null: it can. */
  trouble: BlockferryError | null = null;

  private readonly volume: Volume;
  private readonly clock: Clock;
  private readonly gate: ReadGate;
  private readonly twins: Twins;
  private readonly snapshots: PrimarySnapshots;
  private readonly hooks: IntakeHooks;
  private readonly journal: Journal;
  private readonly applier: Applier;
  /** Whole, and not given to the journal; then durable, and not applied. */
  private accepted: CompleteEpoch[] = [];
  private toApply: CompleteEpoch[] = [];
  private feeding = false;
  /** Bytes given to the journal and not applied. */
  private backlogBytes = 0;
  /** Recorded durably; 0: nothing. */
  private recordedEpoch = 0;
  private applying: Promise<void> | null = null;
  /** A command is not done: the epoch before it is the last that may be recorded, or a crash would lose the command. */
  private beforeCommand: { readonly position: TimedPosition | null } | null = null;
  private checkpointing: Promise<number> | null = null;
  /** The volume takes writes: its position is recorded no more. */
  private gone = false;
  private idleTimer: Timer | null = null;
  private wake: (() => void) | null = null;
  private closing = false;

  constructor(options: EpochIntakeOptions) {
    this.volume = options.volume;
    this.clock = options.clock;
    this.gate = options.gate;
    this.twins = options.twins;
    this.snapshots = options.snapshots;
    this.hooks = options.hooks;
    this.applier = new Applier(options.volume, (callback) => options.clock.soon(callback));
    const { disk, clock, random, volume, journalFileBytes } = options;
    this.journal = new Journal({
      disk,
      clock,
      random,
      directory: volume.directory,
      volumeId: volume.id,
      owner: this,
      ...(journalFileBytes === undefined ? {} : { fileBytes: journalFileBytes }),
    });
  }

  /** Bytes of the journal that a restart would apply. */
  get journalBytes(): number {
    return this.journal.bytes;
  }

  /** Every epoch that came is durable, or given up: the position stays where it is. */
  get settled(): boolean {
    return this.accepted.length === 0 && this.journal.idle;
  }

  /**
   * Takes up what the last process left; the gate is held. Throws JOURNAL_UNUSABLE, DATA_DIR_FORMAT_NEWER, VOLUME_FAILED
   * or SHUTTING_DOWN.
   */
  async start(): Promise<void> {
    const { position, run } = this.volume.metadata.state;
    this.rebase(position);
    this.journal.open();
    if (position === null || run !== null) return;
    for await (const epoch of this.journal.replay(position.epoch)) await this.replayed(epoch);
    await this.persist(() => this.checkpoint());
  }

  private async replayed(epoch: CompleteEpoch): Promise<void> {
    const { sizeBytes } = this.volume;
    for (const { kind, payload } of epoch.frames) {
      const fault = faultInFrame(kind, payload, sizeBytes);
      if (fault === null) continue;
      const what = `epoch ${epoch.epoch} of the journal of ${this.volume.name} holds ${fault}`;
      throw new BlockferryError('JOURNAL_UNUSABLE', what);
    }
    await this.persist(() => this.applyOne(epoch));
    const command = commandOf(epoch);
    if (command !== null) {
      const outcome = await this.run({ command, position: positionOf(epoch) });
      if (outcome === null) throw new BlockferryError('SHUTTING_DOWN', 'the node is stopping');
    }
    this.durable = positionOf(epoch);
    this.applied = this.durable;
    this.received = epoch.epoch;
  }

  /** Tries again and again what a full disk refuses. Throws VOLUME_FAILED, SHUTTING_DOWN. */
  async persist(attempt: () => Promise<number>): Promise<void> {
    for (;;) {
      if (this.closing) throw new BlockferryError('SHUTTING_DOWN', 'the node is stopping');
      const status = await attempt();
      if (status === Status.OK) break;
      this.volume.refuseIfFailed();
      this.trouble = refusal(this.volume.name, status);
      await this.pause();
    }
    this.trouble = null;
  }

  /** What is held from now on: nothing of a stream is on its way. */
  rebase(position: TimedPosition | null): void {
    this.durable = position;
    this.applied = position;
    this.received = position?.epoch ?? 0;
    this.recordedEpoch = this.received;
  }

  /** Takes the next epoch of the stream, with its payloads. */
  accept(epoch: CompleteEpoch): void {
    if (this.trouble !== null || this.closing) {
      release(epoch);
      return;
    }
    this.received = epoch.epoch;
    this.accepted.push(epoch);
    this.feedSoon();
  }

  /** `paced`: only what `hurry` names is waited for; the journal may make several epochs durable with one sync. */
  pace(paced: boolean): void {
    this.journal.pace(paced);
  }

  /** Somebody waits until all up to this epoch is durable. */
  hurry(epoch: number): void {
    this.journal.hurry(epoch);
  }

  /** Everything that came is durable in the journal, and applied; 0 or an errno, also when it is left for the next process. */
  async drain(): Promise<number> {
    this.hurry(this.received);
    while (!this.settled || this.applying !== null || this.toApply.length > 0) {
      if (this.trouble !== null || this.closing) return Status.EIO;
      await this.somethingEnds();
    }
    return Status.OK;
  }

  /** The volume is no mirror any more, and its journal stays as it is. */
  letGo(): void {
    this.gone = true;
  }

  /** The log had no space for that: it is a mirror as before. */
  takeBack(): void {
    this.gone = false;
  }

  /** Everything that came is applied and recorded, and the journal is empty; 0 or an errno. */
  async finish(): Promise<number> {
    const drained = await this.drain();
    if (drained !== Status.OK) return drained;
    const status = await this.checkpoint();
    return status === Status.OK ? await this.journal.forget() : status;
  }

  /** Makes what is applied part of the volume for good, so that no replay begins before it; 0 or an errno. */
  async checkpoint(): Promise<number> {
    // One that is under way may have begun too early.
    while (this.checkpointing !== null) await this.checkpointing;
    this.checkpointing = this.record();
    const status = await this.checkpointing;
    this.checkpointing = null;
    return status;
  }

  private async record(): Promise<number> {
    const { volume } = this;
    const applied = this.beforeCommand === null ? this.applied : this.beforeCommand.position;
    if (this.gone || applied === null || applied.epoch === this.recordedEpoch) return Status.OK;
    let status = await volume.flushed();
    if (this.gone || status !== Status.OK) return status;
    // A snapshot of the primary that was taken meanwhile has recorded a later one.
    if (!isBefore(applied, volume.metadata.state.position)) {
      volume.metadata.append({ kind: 'position', ...applied });
    }
    status = await volume.commit();
    if (status !== Status.OK) return status;
    this.recordedEpoch = applied.epoch;
    this.journal.settled(applied.epoch);
    return status;
  }

  /** Nothing is begun any more; what waits for a disk gives up. */
  stop(): void {
    this.closing = true;
    this.idleTimer?.cancel();
    this.wake?.();
    this.ended();
  }

  /** Lets end what is on its way. What is durable and not applied is applied after the next start. */
  async close(): Promise<void> {
    this.stop();
    for (const epoch of this.accepted.splice(0)) release(epoch);
    await this.journal.close();
    await this.applying;
    await this.showNoPart();
    for (const epoch of this.toApply.splice(0)) release(epoch);
    // One that is under way when it is gone has nothing more to say: nobody waits for its sync.
    if (!this.gone && !this.volume.failed && this.gate.torn === null) await this.checkpoint();
  }

  /** What was applied in part is shown no more: its payloads go. */
  private async showNoPart(): Promise<void> {
    if (this.gate.patch === null) return;
    await this.gate.enter();
    this.gate.patch = null;
    this.gate.torn = 'an epoch is applied in part, and the node is stopping';
    this.gate.leave();
  }

  // ---- the journal

  /** At the end of the turn: what comes together is written together. */
  private feedSoon(): void {
    if (this.feeding) return;
    this.feeding = true;
    this.clock.soon(() => {
      this.feeding = false;
      if (!this.closing) this.feed();
    });
  }

  private feed(): void {
    while (this.trouble === null && this.backlogBytes < INTAKE_BACKLOG_BYTES_MAX) {
      const epoch = this.accepted.shift();
      if (epoch === undefined) return;
      this.backlogBytes += epoch.bytes;
      this.journal.append(epoch);
    }
  }

  // --- JournalOwner ---

  journaled(epoch: CompleteEpoch): void {
    this.durable = positionOf(epoch);
    // One behind it may have been refused while it waited for its sync.
    this.received = Math.max(this.received, epoch.epoch);
    this.toApply.push(epoch);
    this.hooks.progressed();
    this.applySoon();
  }

  refused(epochs: readonly CompleteEpoch[], errno: number): void {
    for (const epoch of [...epochs, ...this.accepted.splice(0)]) release(epoch);
    for (const { bytes } of epochs) this.backlogBytes -= bytes;
    this.received = this.durable?.epoch ?? 0;
    this.ended();
    if (errno !== 0 && !this.closing) this.hooks.troubled(refusal(this.volume.name, errno));
  }

  failed(reason: string): void {
    // A failed sync is final for all that the volume is (I10).
    this.volume.giveUp(reason);
    this.giveUp(new BlockferryError('VOLUME_FAILED', `${this.volume.name} failed: ${reason}`));
  }

  // ---- the volume

  private applySoon(): void {
    if (this.applying !== null || this.toApply.length === 0 || this.closing) return;
    this.applying = this.applyAll().finally(() => {
      this.applying = null;
      this.ended();
      if (this.trouble === null) this.applySoon();
    });
  }

  private async applyAll(): Promise<void> {
    while (this.toApply.length > 0 && !this.closing) {
      const { status, ordered } = await this.phase();
      this.hooks.progressed();
      if (ordered !== null) {
        const outcome = await this.run(ordered);
        if (outcome === null) return;
        this.beforeCommand = null;
        this.hooks.commandDone(ordered.position.epoch, outcome.error);
      }
      if (status !== Status.OK && !(await this.wait(status))) return;
      this.feed();
      if (this.journal.reclaimable > 0) this.checkpointSoon();
    }
    this.idleLater();
  }

  /** Applies some epochs while no read is under way. */
  private async phase(): Promise<{ status: number; ordered: Ordered | null }> {
    await this.gate.enter();
    let status: number = Status.OK;
    let ordered: Ordered | null = null;
    for (let bytes = 0; bytes < INTAKE_PHASE_BYTES_MAX && ordered === null;) {
      const [epoch] = this.toApply;
      if (epoch === undefined) break;
      status = await this.applyOne(epoch);
      if (status !== Status.OK) break;
      this.toApply.shift();
      this.backlogBytes -= epoch.bytes;
      bytes += epoch.bytes;
      const command = commandOf(epoch);
      const position = positionOf(epoch);
      if (command !== null) {
        ordered = { command, position };
        this.beforeCommand = { position: this.applied };
      }
      this.applied = position;
      release(epoch);
    }
    this.show(status);
    this.gate.leave();
    return { status, ordered };
  }

  /** What an epoch asks for behind its writes; why it cannot be done, if so. Null: it was not done, and this process ends. */
  private async run({ command, position }: Ordered): Promise<{ error: string | null } | null> {
    if (command.kind === 'freeze' || command.kind === 'thaw') {
      return { error: await this.twins.run(command, position.epoch) };
    }
    for (;;) {
      try {
        const error = await this.snapshots.run(command, position);
        if (error !== null) await this.pin(position);
        return { error };
      } catch (thrown) {
        if (!(thrown instanceof BlockferryError)) throw thrown;
        // What follows waits for it: there is no other moment at which it can be taken.
        if (this.closing || !(await this.wait(Status.ENOSPC))) return null;
      }
    }
  }

  /**
   * No replay begins before this position any more: it would run a command again that was refused, and is no longer, over what came
   * later. Throws METADATA_WRITE_FAILED.
   */
  private async pin(position: TimedPosition): Promise<void> {
    const { volume } = this;
    let status = await volume.flushed();
    if (status === Status.OK && !isBefore(position, volume.metadata.state.position)) {
      volume.metadata.append({ kind: 'position', ...position });
      status = await volume.commit();
    }
    if (status !== Status.OK) throw refusal(volume.name, status);
  }

  /** What readers see from now on; `status` is that of the first epoch in `toApply`, if it is not 0. */
  private show(status: number): void {
    const { gate, volume } = this;
    const [part] = this.toApply;
    const halfWay = status !== Status.OK && part !== undefined;
    gate.patch = halfWay && !volume.failed ? new EpochPatch(part.frames) : null;
    gate.torn = halfWay && volume.failed ? `an epoch was not applied: errno ${status}` : null;
  }

  /** All changes of an epoch, in their order; 0 or an errno. */
  private async applyOne(epoch: CompleteEpoch): Promise<number> {
    let status: number = Status.OK;
    const ended = (result: number): void => {
      if (status === Status.OK) status = result;
    };
    for (const { kind, payload } of epoch.frames) {
      if (kind === FrameKind.COMMAND) continue;
      this.applier.apply(kind, payload, ended);
      if (this.applier.inFlight > 0) await this.applier.room();
    }
    if (this.applier.inFlight > 0) await this.applier.idle();
    return status;
  }

  /** The disk refused an epoch: it is tried again after a while. False: never. */
  private async wait(status: number): Promise<boolean> {
    const { volume } = this;
    if (volume.failed) {
      const why = `${volume.name} failed: ${volume.failure ?? ''}`;
      this.giveUp(new BlockferryError('VOLUME_FAILED', why));
      return false;
    }
    this.trouble = refusal(volume.name, status);
    this.hooks.troubled(this.trouble);
    // Whoever waits for all to be applied is told that it will not be, for now.
    this.ended();
    await this.pause();
    this.trouble = null;
    return !this.closing;
  }

  private giveUp(error: BlockferryError): void {
    if (this.trouble?.code === error.code) return;
    this.trouble = error;
    for (const epoch of this.accepted.splice(0)) release(epoch);
    this.ended();
    this.hooks.troubled(error);
  }

  // ---- time

  /** Resolves after INTAKE_RETRY_MS, or at the stop. */
  pause(): Promise<void> {
    if (this.closing) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = this.clock.after(INTAKE_RETRY_MS, () => this.wake?.());
      this.wake = () => {
        this.wake = null;
        timer.cancel();
        resolve();
      };
    });
  }

  private checkpointSoon(): void {
    if (this.checkpointing === null) void this.checkpointOrLater();
  }

  private async checkpointOrLater(): Promise<void> {
    const status = await this.checkpoint();
    if (status !== Status.OK && !this.volume.failed) this.idleLater();
  }

  /** Nothing came for a while: a start has nothing to apply then. */
  private idleLater(): void {
    if (this.idleTimer !== null || this.closing) return;
    const seen = this.applied?.epoch;
    this.idleTimer = this.clock.after(JOURNAL_IDLE_MS, () => {
      this.idleTimer = null;
      if (this.applied?.epoch !== seen) this.idleLater();
      else this.checkpointSoon();
    });
  }

  private endWaiters: (() => void)[] = [];

  private somethingEnds(): Promise<void> {
    return new Promise((resolve) => this.endWaiters.push(resolve));
  }

  private ended(): void {
    for (const resolve of this.endWaiters.splice(0)) resolve();
  }
}

/** A command, and the end of the epoch behind whose writes it runs. */
interface Ordered {
  readonly command: StreamCommand;
  readonly position: TimedPosition;
}

function release({ frames }: CompleteEpoch): void {
  for (const { payload } of frames) payload.release();
}

function positionOf({ generation, epoch, time }: CompleteEpoch): TimedPosition {
  return { generation, epoch, time };
}

/** The assembly lets a command be the last frame only, and the session lets none pass that cannot be read. */
function commandOf({ frames }: CompleteEpoch): StreamCommand | null {
  const last = frames.at(-1);
  if (last?.kind !== FrameKind.COMMAND) return null;
  return decodeCommand(last.payload.buffer.subarray(0, last.payload.length));
}

export function refusal(volume: string, errno: number): BlockferryError {
  const why = isSpaceError(errno) ? 'its disk is full' : `its disk answered errno ${errno}`;
  return new BlockferryError('METADATA_WRITE_FAILED', `the mirror ${volume} cannot go on: ${why}`);
}
