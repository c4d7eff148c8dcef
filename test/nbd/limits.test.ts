/**
 * Who comes in: connections in all and from one address, idle handshakes, their time and their options; and
 * what the server counts and logs of it. Method: fake network and clock; a client that says nothing costs no time.
 */
import { describe, expect, it } from 'vitest';
import { NBD_WARNINGS_PER_MINUTE_MAX } from '../../src/io/limits.ts';
import { NBD_LIMITS_DEFAULT, type NbdLimits } from '../../src/nbd/server/server-limits.ts';
import { FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { CLIENT_FLAGS, go, OPT, option } from './support/wire.ts';

const worldWith = (limits: Partial<NbdLimits>): Promise<FakeWorld> =>
  FakeWorld.create(1 << 20, { limits: { ...NBD_LIMITS_DEFAULT, ...limits } });

const warnings = (world: FakeWorld): unknown[] =>
  world.log.flatMap(({ level, fields, text }) =>
    level === 'warn' ? [fields['reason'] ?? text] : [],
  );

describe('connections', () => {
  it('in all are limited; one more is closed at accept, and the place is free when one leaves', async () => {
    const world = await worldWith({ connections: 2 });
    const clients = [world.transmit(), world.connect()];
    const refused = world.connect();
    world.settle();
    expect([refused.over, refused.sends]).toEqual([true, 0]);
    expect(warnings(world)).toEqual(['more than 2 connections']);
    clients[0]?.die(null);
    world.settle();
    const later = world.transmit();
    expect([later.over, world.server.connections]).toEqual([false, 2]);
    expect(world.server.counters).toEqual({
      connections: 2,
      handshakes: 1,
      accepted: 3,
      refused: 1,
      failed: 0,
      denied: 0,
    });
  });

  it('from one address are limited; other addresses and unix sockets are not concerned', async () => {
    const world = await worldWith({ connectionsPerClient: 2 });
    const greedy = [world.transmit('', '10.0.0.1'), world.connect('10.0.0.1')];
    const refused = world.connect('10.0.0.1');
    const others = ['10.0.0.2', '::1', null, null, null].map((ip) => world.connect(ip));
    world.settle();
    expect([...greedy, ...others].some(({ over }) => over)).toBe(false);
    expect(refused.over).toBe(true);
    expect(warnings(world)).toEqual(['more than 2 connections from 10.0.0.1']);
    greedy[1]?.die(null);
    expect(world.connect('10.0.0.1').over).toBe(false);
  });
});

describe('handshakes', () => {
  it('are limited: one more ends the oldest, and never a client that has chosen', async () => {
    const world = await worldWith({ handshakes: 2 });
    const chosen = world.transmit();
    const idle = [world.connect(), world.connect(), world.connect()];
    world.settle();
    expect(idle.map(({ over }) => over)).toEqual([true, false, false]);
    expect(chosen.over).toBe(false);
    expect(warnings(world)).toEqual(['more than 2 handshakes, and this is the oldest']);
    const served = world.transmit();
    expect(idle.map(({ over }) => over)).toEqual([true, true, false]);
    expect(served.over).toBe(false);
    expect(world.server.counters).toMatchObject({ connections: 3, handshakes: 1, failed: 2 });
  });

  it('keep a fresh client alive however many idle ones come', async () => {
    const world = await worldWith({ handshakes: 8 });
    for (let round = 0; round < 100; round++) {
      for (let index = 0; index < 7; index++) world.connect('10.6.6.6');
      const client = world.transmit('', '10.0.0.1');
      client.die(null);
    }
    expect(world.server.connections).toBeLessThanOrEqual(8);
  });

  it.each([1, 250])('have %d ms', async (handshakeMs) => {
    const world = await worldWith({ handshakeMs });
    const slow = world.connect();
    const fast = world.transmit();
    slow.write(CLIENT_FLAGS);
    world.settle();
    world.clock.advance(handshakeMs - 1);
    expect(slow.over).toBe(false);
    world.clock.advance(1);
    expect([slow.over, fast.over]).toEqual([true, false]);
    expect(warnings(world)).toEqual(['handshake timed out']);
  });

  it('have as many options as configured, over any number of reads', async () => {
    const world = await worldWith({ options: 3 });
    const [within, beyond] = [world.connect(), world.connect()];
    const list = option(OPT.list);
    within.write(CLIENT_FLAGS, list, list, go());
    beyond.write(CLIENT_FLAGS, list, list, list, go());
    world.settle();
    expect(world.server.connectionsOf(world.device)).toBe(1);
    expect([within.over, beyond.over]).toEqual([false, true]);
  });
});

it('warnings about strangers do not fill the log, and everything is counted', async () => {
  const world = await worldWith({ connections: 1 });
  world.connect();
  const strangers = NBD_WARNINGS_PER_MINUTE_MAX + 50;
  for (let index = 0; index < strangers; index++) world.connect();
  expect(warnings(world)).toHaveLength(NBD_WARNINGS_PER_MINUTE_MAX);
  expect(world.server.counters.refused).toBe(strangers);
});

it('nothing is left of those who came and went', async () => {
  const world = await worldWith({ connections: 4, connectionsPerClient: 2, handshakes: 2 });
  for (let index = 0; index < 20; index++) world.connect(index % 3 === 0 ? null : '10.0.0.1');
  world.transmit();
  for (const connection of world.connections) connection.die(null);
  world.settle();
  expect(world.leftovers()).toEqual(NOTHING_LEFT);
  expect(world.server.counters).toMatchObject({ connections: 0, handshakes: 0 });
  expect(world.connect('10.0.0.1').over).toBe(false);
});
