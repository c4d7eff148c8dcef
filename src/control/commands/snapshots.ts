/**
 * Snapshots as operators see them: commands and status.
 *
 * Invariants:
 * - What a command refuses, it refuses before it changes anything, and before it ends a client.
 * - What is frozen is the end of an epoch of the line that goes on: of a fenced volume it would be of one that ended.
 * - Content and snapshots of a secondary are those of its primary: here they are only read, and deleted.
 * - Content that clients use is replaced or taken away only with `force`, after their sessions have ended.
 */
import type { Clock } from '../../io/clock.ts';
import type { BlockDevice } from '../../io/device.ts';
import { BlockferryError } from '../../io/errors.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { EventKind } from '../../replicator/event-kinds.ts';
import type { HostedVolume } from '../../replicator/hosted-volume.ts';
import { validateSnapshotName } from '../../volume/names.ts';
import type { SnapshotInfo } from '../../volume/snapshots/snapshot-types.ts';
import { createTogether } from '../../volume/snapshots/freeze.ts';
import { counted, refuseFenced, type CommandRoom } from './command-room.ts';
import { exportName } from '../exports/export-name.ts';
import { diffPage } from './snapshot-diff.ts';
import type { MeasuredSnapshot, SnapshotDiff, SnapshotStatus } from '../status.ts';

interface Force {
  /** Ends the sessions of clients instead of refusing. */
  readonly force: boolean;
}

/** Bytes of the volume; what is left out is the beginning or the end. */
export interface RestoreRange {
  readonly offset: number | null;
  readonly length: number | null;
}

export class SnapshotCommands {
  private readonly room: CommandRoom;

  private readonly clock: Clock;

  constructor(room: CommandRoom, clock: Clock) {
    this.room = room;
    this.clock = clock;
  }

  /** In the order in which they were made. Throws VOLUME_NOT_FOUND. */
  async list(volume: string): Promise<MeasuredSnapshot[]> {
    const measured = await this.room.require(volume).volume.snapshots.measure();
    return measured.map((usage) => ({
      ...this.status(volume, usage),
      own_bytes: usage.ownBytes,
      shared_bytes: usage.sharedBytes,
    }));
  }

  /** @throws BlockferryError VOLUME_NOT_FOUND, SNAPSHOT_NOT_FOUND */
  async show(volume: string, name: string): Promise<MeasuredSnapshot> {
    this.requireSnapshot(volume, name);
    const found = (await this.list(volume)).find((snapshot) => snapshot.name === name);
    if (found !== undefined) return found;
    throw notFound(volume, name);
  }

  /**
   * The present content of the volumes, all at one instant, under one name.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_FENCED and what `VolumeSnapshots.create` throws; then there is none of them
   */
  create(volumes: readonly string[], name: string): Promise<SnapshotStatus[]> {
    const [first, ...others] = [...new Set(volumes)];
    if (first === undefined) throw new BlockferryError('USAGE', 'no volume is named');
    validateSnapshotName(name);
    return this.room.commandOnAll([first, ...others], async () => {
      const names = [first, ...others];
      for (const volume of names) {
        refuseFenced(this.room.requirePrimary(volume, 'take a snapshot'));
        this.refuseTaken(volume, name);
      }
      const created =
        others.length === 0
          ? [await this.room.require(first).volume.snapshots.create(name)]
          : await createTogether(
              names.map((volume) => this.room.require(volume).volume),
              name,
            );
      const together = others.length === 0 ? '' : ` at one instant with ${others.length} more`;
      return created.map((info, index) => {
        const volume = names[index] ?? first;
        this.tell('snapshot-created', volume, `snapshot ${volume}@${name} created${together}`);
        return this.status(volume, info);
      });
    });
  }

  /** Another name for the same content. Throws SNAPSHOT_NOT_FOUND and as `create`. */
  copy(volume: string, name: string, copyName: string): Promise<SnapshotStatus> {
    return this.room.command(volume, async () => {
      validateSnapshotName(copyName);
      this.room.requirePrimary(volume, 'take a snapshot');
      const { snapshots } = this.requireSnapshot(volume, name).volume;
      this.refuseTaken(volume, copyName);
      const info = await snapshots.copy(name, copyName);
      const message = `snapshot ${volume}@${copyName} created of ${volume}@${name}`;
      this.tell('snapshot-copied', volume, message);
      return this.status(volume, info);
    });
  }

