/*
 * A volume seen through another server: nbdkit's nbd plugin is our client, and clients are nbdkit's. One
 * upstream connection for all of them, and one for each. Patterns, zeroes, the map and a copy come through
 * unchanged. Judges: nbdkit, qemu-io, nbdinfo, nbdcopy, cmp.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { nbdinfoMap } from '../support/maps.ts';
import { startNode } from '../support/node.ts';
import { run, start } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const MIB = 1024 * 1024;
const SIZE = 64 * MIB;

async function proxy(scope: Scope, upstream: string, shared: boolean): Promise<string> {
  const socket = join(scope.tempDir(), 'proxy.sock');
  const parameters = [`uri=${upstream}`, `shared=${shared}`];
  start(scope, 'nbdkit', ['-f', '-U', socket, 'nbd', ...parameters]);
  const uri = `nbd+unix:///?socket=${socket}`;
  await waitUntil('nbdkit', async () => (await run('nbdinfo', ['--size', uri])).code === 0);
  return uri;
}

it.for([
  ['one connection for all', true],
  ['a connection for each', false],
] as const)('serves nbdkit as a proxy with %s', async ([, shared], context) => {
  requireTools(context, 'nbdkit', 'qemu-io', 'nbdinfo', 'nbdcopy');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', String(SIZE));
  const uri = await proxy(scope, node.uri('disk'), shared);

  await qemuIo(uri, [
    'write -P 1 0 64k',
    'write -f -P 2 65535 3',
    'write -P 3 1M 4M',
    'write -z 1M 64k',
    'write -z -u 2M 64k',
    'discard 3M 64k',
    'flush',
    'read -P 1 0 65535',
    'read -P 2 65535 3',
    'read -P 0 1M 64k',
    'read -P 0 2M 64k',
    'read -P 0 3M 64k',
    'read -P 3 4M 1M',
  ]);
  const map = await nbdinfoMap(uri);
  expect(map).toEqual(await nbdinfoMap(node.uri('disk')));
  expect(map.at(-1)).toEqual({ start: 5 * MIB, length: SIZE - 5 * MIB, flags: 3 });

  const dir = scope.tempDir();
  const [image, back] = [join(dir, 'image'), join(dir, 'back')];
  writeFileSync(image, Buffer.concat([randomBytes(24 * MIB), Buffer.alloc(SIZE - 24 * MIB)]));
  await run('nbdcopy', ['--connections=4', '--threads=4', '--flush', image, uri]);
  await run('nbdcopy', [node.uri('disk'), back]);
  await run('cmp', [image, back]);
  const answer = await run('nbdinfo', ['--can', 'multi-conn', uri], { allowFailure: true });
  expect(answer.code).toBe(0);
  expect((await node.volume('disk')).connections).toBeLessThanOrEqual(shared ? 1 : 4);
});
