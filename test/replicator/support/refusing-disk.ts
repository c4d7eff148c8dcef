/** A disk in memory whose writes on the pool can be refused, by path. */
import type { DiskFile } from '../../../src/io/disk.ts';
import { MemoryDisk } from '../../volume/support/memory-disk.ts';

export class RefusingDisk extends MemoryDisk {
  /** A negative errno instead of the write, or 0. */
  refuse: ((path: string) => number) | null = null;

  override open(path: string, options: { create: boolean; exclusive?: boolean }): DiskFile {
    const file = super.open(path, options);
    const write = file.write.bind(file);
    file.write = (buffer, start, length, position, callback) => {
      const refused = this.refuse?.(path) ?? 0;
      if (refused === 0) write(buffer, start, length, position, callback);
      else this.later('write', path, position, () => callback(refused));
    };
    return file;
  }

  /** From now on the metadata logs find no space. */
  fillForMetadata(): void {
    this.refuse = (path) => (path.includes('metadata') ? -28 : 0);
  }
}
