/**
 * Brings another node what its mirror lacks: delta runs one after another, each of the content of one moment, until so
 * little is left that host writes are staged from such a moment on.
 *
 * Invariants:
 * - The moment of a run is the end of an epoch: what was applied before is in the frozen content, and what comes after is
 *   marked, or staged behind it. Both begin in one turn.
 * - A mirror that does not follow gets one run, and has the content of its moment.
 * - Marks are let go of when the mirror committed the run. A run that comes to nothing leaves them all.
 * - Snapshots that the mirror lacks come first, each by a run of its own; no run of the present content passes one by, nor one that
 *   went meanwhile.
 * - The content is frozen as long as the mirror may have part of the run, so that the run can go on after a loss of the link
 *   or of this process.
 */
import { randomId } from '../random-id.ts';
import { BlockferryError } from '../../io/errors.ts';
import { Status } from '../../io/device.ts';
import type { MirrorRunRecord } from '../../volume/log/metadata-state.ts';
import type { RunHooks, Transfer } from './contact.ts';
import { RunAborted, RunFailed } from '../runs/delta-run.ts';
import { frozenSource, type FrozenSource } from '../runs/frozen-source.ts';
import type { FrameHeader, ReceivedPayload } from '../link/link-types.ts';
import type { ControlMessage, SnapshotTwin } from '../link/messages.ts';
import type { PeerContact, PeerTalk } from './peer-contact.ts';
import { PeerRun, type RunBlocks } from '../runs/peer-run.ts';
import { afterRound, CONVERGING, isFinalSweep } from '../policy/policy.ts';
import { resumeBlocks } from '../runs/run-resume.ts';
import {
  blocksOfSnapshot,
  marksBehindSnapshot,
  SnapshotRounds,
  type MarkedSnapshot,
} from './snapshot-rounds.ts';

/** Between rounds that do not shrink what is left. */
const STUCK_PAUSE_MS = 1000;

/** Name of the hidden snapshot that delta runs to a mirror are read from. */
export function ferrySnapshotName(mirrorId: number): string {
  return `.ferry-${mirrorId}`;
}

/** Content of one moment, on its way to the mirror. */
interface Round {
  readonly record: MirrorRunRecord;
  /** The mirror has a part of it. */
  readonly resumed: boolean;
  /** It is the content of a snapshot, and what of it the mirror lacks; null: of the moment at which it was begun. */
  readonly snapshot: { readonly of: MarkedSnapshot; readonly blocks: RunBlocks } | null;
}

export class PeerTransfer implements Transfer, PeerTalk {
  private aborted = false;
  private current: PeerRun | null = null;
  /** Of the runs before the present one. */
  private sent = 0;
  private compared = 0;
  /** Only the first run of a link can be one that another began. */
  private resumable = true;
  private readonly contact: PeerContact;
  private readonly hooks: RunHooks;
  private readonly snapshots: SnapshotRounds;

  constructor(contact: PeerContact, hooks: RunHooks) {
    this.contact = contact;
    this.hooks = hooks;
    this.snapshots = new SnapshotRounds(contact);
  }

  get bytesSent(): number {
    return this.sent + (this.current?.bytesSent ?? 0);
  }

  get bytesCompared(): number {
    return this.compared + (this.current?.bytesCompared ?? 0);
  }

  abort(): void {
    this.aborted = true;
    this.snapshots.abort();
    this.current?.abort();
  }

  async run(): Promise<void> {
    let convergence = CONVERGING;
    this.check();
    await this.snapshots.ask();
    for (;;) {
      // Each time what went while it was told: another may have its name by now.
      while (this.snapshots.isStale) await this.snapshots.ask();
      const bytesBefore = this.lackingBytes;
      const round = await this.nextRound();
      this.check();
      if (round === null) continue;
      await this.ship(round);
      if (round.snapshot !== null) continue;
      if (this.hooks.isStaging() || !this.hooks.follows()) return;
      const bytesAfter = this.lackingBytes;
      convergence = afterRound(convergence, { bytesBefore, bytesAfter });
      this.hooks.stuck(convergence.notConverging);
      if (convergence.notConverging) await this.hooks.pause(STUCK_PAUSE_MS);
      this.check();
    }
  }

