/**
 * A switchover whose link is lost at the worst of times: the question never arrives, its answer never comes back, and the old primary
 * ends before it hears. Whoever is asked afterwards, exactly one of the two takes writes. Two nodes in this process, joined by a relay
 * that loses what it is told to; pieces are written with qemu-io.
 */
import { readFileSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { expect, test, type TestContext } from 'vitest';
import type { VolumeStatus } from '../../src/control/status.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';
import { PIECE, inStep, showOf, write } from './volume-v.ts';

/** What is lost: the question, or all that the mirror says from then on, on new links too. */
type Loss = 'nothing' | 'question' | 'answer';

interface Relay {
  loss: Loss;
  readonly path: string;
}

interface Stage {
  readonly scope: Scope;
  readonly alpha: LocalNode;
  readonly beta: LocalNode;
  readonly relay: Relay;
  readonly dir: string;
}

const move = (on: LocalNode, body: object): Promise<VolumeStatus> =>
  on.client.call<VolumeStatus>('POST', '/v1/volumes/v/switchover', body);

async function relayTo(scope: Scope, node: LocalNode, dir: string): Promise<Relay> {
  const relay: Relay = { loss: 'nothing', path: join(dir, 'relay.sock') };
  const to = join(dirname(node.config.data), 'nbd.sock');
  const sockets = new Set<Socket>();
  let asked = false;
  const server = createServer((near) => {
    if (asked && relay.loss === 'answer') {
      near.destroy();
      return;
    }
    const far = createConnection(to);
    const end = (): void => {
      near.destroy();
      far.destroy();
    };
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', end).on('close', end);
    }
    near.on('data', (bytes: Buffer) => {
      const asks = bytes.includes('hand-over');
      if (asks && relay.loss === 'question') return end();
      asked ||= asks;
      far.write(bytes);
    });
    far.on('data', (bytes: Buffer) => {
      if (!asked || relay.loss === 'nothing') near.write(bytes);
    });
  });
  await new Promise<void>((resolve) => server.listen(relay.path, resolve));
  scope.defer('close the relay', async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return relay;
}

async function stage(context: TestContext): Promise<Stage> {
  requireTools(context, 'nbdcopy', 'qemu-io');
  const scope = testScope();
  const dir = scope.tempDir('bf-doubt-');
  const beta = await startLocalNode(scope, { flags: { name: 'beta' } });
  const relay = await relayTo(scope, beta, dir);
  const alpha = await startLocalNode(scope, { flags: { name: 'alpha' } });
  await alpha.client.call('POST', '/v1/volumes', { name: 'v', size: '4M' });
  await beta.client.call('POST', '/v1/volumes', { name: 'v', size: '4M', mirror_of: 'alpha' });
  const uri = `nbd+unix:///v?socket=${relay.path}`;
  await alpha.client.call('POST', '/v1/volumes/v/mirrors', { uri });
  await inStep(alpha);
  await write(alpha, 1, 7);
  return { scope, alpha, beta, relay, dir };
}

test('a question that is lost leaves the writes where they were', async (context) => {
  const { alpha, beta, relay } = await stage(context);
  relay.loss = 'question';
  expect(await codeOf(move(alpha, {}))).toBe('HANDOVER_FAILED');
  relay.loss = 'nothing';
  await write(alpha, 2, 8);
  await inStep(alpha);
  expect(await showOf(alpha)).toMatchObject({ role: 'primary', fenced: null, generation: 1 });
  expect(await showOf(beta)).toMatchObject({ role: 'secondary', generation: 1 });
});

test('an answer that is lost leaves the old primary waiting until it hears, and then it follows', async (context) => {
  const { alpha, beta, relay, dir } = await stage(context);
  relay.loss = 'answer';
  expect(await codeOf(move(alpha, { timeout_seconds: 1 }))).toBe('HANDOVER_IN_DOUBT');
  expect((await showOf(alpha)).fenced).toMatch(/it is not known whether that took over/);
  await waitUntil('beta to take over', async () => (await showOf(beta)).role === 'standalone');
  await write(beta, 2, 9);
  relay.loss = 'nothing';
  await waitUntil('alpha to follow', async () => (await showOf(alpha)).role === 'secondary');
  await beta.client.call('POST', '/v1/volumes/v/mirrors', { uri: alpha.uri('v') });
  await inStep(beta);
  await run('nbdcopy', [alpha.uri('v'), join(dir, 'out')]);
  const content = readFileSync(join(dir, 'out'));
  expect([content[PIECE], content[2 * PIECE]]).toEqual([7, 9]);
});

test('an old primary that ends before it hears takes no write when it comes back', async (context) => {
  const { scope, alpha, beta, relay } = await stage(context);
  relay.loss = 'answer';
  const asked = codeOf(move(alpha, { timeout_seconds: 1 }));
  await waitUntil('beta to take over', async () => (await showOf(beta)).role === 'standalone');
  expect(await asked).toBe('HANDOVER_IN_DOUBT');
  await alpha.node.stop();
  // Nobody can be asked: the writes wait nevertheless.
  await beta.node.stop();
  const alone = await startLocalNode(scope, { flags: { name: 'alpha', data: alpha.config.data } });
  expect((await showOf(alone)).fenced).toMatch(/it is not known/);
  await alone.node.stop();
  const newer = await startLocalNode(scope, {
    flags: { name: 'beta', data: beta.config.data, nbd: [`unix:${betaSocket(beta)}`] },
  });
  relay.loss = 'nothing';
  const old = await startLocalNode(scope, { flags: { name: 'alpha', data: alpha.config.data } });
  await waitUntil('alpha to follow', async () => (await showOf(old)).role === 'secondary');
  expect(await showOf(newer)).toMatchObject({ role: 'standalone', generation: 2 });
});

test('a mirror that is gone for good leaves the decision to the operator', async (context) => {
  const { alpha, beta, relay } = await stage(context);
  relay.loss = 'answer';
  expect(await codeOf(move(alpha, { timeout_seconds: 1 }))).toBe('HANDOVER_IN_DOUBT');
  await beta.node.stop();
  expect(await codeOf(alpha.client.call('POST', '/v1/volumes/v/promote', {}))).toBe(
    'VOLUME_FENCED',
  );
  await alpha.client.call('POST', '/v1/volumes/v/promote', { force: true });
  await write(alpha, 3, 3);
  expect(await showOf(alpha)).toMatchObject({ fenced: null, generation: 2 });
});

const betaSocket = ({ config }: LocalNode): string => join(dirname(config.data), 'nbd.sock');
