/**
 * A volume that is a mirror of another node's volume, as operators meet it: made, filled, shown, refused what only its
 * primary can decide, deleted. Two nodes in this process, joined by a unix socket; what the mirror holds is read with
 * nbdcopy, which is not ours.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { NodeStatus, VolumeStatus } from '../../src/control/status.ts';
import type { VerifyReport } from '../../src/replicator/status.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

const SIZE = 4 * 2 ** 20;

interface Pair {
  readonly alpha: LocalNode;
  readonly beta: LocalNode;
}

/** Node alpha with a volume, node beta with a mirror for it that nobody told alpha of. */
async function pair(scope: Scope): Promise<Pair> {
  const beta = await startLocalNode(scope, { flags: { name: 'beta' } });
  const alpha = await startLocalNode(scope, { flags: { name: 'alpha' } });
  await alpha.client.call('POST', '/v1/volumes', { name: 'demo', size: '4M' });
  await beta.client.call('POST', '/v1/volumes', { name: 'copy', size: '4M', mirror_of: 'alpha' });
  return { alpha, beta };
}

const showOf = ({ client }: LocalNode, name: string): Promise<VolumeStatus> =>
  client.call<VolumeStatus>('GET', `/v1/volumes/${name}`);

async function mirror({ alpha, beta }: Pair): Promise<void> {
  await alpha.client.call('POST', '/v1/volumes/demo/mirrors', { uri: beta.uri('copy') });
  await waitUntil('the mirror to stream', async () => {
    const [first] = (await showOf(alpha, 'demo')).mirrors;
    return first?.state === 'streaming' && first.dirty_bytes === 0 && first.staged_bytes === 0;
  });
}

