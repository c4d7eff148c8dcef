/**
 * What may be done to a volume that is used: deleted, shrunk, mirrored. Real nodes in this process;
 * the client is a bare connection that has negotiated the export.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { describe, expect, test } from 'vitest';
import { volumePath } from '../../src/cli/client.ts';
import { systemClock } from '../../src/io/clock.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { parseNbdUri } from '../../src/nbd/uri/uri.ts';
import type { VolumeStatus } from '../../src/control/status.ts';
import type { Scope } from '../support/scope.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

/** Negotiates EXPORT_NAME by hand: 18 bytes of greeting, flags and one option, 10 bytes of answer. */
async function attach(scope: Scope, node: LocalNode, name: string) {
  const address = node.config.nbd[0]?.address;
  if (address?.kind !== 'unix') throw new Error('a unix socket');
  const socket = connect(address.path);
  scope.defer('end the client', () => void socket.destroy());
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  const option = Buffer.alloc(20 + name.length);
  option.writeUInt32BE(3, 0);
  option.write('IHAVEOPT', 4);
  option.writeUInt32BE(1, 12);
  option.writeUInt32BE(name.length, 16);
  option.write(name, 20);
  socket.write(option);
  socket.resume();
  await waitUntil('the client to be attached', async () => {
    const status = await node.client.call<VolumeStatus>('GET', volumePath(name));
    return status.connections === 1;
  });
  return { closed: once(socket, 'close') };
}

async function nodeWithVolume(scope: Scope): Promise<LocalNode> {
  const node = await startLocalNode(scope);
  await node.client.call('POST', '/v1/volumes', { name: 'demo', size: '4M' });
  return node;
}

/** A node with a volume demo that is a mirror for alpha. */
async function nodeWithMirror(scope: Scope, name: string): Promise<LocalNode> {
  const node = await startLocalNode(scope, { flags: { name } });
  const body = { name: 'demo', size: '4M', mirror_of: 'alpha' };
  await node.client.call('POST', '/v1/volumes', body);
  return node;
}

/** A node whose volume demo is mirrored to another node's volume demo. */
async function mirrored(scope: Scope) {
  const beta = await nodeWithMirror(scope, 'beta');
  const alpha = await nodeWithVolume(scope);
  const status = await alpha.client.call<VolumeStatus>('POST', '/v1/volumes/demo/mirrors', {
    uri: beta.uri('demo'),
  });
  return { alpha, beta, status };
}

describe('delete', () => {
  test('leaves a volume with clients alone, and ends them when forced', async () => {
    const scope = testScope();
    const node = await nodeWithVolume(scope);
    const { closed } = await attach(scope, node, 'demo');
    expect(await codeOf(node.client.call('DELETE', '/v1/volumes/demo'))).toBe('VOLUME_BUSY');
    await node.client.call('GET', '/v1/volumes/demo');
    await node.client.call('DELETE', '/v1/volumes/demo?force=true');
    await closed;
    expect(await codeOf(node.client.call('GET', '/v1/volumes/demo'))).toBe('VOLUME_NOT_FOUND');
  });

  test('leaves a volume with mirrors alone, and the mirror its copy when forced', async () => {
    const { alpha, beta, status } = await mirrored(testScope());
    expect(status.role).toBe('primary');
    const { client } = alpha;
    expect(await codeOf(client.call('DELETE', '/v1/volumes/demo'))).toBe('VOLUME_HAS_MIRRORS');
    await client.call('DELETE', '/v1/volumes/demo?force=true');
    await beta.client.call('GET', '/v1/volumes/demo');
    await client.call('POST', '/v1/volumes', { name: 'demo', size: '4M' });
    expect((await client.call<VolumeStatus>('GET', '/v1/volumes/demo')).role).toBe('standalone');
  });
});

