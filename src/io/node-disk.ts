/**
 * The file system of the machine, in the form of `Disk`.
 *
 * Invariants:
 * - What Node lacks comes from `syscalls.ts` and is optional: without it holes are not known and not
 *   punched, `readNow` may wait for the disk, and the lock of a directory is a file.
 * - `replaceFile` leaves the old content or the new one, whole, after a crash at any moment.
 */
import * as fs from 'node:fs';
import { dirname } from 'node:path';

import { lockDirectory } from './directory-lock.ts';
import type { Disk, DiskCallback, DiskFile, DiskSpace } from './disk.ts';
import { errnoOf } from './errors.ts';
import { NodeFile } from './node-file.ts';
import { loadSyscalls, type Syscalls } from './syscalls.ts';

/** Volumes are private: only the user that runs the node reads them. */
const FILE_MODE = 0o600;

/** `syscalls`: null does without them; left out, those that work here, probed at the first need. */
export function createNodeDisk(options: { syscalls?: Syscalls | null } = {}): Disk {
  const syscalls = (): Syscalls | null =>
    options.syscalls === undefined ? loadSyscalls() : options.syscalls;
  return {
    get knowsExtents() {
      return (syscalls()?.seek ?? null) !== null;
    },
    get bootId() {
      return bootId();
    },
    open: (path, flags) => openFile(path, flags, syscalls()),
    makeDirectory: (path) => void fs.mkdirSync(path, { recursive: true }),
    list: (path) => fs.readdirSync(path).toSorted(),
    exists: (path) => fs.existsSync(path),
    readFile: (path) => fs.readFileSync(path),
    replaceFile,
    rename: (from, to) => fs.renameSync(from, to),
    remove: (path) => fs.rmSync(path, { recursive: true }),
    syncDirectory,
    syncDirectoryLater,
    space,
    lock: (directory) => lockDirectory(directory, syscalls()?.lock ?? null),
  };
}

export const nodeDisk: Disk = createNodeDisk();

function openFile(
  path: string,
  flags: { create: boolean; exclusive?: boolean; append?: boolean },
  syscalls: Syscalls | null,
): DiskFile {
  const { O_RDWR, O_CREAT, O_EXCL, O_APPEND } = fs.constants;
  const mode =
    O_RDWR |
    (flags.create ? O_CREAT : 0) |
    (flags.exclusive === true ? O_EXCL : 0) |
    (flags.append === true ? O_APPEND : 0);
  return new NodeFile(path, fs.openSync(path, mode, FILE_MODE), syscalls);
}

/** The temporary name is always the same, so that crashes leave at most one behind. */
function replaceFile(path: string, content: Buffer): void {
  const temporary = `${path}.tmp`;
  const fd = fs.openSync(temporary, 'w', FILE_MODE);
  try {
    fs.writeFileSync(fd, content);
    fs.fsyncSync(fd);
  } catch (error) {
    fs.rmSync(temporary, { force: true });
    throw error;
  } finally {
    fs.closeSync(fd);
  }
  fs.renameSync(temporary, path);
  syncDirectory(dirname(path));
}

function syncDirectory(path: string): void {
  const fd = fs.openSync(path, 'r');
  try {
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
}

function syncDirectoryLater(path: string, callback: DiskCallback): void {
  fs.open(path, 'r', (failed, fd) => {
    if (failed !== null) return callback(-errnoOf(failed));
    fs.fsync(fd, (error) => {
      fs.close(fd, () => callback(error === null ? 0 : -errnoOf(error)));
    });
  });
}

function space(path: string, callback: (space: DiskSpace | null) => void): void {
  fs.statfs(path, (failed, found) => {
    // A file system that counts no blocks (some of those in user space) says nothing.
    if (failed !== null || found.blocks === 0) return callback(null);
    const bytes = (blocks: number): number =>
      Math.min(blocks * found.bsize, Number.MAX_SAFE_INTEGER);
    callback({ freeBytes: bytes(found.bavail), totalBytes: bytes(found.blocks) });
  });
}

const BOOT_ID = '/proc/sys/kernel/random/boot_id';

function bootId(): string {
  try {
    const id = fs.readFileSync(BOOT_ID, 'latin1').trim().replaceAll('-', '');
    return /^[0-9a-f]{32}$/.test(id) ? id : '';
  } catch {
    // Not Linux: every stop that was not clean counts as a power cut.
    return '';
  }
}