  /** @throws BlockferryError VOLUME_NOT_FOUND, SNAPSHOT_NOT_FOUND, SNAPSHOT_IN_USE */
  delete(volume: string, name: string, options: Force): Promise<void> {
    return this.room.command(volume, async () => {
      const { snapshots } = this.requireSnapshot(volume, name).volume;
      snapshots.refuseReplacing(name);
      this.refuseAttached(volume, name, options);
      await this.room.withhold(exportName(volume, name), () => snapshots.delete(name));
      this.tell('snapshot-deleted', volume, `snapshot ${volume}@${name} deleted`);
    });
  }

  /**
   * The volume, or a range of it, gets the content of the snapshot; no client can attach the volume meanwhile.
   * @throws BlockferryError VOLUME_NOT_FOUND, SNAPSHOT_NOT_FOUND, VOLUME_HAS_MIRRORS, SNAPSHOT_TOO_LARGE,
   *   RANGE_INVALID, VOLUME_BUSY, VOLUME_FAILED
   */
  restore(volume: string, name: string, range: RestoreRange, options: Force): Promise<void> {
    return this.room.command(volume, async () => {
      refuseFenced(this.room.requirePrimary(volume, 'be restored'));
      const device = this.requireSnapshot(volume, name);
      const { snapshots } = device.volume;
      refuseMirrored(volume, device);
      device.volume.refuseIfFailed();
      const isWhole = range.offset === null && range.length === null;
      if (isWhole) refuseLarger(volume, name, device);
      const { offset, length } = checkRange(range, device, name);
      this.refuseClients(volume, device, options);
      await this.room.withhold(volume, () =>
        isWhole ? snapshots.restore(name) : snapshots.restoreRange(name, offset, length),
      );
      const what = isWhole ? 'restored' : `restored in ${length} bytes from byte ${offset} on`;
      this.tell('snapshot-restored', volume, `volume ${volume} ${what}: ${volume}@${name}`);
    });
  }

  /** The snapshot takes the volume's present content. Throws SNAPSHOT_NOT_FOUND, SNAPSHOT_IN_USE and as `create`. */
  refresh(volume: string, name: string, options: Force): Promise<SnapshotStatus> {
    return this.room.command(volume, async () => {
      refuseFenced(this.room.requirePrimary(volume, 'refresh a snapshot'));
      const { volume: core } = this.requireSnapshot(volume, name);
      core.refuseIfFailed();
      core.snapshots.refuseReplacing(name);
      this.refuseAttached(volume, name, options);
      const info = await this.room.withhold(exportName(volume, name), () =>
        core.snapshots.refresh(name),
      );
      this.tell('snapshot-refreshed', volume, `snapshot ${volume}@${name} refreshed`);
      return this.status(volume, info);
    });
  }

  /** The snapshot `to` takes the content of the snapshot `from`. Throws SNAPSHOT_NOT_FOUND, SNAPSHOT_IN_USE. */
  synchronise(volume: string, from: string, to: string, options: Force): Promise<SnapshotStatus> {
    return this.room.command(volume, async () => {
      this.room.requirePrimary(volume, 'synchronise snapshots');
      const { snapshots } = this.requireSnapshot(volume, from).volume;
      this.requireSnapshot(volume, to);
      if (from === to) return this.show(volume, to);
      snapshots.refuseReplacing(to);
      this.refuseAttached(volume, to, options);
      const info = await this.room.withhold(exportName(volume, to), () =>
        snapshots.synchronise(from, to),
      );
      const message = `snapshot ${volume}@${to} has the content of ${volume}@${from}`;
      this.tell('snapshot-synchronised', volume, message);
      return this.status(volume, info);
    });
  }

