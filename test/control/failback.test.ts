/**
 * An old primary becomes the mirror of the copy that went on: what it alone had is kept, what differs is sent and no more, and the
 * way home is the same way. Two nodes in this process, joined by unix sockets; contents are written and read with nbdcopy, which is
 * not ours.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test, type TestContext } from 'vitest';
import type { SnapshotStatus, VolumeStatus } from '../../src/control/status.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';
import { contentOf, inStep, PIECE, showOf } from './volume-v.ts';

const SIZE = 4 * 2 ** 20;

interface Stage {
  readonly scope: Scope;
  readonly alpha: LocalNode;
  readonly beta: LocalNode;
  readonly dir: string;
}

const promote = ({ client }: LocalNode, force = false): Promise<VolumeStatus> =>
  client.call<VolumeStatus>('POST', '/v1/volumes/v/promote', { force });

const failback = ({ client }: LocalNode, node: string, force = false): Promise<VolumeStatus> =>
  client.call<VolumeStatus>('POST', '/v1/volumes/v/failback', { node, force });

async function copyIn(node: LocalNode, dir: string, content: Buffer): Promise<void> {
  writeFileSync(join(dir, 'in'), content);
  await run('nbdcopy', ['--flush', join(dir, 'in'), node.uri('v')]);
}

async function mirror(from: LocalNode, to: LocalNode, seeded: boolean): Promise<void> {
  await from.client.call('POST', '/v1/volumes/v/mirrors', { uri: to.uri('v'), seeded });
  await inStep(from);
}

async function divergedOf({ client }: LocalNode): Promise<string[]> {
  const { snapshots } = await client.call<{ snapshots: SnapshotStatus[] }>(
    'GET',
    '/v1/volumes/v/snapshots',
  );
  return snapshots.map(({ name }) => name).filter((name) => name.startsWith('diverged-'));
}

/** The content with one piece of it changed. */
function changed(content: Buffer, piece: number): Buffer {
  const copy = Buffer.from(content);
  randomBytes(PIECE).copy(copy, piece * PIECE);
  return copy;
}

async function stage(context: TestContext): Promise<Stage & { readonly content: Buffer }> {
  requireTools(context, 'nbdcopy');
  const scope = testScope();
  const beta = await startLocalNode(scope, { flags: { name: 'beta' } });
  const alpha = await startLocalNode(scope, { flags: { name: 'alpha' } });
  const dir = scope.tempDir('bf-failback-');
  await alpha.client.call('POST', '/v1/volumes', { name: 'v', size: '4M' });
  await beta.client.call('POST', '/v1/volumes', { name: 'v', size: '4M', mirror_of: 'alpha' });
  const content = randomBytes(SIZE);
  await copyIn(alpha, dir, content);
  await mirror(alpha, beta, false);
  return { scope, alpha, beta, dir, content };
}

const again = (scope: Scope, node: LocalNode, name: string): Promise<LocalNode> =>
  startLocalNode(scope, { flags: { name, data: node.config.data } });

describe('an old primary', () => {
  test('gets what the new one has, and keeps what it alone had', async (context) => {
    const { scope, alpha, beta, dir, content } = await stage(context);
    // Alpha writes what beta never gets, while beta is away.
    await beta.node.stop();
    const lost = changed(content, 3);
    await copyIn(alpha, dir, lost);
    await alpha.node.stop();
    const newer = await again(scope, beta, 'beta');
    await promote(newer);
    const goesOn = changed(content, 40);
    await copyIn(newer, dir, goesOn);
    const old = await again(scope, alpha, 'alpha');
    const waiting = await failback(old, 'beta', true);
    expect(waiting).toMatchObject({ role: 'secondary', fenced: null, mirrors: [] });
    expect(waiting.source).toMatchObject({ node: 'beta', state: 'waiting', consistent_at: null });
    expect(await codeOf(promote(old, true))).toBe('MIRROR_EMPTY');
    await mirror(newer, old, true);
    expect((await contentOf(old, dir)).equals(goesOn)).toBe(true);
    const [kept, ...others] = await divergedOf(old);
    expect(others).toEqual([]);
    expect((await contentOf(old, dir, `v@${kept}`)).equals(lost)).toBe(true);
    const [sent] = (await showOf(newer)).mirrors;
    expect(sent?.bytes_compared).toBeGreaterThanOrEqual(SIZE);
    expect(sent?.delta_bytes_sent).toBeLessThan(4 * PIECE);
    // It follows like any mirror.
    const more = changed(goesOn, 9);
    await copyIn(newer, dir, more);
    await inStep(newer);
    expect((await contentOf(old, dir)).equals(more)).toBe(true);
  });

  test('that is fenced needs no force, lets go of its clients, and is a mirror after a restart too', async (context) => {
    const { scope, alpha, beta, dir, content } = await stage(context);
    await promote(beta, true);
    await waitUntil('the fence', async () => (await showOf(alpha)).fenced !== null);
    const writer = copyIn(alpha, dir, randomBytes(SIZE)).then(
      () => 'written',
      () => 'refused',
    );
    await waitUntil('the client', async () => (await showOf(alpha)).connections > 0);
    await failback(alpha, 'beta');
    expect(await writer).toBe('refused');
    await alpha.node.stop();
    const old = await again(scope, alpha, 'alpha');
    expect(await showOf(old)).toMatchObject({ role: 'secondary', source: { node: 'beta' } });
    // Also when nobody said that it has most of it.
    await mirror(beta, old, false);
    expect((await contentOf(old, dir)).equals(content)).toBe(true);
    const [kept] = await divergedOf(old);
    expect((await contentOf(old, dir, `v@${kept}`)).equals(content)).toBe(true);
  });

  test('is the primary again the same way, whatever its journal holds of earlier times', async (context) => {
    const { scope, alpha, beta, dir, content } = await stage(context);
    await alpha.node.stop();
    await promote(beta);
    const second = changed(content, 1);
    await copyIn(beta, dir, second);
    const old = await again(scope, alpha, 'alpha');
    await failback(old, 'beta', true);
    await mirror(beta, old, true);
    const third = changed(second, 2);
    await copyIn(beta, dir, third);
    await inStep(beta);
    await beta.node.stop();
    await promote(old);
    const fourth = changed(third, 3);
    await copyIn(old, dir, fourth);
    const back = await again(scope, beta, 'beta');
    await waitUntil('the fence', async () => (await showOf(back)).fenced !== null);
    await failback(back, 'alpha');
    expect((await contentOf(back, dir)).equals(third)).toBe(true);
    await mirror(old, back, true);
    expect((await contentOf(back, dir)).equals(fourth)).toBe(true);
    expect((await showOf(back)).position.generation).toBe(3);
  });

  test('is refused as long as nobody is known to go on from it, and as a mirror of its own node', async (context) => {
    const { alpha, beta } = await stage(context);
    expect(await codeOf(failback(alpha, 'beta'))).toBe('VOLUME_NOT_FENCED');
    expect(await codeOf(failback(alpha, 'alpha', true))).toBe('MIRROR_SELF');
    expect(await codeOf(failback(alpha, 'no/node', true))).toBe('NODE_NAME_INVALID');
    expect(await codeOf(failback(beta, 'alpha', true))).toBe('VOLUME_IS_SECONDARY');
    expect(await divergedOf(alpha)).toEqual([]);
    expect(await showOf(alpha)).toMatchObject({ role: 'primary' });
  });
});