describe('resize', () => {
  test('grows under clients; shrinks only when forced and without clients', async () => {
    const scope = testScope();
    const node = await nodeWithVolume(scope);
    const resize = (size: string, force = false) =>
      node.client.call<VolumeStatus>('POST', '/v1/volumes/demo/resize', { size, force });
    expect((await resize('8M')).size_bytes).toBe(8 * 2 ** 20);
    expect(await codeOf(resize('4M'))).toBe('SHRINK_NEEDS_FORCE');
    await attach(scope, node, 'demo');
    expect(await codeOf(resize('4M', true))).toBe('VOLUME_BUSY');
    expect((await resize('12M')).size_bytes).toBe(12 * 2 ** 20);
    expect(await codeOf(resize('4097'))).toBe('SIZE_INVALID');
    expect((await resize('12M')).size_bytes).toBe(12 * 2 ** 20);
  });

  test('shrinks when forced', async () => {
    const node = await nodeWithVolume(testScope());
    const body = { size: '1M', force: true };
    const status = await node.client.call<VolumeStatus>('POST', '/v1/volumes/demo/resize', body);
    expect(status.size_bytes).toBe(2 ** 20);
  });

  test('does not grow past a mirror', async () => {
    const { alpha } = await mirrored(testScope());
    const grow = alpha.client.call('POST', '/v1/volumes/demo/resize', { size: '8M' });
    expect(await codeOf(grow)).toBe('MIRROR_SIZE_FIXED');
    const status = await alpha.client.call<VolumeStatus>('GET', '/v1/volumes/demo');
    expect(status.size_bytes).toBe(4 * 2 ** 20);
  });
});

describe('mirror', () => {
  test('is meant without being named when there is one', async () => {
    const { alpha, status } = await mirrored(testScope());
    const change = (action: string, body: object = {}) =>
      alpha.client.call<VolumeStatus>('POST', `/v1/volumes/demo/mirrors/${action}`, body);
    expect((await change('pause')).mirrors[0]?.state).toBe('paused');
    await change('resume');
    await waitUntil('the mirror to stream again', async () => {
      const { mirrors } = await alpha.client.call<VolumeStatus>('GET', '/v1/volumes/demo');
      return mirrors[0]?.state === 'streaming';
    });
    await change('resync');
    const uri = status.mirrors[0]?.uri ?? '';
    expect(await codeOf(change('remove', { uri: 'nbd://127.0.0.1:1/x' }))).toBe('MIRROR_NOT_FOUND');
    expect(await codeOf(change('remove', { uri: 'elsewhere' }))).toBe('URI_INVALID');
    expect((await change('remove', { uri })).mirrors).toEqual([]);
    expect(await codeOf(change('pause'))).toBe('MIRROR_NOT_FOUND');
  });

  test('must be named when there are several', async () => {
    const scope = testScope();
    const { alpha } = await mirrored(scope);
    const gamma = await nodeWithMirror(scope, 'gamma');
    const uri = gamma.uri('demo');
    await alpha.client.call('POST', '/v1/volumes/demo/mirrors', { uri, mode: 'sync' });
    const pause = alpha.client.call('POST', '/v1/volumes/demo/mirrors/pause', {});
    expect(await codeOf(pause)).toBe('USAGE');
    await alpha.client.call('POST', '/v1/volumes/demo/mirrors/pause', { uri });
  });

  test('may not be an export of the node itself', async () => {
    const flags = { nbd: ['127.0.0.1:0'] };
    const { node, client } = await startLocalNode(testScope(), { flags });
    const [address] = node.nbdAddresses;
    const port = address?.kind === 'tcp' ? address.port : 0;
    await client.call('POST', '/v1/volumes', { name: 'a', size: '4M' });
    await client.call('POST', '/v1/volumes', { name: 'b', size: '4M' });
    for (const host of ['127.0.0.1', 'localhost']) {
      const uri = `nbd://${host}:${port}/b`;
      const add = client.call('POST', '/v1/volumes/a/mirrors', { uri });
      expect(await codeOf(add)).toBe('MIRROR_SELF');
    }
  });
});

test('the empty export name is the only volume', async () => {
  const scope = testScope();
  const node = await nodeWithVolume(scope);
  const open = async (): Promise<void> => {
    const surroundings = { network: nodeNetwork, clock: systemClock, replyMs: 5_000 };
    const client = await NbdClient.connect(parseNbdUri(node.uri('')), surroundings);
    expect(client.info.sizeBytes).toBe(4 * 2 ** 20);
    await client.close();
  };
  expect(await codeOf(open())).toBe('accepted');
  await node.client.call('POST', '/v1/volumes', { name: 'second', size: '4M' });
  expect(await codeOf(open())).toBe('MIRROR_REFUSED');
});
