/**
 * A promoted volume whose journal is damaged when its node starts again: what an operator sees, what is refused, how the volume
 * takes writes again, and that its mirror is compared. Nodes in this process, joined by unix sockets; pieces are written with
 * qemu-io and contents read with nbdcopy, which are not ours. While the node is down its log is made to keep a journal that is not
 * there, and a block of the volume is written past the mirror.
 */
import { expect, test } from 'vitest';
import type { PromotionStatus, VolumeStatus } from '../../src/control/status.ts';
import { renderPromotion } from '../../src/cli/render/render-failover.ts';
import { systemClock } from '../../src/io/clock.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import { nodeDisk } from '../../src/io/node-disk.ts';
import { systemRandom } from '../../src/io/random.ts';
import { VolumeStore } from '../../src/volume/store.ts';
import { run } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { answered, requestOf } from '../volume/support/request.ts';
import { startLocalNode } from './fixture.ts';
import { contentOf, inStep, showOf, write } from './volume-v.ts';

const BLOCK = 4096;
const PLACE = 3 * 2 ** 20;

/** As a kill would leave it: what was promoted is in part in the journal, of which nothing can be read. */
async function damage(data: string): Promise<void> {
  const clock = systemClock;
  const store = VolumeStore.open({ disk: nodeDisk, clock, random: systemRandom, path: data });
  const volume = store.find('v')!;
  const bytes = Buffer.alloc(BLOCK, 0x5a);
  const request = requestOf({ offset: PLACE, length: BLOCK }, bytes);
  expect(await answered(request, (asked) => volume.write(asked))).toBe(0);
  const { state } = volume.metadata;
  const last = state.generations.at(-1)!.firstEpoch - 1;
  const { topLayer: layer, generation } = state;
  volume.metadata.append({ kind: 'journal-kept', layer, generation, after: last - 1, last });
  await store.close();
}

async function messageOf(promise: Promise<unknown>): Promise<string> {
  const thrown = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  return thrown instanceof BlockferryError ? `${thrown.code}: ${thrown.message}` : 'accepted';
}

test('a volume with a damaged journal is held until an operator gives the journal up, and its mirror is compared', async (context) => {
  requireTools(context, 'nbdcopy', 'qemu-io');
  const scope = testScope();
  const dir = scope.tempDir('bf-damaged-');
  const [alpha, beta, gamma] = [
    await startLocalNode(scope, { flags: { name: 'alpha' } }),
    await startLocalNode(scope, { flags: { name: 'beta' } }),
    await startLocalNode(scope, { flags: { name: 'gamma' } }),
  ];
  const body = { name: 'v', size: '8M' };
  await alpha.client.call('POST', '/v1/volumes', body);
  await run('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 8M', alpha.uri('v')]);
  await beta.client.call('POST', '/v1/volumes', { ...body, mirror_of: 'alpha' });
  await alpha.client.call('POST', '/v1/volumes/v/mirrors', { uri: beta.uri('v') });
  await inStep(alpha, 1);
  await alpha.node.stop();
  await beta.client.call('POST', '/v1/volumes/v/promote', { force: true });
  await gamma.client.call('POST', '/v1/volumes', { ...body, mirror_of: 'beta' });
  await beta.client.call('POST', '/v1/volumes/v/mirrors', { uri: gamma.uri('v') });
  await inStep(beta, 1);
  await beta.client.call('POST', '/v1/volumes/v/snapshots', { name: 's' });
  await inStep(beta, 1);
  await beta.node.stop();
  const { data } = beta.config;
  await damage(data);

  const again = await startLocalNode(scope, { flags: { name: 'beta', data } });
  const post = <T = PromotionStatus>(path: string, wish: object): Promise<T> =>
    again.client.call<T>('POST', `/v1/volumes/v/${path}`, wish);
  const held = async (): Promise<boolean> => (await showOf(again)).failure !== null;
  await waitUntil('the journal to be read', held);
  const { failure } = await showOf(again);
  expect(failure).toContain('blockferry promote v --force');
  const refused = `JOURNAL_UNUSABLE: ${failure}`;
  expect(again.lines.filter((line) => line.includes('"journal-unusable"'))).toHaveLength(1);
  await expect(contentOf(again, dir)).rejects.toThrow();
  expect(await messageOf(post('promote', {}))).toBe(refused);
  expect(await messageOf(post('snapshots', { name: 't' }))).toBe(refused);
  expect(await messageOf(post('failback', { node: 'gamma', force: true }))).toContain(
    'JOURNAL_UNUSABLE',
  );
  expect(await messageOf(post('promote', { force: true, at: 's' }))).toContain('REQUEST_INVALID');

  // It was closed for that, and is held as before.
  await waitUntil('the journal to be read again', held);
  expect((await showOf(again)).failure).toBe(failure);
  const promoted = await post('promote', { force: true });
  const { first_epoch: first, last_epoch: last } = promoted.given_up!;
  expect(failure).toContain(`epochs ${first} to ${last} of generation 1`);
  expect(renderPromotion(promoted)).toContain(`epochs ${first} to ${last} of generation 1`);
  expect(again.lines.filter((line) => line.includes('"journal-given-up"'))).toHaveLength(1);
  await inStep(again, 1);
  const content = await contentOf(again, dir);
  expect(content.subarray(PLACE, PLACE + BLOCK)).toEqual(Buffer.alloc(BLOCK, 0x5a));
  expect((await contentOf(gamma, dir)).equals(content)).toBe(true);
  await write(again, 1, 7);
  const status: VolumeStatus = await showOf(again);
  expect(status).toMatchObject({ failure: null, role: 'primary' });
});
