/**
 * A volume with two mirrors whose writes move to one of them: the other one does not silently stay behind. It is told, on every node,
 * which command has it follow, and one command each does. Three nodes in this process, joined by unix sockets; pieces are written with
 * qemu-io and contents read with nbdcopy, which are not ours.
 */
import { describe, expect, test, type TestContext } from 'vitest';
import type { SwitchoverStatus, VolumeStatus } from '../../src/control/status.ts';
import { BlockferryError } from '../../src/io/errors.ts';
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
  readonly gamma: LocalNode;
  readonly dir: string;
}

const post = <T = VolumeStatus>(on: LocalNode, path: string, body: object): Promise<T> =>
  on.client.call<T>('POST', `/v1/volumes/v/${path}`, body);

async function messageOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (thrown) {
    if (thrown instanceof BlockferryError) return thrown.message;
    throw thrown;
  }
  throw new Error('it was not refused');
}

/** A node that was stopped, at the same address. */
function startAgain(scope: Scope, node: LocalNode, dir: string): Promise<LocalNode> {
  const [, socket = ''] = node.uri('v').split('socket=');
  const { name, data } = node.config;
  const flags = { name, data, nbd: [`unix:${socket}`], control: `unix:${dir}/control` };
  return startLocalNode(scope, { flags });
}

async function stage(context: TestContext): Promise<Stage> {
  requireTools(context, 'nbdcopy', 'qemu-io');
  const scope = testScope();
  const named = (name: string): Promise<LocalNode> => startLocalNode(scope, { flags: { name } });
  const [alpha, beta, gamma] = [await named('alpha'), await named('beta'), await named('gamma')];
  await alpha.client.call('POST', '/v1/volumes', { name: 'v', size: '8M' });
  await run('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 8M', alpha.uri('v')]);
  for (const node of [beta, gamma]) {
    await node.client.call('POST', '/v1/volumes', { name: 'v', size: '8M', mirror_of: 'alpha' });
    await post(alpha, 'mirrors', { uri: node.uri('v') });
  }
  await inStep(alpha, 2);
  return { scope, alpha, beta, gamma, dir: scope.tempDir('bf-second-mirror-') };
}

describe('behind a switchover, the other mirror', () => {
  test('is one of the new primary, and follows when it is told: nothing is sent again', async (context) => {
    const { alpha, beta, gamma, dir } = await stage(context);
    await write(alpha, 1, 2);
    const moved = await post<SwitchoverStatus>(alpha, 'switchover', {
      to: 'beta',
      back: alpha.uri('v'),
    });
    const command = 'blockferry volume set v --mirror-of beta';
    const step = { node: 'gamma', mirror: gamma.uri('v'), command };
    expect(moved).toMatchObject({ role: 'secondary', back: alpha.uri('v'), next: [step] });
    for (const { lines } of [alpha, beta]) {
      expect(lines.filter((line) => line.includes('"mirror-left-behind"'))).toHaveLength(1);
      expect(lines.join('')).toContain(`on gamma: ${command}`);
    }
    await waitUntil('gamma to be told', async () => {
      return (await showOf(gamma)).source?.last_error?.includes(command) === true;
    });
    await write(beta, 2, 3);
    await post(gamma, 'set', { mirror_of: 'beta' });
    await inStep(beta, 2);
    const found = (await showOf(beta)).mirrors.find(({ node }) => node === 'gamma');
    expect(found?.bytes_compared).toBe(0);
    expect(found?.delta_bytes_sent).toBeLessThan(2 * PIECE);
    const content = await contentOf(beta, dir);
    expect((await contentOf(gamma, dir)).equals(content)).toBe(true);
    expect([1, 2].map((piece) => content[piece * PIECE])).toEqual([2, 3]);
  });

  test('that was away is compared when it is back', async (context) => {
    const { scope, alpha, beta, gamma, dir } = await stage(context);
    await gamma.node.stop();
    await write(alpha, 1, 2);
    const moved = await post<SwitchoverStatus>(beta, 'switchover', { back: alpha.uri('v') });
    expect(moved.next).toMatchObject([{ node: 'gamma' }]);
    const back = await startAgain(scope, gamma, dir);
    await post(back, 'set', { mirror_of: 'beta' });
    await inStep(beta, 2);
    const found = (await showOf(beta)).mirrors.find(({ node }) => node === 'gamma');
    expect(found?.bytes_compared).toBe(8 * 2 ** 20);
    expect(found?.delta_bytes_sent).toBeLessThan(2 * PIECE);
    expect((await contentOf(gamma, dir)).equals(await contentOf(beta, dir))).toBe(true);
  });

  test('keeps a move from being made that its writes would wait for', async (context) => {
    const { alpha, gamma } = await stage(context);
    await post(alpha, 'mirrors/remove', { uri: gamma.uri('v') });
    await post(alpha, 'mirrors', { uri: gamma.uri('v'), mode: 'sync', stall_policy: 'block' });
    await inStep(alpha, 2);
    expect(await codeOf(post(alpha, 'switchover', { to: 'beta' }))).toBe('MIRROR_STATE');
    await write(alpha, 3, 4);
  });
});

