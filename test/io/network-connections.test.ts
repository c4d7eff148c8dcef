/**
 * Connections carry bytes both ways, say once that they closed, and leave nothing behind. Method: both
 * ends in this process over TCP, IPv6 and unix sockets; handles are counted before and after.
 */
import dns from 'node:dns';
import { existsSync } from 'node:fs';
import * as net from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';

import { NBD_READ_BUFFER_BYTES } from '../../src/io/limits.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { SocketConnection } from '../../src/io/socket-connection.ts';
import {
  connectRecording,
  listenRecording,
  pauseFor,
  Recorder,
  sendAll,
  temporaryDirectory,
  until,
} from './wire.ts';

/** Open socket handles; the test runner has pipes of its own. */
const socketHandles = (kind: string): number =>
  process.getActiveResourcesInfo().filter((each) => /TCP|Pipe/.test(each) && each.includes(kind))
    .length;

const addresses = ['127.0.0.1:0', '[::1]:0', 'localhost:0', 'unix:'] as const;

describe.each(addresses)('a connection over %s', (pattern) => {
  const chosen = (): string =>
    pattern === 'unix:' ? `unix:${join(temporaryDirectory(), 's')}` : pattern;

  it('carries bytes both ways, then closes in order on both sides', async () => {
    const { listener, accepted } = await listenRecording(chosen(), (connection, heard) => {
      heard.onReceived = (buffer, length) => {
        connection.send(Buffer.from(buffer.subarray(0, length)), () => heard.events.push('sent'));
      };
    });
    const { connection, heard } = await connectRecording(listener);
    await sendAll(connection, Buffer.from('there and back'));
    await until(() => heard.text === 'there and back', 'the echo');
    connection.end();
    await until(() => accepted[0]!.heard.events.includes('ended'), 'the half-close');
    accepted[0]!.connection.send(Buffer.from(', and a last word'), () => {});
    accepted[0]!.connection.end();
    await until(() => accepted[0]!.heard.events.includes('closed'), 'the close');
    await until(() => heard.events.includes('closed'), 'the close');
    expect(accepted[0]!.heard.error).toBeNull();
    expect(heard.error).toBeNull();
    expect(accepted[0]!.heard.count('sent')).toBe(1);
    expect(accepted[0]!.heard.events.at(-1)).toBe('closed');
  });
});

