/**
 * A disk in memory whose data files hold nothing: writes to them cost nothing and reads give zeroes. For tests of
 * what a volume does with its maps, at sizes that no test could write.
 */
import type { DiskCallback, DiskFile } from '../../../src/io/disk.ts';
import { MemoryDisk } from './memory-disk.ts';

function zeroes(buffer: Buffer, start: number, length: number): number {
  buffer.fill(0, start, start + length);
  return length;
}

export class BlankDisk extends MemoryDisk {
  /** What a piece of zeroes answers. */
  pieceStatus: (position: number) => number = () => 0;
  /** Called with the length of each such piece when it is done, for a test that makes them slow. */
  beforePiece: (length: number) => void = () => {};
  /** Pieces of zeroes asked for. */
  readonly pieces: { kind: 'punch' | 'provision'; position: number; length: number }[] = [];

  override open(path: string, options: { create: boolean; exclusive?: boolean }): DiskFile {
    const file = super.open(path, options);
    if (!path.endsWith('.data')) return file;
    const piece =
      (kind: 'punch' | 'provision') =>
      (position: number, length: number, callback: DiskCallback): void => {
        this.pieces.push({ kind, position, length });
        this.later(kind, path, position, () => {
          this.beforePiece(length);
          callback(this.pieceStatus(position));
        });
      };
    file.readNow = zeroes;
    file.readBlocking = zeroes;
    file.read = (buffer, start, length, position, callback) =>
      this.later('read', path, position, () => callback(zeroes(buffer, start, length)));
    file.writeNow = (_buffer, _start, length) => length;
    file.write = (_buffer, _start, length, position, callback) =>
      this.later('write', path, position, () => callback(length));
    file.punchHole = piece('punch');
    file.provisionZeroes = piece('provision');
    return file;
  }
}
