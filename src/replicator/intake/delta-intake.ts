/**
 * A delta run as the mirror receives it: into the volume itself, over a snapshot of what it was.
 *
 * Invariants (I3):
 * - While a run is open its base is what is read; the head holds parts of the run, and nobody sees it.
 * - The base is durable before the run is recorded, and the run before the first of its frames is written.
 * - A run becomes visible by one commit, after all of it is durable: it is closed, with its position and history, and the
 *   base is gone.
 * - What is to be a snapshot of the primary is durable under a hidden name before that commit, and gets its own with it (I9).
 * - A run that is given up is recorded as such before the head goes back to the base: it is never resumed after that.
 * - No run and a base: the head goes back to the base before anything else is written, also after a crash.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import type { BlockDevice } from '../../io/device.ts';
import { BlockferryError } from '../../io/errors.ts';
import { INTAKE_RUN_BYTES_MAX } from '../../io/limits.ts';
import type { RunRecord, TimedPosition } from '../../volume/log/metadata-state.ts';
import type { Volume } from '../../volume/volume.ts';
import type { FrameHeader, ReceivedPayload } from '../link/link-types.ts';
import type { ControlMessage, SnapshotTwin } from '../link/messages.ts';
import { Applier, faultInFrame } from './apply.ts';
import { refusal } from './epoch-intake.ts';
import type { PrimarySnapshots } from './primary-snapshots.ts';
import type { ReadGate } from './read-gate.ts';
import { RunTracker } from './run-tracker.ts';

/** The hidden snapshot of what the volume was before the run. */
export const BASE_NAME = '.base';
/** The hidden snapshot of what a run brought, on its way to be a snapshot of the primary. */
const ARRIVED_NAME = '.arrived';

export type RunBegin = Extract<ControlMessage, { kind: 'run-begin' }>;

/** A run on a link. */
interface Receiving {
  /** What its frames carry. */
  readonly number: number;
  readonly run: string;
  readonly tracker: RunTracker;
  /** The first that went wrong; 0: nothing did. */
  status: number;
}

export class DeltaIntake {
  private readonly volume: Volume;
  private readonly twins: PrimarySnapshots;
  private readonly clock: Clock;
  private readonly gate: ReadGate;
  private readonly applier: Applier;
  private receiving: Receiving | null = null;
  private waitingBytes = 0;
  /** What is read instead of the head. */
  private base: BlockDevice | null = null;
  /** The last commit of a run could not be made durable: the state is ahead of the disk. */
  private behind = false;
  private waiting: (() => void)[] = [];
  /** Whoever calls has the gate. */
  gateIsHeld = false;

  constructor(options: { volume: Volume; clock: Clock; gate: ReadGate; twins: PrimarySnapshots }) {
    this.volume = options.volume;
    this.twins = options.twins;
    this.clock = options.clock;
    this.gate = options.gate;
    this.applier = new Applier(options.volume, (callback) => options.clock.soon(callback));
  }

  /** The base of an open run; null: the head is what is read. */
  get shown(): BlockDevice | null {
    return this.base;
  }

  get open(): RunRecord | null {
    return this.volume.metadata.state.run;
  }

  /** A run is being received. */
  get active(): boolean {
    return this.receiving !== null;
  }

  /** Nothing of an earlier run is left to be done. */
  get settled(): boolean {
    return !this.behind && (this.open !== null || !this.hasBase);
  }

  private get hasBase(): boolean {
    return this.volume.snapshots.hidden.includes(BASE_NAME);
  }

  /** Shows what there is to read: called once, before the first read. */
  start(): void {
    this.base = this.volume.snapshots.device(BASE_NAME);
  }

  /** Ends what an earlier run, or process, left. Throws VOLUME_FAILED, METADATA_WRITE_FAILED: it is to be called again. */
  async settle(): Promise<void> {
    if (this.behind) await this.commit();
    if (this.open === null) await this.discardArrived();
    if (this.open !== null || !this.hasBase) return;
    const { snapshots } = this.volume;
    await this.applier.idle();
    // That the run is over is durable, or nobody would restore its base.
    await this.commit();
    await snapshots.restoreHidden(BASE_NAME);
    await this.show(null);
    await snapshots.discard(BASE_NAME);
  }

