/**
 * The control API as a program meets it: shapes, statuses, and that nothing but well-formed requests of
 * programs is acted upon. A real node in this process, spoken to over its socket.
 */
import { request, type OutgoingHttpHeaders } from 'node:http';
import { describe, expect, test } from 'vitest';
import { ControlClient, volumePath } from '../../src/cli/client.ts';
import type { NodeFacts, NodeStatus, VolumeStatus } from '../../src/control/status.ts';
import { formatAddress } from '../../src/io/address.ts';
import { CONTROL_BODY_BYTES_MAX } from '../../src/io/limits.ts';
import { testScope } from '../support/tools.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

interface Answer {
  readonly status: number;
  readonly body: { error?: { code: string; message: string; remedy: string } };
}

function raw(
  node: LocalNode,
  method: string,
  path: string,
  options: { headers?: OutgoingHttpHeaders; body?: string } = {},
): Promise<Answer> {
  const { controlAddress: address } = node.node;
  const where =
    address.kind === 'unix'
      ? { socketPath: address.path }
      : { host: address.host, port: address.port };
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { ...where, method, path, agent: false, headers: options.headers ?? {} },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
        });
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) as Answer['body'] });
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(options.body);
  });
}

const JSON_TYPE = { 'content-type': 'application/json' };

describe('the control API', () => {
  test('says who answers', async () => {
    const { client, config } = await startLocalNode(testScope());
    expect(await client.call<NodeFacts>('GET', '/v1/node')).toMatchObject({
      name: 'alpha',
      pid: process.pid,
      nbd: config.nbd.map(({ address }) => formatAddress(address)),
      tls: 'off',
      clients: { connections: 0, handshakes: 0, accepted: 0, refused: 0, failed: 0, denied: 0 },
    });
  });

  test('gives status in the shape that scripts rely on', async () => {
    const { client } = await startLocalNode(testScope());
    expect(await client.call('GET', '/v1/status')).toEqual({
      node: 'alpha',
      volumes: [],
      damaged: [],
      // What the file system says is in disk-space.test.ts: it may not have been asked yet.
      space: expect.objectContaining({ size_bytes: 0, allocated_bytes: 0 }) as object,
    });
    const created = await client.call<VolumeStatus>('POST', '/v1/volumes', {
      name: 'demo',
      size: '1M',
    });
    const demo = {
      name: 'demo',
      id: expect.stringMatching(/^[0-9a-f]{32}$/) as string,
      size_bytes: 2 ** 20,
      allocated_bytes: 0,
      io: {
        reads_at_once: 0,
        reads_on_pool: 0,
        writes_at_once: 0,
        writes_on_pool: 0,
        pool_depth: 0,
        slow_write_periods: 0,
        read_ahead_pieces: 0,
        syncs: 0,
      },
      role: 'standalone',
      source: null,
      refuses: [],
      consistent_at: null,
      lag_seconds: null,
      generation: created.position.generation,
      position: { generation: expect.any(Number) as number, epoch: expect.any(Number) as number },
      connections: 0,
      access: { read_only: false, hidden: false, tls: 'off' },
      failure: null,
      fenced: null,
      kept_for_return: null,
      snapshots: 0,
      clone_of: null,
      on: null,
      merge: {
        state: 'idle',
        done_bytes: 0,
        total_bytes: 0,
        waiting: 0,
        limit: null,
        reason: null,
      },
      mirrors: [],
    };
    expect(created).toEqual(demo);
    const status = await client.call<NodeStatus>('GET', '/v1/status');
    expect(status.volumes).toEqual([demo]);
  });

  test('knows volumes by any name they may have', async () => {
    const { client } = await startLocalNode(testScope());
    for (const name of ['plain', 'with space & ?=%41', 'größe', '...', 'x'.repeat(255)]) {
      await client.call('POST', '/v1/volumes', { name, size: '4K' });
      const shown = await client.call<VolumeStatus>('GET', volumePath(name));
      expect(shown.name).toBe(name);
      await client.call('DELETE', volumePath(name));
      expect(await codeOf(client.call('GET', volumePath(name)))).toBe('VOLUME_NOT_FOUND');
    }
  });

  test.each([
    ['no JSON', 'POST', '/v1/volumes', { headers: JSON_TYPE, body: '{' }, 400],
    ['no body', 'POST', '/v1/volumes', {}, 400],
    ['a missing field', 'POST', '/v1/volumes', { headers: JSON_TYPE, body: '{"name":"a"}' }, 400],
    [
      'a field too many',
      'POST',
      '/v1/volumes',
      { headers: JSON_TYPE, body: '{"name":"a","size":"4K","colour":1}' },
      400,
    ],
    [
      'a wrong type',
      'POST',
      '/v1/volumes',
      { headers: JSON_TYPE, body: '{"name":"a","size":4096}' },
      400,
    ],
    [
      'a body of another kind',
      'POST',
      '/v1/volumes',
      { headers: { 'content-type': 'text/plain' }, body: '{"name":"a","size":"4K"}' },
      415,
    ],
    [
      'a body that is too long',
      'POST',
      '/v1/volumes',
      {
        headers: JSON_TYPE,
        body: JSON.stringify({ name: 'a', size: '4K', x: ' '.repeat(CONTROL_BODY_BYTES_MAX) }),
      },
      413,
    ],
    ['an unknown path', 'GET', '/v2/status', {}, 404],
    ['an unknown query', 'GET', '/v1/status?volume=a', {}, 400],
    ['a web page', 'GET', '/v1/status', { headers: { origin: 'http://example.org' } }, 400],
    [
      'a page of the same host',
      'GET',
      '/v1/status',
      { headers: { 'sec-fetch-site': 'none' } },
      400,
    ],
  ])('refuses %s', async (_what, method, path, options, status) => {
    const node = await startLocalNode(testScope());
    const answer = await raw(node, method, path, options);
    expect(answer.status).toBe(status);
    expect(answer.body.error).toEqual({
      code: 'REQUEST_INVALID',
      message: expect.stringMatching(/./) as string,
      remedy: expect.stringMatching(/./) as string,
    });
    expect(node.node.events.recent().map(({ kind }) => kind)).toEqual(['node-started']);
  });

  test('listens on TCP too, on a port that the system chooses', async () => {
    const flags = { control: '127.0.0.1:0' };
    const { node, client } = await startLocalNode(testScope(), { flags });
    expect(node.controlAddress).toMatchObject({ host: '127.0.0.1' });
    expect(node.controlAddress).not.toMatchObject({ port: 0 });
    expect(await client.call<NodeStatus>('GET', '/v1/status')).toMatchObject({ node: 'alpha' });
  });

  test('ends when the node does', async () => {
    const { node } = await startLocalNode(testScope());
    const client = new ControlClient(node.controlAddress);
    await node.stop();
    expect(await codeOf(client.call('GET', '/v1/status'))).toBe('CONTROL_UNREACHABLE');
  });
});