describe('when another mirror was promoted, a mirror', () => {
  test('is told whom to follow, and follows', async (context) => {
    const { alpha, beta, gamma, dir } = await stage(context);
    expect(await codeOf(post(gamma, 'set', { mirror_of: 'beta' }))).toBe('PRIMARY_ALIVE');
    expect(await codeOf(post(alpha, 'set', { mirror_of: 'beta' }))).toBe('VOLUME_IS_PRIMARY');
    await alpha.node.stop();
    await waitUntil('the loss', async () => (await showOf(gamma)).source?.state === 'waiting');
    await post(beta, 'promote', { force: true });
    await write(beta, 3, 4);
    const advice = 'blockferry volume set v --mirror-of beta';
    expect(await messageOf(post(beta, 'mirrors', { uri: gamma.uri('v') }))).toContain(advice);
    expect((await showOf(gamma)).source?.last_error).toContain(advice);
    expect(await codeOf(post(gamma, 'set', { mirror_of: 'gamma' }))).toBe('MIRROR_SELF');
    expect(await post(gamma, 'set', { mirror_of: 'beta' })).toMatchObject({
      role: 'secondary',
      source: { node: 'beta', volume_id: null },
    });
    await post(beta, 'mirrors', { uri: gamma.uri('v') });
    await inStep(beta);
    expect((await contentOf(gamma, dir)).equals(await contentOf(beta, dir))).toBe(true);
  });

  test('that follows tells the old primary, which may not reach that one', async (context) => {
    const { scope, alpha, beta, gamma, dir } = await stage(context);
    await alpha.node.stop();
    await waitUntil('the loss', async () => (await showOf(gamma)).source?.state === 'waiting');
    await post(beta, 'promote', { force: true });
    await post(gamma, 'set', { mirror_of: 'beta' });
    await post(beta, 'mirrors', { uri: gamma.uri('v') });
    await write(beta, 3, 4);
    await inStep(beta);
    // Nobody reaches beta any more.
    await beta.node.stop();
    const back = await startAgain(scope, alpha, dir);
    await waitUntil('alpha to hear of it', async () => (await showOf(back)).fenced !== null);
    expect((await showOf(gamma)).source).toMatchObject({ node: 'beta' });
    expect((await contentOf(gamma, dir))[3 * PIECE]).toBe(4);
  });

  test('does not stay behind in silence when its primary follows that one', async (context) => {
    const { alpha, beta, gamma } = await stage(context);
    await post(beta, 'promote', { force: true });
    await waitUntil('alpha to hear of it', async () => (await showOf(alpha)).fenced !== null);
    await post(alpha, 'failback', { node: 'beta' });
    const told = alpha.lines.filter((line) => line.includes('"mirror-left-behind"')).join('');
    expect(told).toContain('on gamma: blockferry volume set v --mirror-of beta');
    expect(told).toContain(`on beta: blockferry mirror add v ${gamma.uri('v')}`);
    expect(told).not.toContain(beta.uri('v'));
  });

  test('that has more than that one gives it up by force alone, and keeps it', async (context) => {
    const { alpha, beta, gamma, dir } = await stage(context);
    await post(alpha, 'mirrors/pause', { uri: beta.uri('v') });
    await write(alpha, 5, 5);
    await post(alpha, 'snapshots', { name: 'late' });
    await write(alpha, 5, 6);
    await waitUntil('it on gamma', async () => (await contentOf(gamma, dir))[5 * PIECE] === 6);
    await alpha.node.stop();
    await post(beta, 'promote', { force: true });
    await write(beta, 7, 8);
    await waitUntil('the loss', async () => (await showOf(gamma)).source?.state === 'waiting');
    await post(gamma, 'set', { mirror_of: 'beta' });
    expect(await codeOf(post(beta, 'mirrors', { uri: gamma.uri('v') }))).toBe('MIRROR_DIVERGED');
    await post(gamma, 'set', { mirror_of: 'beta', force: true });
    await post(beta, 'mirrors', { uri: gamma.uri('v'), seeded: true });
    await inStep(beta);
    const content = await contentOf(gamma, dir);
    expect(content.equals(await contentOf(beta, dir))).toBe(true);
    expect([5, 7].map((piece) => content[piece * PIECE])).toEqual([1, 8]);
    const path = '/v1/volumes/v/snapshots';
    const { snapshots } = await gamma.client.call<{ snapshots: { name: string }[] }>('GET', path);
    const kept = snapshots.map(({ name }) => name).find((name) => name.startsWith('diverged-'));
    expect((await contentOf(gamma, dir, `v@${kept ?? ''}`))[5 * PIECE]).toBe(6);
    // What its old primary had it keep, and the new one never had, stays its own.
    expect(snapshots.map(({ name }) => name)).toContain('late');
    expect((await contentOf(gamma, dir, 'v@late'))[5 * PIECE]).toBe(5);
  });
});
