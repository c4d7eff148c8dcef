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
 * so the extents are exactly the blocks that were written, and calling them data loses nothing. Of a write that failed, or
 * was on its way, whole blocks may come up; a block of which only a part is data was never written whole, and is left out.
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

/** Where the blocks of an extent begin and end: all that it touches, or those that it covers. */
type Rounding = 'touched' | 'covered';

/** Marks every extent of the file as data; `added` hears of what was not known. */
export function recoverMap(
  disk: Disk,
  { file, map, rounding }: { file: DiskFile; map: LayerMap; rounding: Rounding },
  added: (first: number, count: number) => void,
): void {
  const mark = (first: number, count: number): void => {
    if (count > 0 && map.set(first, count, BlockState.DATA)) added(first, count);
  };
  if (!disk.knowsExtents) {
    mark(0, map.blockCount);
    return;
  }
  const sizeBytes = map.blockCount * BLOCK_BYTES;
  let extent = file.dataAfter(0);
  while (extent !== null && extent.start < sizeBytes) {
    const { first, end } = blocksOf(extent, sizeBytes, rounding);
    mark(first, end - first);
    extent = extent.end < sizeBytes ? file.dataAfter(extent.end) : null;
  }
}

/** The blocks of an extent, `end` not among them. */
export function blocksOf(
  extent: { readonly start: number; readonly end: number },
  sizeBytes: number,
  rounding: Rounding,
): { first: number; end: number } {
  const first = extent.start / BLOCK_BYTES;
  const end = Math.min(extent.end, sizeBytes) / BLOCK_BYTES;
  return rounding === 'touched'
    ? { first: Math.floor(first), end: Math.ceil(end) }
    : { first: Math.ceil(first), end: Math.floor(end) };
}