  /** What is read from now on: the head, or the base. No read is under way between the two. */
  private async show(base: BlockDevice | null): Promise<void> {
    if (!this.gateIsHeld) await this.gate.enter();
    this.base = base;
    if (!this.gateIsHeld) this.gate.leave();
  }

  /**
   * Opens a run, or goes on with it; everything of a stream is applied and recorded. Answers where it goes on. Throws
   * VOLUME_FAILED, METADATA_WRITE_FAILED.
   */
  async begin(message: RunBegin): Promise<number> {
    const { open } = this;
    await this.leaveLink();
    if (open !== null && isSameRun(open, message)) return await this.resume(message, open);
    if (open !== null) await this.giveUp(open.run);
    await this.settle();
    await this.openRun(message);
    await this.clearIfFull(message);
    this.follow(message);
    return 0;
  }

  private async resume(message: RunBegin, open: RunRecord): Promise<number> {
    // Its record may still wait for space.
    await this.commit();
    // Nothing of it is known to be durable, the zeroes neither.
    if (open.cursor === 0) await this.clearIfFull(message);
    this.follow(message);
    return open.cursor;
  }

  private async openRun(message: RunBegin): Promise<void> {
    const { metadata, snapshots } = this.volume;
    const { id } = await snapshots.freeze(BASE_NAME, () => {});
    const { run, generation, epoch, time, generations, full } = message;
    metadata.append({
      kind: 'run-opened',
      run,
      generation,
      epoch,
      time,
      generations,
      base: id,
      full,
    });
    // The reads of the head end before the first frame is written to it.
    await this.show(snapshots.device(BASE_NAME));
    await this.commit();
  }

  private async clearIfFull({ full }: RunBegin): Promise<void> {
    if (!full) return;
    const status = await this.applier.clear(this.volume.sizeBytes);
    if (status !== Status.OK) throw this.refused(status);
  }

  private follow({ number, run }: RunBegin): void {
    this.receiving = { number, run, tracker: new RunTracker(), status: Status.OK };
  }

  /** A frame of a run. Throws LINK_PROTOCOL. The payload is released when it is written, or was dropped. */
  frame(header: FrameHeader, payload: ReceivedPayload | null): void {
    const { receiving } = this;
    // Late: it was sent on another lane before the run that it is of was given up.
    if (receiving === null || header.epoch < receiving.number) {
      payload?.release();
      return;
    }
    try {
      if (payload === null || header.epoch > receiving.number) throw wrong('a frame of no run');
      const fault = faultInFrame(header.kind, payload, this.volume.sizeBytes);
      if (fault !== null) throw wrong(fault);
      if (this.waitingBytes + payload.length > INTAKE_RUN_BYTES_MAX) {
        throw wrong(`more than ${INTAKE_RUN_BYTES_MAX} bytes that are not written yet`);
      }
      receiving.tracker.came(header.index);
    } catch (thrown) {
      payload?.release();
      throw thrown;
    }
    this.write(receiving, header, payload);
  }

  private write(
    receiving: Receiving,
    { kind, index }: FrameHeader,
    payload: ReceivedPayload,
  ): void {
    const { length } = payload;
    this.waitingBytes += length;
    this.applier.apply(kind, payload, (status) => {
      this.waitingBytes -= length;
      if (receiving.status === Status.OK) receiving.status = status;
      receiving.tracker.ended(index);
      payload.release();
      this.wake();
    });
  }

  /** Makes everything below `frames` durable and records `cursor`. False: the link went meanwhile. Throws as `begin`. */
  async mark(run: string, cursor: number, frames: number): Promise<boolean> {
    const receiving = this.receivingOf(run);
    if (cursor > this.volume.sizeBytes || cursor < (this.open?.cursor ?? 0)) {
      throw wrong(`a mark at ${cursor}`);
    }
    if (!(await this.have(receiving, frames))) return false;
    await this.flush();
    if (this.receiving !== receiving) return false;
    this.volume.metadata.append({ kind: 'run-marked', run, cursor });
    await this.commit();
    return true;
  }