  /**
   * What changed from a snapshot to another, or to the present content (null), from byte `offset` on: one page of it.
   * @throws BlockferryError VOLUME_NOT_FOUND, SNAPSHOT_NOT_FOUND, RANGE_INVALID
   */
  diff(volume: string, from: string, to: string | null, offset: number): SnapshotDiff {
    const { snapshots } = this.requireSnapshot(volume, from).volume;
    if (to !== null) this.requireSnapshot(volume, to);
    if (offset % BLOCK_BYTES !== 0) {
      throw new BlockferryError('RANGE_INVALID', `the offset ${offset} is not that of a block`);
    }
    return {
      from: this.idOf(volume, from),
      to: to === null ? null : this.idOf(volume, to),
      ...diffPage(snapshots, { from, to, start: offset }, this.clock),
    };
  }

  private idOf(volume: string, name: string): string {
    return this.room.require(volume).volume.snapshots.require(name).id;
  }

  private status(volume: string, info: SnapshotInfo): SnapshotStatus {
    return {
      volume,
      name: info.name,
      export: exportName(volume, info.name),
      id: info.id,
      created_at: new Date(info.createdAt).toISOString(),
      size_bytes: info.sizeBytes,
      connections: this.room.connectionsOf(this.deviceOf(volume, info.name)),
    };
  }

  private deviceOf(volume: string, name: string): BlockDevice | null {
    return this.room.require(volume).volume.snapshots.device(name);
  }

  private requireSnapshot(volume: string, name: string): HostedVolume {
    const device = this.room.require(volume);
    device.volume.snapshots.require(name);
    return device;
  }

  private refuseTaken(volume: string, name: string): void {
    if (this.deviceOf(volume, name) === null) return;
    throw new BlockferryError('SNAPSHOT_EXISTS', `there is a snapshot ${volume}@${name} already`);
  }

  private refuseAttached(volume: string, name: string, { force }: Force): void {
    const clients = this.room.connectionsOf(this.deviceOf(volume, name));
    if (clients === 0 || force) return;
    const message = `snapshot ${volume}@${name} is used by ${counted(clients, 'connection')}`;
    throw new BlockferryError('SNAPSHOT_IN_USE', message);
  }

  private refuseClients(volume: string, device: HostedVolume, { force }: Force): void {
    const clients = this.room.connectionsOf(device);
    if (clients === 0 || force) return;
    const message = `volume ${volume} is used by ${counted(clients, 'connection')} (--force ends them)`;
    throw new BlockferryError('VOLUME_BUSY', message);
  }

  private tell(kind: EventKind, volume: string, message: string): void {
    this.room.tell(kind, volume, message);
  }
}

function notFound(volume: string, name: string): BlockferryError {
  const shown = JSON.stringify(exportName(volume, name));
  return new BlockferryError('SNAPSHOT_NOT_FOUND', `there is no snapshot ${shown}`);
}

/** A mirror follows writes; that the volume became another is no write. */
function refuseMirrored(volume: string, device: HostedVolume): void {
  const mirrors = device.mirrorStatuses().length;
  if (mirrors === 0) return;
  const message = `volume ${volume} has ${counted(mirrors, 'mirror')} and cannot be restored`;
  throw new BlockferryError('VOLUME_HAS_MIRRORS', message);
}

function refuseLarger(volume: string, name: string, device: HostedVolume): void {
  const size = device.volume.snapshots.device(name)?.sizeBytes ?? 0;
  if (size <= device.sizeBytes) return;
  const message = `snapshot ${volume}@${name} has ${size} bytes, volume ${volume} ${device.sizeBytes}`;
  throw new BlockferryError('SNAPSHOT_TOO_LARGE', message);
}

/** What both the volume and the snapshot have. Throws RANGE_INVALID. */
function checkRange(
  range: RestoreRange,
  device: HostedVolume,
  name: string,
): { offset: number; length: number } {
  const snapshotBytes = device.volume.snapshots.device(name)?.sizeBytes ?? 0;
  const end = Math.min(device.sizeBytes, snapshotBytes);
  const offset = range.offset ?? 0;
  const length = range.length ?? end - offset;
  const refuse = (why: string): never => {
    throw new BlockferryError('RANGE_INVALID', `${length} bytes from byte ${offset} on ${why}`);
  };
  if (offset % BLOCK_BYTES !== 0 || length % BLOCK_BYTES !== 0) refuse('are not whole blocks');
  if (length <= 0) refuse('are no range');
  if (offset + length > end) refuse(`pass the end, at ${end}, of the volume or of the snapshot`);
  return { offset, length };
}
