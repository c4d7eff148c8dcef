/**
 * Image files that people name on the command line: read from, or made to be written to.
 *
 * Invariants:
 * - What is opened for reading is never opened for writing, so an image that may only be read can be used.
 * - Only regular files and, for reading, block devices are opened: no directory, pipe or terminal.
 */
import * as fs from 'node:fs';

import type { DiskFile } from './disk.ts';
import { BlockferryError, errorText } from './errors.ts';
import { NodeFile } from './node-file.ts';
import { loadSyscalls } from './syscalls.ts';

/** What a volume holds is private: only the user who copied it reads it. */
const FILE_MODE = 0o600;
const PROBE_BYTES = 512;
const EWOULDBLOCK = 11;

export interface ImageFile {
  readonly file: DiskFile;
  /** Length of the file, or capacity of the device. */
  readonly sizeBytes: number;
  /** The file system may know where data is; a device has data everywhere. */
  readonly knowsExtents: boolean;
  /** Which file this is. */
  readonly identity: string;
  /** Changes when the file is written to. */
  version(): string;
  /** False when another process holds it; true also where locks are not known. */
  tryLock(): boolean;
}

/** Whether there is anything of that name. */
export function imageExists(path: string): boolean {
  return fs.existsSync(path);
}

/** @throws BlockferryError FILE_UNUSABLE */
export function openImageForReading(path: string): ImageFile {
  return open(path, fs.constants.O_RDONLY, (stats) => stats.isFile() || stats.isBlockDevice());
}

/** Opens a file that is there, or makes an empty one. @throws BlockferryError FILE_UNUSABLE */
export function openImageForWriting(path: string): ImageFile {
  const { O_RDWR, O_CREAT } = fs.constants;
  return open(path, O_RDWR | O_CREAT, (stats) => stats.isFile());
}

/** @throws BlockferryError FILE_UNUSABLE unless a file could be made there, or replaced if it is one. */
export function checkImagePath(path: string, directory: string): void {
  try {
    fs.accessSync(directory, fs.constants.W_OK | fs.constants.X_OK);
    const stats = fs.statSync(path, { throwIfNoEntry: false });
    if (stats !== undefined && !stats.isFile()) throw new Error('it is not a regular file');
  } catch (error) {
    throw unusable(path, error);
  }
}

function open(
  path: string,
  flags: number,
  isUsable: (stats: fs.BigIntStats) => boolean,
): ImageFile {
  let descriptor: number;
  try {
    // Without O_NONBLOCK a pipe would keep us waiting for its other end.
    descriptor = fs.openSync(path, flags | fs.constants.O_NONBLOCK, FILE_MODE);
  } catch (error) {
    throw unusable(path, error);
  }
  try {
    const stats = fs.fstatSync(descriptor, { bigint: true });
    if (!isUsable(stats)) throw new Error('it is neither a regular file nor a block device');
    return wrap(path, descriptor, stats);
  } catch (error) {
    fs.closeSync(descriptor);
    throw unusable(path, error);
  }
}

function wrap(path: string, descriptor: number, stats: fs.BigIntStats): ImageFile {
  const syscalls = loadSyscalls();
  const lock = syscalls?.lock ?? null;
  return {
    file: new NodeFile(path, descriptor, syscalls),
    sizeBytes: stats.isFile() ? Number(stats.size) : capacityOf(descriptor),
    knowsExtents: stats.isFile() && (syscalls?.seek ?? null) !== null,
    identity: `${stats.dev}:${stats.ino}`,
    version: () => {
      const { mtimeNs, size } = fs.fstatSync(descriptor, { bigint: true });
      return `${mtimeNs}:${size}`;
    },
    tryLock: () => lock === null || lock(descriptor) !== -EWOULDBLOCK,
  };
}

/** `stat` does not know the size of a device: the end is where nothing can be read any more. */
export function capacityOf(descriptor: number): number {
  const probe = Buffer.alloc(PROBE_BYTES);
  const readable = (sector: number): boolean =>
    fs.readSync(descriptor, probe, 0, PROBE_BYTES, sector * PROBE_BYTES) > 0;
  if (!readable(0)) return 0;
  let [low, high] = [0, 1];
  while (readable(high)) [low, high] = [high, high * 2];
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (readable(middle)) low = middle;
    else high = middle;
  }
  return high * PROBE_BYTES;
}

const WHY: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
  ENOENT: 'there is no such file or directory',
  ENOTDIR: 'there is no such directory',
  EROFS: 'the file system is read-only',
};

function unusable(path: string, error: unknown): BlockferryError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const why = WHY[code] ?? errorText(error);
  return new BlockferryError('FILE_UNUSABLE', `${path} cannot be used: ${why}`, { cause: error });
}