describe('a secondary', () => {
  test('waits for its primary, and shows that it holds nothing', async () => {
    const { beta } = await pair(testScope());
    expect(await showOf(beta, 'copy')).toMatchObject({
      role: 'secondary',
      size_bytes: SIZE,
      access: { read_only: true },
      consistent_at: null,
      lag_seconds: null,
      mirrors: [],
      source: { node: 'alpha', volume_id: null, state: 'waiting', consistent_at: null },
    });
  });

  test('takes the content of its primary and follows it; both say the same of it', async (context) => {
    requireTools(context, 'nbdcopy');
    const scope = testScope();
    const nodes = await pair(scope);
    const { alpha, beta } = nodes;
    const dir = scope.tempDir('bf-secondary-');
    const [first, second, copy] = ['first', 'second', 'copy'].map((name) => join(dir, name));
    if (first === undefined || second === undefined || copy === undefined) throw new Error();
    writeFileSync(first, randomBytes(SIZE));
    writeFileSync(second, randomBytes(SIZE));
    await run('nbdcopy', [first, alpha.uri('demo')]);
    await mirror(nodes);
    await run('nbdcopy', [beta.uri('copy'), copy]);
    expect(readFileSync(copy).equals(readFileSync(first))).toBe(true);
    await run('nbdcopy', ['--flush', second, alpha.uri('demo')]);
    await waitUntil('the mirror to have it all', async () => {
      const [{ position }, source] = [await showOf(alpha, 'demo'), await showOf(beta, 'copy')];
      return source.source?.applied_epoch === position.epoch;
    });
    await run('nbdcopy', [beta.uri('copy'), copy]);
    expect(readFileSync(copy).equals(readFileSync(second))).toBe(true);
    const primary = await showOf(alpha, 'demo');
    const secondary = await showOf(beta, 'copy');
    expect(primary.mirrors[0]).toMatchObject({ kind: 'blockferry', node: 'beta', lanes: 1 });
    expect(secondary).toMatchObject({
      position: { generation: primary.generation },
      source: { state: 'streaming', volume_id: primary.id, last_error: null },
    });
    expect(Math.abs(Date.parse(secondary.consistent_at ?? '') - Date.now())).toBeLessThan(60_000);
    expect(secondary.lag_seconds).toBeGreaterThanOrEqual(0);
    const { node } = await beta.client.call<NodeStatus>('GET', '/v1/status');
    expect(node).toBe('beta');
  });

  test('refuses what its primary decides, and changes nothing', async () => {
    const { beta } = await pair(testScope());
    const before = await showOf(beta, 'copy');
    const post = (path: string, body: object): Promise<string> =>
      codeOf(beta.client.call('POST', `/v1/volumes/copy/${path}`, body));
    const refused = 'VOLUME_IS_SECONDARY';
    expect(await post('resize', { size: '8M' })).toBe(refused);
    expect(await post('snapshots', { name: 's' })).toBe(refused);
    expect(await post('snapshots/s/refresh', {})).toBe(refused);
    expect(await post('snapshots/s/restore', {})).toBe(refused);
    expect(await post('snapshots/s/sync', { from: 't' })).toBe(refused);
    expect(await post('snapshots/s/copy', { name: 't' })).toBe(refused);
    expect(await post('mirrors', { uri: 'nbd://127.0.0.1:1/x' })).toBe(refused);
    expect(await post('mirrors/pause', {})).toBe(refused);
    await beta.client.call('POST', '/v1/volumes', { name: 'other', size: '4M' });
    const together = { volumes: ['other', 'copy'], name: 's' };
    expect(await codeOf(beta.client.call('POST', '/v1/snapshots', together))).toBe(refused);
    expect((await showOf(beta, 'other')).snapshots).toBe(0);
    expect({ ...(await showOf(beta, 'copy')), io: before.io }).toEqual(before);
  });

  test('is read by clients, and written by none', async (context) => {
    requireTools(context, 'nbdinfo', 'nbdcopy');
    const scope = testScope();
    const { beta } = await pair(scope);
    const { stdout } = await run('nbdinfo', ['--json', beta.uri('copy')]);
    const { exports } = JSON.parse(stdout) as { exports: { is_read_only: boolean }[] };
    expect(exports[0]?.is_read_only).toBe(true);
    const image = join(scope.tempDir('bf-secondary-'), 'image');
    writeFileSync(image, randomBytes(SIZE));
    await expect(run('nbdcopy', [image, beta.uri('copy')])).rejects.toThrow(/read-only/);
  });

  test('can be checked, and deleted; with force while it receives', async () => {
    const nodes = await pair(testScope());
    const { alpha, beta } = nodes;
    await mirror(nodes);
    const report = await beta.client.call<{ faults: number }>('POST', '/v1/volumes/copy/check', {});
    expect(report.faults).toBe(0);
    expect(await codeOf(beta.client.call('DELETE', '/v1/volumes/copy'))).toBe('VOLUME_BUSY');
    await beta.client.call('DELETE', '/v1/volumes/copy?force=true');
    await waitUntil('the primary to notice', async () => {
      const [first] = (await showOf(alpha, 'demo')).mirrors;
      return first?.state !== 'streaming' && first?.last_error !== null;
    });
  });

  test('is made for a node that can be, and is another', async () => {
    const { beta } = await pair(testScope());
    const create = (mirrorOf: string): Promise<string> => {
      const body = { name: 'new', size: '4M', mirror_of: mirrorOf };
      return codeOf(beta.client.call('POST', '/v1/volumes', body));
    };
    expect(await create('')).toBe('NODE_NAME_INVALID');
    expect(await create('a b')).toBe('NODE_NAME_INVALID');
    expect(await create('x'.repeat(64))).toBe('NODE_NAME_INVALID');
    expect(await create('beta')).toBe('MIRROR_SELF');
    expect(await codeOf(showOf(beta, 'new'))).toBe('VOLUME_NOT_FOUND');
    expect(await create('gamma')).toBe('accepted');
  });

  test('is added over several lanes, limited, and compared', async () => {
    const nodes = await pair(testScope());
    const { alpha, beta } = nodes;
    const uri = beta.uri('copy');
    const post = <T>(action: string, body: object): Promise<T> =>
      alpha.client.call<T>('POST', `/v1/volumes/demo/mirrors${action}`, body);
    for (const lanes of [0, 17, 1.5]) {
      expect(await codeOf(post('', { uri, lanes }))).toBe('REQUEST_INVALID');
    }
    await post('', { uri, lanes: 3, seeded: true });
    await waitUntil('the mirror to stream', async () => {
      return (await showOf(alpha, 'demo')).mirrors[0]?.state === 'streaming';
    });
    expect((await showOf(alpha, 'demo')).mirrors[0]).toMatchObject({ lanes: 3, limit: null });
    const limited = await post<VolumeStatus>('/limit', { uri, limit: '50M' });
    expect(limited.mirrors[0]?.limit).toBe(50 * 2 ** 20);
    expect((await post<VolumeStatus>('/limit', { uri, limit: null })).mirrors[0]?.limit).toBeNull();
    expect(await codeOf(post('/limit', { uri, limit: '0' }))).toBe('REQUEST_INVALID');
    expect(await codeOf(post('/limit', { uri, limit: 'fast' }))).toBe('RANGE_INVALID');
    const elsewhere = 'nbd://127.0.0.1:1/copy';
    expect(await codeOf(post('/limit', { uri: elsewhere, limit: '1M' }))).toBe('MIRROR_NOT_FOUND');
    expect(await post<VerifyReport>('/verify', {})).toEqual({
      bytes_compared: SIZE,
      bytes_differing: 0,
      ranges: [],
      repaired: false,
    });
  });

  test('is still one after a restart of its node', async () => {
    const scope = testScope();
    const nodes = await pair(scope);
    await mirror(nodes);
    const { alpha, beta } = nodes;
    const before = await showOf(beta, 'copy');
    await beta.node.stop();
    const flags = {
      name: 'beta',
      data: beta.config.data,
      nbd: [`unix:${beta.uri('').split('socket=')[1] ?? ''}`],
    };
    const again = await startLocalNode(scope, { flags });
    await waitUntil('the mirror to stream again', async () => {
      const [first] = (await showOf(alpha, 'demo')).mirrors;
      return first?.state === 'streaming';
    });
    const after = await showOf(again, 'copy');
    expect(after).toMatchObject({ role: 'secondary', id: before.id });
    expect(after.source?.volume_id).toBe(before.source?.volume_id);
  });
});
