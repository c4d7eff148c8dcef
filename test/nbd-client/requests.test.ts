/**
 * Requests and replies of the client: what goes over the wire, what is cut in pieces, how answers in
 * any order and in any fragments find their way.
 *
 * Method: a scripted server on a unix socket records the requests, decoded by the test's own decoder,
 * and answers as each test wants.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { closed, flush, pattern, read, write, zero } from './support/calls.ts';
import {
  ACK,
  fakeServer,
  FLAGS,
  infoBlockSize,
  infoExport,
  simpleReply,
  type Wire,
  type WireRequest,
} from './support/fake-server.ts';

const MIB = 1024 * 1024;
const READ = 0;
const WRITE = 1;
const FLUSH = 3;
const WRITE_ZEROES = 6;

/** Memory that is served, and every request that came. */
class Memory {
  readonly bytes: Buffer;
  readonly requests: WireRequest[] = [];

  constructor(length: number) {
    this.bytes = Buffer.alloc(length, 0xaa);
  }

  apply(request: WireRequest): Buffer {
    this.requests.push(request);
    const { command, offset, length } = request;
    if (command === WRITE) request.payload.copy(this.bytes, offset);
    if (command === WRITE_ZEROES) this.bytes.fill(0, offset, offset + length);
    const data = command === READ ? this.bytes.subarray(offset, offset + length) : undefined;
    return simpleReply(request.cookie, 0, data);
  }

  get shapes(): string[] {
    return this.requests.map(({ command, offset, length }) => `${command} ${offset}+${length}`);
  }
}

const serveAll = async (wire: Wire, memory: Memory): Promise<void> => {
  for (;;) wire.send(memory.apply(await wire.request()));
};

const never = (): void => expect.unreachable();

