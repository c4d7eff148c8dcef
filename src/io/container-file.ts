/**
 * A block device, or a regular file of somebody else, in the place of a file of our own.
 *
 * Invariants:
 * - It keeps its size: nothing here cuts, lengthens or removes it.
 * - One holder has it at a time, among those who ask: `flock` for both, and for a device the exclusive open, which mounts and
 *   other users of the kernel refuse too.
 * - It is known by what it is, not by its name: links to it are seen through.
 */
import assert from 'node:assert';
import * as fs from 'node:fs';

import type { DiskFile } from './disk.ts';
import { BlockferryError, errnoOf, errorText } from './errors.ts';
import { capacityOf } from './image-file.ts';
import { LOCK_ENDING_MS_MAX } from './limits.ts';
import { NodeFile } from './node-file.ts';
import { loadSyscalls, type Syscalls } from './syscalls.ts';
import { systemError } from './system-error.ts';

const EWOULDBLOCK = 11;
const EBUSY = 16;
const ENOSPC = 28;
const POLL_MS = 10;

export interface FixedContainer {
  readonly file: DiskFile;
  /** The same for all names of one device or file. */
  readonly identity: string;
}

/**
 * `patient`: waits up to LOCK_ENDING_MS_MAX, on this thread, for the last threads of a killed holder.
 * @throws BlockferryError CONTAINER_UNUSABLE, CONTAINER_IN_USE
 */
export function openContainerFile(
  path: string,
  { patient }: { readonly patient: boolean },
): FixedContainer {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let waited = 0; ; waited += POLL_MS) {
    const opened = tryOpen(path);
    if (opened !== null) return opened;
    if (!patient || waited >= LOCK_ENDING_MS_MAX) break;
    Atomics.wait(pause, 0, 0, POLL_MS);
  }
  throw new BlockferryError('CONTAINER_IN_USE', `${path} is in use by another process`);
}

/** Capacity of a device or file. Throws as `openContainerFile`. */
export function containerBytes(path: string): number {
  const { file } = openContainerFile(path, { patient: false });
  const bytes = file.sizeNow();
  file.closeNow();
  return bytes;
}

/** The real path of what is there, or the path itself. */
export function resolvedPath(path: string): string {
  try {
    return fs.realpathSync(path);
  } catch {
    return path;
  }
}

/** Null when somebody else has it. */
function tryOpen(path: string): FixedContainer | null {
  let descriptor = -1;
  try {
    const { O_RDWR, O_EXCL, O_NONBLOCK } = fs.constants;
    // Of a device exclusively; of others that flag says nothing without O_CREAT, and is left out.
    const isDevice = fs.statSync(path).isBlockDevice();
    descriptor = fs.openSync(path, isDevice ? O_RDWR | O_EXCL : O_RDWR | O_NONBLOCK);
    const opened = wrap(path, descriptor);
    if (opened === null) fs.closeSync(descriptor);
    return opened;
  } catch (thrown) {
    if (descriptor >= 0) fs.closeSync(descriptor);
    if (errnoOf(thrown) === EBUSY) return null;
    throw unusable(path, thrown);
  }
}

function wrap(path: string, descriptor: number): FixedContainer | null {
  const stats = fs.fstatSync(descriptor, { bigint: true });
  if (!stats.isFile() && !stats.isBlockDevice()) {
    throw new Error('it is neither a block device nor a regular file');
  }
  if (stats.isBlockDevice() && isReadOnly(stats.rdev)) throw new Error('the device is read-only');
  const syscalls = loadSyscalls();
  if (syscalls?.lock?.(descriptor) === -EWOULDBLOCK) return null;
  const capacity = stats.isFile() ? Number(stats.size) : capacityOf(descriptor);
  const identity = stats.isFile() ? `file ${stats.dev}:${stats.ino}` : `device ${stats.rdev}`;
  return { file: new FixedFile(path, { descriptor, syscalls, capacity }), identity };
}

/** What the kernel says of a device; it lets one that is read-only be opened for writing. */
function isReadOnly(device: bigint): boolean {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
  const minor = (device & 0xffn) | ((device >> 12n) & ~0xffn & 0xffffffffn);
  try {
    return fs.readFileSync(`/sys/dev/block/${major}:${minor}/ro`, 'latin1').trim() === '1';
  } catch {
    return false;
  }
}

class FixedFile extends NodeFile {
  private readonly capacity: number;

  constructor(
    path: string,
    options: {
      readonly descriptor: number;
      readonly syscalls: Syscalls | null;
      readonly capacity: number;
    },
  ) {
    super(path, options.descriptor, options.syscalls);
    this.capacity = options.capacity;
  }

  /** Holes of a file are nobody's business here: what counts is the content. */
  override dataAfter(): null {
    return null;
  }

  override truncateNow(sizeBytes: number): void {
    assert(sizeBytes >= 0, 'a size is not negative');
    if (sizeBytes > this.capacity) throw systemError(ENOSPC, 'truncate', this.path);
  }

  override sizeNow(): number {
    return this.capacity;
  }
}

const WHY: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
  ENOENT: 'there is no such device or file',
  ENOTDIR: 'there is no such directory',
  ENXIO: 'there is no such device',
  EROFS: 'it is read-only, or its file system is',
};

function unusable(path: string, thrown: unknown): BlockferryError {
  const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : '';
  const why = WHY[code] ?? errorText(thrown);
  const message = `${path} cannot hold a volume: ${why}`;
  return new BlockferryError('CONTAINER_UNUSABLE', message, { cause: thrown });
}
