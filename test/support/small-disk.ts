/** A disk of some MiB that a test can fill to its last block: an ext4 with blocks of 1 KiB, on a loop device. */
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { run } from './process.ts';
import type { Scope } from './scope.ts';

const BLOCK_BYTES = 1024;

/** Mounts one of `bytes` bytes, without blocks that only root may take, until the scope ends. */
export async function smallExt4(scope: Scope, bytes: number): Promise<string> {
  const image = join(scope.tempDir('bf-space-image-'), 'ext4');
  const dir = scope.tempDir('bf-space-');
  writeFileSync(image, '');
  await run('truncate', ['--size', String(bytes), image]);
  await run('mkfs.ext4', ['-q', '-b', String(BLOCK_BYTES), '-m', '0', image]);
  await run('mount', ['-o', 'loop', image, dir]);
  scope.defer(`unmount ${dir}`, async () => {
    await run('umount', ['--lazy', dir]);
  });
  return dir;
}

/** Takes all the space there is, to the last block. Returns the file that holds it. */
export async function fillUp(dir: string, name: string): Promise<string> {
  const file = join(dir, name);
  const output = openSync(file, 'w');
  try {
    // What does not fit whole is written in part, to the last block.
    const piece = Buffer.alloc(256 * BLOCK_BYTES, 1);
    expect(() => {
      for (;;) writeSync(output, piece);
    }).toThrow('ENOSPC');
  } finally {
    closeSync(output);
  }
  await run('sync', ['--file-system', dir]);
  return file;
}
