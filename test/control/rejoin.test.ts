/**
 * An old primary that follows again gets what either side changed since they parted, and nothing else. Two nodes in this process,
 * joined by unix sockets; pieces are written with qemu-io and contents read with nbdcopy, which are not ours.
 */
import { expect, test, type TestContext } from 'vitest';
import type { FailbackStatus, PromotionStatus } from '../../src/control/status.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { startLocalNode, type LocalNode } from './fixture.ts';
import { contentOf, inStep, PIECE, showOf, write } from './volume-v.ts';

const MIB = 2 ** 20;

interface Stage {
  readonly scope: Scope;
  readonly alpha: LocalNode;
  readonly beta: LocalNode;
  readonly dir: string;
}

const promote = ({ client }: LocalNode, force = false): Promise<PromotionStatus> =>
  client.call<PromotionStatus>('POST', '/v1/volumes/v/promote', { force });
const failback = ({ client }: LocalNode, node: string): Promise<FailbackStatus> =>
  client.call<FailbackStatus>('POST', '/v1/volumes/v/failback', { node, force: true });
const again = (scope: Scope, node: LocalNode, name: string): Promise<LocalNode> =>
  startLocalNode(scope, { flags: { name, data: node.config.data } });

async function mirror(from: LocalNode, to: LocalNode): Promise<void> {
  await from.client.call('POST', '/v1/volumes/v/mirrors', { uri: to.uri('v') });
  await inStep(from);
}

/** Each of 16 MiB has its own byte at the first piece. */
async function stage(context: TestContext): Promise<Stage> {
  requireTools(context, 'nbdcopy', 'qemu-io');
  const scope = testScope();
  const beta = await startLocalNode(scope, { flags: { name: 'beta' } });
  const alpha = await startLocalNode(scope, { flags: { name: 'alpha' } });
  const dir = scope.tempDir('bf-rejoin-');
  await alpha.client.call('POST', '/v1/volumes', { name: 'v', size: '64M' });
  await beta.client.call('POST', '/v1/volumes', { name: 'v', size: '64M', mirror_of: 'alpha' });
  await run('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 64M', alpha.uri('v')]);
  await mirror(alpha, beta);
  return { scope, alpha, beta, dir };
}

test('an old primary is compared where one of the two changed something, and nowhere else', async (context) => {
  const { scope, alpha, beta, dir } = await stage(context);
  await beta.node.stop();
  await write(alpha, 3, 2);
  await alpha.node.stop();
  const newer = await again(scope, beta, 'beta');
  await promote(newer);
  await write(newer, 40, 3);
  await write(newer, 3, 4);
  const old = await again(scope, alpha, 'alpha');
  const { failback: told } = await failback(old, 'beta');
  expect(told).toMatchObject({ bytes_that_may_differ: PIECE });
  expect(told.common?.generation).toBe(1);
  await mirror(newer, old);
  const [entry] = (await showOf(newer)).mirrors;
  expect(entry?.bytes_compared).toBe(2 * PIECE);
  expect(entry?.delta_bytes_sent).toBeLessThan(2.4 * PIECE);
  const content = await contentOf(newer, dir);
  expect((await contentOf(old, dir)).equals(content)).toBe(true);
  expect(content[3 * PIECE]).toBe(4);
  expect(content[40 * PIECE]).toBe(3);
});

test('a promoted mirror goes back to being one of the volume that went on too', async (context) => {
  const { alpha, beta, dir } = await stage(context);
  // Both go on from the same state.
  await promote(beta, true);
  await write(beta, 7, 5);
  await waitUntil('the fence', async () => (await showOf(alpha)).fenced !== null);
  await promote(alpha, true);
  await write(alpha, 9, 6);
  const { failback: told } = await failback(beta, 'alpha');
  expect(told).toMatchObject({ bytes_that_may_differ: PIECE });
  const before = (await showOf(alpha)).mirrors[0];
  await alpha.client.call('POST', '/v1/volumes/v/mirrors/resume', {});
  await inStep(alpha);
  const [entry] = (await showOf(alpha)).mirrors;
  const moved = (entry?.delta_bytes_sent ?? 0) - (before?.delta_bytes_sent ?? 0);
  const compared = (entry?.bytes_compared ?? 0) - (before?.bytes_compared ?? 0);
  expect(moved).toBeLessThan(2.4 * PIECE);
  expect(compared).toBeLessThan(MIB);
  const content = await contentOf(alpha, dir);
  expect((await contentOf(beta, dir)).equals(content)).toBe(true);
  expect([content[7 * PIECE], content[9 * PIECE]]).toEqual([1, 6]);
});
