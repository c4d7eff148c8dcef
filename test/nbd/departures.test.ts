/**
 * How connections end: with DISC, without it, or by death at any byte. What was started is finished; a
 * partial WRITE is never applied; what a dead client did not start is dropped; nothing is left behind.
 * Method: fake network, a device that holds requests.
 */
import { beforeEach, describe, expect, it } from 'vitest';

import { NBD_DRAIN_MS_MAX, NBD_IN_FLIGHT_REQUESTS_MAX } from '../../src/io/limits.ts';
import { type FakeConnection, FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { CMD, request, simpleReplies } from './support/wire.ts';

let world: FakeWorld;
let client: FakeConnection;

beforeEach(async () => {
  world = await FakeWorld.create(1 << 20);
  client = world.transmit();
});

const writeAt = (block: number, value: number): Buffer =>
  request(CMD.write, { cookie: block, offset: block * 512, payload: Buffer.alloc(512, value) });

const writes = (count: number): Buffer[] =>
  Array.from({ length: count }, (_, index) => writeAt(index, 1));

const applied = (): number => {
  let blocks = 0;
  while (world.device.content.readUInt8(blocks * 512) !== 0) blocks++;
  return blocks;
};

describe('DISC', () => {
  it('behind pipelined writes waits for all of them and sends their replies', () => {
    world.device.mode = 'hold';
    client.write(Buffer.concat([...writes(20), request(CMD.disc), writeAt(100, 9)]));
    world.settle();
    expect(client.ending).toBe(false);
    world.device.release(Array.from({ length: 20 }, (_, index) => 19 - index));
    world.settle();
    expect(simpleReplies(client.take()).replies).toHaveLength(20);
    expect(client.over).toBe(true);
    expect(applied()).toBe(20);
    expect(world.device.content.readUInt8(100 * 512)).toBe(0);
    expect(world.log.at(-1)?.fields['reason']).toBe('client disconnected');
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('behind more writes than may be in flight, all closed at once by the client', () => {
    world.device.mode = 'hold';
    const count = NBD_IN_FLIGHT_REQUESTS_MAX + 500;
    client.write(Buffer.concat([...writes(count), request(CMD.disc)]));
    client.endInput();
    // A connection may tell the end although it was paused.
    world.settle();
    client.paused = false;
    world.settle();
    expect(world.device.heldCount).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    world.device.mode = 'now';
    world.device.release();
    world.settle();
    expect(simpleReplies(client.take()).replies).toHaveLength(count);
    expect(applied()).toBe(count);
    expect(client.over).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
});

it('DISC is found behind a request whose header was cut where room ran out', () => {
  const count = 100;
  const length = 100_000;
  world.device.mode = 'hold';
  const last = writeAt(0, 7);
  for (let cookie = 0; cookie < count; cookie++) {
    client.write(request(CMD.read, { cookie, offset: 4096, length }));
  }
  client.write(last.subarray(0, 10));
  world.settle();
  // The replies fill the backlog while the header is incomplete.
  client.stalled = true;
  world.device.mode = 'now';
  world.device.release();
  world.settle();
  client.write(Buffer.concat([last.subarray(10), request(CMD.disc)]));
  client.endInput();
  world.settle();
  expect(client.paused).toBe(true);
  client.paused = false;
  world.settle();
  expect(client.ending).toBe(false);
  client.stalled = false;
  world.settle();
  expect(applied()).toBe(1);
  expect(client.over).toBe(true);
  expect(world.log.at(-1)?.fields['reason']).toBe('client disconnected');
  expect(world.leftovers()).toEqual(NOTHING_LEFT);
});

describe('the end of input without DISC', () => {
  it('lets what was started finish, and sends the replies', () => {
    world.device.mode = 'hold';
    client.write(...writes(3));
    client.endInput();
    world.settle();
    expect(client.ending).toBe(false);
    world.device.release();
    world.settle();
    expect(simpleReplies(client.take()).replies).toHaveLength(3);
    expect(client.over).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('drops what was not started: the client may have sent it again elsewhere', () => {
    world.device.mode = 'hold';
    client.write(Buffer.concat(writes(NBD_IN_FLIGHT_REQUESTS_MAX + 500)));
    client.endInput();
    world.settle();
    client.paused = false;
    world.settle();
    world.device.mode = 'now';
    world.device.release();
    world.settle();
    expect(applied()).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    expect(client.over).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
});

describe.each(['now', 'hold'] as const)('a client that vanishes, device answers %s', (mode) => {
  const conversation = Buffer.concat([
    writeAt(0, 1),
    request(CMD.read, { cookie: 1, length: 512 }),
    writeAt(1, 2),
    request(CMD.flush, { cookie: 2 }),
    writeAt(2, 3),
  ]);

  it.each(['dies', 'ends'] as const)('%s after any byte', (how) => {
    client.die(null);
    world.device.mode = mode;
    for (let bytes = 0; bytes <= conversation.length; bytes += bytes % 28 === 0 ? 1 : 9) {
      world.device.content.fill(0);
      const victim = world.transmit();
      victim.write(conversation.subarray(0, bytes));
      world.settle();
      if (how === 'dies') victim.die(new Error('ECONNRESET'));
      else victim.endInput();
      world.settle();
      world.device.release();
      world.settle();
      expect(victim.over).toBe(true);
      // Whole writes only: 28 + 512 bytes, 28, 540, 28, 540.
      const ends = [540, 540 + 28 + 540, 540 + 28 + 540 + 28 + 540];
      expect(applied(), `${bytes} bytes`).toBe(ends.filter((end) => bytes >= end).length);
      expect(world.leftovers()).toEqual(NOTHING_LEFT);
    }
  });
});

it('absorbs answers that come after death, and reports the device closed only then', () => {
  world.device.mode = 'hold';
  client.write(request(CMD.read, { length: 4096 }), ...writes(3));
  world.settle();
  client.die(new Error('ECONNRESET'));
  world.settle();
  expect(world.device.closedCount).toBe(0);
  expect(world.server.connectionsOf(world.device)).toBe(1);
  world.device.release([3, 0]);
  world.settle();
  expect(world.device.closedCount).toBe(0);
  world.device.release();
  expect(world.leftovers()).toEqual(NOTHING_LEFT);
  expect(world.device.openedCount).toBe(1);
  expect(world.device.closedCount).toBe(1);
});

it('gives up on a client that does not take its last replies', () => {
  client.stalled = true;
  client.write(request(CMD.read, { length: 4096 }), request(CMD.disc));
  world.settle();
  expect(client.ending).toBe(true);
  world.clock.advance(NBD_DRAIN_MS_MAX - 1);
  expect(client.over).toBe(false);
  world.clock.advance(1);
  expect(client.over).toBe(true);
  expect(world.leftovers()).toEqual(NOTHING_LEFT);
});
