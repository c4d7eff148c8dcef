/**
 * A raw image file as an end of a copy.
 *
 * Invariants:
 * - What the file system calls a hole is a hole; without an answer everything counts as data.
 * - Zeroes are made by freeing space; where that cannot be done they are written.
 */
import assert from 'node:assert';
import { getSystemErrorName } from 'node:util';
import type { DiskFile } from '../../io/disk.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import type { ImageFile } from '../../io/image-file.ts';
import { TRANSFER_CHUNK_BYTES } from '../../io/limits.ts';
import type { DataRun, TransferTarget } from './transfer-ends.ts';

const EOPNOTSUPP = 95;

export class FileEnd implements TransferTarget {
  readonly name: string;
  readonly sizeBytes: number;
  readonly blockBytes = 1;
  private readonly file: DiskFile;
  private readonly knowsExtents: boolean;
  private zeroes: Buffer | null = null;

  /** `sizeBytes`: of the image; a target has this length already. */
  constructor(image: ImageFile, sizeBytes: number) {
    this.name = image.file.path;
    this.sizeBytes = sizeBytes;
    this.file = image.file;
    this.knowsExtents = image.knowsExtents;
  }

  async runAt(offset: number): Promise<DataRun> {
    assert(offset < this.sizeBytes, 'the question is about the image');
    if (!this.knowsExtents) return { end: this.sizeBytes, zero: false };
    let data: { start: number; end: number } | null;
    try {
      data = this.file.dataAfter(offset);
    } catch (error) {
      throw this.failed('looking for data in', errorText(error));
    }
    if (data === null || data.start >= this.sizeBytes) return { end: this.sizeBytes, zero: true };
    if (data.start > offset) return { end: data.start, zero: true };
    return { end: Math.min(data.end, this.sizeBytes), zero: false };
  }

  async read(buffer: Buffer, start: number, length: number, offset: number): Promise<void> {
    const count = await this.call('reading', (callback) =>
      this.file.read(buffer, start, length, offset, callback),
    );
    if (count < length) throw this.failed('reading', `it ends at ${offset + count}`);
  }

  async write(buffer: Buffer, start: number, length: number, offset: number): Promise<void> {
    await this.call('writing', (callback) =>
      this.file.write(buffer, start, length, offset, callback),
    );
  }

  async zero(offset: number, length: number): Promise<void> {
    const status = await new Promise<number>((resolve) => {
      this.file.punchHole(offset, length, resolve);
    });
    if (status >= 0) return;
    if (status !== -EOPNOTSUPP) throw this.failed('zeroing', getSystemErrorName(status));
    this.zeroes ??= Buffer.alloc(TRANSFER_CHUNK_BYTES);
    for (let at = 0; at < length; at += this.zeroes.length) {
      await this.write(this.zeroes, 0, Math.min(this.zeroes.length, length - at), offset + at);
    }
  }

  async flush(): Promise<void> {
    await this.call('syncing', (callback) => this.file.datasync(callback));
  }

  async close(): Promise<void> {
    this.file.closeNow();
  }

  private async call(
    what: string,
    begin: (callback: (result: number) => void) => void,
  ): Promise<number> {
    const result = await new Promise<number>(begin);
    if (result < 0) throw this.failed(what, getSystemErrorName(result));
    return result;
  }

  private failed(what: string, why: string): BlockferryError {
    return new BlockferryError('TRANSFER_FAILED', `${what} ${this.name} failed: ${why}`);
  }
}
