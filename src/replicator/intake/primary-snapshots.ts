/**
 * Snapshots of the primary, on its mirror: taken and deleted by commands in the stream, brought by delta runs.
 *
 * Invariants (I9):
 * - One that has the id of the primary's holds what that one holds: it is taken behind all writes of its epoch and before the next
 *   one's, and the position is recorded in the same commit, so that no replay ever comes before it and takes it a second time.
 * - A name that stands for something else stays that: the primary hears why its snapshot is not here.
 * - Of a command that is refused the position is recorded before anything follows (`EpochIntake`): a replay that asked again, when the
 *   reason is gone, would take the content of a later moment.
 * - Only what came from a primary is deleted for it, and nothing that the policy of the mirror keeps: that is its own from then on, so
 *   that lifting the policy later deletes nothing either.
 * - What was replaced is kept, hidden, until the primary says that it recorded that: after a crash it may have the old one and no other.
 */
import { BlockferryError, errorText } from '../../io/errors.ts';
import type { SnapshotRecord, TimedPosition } from '../../volume/log/metadata-state.ts';
import { isHidden, isReplaced } from '../../volume/names.ts';
import type { Volume } from '../../volume/volume.ts';
import type { EventKind } from '../event-kinds.ts';
import type { SnapshotCommand, SnapshotTwin } from '../link/messages.ts';
import { keptFrom, type KeptSnapshot } from './source-policy.ts';

export interface PrimarySnapshotsOptions {
  readonly volume: Volume;
  readonly tell: (kind: EventKind, message: string) => void;
}

export class PrimarySnapshots {
  /** The snapshot that was begun last: while its record finds no space it is in the state, and nobody was told. */
  private begun: string | null = null;
  /** What is refused, by id: while the record of that finds no space the state has it, and nobody was told. */
  private readonly refusing = new Map<string, KeptSnapshot>();
  private readonly volume: Volume;
  private readonly tell: (kind: EventKind, message: string) => void;

  constructor({ volume, tell }: PrimarySnapshotsOptions) {
    this.volume = volume;
    this.tell = tell;
  }

  /**
   * Runs a command of the epoch that ends at `position`: null when it is done, else why it is not. Throws METADATA_WRITE_FAILED:
   * the disk is full, and it is to be called again.
   */
  run(command: SnapshotCommand, position: TimedPosition): Promise<string | null> {
    return this.guarded(command, position);
  }

  private async guarded(
    command: SnapshotCommand,
    position: TimedPosition | null,
  ): Promise<string | null> {
    const kept = this.keptAgain(command) ?? keptFrom(this.volume, command);
    if (kept !== null) {
      const { id } = kept.snapshot;
      this.refusing.set(id, kept);
      await this.volume.snapshots.ownTwin(id);
      this.refusing.delete(id);
      return this.refused(kept.snapshot.name, kept.why);
    }
    try {
      if (command.kind === 'snapshot-delete') await this.delete(command.id);
      else if (position !== null) await this.take(command, position);
      return null;
    } catch (thrown) {
      if (thrown instanceof BlockferryError && thrown.code === 'METADATA_WRITE_FAILED')
        throw thrown;
      return this.refused(this.nameIn(command), errorText(thrown));
    }
  }

  /** It is the volume's own in the state already, and nothing says any more that its primary may not delete it. */
  private keptAgain(command: SnapshotCommand): KeptSnapshot | null {
    const { snapshots } = this.volume.metadata.state;
    // Its own operator may have deleted some.
    for (const id of this.refusing.keys()) if (!snapshots.has(id)) this.refusing.delete(id);
    return command.kind === 'snapshot-delete' ? (this.refusing.get(command.id) ?? null) : null;
  }

  private async take(
    { id, name, createdAt, replaces }: Extract<SnapshotCommand, { kind: 'snapshot-create' }>,
    position: TimedPosition,
  ): Promise<void> {
    const { generation, epoch } = position;
    const { snapshots, metadata } = this.volume;
    const known = metadata.state.snapshots.has(id) && this.begun !== id;
    this.begun = id;
    const mark = { generation, epoch, shipped: true };
    const isTheirs = replaces !== null && this.isShipped(replaces);
    await snapshots.keepTwin({ id, name, createdAt }, isTheirs ? replaces : null, mark, [
      { kind: 'position', ...position },
    ]);
    this.begun = null;
    if (!known) this.taken(name, epoch);
  }

  private async delete(id: string): Promise<void> {
    const { snapshots, metadata } = this.volume;
    const name = metadata.state.snapshots.get(id)?.name;
    if (name === undefined || !this.isShipped(id)) return;
    await snapshots.removeTwin(id);
    // It was replaced before.
    if (isHidden(name)) return;
    this.tell(
      'snapshot-deleted',
      `snapshot ${this.volume.name}@${name} deleted, as on its primary`,
    );
  }

  /**
   * Of `ids`, those that are here. What came from the primary and is not among them is deleted; `refused`: why something is not.
   * Throws METADATA_WRITE_FAILED.
   */
  async compare(ids: readonly string[]): Promise<{ held: string[]; refused: string | null }> {
    const { state } = this.volume.metadata;
    const there = new Set(ids);
    const refusals: string[] = [];
    const leave = async (goes: (snapshot: SnapshotRecord) => boolean): Promise<number> => {
      const gone = [...state.snapshots.values()].filter(goes);
      for (const { id } of gone) {
        const why = await this.guarded({ kind: 'snapshot-delete', id }, null);
        if (why !== null) refusals.push(why);
      }
      return gone.length;
    };
    const isGone = ({ id, name, mark }: SnapshotRecord): boolean =>
      (mark?.shipped === true || this.refusing.has(id)) && !isHidden(name) && !there.has(id);
    // One that took the place of another brings that one back, which may be gone as well.
    if ((await leave(isGone)) > 0) await leave(isGone);
    // What else was replaced is so on the primary too, unless the policy keeps what took its place there.
    await leave(({ id, name }) => isReplaced(name) && !there.has(id));
    const [first] = refusals;
    const more = refusals.length > 1 ? ` (and ${refusals.length - 1} more)` : '';
    return {
      held: ids.filter((id) => !isHidden(state.snapshots.get(id)?.name ?? '.')),
      refused: first === undefined ? null : `${first}${more}`,
    };
  }

  /** What the hidden snapshot holds is that snapshot of the primary with the commit that follows; else why not. */
  show(hidden: string, twin: SnapshotTwin, position: TimedPosition): string | null {
    const { generation, epoch } = position;
    try {
      this.volume.snapshots.showTwin(hidden, twin, { generation, epoch, shipped: true });
    } catch (thrown) {
      return this.refused(twin.name, errorText(thrown));
    }
    this.taken(twin.name, epoch);
    return null;
  }

  /** It is still its primary's: also when a journal brings again what was refused before a crash, and the policy was lifted since. */
  private isShipped(id: string): boolean {
    return this.volume.metadata.state.snapshots.get(id)?.mark?.shipped === true;
  }

  private taken(name: string, epoch: number): void {
    const message = `snapshot ${this.volume.name}@${name} created, as on its primary at epoch ${epoch}`;
    this.tell('snapshot-created', message);
  }

  private refused(name: string, why: string): string {
    const message = `snapshot ${this.volume.name}@${name} is not as on its primary: ${why}`;
    this.tell('source-snapshot-refused', message);
    return why;
  }

  private nameIn(command: SnapshotCommand): string {
    if (command.kind === 'snapshot-create') return command.name;
    return this.volume.metadata.state.snapshots.get(command.id)?.name ?? command.id;
  }
}