describe('a connection', () => {
  it('reads what was sent when only a later address of the name answers', async () => {
    const { listener } = await listenRecording('127.0.0.1:0', (connection) => {
      connection.send(Buffer.from('from the last address'), () => {});
    });
    const { address } = listener;
    const port = address.kind === 'tcp' ? address.port : 0;
    const found = [
      { address: '127.0.0.2', family: 4 },
      { address: '127.0.0.1', family: 4 },
    ];
    const answer = (_name: string, _options: object, done: (e: null, all: object) => void): void =>
      done(null, found);
    const lookup = vi.spyOn(dns, 'lookup').mockImplementation(answer as typeof dns.lookup);
    try {
      const connection = await nodeNetwork.connect({ kind: 'tcp', host: 'two.test', port }, 5000);
      const heard = new Recorder();
      connection.start(heard);
      await until(() => heard.receivedBytes > 0, 'the greeting');
      expect(heard.text).toBe('from the last address');
      connection.destroy();
      await until(() => heard.events.includes('closed'), 'the close');
    } finally {
      lookup.mockRestore();
    }
  });

  it('delivers what comes after the peer was half-closed', async () => {
    const { listener, accepted } = await listenRecording();
    const { connection, heard } = await connectRecording(listener);
    await until(() => accepted.length === 1, 'the accept');
    accepted[0]!.connection.send(Buffer.alloc(3_000_000, 7), () => {});
    accepted[0]!.connection.end();
    await until(() => heard.events.includes('ended'), 'the end');
    expect(heard.receivedBytes).toBe(3_000_000);
    await sendAll(connection, Buffer.from('late'));
    connection.end();
    await until(() => heard.events.includes('closed'), 'the close');
    expect(heard.error).toBeNull();
  });

  it('hands all connections the same buffer, and only what was read', async () => {
    const seen = new Set<ArrayBufferLike>();
    let longest = 0;
    let total = 0;
    const { listener } = await listenRecording('127.0.0.1:0', (_connection, heard) => {
      heard.onReceived = (buffer, length) => {
        seen.add(buffer.buffer);
        longest = Math.max(longest, length);
        total += length;
        expect(buffer.length).toBe(NBD_READ_BUFFER_BYTES);
        expect(buffer.subarray(0, length).every((byte) => byte === 9)).toBe(true);
      };
    });
    const clients = await Promise.all([1, 2, 3].map(() => connectRecording(listener)));
    await Promise.all(clients.map((each) => sendAll(each.connection, Buffer.alloc(500_000, 9))));
    await until(() => total === 1_500_000, 'all bytes');
    expect(seen.size).toBe(1);
    expect(longest).toBeGreaterThan(64 * 1024);
  });

  it('names the other end', async () => {
    const path = join(temporaryDirectory(), 's');
    const { listener, accepted } = await listenRecording(`unix:${path}`);
    const { connection } = await connectRecording(listener);
    await until(() => accepted.length === 1, 'the accept');
    expect(connection.peer).toBe(`unix:${path}`);
    expect(accepted[0]!.connection.peer).toBe(`unix:${path}`);
    const tcp = await listenRecording();
    const client = await connectRecording(tcp.listener);
    await until(() => tcp.accepted.length === 1, 'the accept');
    expect(tcp.accepted[0]!.connection.peer).toMatch(/^127\.0\.0\.1:\d+$/);
    expect(client.connection.peer).toMatch(/^127\.0\.0\.1:\d+$/);
  });

  it('says closed once, with the error, when the peer resets it', async () => {
    const { listener, accepted } = await listenRecording();
    if (listener.address.kind !== 'tcp') throw new Error('expected tcp');
    const raw = net.connect(listener.address.port, '127.0.0.1');
    await until(() => accepted.length === 1, 'the accept');
    raw.resetAndDestroy();
    const { connection, heard } = accepted[0]!;
    await until(() => heard.events.includes('closed'), 'the close');
    expect(heard.error).toMatchObject({ code: 'ECONNRESET' });
    await sendAll(connection, Buffer.from('nobody hears'));
    connection.end();
    connection.destroy();
    await pauseFor(20);
    expect(heard.events).toEqual(['closed']);
  });

  it('says closed to a handler that starts after the end', async () => {
    const { listener, accepted } = await listenRecording();
    const connection = await nodeNetwork.connect(listener.address, 1000);
    await until(() => accepted.length === 1, 'the accept');
    connection.destroy();
    await pauseFor(20);
    const heard = new Recorder();
    connection.start(heard);
    expect(heard.events).toEqual([]);
    await until(() => heard.events.includes('closed'), 'the close');
    expect(heard.events).toEqual(['closed']);
  });

  it('lets a peer read the last bytes although it still sends', async () => {
    // Closing with unread input makes the kernel reset the connection; `end` must not do that, not
    // even when the connection was paused. What comes after `end` is nobody's business.
    const { listener, accepted } = await listenRecording('127.0.0.1:0', (connection, heard) => {
      heard.onReceived = () => {
        connection.pause();
        connection.send(Buffer.alloc(1_000_000, 3), () => {});
        connection.end();
      };
    });
    const { connection, heard } = await connectRecording(listener);
    connection.send(Buffer.alloc(8_000_000), () => {});
    await until(() => heard.events.includes('ended'), 'the end');
    expect(heard.receivedBytes).toBe(1_000_000);
    const before = performance.now();
    connection.end();
    await until(() => accepted[0]!.heard.events.includes('closed'), 'the close');
    await until(() => heard.events.includes('closed'), 'the close');
    expect(performance.now() - before).toBeLessThan(1900);
    expect([heard.error, accepted[0]!.heard.error]).toEqual([null, null]);
    expect(accepted[0]!.heard.chunks.length).toBe(1);
  });

  it('cuts a peer that never closes its side', async () => {
    const { listener, accepted } = await listenRecording();
    await connectRecording(listener);
    await until(() => accepted.length === 1, 'the accept');
    const before = performance.now();
    accepted[0]!.connection.end();
    await until(() => accepted[0]!.heard.events.includes('closed'), 'the close');
    expect(performance.now() - before).toBeGreaterThan(1000);
  });

  it('leaves no handle behind, and the listener closes while connections live', async () => {
    await until(() => socketHandles('TCP') === 0, 'the handles of earlier tests');
    const before = socketHandles('');
    const path = join(temporaryDirectory(), 's');
    for (const address of ['127.0.0.1:0', `unix:${path}`]) {
      const { listener, accepted } = await listenRecording(address);
      const clients = await Promise.all(
        Array.from({ length: 20 }, () => connectRecording(listener)),
      );
      await until(() => accepted.length === 20, 'the accepts');
      await listener.close();
      await listener.close();
      await sendAll(clients[0]!.connection, Buffer.from('still here'));
      await until(() => accepted.some((each) => each.heard.text === 'still here'), 'the bytes');
      for (const client of clients) client.connection.destroy();
      await until(() => accepted.every((each) => each.heard.events.includes('ended')), 'the ends');
      for (const each of accepted) each.connection.end();
      await until(
        () => [...accepted, ...clients].every((each) => each.heard.count('closed') === 1),
        'the closes',
      );
    }
    expect(existsSync(path)).toBe(false);
    await until(() => socketHandles('') === before, 'the handles');
  });

  it('works over a socket without onread too', async () => {
    const accepted: { connection: SocketConnection; heard: Recorder }[] = [];
    const server = net.createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
      const connection = new SocketConnection(socket, null, { peer: 'plain', ip: null });
      const heard = new Recorder();
      accepted.push({ connection, heard });
      setTimeout(() => connection.start(heard), 20);
    });
    await new Promise<void>((resolve) => {
      server.listen(0, '127.0.0.1', resolve);
    });
    const { port } = server.address() as net.AddressInfo;
    const client = await nodeNetwork.connect({ kind: 'tcp', host: '127.0.0.1', port }, 1000);
    const heard = new Recorder();
    client.start(heard);
    await sendAll(client, Buffer.alloc(300_000, 1));
    client.end();
    await until(() => accepted[0]?.heard.events.includes('ended') ?? false, 'the end');
    expect(accepted[0]!.heard.receivedBytes).toBe(300_000);
    accepted[0]!.connection.end();
    await until(() => heard.events.includes('closed'), 'the close');
    server.close();
  });
});
