/**
 * A connection goes on after it became TLS as before: bytes both ways, corks, pauses, backlog, orderly ends,
 * cuts. What fails in the handshake closes it with the reason, and clear bytes never pass for secured ones.
 * Method: Node's own client, and raw bytes, over TCP and unix sockets.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type * as tls from 'node:tls';
import { describe, expect, it } from 'vitest';

import type { Certificates } from '../support/certificates.ts';
import {
  certificates,
  grantedSocket,
  listenTls,
  peerOf,
  secureClient,
  secureOver,
  serverFiles,
  type SecureClient,
  type SecureEnd,
} from './tls-wire.ts';
import { pauseFor, temporaryDirectory, until } from './wire.ts';

const FLOOD_BYTES = 24 * 1024 * 1024;
const trust = ({ ca }: Certificates): tls.ConnectionOptions => ({ ca: readFileSync(ca) });

async function secured(
  address = '127.0.0.1:0',
  prepare: (end: SecureEnd) => void = () => {},
): Promise<{ client: SecureClient; server: SecureEnd }> {
  const made = certificates();
  const { listener, ends } = await listenTls(serverFiles(made), address, prepare);
  const client = await secureClient(listener, trust(made));
  await peerOf(ends);
  return { client, server: ends[0]! };
}

const bytesOf = ({ chunks }: SecureClient): number =>
  chunks.reduce((sum, chunk) => sum + chunk.length, 0);

describe.each(['127.0.0.1:0', '[::1]:0', 'unix:'])('over %s', (pattern) => {
  it('carries bytes both ways, and both ends close in order', async () => {
    const address = pattern === 'unix:' ? `unix:${join(temporaryDirectory(), 's')}` : pattern;
    const { client, server } = await secured(address);
    server.heard.onReceived = (buffer, length) => {
      const { connection } = server;
      connection.send(Buffer.from(buffer.subarray(0, length)), () =>
        server.heard.events.push('sent'),
      );
    };
    const payload = randomBytes(3_000_000);
    client.socket.write(payload);
    await until(() => bytesOf(client) === payload.length, 'the echo');
    expect(Buffer.concat(client.chunks).equals(payload)).toBe(true);
    expect(Buffer.concat(server.heard.chunks).equals(payload)).toBe(true);
    client.socket.end();
    await until(() => server.heard.events.includes('ended'), 'the half-close');
    server.connection.end();
    await until(() => server.heard.events.includes('closed') && client.closed, 'the closes');
    expect([client.ended, client.error, server.heard.error]).toEqual([true, null, null]);
    expect(server.heard.events.at(-1)).toBe('closed');
  });
});

describe('the handshake', () => {
  it('may be long in coming, while nothing is heard', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const plain = await grantedSocket(listener);
    await pauseFor(100);
    expect(ends[0]!.heard.events).toEqual([]);
    plain.destroy();
    await until(() => ends[0]!.heard.events.includes('closed'), 'the close');
    expect(ends[0]!.heard.events).toEqual(['closed']);
    expect(ends[0]!.heard.error?.message).toBe('TLS handshake failed: the client left');
  });

  it.each([
    ['an option in clear', Buffer.from('IHAVEOPT\0\0\0\x08\0\0\0\0'), /wrong version number/],
    ['random bytes', randomBytes(4096).fill(0, 0, 1), /wrong version number/],
    ['half a record', Buffer.from('160301020001', 'hex'), null],
    [
      'a record of garbage',
      Buffer.from(`1603010200${'ab'.repeat(512)}`, 'hex'),
      /unexpected message/,
    ],
  ])('fails on %s, which never reaches the handler', async (_what, bytes, why) => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const plain = await grantedSocket(listener);
    plain.resume();
    plain.write(bytes);
    if (why === null) {
      await pauseFor(50);
      expect(ends[0]!.heard.events).toEqual([]);
      ends[0]!.connection.end();
    }
    await until(() => ends[0]!.heard.events.includes('closed'), 'the close');
    expect(ends[0]!.heard.events).toEqual(['closed']);
    expect(ends[0]!.heard.receivedBytes).toBe(0);
    expect(ends[0]!.peer).toBeNull();
    if (why === null) expect(ends[0]!.heard.error).toBeNull();
    else expect(ends[0]!.heard.error?.message).toMatch(why);
    await until(() => plain.closed, 'the end of the client');
  });

  it('fails on a reset, with the error of the system', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const plain = await grantedSocket(listener);
    plain.resetAndDestroy();
    await until(() => ends[0]!.heard.events.includes('closed'), 'the close');
    expect(ends[0]!.heard.error).toMatchObject({ code: 'ECONNRESET' });
    expect(ends[0]!.heard.error?.message).toMatch(/^TLS handshake failed: .*ECONNRESET/);
  });

  it('is cut by destroy, and no peer is told any more', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const plain = await grantedSocket(listener);
    ends[0]!.connection.destroy();
    await until(() => ends[0]!.heard.events.includes('closed'), 'the close');
    plain.resume();
    await until(() => plain.closed, 'the end of the client');
    expect([ends[0]!.heard.error, ends[0]!.peer]).toEqual([null, null]);
  });

  it('goes on while the connection is paused, but bytes wait', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const plain = await grantedSocket(listener);
    ends[0]!.connection.pause();
    const client = await secureOver(plain, trust(made));
    client.socket.write('later');
    await pauseFor(50);
    expect(ends[0]!.peer?.kind).toBe('anonymous');
    expect(ends[0]!.heard.text).toBe('');
    ends[0]!.connection.resume();
    await until(() => ends[0]!.heard.text === 'later', 'the bytes');
  });

  it('takes what comes right behind it as plain bytes of the new kind', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const client = await secureClient(listener, trust(made));
    client.socket.write('first');
    await until(() => ends[0]?.heard.text === 'first', 'the bytes');
    expect(ends[0]!.peer).not.toBeNull();
  });
});

describe('a secured connection', () => {
  it('is held back by pause, and hears all after resume', async () => {
    const { client, server } = await secured();
    server.connection.pause();
    const payload = randomBytes(FLOOD_BYTES);
    client.socket.write(payload);
    await pauseFor(200);
    const early = server.heard.chunks.length;
    expect(early).toBeLessThanOrEqual(1);
    expect(client.socket.bytesWritten - client.socket.writableLength).toBeLessThan(FLOOD_BYTES);
    server.connection.resume();
    await until(() => server.heard.receivedBytes === FLOOD_BYTES, 'the flood');
    expect(digest(server.heard.chunks)).toBe(digest([payload]));
  });

  it('takes pause inside received to heart: at most one more call', async () => {
    const { client, server } = await secured();
    server.heard.onReceived = () => server.connection.pause();
    client.socket.write(Buffer.alloc(FLOOD_BYTES));
    await until(() => server.heard.chunks.length >= 1, 'the first bytes');
    await pauseFor(100);
    expect(server.heard.chunks.length).toBeLessThanOrEqual(2);
    const before = server.heard.chunks.length;
    server.connection.resume();
    await until(() => server.heard.chunks.length > before, 'more bytes');
  });

  it('counts its backlog, and tells when it fell to zero', async () => {
    const { client, server } = await secured();
    for (const bytes of [FLOOD_BYTES, 1, FLOOD_BYTES]) {
      const before = server.heard.count('drained');
      client.socket.pause();
      server.connection.cork();
      server.connection.send(Buffer.alloc(bytes), () => {});
      expect(server.connection.backlogBytes).toBe(bytes);
      server.connection.uncork();
      await pauseFor(30);
      if (bytes > 1) expect(server.heard.count('drained')).toBe(before);
      client.socket.resume();
      await until(() => server.heard.count('drained') > before, 'the drain');
      expect(server.connection.backlogBytes).toBe(0);
    }
  });

  it('leaves a buffer to its owner only when it is sent', async () => {
    const { client, server } = await secured();
    const expected = createHash('sha256');
    const TOTAL = 300;
    let number = 0;
    let inside = false;
    const refill = (buffer: Buffer): void => {
      expect(inside).toBe(false);
      if (number === TOTAL) return;
      buffer.fill(number % 251);
      expected.update(buffer);
      number += 1;
      inside = true;
      server.connection.send(buffer, () => refill(buffer));
      inside = false;
    };
    for (let index = 0; index < 8; index += 1) refill(Buffer.alloc(40_000));
    await until(() => bytesOf(client) === TOTAL * 40_000, 'all bytes');
    expect(digest(client.chunks)).toBe(expected.digest('hex'));
  });

  it('sends small and large pieces in the order in which they came, corked or not', async () => {
    const { client, server } = await secured();
    const sizes = [1, 50, 70_000, 4096, 4096, 300_000, 65_535, 2, 65_536, 65_537, 16, 1_000_000];
    const pieces = [...sizes, ...sizes.toReversed(), ...sizes].map((size) => randomBytes(size));
    for (const corked of [true, false]) {
      const order: number[] = [];
      client.chunks.length = 0;
      if (corked) server.connection.cork();
      for (const [index, piece] of pieces.entries()) {
        server.connection.send(piece, () => order.push(index));
      }
      if (corked) server.connection.uncork();
      await until(() => order.length === pieces.length, 'the sends');
      await until(
        () => bytesOf(client) === pieces.reduce((sum, { length }) => sum + length, 0),
        'all',
      );
      expect(digest(client.chunks)).toBe(digest(pieces));
      expect(order).toEqual([...pieces.keys()]);
    }
  });

  it('reports every buffer of a connection that is destroyed, in order, before closed', async () => {
    const { client, server } = await secured();
    client.socket.pause();
    const order: number[] = [];
    for (let index = 0; index < 200; index += 1) {
      server.connection.send(Buffer.alloc(65_536, index), () => {
        expect(server.heard.events).not.toContain('closed');
        order.push(index);
      });
    }
    await pauseFor(50);
    expect(order.length).toBeLessThan(200);
    server.connection.destroy();
    await until(() => server.heard.events.includes('closed'), 'the close');
    expect(order).toEqual(Array.from({ length: 200 }, (_, index) => index));
    let late = 0;
    server.connection.send(Buffer.alloc(1), () => (late += 1));
    await until(() => late === 1, 'sent');
  });

  it('says good-bye after its last bytes, although the peer still sends', async () => {
    const { client, server } = await secured();
    server.heard.onReceived = () => {
      server.connection.pause();
      server.connection.send(Buffer.alloc(1_000_000, 3), () => {});
      server.connection.end();
    };
    client.socket.write(Buffer.alloc(8_000_000));
    await until(() => client.ended, 'the end');
    expect(bytesOf(client)).toBe(1_000_000);
    client.socket.end();
    await until(() => client.closed && server.heard.events.includes('closed'), 'the closes');
    expect([client.error, server.heard.error]).toEqual([null, null]);
    expect(server.heard.events.filter((event) => event === 'ended')).toEqual([]);
  });

  it('hears the error of a reset, and of bytes that were tampered with', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const reset = await grantedSocket(listener);
    await secureOver(reset, trust(made));
    await peerOf(ends);
    reset.resetAndDestroy();
    await until(() => ends[0]!.heard.events.includes('closed'), 'the close');
    expect(ends[0]!.heard.error).toMatchObject({ code: 'ECONNRESET' });
    expect(ends[0]!.heard.error?.message).not.toContain('TLS');
    const tampered = await grantedSocket(listener);
    await secureOver(tampered, trust(made));
    await peerOf(ends, 1);
    // A record of the application with nonsense in it.
    tampered.write(Buffer.from(`1703030020${'5a'.repeat(32)}`, 'hex'));
    await until(() => ends[1]!.heard.events.includes('closed'), 'the close');
    expect(ends[1]!.heard.error?.message).toMatch(/^TLS failed: /);
    expect(ends[1]!.heard.receivedBytes).toBe(0);
  });

  it('is cut when the peer never closes its side', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const client = await secureOver(await grantedSocket(listener, { halfOpen: true }), trust(made));
    await peerOf(ends);
    const before = performance.now();
    ends[0]!.connection.end();
    await until(() => ends[0]!.heard.events.includes('closed'), 'the close');
    expect(performance.now() - before).toBeGreaterThan(1000);
    expect(client.ended).toBe(true);
  });

  it('gathers what is sent between cork and uncork', async () => {
    const { client, server } = await secured();
    server.connection.cork();
    for (let index = 0; index < 50; index += 1) server.connection.send(Buffer.from('x'), () => {});
    await pauseFor(20);
    expect(bytesOf(client)).toBe(0);
    server.connection.uncork();
    await until(() => bytesOf(client) === 50, 'the bytes');
    expect(client.chunks.length).toBe(1);
  });
});

const digest = (chunks: readonly Buffer[]): string => {
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return hash.digest('hex');
};
