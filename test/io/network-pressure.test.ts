/**
 * A connection that is paused is not read, unsent bytes are counted and their end is told, buffers stay
 * untouched until `sent`, and nothing a handler throws is lost. Method: floods over loopback sockets.
 */
import { createHash } from 'node:crypto';
import { describe, expect, it, onTestFinished } from 'vitest';

import { connectRecording, listenRecording, pauseFor, until } from './wire.ts';

const FLOOD_BYTES = 24 * 1024 * 1024;

describe('pause', () => {
  it('stops reading, so that the sender is held back, and resume takes up again', async () => {
    const { listener, accepted } = await listenRecording();
    const { connection } = await connectRecording(listener);
    await until(() => accepted.length === 1, 'the accept');
    const server = accepted[0]!;
    server.connection.pause();
    const payload = Buffer.alloc(FLOOD_BYTES, 5);
    let sent = 0;
    for (let at = 0; at < FLOOD_BYTES; at += 65_536) {
      connection.send(payload.subarray(at, at + 65_536), () => (sent += 65_536));
    }
    await pauseFor(150);
    expect(server.heard.receivedBytes).toBe(0);
    expect(connection.backlogBytes).toBeGreaterThan(4 * 1024 * 1024);
    expect(sent).toBeLessThan(FLOOD_BYTES);
    server.connection.resume();
    await until(() => server.heard.receivedBytes === FLOOD_BYTES, 'the flood');
    expect(sent).toBe(FLOOD_BYTES);
    expect(connection.backlogBytes).toBe(0);
  });

  it('takes effect inside received: at most one more call', async () => {
    const { listener, accepted } = await listenRecording('127.0.0.1:0', (connection, heard) => {
      heard.onReceived = () => connection.pause();
    });
    const { connection } = await connectRecording(listener);
    connection.send(Buffer.alloc(FLOOD_BYTES), () => {});
    await until(() => accepted[0]?.heard.chunks.length === 1, 'the first bytes');
    await pauseFor(100);
    expect(accepted[0]!.heard.chunks.length).toBeLessThanOrEqual(2);
    const before = accepted[0]!.heard.chunks.length;
    accepted[0]!.connection.resume();
    await until(() => accepted[0]!.heard.chunks.length > before, 'more bytes');
  });
});

describe('send', () => {
  it('reports each time that a backlog, of one byte even, fell to zero', async () => {
    const { listener, accepted } = await listenRecording();
    const { connection, heard } = await connectRecording(listener);
    await until(() => accepted.length === 1, 'the accept');
    for (const bytes of [FLOOD_BYTES, 1, FLOOD_BYTES]) {
      const before = heard.count('drained');
      accepted[0]!.connection.pause();
      connection.cork();
      connection.send(Buffer.alloc(bytes), () => {});
      expect(connection.backlogBytes).toBe(bytes);
      connection.uncork();
      await pauseFor(20);
      if (bytes > 1) expect(heard.count('drained')).toBe(before);
      accepted[0]!.connection.resume();
      await until(() => heard.count('drained') > before, 'the drain');
      expect(connection.backlogBytes).toBe(0);
    }
  });

  it('never calls sent from inside send', async () => {
    const { listener } = await listenRecording();
    const { connection } = await connectRecording(listener);
    let sent = 0;
    connection.send(Buffer.alloc(100), () => (sent += 1));
    expect(sent).toBe(0);
    await until(() => sent === 1, 'sent');
    connection.destroy();
    connection.send(Buffer.alloc(100), () => (sent += 1));
    expect(sent).toBe(1);
    await until(() => sent === 2, 'sent');
  });

  it('keeps a buffer as it is until sent, and reports every buffer of a destroyed connection', async () => {
    const { listener, accepted } = await listenRecording();
    const { connection, heard } = await connectRecording(listener);
    await until(() => accepted.length === 1, 'the accept');
    accepted[0]!.connection.pause();
    const order: number[] = [];
    for (let index = 0; index < 200; index += 1) {
      connection.send(Buffer.alloc(65_536, index), () => order.push(index));
    }
    await pauseFor(50);
    expect(order.length).toBeLessThan(200);
    connection.destroy();
    await until(() => heard.events.includes('closed'), 'the close');
    expect(order).toEqual(Array.from({ length: 200 }, (_, index) => index));
  });

  it('reuses buffers after sent without a byte of one ever seen in another', async () => {
    // Eight buffers, refilled as soon as `sent` says so, against a receiver that stops and goes.
    const { listener, accepted } = await listenRecording('127.0.0.1:0', (server, heard) => {
      heard.onReceived = () => {
        if (heard.chunks.length % 4 !== 0) return;
        server.pause();
        setTimeout(() => server.resume(), 1);
      };
    });
    const { connection } = await connectRecording(listener);
    const expected = createHash('sha256');
    const TOTAL = 300;
    let number = 0;
    const refill = (buffer: Buffer): void => {
      if (number === TOTAL) return;
      buffer.fill(number % 251);
      expected.update(buffer);
      number += 1;
      connection.send(buffer, () => refill(buffer));
    };
    for (let index = 0; index < 8; index += 1) refill(Buffer.alloc(40_000));
    await until(() => accepted[0]?.heard.receivedBytes === TOTAL * 40_000, 'all bytes');
    const seen = createHash('sha256');
    for (const chunk of accepted[0]!.heard.chunks) seen.update(chunk);
    expect(seen.digest('hex')).toBe(expected.digest('hex'));
  });

  it('gathers what is sent between cork and uncork', async () => {
    const { listener, accepted } = await listenRecording();
    const { connection } = await connectRecording(listener);
    connection.cork();
    for (let index = 0; index < 50; index += 1) connection.send(Buffer.from('x'), () => {});
    expect(connection.backlogBytes).toBe(50);
    await pauseFor(20);
    expect(accepted[0]!.heard.receivedBytes).toBe(0);
    connection.uncork();
    await until(() => accepted[0]!.heard.receivedBytes === 50, 'the bytes');
    expect(accepted[0]!.heard.chunks.length).toBe(1);
  });
});

describe('an exception in a handler', () => {
  it.each(['received', 'drained', 'ended', 'closed', 'accept'])(
    'reaches the process: %s',
    async (where) => {
      const caught = catchUncaught();
      const { listener, accepted } = await listenRecording('127.0.0.1:0', (_connection, heard) => {
        const fail = (): never => {
          throw new Error(`thrown in ${where}`);
        };
        if (where === 'accept') fail();
        if (where === 'received') heard.onReceived = fail;
        else Object.assign(heard, { [where]: fail });
      });
      const { connection } = await connectRecording(listener);
      if (where !== 'accept') await until(() => accepted.length === 1, 'the accept');
      if (where === 'drained') accepted[0]!.connection.send(Buffer.alloc(FLOOD_BYTES), () => {});
      if (where === 'closed') accepted[0]!.connection.destroy();
      connection.send(Buffer.alloc(1), () => {});
      connection.end();
      await until(() => caught.length > 0, 'the exception');
      expect(caught).toEqual([`thrown in ${where}`]);
    },
  );
});

/** Stands in for the handlers of the test runner, which would fail the test. */
function catchUncaught(): string[] {
  const caught: string[] = [];
  const listeners = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => caught.push(error.message));
  onTestFinished(() => {
    process.removeAllListeners('uncaughtException');
    for (const listener of listeners) process.on('uncaughtException', listener);
  });
  return caught;
}
