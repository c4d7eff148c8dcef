/**
 * Layer files, and their maps after an unclean stop.
 *
 * Why completing the map from the file's extents is sound for the base layer:
 * - A base layer has nothing below it, and its file is the volume, byte for byte: where the file has a hole it
 *   reads as zeroes, and so does a block that is absent in the map. The map only says what a read may skip.
 * - A write reaches the file before it is answered, and the map before or after. So after a kill every
 *   acknowledged write is in the file, as an extent, whether or not its allocation was recorded. Calling every
 *   extent data loses none of them.
 * - After a power cut the file holds what was synced, and any part of what was not: each is a content that a
 *   disk with a write cache may show, and nothing that was flushed is missing.
 * - An extent that the log calls absent is a hole that was not yet punched durably, or a later write: either is
 *   a state since the last flush. A block that the log calls data and that is a hole reads as zeroes from the
 *   file, as it should.
 * A layer above another one cannot do this: there a hole may mean "look below" or "zero", and an extent of which a power cut
 * left a part would hide what lies below. After a power cut its recorded map counts, and it takes no more writes: its file
 * may hold what the map does not know. After a kill, though, the page cache has everything that was written (the log
 * says in which run of the system), blocks enter such a file whole, and zeroes are in the log before they are answered:
 * so the extents are exactly the blocks that were written, and calling them data loses nothing.
 */
import type { Disk, DiskFile } from '../io/disk.ts';
import { BlockferryError } from '../io/errors.ts';
import { BLOCK_BYTES } from '../io/limits.ts';
import { BlockState } from './maps/layer-map.ts';
import type { LayerMap } from './maps/layer-map.ts';
import type { LayerRecord, VolumeState } from './log/metadata-state.ts';

/** The data file of a layer. */
export function layerPath(directory: string, layer: number): string {
  return `${directory}/layer-${String(layer).padStart(8, '0')}.data`;
}

/**
 * Opens a layer's file and gives it the recorded size. Throws METADATA_CORRUPT when it is shorter: a length is durable
 * before the record that needs it.
 */
export function openLayerFile(disk: Disk, directory: string, layer: LayerRecord): DiskFile {
  const file = disk.open(layerPath(directory, layer.id), { create: false });
  const sizeBytes = layer.map.blockCount * BLOCK_BYTES;
  const fileBytes = file.sizeNow();
  if (fileBytes < sizeBytes) {
    file.closeNow();
    throw new BlockferryError(
      'METADATA_CORRUPT',
      `${file.path} has ${fileBytes} bytes, its layer ${sizeBytes}`,
    );
  }
  // A crash came between the two steps of a resize: what is past the recorded end must not come back.
  if (fileBytes > sizeBytes) file.truncateNow(sizeBytes);
  return file;
}

/** Removes files of layers that the log does not name: a crash came before their record, or after their end. */
export function removeStrayLayers(disk: Disk, directory: string, state: VolumeState): void {
  for (const name of disk.list(directory)) {
    const match = /^layer-(\d{8,})\.data$/.exec(name);
    if (match === null || state.layers.has(Number(match[1]))) continue;
    disk.remove(`${directory}/${name}`);
  }
}

/** Enough for a hole, on any file system that has them. */
const HOLE_BYTES: number = 1024 * 1024;

/** Whether the file system of a directory tells holes from data: some call all of a file data. */
export function tellsHoles(disk: Disk, directory: string): boolean {
  if (!disk.knowsExtents) return false;
  const path = `${directory}/hole.tmp`;
  try {
    const file = disk.open(path, { create: true });
    try {
      file.truncateNow(HOLE_BYTES);
      return file.dataAfter(0) === null;
    } finally {
      file.closeNow();
      disk.remove(path);
    }
  } catch {
    return false;
  }
}

/** Marks every extent of the file as data; `added` hears of what was not known. */
export function recoverMap(
  disk: Disk,
  file: DiskFile,
  map: LayerMap,
  added: (first: number, count: number) => void,
): void {
  const mark = (first: number, count: number): void => {
    if (map.set(first, count, BlockState.DATA)) added(first, count);
  };
  if (!disk.knowsExtents) {
    mark(0, map.blockCount);
    return;
  }
  const sizeBytes = map.blockCount * BLOCK_BYTES;
  let extent = file.dataAfter(0);
  while (extent !== null && extent.start < sizeBytes) {
    const first = Math.floor(extent.start / BLOCK_BYTES);
    const end = Math.ceil(Math.min(extent.end, sizeBytes) / BLOCK_BYTES);
    mark(first, end - first);
    extent = extent.end < sizeBytes ? file.dataAfter(extent.end) : null;
  }
}
