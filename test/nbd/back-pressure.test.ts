/**
 * Memory and work for one client are bounded, and other clients are served meanwhile. Method: clients
 * that pipeline without end, that never read, that send faster than the device answers; first over the
 * fake network with exact limits, then over real sockets with the memory of the process.
 */
import * as net from 'node:net';
import { beforeEach, describe, expect, it } from 'vitest';

import { systemClock } from '../../src/io/clock.ts';
import {
  NBD_IN_FLIGHT_BYTES_MAX,
  NBD_IN_FLIGHT_REQUESTS_MAX,
  NBD_PAYLOAD_BYTES_MAX,
  NBD_READ_BUFFER_BYTES,
  NBD_REPLY_BACKLOG_BYTES_MAX,
  NBD_REQUESTS_PER_TURN_MAX,
} from '../../src/io/limits.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { NbdServer } from '../../src/nbd/server/server.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { type FakeConnection, FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { MemoryDevice, sourceOf } from './support/memory-device.ts';
import { CLIENT_FLAGS, CMD, go, request, simpleReplies } from './support/wire.ts';

const MIB = 1024 * 1024;
/** Rounding up to size classes, and the stash. */
const SLACK = 4 * MIB;

let world: FakeWorld;
let client: FakeConnection;

beforeEach(async () => {
  world = await FakeWorld.create(MIB);
  client = world.transmit();
});

const readOf = (length: number, cookie = 0): Buffer => request(CMD.read, { cookie, length });

/** One delivery full of READs: 37,449 of them. */
const flood = (length: number): Buffer =>
  Buffer.concat(
    Array.from({ length: Math.floor(NBD_READ_BUFFER_BYTES / 28) }, (_, cookie) =>
      readOf(length, cookie),
    ),
  );

describe('a client that does not read', () => {
  it('costs no more than the backlog limit, and gets everything once it reads', () => {
    client.stalled = true;
    const bytes = flood(4096);
    client.write(bytes);
    world.settle();
    const { lent } = world.server.bufferBytes;
    expect(lent).toBeLessThan(NBD_REPLY_BACKLOG_BYTES_MAX + SLACK);
    expect(lent).toBeGreaterThan(NBD_REPLY_BACKLOG_BYTES_MAX);
    expect(client.paused).toBe(true);

    const other = world.transmit();
    other.write(readOf(4096));
    world.settle();
    expect(simpleReplies(other.take(), () => 4096).replies).toHaveLength(1);

    client.stalled = false;
    let count = 0;
    let inOrder = true;
    let rest = Buffer.alloc(0);
    for (let turns = 0; turns < 5000 && count < bytes.length / 28; turns++) {
      world.clock.runSoon();
      client.step();
      const parsed = simpleReplies(Buffer.concat([rest, client.take()]), () => 4096);
      inOrder &&= parsed.replies.every(({ cookie }) => cookie === BigInt(count++));
      rest = Buffer.from(parsed.rest);
    }
    expect(count).toBe(Math.floor(NBD_READ_BUFFER_BYTES / 28));
    expect(inOrder).toBe(true);
    world.settle();
    expect(client.paused).toBe(false);
    client.die(null);
    other.die(null);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('and sends one request at a time costs what its replies take, not a slab for each', () => {
    client.stalled = true;
    for (let count = 0; count < 1000; count++) {
      client.write(readOf(100));
      world.settle();
    }
    expect(world.server.bufferBytes.lent).toBeLessThan(MIB);
    client.stalled = false;
    world.settle();
    expect(simpleReplies(client.take(), () => 100).replies).toHaveLength(1000);
  });

  it('and dies leaves nothing', () => {
    client.stalled = true;
    client.write(flood(4096));
    world.settle();
    client.die(new Error('ECONNRESET'));
    world.settle();
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
});

describe('a device that does not answer', () => {
  beforeEach(() => {
    world.device.mode = 'hold';
  });

  it('holds at most NBD_IN_FLIGHT_REQUESTS_MAX requests of a connection', () => {
    const bytes = flood(16);
    client.write(bytes, readOf(16), readOf(16));
    world.settle();
    expect(world.device.heldCount).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    expect(client.paused).toBe(true);
    world.device.release([0]);
    world.settle();
    expect(world.device.heldCount).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    world.device.mode = 'now';
    world.device.release();
    world.settle();
    const { replies } = simpleReplies(client.take(), () => 16);
    expect(replies).toHaveLength(bytes.length / 28 + 2);
  });

  it.each([
    ['reads', 0],
    ['writes', 1],
  ])('holds at most NBD_IN_FLIGHT_BYTES_MAX and one request more of %s', (_, command) => {
    const length = MIB;
    const payload = command === CMD.write ? Buffer.alloc(length, 1) : Buffer.alloc(0);
    for (let cookie = 0; cookie < 200; cookie++) {
      client.write(request(command, { cookie, length, payload }));
    }
    world.settle();
    expect(client.paused).toBe(true);
    expect(world.server.bufferBytes.lent).toBeLessThan(NBD_IN_FLIGHT_BYTES_MAX + length + SLACK);
    expect(world.device.heldCount).toBeGreaterThan(60);
    for (let rounds = 0; world.device.heldCount > 0; rounds++) {
      expect(rounds).toBeLessThan(1000);
      world.device.release();
      world.settle();
    }
    const { replies } = simpleReplies(client.take(), () => (command === CMD.read ? length : 0));
    expect(replies).toHaveLength(200);
    client.die(null);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
});

it('takes memory for a payload once, of the size announced', () => {
  client.write(request(CMD.write, { length: NBD_PAYLOAD_BYTES_MAX }));
  world.device.sizeBytes = 2 ** 40;
  world.settle();
  const { lent } = world.server.bufferBytes;
  expect(lent).toBeGreaterThanOrEqual(NBD_PAYLOAD_BYTES_MAX);
  expect(lent).toBeLessThan(NBD_PAYLOAD_BYTES_MAX + SLACK);
  client.die(null);
  expect(world.leftovers()).toEqual(NOTHING_LEFT);
});

it('takes turns: one client does not hold up the others for longer than a batch', () => {
  const other = world.transmit();
  world.device.calls.length = 0;
  client.write(flood(1));
  other.write(request(CMD.flush));
  world.settle();
  const position = world.device.calls.findIndex(({ operation }) => operation === 'flush');
  expect(position).toBeLessThanOrEqual(2 * NBD_REQUESTS_PER_TURN_MAX);
});

it('over a real socket, memory stays bounded and others are served', async () => {
  const scope = testScope();
  const device = new MemoryDevice(MIB);
  device.recordCalls = false;
  const server = new NbdServer({
    network: nodeNetwork,
    clock: systemClock,
    exports: sourceOf('', device),
    log: { info: () => {}, warn: () => {} },
  });
  scope.defer('close the server', () => server.close());
  const path = `${scope.tempDir()}/s`;
  await server.listen({ kind: 'unix', path });

  const connect = (): net.Socket => {
    const socket = net.connect(path);
    scope.defer('destroy the socket', () => void socket.destroy());
    socket.on('error', () => {});
    socket.write(Buffer.concat([CLIENT_FLAGS, go()]));
    return socket;
  };
  const greedy = connect();
  greedy.pause();
  const bytes = flood(64 * 1024);
  greedy.write(bytes);
  await waitUntil('the server to stop reading', () => {
    return server.bufferBytes.lent > NBD_REPLY_BACKLOG_BYTES_MAX;
  });
  const before = process.memoryUsage.rss();

  const polite = connect();
  let received = 0;
  polite.on('data', (chunk: Buffer) => (received += chunk.length));
  for (let round = 1; round <= 200; round++) {
    polite.write(readOf(4096, round));
    await waitUntil(`answer ${round}`, () => received >= round * 4112, { everyMs: 1 });
  }
  expect(server.bufferBytes.lent).toBeLessThan(NBD_REPLY_BACKLOG_BYTES_MAX + SLACK);
  expect(process.memoryUsage.rss() - before).toBeLessThan(32 * MIB);

  const expected = 18 + 32 + 20 + (bytes.length / 28) * (64 * 1024 + 16);
  let got = 0;
  greedy.on('data', (chunk: Buffer) => (got += chunk.length));
  greedy.resume();
  await waitUntil('all replies to the greedy client', () => got === expected, {
    timeoutMs: 90_000,
    onTimeout: () => `${got} of ${expected}`,
  });
}, 150_000);
