/**
 * Volumes come and go whole: the steps of creating and deleting one, each safe to be the last.
 *
 * Create: build `creating-ID`, sync its files and itself, rename to `ID`, sync the parent.
 * Delete: rename to `deleting-ID`, sync the parent, give back the space in pieces, remove. A container keeps what it holds.
 */
import type { Clock } from '../io/clock.ts';
import type { Disk } from '../io/disk.ts';
import { BlockferryError, errnoOf } from '../io/errors.ts';
import { BLOCK_BYTES } from '../io/limits.ts';
import type { Random } from '../io/random.ts';
import { freeSpace } from './layers/free-space.ts';
import type { Containers, Place } from './containers.ts';
import { Metadata, writeError } from './log/metadata.ts';
import type { Generation, MetadataRecord } from './log/records.ts';
import { BlockState } from './maps/layer-map.ts';
import { layerPath } from './recovery.ts';
import type { Refusal } from './refusals.ts';
import type { Volume } from './volume.ts';

export interface StoreOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  /** The data directory. */
  readonly path: string;
  /** What base layers may lie in, besides files; none if not given. */
  readonly containers?: Containers;
}

const ID_BYTES = 16;
const BASE_LAYER = 1;

/** A volume to be. */
export interface NewVolume {
  readonly name: string;
  readonly sizeBytes: number;
  /** Of a clone: the ids of the volume and the snapshot below it. */
  readonly origin: { readonly volume: string; readonly snapshot: string } | null;
  /** Of a secondary: the name of the node that it receives from. */
  readonly source?: string | null;
  /** What it does not let that node do; nothing if not given. */
  readonly refuses?: readonly Refusal[];
  /** What its base layer lies in; null, or absent, for a file in its directory. */
  readonly place?: Place | null;
}

/** Creates a volume and returns its directory. Throws METADATA_WRITE_FAILED and leaves nothing behind. */
export async function createVolume(options: StoreOptions, volume: NewVolume): Promise<string> {
  const { disk, path } = options;
  const parent = `${path}/volumes`;
  const id = options.random.bytes(ID_BYTES).toString('hex');
  const building = `${parent}/creating-${id}`;
  const directory = `${parent}/${id}`;
  try {
    disk.makeDirectory(building);
    await buildVolume(options, building, id, volume);
    disk.syncDirectory(building);
    disk.rename(building, directory);
    disk.syncDirectory(parent);
  } catch (thrown) {
    removeQuietly(disk, building);
    discardVolume(options, directory);
    if (thrown instanceof BlockferryError) throw thrown;
    throw writeError(directory, errnoOf(thrown));
  }
  return directory;
}

async function buildVolume(
  options: StoreOptions,
  directory: string,
  id: string,
  { name, sizeBytes, origin, source = null, refuses = [], place = null }: NewVolume,
): Promise<void> {
  if (place === null) await buildBaseFile(options, directory, sizeBytes);
  const createdAt = Math.floor(options.clock.wall());
  await Metadata.create({ ...options, directory }, [
    { kind: 'volume-created', id, name, sizeBytes, createdAt, nextMirrorId: 1 },
    { kind: 'history-set', generations: source === null ? [firstGeneration(options.random)] : [] },
    ...(source === null ? [] : [{ kind: 'source-bound' as const, node: source, volumeId: null }]),
    ...(refuses.length === 0 ? [] : [{ kind: 'source-policy' as const, refuses }]),
    ...(origin === null ? [] : [{ kind: 'cloned' as const, ...origin }]),
    { kind: 'layer-created', layer: BASE_LAYER, parent: 0 },
    ...(place === null ? [] : recordsOfPlace(place, sizeBytes)),
  ]);
}

/** What a container holds is the content of the volume: all of it is data. */
function recordsOfPlace({ kind, location }: Place, sizeBytes: number): MetadataRecord[] {
  const [layer, count] = [BASE_LAYER, sizeBytes / BLOCK_BYTES];
  return [
    { kind: 'layer-placed', layer, container: kind, location },
    { kind: 'allocated', layer, first: 0, count, state: BlockState.DATA },
  ];
}

async function buildBaseFile(
  options: StoreOptions,
  directory: string,
  sizeBytes: number,
): Promise<void> {
  const file = options.disk.open(layerPath(directory, BASE_LAYER), {
    create: true,
    exclusive: true,
  });
  try {
    file.truncateNow(sizeBytes);
    const synced = await new Promise<number>((resolve) => file.datasync(resolve));
    if (synced < 0) throw writeError(file.path, -synced);
  } finally {
    file.closeNow();
  }
}

/** A volume that takes writes begins with a generation; a secondary gets its history from its source. */
function firstGeneration(random: Random): Generation {
  return { number: 1, id: random.bytes(ID_BYTES).toString('hex'), firstEpoch: 1 };
}

/**
 * Closes a volume and removes it. When the rename is durable it is gone, whatever happens afterwards. Throws
 * METADATA_WRITE_FAILED: then its directory is whole, if it still has its name.
 */
export async function removeVolume(
  options: StoreOptions,
  id: string,
  volume: Volume,
): Promise<void> {
  const { disk, path } = options;
  const parent = `${path}/volumes`;
  const leaving = `${parent}/deleting-${id}`;
  const layers = [...volume.metadata.state.layers.values()];
  await volume.close();
  try {
    disk.rename(`${parent}/${id}`, leaving);
  } catch (thrown) {
    throw writeError(leaving, errnoOf(thrown));
  }
  try {
    disk.syncDirectory(parent);
  } catch (thrown) {
    // It may be back after a power cut, and has to be whole then.
    bringBack(disk, parent, { from: leaving, to: `${parent}/${id}` });
    throw writeError(leaving, errnoOf(thrown));
  }
  for (const { id: layer, place } of layers) {
    if (place === null) await freeSpace(disk, layerPath(leaving, layer), () => false);
  }
  removeQuietly(disk, leaving);
}

/** Removes a volume that was made and is of no use to anybody. What is left of it is removed at the next open. */
export function discardVolume({ disk, path }: StoreOptions, directory: string): void {
  const parent = `${path}/volumes`;
  const leaving = `${parent}/deleting-${directory.slice(parent.length + 1)}`;
  try {
    if (!disk.exists(directory)) return;
    // Before anything in it goes: else a crash may leave a part of it under its name.
    disk.rename(directory, leaving);
    disk.syncDirectory(parent);
  } catch {
    return;
  }
  removeQuietly(disk, leaving);
}

/**
 * The first rename may be on the disk although its sync failed: the second one is made durable too, or taken back. A volume that goes
 * with the next power cut takes no writes.
 */
function bringBack(disk: Disk, parent: string, { from, to }: { from: string; to: string }): void {
  try {
    disk.rename(from, to);
  } catch {
    // The next open removes it, unless it has its name again.
    return;
  }
  try {
    disk.syncDirectory(parent);
  } catch {
    renameQuietly(disk, to, from);
  }
}

function renameQuietly(disk: Disk, from: string, to: string): void {
  try {
    disk.rename(from, to);
  } catch {
    // It keeps the name that it has.
  }
}

/** What is left is removed at the next open. */
function removeQuietly(disk: Disk, path: string): void {
  try {
    if (disk.exists(path)) disk.remove(path);
  } catch {
    // The next open tries again.
  }
}
