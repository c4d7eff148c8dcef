/**
 * Stopping the server, or the clients of one device: requests in flight get their real answers, later
 * ones ESHUTDOWN, handshakes ERR_SHUTDOWN; and it ends in bounded time. Method: fake network and clock.
 */
import { beforeEach, describe, expect, it } from 'vitest';

import {
  NBD_DRAIN_MS_MAX,
  NBD_HANDSHAKE_DRAIN_MS_MAX,
  NBD_IN_FLIGHT_REQUESTS_MAX,
} from '../../src/io/limits.ts';
import { FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { MemoryDevice } from './support/memory-device.ts';
import {
  CLIENT_FLAGS,
  CMD,
  ERR,
  go,
  OPT,
  option,
  optionReplies,
  REP,
  request,
  simpleReplies,
} from './support/wire.ts';

let world: FakeWorld;

beforeEach(async () => {
  world = await FakeWorld.create();
});

const settled = async (promise: Promise<void>): Promise<boolean> => {
  let done = false;
  void promise.then(() => (done = true));
  for (let turns = 0; turns < 20; turns++) {
    world.settle();
    await Promise.resolve();
  }
  return done;
};

describe('close', () => {
  it('disconnects idle clients at once, and only once', async () => {
    const client = world.transmit();
    const closing = world.server.close();
    expect(world.server.close()).toBe(closing);
    expect(await settled(closing)).toBe(true);
    expect(client.over).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('ends without any client', async () => {
    expect(await settled(world.server.close())).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('lets requests in flight finish and refuses later ones', async () => {
    const client = world.transmit();
    world.device.mode = 'hold';
    client.write(request(CMD.read, { cookie: 1, length: 8 }), request(CMD.flush, { cookie: 2 }));
    world.settle();
    const closing = world.server.close();
    client.write(
      request(CMD.write, { cookie: 3, payload: Buffer.alloc(512, 1) }),
      request(CMD.read, { cookie: 4, length: 8 }),
      request(0xff, { cookie: 5 }),
    );
    expect(await settled(closing)).toBe(false);
    world.device.failures.set('flush', 28);
    world.device.release([1, 0]);
    expect(await settled(closing)).toBe(true);
    const { replies } = simpleReplies(client.take(), (cookie) => (cookie === 1n ? 8 : 0));
    expect(replies.map(({ cookie, error }) => [cookie, error])).toEqual([
      [3n, ERR.shutdown],
      [4n, ERR.shutdown],
      [5n, ERR.inval],
      [2n, ERR.nospc],
      [1n, 0],
    ]);
    expect(world.device.content.readUInt8(0)).toBe(0);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('does not start a write whose payload was on its way', async () => {
    const client = world.transmit();
    world.device.mode = 'hold';
    const write = request(CMD.write, { cookie: 7, payload: Buffer.alloc(5000, 1) });
    client.write(request(CMD.flush, { cookie: 1 }), write.subarray(0, 100));
    world.settle();
    const closing = world.server.close();
    client.write(write.subarray(100));
    world.settle();
    expect(world.device.heldCount).toBe(1);
    world.device.release();
    expect(await settled(closing)).toBe(true);
    expect(simpleReplies(client.take()).replies.map(({ error }) => error)).toEqual([
      ERR.shutdown,
      0,
    ]);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('refuses what waited for room', async () => {
    const client = world.transmit();
    world.device.mode = 'hold';
    const count = NBD_IN_FLIGHT_REQUESTS_MAX + 10;
    const flushes = Array.from({ length: count }, (_, cookie) => request(CMD.flush, { cookie }));
    client.write(Buffer.concat(flushes));
    world.settle();
    const closing = world.server.close();
    world.device.release();
    expect(await settled(closing)).toBe(true);
    const { replies } = simpleReplies(client.take());
    expect(replies.filter(({ error }) => error === 0)).toHaveLength(NBD_IN_FLIGHT_REQUESTS_MAX);
    expect(replies.filter(({ error }) => error === ERR.shutdown)).toHaveLength(10);
  });

  it('answers handshakes with ERR_SHUTDOWN, ABORT with ACK, then cuts them', async () => {
    const client = world.connect();
    client.write(CLIENT_FLAGS);
    const silent = world.connect();
    world.settle();
    client.take();
    const closing = world.server.close();
    client.write(option(OPT.list), go(), option(99));
    expect(await settled(closing)).toBe(false);
    const refused = optionReplies(client.take());
    expect(refused.map(({ type }) => type)).toEqual([REP.shutdown, REP.shutdown, REP.shutdown]);
    client.write(option(OPT.abort));
    expect(await settled(closing)).toBe(false);
    expect(optionReplies(client.take()).map(({ type }) => type)).toEqual([REP.ack]);
    expect(client.over).toBe(true);
    world.clock.advance(NBD_HANDSHAKE_DRAIN_MS_MAX);
    expect(await settled(closing)).toBe(true);
    expect(silent.over).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('closes on EXPORT_NAME', () => {
    const client = world.connect();
    void world.server.close();
    client.write(CLIENT_FLAGS, option(OPT.exportName));
    world.settle();
    expect(client.over).toBe(true);
    expect(world.device.openedCount).toBe(0);
  });

  it('cuts after the deadline, also when the device never answers', async () => {
    const client = world.transmit();
    world.device.mode = 'hold';
    client.write(request(CMD.read, { length: 4096 }));
    world.settle();
    const closing = world.server.close();
    world.clock.advance(NBD_DRAIN_MS_MAX - 1);
    expect(await settled(closing)).toBe(false);
    world.clock.advance(1);
    expect(await settled(closing)).toBe(true);
    expect(client.over).toBe(true);
    expect(world.server.connectionsOf(world.device)).toBe(1);
    world.device.release();
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('cuts a client that does not take its replies', async () => {
    const client = world.transmit();
    client.stalled = true;
    client.write(request(CMD.read, { length: 4096 }));
    world.settle();
    const closing = world.server.close();
    expect(await settled(closing)).toBe(false);
    world.clock.advance(NBD_DRAIN_MS_MAX);
    expect(await settled(closing)).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
});

describe('closeSessionsOf', () => {
  it('ends the clients of that device and no others', async () => {
    const spare = new MemoryDevice(4096);
    world.devices.set('spare', spare);
    const client = world.transmit();
    const other = world.transmit('spare');
    const handshaking = world.connect();
    world.device.mode = 'hold';
    client.write(request(CMD.flush, { cookie: 1 }));
    world.settle();
    const closing = world.server.closeSessionsOf(world.device);
    client.write(request(CMD.flush, { cookie: 2 }));
    expect(await settled(closing)).toBe(false);
    world.device.release();
    expect(await settled(closing)).toBe(true);
    expect(simpleReplies(client.take()).replies.map(({ error }) => error)).toEqual([108, 0]);
    expect(client.over).toBe(true);
    expect(world.device.closedCount).toBe(1);
    expect(other.over).toBe(false);
    expect(handshaking.over).toBe(false);
    other.write(request(CMD.flush));
    world.settle();
    expect(simpleReplies(other.take()).replies.map(({ error }) => error)).toEqual([0]);
    expect(world.server.connectionsOf(spare)).toBe(1);
    expect(world.server.connections).toBe(2);
  });
});
