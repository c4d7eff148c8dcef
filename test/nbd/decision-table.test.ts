/**
 * The decision table of the protocol reference, section 7: one test a row that applies to simple
 * replies. Method: raw requests to a server over a fake network; after each the connection must still be
 * in step, shown by a FLUSH behind it.
 */
import { beforeEach, describe, expect, it } from 'vitest';

import { NBD_PAYLOAD_BYTES_MAX } from '../../src/io/limits.ts';
import { type FakeConnection, FakeWorld } from './support/fake-world.ts';
import { CMD, ERR, request, type RequestFields, simpleReplies } from './support/wire.ts';

const SIZE = 1 << 20;
const FUA = 1;

let world: FakeWorld;
let client: FakeConnection;

beforeEach(async () => {
  world = await FakeWorld.create(SIZE);
  client = world.transmit();
});

/** The error of one request; a FLUSH behind it must be answered too. */
const answer = (command: number, fields: RequestFields = {}): number => {
  client.write(request(command, { cookie: 1, ...fields }), request(CMD.flush, { cookie: 2 }));
  world.settle();
  const { length = 0 } = fields;
  const { replies, rest } = simpleReplies(client.take(), (cookie) =>
    command === CMD.read && cookie === 1n ? length : 0,
  );
  expect(rest).toHaveLength(0);
  expect(replies.map(({ cookie }) => cookie)).toEqual([1n, 2n]);
  expect(replies[1]?.error).toBe(0);
  expect(world.device.calls.at(-1)?.operation).toBe('flush');
  return replies[0]!.error;
};

/** Operations that reached the device, but for the FLUSH of `answer`. */
const reached = (): string[] => world.device.calls.slice(0, -1).map(({ operation }) => operation);

const bytes = (length: number): Buffer => Buffer.alloc(length, 5);

/** Offsets just past the end, far past it, and where 32 or 53 bits overflow. */
const PAST_END: readonly (readonly [number | bigint, number])[] = [
  [SIZE, 1],
  [SIZE - 1, 2],
  [0, SIZE + 1],
  [2n ** 32n, 512],
  [2n ** 52n, 512],
  [2n ** 53n - 1n, 512],
  [2n ** 53n, 512],
  [2n ** 63n, 512],
  [2n ** 64n - 512n, 512],
  [2n ** 64n - 1n, 1],
];

describe('past the end', () => {
  it.each(PAST_END)('READ at %s of %i bytes is EINVAL', (offset, length) => {
    expect(answer(CMD.read, { offset, length })).toBe(ERR.inval);
    expect(reached()).toEqual([]);
  });

  it.each(PAST_END)('TRIM at %s of %i bytes is EINVAL', (offset, length) => {
    expect(answer(CMD.trim, { offset, length })).toBe(ERR.inval);
    expect(reached()).toEqual([]);
  });

  it.each(PAST_END)('WRITE at %s of %i bytes is ENOSPC, its payload skipped', (offset, length) => {
    expect(answer(CMD.write, { offset, payload: bytes(length) })).toBe(ERR.nospc);
    expect(reached()).toEqual([]);
  });

  it.each(PAST_END)('WRITE_ZEROES at %s of %i bytes is ENOSPC', (offset, length) => {
    expect(answer(CMD.zeroes, { offset, length })).toBe(ERR.nospc);
    expect(reached()).toEqual([]);
  });

  it('the last byte is not past the end', () => {
    expect(answer(CMD.write, { offset: SIZE - 1, payload: bytes(1) })).toBe(0);
    expect(answer(CMD.read, { offset: SIZE - 1, length: 1 })).toBe(0);
    expect(answer(CMD.zeroes, { offset: SIZE - 1, length: 1 })).toBe(0);
    expect(answer(CMD.trim, { offset: SIZE - 1, length: 1 })).toBe(0);
  });
});

