/**
 * Files, as everything below the daemon sees them. `node-disk.ts` is the real one; the simulator
 * passes its own, which loses, tears and reorders what was not synced.
 *
 * Statuses: a count or 0 when positive or zero, a negative Linux errno on failure. The `...Now` calls
 * run on the calling thread; the ones with a callback run on the thread pool and call back later, never
 * before they returned.
 */

/** Returned by `readNow` when the bytes are not in memory and reading them would block. */
export const WOULD_BLOCK = -11;

export type DiskCallback = (result: number) => void;

/** What a file system has, in bytes. */
export interface DiskSpace {
  /** That this process may take; what is reserved for others is not counted. */
  readonly freeBytes: number;
  readonly totalBytes: number;
}

export interface DiskFile {
  readonly path: string;
  /**
   * Reads at once what cannot block. WOULD_BLOCK when the first byte would; less than asked when a later one
   * would, or at the end of the file.
   */
  readNow(buffer: Buffer, start: number, length: number, position: number): number;
  /** Reads at once even if that blocks; may return less than asked at the end of file. For rare use. */
  readBlocking(buffer: Buffer, start: number, length: number, position: number): number;
  /** Reads on the pool. Bytes past the end of file are not touched; the count says how many were read. */
  read(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void;
  /** Writes all bytes into the page cache, or fails. */
  writeNow(buffer: Buffer, start: number, length: number, position: number): number;
  /** Writes all bytes on the pool, or fails. The buffer is in use until the callback. */
  write(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void;
  /**
   * Copies a range of another file of the same disk to the same place here, on the pool, without a look at the bytes; less
   * than asked at the end of that file. -EOPNOTSUPP (-95), or no such method, where that cannot be done.
   */
  copyFrom?(source: DiskFile, position: number, length: number, callback: DiskCallback): void;
  /** fdatasync on the pool. A failure is final for this file (invariant I10): do not retry. */
  datasync(callback: DiskCallback): void;
  /** The same at once, even if that blocks; throws. For rare use. */
  datasyncNow(): void;
  /** Frees the space of a range, which then reads as zeroes; -EOPNOTSUPP (-95) where that cannot be done. */
  punchHole(position: number, length: number, callback: DiskCallback): void;
  /** Provisions the range and makes it read as zeroes; -EOPNOTSUPP (-95) where that cannot be done. */
  provisionZeroes(position: number, length: number, callback: DiskCallback): void;
  /** Has the range read into memory, which may go on after the callback; -EOPNOTSUPP (-95) where that cannot be done. */
  readAhead(position: number, length: number, callback: DiskCallback): void;
  /** The first data byte at or after `position` and the end of that data, or null past the last; null also
   * for the whole question when the file system cannot say (see `Disk.knowsExtents`). */
  dataAfter(position: number): { start: number; end: number } | null;
  /** Sets the length. Synchronous; used at create, resize and for cutting a torn tail. */
  truncateNow(sizeBytes: number): void;
  sizeNow(): number;
  /** Bytes the file takes on the disk. */
  allocatedNow(): number;
  closeNow(): void;
}

/** Everything throws Node's own errors (with `code` and `errno`) unless said otherwise. */
export interface Disk {
  /**
   * 32 hexadecimal digits that name this run of the system: while they are the same, all that any process wrote is in its
   * page cache. Empty when that cannot be known.
   */
  readonly bootId: string;
  /** Whether `DiskFile.dataAfter` tells holes from data. */
  readonly knowsExtents: boolean;
  open(path: string, options: { create: boolean; exclusive?: boolean; append?: boolean }): DiskFile;
  makeDirectory(path: string): void;
  /** Names in a directory, sorted. */
  list(path: string): string[];
  exists(path: string): boolean;
  readFile(path: string): Buffer;
  /** Atomic and durable: temporary file, sync, rename, sync of the directory. */
  replaceFile(path: string, content: Buffer): void;
  /** Atomic; durable after `syncDirectory` of both parents. */
  rename(from: string, to: string): void;
  /** Removes a file or a whole directory. */
  remove(path: string): void;
  syncDirectory(path: string): void;
  /** The same on the pool. */
  syncDirectoryLater(path: string, callback: DiskCallback): void;
  /** Asks on the pool for the space of the file system that has `path`; null when it does not say. */
  space(path: string, callback: (space: DiskSpace | null) => void): void;
  /** Takes the directory for this process until `release`, or returns null when another process has it. */
  lock(directory: string): { release(): void } | null;
}
