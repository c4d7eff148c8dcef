/**
 * The writes of a volume move from a living primary to its mirror, from either side and back again, with nothing lost, nothing
 * copied and nothing compared; and both take writes when that is wanted. Two nodes in this process, joined by unix sockets; pieces are
 * written with qemu-io and contents read with nbdcopy, which are not ours.
 */
import { describe, expect, test, type TestContext } from 'vitest';
import type { VolumeStatus } from '../../src/control/status.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';
import { contentOf, inStep, PIECE, showOf, write } from './volume-v.ts';

interface Stage {
  readonly scope: Scope;
  readonly alpha: LocalNode;
  readonly beta: LocalNode;
  readonly dir: string;
}

const move = (on: LocalNode, body: object): Promise<VolumeStatus> =>
  on.client.call<VolumeStatus>('POST', '/v1/volumes/v/switchover', body);

async function stage(context: TestContext): Promise<Stage> {
  requireTools(context, 'nbdcopy', 'qemu-io');
  const scope = testScope();
  const beta = await startLocalNode(scope, { flags: { name: 'beta' } });
  const alpha = await startLocalNode(scope, { flags: { name: 'alpha' } });
  await alpha.client.call('POST', '/v1/volumes', { name: 'v', size: '16M' });
  await beta.client.call('POST', '/v1/volumes', { name: 'v', size: '16M', mirror_of: 'alpha' });
  await run('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 16M', alpha.uri('v')]);
  await alpha.client.call('POST', '/v1/volumes/v/mirrors', { uri: beta.uri('v') });
  await inStep(alpha);
  return { scope, alpha, beta, dir: scope.tempDir('bf-switchover-') };
}

describe('a switchover', () => {
  test('moves the writes and back, from either side, and copies nothing', async (context) => {
    const { alpha, beta, dir } = await stage(context);
    await write(alpha, 1, 2);
    expect(await move(alpha, { back: alpha.uri('v') })).toMatchObject({
      role: 'secondary',
      source: { node: 'beta' },
    });
    await inStep(beta);
    const [first] = (await showOf(beta)).mirrors;
    expect(first).toMatchObject({ delta_bytes_sent: 0, bytes_compared: 0 });
    expect((await contentOf(beta, dir))[PIECE]).toBe(2);
    await write(beta, 2, 3);
    await inStep(beta);
    // Home again, by the mirror's wish.
    expect(await move(alpha, { back: beta.uri('v') })).toMatchObject({
      generation: 3,
      source: null,
    });
    await inStep(alpha);
    const [second] = (await showOf(alpha)).mirrors;
    expect(second).toMatchObject({ delta_bytes_sent: 0, bytes_compared: 0 });
    await write(alpha, 3, 4);
    await inStep(alpha);
    const content = await contentOf(alpha, dir);
    expect((await contentOf(beta, dir)).equals(content)).toBe(true);
    expect([1, 2, 3].map((piece) => content[piece * PIECE])).toEqual([2, 3, 4]);
  });

  test('without a way back leaves the old primary waiting, and what changed meanwhile is all that is sent', async (context) => {
    const { alpha, beta, dir } = await stage(context);
    await move(beta, {});
    await waitUntil('alpha to follow', async () => (await showOf(alpha)).role === 'secondary');
    await write(beta, 5, 6);
    await beta.client.call('POST', '/v1/volumes/v/mirrors', { uri: alpha.uri('v') });
    await inStep(beta);
    const [mirror] = (await showOf(beta)).mirrors;
    expect(mirror?.bytes_compared).toBe(PIECE);
    const content = await contentOf(beta, dir);
    expect((await contentOf(alpha, dir)).equals(content)).toBe(true);
  });

  test('is refused when the mirror does not follow, and writes go on', async (context) => {
    const { alpha, beta, dir } = await stage(context);
    await beta.node.stop();
    await waitUntil(
      'the loss',
      async () => (await showOf(alpha)).mirrors[0]?.state !== 'streaming',
    );
    expect(await codeOf(move(alpha, {}))).toBe('MIRROR_STATE');
    await write(alpha, 7, 8);
    expect((await contentOf(alpha, dir))[7 * PIECE]).toBe(8);
  });

  test('that the mirror refuses leaves the writes where they were', async (context) => {
    const { alpha, beta } = await stage(context);
    expect(await codeOf(move(alpha, { back: beta.uri('v') }))).toBe('HANDOVER_FAILED');
    await write(alpha, 7, 8);
    await inStep(alpha);
    expect(await showOf(beta)).toMatchObject({ role: 'secondary', generation: 1 });
    expect(await showOf(alpha)).toMatchObject({ fenced: null, generation: 1 });
  });
});

test('a snapshot of the mirror is cloned, and written, while the mirror follows', async (context) => {
  const { alpha, beta, dir } = await stage(context);
  await alpha.client.call('POST', '/v1/volumes/v/snapshots', { name: 'drill' });
  await waitUntil('the snapshot to arrive', async () => (await showOf(beta)).snapshots === 1);
  await beta.client.call('POST', '/v1/volumes/v/snapshots/drill/clone', { name: 'rehearsal' });
  await run('qemu-io', ['-f', 'raw', '-c', `write -P 99 0 ${PIECE}`, beta.uri('rehearsal')]);
  await write(alpha, 1, 42);
  await inStep(alpha);
  await waitUntil(
    'the write to be readable',
    async () => (await contentOf(beta, dir))[PIECE] === 42,
  );
  expect((await contentOf(beta, dir))[0]).toBe(1);
  const clone = await contentOf(beta, dir, 'rehearsal');
  expect([clone[0], clone[PIECE]]).toEqual([99, 1]);
  expect(await showOf(beta)).toMatchObject({ role: 'secondary', source: { state: 'streaming' } });
});

test('a split lets both take writes, unfenced, and the mirror follows again with what differs', async (context) => {
  const { alpha, beta, dir } = await stage(context);
  await beta.client.call('POST', '/v1/volumes/v/split', {});
  await write(alpha, 1, 10);
  await write(beta, 2, 20);
  expect(await showOf(alpha)).toMatchObject({ fenced: null, mirrors: [{ state: 'paused' }] });
  await beta.client.call('POST', '/v1/volumes/v/failback', { node: 'alpha', force: true });
  const before = (await showOf(alpha)).mirrors[0];
  await alpha.client.call('POST', '/v1/volumes/v/mirrors/resume', {});
  await inStep(alpha);
  const after = (await showOf(alpha)).mirrors[0];
  expect((after?.delta_bytes_sent ?? 0) - (before?.delta_bytes_sent ?? 0)).toBeLessThan(3 * PIECE);
  const content = await contentOf(alpha, dir);
  expect((await contentOf(beta, dir)).equals(content)).toBe(true);
  expect([content[PIECE], content[2 * PIECE]]).toEqual([10, 1]);
});
