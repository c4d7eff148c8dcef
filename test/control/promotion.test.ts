/**
 * A mirror that is made the volume: what it holds then, who may do that and when, and what its old primary hears when it comes
 * back. Two nodes in this process, joined by a unix socket; contents are written and read with nbdcopy, which is not ours.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { PromotionStatus, VolumeStatus } from '../../src/control/status.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

const SIZE = 4 * 2 ** 20;

interface Pair {
  readonly alpha: LocalNode;
  readonly beta: LocalNode;
  readonly dir: string;
}

const showOf = ({ client }: LocalNode, name = 'v'): Promise<VolumeStatus> =>
  client.call<VolumeStatus>('GET', `/v1/volumes/${name}`);

const promote = ({ client }: LocalNode, force = false): Promise<VolumeStatus> =>
  client.call<VolumeStatus>('POST', '/v1/volumes/v/promote', { force });

async function pair(scope: Scope): Promise<Pair> {
  const beta = await startLocalNode(scope, { flags: { name: 'beta' } });
  const alpha = await startLocalNode(scope, { flags: { name: 'alpha' } });
  await alpha.client.call('POST', '/v1/volumes', { name: 'v', size: '4M' });
  await beta.client.call('POST', '/v1/volumes', { name: 'v', size: '4M', mirror_of: 'alpha' });
  return { alpha, beta, dir: scope.tempDir('bf-promotion-') };
}

/** Writes random bytes everywhere, and waits until the mirror has them. */
async function filled({ alpha, dir }: Pair, uri: string): Promise<Buffer> {
  const content = randomBytes(SIZE);
  const file = join(dir, 'content');
  writeFileSync(file, content);
  await run('nbdcopy', ['--flush', file, alpha.uri('v')]);
  if ((await showOf(alpha)).mirrors.length === 0) {
    await alpha.client.call('POST', '/v1/volumes/v/mirrors', { uri });
  }
  await waitUntil('the mirror to have everything', async () => {
    const [first] = (await showOf(alpha)).mirrors;
    return first?.state === 'streaming' && first.dirty_bytes + first.staged_bytes === 0;
  });
  return content;
}

async function contentOf(node: LocalNode, dir: string, name = 'v'): Promise<Buffer> {
  const file = join(dir, 'read');
  await run('nbdcopy', [node.uri(name), file]);
  return readFileSync(file);
}

