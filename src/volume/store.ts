/**
 * All volumes of a data directory.
 *
 * Invariants:
 * - One process has the directory at a time (it is locked from open to close).
 * - `volumes/` holds a directory for each volume, named by its id; names are in the logs and unique.
 * - A directory takes its final name when its content is durable, and loses it before anything in it goes:
 *   a crash leaves a whole volume, or `creating-ID` / `deleting-ID`, which the next open removes.
 * - A clone is opened after the volume it reads through, and closed before it; while it exists neither that volume nor
 *   that snapshot goes.
 * - A volume that cannot be opened is reported and left as it is; the others open.
 */
import assert from 'node:assert';
import type { Disk } from '../io/disk.ts';
import { BlockferryError, errnoOf, errorText } from '../io/errors.ts';
import { VOLUMES_MAX } from '../io/limits.ts';
import type { Finding } from './check/check-finding.ts';
import { checkLiveVolume } from './check/check-live.ts';
import { refuseIfTooLarge } from './containers.ts';
import type { Container, Containers, Place } from './containers.ts';
import { createVolume, discardVolume, removeVolume } from './creation.ts';
import type { NewVolume, StoreOptions } from './creation.ts';
import type { Origin } from './layers/layer-set.ts';
import { writeError } from './log/metadata.ts';
import { validateSize, validateVolumeName } from './names.ts';
import type { Refusal } from './refusals.ts';
import { Spare } from './layers/spare.ts';
import { Volume } from './volume.ts';

export type { StoreOptions } from './creation.ts';
export {
  parseBytes,
  parseSize,
  validateSize,
  validateSnapshotName,
  validateVolumeName,
} from './names.ts';
export { Volume } from './volume.ts';

type VolumeOrigin = NonNullable<NewVolume['origin']>;

export interface DamagedVolume {
  readonly id: string;
  readonly reason: string;
}

/** The file of a data directory that says how the rest of it is laid out. */
export const FORMAT_NAME = 'format';
export const FORMAT_VERSION = 1;
export const FORMAT_TEXT: string = `blockferry ${FORMAT_VERSION}\n`;

/** The version that a format file names, or null. */
export function formatVersionOf(text: string): number | null {
  const digits = /^blockferry (\d{1,9})\n/.exec(text)?.[1];
  return digits === undefined ? null : Number(digits);
}

export class VolumeStore {
  /** Volumes that could not be opened, and why. They take no part in anything. */
  readonly damaged: DamagedVolume[] = [];
  private readonly options: StoreOptions;
  private readonly lock: { release(): void };
  private spare: Spare | null = null;
  private readonly volumes = new Map<string, Volume>();
  /** Names of volumes that are being created or deleted. */
  private readonly reserved = new Set<string>();
  /** Containers of volumes that are being made. */
  private readonly claims = new Set<Claimed>();
  private readonly work = new Set<Promise<unknown>>();
  /** Directories that were opened, or could not be. */
  private readonly tried = new Set<string>();
  private closing = false;
  private checking = false;

  private constructor(options: StoreOptions, lock: { release(): void }) {
    this.options = options;
    this.lock = lock;
  }

  /** Opens the directory, creating it if needed. Throws DATA_DIR_IN_USE, DATA_DIR_FORMAT_NEWER or DATA_DIR_UNUSABLE. */
  static open(options: StoreOptions): VolumeStore {
    const lock = usable(options.path, () => {
      if (!options.disk.exists(options.path)) options.disk.makeDirectory(options.path);
      return options.disk.lock(options.path);
    });
    if (lock === null) {
      throw new BlockferryError('DATA_DIR_IN_USE', `${options.path} is in use by another process`);
    }
    try {
      const store = new VolumeStore(options, lock);
      usable(options.path, () => store.load());
      return store;
    } catch (thrown) {
      lock.release();
      throw thrown;
    }
  }

  /** Sorted by name. */
  list(): Volume[] {
    return [...this.volumes.values()].toSorted((one, other) => (one.name < other.name ? -1 : 1));
  }

  find(name: string): Volume | null {
    return this.volumes.get(name) ?? null;
  }

