/** Helpers of the disk tests: the ways a disk may be made, waiting for callbacks, cold files. */
import { spawnSync } from 'node:child_process';
import { statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

import type { Disk, DiskCallback, DiskFile } from '../../src/io/disk.ts';
import { createNodeDisk } from '../../src/io/node-disk.ts';
import { loadSyscalls, type Syscalls } from '../../src/io/syscalls.ts';
import { ROOT } from '../support/root.ts';
import { temporaryDirectory } from './wire.ts';

const TMPFS = 0x01021994;

/** The system calls of this machine; these tests are about them, so they must be there. */
export function realSyscalls(): Syscalls {
  const syscalls = loadSyscalls();
  if (syscalls === null) throw new Error('koffi does not work on this machine');
  return syscalls;
}

export const WAYS: readonly [name: string, make: () => Disk][] = [
  ['system calls', () => createNodeDisk()],
  ['Node alone', () => createNodeDisk({ syscalls: null })],
];

/** A directory on a real file system: one that can punch holes and has a page cache to be cold. */
export function diskDirectory(): string {
  const isTmpfs = statfsSync(tmpdir()).type === TMPFS;
  return temporaryDirectory(isTmpfs ? ROOT : tmpdir());
}

export function openFile(disk: Disk, directory = diskDirectory(), name = 'file'): DiskFile {
  const file = disk.open(join(directory, name), { create: true });
  onTestFinished(() => file.closeNow());
  return file;
}

export function called(start: (callback: DiskCallback) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    let returned = false;
    start((result) => {
      if (returned) resolve(result);
      else reject(new Error('the callback ran before the call returned'));
    });
    returned = true;
  });
}

/** Takes a file's bytes out of the page cache. */
export async function makeCold(file: DiskFile): Promise<void> {
  await called((callback) => file.datasync(callback));
  const result = spawnSync('dd', [`if=${file.path}`, 'iflag=nocache', 'count=0']);
  if (result.status !== 0) throw new Error(result.stderr.toString());
}

export function pattern(bytes: number, seed = 1): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (let index = 0; index < bytes; index += 1) buffer[index] = (index * 31 + seed * 17) % 253;
  return buffer;
}
