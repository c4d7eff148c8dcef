/**
 * Snapshots that a mirror on another node lacks: each is a delta run of its own to the content of that snapshot, the oldest first, and
 * becomes a snapshot there when that run is committed.
 *
 * Invariants (I9):
 * - A snapshot is brought only when the mirror is behind the epoch that it is the end of: a mirror never goes back to an older state.
 * - Every block in which the mirror may differ from a snapshot is marked, since it changed after what the mirror holds, and before
 *   now. So marks are let go of only when the run is committed, for what changed since the snapshot by the maps.
 * - Who has which snapshot is told by ids, when nothing of the stream is on its way; and again when one that the mirror has went before
 *   the stream began, for no command tells of it. What is told to be gone is gone durably.
 */
import { Status } from '../../io/device.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { CopyPosition, SnapshotMark } from '../../volume/volume-state.ts';
import type { SnapshotRecord } from '../../volume/log/metadata-state.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';
import { isHidden } from '../../volume/names.ts';
import { RunAborted, RunFailed } from '../runs/delta-run.ts';
import type { FrameHeader, ReceivedPayload } from '../link/link-types.ts';
import type { ControlMessage } from '../link/messages.ts';
import type { PeerContact, PeerTalk } from './peer-contact.ts';
import type { RunBlocks } from '../runs/peer-run.ts';

/** A snapshot that can be told from others by its epoch. */
export interface MarkedSnapshot extends SnapshotRecord {
  readonly mark: SnapshotMark;
}

export class SnapshotRounds implements PeerTalk {
  private readonly contact: PeerContact;
  /** Ids of those that the mirror has. */
  private held = new Set<string>();
  /** The epoch that it holds; 0: nothing. Null: it was not asked, or does not know of snapshots. */
  private epoch: number | null = null;
  private answered = false;
  private aborted = false;
  private settle: (() => void) | null = null;

  constructor(contact: PeerContact) {
    this.contact = contact;
  }

  /** Asks which snapshots the mirror has; it deletes those that came from here and are no more. Rejects with RunAborted or RunFailed. */
  async ask(): Promise<void> {
    const { contact } = this;
    if (!contact.takesSnapshots) return;
    const ids = await this.recordedIds();
    if (this.aborted) throw new RunAborted('the run was aborted');
    contact.converse(this);
    this.answered = false;
    try {
      if (!contact.open) throw new RunAborted('the link is gone');
      contact.link.sendControl({ kind: 'snapshots-are', ids });
      if (!this.aborted && !this.answered) {
        await new Promise<void>((resolve) => {
          this.settle = resolve;
        });
      }
      if (this.aborted) throw new RunAborted('the run was aborted');
    } finally {
      contact.silence(this);
    }
    this.tellUnfit();
  }

  /** What is not among them is gone here, durably: else it would be back after a crash, and gone on the mirror. */
  private async recordedIds(): Promise<string[]> {
    const { metadata } = this.contact.host.volume;
    // Before the commit: what goes meanwhile is not gone for good.
    const ids = this.visible().map(({ id }) => id);
    const status = await new Promise<number>((resolve) => metadata.commit(resolve));
    if (status === Status.OK) return ids;
    throw new RunFailed('its log cannot be written', { errno: status, local: true });
  }

  abort(): void {
    this.aborted = true;
    this.settle?.();
  }

  /** The oldest that the mirror lacks and can still get; null: none. */
  next(): MarkedSnapshot | null {
    let oldest: MarkedSnapshot | null = null;
    for (const snapshot of this.marked()) {
      if (!this.isLacking(snapshot) || !this.fits(snapshot)) continue;
      if (oldest === null || snapshot.mark.epoch < oldest.mark.epoch) oldest = snapshot;
    }
    return oldest;
  }

  /** The snapshot that a run to this epoch is about; null: it is about none, or that one is gone. A line that was given up had such an epoch too. */
  at({ generation, epoch }: CopyPosition): MarkedSnapshot | null {
    if (this.epoch === null) return null;
    const isIt = ({ mark }: MarkedSnapshot): boolean =>
      mark.epoch === epoch && mark.generation === generation;
    return this.marked().find(isIt) ?? null;
  }

  /** The mirror has one that is no more: `ask` has it deleted. */
  get isStale(): boolean {
    const { snapshots } = this.contact.host.volume.metadata.state;
    for (const id of this.held) if (!snapshots.has(id)) return true;
    return false;
  }