  /**
   * `source`: the name of the node that it is a secondary of; null for a volume that takes writes. `refuses`: what it does not
   * let that node do.
   * Throws VOLUME_NAME_INVALID, SIZE_INVALID, VOLUME_EXISTS, VOLUME_LIMIT, METADATA_WRITE_FAILED or SHUTTING_DOWN.
   */
  async create(
    name: string,
    sizeBytes: number,
    source: string | null = null,
    refuses: readonly Refusal[] = [],
  ): Promise<Volume> {
    validateVolumeName(name);
    validateSize(sizeBytes);
    return await this.make({ name, sizeBytes, origin: null, source, refuses });
  }

  /**
   * A volume whose base layer lies in a container, and has the content that is there. Throws as `create`, and the CONTAINER_
   * codes.
   */
  async createOn(name: string, sizeBytes: number, location: string): Promise<Volume> {
    validateVolumeName(name);
    validateSize(sizeBytes);
    const place = this.containers(location).placeOf(location);
    return await this.make({ name, sizeBytes, origin: null, place });
  }

  private containers(location: string): Containers {
    const { containers } = this.options;
    if (containers !== undefined) return containers;
    throw new BlockferryError('CONTAINER_UNUSABLE', `${location} cannot be opened here`);
  }

  /**
   * A volume with the content of a snapshot, through which it reads what it has not written itself. Takes no space, and no
   * time. Throws as `create`, and SNAPSHOT_NOT_FOUND.
   */
  async clone(source: Volume, snapshot: string, name: string): Promise<Volume> {
    validateVolumeName(name);
    // The snapshot stays while this runs, and afterwards because of the clone.
    return await source.exclusive(() => {
      const { id, sizeBytes } = source.snapshots.require(snapshot);
      return this.make({ name, sizeBytes, origin: { volume: source.id, snapshot: id } });
    });
  }

  private async make(wanted: NewVolume): Promise<Volume> {
    const { name } = wanted;
    if (this.closing) throw new BlockferryError('SHUTTING_DOWN', 'the node is stopping');
    if (this.volumes.has(name) || this.reserved.has(name)) {
      throw new BlockferryError('VOLUME_EXISTS', `a volume ${name} exists already`);
    }
    if (this.volumes.size + this.reserved.size >= VOLUMES_MAX) {
      throw new BlockferryError('VOLUME_LIMIT', `there are ${VOLUMES_MAX} volumes already`);
    }
    this.reserved.add(name);
    const claimed = new Claimed();
    try {
      return await this.track(this.build(wanted, claimed));
    } finally {
      claimed.drop();
      this.claims.delete(claimed);
      this.reserved.delete(name);
    }
  }

  private async build(wanted: NewVolume, claimed: Claimed): Promise<Volume> {
    const { place = null, sizeBytes } = wanted;
    if (place !== null) await this.claim(place, sizeBytes, claimed);
    const volume = this.openNew(await createVolume(this.options, wanted), claimed);
    this.add(volume);
    return volume;
  }

  private async claim(place: Place, sizeBytes: number, claimed: Claimed): Promise<void> {
    // By its name already: a server may let nobody in beside whoever has it.
    this.refuseUsed(place, place.location);
    claimed.names.push(place.location);
    this.claims.add(claimed);
    const container = await this.containers(place.location).claim(place);
    claimed.container = container;
    this.refuseUsed(place, container.identity, claimed);
    claimed.names.push(container.identity);
    refuseIfTooLarge(container, sizeBytes);
  }

  /** `called`: a location or an identity. Throws CONTAINER_IN_USE. */
  private refuseUsed({ location }: Place, called: string, own: Claimed | null = null): void {
    const refuse = (by: string): never => {
      throw new BlockferryError('CONTAINER_IN_USE', `${location} holds ${by}`);
    };
    for (const { name, container } of this.volumes.values()) {
      if (container?.place.location === called || container?.identity === called) {
        refuse(`the volume ${name}`);
      }
    }
    for (const claimed of this.claims) {
      if (claimed !== own && claimed.names.includes(called)) refuse('a volume that is being made');
    }
  }

