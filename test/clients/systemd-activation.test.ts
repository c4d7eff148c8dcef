/*
 * systemd holds the sockets: the first client waits while the node starts, and is served, over TCP and
 * over a unix socket, and nothing else is listened on. Judges: systemd-socket-activate and nbdinfo.
 */
import { existsSync, statSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

it('serves the client that woke it', async (context) => {
  requireTools(context, 'systemd-socket-activate', 'nbdinfo');
  const scope = testScope();
  const dir = scope.tempDir();
  const socket = join(dir, 'systemd.sock');
  const port = await freePort();
  const node = new TestNode(scope, {
    name: 'alpha',
    dir,
    nbdElsewhere: true,
    prefix: ['systemd-socket-activate', '-l', `127.0.0.1:${port}`, '-l', socket],
  });
  const started = node.start();
  await waitUntil('systemd to listen', () => existsSync(socket));
  const list = run('nbdinfo', ['--list', '--json', `nbd://127.0.0.1:${port}`], {
    timeoutMs: 20_000,
  });
  await started;
  expect(JSON.parse((await list).stdout)).toMatchObject({ exports: [] });
  expect((await node.facts()).nbd.toSorted()).toEqual([`127.0.0.1:${port}`, `unix:${socket}`]);

  await node.createVolume('disk', '8M');
  for (const uri of [`nbd://127.0.0.1:${port}/disk`, `nbd+unix:///disk?socket=${socket}`]) {
    expect((await run('nbdinfo', ['--size', uri])).stdout.trim()).toBe(String(8 << 20));
  }
  await node.stop();
  expect(statSync(socket).isSocket()).toBe(true); // it is systemd's, not ours to remove
});