  control(message: ControlMessage): void {
    this.current?.control(message);
  }

  frame(header: FrameHeader, payload: ReceivedPayload | null): void {
    if (this.current === null) payload?.release();
    else this.current.frame(header, payload);
  }

  drained(): void {
    this.current?.drained();
  }

  lost(): void {
    this.current?.abort();
  }

  private get lackingBytes(): number {
    const { blocks } = this.contact;
    return blocks.dirtyBytes + blocks.suspectBytes;
  }

  private get snapshotName(): string {
    return ferrySnapshotName(this.contact.mirrorId);
  }

  /** Null: it has to be looked for again. */
  private async nextRound(): Promise<Round | null> {
    const resumed = this.resumable ? this.resume() : null;
    this.resumable = false;
    if (resumed !== null) return resumed;
    const snapshot = this.snapshots.next();
    return snapshot === null ? this.begin() : this.beginSnapshot(snapshot);
  }

  /** The run that an earlier link, or an earlier process, left half done; null when there is none that both sides know. */
  private resume(): Round | null {
    const { blocks, host, mirrorId, welcome } = this.contact;
    const { snapshots, metadata } = host.volume;
    const record = metadata.state.mirrors.get(mirrorId)?.run ?? null;
    if (record === null || record.run !== welcome.run?.id) return null;
    if (metadata.state.snapshots.get(record.snapshot)?.name !== this.snapshotName) return null;
    const changed = snapshots.changed(this.snapshotName, null);
    const of = this.snapshots.at(record);
    if (of !== null) {
      return { record, resumed: true, snapshot: { of, blocks: blocksOfSnapshot(blocks, changed) } };
    }
    resumeBlocks(blocks, changed);
    return { record, resumed: true, snapshot: null };
  }

  /** Holds on to the content of a snapshot, which may be deleted meanwhile. Null: it is gone. */
  private async beginSnapshot(of: MarkedSnapshot): Promise<Round | null> {
    const { host, blocks } = this.contact;
    const { snapshots } = host.volume;
    try {
      if (snapshots.hidden.includes(this.snapshotName)) await this.forget();
      this.check();
      const { id: snapshot } = await snapshots.shadow(of.id, this.snapshotName);
      this.check();
      const { generation, epoch } = of.mark;
      const record = this.record({ snapshot, generation, epoch, time: of.createdAt });
      const changed = snapshots.changed(this.snapshotName, null);
      return {
        record,
        resumed: false,
        snapshot: { of, blocks: blocksOfSnapshot(blocks, changed) },
      };
    } catch (thrown) {
      if (thrown instanceof BlockferryError && thrown.code === 'SNAPSHOT_NOT_FOUND') return null;
      throw asLocalFailure(thrown);
    }
  }

  private record(position: Omit<MirrorRunRecord, 'run'>): MirrorRunRecord {
    const { host, mirrorId } = this.contact;
    const record = { run: randomId(host.surroundings.random), ...position };
    host.volume.metadata.append({ kind: 'mirror-run', mirror: mirrorId, ...record });
    return record;
  }

  /** Freezes the present content, and notes what of it the mirror lacks. Null: a snapshot was taken or deleted before. */
  private async begin(): Promise<Round | null> {
    const { host, blocks } = this.contact;
    const { volume, queue } = host;
    let epoch = 0;
    try {
      if (volume.snapshots.hidden.includes(this.snapshotName)) await this.forget();
      this.check();
      const frozen = await volume.snapshots.freeze(this.snapshotName, () => {
        // Whoever stopped the run has put its marks back already.
        if (this.aborted || this.snapshots.next() !== null || this.snapshots.isStale) return;
        if (this.hooks.follows() && isFinalSweep(this.lackingBytes)) this.hooks.beginStaging();
        else queue.seal();
        epoch = queue.openNumber - 1;
        blocks.beginRun();
      });
      this.check();
      if (epoch === 0) return null;
      const { generation } = volume.metadata.state;
      const { createdAt: time, id: snapshot } = frozen;
      const record = this.record({ snapshot, generation, epoch, time });
      return { record, resumed: false, snapshot: null };
    } catch (thrown) {
      throw asLocalFailure(thrown);
    }
  }

