/**
 * The decision table of the protocol reference, section 7: one test a row, in each form of replies. Method:
 * raw requests to a transmission over a fake network; after each the connection must still be in step, shown
 * by a FLUSH behind it. In the forms that have chunks an error must say why.
 */
import { beforeEach, describe, expect, it } from 'vitest';

import { NBD_PAYLOAD_BYTES_MAX } from '../../src/io/limits.ts';
import { type AnyRequestFields, type Session, Sessions } from './support/sessions.ts';
import { ALL_FLAGS, CMD, ERR, FLAG } from './support/wire.ts';

const SIZE = 1 << 20;
const READ_ONLY = 0x0002;

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

const bytes = (length: number): Buffer => Buffer.alloc(length, 5);

describe.each(['simple', 'structured', 'extended'] as const)('in %s form', (form) => {
  let sessions: Sessions;
  let client: Session;

  beforeEach(() => {
    sessions = new Sessions(SIZE);
    client = sessions.openWithContexts(form);
  });

  /** The error of one request. */
  const answer = (command: number, fields: AnyRequestFields = {}): number => {
    const { error, text, plain, offset } = client.ask(command, fields);
    expect(sessions.device.calls.at(-1)?.operation).toBe('flush');
    if (form !== 'simple') expect(text.length > 0, 'an error says why').toBe(error !== 0);
    if (error !== 0) expect(plain).toBe(form === 'simple');
    if (form === 'extended') expect(offset).toBe(BigInt(fields.offset ?? 0));
    return error;
  };

  /** Operations that reached the device, but for the FLUSH of `answer`. */
  const reached = (): string[] =>
    sessions.device.calls
      .slice(0, -1)
      .map(({ operation }) => operation)
      .filter((operation) => operation !== 'flush');

  describe('past the end', () => {
    it.each([
      ['READ', CMD.read],
      ['TRIM', CMD.trim],
      ['CACHE', CMD.cache],
      ['BLOCK_STATUS', CMD.blockStatus],
    ])('%s is EINVAL', (_, command) => {
      for (const [offset, length] of PAST_END) {
        expect(answer(command, { offset, length }), `${offset}`).toBe(ERR.inval);
      }
      expect(reached()).toEqual([]);
    });

    it('WRITE is ENOSPC, its payload skipped', () => {
      for (const [offset, length] of PAST_END) {
        expect(answer(CMD.write, { offset, payload: bytes(length) }), `${offset}`).toBe(ERR.nospc);
      }
      expect(reached()).toEqual([]);
    });

    it('WRITE_ZEROES is ENOSPC', () => {
      for (const [offset, length] of PAST_END) {
        expect(answer(CMD.zeroes, { offset, length }), `${offset}`).toBe(ERR.nospc);
      }
      expect(reached()).toEqual([]);
    });

    it('does not begin before the last byte', () => {
      expect(answer(CMD.write, { offset: SIZE - 1, payload: bytes(1) })).toBe(0);
      for (const command of [CMD.read, CMD.zeroes, CMD.trim, CMD.cache]) {
        expect(answer(command, { offset: SIZE - 1, length: 1 })).toBe(0);
      }
    });
  });

  describe('read-only', () => {
    beforeEach(() => {
      client = sessions.openWithContexts(form, ALL_FLAGS | READ_ONLY);
    });

    it.each([0, SIZE, 2n ** 64n - 1n])('refuses changes with EPERM (at %s)', (offset) => {
      expect(answer(CMD.write, { offset, payload: bytes(5000) })).toBe(ERR.perm);
      expect(answer(CMD.zeroes, { offset, length: 4096 })).toBe(ERR.perm);
      expect(answer(CMD.trim, { offset, length: 4096 })).toBe(ERR.perm);
      expect(reached()).toEqual([]);
    });

    it('goes by what the client was told, not by the device', () => {
      expect(sessions.device.readOnly).toBe(false);
      expect(answer(CMD.write, { payload: bytes(1) })).toBe(ERR.perm);
      client = sessions.openWithContexts(form);
      sessions.device.readOnly = true;
      expect(answer(CMD.write, { payload: bytes(1) })).toBe(0);
    });

    it('reads', () => {
      expect(client.read(0, 512)).toEqual(Buffer.alloc(512));
    });
  });

  describe('a command', () => {
    it.each([CMD.resize, 9, 255, 0xffff])('%i that is unknown is EINVAL', (command) => {
      expect(answer(command, { length: 4096 })).toBe(ERR.inval);
      expect(answer(command, { flags: FLAG.fua })).toBe(ERR.inval);
    });

    it.each([
      ['FLUSH', CMD.flush, 0x0004],
      ['TRIM', CMD.trim, 0x0020],
      ['WRITE_ZEROES', CMD.zeroes, 0x0040],
      ['CACHE', CMD.cache, 0x0400],
    ])('%s that was not advertised is EINVAL', (_, command, flag) => {
      client = sessions.openWithContexts(form, ALL_FLAGS & ~flag);
      const length = command === CMD.flush ? 0 : 512;
      client.connection.write(client.request(command, { length }));
      const answers = client.take();
      expect(answers.map(({ error }) => error)).toEqual([ERR.inval]);
      expect(sessions.device.calls).toEqual([]);
    });

    it('BLOCK_STATUS without contexts is EINVAL', () => {
      client = sessions.open({ form });
      expect(answer(CMD.blockStatus, { length: 512 })).toBe(ERR.inval);
    });

    it('FLUSH with an offset or a length is EINVAL', () => {
      expect(answer(CMD.flush, { offset: 1 })).toBe(ERR.inval);
      expect(answer(CMD.flush, { length: 1 })).toBe(ERR.inval);
      expect(answer(CMD.flush)).toBe(0);
    });
  });

  describe('a length', () => {
    it.each([0, SIZE])('of zero succeeds (at %i)', (offset) => {
      for (const command of [CMD.read, CMD.write, CMD.trim, CMD.zeroes, CMD.cache]) {
        expect(answer(command, { offset, length: 0 })).toBe(0);
      }
      expect(reached()).toEqual([]);
    });

    it('of zero is a NONE chunk for READ, and EINVAL for BLOCK_STATUS', () => {
      const none = client.ask(CMD.read, { length: 0 });
      expect([none.simple, none.plain]).toEqual([form === 'simple', true]);
      expect(answer(CMD.blockStatus, { length: 0 })).toBe(ERR.inval);
    });

    it('of zero past the end fails', () => {
      expect(answer(CMD.read, { offset: SIZE + 1, length: 0 })).toBe(ERR.inval);
      expect(answer(CMD.write, { offset: SIZE + 1, length: 0 })).toBe(ERR.nospc);
    });

    it('of a READ over the largest payload is EINVAL, or EOVERFLOW where that is known', () => {
      sessions.device.sizeBytes = 2 ** 40;
      const error = form === 'simple' ? ERR.inval : ERR.overflow;
      expect(answer(CMD.read, { length: NBD_PAYLOAD_BYTES_MAX + 1 })).toBe(error);
      expect(answer(CMD.read, { length: 0xffffffff })).toBe(error);
      expect(reached()).toEqual([]);
    });

    it('of a WRITE over the largest payload is refused, or ends the connection', () => {
      sessions.device.sizeBytes = 2 ** 40;
      const payload = bytes(NBD_PAYLOAD_BYTES_MAX + 1);
      if (form !== 'extended') {
        expect(answer(CMD.write, { payload })).toBe(ERR.inval);
        expect(answer(CMD.write, { payload: bytes(2 * NBD_PAYLOAD_BYTES_MAX) })).toBe(ERR.inval);
      } else {
        // Section 3.2 has a rule of its own for them.
        client.connection.write(client.request(CMD.write, { payload }));
        sessions.settle();
        expect([client.connection.over, client.fault]).toEqual([true, true]);
      }
      expect(reached()).toEqual([]);
    });

    it('of a WRITE far over it ends the connection', () => {
      const length = 2 * NBD_PAYLOAD_BYTES_MAX + 1;
      client.connection.write(client.request(CMD.write, { length, payload: bytes(0) }));
      expect(client.take()).toEqual([]);
      expect(client.connection.over).toBe(true);
      expect(client.reason).toBe(`NBD_CMD_WRITE with ${length} bytes of payload`);
      expect(client.fault).toBe(true);
    });

    it('of the largest payload is served both ways', () => {
      sessions = new Sessions(NBD_PAYLOAD_BYTES_MAX);
      client = sessions.openWithContexts(form);
      const payload = bytes(NBD_PAYLOAD_BYTES_MAX);
      expect(answer(CMD.write, { payload })).toBe(0);
      expect(sessions.device.content.equals(payload)).toBe(true);
      expect(client.read(0, NBD_PAYLOAD_BYTES_MAX).equals(payload)).toBe(true);
    });

    it('of TRIM, WRITE_ZEROES and CACHE may be anything up to 4 GiB', () => {
      sessions.device.sizeBytes = 2 ** 40;
      const range = { offset: 2 ** 39, length: 0xffffffff };
      for (const command of [CMD.trim, CMD.zeroes, CMD.cache]) {
        expect(answer(command, range)).toBe(0);
        expect(sessions.device.calls.at(-2)).toMatchObject(range);
      }
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
      ['EOVERFLOW, which only lengths are told', 75, ERR.io],
      ['an errno that NBD has no word for', 116, ERR.io],
    ])('answering %s', (_, status, error) => {
      for (const operation of ['read', 'write', 'zero', 'trim', 'cache'] as const) {
        sessions.device.failures.set(operation, status);
      }
      expect(answer(CMD.read, { length: 512 })).toBe(error);
      expect(answer(CMD.read, { length: 300_000 })).toBe(error);
      expect(answer(CMD.write, { payload: bytes(512) })).toBe(error);
      expect(answer(CMD.zeroes, { length: 512 })).toBe(error);
      expect(answer(CMD.trim, { length: 512 })).toBe(error);
      expect(answer(CMD.cache, { length: 512 })).toBe(error);
    });

    it('is heard when it says ENOTSUP to FAST_ZERO', () => {
      sessions.device.failures.set('zero', 95);
      expect(answer(CMD.zeroes, { length: 512, flags: FLAG.fastZero })).toBe(ERR.notsup);
      expect(answer(CMD.zeroes, { length: 512 })).toBe(ERR.io);
    });
  });

  it.each([0n, 1n, 2n ** 31n, 2n ** 63n, 2n ** 64n - 1n, 0x0123456789abcdefn])(
    'a cookie (%s) comes back bit for bit, also when it is in flight twice',
    (cookie) => {
      sessions.device.mode = 'hold';
      const same = client.request(CMD.read, { cookie, length: 4 });
      client.connection.write(same, same, client.request(0xff, { cookie }));
      sessions.settle();
      sessions.device.release();
      const answers = client.take(() => 4);
      expect(answers.map((each) => each.cookie)).toEqual([cookie, cookie, cookie]);
    },
  );

  it('a request after DISC is ignored', () => {
    const disc = client.request(CMD.disc, { flags: 0xffff, offset: 7, length: 9 });
    client.connection.write(disc, client.request(CMD.flush));
    expect(client.take()).toEqual([]);
    expect([client.connection.over, client.fault, client.reason]).toEqual([
      true,
      false,
      'client disconnected',
    ]);
    expect(sessions.device.calls).toEqual([]);
  });

  it.each([1, 27, 28, 31, 33, 40])('EOF after %i bytes of a WRITE applies nothing', (cut) => {
    const write = client.request(CMD.write, { payload: bytes(100) });
    client.connection.write(write.subarray(0, cut));
    client.connection.endInput();
    expect(client.take()).toEqual([]);
    expect(client.connection.over).toBe(true);
    expect(sessions.device.calls).toEqual([]);
    expect(sessions.lent).toEqual({ bytes: 0, requests: 0 });
  });

  it.each([0, 0x25609513, 0x25609514, 0x21e41c71, 0x67446698, 0x668e33ef, 0x6e8a278c])(
    'magic %i ends the connection, unless it is the right one',
    (magic) => {
      const right = magic === (form === 'extended' ? 0x21e41c71 : 0x25609513);
      const wrong = client.request(CMD.flush, { magic });
      client.connection.write(client.request(CMD.flush, { cookie: 1 }), wrong, wrong);
      expect(client.take()).toHaveLength(right ? 3 : 1);
      expect([client.connection.over, client.fault]).toEqual([!right, !right]);
    },
  );
});
