/**
 * Events over the control socket: what was, what comes, and the end. A real node in this process; the
 * reader that does not read is a bare socket.
 */
import { connect } from 'node:net';
import { expect, test } from 'vitest';
import { volumePath } from '../../src/cli/client.ts';
import { EVENT_FOLLOWER_BACKLOG_BYTES_MAX } from '../../src/io/limits.ts';
import type { BlockferryEvent } from '../../src/replicator/status.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { startLocalNode } from './fixture.ts';

const kindsOf = (lines: readonly string[]): string[] =>
  lines.map((line) => (JSON.parse(line) as BlockferryEvent).kind);

test('a follower sees old events and new ones, and a clean end', async () => {
  const { node, client } = await startLocalNode(testScope());
  await client.call('POST', '/v1/volumes', { name: 'demo', size: '1M' });
  const lines: string[] = [];
  const followed = client.stream('/v1/events?follow=true', (line) => lines.push(line));
  await waitUntil('the old events', () => lines.length === 2);
  await client.call('POST', `${volumePath('demo')}/resize`, { size: '2M' });
  await client.call('DELETE', volumePath('demo'));
  await waitUntil('the new events', () => lines.length === 4);
  await node.stop();
  await followed;
  const kinds = ['node-started', 'volume-created', 'volume-resized', 'volume-deleted'];
  expect(kindsOf(lines)).toEqual([...kinds, 'node-stopping']);
});

test('without follow the answer ends with what is kept', async () => {
  const { client } = await startLocalNode(testScope());
  const lines: string[] = [];
  await client.stream('/v1/events', (line) => lines.push(line));
  expect(kindsOf(lines)).toEqual(['node-started']);
});

test('a follower that does not read is cut off, the others go on', async () => {
  const { node, client } = await startLocalNode(testScope());
  const address = node.controlAddress;
  if (address.kind !== 'unix') throw new Error('a unix socket');
  const stuck = connect(address.path);
  let closed = false;
  stuck.on('close', () => {
    closed = true;
  });
  stuck.on('error', () => undefined);
  stuck.write('GET /v1/events?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n');
  stuck.pause();
  let seen = 0;
  const followed = client.stream('/v1/events?follow=true', () => {
    seen += 1;
  });
  await waitUntil('the reader that reads', () => seen === 1);
  const message = 'x'.repeat(64 * 1024);
  const count = (4 * EVENT_FOLLOWER_BACKLOG_BYTES_MAX) / message.length;
  for (let sent = 0; sent < count; sent += 1) {
    node.events.emit({ kind: 'disk-ok', volume: null, mirror: null, message });
    await waitUntil('the noise to arrive', () => seen === sent + 2, { everyMs: 1 });
  }
  stuck.resume();
  await waitUntil('the end of the one that did not read', () => closed);
  await node.stop();
  await followed;
});
