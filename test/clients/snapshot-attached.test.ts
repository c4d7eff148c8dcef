/*
 * A snapshot that a client has attached is not deleted, and a volume that one has attached is not restored, unless with
 * --force: then the client is let go, and never reads another content than that of its time. What was refused
 * changed nothing. Judges: a client of libnbd that keeps reading, qemu-io.
 */
import { expect, it } from 'vitest';
import { listed } from '../support/nbdinfo.ts';
import { startNode, type TestNode } from '../support/node.ts';
import type { ManagedProcess } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import type { Scope } from '../support/scope.ts';
import { snapshotUri, startLibnbd, takeSnapshot } from '../support/snapshots.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

async function attach(scope: Scope, uri: string): Promise<ManagedProcess> {
  const client = startLibnbd(scope, 'holding.py', [uri]);
  await waitUntil('the client to read', () => client.stdout.includes('read'));
  return client;
}

async function prepared(): Promise<{ scope: Scope; node: TestNode; disk: string; kept: string }> {
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', '8M');
  const disk = node.uri('disk');
  await qemuIo(disk, ['write -P 17 0 1M']);
  await takeSnapshot(node, 'disk', 'kept');
  await qemuIo(disk, ['write -P 34 0 1M']);
  return { scope, node, disk, kept: snapshotUri(node, 'disk', 'kept') };
}

it('leaves a snapshot alone that a client has, but for --force', async (context) => {
  requireTools(context, 'python3-libnbd', 'qemu-io', 'nbdinfo');
  const { scope, node, disk, kept } = await prepared();
  const client = await attach(scope, kept);
  const refused = await node.cli(['snapshot', 'delete', 'disk@kept'], { allowFailure: true });
  expect(refused.code).toBe(1);
  expect(refused.stderr).toMatch(/disk@kept.*--force/s);
  await qemuIo(kept, ['read -P 17 0 1M'], ['-r']);
  expect(client.running).toBe(true);

  await node.cli(['snapshot', 'delete', '--force', 'disk@kept']);
  expect(await client.waitForExit(10_000)).toBe(true);
  expect(client.stdout).toBe('read 17\ngone\n');
  expect(await listed(`nbd+unix://?socket=${node.nbdSocket}`)).toEqual(['disk']);
  await qemuIo(disk, ['read -P 34 0 1M']);
});

it('does not restore a volume that a client has, but for --force', async (context) => {
  requireTools(context, 'python3-libnbd', 'qemu-io');
  const { scope, node, disk } = await prepared();
  const client = await attach(scope, disk);
  const refused = await node.cli(['snapshot', 'restore', 'disk@kept'], { allowFailure: true });
  expect(refused.code).toBe(1);
  expect(refused.stderr).toMatch(/disk.*--force/s);
  await qemuIo(disk, ['read -P 34 0 1M']);
  expect(client.running).toBe(true);

  await node.cli(['snapshot', 'restore', '--force', 'disk@kept']);
  expect(await client.waitForExit(10_000)).toBe(true);
  expect(client.stdout).toBe('read 34\ngone\n');
  await qemuIo(disk, ['read -P 17 0 1M']);
});
