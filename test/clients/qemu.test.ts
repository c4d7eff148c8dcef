/*
 * QEMU's tools use a volume: patterns at odd offsets and lengths, zeroes and discards read back as they
 * must, and a converted image compares equal. Judges: qemu-io's pattern check, qemu-img compare.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { startNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';

const PATTERNS = [
  'write -P 0x11 0 64k',
  'write -P 0x22 512 512', // inside a block
  'write -P 0x33 4095 2', // across two blocks, bytewise
  'write -f -P 0x44 1M 3M', // forced unit access
  'write -z 2M 64k', // zeroes, space kept
  'write -z -u 2560k 64k', // zeroes, space may go
  'discard 3M 64k',
  'flush',
  'read -P 0x11 0 512',
  'read -P 0x22 512 512',
  'read -P 0x11 1024 3071',
  'read -P 0x33 4095 2',
  'read -P 0x11 4097 61439',
  'read -P 0x44 1M 1M',
  'read -P 0 2M 64k',
  'read -P 0x44 2112k 448k',
  'read -P 0 2560k 64k',
  'read -P 0x44 3136k 960k',
  'read -P 0 4M 12M', // never written
];

it('reads back the patterns that qemu-io wrote', async (context) => {
  requireTools(context, 'qemu-io');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '16M');
  const commands = PATTERNS.flatMap((command) => ['-c', command]);
  const { stdout } = await run('qemu-io', ['-f', 'raw', ...commands, node.uri('disk')]);
  expect(stdout).not.toMatch(/fail|error/i);
});

it('does not let a wrong pattern pass', async (context) => {
  requireTools(context, 'qemu-io');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '16M');
  const commands = ['-c', 'write -P 0x11 0 64k', '-c', 'read -P 0x12 0 64k'];
  const { code, stdout } = await run('qemu-io', ['-f', 'raw', ...commands, node.uri('disk')], {
    allowFailure: true,
  });
  expect(code !== 0 || /verification failed/i.test(stdout)).toBe(true);
});

it('holds an image that qemu-img converted into it', async (context) => {
  requireTools(context, 'qemu-img');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', '32M');
  const dir = scope.tempDir();
  const [raw, qcow] = [join(dir, 'disk.raw'), join(dir, 'disk.qcow2')];
  writeFileSync(
    raw,
    Buffer.concat([randomBytes(3 << 20), Buffer.alloc(26 << 20), randomBytes(3 << 20)]),
  );
  await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, qcow]);
  await run('qemu-img', ['convert', '-n', '-f', 'qcow2', '-O', 'raw', qcow, node.uri('disk')]);
  await run('qemu-img', ['compare', '-s', '-f', 'raw', '-F', 'raw', raw, node.uri('disk')]);
});