  /** The mirror has one more. */
  brought(id: string): void {
    this.held.add(id);
  }

  /** The mirror holds this epoch. */
  committed(epoch: number): void {
    if (this.epoch !== null) this.epoch = Math.max(this.epoch, epoch);
  }

  // --- PeerTalk ---

  control(message: ControlMessage): void {
    if (message.kind !== 'snapshots-held') return;
    this.held = new Set(message.ids);
    // Of one that rejoins only what changed since that epoch is marked: no older snapshot can be made of it.
    const { host, note } = this.contact;
    const { refused } = message;
    if (refused !== undefined) note('mirror-snapshot-refused', `${host.volume.name}: ${refused}`);
    this.epoch = message.position?.epoch ?? this.contact.welcome.rejoin?.epoch ?? 0;
    this.answered = true;
    this.settle?.();
  }

  frame(_header: FrameHeader, payload: ReceivedPayload | null): void {
    payload?.release();
  }

  drained(): void {}

  lost(): void {
    this.abort();
  }

  private visible(): SnapshotRecord[] {
    const { snapshots } = this.contact.host.volume.metadata.state;
    return [...snapshots.values()].filter(({ name }) => !isHidden(name));
  }

  private marked(): MarkedSnapshot[] {
    return this.visible().flatMap(({ mark, ...snapshot }) =>
      mark === undefined ? [] : [{ ...snapshot, mark }],
    );
  }

  private isLacking({ id, mark }: MarkedSnapshot): boolean {
    return this.epoch !== null && mark.epoch > this.epoch && !this.held.has(id);
  }

  /** Whether a run can end there: a mirror has one size, goes to no older generation, and to nothing that this line gave up. */
  private fits({ sizeBytes, mark }: MarkedSnapshot): boolean {
    const { host, welcome } = this.contact;
    const { generations } = host.volume.metadata.state;
    if (sizeBytes !== host.volume.sizeBytes) return false;
    if (mark.generation < (welcome.generations.at(-1)?.number ?? 0)) return false;
    if (!generations.some(({ number }) => number === mark.generation)) return false;
    // Taken before this volume was a mirror of the copy that went on from an earlier epoch: a mirror would be where nobody else was.
    const next = generations.find(({ number }) => number > mark.generation);
    return next === undefined || mark.epoch < next.firstEpoch;
  }

  private tellUnfit(): void {
    const { host, note } = this.contact;
    for (const snapshot of this.marked()) {
      if (!this.isLacking(snapshot) || this.fits(snapshot)) continue;
      const what = `${host.volume.name}@${snapshot.name}`;
      note(
        'mirror-snapshot-refused',
        `${what} is of another size, of a generation before, or of a line that was given up`,
      );
    }
  }
}

/**
 * What a mirror that lacks the marked blocks may lack of a snapshot. `changedSince`: from the snapshot to the present. A block that
 * changed only since is the same there: it is compared first.
 */
export function blocksOfSnapshot(
  marks: { readonly dirty: BlockSet; readonly suspect: BlockSet },
  changedSince: Iterable<{ readonly offset: number; readonly length: number }>,
): RunBlocks {
  const inFlight = marks.dirty.clone();
  const suspect = marks.suspect.clone();
  for (const { offset, length } of changedSince) {
    const end = Math.min(inFlight.blockCount, (offset + length) / BLOCK_BYTES);
    for (let at = offset / BLOCK_BYTES; at < end;) {
      const run = inFlight.nextRun(at, end - at);
      if (run === null || run.first >= end) break;
      const count = Math.min(run.count, end - run.first);
      suspect.add(run.first, count);
      inFlight.remove(run.first, count);
      at = run.first + count;
    }
  }
  return { inFlight, suspect };
}

/** A mirror holds the snapshot: what it lacks is what changed since, and nothing else. */
export function marksBehindSnapshot(
  { dirty, suspect }: { readonly dirty: BlockSet; readonly suspect: BlockSet },
  changedSince: Iterable<{ readonly offset: number; readonly length: number }>,
): void {
  dirty.clear();
  suspect.clear();
  for (const { offset, length } of changedSince) {
    const first = offset / BLOCK_BYTES;
    const end = Math.min(dirty.blockCount, (offset + length) / BLOCK_BYTES);
    if (end > first) dirty.add(first, end - first);
  }
}