  /** Throws METADATA_WRITE_FAILED when it cannot be opened, and then removes it. */
  private openNew(directory: string, claimed: Claimed): Volume {
    try {
      return this.open(directory, claimed);
    } catch (thrown) {
      discardVolume(this.options, directory);
      if (thrown instanceof BlockferryError) throw thrown;
      throw writeError(directory, errnoOf(thrown));
    }
  }

  /**
   * Closes the volume and removes it. The caller has ended its connections. Throws VOLUME_NOT_FOUND, VOLUME_HAS_CLONES, or
   * METADATA_WRITE_FAILED: then it is open again, as another object, if it can be.
   */
  async delete(volume: Volume): Promise<void> {
    const { name, id } = volume;
    if (this.volumes.get(name) !== volume) {
      throw new BlockferryError('VOLUME_NOT_FOUND', `there is no volume ${name}`);
    }
    this.refuseCloned(volume);
    this.volumes.delete(name);
    this.reserved.add(name);
    try {
      await this.track(removeVolume(this.options, id, volume));
      this.originOf(volume)?.clones.delete(name);
    } catch (thrown) {
      // Of one that failed nothing is to be believed before an operator looked at it (I10).
      if (!volume.failed && !this.closing) this.tryAgain(id);
      throw thrown;
    } finally {
      this.reserved.delete(name);
    }
  }

  /** Opens a volume that was closed, unless its directory is gone. */
  private tryAgain(id: string): void {
    this.tried.delete(id);
    if (this.options.disk.exists(`${this.options.path}/volumes/${id}`)) this.openOne(id);
  }

  /**
   * What is wrong with a volume, looked at while it is in use. Throws BUSY while another check runs, VOLUME_NOT_FOUND when
   * the volume is closed meanwhile, and what the disk throws.
   */
  async check(volume: Volume): Promise<Finding[]> {
    if (this.checking) throw new BlockferryError('BUSY', 'another volume is being checked');
    this.checking = true;
    try {
      const gone = (): boolean => this.volumes.get(volume.name) !== volume;
      return await checkLiveVolume({ disk: this.options.disk, volume, gone });
    } finally {
      this.checking = false;
    }
  }

  /** Closes every volume and gives the directory free. */
  async close(): Promise<void> {
    if (this.closing) return;
    this.closing = true;
    await Promise.allSettled(this.work);
    while (this.volumes.size > 0) await this.closeSome();
    this.spare?.close();
    this.lock.release();
  }

  /** Closes what no open clone reads through. */
  private async closeSome(): Promise<void> {
    const free = [...this.volumes.values()].filter(({ clones }) => clones.size === 0);
    assert(free.length > 0, 'no volume is a clone of its own clone');
    await Promise.allSettled(free.map((volume) => volume.close()));
    for (const volume of free) {
      this.volumes.delete(volume.name);
      this.originOf(volume)?.clones.delete(volume.name);
    }
  }

  /** What a clone reads through, by name; null for a volume that is none. */
  originNameOf(volume: Volume): { volume: string; snapshot: string } | null {
    const { origin } = volume.metadata.state;
    const source = this.originOf(volume);
    const snapshot = source?.metadata.state.snapshots.get(origin?.snapshot ?? '');
    if (source === null || snapshot === undefined) return null;
    return { volume: source.name, snapshot: snapshot.name };
  }

  /** Throws VOLUME_HAS_CLONES. */
  refuseCloned({ name, clones }: Volume): void {
    if (clones.size === 0) return;
    const names = [...clones.keys()].join(', ');
    throw new BlockferryError('VOLUME_HAS_CLONES', `${name} is below the volumes ${names}`);
  }

  private originOf(volume: Volume): Volume | null {
    const id = volume.metadata.state.origin?.volume;
    return id === undefined ? null : this.byId(id);
  }

  private byId(id: string): Volume | null {
    for (const volume of this.volumes.values()) if (volume.id === id) return volume;
    return null;
  }

  private add(volume: Volume): void {
    this.volumes.set(volume.name, volume);
    const { origin } = volume.metadata.state;
    if (origin !== null) this.byId(origin.volume)?.clones.set(volume.name, origin.snapshot);
  }

  private async track<Result>(promise: Promise<Result>): Promise<Result> {
    this.work.add(promise);
    try {
      return await promise;
    } finally {
      this.work.delete(promise);
    }
  }