describe('read-only', () => {
  beforeEach(() => {
    world.device.readOnly = true;
    client = world.transmit();
  });

  it.each([0, SIZE, 2n ** 64n - 1n])('refuses to change anything with EPERM (at %s)', (offset) => {
    expect(answer(CMD.write, { offset, payload: bytes(5000) })).toBe(ERR.perm);
    expect(answer(CMD.zeroes, { offset, length: 4096 })).toBe(ERR.perm);
    expect(answer(CMD.trim, { offset, length: 4096 })).toBe(ERR.perm);
    expect(reached().filter((operation) => operation !== 'flush')).toEqual([]);
  });

  it('reads', () => {
    expect(answer(CMD.read, { length: 512 })).toBe(0);
  });
});

describe('commands', () => {
  it.each([CMD.cache, CMD.blockStatus, CMD.resize, 9, 255, 0xffff])(
    '%i is unknown or not advertised: EINVAL',
    (command) => {
      expect(answer(command, { length: 4096 })).toBe(ERR.inval);
      expect(answer(command, { flags: FUA })).toBe(ERR.inval);
    },
  );

  it('FLUSH with an offset or a length is EINVAL', () => {
    expect(answer(CMD.flush, { offset: 1 })).toBe(ERR.inval);
    expect(answer(CMD.flush, { length: 1 })).toBe(ERR.inval);
    expect(answer(CMD.flush)).toBe(0);
    expect(reached().at(-1)).toBe('flush');
  });
});

describe('command flags', () => {
  const carriers: readonly (readonly [string, number, RequestFields])[] = [
    ['READ', CMD.read, { length: 512 }],
    ['WRITE', CMD.write, { payload: bytes(512) }],
    ['FLUSH', CMD.flush, {}],
    ['TRIM', CMD.trim, { length: 512 }],
    ['WRITE_ZEROES', CMD.zeroes, { length: 512 }],
  ];

  it.each(carriers)('%s may carry FUA', (name, command, fields) => {
    expect(answer(command, { ...fields, flags: FUA })).toBe(0);
    const changes = name !== 'READ' && name !== 'FLUSH';
    expect(world.device.calls[0]?.fua).toBe(changes);
    expect(answer(command, fields)).toBe(0);
    expect(world.device.calls[2]?.fua).toBe(false);
  });

  it.each(carriers)(
    '%s may carry no other flag, WRITE_ZEROES but NO_HOLE',
    (name, command, fields) => {
      for (let bit = 1; bit < 16; bit++) {
        const legal = name === 'WRITE_ZEROES' && bit === 1;
        const error = answer(command, { ...fields, flags: 1 << bit });
        expect(error, `bit ${bit}`).toBe(legal ? 0 : ERR.inval);
        expect(answer(command, { ...fields, flags: (1 << bit) | FUA })).toBe(legal ? 0 : ERR.inval);
      }
    },
  );

  it('hands NO_HOLE and FUA to the device', () => {
    expect(answer(CMD.zeroes, { offset: 512, length: 1024, flags: 3 })).toBe(0);
    const call = { operation: 'zero', offset: 512, length: 1024, fua: true, noHole: true };
    expect(world.device.calls[0]).toMatchObject(call);
    expect(answer(CMD.zeroes, { length: 512 })).toBe(0);
    expect(world.device.calls[2]?.noHole).toBe(false);
  });
});

