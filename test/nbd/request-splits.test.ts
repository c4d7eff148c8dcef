/**
 * However the bytes of requests are cut, the same happens. Method: one conversation with every kind of
 * request, cut in two at every byte and in pieces of many sizes; device content, calls and replies are
 * compared with the uncut run. Then random conversations.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { type FakeConnection, FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import type { Call } from './support/memory-device.ts';
import { CMD, request, simpleReplies } from './support/wire.ts';

const SIZE = 1 << 16;

const conversation = Buffer.concat([
  request(CMD.write, { cookie: 1, offset: 100, payload: Buffer.from('the first payload') }),
  request(CMD.read, { cookie: 2, offset: 98, length: 25 }),
  request(CMD.write, { cookie: 3, offset: SIZE, payload: Buffer.from('refused and skipped') }),
  request(CMD.flush, { cookie: 4 }),
  request(CMD.write, { cookie: 5, offset: 104, flags: 1, payload: Buffer.from('overwrites') }),
  request(CMD.read, { cookie: 6, offset: 0, length: SIZE + 1 }),
  request(CMD.zeroes, { cookie: 7, offset: 110, length: 3 }),
  request(CMD.read, { cookie: 8, offset: 98, length: 25 }),
  request(CMD.disc, { cookie: 9, offset: 5, length: 77, flags: 0xffff }),
  Buffer.from('garbage after the disconnect, longer than a header'),
]);

interface Outcome {
  readonly replies: string;
  readonly content: string;
  readonly calls: readonly Call[];
}

async function outcome(send: (client: FakeConnection, world: FakeWorld) => void): Promise<Outcome> {
  const world = await FakeWorld.create(SIZE);
  const client = world.transmit();
  send(client, world);
  world.settle();
  expect(client.over).toBe(true);
  expect(world.leftovers()).toEqual(NOTHING_LEFT);
  return {
    replies: client.take().toString('hex'),
    content: world.device.content.toString('hex', 0, 200),
    calls: world.device.calls,
  };
}

const whole = outcome((client) => client.write(conversation));

describe('a conversation', () => {
  it('answers what it should', async () => {
    const bytes = Buffer.from((await whole).replies, 'hex');
    const { replies } = simpleReplies(bytes, (cookie) => (cookie === 2n || cookie === 8n ? 25 : 0));
    expect(replies.map(({ error }) => error)).toEqual([0, 0, 28, 0, 0, 22, 0, 0]);
    expect(replies[1]?.data.toString('latin1')).toBe('\0\0the first payload\0\0\0\0\0\0');
    expect(replies[7]?.data.toString('latin1')).toBe('\0\0the overwr\0\0\0soad\0\0\0\0\0\0');
  });

  it('is the same when cut in two at every byte', async () => {
    const expected = await whole;
    for (let cut = 1; cut < conversation.length; cut++) {
      const cutInTwo = await outcome((client) =>
        client.write(conversation.subarray(0, cut), conversation.subarray(cut)),
      );
      expect(cutInTwo, `cut at ${cut}`).toEqual(expected);
    }
  });

  it.each([1, 2, 3, 7, 11, 16, 27, 28, 29, 31])(
    'is the same in pieces of %i bytes',
    async (size) => {
      const inPieces = await outcome((client) => {
        for (let at = 0; at < conversation.length; at += size) {
          client.write(conversation.subarray(at, at + size));
        }
      });
      expect(inPieces).toEqual(await whole);
    },
  );
});

const step = fc.oneof(
  fc.record({
    command: fc.constant(CMD.write),
    offset: fc.integer({ min: 0, max: SIZE - 1 }),
    length: fc.integer({ min: 0, max: 5000 }),
  }),
  fc.record({
    command: fc.constantFrom(CMD.read, CMD.zeroes, CMD.trim, CMD.flush, CMD.cache),
    offset: fc.integer({ min: 0, max: SIZE }),
    length: fc.integer({ min: 0, max: 20_000 }),
  }),
);

it('serves random conversations in random pieces, completed in random order', async () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 9000 }), { minLength: 1, maxLength: 20 });
  const steps = fc.array(step, { minLength: 1, maxLength: 40 });
  const orders = fc.array(fc.nat(), { minLength: 1, maxLength: 40 });
  const property = fc.asyncProperty(steps, sizes, orders, async (steps, sizes, orders) => {
    const world = await FakeWorld.create(SIZE);
    const client = world.transmit();
    world.device.mode = 'hold';
    const bytes = Buffer.concat(
      steps.map(({ command, offset, length }, index) => {
        const payload = Buffer.alloc(command === CMD.write ? length : 0, index + 1);
        return request(command, { cookie: index, offset, length, payload });
      }),
    );
    for (let at = 0, index = 0; at < bytes.length; index++) {
      const size = sizes[index % sizes.length]!;
      client.write(bytes.subarray(at, at + size));
      at += size;
      world.settle();
      if (world.device.heldCount > 0) {
        world.device.release([orders[index % orders.length]! % world.device.heldCount]);
      }
    }
    while (world.device.heldCount > 0) {
      world.device.release([orders[0]! % world.device.heldCount]);
      world.settle();
    }
    world.settle();
    const { replies, rest } = simpleReplies(client.take(), (cookie) => {
      const { command, length } = steps[Number(cookie)]!;
      return command === CMD.read ? length : 0;
    });
    expect(rest).toHaveLength(0);
    const cookies = replies.map(({ cookie }) => Number(cookie)).toSorted((a, b) => a - b);
    expect(cookies).toEqual(steps.map((_, index) => index));
    client.die(null);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
  await fc.assert(property, { numRuns: 200 });
});
