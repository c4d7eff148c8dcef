/**
 * Snapshots of a mirrored volume as operators meet them: created, listed and deleted at the primary, and there at the mirror under the
 * same names. Two nodes in this process, joined by a unix socket; what both sides hold is read with nbdcopy, which is not ours.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { MeasuredSnapshot, VolumeStatus } from '../../src/control/status.ts';
import { run } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { startLocalNode, type LocalNode } from './fixture.ts';

const SIZE = 4 * 2 ** 20;

const listOf = async ({ client }: LocalNode, volume: string): Promise<MeasuredSnapshot[]> => {
  const path = `/v1/volumes/${volume}/snapshots`;
  return (await client.call<{ snapshots: MeasuredSnapshot[] }>('GET', path)).snapshots;
};

const names = async (node: LocalNode, volume: string): Promise<string[]> =>
  (await listOf(node, volume)).map(({ name }) => name).toSorted();

test('snapshots of a volume are on its mirror, byte for byte', async (context) => {
  requireTools(context, 'nbdcopy');
  const scope = testScope();
  const beta = await startLocalNode(scope, { flags: { name: 'beta' } });
  const alpha = await startLocalNode(scope, { flags: { name: 'alpha' } });
  await alpha.client.call('POST', '/v1/volumes', { name: 'demo', size: '4M' });
  await beta.client.call('POST', '/v1/volumes', { name: 'copy', size: '4M', mirror_of: 'alpha' });
  const dir = scope.tempDir('bf-mirror-snapshots-');
  const fill = async (): Promise<void> => {
    const image = join(dir, 'image');
    writeFileSync(image, randomBytes(SIZE));
    await run('nbdcopy', [image, alpha.uri('demo')]);
  };
  const create = (name: string): Promise<unknown> =>
    alpha.client.call('POST', '/v1/volumes/demo/snapshots', { name });
  const mirrors = '/v1/volumes/demo/mirrors';
  const uri = { uri: beta.uri('copy') };
  const inStep = (): Promise<unknown> =>
    waitUntil('the mirror to be in step', async () => {
      const status = await alpha.client.call<VolumeStatus>('GET', '/v1/volumes/demo');
      const [first] = status.mirrors;
      return (
        first?.state === 'streaming' &&
        first.dirty_bytes + first.suspect_bytes + first.staged_bytes === 0
      );
    });
  const read = async (from: string): Promise<Buffer> => {
    const image = join(dir, 'read');
    await run('nbdcopy', [from, image]);
    return readFileSync(image);
  };

  await fill();
  await create('before');
  await fill();
  await alpha.client.call('POST', mirrors, uri);
  await inStep();
  await create('during');
  await fill();
  await alpha.client.call('POST', `${mirrors}/pause`, uri);
  await create('away');
  await fill();
  await alpha.client.call('POST', `${mirrors}/resume`, uri);
  await inStep();
  const all = ['away', 'before', 'during'];
  expect(await names(alpha, 'demo')).toEqual(all);
  await waitUntil('the mirror to have them', async () => {
    return (await names(beta, 'copy')).join(' ') === all.join(' ');
  });
  for (const name of all) {
    const here = await read(alpha.uri(`demo@${name}`));
    expect((await read(beta.uri(`copy@${name}`))).equals(here)).toBe(true);
  }
  await alpha.client.call('DELETE', '/v1/volumes/demo/snapshots/before');
  await waitUntil('it to be deleted there', async () => {
    return !(await names(beta, 'copy')).includes('before');
  });
});