  private async ship({ record, resumed, snapshot }: Round): Promise<void> {
    const { contact } = this;
    const { host, link, blocks, full } = contact;
    const { run, generation, epoch, time } = record;
    // A mirror that holds a state of an older generation has no newer one in its history.
    const generations = host.volume.metadata.state.generations.filter(
      (each) => each.number <= generation,
    );
    const number = contact.nextRun();
    const { comparesGroups: groups } = contact;
    const current = new PeerRun({
      link,
      clock: host.surroundings.clock,
      source: this.source(),
      blocks: snapshot?.blocks ?? blocks,
      examiner: host.examiner,
      limiter: contact.limit,
      run: { number, run, generation, epoch, time, generations, full, resumed, groups },
      snapshot: snapshot === null ? null : twinOf(snapshot.of),
      hooks: { compared: () => this.recordMarks(), durable: () => {} },
    });
    this.current = current;
    contact.converse(this);
    try {
      await current.run();
    } finally {
      contact.silence(this);
      this.sent += current.bytesSent;
      this.compared += current.bytesCompared;
      this.current = null;
    }
    this.check();
    contact.full = false;
    if (snapshot !== null) this.tell(snapshot.of, current.refused);
    await this.committed(record, snapshot !== null);
  }

  private tell({ id, name }: MarkedSnapshot, refused: string | null): void {
    const { host, note } = this.contact;
    if (refused === null) this.snapshots.brought(id);
    const what = `${host.volume.name}@${name}`;
    if (refused === null) note('mirror-snapshot-sent', `${what} is on the mirror`);
    else note('mirror-snapshot-refused', `${what} is not there: ${refused}`);
  }

  /** The mirror holds that moment now. */
  private async committed(
    { generation, epoch }: MirrorRunRecord,
    isSnapshot: boolean,
  ): Promise<void> {
    const { contact } = this;
    const { blocks, host } = contact;
    blocks.acknowledge({ generation, epoch });
    if (isSnapshot) {
      marksBehindSnapshot(blocks, host.volume.snapshots.changed(this.snapshotName, null));
      blocks.recordAll();
    } else {
      blocks.settleInFlight();
    }
    this.snapshots.committed(epoch);
    contact.arrived(epoch);
    try {
      await this.forget();
    } catch (thrown) {
      throw asLocalFailure(thrown);
    }
    await contact.rejoined();
  }

  private forget(): Promise<void> {
    const { host, mirrorId } = this.contact;
    return host.volume.snapshots.discard(this.snapshotName, [
      { kind: 'mirror-run-over', mirror: mirrorId },
    ]);
  }

  private source(): FrozenSource {
    const device = this.contact.host.volume.snapshots.device(this.snapshotName);
    if (device === null)
      throw new RunFailed('its snapshot is gone', { errno: Status.EIO, local: true });
    return frozenSource(device);
  }

  /** What is marked is recorded before the mirror gets a part of it: else a run that goes on later would lack it. */
  private async recordMarks(): Promise<void> {
    this.hooks.compared();
    const { blocks, host } = this.contact;
    const { metadata } = host.volume;
    blocks.recordAll();
    const status = await new Promise<number>((resolve) => metadata.commit(resolve));
    if (status === Status.OK) return;
    throw new RunFailed('its marks cannot be recorded', { errno: status, local: true });
  }

  private check(): void {
    if (this.aborted) throw new RunAborted('the run was aborted');
  }
}

function twinOf({ id, name, createdAt }: MarkedSnapshot): SnapshotTwin {
  return { id, name, createdAt };
}

function asLocalFailure(thrown: unknown): unknown {
  if (!(thrown instanceof BlockferryError)) return thrown;
  if (thrown.code === 'SHUTTING_DOWN') return new RunAborted(thrown.message);
  return new RunFailed(`the content cannot be frozen: ${thrown.message}`, {
    errno: Status.EIO,
    local: true,
  });
}
