/**
 * Prepared batches: staged payloads that travel in the form in which they lie in memory.
 *
 * Method: golden bytes of the header; then batches sent to a scripted server that answers in any order,
 * wrongly, twice, or not at all. What is told about a batch is recorded, and telling twice fails.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { encodeWriteHeader, encodeWriteLength } from '../../src/nbd/client/client-prepared.ts';
import { testScope } from '../support/tools.ts';
import { consecutive, TestBatch } from './support/batches.ts';
import { closed, flush, pattern, read, write } from './support/calls.ts';
import {
  ACK,
  fakeServer,
  FLAGS,
  infoExport,
  simpleReply,
  u32,
  type WireRequest,
} from './support/fake-server.ts';

const MIB = 1024 * 1024;

const mark = (batch: number): Buffer => u32((0xbf000000 | batch) >>> 0);

describe('prepared batches', () => {
  it('have headers as the specification writes them, and touch nothing else', () => {
    const slab = Buffer.alloc(40, 0xee);
    encodeWriteHeader(slab, 5, {
      offset: 2 ** 52 + 0xfedcba98,
      length: 0x12345678,
      batch: 0x1_0345_6789,
      index: 0xabcdef,
    });
    const header = `25609513 0000 0001 bf456789 00abcdef 00100000fedcba98 12345678`;
    expect(slab.toString('hex')).toBe(
      `${'ee'.repeat(5)}${header.replaceAll(' ', '')}${'ee'.repeat(7)}`,
    );
    encodeWriteLength(slab, 5, 0x1000);
    expect(slab.toString('hex', 5 + 24)).toBe(`00001000${'ee'.repeat(7)}`);
    const wrong = { offset: 2 ** 53, length: 1, batch: 0, index: 0 };
    expect(() => encodeWriteHeader(slab, 0, wrong)).toThrow(/byte offset/);
  });

  it('arrive whole, are answered in any order, and are done once', async () => {
    const memory = Buffer.alloc(8 * MIB);
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(memory.length, FLAGS), ACK);
      for (;;) {
        const requests: WireRequest[] = [];
        for (let count = 0; count < 500; count += 1) requests.push(await wire.request());
        for (const { payload, offset } of requests) payload.copy(memory, offset);
        // The low bits of the index decide: far from the order in which they came.
        const replies = requests
          .toSorted((left, right) => ((left.cookie[7] ?? 0) % 16) - ((right.cookie[7] ?? 0) % 16))
          .map(({ cookie }) => simpleReply(cookie));
        wire.send(...replies);
      }
    });
    const client = await server.connect();
    for (const id of [1, 0xffffff, 0x1000000, 7]) {
      const batch = new TestBatch(id, consecutive(500, 4096, id % 4096), 100_000);
      client.sendPrepared(batch, batch.chunks);
      expect(client.inFlight).toBe(500);
      expect(batch.doneCalls).toBe(0);
      await batch.finished;
      expect(batch.told.size).toBe(500);
      expect(new Set(batch.told.values())).toEqual(new Set([0]));
      const arrived = memory.subarray(id % 4096, (id % 4096) + 500 * 4096);
      expect(arrived.equals(Buffer.concat(batch.payloads))).toBe(true);
      expect(client.inFlight).toBe(0);
    }
  });

  it('tell the errors of single requests by index, and are done all the same', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      for (let index = 0; ; index += 1) {
        wire.send(simpleReply((await wire.request()).cookie, index % 3 === 1 ? 28 : 0));
      }
    });
    const client = await server.connect();
    const batch = new TestBatch(1, consecutive(6, 512));
    client.sendPrepared(batch, batch.chunks);
    await batch.finished;
    expect([...batch.told]).toEqual([
      [0, 0],
      [1, 28],
      [2, 0],
      [3, 0],
      [4, 28],
      [5, 0],
    ]);
  });

  it('travel among other requests without being mixed up with them', async () => {
    const memory = Buffer.alloc(MIB, 1);
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      for (;;) {
        const { command, cookie, offset, length, payload } = await wire.request();
        if (command === 1) payload.copy(memory, offset);
        const data = command === 0 ? memory.subarray(offset, offset + length) : undefined;
        wire.send(simpleReply(cookie, 0, data));
      }
    });
    const client = await server.connect();
    const batch = new TestBatch(0, consecutive(50, 4096));
    const target = Buffer.alloc(1000);
    const before = [write(client, pattern(100, 9), MIB - 100), read(client, target, MIB - 1000)];
    client.sendPrepared(batch, batch.chunks);
    const after = [read(client, Buffer.alloc(5000), 0), flush(client)];
    await batch.finished;
    expect(await Promise.all([...before, ...after])).toEqual([0, 0, 0, 0]);
    expect(target.subarray(900)).toEqual(pattern(100, 9));
    expect(memory.subarray(0, 50 * 4096).equals(Buffer.concat(batch.payloads))).toBe(true);
  });

  it('hold up the flush of a server without FLUSH', async () => {
    const answers: (() => void)[] = [];
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, 0x0001), ACK);
      const request = await wire.request();
      answers.push(() => wire.send(simpleReply(request.cookie)));
      await wire.request();
    });
    const client = await server.connect();
    const batch = new TestBatch(3, consecutive(1, 512));
    client.sendPrepared(batch, batch.chunks);
    let flushed = false;
    const flushing = new Promise<void>((resolve) => {
      client.flush(() => {
        flushed = true;
        resolve();
      });
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(flushed).toBe(false);
    answers[0]?.();
    await flushing;
    expect(batch.doneCalls).toBe(1);
  });

  it('go one at a time, and with the id that is in their headers', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      for (;;) await wire.request();
    });
    const client = await server.connect();
    const batch = new TestBatch(4, consecutive(2, 512));
    const other = { id: 5, count: 2, replied: (): void => {}, done: (): void => {} };
    expect(() => client.sendPrepared(other, batch.chunks)).toThrow(/carry the id/);
    client.sendPrepared(batch, batch.chunks);
    const second = new TestBatch(5, consecutive(2, 512));
    expect(() => client.sendPrepared(second, second.chunks)).toThrow(/one prepared batch/);
  });

  it.each<[string, (cookies: readonly Buffer[]) => Buffer]>([
    [
      'the same index twice',
      ([first = mark(0)]) => Buffer.concat([simpleReply(first), simpleReply(first)]),
    ],
    ['an index beyond the batch', () => simpleReply(Buffer.concat([mark(9), u32(3)]))],
    ['the largest index', () => simpleReply(Buffer.concat([mark(9), u32(0xffffffff)]))],
    ['another batch', () => simpleReply(Buffer.concat([mark(8), u32(0)]))],
    ['a request of no kind', () => simpleReply(Buffer.concat([u32(0), u32(0)]))],
  ])('end the connection when the server answers %s', async (_what, lie) => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      const cookies: Buffer[] = [];
      for (let count = 0; count < 3; count += 1) cookies.push((await wire.request()).cookie);
      wire.send(lie(cookies));
      await wire.take(1);
    });
    const client = await server.connect();
    const ending = closed(client);
    const batch = new TestBatch(9, consecutive(3, 512));
    client.sendPrepared(batch, batch.chunks);
    const error = await ending;
    expect(error.code).toBe('PROTOCOL');
    expect(error.message).toMatch(/request that is not outstanding/);
    expect(batch.doneCalls).toBe(0);
  });

  it('are not done when the connection dies, and their memory is free when that is told', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(2 ** 40, FLAGS), ACK);
      wire.send(simpleReply((await wire.request()).cookie));
      // Reads no more: most of the batch stays in the memory of the client.
      wire.socket.pause();
      await new Promise((resolve) => setTimeout(resolve, 50));
      wire.socket.destroy();
    });
    const client = await server.connect();
    const batch = new TestBatch(9, consecutive(300, 256 * 1024));
    const order: string[] = [];
    const ending = new Promise<string>((resolve) => {
      client.onClosed = (error) => {
        order.push('closed');
        resolve(error.code);
      };
    });
    client.sendPrepared(batch, batch.chunks);
    const flushed = flush(client).then((errno) => order.push(`flush ${errno}`));
    expect(await ending).toBe('MIRROR_UNREACHABLE');
    await flushed;
    expect(batch.told).toEqual(new Map([[0, 0]]));
    expect(batch.doneCalls).toBe(0);
    expect(client.inFlight).toBe(0);
    expect(order.length).toBe(2);
  });

  it('survive answers in any order mixed with any lie', async () => {
    const plan = fc.record({
      count: fc.integer({ min: 1, max: 40 }),
      lies: fc.array(fc.tuple(fc.nat(60), fc.uint8Array({ minLength: 8, maxLength: 8 })), {
        maxLength: 2,
      }),
      seed: fc.integer(),
    });
    await fc.assert(
      fc.asyncProperty(plan, async ({ count, lies, seed }) => {
        const scope = testScope();
        const server = await fakeServer(scope, async (wire) => {
          await wire.handshake(infoExport(MIB, FLAGS), ACK);
          const replies: Buffer[] = [];
          while (replies.length < count) replies.push(simpleReply((await wire.request()).cookie));
          replies.sort((left, right) => ((left[15] ?? 0) ^ seed) - ((right[15] ?? 0) ^ seed));
          for (const [at, cookie] of lies) replies.splice(at, 0, simpleReply(Buffer.from(cookie)));
          wire.send(...replies);
          await wire.take(1);
        });
        const client = await server.connect();
        const ending = closed(client);
        const batch = new TestBatch(1, consecutive(count, 512));
        client.sendPrepared(batch, batch.chunks);
        if (lies.length === 0) await batch.finished;
        else expect((await ending).code).toBe('PROTOCOL');
        if (batch.doneCalls > 0) expect(batch.told.size).toBe(count);
        await scope.close();
      }),
      { numRuns: 60 },
    );
  });
});