describe('lengths', () => {
  it.each([0, SIZE])('of zero succeed (at %i)', (offset) => {
    for (const command of [CMD.read, CMD.write, CMD.trim, CMD.zeroes]) {
      expect(answer(command, { offset, length: 0 })).toBe(0);
    }
    expect(reached().filter((operation) => operation !== 'flush')).toEqual([]);
  });

  it('of zero past the end fail', () => {
    expect(answer(CMD.read, { offset: SIZE + 1, length: 0 })).toBe(ERR.inval);
    expect(answer(CMD.write, { offset: SIZE + 1, length: 0 })).toBe(ERR.nospc);
  });

  it('of a READ over the largest payload are EINVAL', () => {
    world.device.sizeBytes = 2 ** 40;
    expect(answer(CMD.read, { length: NBD_PAYLOAD_BYTES_MAX + 1 })).toBe(ERR.inval);
    expect(answer(CMD.read, { length: 0xffffffff })).toBe(ERR.inval);
  });

  it('of a WRITE over the largest payload are EINVAL, the payload skipped', () => {
    world.device.sizeBytes = 2 ** 40;
    const over = bytes(NBD_PAYLOAD_BYTES_MAX + 1);
    expect(answer(CMD.write, { payload: over })).toBe(ERR.inval);
    expect(answer(CMD.write, { payload: bytes(2 * NBD_PAYLOAD_BYTES_MAX) })).toBe(ERR.inval);
    expect(reached().filter((operation) => operation !== 'flush')).toEqual([]);
  });

  it('of a WRITE far larger end the connection', () => {
    client.write(request(CMD.write, { length: 2 * NBD_PAYLOAD_BYTES_MAX + 1 }));
    world.settle();
    expect(client.over).toBe(true);
    expect(world.log.at(-1)).toMatchObject({ level: 'warn', text: 'client cut off' });
  });

  it('of the largest payload are served both ways', async () => {
    world = await FakeWorld.create(NBD_PAYLOAD_BYTES_MAX);
    client = world.transmit();
    const payload = bytes(NBD_PAYLOAD_BYTES_MAX);
    expect(answer(CMD.write, { payload })).toBe(0);
    expect(world.device.content.equals(payload)).toBe(true);
    expect(answer(CMD.read, { length: NBD_PAYLOAD_BYTES_MAX })).toBe(0);
  });

  it('of TRIM and WRITE_ZEROES may be anything up to 4 GiB', () => {
    world.device.sizeBytes = 2 ** 40;
    expect(answer(CMD.trim, { offset: 2 ** 39, length: 0xffffffff })).toBe(0);
    expect(answer(CMD.zeroes, { offset: 2 ** 39, length: 0xffffffff })).toBe(0);
    expect(world.device.calls[0]).toMatchObject({ offset: 2 ** 39, length: 0xffffffff });
  });
});

describe('the backend', () => {
  it.each([
    ['ENOSPC', 28, ERR.nospc],
    ['EDQUOT', 122, ERR.nospc],
    ['EFBIG', 27, ERR.nospc],
    ['EIO', 5, ERR.io],
    ['EROFS', 30, ERR.perm],
    ['EACCES', 13, ERR.perm],
    ['EPERM', 1, ERR.perm],
    ['EINVAL', 22, ERR.inval],
    ['ENOTSUP, which only FAST_ZERO may be told', 95, ERR.io],
    ['EOVERFLOW, which only DF may be told', 75, ERR.io],
    ['an errno that NBD has no word for', 116, ERR.io],
  ])('answering %s', (_, status, error) => {
    for (const operation of ['read', 'write', 'zero', 'trim'] as const) {
      world.device.failures.set(operation, status);
    }
    expect(answer(CMD.read, { length: 512 })).toBe(error);
    expect(answer(CMD.read, { length: 300_000 })).toBe(error);
    expect(answer(CMD.write, { payload: bytes(512) })).toBe(error);
    expect(answer(CMD.zeroes, { length: 512 })).toBe(error);
    expect(answer(CMD.trim, { length: 512 })).toBe(error);
  });
});

it.each([0n, 1n, 2n ** 31n, 2n ** 63n, 2n ** 64n - 1n, 0x0123456789abcdefn])(
  'a cookie (%s) comes back bit for bit, also when it is in flight twice',
  (cookie) => {
    world.device.mode = 'hold';
    const same = request(CMD.read, { cookie, length: 4 });
    client.write(same, same, request(0xff, { cookie }));
    world.settle();
    world.device.release();
    world.settle();
    const { replies } = simpleReplies(client.take(), () => 4);
    expect(replies.map((reply) => reply.cookie)).toEqual([cookie, cookie, cookie]);
  },
);

it.each([0, 0x25609514, 0x21e41c71, 0x67446698])(
  'a wrong magic (%i) ends the connection',
  (magic) => {
    client.write(request(CMD.flush, { cookie: 1 }), request(CMD.flush, { magic }));
    world.settle();
    expect(simpleReplies(client.take()).replies).toHaveLength(1);
    expect(client.over).toBe(true);
    expect(world.device.calls).toHaveLength(1);
  },
);
