/**
 * Whether the extents of a volume's files are the blocks that were written, no more and no fewer. Some file systems call all
 * of a file data, others what lies around a write, or leave out what was written as zeroes.
 *
 * It is asked after a kill, when the disk may be full, so a file is made before that, with one block in it, and kept: what
 * became of that block became of the others. A copy of the directory that lost the holes, or the zeroes, shows it too.
 */
import { Status } from '../../io/device.ts';
import type { Disk } from '../../io/disk.ts';
import { errnoOf } from '../../io/errors.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { Spare } from './spare.ts';

/** The file in the directory of a volume. */
export const PROBE_NAME = 'extents';
/** The same on its way: it takes its name when it is whole. */
export const NEW_PROBE_NAME = 'extents.new';
/** Far enough for a hole on both sides, on any file system that has them. */
const POSITION: number = 4 * 1024 * 1024;

/**
 * Whether extents can be believed. Makes the file when there is none; `spare` lends the block. Throws what the disk throws:
 * on a wrong answer what was written would be given up.
 */
export function tellsBlocks(disk: Disk, directory: string, spare: Spare | null): boolean {
  if (!disk.knowsExtents) return false;
  const path = `${directory}/${PROBE_NAME}`;
  const told = looksRight(disk, path);
  if (told !== null) return told;
  if (!make(disk, directory) && spare?.release() === true) {
    make(disk, directory);
    spare.refill();
  }
  return looksRight(disk, path) === true;
}

/**
 * Makes the file if there is none, or if it is not as it was made: a power cut may have left half of it. True when extents
 * can be believed; else they may be later.
 */
export function keepProbe(disk: Disk, directory: string): boolean {
  if (!disk.knowsExtents) return false;
  const path = `${directory}/${PROBE_NAME}`;
  let told: boolean | null = null;
  try {
    told = looksRight(disk, path);
    if (told === true) return true;
    if (make(disk, directory)) return looksRight(disk, path) === true;
  } catch {
    // It could not be made; what could not even be looked at stays.
  }
  if (told === false) discard(disk, path);
  return false;
}

/** What is there was left by a power cut, and nothing could take its place: the next process is not to judge by it. */
function discard(disk: Disk, path: string): void {
  try {
    if (disk.exists(path)) disk.remove(path);
  } catch {
    // It says that extents are not to be believed, which is never wrong.
  }
}

/** Null when there is no such file. */
function looksRight(disk: Disk, path: string): boolean | null {
  if (!disk.exists(path)) return null;
  const file = disk.open(path, { create: false });
  try {
    const extent = file.dataAfter(0);
    const end = POSITION + BLOCK_BYTES;
    if (extent === null || file.dataAfter(end) !== null) return false;
    return extent.start === POSITION && extent.end === end;
  } finally {
    file.closeNow();
  }
}

/** False when there is no room for it. Throws what else the disk throws. */
function make(disk: Disk, directory: string): boolean {
  const path = `${directory}/${NEW_PROBE_NAME}`;
  let errno = 0;
  try {
    const file = disk.open(path, { create: true });
    try {
      file.truncateNow(0);
      file.truncateNow(2 * POSITION);
      errno = -Math.min(0, file.writeNow(Buffer.alloc(BLOCK_BYTES), 0, BLOCK_BYTES, POSITION));
    } finally {
      file.closeNow();
    }
    if (errno === 0) disk.rename(path, `${directory}/${PROBE_NAME}`);
  } catch (thrown) {
    errno = errnoOf(thrown);
  }
  if (errno === 0) return true;
  if (disk.exists(path)) disk.remove(path);
  if (errno === Status.ENOSPC) return false;
  throw Object.assign(new Error(`${path} could not be made: errno ${errno}`), { errno: -errno });
}
