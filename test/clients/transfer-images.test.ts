/*
 * Images of other formats, through qemu-img: told by their first bytes on the way in and by their name on the way
 * out, compared by qemu-img. An image that refers to another file is refused unless its format was said: a guest
 * can write such a header on its own raw disk. Without qemu-img installed raw images still work, and the others say
 * what to install.
 */
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, it } from 'vitest';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import {
  homeOf,
  makeImage,
  MIB,
  refusal,
  spaceOf,
  transfer,
  transferred,
  type Home,
} from '../support/transfer.ts';

const SIZE = 32 * MIB;
const DATA = 3 * MIB;

let scope: Scope;
let node: TestNode;
let home: Home;
let dir: string;
let raw: string;

beforeEach(async (context) => {
  requireTools(context, 'qemu-img');
  scope = testScope();
  node = await startNode(scope, { name: 'alpha' });
  home = homeOf(scope);
  dir = scope.tempDir();
  raw = join(dir, 'disk.raw');
  makeImage(raw, SIZE, {
    data: [
      [0, MIB],
      [7 * MIB, MIB],
      [SIZE - MIB, MIB],
    ],
  });
});

const compare = (left: string, right: string): Promise<unknown> =>
  run('qemu-img', ['compare', left, right]);

it.each(['qcow2', 'vmdk', 'vdi', 'vhdx'])('takes and gives %s', async (format) => {
  const image = join(dir, 'some-image');
  const back = join(dir, `back.${format}`);
  await run('qemu-img', ['convert', '-f', 'raw', '-O', format, raw, image]);
  await transferred(node, home, ['import', 'disk', image]);
  const volume = await node.volume('disk');
  expect(volume.size_bytes).toBe(SIZE);
  expect(volume.allocated_bytes).toBeLessThan(DATA + MIB);
  await transferred(node, home, ['export', 'disk', back]);
  const { stdout } = await run('qemu-img', ['info', '--output=json', back]);
  expect((JSON.parse(stdout) as { format: string }).format).toBe(format);
  await compare(raw, back);
  expect(spaceOf(back)).toBeLessThan(DATA + 10 * MIB);
  expect(readdirSync(dir).toSorted()).toEqual(
    [`back.${format}`, 'disk.raw', 'some-image'].toSorted(),
  );
});

it('replaces what a larger volume held with an image, zeroes behind it included', async () => {
  const image = join(dir, 'image.qcow2');
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
  const full = join(dir, 'full.raw');
  makeImage(full, 2 * SIZE, { data: [[0, 2 * SIZE]] });
  await transferred(node, home, ['import', 'disk', full]);
  expect(await refusal(node, home, ['import', 'disk', image])).toBe('TARGET_NOT_EMPTY');
  await transferred(node, home, ['import', 'disk', image, '--force']);
  await transferred(node, home, ['export', 'disk', full, '--force']);
  await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', raw, full]);
  expect(spaceOf(full)).toBeLessThan(DATA + MIB);
});

it('takes the format that it is told, both ways', async () => {
  const image = join(dir, 'image.qcow2');
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
  // The container itself, as bytes.
  await transferred(node, home, ['import', 'bytes', image, '--format', 'raw']);
  await transferred(node, home, ['export', 'bytes', join(dir, 'copy.qcow2'), '--format', 'raw']);
  await compare(raw, join(dir, 'copy.qcow2'));
  expect(await refusal(node, home, ['import', 'x', raw, '--format', 'qcow2'])).toBe(
    'IMAGE_UNUSABLE',
  );
  expect((await node.status()).volumes.map(({ name }) => name)).toEqual(['bytes']);
});

it('does not read other files that an image names, unless the format was said', async () => {
  const overlay = join(dir, 'overlay');
  await run('qemu-img', ['create', '-f', 'qcow2', '-b', raw, '-F', 'raw', overlay]);
  expect(await refusal(node, home, ['import', 'disk', overlay])).toBe('IMAGE_UNUSABLE');
  expect((await node.status()).volumes).toEqual([]);
  await transferred(node, home, ['import', 'disk', overlay, '--format', 'qcow2']);
  await transferred(node, home, ['export', 'disk', join(dir, 'back')]);
  await run('cmp', [raw, join(dir, 'back')]);
});

it('says what to install when qemu-img is not there, and needs it for no raw image', async () => {
  const image = join(dir, 'image.qcow2');
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, image]);
  const without = { PATH: join(dir, 'nothing') };
  const { code, stderr } = await transfer(node, home, ['import', 'disk', image], without);
  expect([code, stderr]).toEqual([
    1,
    'blockferry: qemu-img is not installed; install it (Debian: qemu-utils), or use a raw image [TOOL_MISSING]\n',
  ]);
  expect((await node.status()).volumes).toEqual([]);
  expect((await transfer(node, home, ['import', 'disk', raw], without)).code).toBe(0);
  const target = join(dir, 'out.qcow2');
  expect(await refusal(node, home, ['export', 'disk', target], without)).toBe('TOOL_MISSING');
  expect(existsSync(target)).toBe(false);
  expect(readdirSync(dir)).not.toContain('out.qcow2.blockferry-part');
  writeFileSync(target, 'mine');
  expect(await refusal(node, home, ['export', 'disk', target])).toBe('FILE_EXISTS');
});
