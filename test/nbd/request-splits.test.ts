/**
 * However the bytes of requests are cut, the same happens. Method: in each form, one conversation with every
 * kind of request, cut in two at every byte and in pieces of many sizes; device content, calls and replies are
 * compared with the uncut run. Then random conversations.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import type { ReplyForm } from '../../src/nbd/handshake/negotiated.ts';
import { FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { blockMap, type Call } from './support/memory-device.ts';
import { answersOf, bytesRead } from './support/replies.ts';
import { type AnyRequestFields, type Session, Sessions } from './support/sessions.ts';
import { CMD, FLAG, request, simpleReplies, u32, u64 } from './support/wire.ts';

const SIZE = 1 << 16;

const CONVERSATION: readonly (readonly [number, AnyRequestFields])[] = [
  [CMD.write, { offset: 100, payload: Buffer.from('the first payload') }],
  [CMD.read, { offset: 98, length: 25 }],
  [CMD.write, { offset: SIZE, payload: Buffer.from('refused and skipped') }],
  [CMD.flush, {}],
  [CMD.write, { offset: 104, flags: FLAG.fua, payload: Buffer.from('overwrites') }],
  [CMD.read, { offset: 0, length: SIZE + 1 }],
  [CMD.zeroes, { offset: 110, length: 3 }],
  [CMD.read, { offset: 98, length: 25 }],
  [CMD.read, { offset: 0, length: SIZE }],
  [CMD.blockStatus, { offset: 0, length: SIZE }],
  [CMD.cache, { offset: 0, length: SIZE }],
  [CMD.trim, { offset: 0, length: 0 }],
];

/** Of the extended form only. */
const PAYLOADS: readonly (readonly [number, AnyRequestFields])[] = [
  [CMD.blockStatus, { payload: Buffer.concat([u64(SIZE), u32(1)]) }],
  [CMD.trim, { payload: Buffer.from('refused and skipped') }],
];

interface Outcome {
  readonly replies: string;
  readonly content: string;
  readonly calls: readonly Call[];
}

const conversation = (client: Session): Buffer => {
  const all = client.form === 'extended' ? [...CONVERSATION, ...PAYLOADS] : CONVERSATION;
  return Buffer.concat([
    ...all.map(([command, fields], index) => {
      return client.request(command, { cookie: index + 1, ...fields });
    }),
    client.request(CMD.disc, { cookie: 99, offset: 5, length: 77, flags: 0xffff }),
    Buffer.from('garbage after the disconnect, longer than a header'),
  ]);
};

function outcome(form: ReplyForm, send: (client: Session, bytes: Buffer) => void): Outcome {
  const sessions = new Sessions(SIZE);
  sessions.device.allocation.map = blockMap((block) => (block % 4 === 0 ? 0 : 3));
  const client = sessions.openWithContexts(form);
  send(client, conversation(client));
  sessions.settle();
  expect([client.connection.over, client.gone]).toEqual([true, true]);
  expect(sessions.lent).toEqual({ bytes: 0, requests: 0 });
  return {
    replies: client.connection.take().toString('hex'),
    content: sessions.device.content.toString('hex', 0, 200),
    calls: sessions.device.calls,
  };
}

describe.each(['simple', 'structured', 'extended'] as const)(
  'a conversation in %s form',
  (form) => {
    const whole = outcome(form, (client, bytes) => client.connection.write(bytes));

    it('answers what it should', () => {
      const lengths = new Map<bigint, number>();
      for (const [index, [command, { length = 0 }]] of CONVERSATION.entries()) {
        if (command === CMD.read) lengths.set(BigInt(index + 1), Number(length));
      }
      const bytes = Buffer.from(whole.replies, 'hex');
      const { answers } = answersOf(bytes, form, (cookie) => lengths.get(cookie) ?? 0);
      const simple = form === 'simple';
      const errors = [0, 0, 28, 0, 0, 22, 0, 0, 0, simple ? 22 : 0, 0, 0];
      if (form === 'extended') errors.push(0, 22);
      expect(answers.map(({ error }) => error)).toEqual(errors);
      const first = bytesRead(answers[1]!, 98, 25);
      expect(first.toString('latin1')).toBe('\0\0the first payload\0\0\0\0\0\0');
      const second = bytesRead(answers[7]!, 98, 25);
      expect(second.toString('latin1')).toBe('\0\0the overwr\0\0\0soad\0\0\0\0\0\0');
      expect(bytesRead(answers[8]!, 0, SIZE).toString('hex', 0, 200)).toBe(whole.content);
      expect(answers[8]?.content).toHaveLength(simple ? 1 : 8);
      expect(answers[9]?.statuses[0]?.extents.length).toBe(simple ? undefined : 8);
    });

    it('is the same when cut in two at every byte', () => {
      for (let cut = 1; cut < conversationBytes(form); cut++) {
        const cutInTwo = outcome(form, ({ connection }, bytes) =>
          connection.write(bytes.subarray(0, cut), bytes.subarray(cut)),
        );
        expect(cutInTwo, `cut at ${cut}`).toEqual(whole);
      }
    });

    it.each([1, 2, 3, 7, 11, 16, 27, 28, 29, 31, 32, 33])(
      'is the same in pieces of %i bytes',
      (size) => {
        const inPieces = outcome(form, ({ connection }, bytes) => {
          for (let at = 0; at < bytes.length; at += size) {
            connection.write(bytes.subarray(at, at + size));
          }
        });
        expect(inPieces).toEqual(whole);
      },
    );
  },
);

const conversationBytes = (form: ReplyForm): number =>
  conversation(new Sessions(SIZE).open({ form })).length;

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
