/**
 * Whether the extents of a volume's files are the blocks that were written, no more and no fewer. Some file systems call all
 * of a file data, others what lies around a write, or leave out what was written as zeroes.
 *
 * It is asked after a kill, when the disk may be full, so a file is made before that, with one block in it, and kept: what
 * became of that block became of the others. A copy of the directory that lost the holes, or the zeroes, shows it too.
 */
import type { Disk, DiskFile } from '../../io/disk.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { Spare } from './spare.ts';

/** The file in the directory of a volume. */
export const PROBE_NAME = 'extents';
/** Far enough for a hole on both sides, on any file system that has them. */
const POSITION: number = 4 * 1024 * 1024;

/** Whether extents can be believed. Makes the file when there is none; `spare` lends the block. */
export function tellsBlocks(disk: Disk, directory: string, spare: Spare | null): boolean {
  if (!disk.knowsExtents) return false;
  const path = `${directory}/${PROBE_NAME}`;
  const told = looksRight(disk, path);
  if (told !== null) return told;
  if (!make(disk, path) && spare?.release() === true) {
    make(disk, path);
    spare.refill();
  }
  return looksRight(disk, path) === true;
}

/** Makes the file if there is none, or if it is not as it was made: a power cut may have left half of it. */
export function keepProbe(disk: Disk, directory: string): void {
  const path = `${directory}/${PROBE_NAME}`;
  if (disk.knowsExtents && looksRight(disk, path) !== true) make(disk, path);
}

/** Null when there is no such file. */
function looksRight(disk: Disk, path: string): boolean | null {
  if (!disk.exists(path)) return null;
  return withFile(disk, path, false, (file) => {
    const extent = file.dataAfter(0);
    const end = POSITION + BLOCK_BYTES;
    if (extent === null || file.dataAfter(end) !== null) return false;
    return extent.start === POSITION && extent.end === end;
  });
}

/** False, and no file is left, when there is no room for it. */
function make(disk: Disk, path: string): boolean {
  const made = withFile(disk, path, true, (file) => {
    file.truncateNow(0);
    file.truncateNow(2 * POSITION);
    return file.writeNow(Buffer.alloc(BLOCK_BYTES), 0, BLOCK_BYTES, POSITION) >= 0;
  });
  if (made) return true;
  try {
    if (disk.exists(path)) disk.remove(path);
  } catch {
    // It does not look right, and is made again.
  }
  return false;
}

function withFile(
  disk: Disk,
  path: string,
  create: boolean,
  run: (file: DiskFile) => boolean,
): boolean {
  let file: DiskFile | null = null;
  try {
    file = disk.open(path, { create });
    return run(file);
  } catch {
    return false;
  } finally {
    file?.closeNow();
  }
}
