/**
 * `health` tells what the system knows of a peer at once, read or not, paused or not, over TCP, unix sockets
 * and TLS. `remoteIp` is the address that access rules are about. Method: raw peers that half-close, close and
 * reset, and connections that are paused with bytes waiting.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import * as net from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';

import { plainIp } from '../../src/io/address.ts';
import type { Connection, Listener } from '../../src/io/network.ts';
import {
  certificates,
  grantedSocket,
  listenTls,
  peerOf,
  secureOver,
  serverFiles,
} from './tls-wire.ts';
import { connectRecording, listenRecording, pauseFor, temporaryDirectory, until } from './wire.ts';

/** A plain peer that does not close its side by itself. */
async function rawPeer(listener: Listener): Promise<net.Socket> {
  const { address } = listener;
  const target =
    address.kind === 'unix' ? { path: address.path } : { port: address.port, host: address.host };
  const socket = net.connect({ ...target, allowHalfOpen: true });
  socket.on('error', () => {});
  onTestFinished(() => void socket.destroy());
  await new Promise<void>((resolve) => {
    socket.once('connect', resolve);
  });
  return socket;
}

async function pausedPair(address: string): Promise<{ raw: net.Socket; server: Connection }> {
  const { listener, accepted } = await listenRecording(address, (connection) => {
    setImmediate(() => connection.pause());
  });
  const raw = await rawPeer(listener);
  await until(() => accepted.length === 1, 'the accept');
  await pauseFor(5);
  return { raw, server: accepted[0]!.connection };
}

const addresses = ['127.0.0.1:0', '[::1]:0', 'unix:'] as const;
const chosen = (pattern: string): string =>
  pattern === 'unix:' ? `unix:${join(temporaryDirectory(), 's')}` : pattern;

describe.each(addresses)('health over %s, paused', (pattern) => {
  it('is open while the peer is there, with bytes waiting or not', async () => {
    const { raw, server } = await pausedPair(chosen(pattern));
    expect(server.health()).toBe('open');
    raw.write(Buffer.alloc(100_000));
    await pauseFor(20);
    expect(server.health()).toBe('open');
  });

  it('is ended when the peer sends no more, and bytes wait', async () => {
    const { raw, server } = await pausedPair(chosen(pattern));
    raw.write('last words');
    raw.end();
    await until(() => server.health() === 'ended', 'the end');
    await pauseFor(20);
    expect(server.health()).toBe('ended');
  });

  it('is dead once both ways are closed', async () => {
    const { raw, server } = await pausedPair(chosen(pattern));
    raw.end();
    await until(() => server.health() === 'ended', 'the end');
    server.end();
    await until(() => server.health() === 'dead', 'the death');
  });

  it('is dead after destroy', async () => {
    const { server } = await pausedPair(chosen(pattern));
    server.destroy();
    expect(server.health()).toBe('dead');
    await pauseFor(20);
    expect(server.health()).toBe('dead');
  });
});