  /**
   * Makes the run, of `frames` frames, what the volume is, and keeps it as that snapshot of the primary. Null: the link went
   * meanwhile; `refused`: why that snapshot is not there. Throws as `begin`.
   */
  async finish(
    run: string,
    frames: number,
    twin: SnapshotTwin | null,
  ): Promise<{ refused: string | null } | null> {
    const receiving = this.receivingOf(run);
    if (receiving.tracker.frames > frames) throw wrong(`a run of ${frames} frames has more`);
    if (!(await this.have(receiving, frames))) return null;
    await this.flush();
    if (this.receiving !== receiving) return null;
    const { metadata, snapshots } = this.volume;
    await this.discardArrived();
    if (twin !== null) await snapshots.freeze(ARRIVED_NAME, () => {});
    if (this.receiving !== receiving) return null;
    this.receiving = null;
    let refused: string | null = null;
    await this.volume.exclusive(async () => {
      const base = snapshots.find(BASE_NAME);
      assert(base, 'an open run has its base');
      await this.show(null);
      this.behind = true;
      metadata.append({ kind: 'run-closed', run, committed: true });
      const { position } = metadata.state;
      assert(position, 'a run that was committed has brought one');
      if (twin !== null) refused = this.name(twin, position);
      // One commit with it. When there is no space for that, nothing is taken back: it is asked for again.
      await snapshots.steps.giveUp(base.id);
    });
    await this.commit();
    return { refused };
  }

  private name(twin: SnapshotTwin, position: TimedPosition): string | null {
    const { snapshots, metadata } = this.volume;
    const arrived = snapshots.find(ARRIVED_NAME);
    assert(arrived, 'it was kept before');
    const refused = this.twins.show(ARRIVED_NAME, twin, position);
    metadata.append({ kind: 'snapshot-removed', id: arrived.id });
    return refused;
  }

  /** What a run left whose end was not recorded. */
  private async discardArrived(): Promise<void> {
    const { snapshots } = this.volume;
    if (snapshots.hidden.includes(ARRIVED_NAME)) await snapshots.discard(ARRIVED_NAME);
  }

  /** The volume is again what it was before the run. Throws as `begin`. */
  async abort(run: string): Promise<void> {
    this.receivingOf(run);
    await this.leaveLink();
    await this.giveUp(run);
    await this.settle();
  }

  /** There will be no link: the volume is again what it was before an open run. Throws as `begin`. */
  async abandon(): Promise<void> {
    await this.leaveLink();
    if (this.open !== null) await this.giveUp(this.open.run);
    await this.settle();
  }

  /** The link is gone: the run stays open. Resolves when nothing of it is on its way. */
  async leaveLink(): Promise<void> {
    this.receiving = null;
    this.wake();
    await this.applier.idle();
  }

  private async giveUp(run: string): Promise<void> {
    this.volume.metadata.append({ kind: 'run-closed', run, committed: false });
    await this.commit();
  }

  private receivingOf(run: string): Receiving {
    if (this.receiving?.run === run) return this.receiving;
    throw wrong(`a word about the run ${run}, which is not under way`);
  }

  /** Whether all frames below `frames` are written; false when the link went. Throws what the disk refused. */
  private async have(receiving: Receiving, frames: number): Promise<boolean> {
    for (;;) {
      if (this.receiving !== receiving) return false;
      if (receiving.status !== Status.OK) throw this.refused(receiving.status);
      if (receiving.tracker.has(frames)) return true;
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
  }

  private wake(): void {
    if (this.waiting.length === 0) return;
    const waiting = this.waiting.splice(0);
    this.clock.soon(() => {
      for (const resolve of waiting) resolve();
    });
  }

  private async flush(): Promise<void> {
    const status = await this.volume.flushed();
    if (status !== Status.OK) throw this.refused(status);
  }

  private async commit(): Promise<void> {
    this.behind = true;
    const status = await this.volume.commit();
    if (status !== Status.OK) throw this.refused(status);
    this.behind = false;
  }

  private refused(status: number): Error {
    try {
      this.volume.refuseIfFailed();
    } catch (thrown) {
      return thrown as Error;
    }
    return refusal(this.volume.name, status);
  }
}

function isSameRun(open: RunRecord, message: RunBegin): boolean {
  return (
    open.run === message.run &&
    open.generation === message.generation &&
    open.epoch === message.epoch &&
    open.full === message.full
  );
}

function wrong(why: string): BlockferryError {
  return new BlockferryError('LINK_PROTOCOL', `the primary sent what no delta run has: ${why}`);
}