describe('a mirror that is promoted', () => {
  test('takes writes, with all that it had, also after a restart', async (context) => {
    requireTools(context, 'nbdcopy');
    const scope = testScope();
    const nodes = await pair(scope);
    const { alpha, beta, dir } = nodes;
    const content = await filled(nodes, beta.uri('v'));
    const before = (await showOf(beta)).position;
    await alpha.node.stop();
    const promoted = await promote(beta);
    expect(promoted).toMatchObject({ role: 'standalone', generation: 2, source: null });
    expect(promoted.position.epoch).toBeGreaterThanOrEqual(before.epoch);
    expect((await contentOf(beta, dir)).equals(content)).toBe(true);
    const more = randomBytes(SIZE);
    writeFileSync(join(dir, 'more'), more);
    await run('nbdcopy', ['--flush', join(dir, 'more'), beta.uri('v')]);
    expect((await contentOf(beta, dir)).equals(more)).toBe(true);
    await beta.node.stop();
    const again = await startLocalNode(scope, {
      flags: { name: 'beta', data: beta.config.data },
    });
    expect(await showOf(again)).toMatchObject({ role: 'standalone', generation: 2 });
    expect((await contentOf(again, dir)).equals(more)).toBe(true);
    expect(await codeOf(promote(again))).toBe('VOLUME_IS_PRIMARY');
  });

  test('is not while its primary is alive, but by force; then the primary sends nothing more', async (context) => {
    requireTools(context, 'nbdcopy');
    const nodes = await pair(testScope());
    const { alpha, beta, dir } = nodes;
    const content = await filled(nodes, beta.uri('v'));
    expect(await codeOf(promote(beta))).toBe('PRIMARY_ALIVE');
    expect(await showOf(beta)).toMatchObject({ role: 'secondary' });
    await promote(beta, true);
    await waitUntil('the primary to hear of it', async () => {
      const [first] = (await showOf(alpha)).mirrors;
      return first?.state === 'diverged';
    });
    const [first] = (await showOf(alpha)).mirrors;
    expect(first?.last_error).toMatch(/promoted after epoch \d+ and has generation 2/);
    expect((await showOf(alpha)).fenced).toBe(first?.last_error);
    expect((await contentOf(beta, dir)).equals(content)).toBe(true);
  });

  test('tells what it holds, and by --at has the content of a snapshot, with the latest state kept', async (context) => {
    requireTools(context, 'nbdcopy');
    const scope = testScope();
    const nodes = await pair(scope);
    const { alpha, beta, dir } = nodes;
    const first = await filled(nodes, beta.uri('v'));
    // What a failed-back volume has: a snapshot on the mirror.
    await alpha.node.stop();
    await promote(beta);
    await beta.client.call('POST', '/v1/volumes/v/snapshots', { name: 'good' });
    const gamma = await startLocalNode(scope, { flags: { name: 'gamma' } });
    await gamma.client.call('POST', '/v1/volumes', { name: 'v', size: '4M' });
    await beta.client.call('POST', '/v1/volumes/v/failback', { node: 'gamma', force: true });
    const second = randomBytes(SIZE);
    writeFileSync(join(dir, 'second'), second);
    await run('nbdcopy', ['--flush', join(dir, 'second'), gamma.uri('v')]);
    await gamma.client.call('POST', '/v1/volumes/v/mirrors', { uri: beta.uri('v'), seeded: true });
    await waitUntil('gamma to be in step', async () => {
      const [mirror] = (await showOf(gamma)).mirrors;
      return mirror?.state === 'streaming' && mirror.dirty_bytes + mirror.staged_bytes === 0;
    });
    await gamma.node.stop();
    const at = (name: string): Promise<PromotionStatus> =>
      beta.client.call('POST', '/v1/volumes/v/promote', { at: name });
    expect(await codeOf(at('none'))).toBe('SNAPSHOT_NOT_FOUND');
    expect(await showOf(beta)).toMatchObject({ role: 'secondary' });
    const { position } = await showOf(beta);
    const { promotion } = await at('good');
    expect(promotion).toMatchObject({ position: { epoch: position.epoch }, at: 'good' });
    expect(promotion?.dropped_epochs).toBe(0);
    expect(promotion?.kept_as).toMatch(/^before-promotion-\d{8}T\d{6}Z$/);
    expect((await contentOf(beta, dir)).equals(first)).toBe(true);
    expect((await contentOf(beta, dir, `v@${promotion?.kept_as}`)).equals(second)).toBe(true);
  });

  test('is not before it holds anything', async () => {
    const { beta } = await pair(testScope());
    expect(await codeOf(promote(beta, true))).toBe('MIRROR_EMPTY');
    expect(await showOf(beta)).toMatchObject({ role: 'secondary' });
  });

  test('can have a mirror of its own', async (context) => {
    requireTools(context, 'nbdcopy');
    const scope = testScope();
    const nodes = await pair(scope);
    const { alpha, beta, dir } = nodes;
    const content = await filled(nodes, beta.uri('v'));
    await alpha.node.stop();
    await promote(beta);
    const gamma = await startLocalNode(scope, { flags: { name: 'gamma' } });
    await gamma.client.call('POST', '/v1/volumes', { name: 'v', size: '4M', mirror_of: 'beta' });
    await beta.client.call('POST', '/v1/volumes/v/mirrors', { uri: gamma.uri('v') });
    await waitUntil('the mirror of the mirror', async () => {
      const [first] = (await showOf(beta)).mirrors;
      return first?.state === 'streaming' && first.dirty_bytes + first.staged_bytes === 0;
    });
    expect((await contentOf(gamma, dir)).equals(content)).toBe(true);
    expect((await showOf(gamma)).position.generation).toBe(2);
  });
});
