/**
 * Gives back the space of a file that goes. Removing a large file in many extents at once would hold up every request for
 * as long as the file system takes.
 */
import type { Disk, DiskFile } from '../../io/disk.ts';
import { ZERO_PUNCH_BYTES_MAX } from '../../io/limits.ts';

/** Frees a file's space on the pool, in pieces, until there is none left or `stopped` says so. Never throws. */
export async function freeSpace(disk: Disk, path: string, stopped: () => boolean): Promise<void> {
  let file: DiskFile | null = null;
  try {
    file = disk.open(path, { create: false });
    let extent = file.dataAfter(0);
    while (extent !== null && !stopped()) {
      const { start } = extent;
      const length = Math.min(extent.end - start, ZERO_PUNCH_BYTES_MAX);
      const opened = file;
      const result = await new Promise<number>((resolve) =>
        opened.punchHole(start, length, resolve),
      );
      if (result < 0) break;
      extent = file.dataAfter(start + length);
    }
  } catch {
    // Only a kindness to others: the removal that follows frees it in any case.
  } finally {
    file?.closeNow();
  }
}
