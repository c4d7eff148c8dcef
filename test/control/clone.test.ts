/**
 * Clones by command: a volume of its own over a snapshot, written on without the original noticing, there again after a
 * restart, and what lies below it kept for as long as it is. Real processes; content is written and read with qemu-io
 * and nbdcopy.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { Scope } from '../support/scope.ts';
import { requireTools } from '../support/tools.ts';

const MIB = 2 ** 20;
const scope = new Scope();
afterAll(() => scope.close());

async function expectContent(node: TestNode, name: string, expected: Buffer): Promise<void> {
  const file = join(scope.tempDir('bf-copy-'), 'copy.img');
  await run('nbdcopy', [node.uri(name), file]);
  expect(readFileSync(file).equals(expected), `the content of ${name}`).toBe(true);
}

test('a clone is a volume of its own, and keeps what it reads through', async (context) => {
  requireTools(context, 'qemu-io', 'nbdcopy');
  const node = await startNode(scope, { name: 'alpha' });
  const write = (volume: string, what: string) =>
    run('qemu-io', ['-f', 'raw', '-c', what, '-c', 'flush', node.uri(volume)]);
  const refused = (...args: string[]) => node.cli(args, { allowFailure: true });
  await node.createVolume('golden', '1M');
  await write('golden', 'write -P 1 0 1M');
  await node.cli(['snapshot', 'create', 'golden', 'v1']);
  const made = await node.cli(['snapshot', 'clone', 'golden@v1', 'trial']);
  expect(made.stdout).toBe('volume trial created as a clone of golden@v1\n');
  await write('trial', 'write -P 2 3000 5000');
  await write('golden', 'write -P 3 0 64k');
  const trial = Buffer.alloc(MIB, 1).fill(2, 3000, 8000);
  await expectContent(node, 'trial', trial);
  await expectContent(node, 'golden', Buffer.alloc(MIB, 1).fill(3, 0, 65_536));
  expect((await node.cli(['status', 'trial'])).stdout).toContain('clone of golden@v1');
  expect((await refused('snapshot', 'delete', 'golden@v1', '--force')).stderr).toContain('trial');
  expect((await refused('volume', 'delete', 'golden', '--force')).stderr).toContain('trial');
  expect((await refused('snapshot', 'clone', 'golden@v1', 'golden')).stderr).toContain('exists');
  expect((await refused('snapshot', 'clone', 'golden@v2', 'other')).stderr).toContain('v2');

  await node.kill();
  await node.start();
  await expectContent(node, 'trial', trial);
  await node.cli(['volume', 'delete', 'trial']);
  await node.cli(['snapshot', 'delete', 'golden@v1']);
  await node.cli(['volume', 'delete', 'golden']);
});
