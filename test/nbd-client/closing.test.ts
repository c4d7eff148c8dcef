/**
 * The end of a connection by this side: a polite close waits for answers and takes leave, within a bound;
 * a cut is at once. Either way everything is told once.
 *
 * Method: a scripted server records what it is sent last, and holds back answers.
 */
import { describe, expect, it } from 'vitest';
import { systemClock, type Clock } from '../../src/io/clock.ts';
import { testScope } from '../support/tools.ts';
import { consecutive, TestBatch } from './support/batches.ts';
import { flush, read, write } from './support/calls.ts';
import { ACK, fakeServer, FLAGS, infoExport, simpleReply } from './support/fake-server.ts';

const MIB = 1024 * 1024;
const DISC = 2;

/** Long waits of the client pass in a hundredth of their time. */
const hastyClock: Clock = {
  ...systemClock,
  after: (delayMs, callback) => systemClock.after(delayMs / 100, callback),
};

const unexpected = (): void => expect.unreachable('onClosed after close');

describe('closing a client', () => {
  it('waits for what is outstanding, in pieces and prepared too, then sends DISC alone', async () => {
    const commands: number[] = [];
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(128 * MIB, FLAGS), ACK);
      for (;;) {
        const { command, cookie, length } = await wire.request();
        commands.push(command);
        await new Promise((resolve) => setTimeout(resolve, 5));
        if (command === DISC) continue;
        wire.send(simpleReply(cookie, 0, command === 0 ? Buffer.alloc(length) : undefined));
      }
    });
    const client = await server.connect();
    client.onClosed = unexpected;
    const batch = new TestBatch(1, consecutive(10, 512));
    const answers = [write(client, Buffer.alloc(40 * MIB), 0), flush(client)];
    client.sendPrepared(batch, batch.chunks);
    const closing = client.close();
    expect(client.open).toBe(false);
    expect(await flush(client)).toBe(5);
    expect(await Promise.all(answers)).toEqual([0, 0]);
    await Promise.all([closing, batch.finished]);
    expect(commands.filter((command) => command === DISC).length).toBe(1);
    expect(commands.at(-1)).toBe(DISC);
    await client.close();
  });

  it('does not wait for ever: what is unanswered is told EIO', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      await wire.take(MIB);
    });
    const client = await server.connect({ clock: hastyClock, connectMs: 100_000 });
    client.onClosed = unexpected;
    const answer = read(client, Buffer.alloc(10), 0);
    await client.close();
    expect(await answer).toBe(5);
  });

  it('ends also when the server is gone already', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      await wire.request();
      wire.socket.destroy();
    });
    const client = await server.connect();
    const answer = flush(client);
    await client.close();
    expect(await answer).toBe(5);
  });
});

describe('cutting a client', () => {
  it('tells EIO, then onClosed once, and a later close has nothing left to do', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      await wire.take(MIB);
    });
    const client = await server.connect();
    const told: string[] = [];
    const ending = new Promise<void>((resolve) => {
      client.onClosed = (error) => {
        told.push(error.message);
        resolve();
      };
    });
    client.flush((errno) => told.push(`flush ${errno}`));
    client.destroy();
    client.destroy();
    expect(told).toEqual([]);
    await ending;
    await client.close();
    expect(told).toEqual(['flush 5', expect.stringMatching(/cut by this side/)]);
  });

  it('is told to a handler that is set afterwards', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      await wire.take(MIB);
    });
    const client = await server.connect();
    const answer = flush(client);
    client.destroy();
    expect(await answer).toBe(5);
    await new Promise<void>((resolve) => {
      client.onClosed = () => resolve();
    });
  });

  it('from inside a callback stops the reading of what came with the answer', async () => {
    const server = await fakeServer(testScope(), async (wire) => {
      await wire.handshake(infoExport(MIB, FLAGS), ACK);
      const [first, second] = [await wire.request(), await wire.request()];
      wire.send(simpleReply(first.cookie), simpleReply(second.cookie));
      await wire.take(1);
    });
    const client = await server.connect();
    const told: number[] = [];
    await new Promise<void>((resolve) => {
      client.onClosed = () => resolve();
      client.flush((errno) => {
        told.push(errno);
        client.destroy();
      });
      client.flush((errno) => told.push(errno));
    });
    expect(told).toEqual([0, 5]);
  });
});
