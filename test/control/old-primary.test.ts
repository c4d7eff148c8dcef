/**
 * What a promoted volume keeps for the return of its old primary has an end when an operator says so, and the old primary may come back all
 * the same. Two nodes in this process, joined by unix sockets; contents are written with qemu-io and read with nbdcopy, which are not ours.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { VolumeStatus } from '../../src/control/status.ts';
import { run } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

const showOf = ({ client }: LocalNode): Promise<VolumeStatus> =>
  client.call<VolumeStatus>('GET', '/v1/volumes/v');
const post = (on: LocalNode, path: string, body: object): Promise<VolumeStatus> =>
  on.client.call<VolumeStatus>('POST', `/v1/volumes/v/${path}`, body);

async function fill(node: LocalNode, byte: number): Promise<void> {
  const command = `write -P ${byte} 0 8M`;
  await run('qemu-io', ['-f', 'raw', '-c', command, '-c', 'flush', node.uri('v')]);
}

async function inStep(node: LocalNode): Promise<void> {
  await waitUntil('the mirror to have everything', async () => {
    const [first] = (await showOf(node)).mirrors;
    const left = first === undefined ? 1 : first.dirty_bytes + first.suspect_bytes;
    return first?.state === 'streaming' && left + first.staged_bytes === 0;
  });
}

test('an old primary that is forgotten takes no space, and is compared when it comes back', async (context) => {
  requireTools(context, 'nbdcopy', 'qemu-io');
  const scope = testScope();
  const beta = await startLocalNode(scope, { flags: { name: 'beta' } });
  const alpha = await startLocalNode(scope, { flags: { name: 'alpha' } });
  await alpha.client.call('POST', '/v1/volumes', { name: 'v', size: '8M' });
  await beta.client.call('POST', '/v1/volumes', { name: 'v', size: '8M', mirror_of: 'alpha' });
  await fill(alpha, 1);
  await post(alpha, 'mirrors', { uri: beta.uri('v') });
  await inStep(alpha);
  expect((await showOf(alpha)).kept_for_return).toBeNull();
  expect(await codeOf(post(beta, 'set', { forget_old_primary: true }))).toBe('VOLUME_IS_SECONDARY');

  await post(beta, 'promote', { force: true });
  await fill(beta, 2);
  await waitUntil('what it keeps', async () => (await showOf(beta)).kept_for_return !== null);
  expect((await showOf(beta)).allocated_bytes).toBeGreaterThanOrEqual(16 * 2 ** 20);
  expect(await post(beta, 'set', { forget_old_primary: true })).toMatchObject({
    kept_for_return: null,
  });
  await waitUntil('the space', async () => (await showOf(beta)).allocated_bytes < 12 * 2 ** 20);
  // Said twice it means the same.
  await post(beta, 'set', { forget_old_primary: true });

  await waitUntil('alpha to hear of it', async () => (await showOf(alpha)).fenced !== null);
  await post(alpha, 'failback', { node: 'beta' });
  await post(beta, 'mirrors', { uri: alpha.uri('v'), seeded: true });
  await inStep(beta);
  const dir = scope.tempDir('bf-forget-');
  await run('nbdcopy', [alpha.uri('v'), join(dir, 'out')]);
  expect(readFileSync(join(dir, 'out')).equals(Buffer.alloc(8 * 2 ** 20, 2))).toBe(true);
});
