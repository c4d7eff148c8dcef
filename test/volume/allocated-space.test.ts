/**
 * `allocated_bytes` is what the disk has given: the blocks of a volume's layer files as `stat` counts them, after writes,
 * trims, snapshots, merges and a restore. Method: real files in the temporary directory, and an ext4 of the test with
 * blocks of 1 KiB; the file system may take a little more, for its own maps of where a file's blocks are.
 */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test, type TestContext } from 'vitest';
import { nodeDisk } from '../../src/io/node-disk.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { flush, write, zero } from './support/request.ts';
import { openStore } from './support/store.ts';

const BLOCK = 4096;
const SIZE = 16 * 2 ** 20;
/** Of each file: indirect blocks, or nodes of a tree of extents. */
const MAPPING_BYTES = 48 * 1024;
/** Blocks of which only some bytes were written: those take less where the file system's blocks are smaller. */
const PARTS = 10;

function temporary(_: TestContext, scope: Scope): string {
  return scope.tempDir('bf-allocated-');
}

async function ext4(context: TestContext, scope: Scope): Promise<string> {
  requireRoot(context, 'mount -o loop');
  requireTools(context, 'mkfs.ext4', 'losetup');
  const image = join(scope.tempDir('bf-allocated-image-'), 'ext4');
  const dir = scope.tempDir('bf-allocated-');
  await run('truncate', ['--size', '96M', image]);
  await run('mkfs.ext4', ['-q', '-b', '1024', image]);
  await run('mount', ['-o', 'loop', image, dir]);
  scope.defer(`unmount ${dir}`, async () => {
    await run('umount', ['--lazy', dir]);
  });
  return dir;
}

async function expectTrue(volume: Volume, directory: string): Promise<void> {
  expect(await flush(volume)).toBe(0);
  const layers = readdirSync(directory).filter((name) => name.endsWith('.data'));
  const taken = layers
    .map((name) => statSync(join(directory, name)).blocks * 512)
    .reduce((sum, bytes) => sum + bytes, 0);
  expect(taken).toBeGreaterThanOrEqual(volume.allocatedBytes - PARTS * (BLOCK - 1024));
  expect(taken - volume.allocatedBytes).toBeLessThanOrEqual(layers.length * MAPPING_BYTES);
}

async function merged(volume: Volume, directory: string, files: number): Promise<void> {
  for (let tries = 0; tries < 400; tries += 1) {
    const { state } = volume.snapshots.merge;
    const layers = readdirSync(directory).filter((name) => name.endsWith('.data')).length;
    if (state === 'idle' && layers === files) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`merging has not ended: ${JSON.stringify(volume.snapshots.merge)}`);
}

describe.each([
  { disk: 'the file system of the temporary directory', at: temporary },
  { disk: 'an ext4 with small blocks', at: ext4 },
])('on $disk', ({ at }) => {
  test('allocated bytes are those of the disk', async (context) => {
    const scope = testScope();
    const path = await at(context, scope);
    const store = openStore(nodeDisk, join(path, 'data'));
    scope.defer('close the store', () => store.close());
    const volume = await store.create('v', SIZE);
    const directory = join(path, 'data', 'volumes', volume.id);
    const put = async (first: number, count: number): Promise<void> => {
      const offset = first * BLOCK;
      expect(await write(volume, offset, Buffer.alloc(count * BLOCK, first % 255 || 1))).toBe(0);
    };
    const clear = async (first: number, count: number): Promise<void> => {
      const range = { offset: first * BLOCK, length: count * BLOCK };
      expect(await zero(volume, range)).toBe(0);
    };

    await expectTrue(volume, directory);
    await put(0, 1024);
    for (let block = 1024; block < 3072; block += 16) await put(block, 3);
    // Parts of blocks take whole ones.
    for (let part = 0; part < PARTS; part += 1) {
      await write(volume, (3100 + 10 * part) * BLOCK + 100, Buffer.alloc(200, 1));
    }
    expect(volume.allocatedBytes).toBe((1024 + 128 * 3 + PARTS) * BLOCK);
    await expectTrue(volume, directory);

    await clear(0, 512);
    await clear(1024, 1024);
    expect(volume.allocatedBytes).toBe((512 + 64 * 3 + PARTS) * BLOCK);
    await expectTrue(volume, directory);

    await volume.snapshots.create('one');
    await put(400, 300);
    // Nothing comes back of what a snapshot has; only what was written above it does.
    const before = volume.allocatedBytes;
    await clear(400, 100);
    expect(volume.allocatedBytes).toBe(before - 100 * BLOCK);
    await clear(800, 100);
    expect(volume.allocatedBytes).toBe(before - 100 * BLOCK);
    await expectTrue(volume, directory);

    await volume.snapshots.create('two');
    for (let block = 520; block < 1000; block += 7) await put(block, 2);
    await volume.snapshots.create('three');
    await put(2000, 500);
    await expectTrue(volume, directory);

    await volume.snapshots.delete('two');
    await merged(volume, directory, 3);
    await expectTrue(volume, directory);
    await volume.snapshots.delete('one');
    await merged(volume, directory, 2);
    await expectTrue(volume, directory);

    await volume.snapshots.restore('three');
    await merged(volume, directory, 2);
    await expectTrue(volume, directory);
    await volume.resize(2 * SIZE);
    await put(SIZE / BLOCK, 10);
    await expectTrue(volume, directory);
    await volume.resize(SIZE);
    await expectTrue(volume, directory);
  });
});
