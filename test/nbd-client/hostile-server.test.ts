/**
 * Servers that lie, babble, die or fall silent: each ends its own connection with a clear error, every
 * callback is told EIO first, and nothing else happens.
 *
 * Method: a scripted server. It dies after each byte of a good handshake in turn; it stops talking in each
 * phase; it says each wrong thing; at last it says random things.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { systemClock } from '../../src/io/clock.ts';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { parseNbdUri } from '../../src/nbd/uri/uri.ts';
import { testScope } from '../support/tools.ts';
import { closed, flush, read, rejection, write } from './support/calls.ts';
import {
  ACK,
  fakeServer,
  FLAGS,
  GREETING,
  infoBlockSize,
  infoExport,
  optionReply,
  simpleReply,
  u32,
} from './support/fake-server.ts';

const MIB = 1024 * 1024;
const good = Buffer.concat([GREETING, infoExport(MIB, FLAGS), infoBlockSize(1, 4096, MIB), ACK]);

const connectTo = (text: string, connectMs = 1000): Promise<NbdClient> =>
  NbdClient.connect(parseNbdUri(text), { network: nodeNetwork, clock: systemClock, connectMs });

describe('a server that cannot be reached', () => {
  it.each([
    ['nbd://127.0.0.1:1/demo', /cannot be reached: nobody listens there/],
    ['nbd+unix:///demo?socket=/nonexistent/s', /cannot be reached: that socket does not exist/],
    ['nbd://no-such-host.invalid/demo', /cannot be reached: /],
  ])('%s is one clear line', async (uri, reason) => {
    const error = await rejection(connectTo(uri));
    expect(error.code).toBe('MIRROR_UNREACHABLE');
    expect(error.message).toMatch(reason);
    expect(error.message).toContain(uri.slice(0, 20));
  });

  it('is given up in time when it accepts and says nothing, or stops in the middle', async () => {
    for (const part of [0, 10, 18, 30, good.length - 1]) {
      const server = await fakeServer(testScope(), async (wire) => {
        wire.send(good.subarray(0, part));
        await wire.take(MIB);
      });
      const began = performance.now();
      const error = await rejection(server.connect({ connectMs: 100 }));
      expect(error.code).toBe('MIRROR_UNREACHABLE');
      expect(error.message).toMatch(/handshake did not end within 100 ms/);
      expect(performance.now() - began).toBeLessThan(4000);
    }
  });
});

describe('a server that dies in the handshake', () => {
  it('ends the attempt, after any number of bytes', async () => {
    let bytes = 0;
    const server = await fakeServer(testScope(), (wire) => {
      wire.send(good.subarray(0, bytes));
      if (bytes % 2 === 0) wire.socket.end();
      else wire.socket.destroy();
    });
    for (; bytes < good.length; bytes += 1) {
      const error = await rejection(server.connect());
      expect([bytes, error.code]).toEqual([bytes, 'MIRROR_UNREACHABLE']);
      expect(error.message).toMatch(/handshake|connection/);
    }
    // The same script with all bytes is a connection: the loop above proved deaths, not refusals.
    await server.connect();
  });
});

describe('a server that says no', () => {
  it('is quoted, and hears a farewell', async () => {
    let farewell = '';
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(optionReply(7, 0x80000006, Buffer.from('gone\u001b[2J fishing')));
      farewell = (await wire.take(16)).toString('hex');
    });
    const error = await rejection(server.connect());
    expect(error.code).toBe('MIRROR_REFUSED');
    expect(error.message).toMatch(/it has no export "demo" \(it says: gone \[2J fishing\)/);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(farewell).toBe('49484156454f50540000000200000000');
  });

  it('cannot keep the connection by not taking leave', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(optionReply(7, 0x80000002));
      await wire.take(16);
      // Neither closes nor ends; the client has to.
      await new Promise((resolve) => setTimeout(resolve, 5000));
    });
    await rejection(server.connect({ connectMs: 200 }));
    const [socket] = server.sockets;
    await new Promise<void>((resolve) => socket?.once('end', resolve));
  });
});

type Lie = (cookie: Buffer) => Buffer;
const lies: readonly [string, Lie, RegExp][] = [
  ['a wrong magic', (cookie) => simpleReply(cookie).fill(0, 0, 4), /wrong magic/],
  [
    'a structured reply',
    (cookie) => Buffer.concat([u32(0x668e33ef), u32(1), cookie, u32(0)]),
    /wrong magic/,
  ],
  ['an unknown cookie', () => simpleReply(Buffer.alloc(8, 0x77)), /not outstanding/],
  ['a cookie of all ones', () => simpleReply(Buffer.alloc(8, 0xff)), /not outstanding/],
  [
    'a prepared cookie',
    () => simpleReply(Buffer.from('bf00000000000000', 'hex')),
    /not outstanding/,
  ],
  [
    'a slot never used',
    (cookie) => simpleReply(Buffer.concat([cookie.subarray(0, 4), u32(4000)])),
    /not outstanding/,
  ],
  [
    'the same answer twice',
    (cookie) => Buffer.concat([simpleReply(cookie, 5), simpleReply(cookie, 5)]),
    /not outstanding/,
  ],
];

describe('a server that answers wrongly', () => {
  it.each(lies)('with %s is dropped, and everything is told', async (_what, lie, reason) => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      const { cookie } = await wire.request();
      wire.send(lie(cookie));
      await wire.take(MIB);
    });
    const client = await server.connect();
    const told: string[] = [];
    const ending = new Promise<void>((resolve) => {
      client.onClosed = (error) => {
        told.push(error.code);
        expect(error.message).toMatch(reason);
        resolve();
      };
    });
    client.read(Buffer.alloc(100), 0, 100, 0, () => told.push('read'));
    client.write(Buffer.alloc(100), 0, 100, 0, (errno) => told.push(`write ${errno}`));
    client.flush((errno) => told.push(`flush ${errno}`));
    await ending;
    expect(told).toEqual(['read', 'write 5', 'flush 5', 'PROTOCOL']);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(told.length).toBe(4);
  });

  it('is dropped also for an answer to a request that another use of the slot made', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      const first = await wire.request();
      wire.send(simpleReply(first.cookie));
      await wire.request();
      wire.send(simpleReply(first.cookie));
      await wire.take(1);
    });
    const client = await server.connect();
    const ending = closed(client);
    expect(await flush(client)).toBe(0);
    expect(await flush(client)).toBe(5);
    expect((await ending).code).toBe('PROTOCOL');
  });

  it('cannot speak before it is asked', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK, simpleReply(Buffer.alloc(8)));
      await wire.take(1);
    });
    const client = await server.connect();
    expect((await closed(client)).code).toBe('PROTOCOL');
  });

  it('cannot write beside the destination of a read that it breaks off', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      const { cookie } = await wire.request();
      wire.send(simpleReply(cookie), Buffer.alloc(60, 0x11));
      await new Promise((resolve) => setTimeout(resolve, 30));
      wire.socket.destroy();
    });
    const client = await server.connect();
    const ending = closed(client);
    const target = Buffer.alloc(200, 0xcc);
    const errno = new Promise((resolve) => client.read(target, 50, 100, 0, resolve));
    expect(await errno).toBe(5);
    expect((await ending).code).toBe('MIRROR_UNREACHABLE');
    expect(target.subarray(0, 50)).toEqual(Buffer.alloc(50, 0xcc));
    expect(target.subarray(150)).toEqual(Buffer.alloc(50, 0xcc));
  });
});

describe('a server that falls silent', () => {
  it('is given up after the time for a reply, but not while nothing is asked', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      wire.send(simpleReply((await wire.request()).cookie));
      await wire.take(MIB);
    });
    const client = await server.connect({ replyMs: 200 });
    let over = false;
    const ending = closed(client).then((error) => {
      over = true;
      return error;
    });
    expect(await flush(client)).toBe(0);
    await new Promise((resolve) => setTimeout(resolve, 400));
    expect(over).toBe(false);
    const began = performance.now();
    expect(await flush(client)).toBe(5);
    const error = await ending;
    expect(error.code).toBe('MIRROR_UNREACHABLE');
    expect(error.message).toMatch(/no reply for 0.2 s/);
    expect(performance.now() - began).toBeGreaterThan(190);
    expect(performance.now() - began).toBeLessThan(5000);
  });

  it('is not given up while it sends anything at all', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      const { cookie } = await wire.request();
      for (const byte of Buffer.concat([simpleReply(cookie), Buffer.alloc(4)])) {
        await new Promise((resolve) => setTimeout(resolve, 40));
        wire.send(Buffer.from([byte]));
      }
    });
    const client = await server.connect({ replyMs: 200 });
    expect(await read(client, Buffer.alloc(4), 0)).toBe(0);
  });

  it('is given up also when it takes no more bytes', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(64 * MIB, FLAGS), ACK);
      wire.socket.pause();
    });
    const client = await server.connect({ replyMs: 200 });
    const ending = closed(client);
    expect(await write(client, Buffer.alloc(32 * MIB), 0)).toBe(5);
    expect((await ending).message).toMatch(/no reply for/);
  });

  it('is given up when it ends its side and would still listen', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      wire.socket.end();
      await wire.take(MIB);
    });
    const client = await server.connect();
    expect((await closed(client)).message).toMatch(/the server closed the connection/);
  });
});

describe('a server that says anything', () => {
  it('ends no more than its connection', async () => {
    const after = fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes));
    const plausible = fc.uint8Array({ minLength: 8, maxLength: 40 }).map((bytes) => {
      return Buffer.concat([u32(0x67446698), Buffer.from(bytes)]);
    });
    await fc.assert(
      fc.asyncProperty(fc.oneof(after, plausible), async (bytes) => {
        const scope = testScope();
        const server = await fakeServer(scope, async (wire) => {
          await wire.handshake(infoExport(MIB, FLAGS), ACK);
          await wire.request();
          wire.send(bytes);
          await new Promise((resolve) => setImmediate(resolve));
          wire.socket.destroy();
        });
        const client = await server.connect();
        const ending = closed(client);
        const target = Buffer.alloc(64);
        await read(client, target, 0);
        expect(['PROTOCOL', 'MIRROR_UNREACHABLE']).toContain((await ending).code);
        await scope.close();
      }),
      { numRuns: 100 },
    );
  });
});
