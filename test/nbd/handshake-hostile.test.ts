/**
 * Clients that break the rules of the handshake, or only stall, lose their own connection and nothing
 * else; and a log full of them stays short. Method: a server over a fake network and a fake clock.
 */
import { beforeEach, describe, expect, it } from 'vitest';

import {
  NBD_HANDSHAKE_MS_MAX,
  NBD_HANDSHAKE_REPLY_BYTES_MAX,
  NBD_OPTION_BYTES_MAX,
  NBD_OPTIONS_MAX,
  NBD_WARNINGS_PER_MINUTE_MAX,
} from '../../src/io/limits.ts';
import { FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { CLIENT_FLAGS, go, hex, OPT, option, optionReplies, u32 } from './support/wire.ts';

let world: FakeWorld;

beforeEach(async () => {
  world = await FakeWorld.create();
});

const header = (kind: number, length: number): Buffer =>
  Buffer.concat([hex('49484156454f5054'), u32(kind), u32(length)]);

const closing: readonly (readonly [string, Buffer])[] = [
  ['an unknown client flag', u32(4)],
  ['client flag bit 31', u32(0x80000001)],
  ['a wrong option magic', Buffer.concat([CLIENT_FLAGS, Buffer.alloc(16)])],
  ['an option of 4 GiB', Buffer.concat([CLIENT_FLAGS, header(OPT.list, 0xffffffff)])],
  ['an option over the limit', Buffer.concat([CLIENT_FLAGS, header(99, NBD_OPTION_BYTES_MAX + 1)])],
  [
    'an option too many',
    Buffer.concat([
      CLIENT_FLAGS,
      ...Array.from({ length: NBD_OPTIONS_MAX + 1 }, () => option(OPT.list)),
    ]),
  ],
];

it.each(closing)('closes on %s, at once', (_, bytes) => {
  const client = world.connect();
  client.write(bytes);
  world.settle();
  expect(client.over).toBe(true);
  expect(world.log.map(({ level, text }) => `${level} ${text}`)).toEqual(['warn handshake failed']);
  expect(world.leftovers()).toEqual(NOTHING_LEFT);
});

it('takes an option of exactly the limit, and as many as the limit', () => {
  const client = world.connect();
  const options = Array.from({ length: NBD_OPTIONS_MAX - 1 }, () => option(99));
  client.write(CLIENT_FLAGS, option(99, Buffer.alloc(NBD_OPTION_BYTES_MAX)), ...options);
  world.settle();
  expect(optionReplies(client.take().subarray(18))).toHaveLength(NBD_OPTIONS_MAX);
  expect(client.over).toBe(false);
});

it('bounds what asking again and again may bring', () => {
  for (let count = 0; count < 4000; count++) {
    world.devices.set(String(count).padStart(255, 'x'), world.device);
  }
  const client = world.connect();
  client.write(CLIENT_FLAGS, ...Array.from({ length: NBD_OPTIONS_MAX }, () => option(OPT.list)));
  world.settle();
  expect(client.over).toBe(true);
  const { length } = client.take();
  expect(length).toBeGreaterThan(4000 * 255);
  expect(length).toBeLessThanOrEqual(NBD_HANDSHAKE_REPLY_BYTES_MAX + 18);
});

describe('a client that vanishes', () => {
  const conversation = Buffer.concat([CLIENT_FLAGS, option(OPT.list), go()]);

  it.each(['ends', 'dies'] as const)('%s at any byte, and nothing is left', (how) => {
    for (let bytes = 0; bytes <= conversation.length; bytes++) {
      const client = world.connect();
      client.write(conversation.subarray(0, bytes));
      world.settle();
      if (how === 'ends') client.endInput();
      else client.die(new Error('ECONNRESET'));
      world.settle();
      expect(client.over).toBe(true);
      expect(world.leftovers()).toEqual(NOTHING_LEFT);
    }
    expect(world.device.openedCount).toBe(1);
  });
});

describe('a client that stalls', () => {
  it.each([
    ['before the client flags', Buffer.alloc(0)],
    ['within an option', Buffer.concat([CLIENT_FLAGS, header(OPT.go, 100)])],
    ['after an INFO', Buffer.concat([CLIENT_FLAGS, option(OPT.list)])],
  ])('%s is disconnected after the deadline', (_, bytes) => {
    const client = world.connect();
    client.write(bytes);
    world.settle();
    world.clock.advance(NBD_HANDSHAKE_MS_MAX - 1);
    expect(client.over).toBe(false);
    world.clock.advance(1);
    expect(client.over).toBe(true);
    expect(world.log.at(-1)?.fields['reason']).toBe('handshake timed out');
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('has no deadline once it transmits', () => {
    const client = world.transmit();
    world.clock.advance(100 * NBD_HANDSHAKE_MS_MAX);
    expect(client.over).toBe(false);
  });
});

it('does not let strangers fill the log', () => {
  const offend = (times: number): void => {
    for (let count = 0; count < times; count++) {
      world.connect().write(u32(0xff));
      world.settle();
    }
  };
  offend(NBD_WARNINGS_PER_MINUTE_MAX + 25);
  expect(world.log).toHaveLength(NBD_WARNINGS_PER_MINUTE_MAX);
  world.clock.advance(60_000);
  offend(2);
  expect(world.log).toHaveLength(NBD_WARNINGS_PER_MINUTE_MAX + 2);
  expect(world.log.at(-2)?.fields['suppressed']).toBe(25);
  expect(world.log.at(-1)?.fields).not.toHaveProperty('suppressed');
});