  private load(): void {
    const { disk, path } = this.options;
    checkFormat(disk, path);
    this.spare = Spare.open(disk, this.options.random, path);
    const directory = `${path}/volumes`;
    if (!disk.exists(directory)) {
      disk.makeDirectory(directory);
      disk.syncDirectory(path);
    }
    // The name of a volume may be in the page cache alone: a process that was killed had no time to sync it.
    disk.syncDirectory(directory);
    for (const entry of disk.list(directory)) {
      if (/^(creating|deleting)-[0-9a-f]{32}$/.test(entry)) disk.remove(`${directory}/${entry}`);
      else if (/^[0-9a-f]{32}$/.test(entry)) this.openOne(entry);
    }
  }

  private open(directory: string, claimed: Claimed | null = null): Volume {
    const originOf = (origin: VolumeOrigin): Origin => this.below(origin);
    const containerOf = (place: Place, sizeBytes: number): Container => {
      const container = claimed?.take() ?? null;
      if (container === null) return this.containers(place.location).open(place, sizeBytes);
      container.file.truncateNow(sizeBytes);
      return container;
    };
    const spare = this.spare ?? undefined;
    return Volume.open({ ...this.options, directory, originOf, containerOf, spare });
  }

  /** The layers below a clone; opens their volume if that has not been its turn yet. Throws METADATA_CORRUPT. */
  private below({ volume, snapshot }: VolumeOrigin): Origin {
    if (this.byId(volume) === null && !this.closing) this.openOne(volume);
    const found = this.byId(volume);
    const layer = found?.metadata.state.snapshots.get(snapshot)?.layer;
    if (found !== null && layer !== undefined) {
      return { layers: found.layers, layer: found.layers.layerOf(layer) };
    }
    throw new BlockferryError(
      'METADATA_CORRUPT',
      `the snapshot ${snapshot} of the volume ${volume}, which lies below this one, is not here`,
    );
  }

  /** Opens a volume, once. */
  private openOne(id: string): void {
    if (this.tried.has(id)) return;
    this.tried.add(id);
    const directory = `${this.options.path}/volumes/${id}`;
    try {
      const volume = this.open(directory);
      const why =
        volume.id !== id
          ? `${directory} holds the volume ${volume.id}`
          : this.volumes.has(volume.name)
            ? `another volume has the name ${volume.name}`
            : null;
      if (why === null) {
        this.add(volume);
      } else {
        volume.abandon();
        this.damaged.push({ id, reason: why });
      }
    } catch (thrown) {
      const reason = thrown instanceof BlockferryError ? thrown.line : errorText(thrown);
      this.damaged.push({ id, reason });
    }
  }
}

/** The container of a volume that is being made, until the volume has it. */
class Claimed {
  /** Its location, and its identity when that is known. */
  readonly names: string[] = [];
  container: Container | null = null;

  take(): Container | null {
    const { container } = this;
    this.container = null;
    return container;
  }

  drop(): void {
    this.take()?.file.closeNow();
  }
}

function checkFormat(disk: Disk, path: string): void {
  const file = `${path}/${FORMAT_NAME}`;
  if (!disk.exists(file)) {
    disk.replaceFile(file, Buffer.from(FORMAT_TEXT));
    return;
  }
  const version = formatVersionOf(disk.readFile(file).toString('utf8'));
  if (version === null) {
    throw new BlockferryError('DATA_DIR_UNUSABLE', `${file} is not a format that can be read`);
  }
  if (version > FORMAT_VERSION) {
    throw new BlockferryError(
      'DATA_DIR_FORMAT_NEWER',
      `${path} has format ${version}, this version knows ${FORMAT_VERSION}`,
    );
  }
}

/** What the disk throws while a directory is opened is about the directory. */
function usable<Result>(path: string, action: () => Result): Result {
  try {
    return action();
  } catch (thrown) {
    if (thrown instanceof BlockferryError) throw thrown;
    throw new BlockferryError('DATA_DIR_UNUSABLE', `${path}: ${errorText(thrown)}`, {
      cause: thrown,
    });
  }
}