describe('client requests', () => {
  it('writes, reads back, zeroes and flushes, with offsets above 4 GiB', async () => {
    const seen: WireRequest[] = [];
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(2 ** 52, FLAGS), ACK);
      for (;;) {
        const request = await wire.request();
        seen.push(request);
        const data = request.command === READ ? pattern(request.length, 7) : undefined;
        wire.send(simpleReply(request.cookie, 0, data));
      }
    });
    const client = await server.connect();
    const far = 2 ** 51 + 3 * 2 ** 32 + 0xfffff000;
    expect(await write(client, pattern(4096, 1), far)).toBe(0);
    const target = Buffer.alloc(10, 0xcc);
    const errno = await new Promise((resolve) => client.read(target, 2, 6, 0xfffffffe, resolve));
    expect(errno).toBe(0);
    expect(target).toEqual(
      Buffer.concat([Buffer.alloc(2, 0xcc), pattern(6, 7), Buffer.alloc(2, 0xcc)]),
    );
    expect(await zero(client, far, 4096, true)).toBe(0);
    expect(await zero(client, 0, 512)).toBe(0);
    expect(await flush(client)).toBe(0);
    expect(
      seen.map(({ command, flags, offset, length }) => [command, flags, offset, length]),
    ).toEqual([
      [WRITE, 0, far, 4096],
      [READ, 0, 0xfffffffe, 6],
      [WRITE_ZEROES, 2, far, 4096],
      [WRITE_ZEROES, 0, 0, 512],
      [FLUSH, 0, 0, 0],
    ]);
    expect(seen[0]?.payload).toEqual(pattern(4096, 1));
    expect(client.inFlight).toBe(0);
  });

  it('matches answers in reverse order, cut into fragments of every size', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      for (let fragment = 1; ; fragment += 1) {
        const requests: WireRequest[] = [];
        for (let count = 0; count < 5; count += 1) requests.push(await wire.request());
        const answers = requests.toReversed().map((request) => {
          if (request.command === WRITE) return simpleReply(request.cookie, 28);
          return simpleReply(request.cookie, 0, pattern(request.length, request.offset));
        });
        const bytes = Buffer.concat(answers);
        for (let at = 0; at < bytes.length; at += fragment) {
          wire.send(bytes.subarray(at, at + fragment));
          await new Promise((resolve) => setImmediate(resolve));
        }
      }
    });
    const client = await server.connect();
    for (let fragment = 1; fragment <= 40; fragment += 1) {
      const targets = [1, 17, 30, 2].map((length) => Buffer.alloc(length));
      const reads = targets.map((target, index) => read(client, target, index * 100));
      const failing = write(client, pattern(3, 1), 5);
      expect(await Promise.all([...reads, failing])).toEqual([0, 0, 0, 0, 28]);
      for (const [index, target] of targets.entries()) {
        expect(target).toEqual(pattern(target.length, index * 100));
      }
    }
  });

  it('cuts large reads and writes at the maximum payload, a few pieces at a time', async () => {
    const memory = new Memory(300_000);
    let deepest = 0;
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(300_000, FLAGS), infoBlockSize(1, 4096, 16384), ACK);
      for (;;) {
        wire.send(memory.apply(await wire.request()));
        deepest = Math.max(deepest, client.inFlight);
      }
    });
    const client = await server.connect();
    const payload = pattern(200_000, 3);
    expect(await write(client, payload, 1000)).toBe(0);
    expect(memory.bytes.subarray(1000, 201_000).equals(payload)).toBe(true);
    const target = Buffer.alloc(200_000);
    expect(await read(client, target, 1000)).toBe(0);
    expect(target.equals(payload)).toBe(true);
    expect(Math.max(...memory.requests.map(({ length }) => length))).toBe(16384);
    expect(memory.requests.length).toBe(2 * Math.ceil(200_000 / 16384));
    expect(deepest).toBeLessThanOrEqual(4);
    expect(deepest).toBeGreaterThan(1);
  });

  it('tells the first error of a request in pieces once, and sends no more of it', async () => {
    let count = 0;
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), infoBlockSize(1, 4096, 4096), ACK);
      for (;;) {
        const request = await wire.request();
        count += 1;
        wire.send(simpleReply(request.cookie, count >= 3 ? 28 : 0));
      }
    });
    const client = await server.connect();
    expect(await write(client, Buffer.alloc(MIB), 0)).toBe(28);
    expect(count).toBeLessThan(10);
    expect(client.inFlight).toBe(0);
  });

  it('splits zeroes beyond 32 bits', async () => {
    const size = 10 * 2 ** 30;
    const seen: WireRequest[] = [];
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(size, FLAGS), ACK);
      for (;;) {
        const request = await wire.request();
        seen.push(request);
        wire.send(simpleReply(request.cookie));
      }
    });
    const client = await server.connect();
    expect(await zero(client, 0, size)).toBe(0);
    expect(seen.map(({ offset, length }) => [offset, length])).toEqual([
      [0, 2 ** 32 - 65536],
      [2 ** 32 - 65536, 2 ** 32 - 65536],
      [2 ** 33 - 131072, 2 ** 31 + 131072],
    ]);
  });

  it('writes zeroes where the server cannot', async () => {
    const memory = new Memory(3 * MIB);
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(3 * MIB, 0x0005), ACK);
      await serveAll(wire, memory);
    });
    const client = await server.connect();
    expect(await zero(client, 100, 2 * MIB + 7)).toBe(0);
    expect(memory.shapes).toEqual([
      `1 100+${MIB}`,
      `1 ${100 + MIB}+${MIB}`,
      `1 ${100 + 2 * MIB}+7`,
    ]);
    const expected = Buffer.alloc(3 * MIB, 0xaa).fill(0, 100, 100 + 2 * MIB + 7);
    expect(memory.bytes.equals(expected)).toBe(true);
  });

  it('flushes a server without FLUSH by waiting for the writes that were sent before', async () => {
    const asked: WireRequest[] = [];
    const answer: (() => void)[] = [];
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, 0x0001), ACK);
      for (;;) {
        const request = await wire.request();
        asked.push(request);
        answer.push(() => wire.send(simpleReply(request.cookie)));
      }
    });
    const client = await server.connect();
    expect(await flush(client)).toBe(0);
    const told: string[] = [];
    const note = (what: string) => (): void => void told.push(what);
    const first = write(client, Buffer.alloc(10), 0).then(note('first'));
    const second = zero(client, 10, 10).then(note('second'));
    const barrier = flush(client).then(note('flush'));
    const third = write(client, Buffer.alloc(10), 20).then(note('third'));
    while (asked.length < 3) await new Promise((resolve) => setTimeout(resolve, 1));
    answer[2]?.();
    await third;
    answer[1]?.();
    await second;
    expect(told).toEqual(['third', 'second']);
    answer[0]?.();
    await Promise.all([first, barrier]);
    expect(told).toEqual(['third', 'second', 'first', 'flush']);
    expect(asked.map(({ command }) => command)).toEqual([WRITE, WRITE, WRITE]);
  });

  it('folds errors that the protocol does not know into EINVAL', async () => {
    const errnos = [1, 5, 12, 22, 28, 75, 95, 108, 2, 0x7fffffff, 0xffffffff];
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      for (const errno of errnos) wire.send(simpleReply((await wire.request()).cookie, errno));
    });
    const client = await server.connect();
    const told: number[] = [];
    for (let count = 0; count < errnos.length; count += 1) {
      told.push(await read(client, Buffer.alloc(512), 0));
    }
    expect(told).toEqual([1, 5, 12, 22, 28, 75, 95, 108, 22, 22, 22]);
  });

  it('keeps 4096 requests on their way, takes memory for no more, and refuses one more', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      const requests: WireRequest[] = [];
      while (requests.length < 4096) requests.push(await wire.request());
      wire.send(...requests.toReversed().map(({ cookie }) => simpleReply(cookie)));
      for (;;) wire.send(simpleReply((await wire.request()).cookie));
    });
    const client = await server.connect();
    const answers: Promise<number>[] = [];
    client.cork();
    for (let count = 0; count < 4096; count += 1) answers.push(flush(client));
    client.uncork();
    expect(client.inFlight).toBe(4096);
    expect(() => client.flush(() => {})).toThrow(/bounds its requests/);
    expect(new Set(await Promise.all(answers))).toEqual(new Set([0]));
    expect(await flush(client)).toBe(0);
  });

  it('answers requests made from inside a callback', async () => {
    const memory = new Memory(MIB);
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      await serveAll(wire, memory);
    });
    const client = await server.connect();
    await new Promise<void>((resolve) => {
      let left = 100;
      const next = (errno: number): void => {
        expect(errno).toBe(0);
        left -= 1;
        if (left === 0) resolve();
        else client.write(pattern(64, left), 0, 64, left * 64, next);
      };
      next(0);
    });
    expect(memory.requests.length).toBe(99);
  });

  it('rejects programming errors at once: ranges outside the export or the buffer', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      await wire.request();
    });
    const client = await server.connect();
    const buffer = Buffer.alloc(1024);
    expect(() => client.read(buffer, 0, 1025, 0, never)).toThrow(/the data fits/);
    expect(() => client.write(buffer, 1000, 25, 0, never)).toThrow(/the data is there/);
    expect(() => client.read(buffer, 0, 1024, MIB - 1023, never)).toThrow(/lies in the export/);
    expect(() => client.zero(-1, 10, { noHole: false }, never)).toThrow(/byte offset/);
    expect(() => client.zero(0, 0, { noHole: false }, never)).toThrow(/byte count/);
    expect(() => client.zero(0.5, 10, { noHole: false }, never)).toThrow(/byte offset/);
  });

  it('answers EIO, and later, once the connection is over', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      wire.socket.destroy();
    });
    const client = await server.connect();
    await closed(client);
    let inside = true;
    const errno = await new Promise<number>((resolve) => {
      client.flush((errno) => {
        expect(inside).toBe(false);
        resolve(errno);
      });
      inside = false;
    });
    expect(errno).toBe(5);
    expect(client.open).toBe(false);
  });
});