describe('health', () => {
  it('is dead after a reset, with bytes waiting, before anything was read', async () => {
    const { raw, server } = await pausedPair('127.0.0.1:0');
    raw.write('never read');
    await pauseFor(20);
    raw.resetAndDestroy();
    await until(() => server.health() === 'dead', 'the death');
  });

  it('is ended after a peer on TCP closed, until it refuses what is sent to it', async () => {
    const { raw, server } = await pausedPair('127.0.0.1:0');
    raw.destroy();
    await until(() => server.health() === 'ended', 'the end');
    server.send(Buffer.from('anybody?'), () => {});
    await until(() => server.health() === 'dead', 'the death');
  });

  it('is dead after a peer on a unix socket closed: nothing can reach it', async () => {
    const { raw, server } = await pausedPair(`unix:${join(temporaryDirectory(), 's')}`);
    raw.write('last words');
    await pauseFor(20);
    raw.destroy();
    await until(() => server.health() === 'dead', 'the death');
  });

  it('works on under TLS', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const plain = await grantedSocket(listener);
    expect(ends[0]!.connection.health()).toBe('open');
    const client = await secureOver(plain, { ca: readFileSync(made.ca) });
    await peerOf(ends);
    const { connection } = ends[0]!;
    connection.pause();
    client.socket.write(Buffer.alloc(1_000_000));
    await pauseFor(20);
    expect(connection.health()).toBe('open');
    plain.resetAndDestroy();
    await until(() => connection.health() === 'dead', 'the death');
  });

  it('is of use on the side that connected, too', async () => {
    const { listener, accepted } = await listenRecording();
    const { connection } = await connectRecording(listener);
    await until(() => accepted.length === 1, 'the accept');
    expect(connection.health()).toBe('open');
    accepted[0]!.connection.end();
    await until(() => connection.health() !== 'open', 'the end');
  });

  it('mixes up no two connections when descriptors are used again', async () => {
    const { listener, accepted } = await listenRecording();
    const first = await rawPeer(listener);
    await until(() => accepted.length === 1, 'the accept');
    accepted[0]!.connection.destroy();
    first.destroy();
    await pauseFor(20);
    await rawPeer(listener);
    await until(() => accepted.length === 2, 'the accept');
    expect(accepted.map(({ connection }) => connection.health())).toEqual(['dead', 'open']);
  });
});

describe('remoteIp', () => {
  it.each([
    ['127.0.0.1:0', '127.0.0.1', '127.0.0.1'],
    ['[::1]:0', '::1', '::1'],
    ['[::]:0', '::1', '::1'],
    ['[::]:0', '127.0.0.1', '127.0.0.1'],
    ['0.0.0.0:0', '127.0.0.1', '127.0.0.1'],
  ])('on %s, of a client that came to %s, is %s', async (address, host, expected) => {
    const { listener, accepted } = await listenRecording(address);
    if (listener.address.kind !== 'tcp') throw new Error('expected tcp');
    const raw = net.connect(listener.address.port, host);
    onTestFinished(() => void raw.destroy());
    await until(() => accepted.length === 1, 'the accept');
    const { connection } = accepted[0]!;
    expect(connection.remoteIp).toBe(expected);
    const shown = expected.includes(':') ? `[${expected}]` : expected;
    expect(connection.peer).toBe(`${shown}:${raw.localPort}`);
  });

  it('is null on a unix socket alone', async () => {
    const { listener, accepted } = await listenRecording(`unix:${join(temporaryDirectory(), 's')}`);
    const { connection } = await connectRecording(listener);
    await until(() => accepted.length === 1, 'the accept');
    expect([connection.remoteIp, accepted[0]!.connection.remoteIp]).toEqual([null, null]);
  });

  it('is never null for a client that reset its connection before it was accepted', async () => {
    // What such a client sent can still be read, but its address cannot be asked for any more: it must not
    // pass for one on a unix socket. The loop stands still while the client comes and goes.
    const { listener, accepted } = await listenRecording();
    if (listener.address.kind !== 'tcp') throw new Error('expected tcp');
    const script = `const s = require('node:net').connect(${listener.address.port}, '127.0.0.1');
      s.write('left behind', () => s.resetAndDestroy());`;
    expect(spawnSync(process.execPath, ['-e', script]).status).toBe(0);
    await pauseFor(100);
    expect(accepted.map(({ connection, heard }) => [connection.remoteIp, heard.text])).toEqual([]);
    const raw = await rawPeer(listener);
    raw.write('next');
    await until(() => accepted.at(-1)?.heard.text === 'next', 'the next client');
  });

  it.each([
    ['::ffff:10.1.2.3', '10.1.2.3'],
    ['::FFFF:10.1.2.3', '10.1.2.3'],
    ['fe80::1%eth0', 'fe80::1'],
    ['::ffff:a01:203', '::ffff:a01:203'],
    ['2001:db8::ffff:1', '2001:db8::ffff:1'],
    ['192.0.2.1', '192.0.2.1'],
  ])('of %s is %s', (written, plain) => {
    expect(plainIp(written)).toBe(plain);
  });
});
