/**
 * A little space that is kept back: on a full disk the record that gives more of it back has to be written somewhere.
 *
 * Invariants:
 * - It is given up for such records alone, and taken again, as much as there is, as soon as they are durable.
 * - Without it everything works, but where the disk is full to the last byte.
 */
import type { Disk, DiskFile } from '../../io/disk.ts';
import { SPARE_BYTES } from '../../io/limits.ts';
import type { Random } from '../../io/random.ts';

/** The file of a data directory that takes the space up. */
export const SPARE_NAME = 'spare';

export class Spare {
  private readonly file: DiskFile | null;
  private readonly random: Random;

  private constructor(file: DiskFile | null, random: Random) {
    this.file = file;
    this.random = random;
  }

  /** Of the data directory at `path`. */
  static open(disk: Disk, random: Random, path: string): Spare {
    let file: DiskFile | null = null;
    try {
      file = disk.open(`${path}/${SPARE_NAME}`, { create: true });
    } catch {
      // Then there is none.
    }
    const spare = new Spare(file, random);
    spare.refill();
    return spare;
  }

  /** Gives the space to whoever writes first; false when there is none to give. */
  release(): boolean {
    try {
      if (this.file === null || this.file.sizeNow() === 0) return false;
      this.file.truncateNow(0);
      return true;
    } catch {
      return false;
    }
  }

  /** Takes the space, or what there is of it. */
  refill(): void {
    const { file } = this;
    if (file === null) return;
    try {
      const size = file.sizeNow();
      if (size >= SPARE_BYTES) return;
      // Nothing that a file system could leave out, or compress.
      const bytes = this.random.bytes(SPARE_BYTES - size);
      file.writeNow(bytes, 0, bytes.length, size);
    } catch {
      // The next time.
    }
  }

  close(): void {
    this.file?.closeNow();
  }
}
