/**
 * Extended headers (protocol sections 2 and 3.2): payloads by flag, 64-bit ranges, replies that echo the
 * offset. Method: raw requests to a transmission over a fake network; a FLUSH behind each shows that the
 * connection is in step.
 */
import { beforeEach, expect, it } from 'vitest';

import { NBD_PAYLOAD_BYTES_MAX } from '../../src/io/limits.ts';
import { type Session, Sessions } from './support/sessions.ts';
import { CMD, ERR, extendedRequest, FLAG, hex } from './support/wire.ts';

const SIZE = 1 << 20;

let sessions: Sessions;
let client: Session;

beforeEach(() => {
  sessions = new Sessions(SIZE);
  client = sessions.openWithContexts('extended');
});

it('answers success in 32 bytes, bit for bit', () => {
  const cookie = 0x1122334455667788n;
  client.connection.write(extendedRequest(CMD.flush, { cookie }));
  sessions.settle();
  expect(client.connection.take().toString('hex')).toBe(
    hex('6e8a278c 0001 0000 1122334455667788 0000000000000000 0000000000000000').toString('hex'),
  );
});

it('answers data with the offset of the request and that of the chunk', () => {
  client.connection.write(extendedRequest(CMD.read, { cookie: 1, offset: 0x1234, length: 3 }));
  sessions.settle();
  expect(client.connection.take().toString('hex')).toBe(
    hex(
      '6e8a278c 0001 0001 0000000000000001 0000000000001234 000000000000000b 0000000000001234 000000',
    ).toString('hex'),
  );
});

it.each([2n ** 53n, 2n ** 63n, 2n ** 64n - 1n])(
  'echoes an offset that no safe integer holds (%s)',
  (offset) => {
    expect(client.ask(CMD.read, { offset, length: 1 })).toMatchObject({ error: ERR.inval, offset });
    const payload = Buffer.alloc(9);
    expect(client.ask(CMD.write, { offset, payload })).toMatchObject({ error: ERR.nospc, offset });
  },
);

it('takes ranges beyond 4 GiB where there is no payload', () => {
  const size = 2 ** 50;
  sessions.device.sizeBytes = size;
  for (const command of [CMD.trim, CMD.zeroes, CMD.cache]) {
    expect(client.ask(command, { offset: 0, length: size }).error).toBe(0);
    expect(sessions.device.calls.at(-2)).toMatchObject({ offset: 0, length: size });
    const past = client.ask(command, { offset: 1, length: size });
    expect(past.error).toBe(command === CMD.zeroes ? ERR.nospc : ERR.inval);
  }
});

it.each([2n ** 53n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n])(
  'a length that is not safe (%s) is past the end',
  (length) => {
    sessions.device.sizeBytes = 2 ** 50;
    for (const command of [CMD.read, CMD.trim, CMD.cache, CMD.blockStatus]) {
      expect(client.ask(command, { length }).error).toBe(ERR.inval);
      expect(client.ask(command, { offset: 2n ** 64n - 1n, length }).error).toBe(ERR.inval);
    }
    expect(client.ask(CMD.zeroes, { length }).error).toBe(ERR.nospc);
    expect(sessions.device.calls.every(({ operation }) => operation === 'flush')).toBe(true);
  },
);

it('WRITE without PAYLOAD_LEN has no payload, and is EINVAL', () => {
  client.connection.write(
    extendedRequest(CMD.write, { cookie: 1, length: 4096 }),
    extendedRequest(CMD.write, { cookie: 2, length: 0 }),
    extendedRequest(CMD.flush, { cookie: 3 }),
  );
  expect(client.take().map(({ error }) => error)).toEqual([ERR.inval, ERR.inval, 0]);
});

it('WRITE of no bytes succeeds', () => {
  expect(client.ask(CMD.write, { payload: Buffer.alloc(0) }).error).toBe(0);
});

it.each([
  ['READ', CMD.read],
  ['FLUSH', CMD.flush],
  ['TRIM', CMD.trim],
  ['CACHE', CMD.cache],
  ['WRITE_ZEROES', CMD.zeroes],
  ['RESIZE', CMD.resize],
  ['an unknown command', 77],
])('PAYLOAD_LEN on %s is drained and refused', (_, command) => {
  for (const length of [0, 1, 31, 32, 33, 100_000, 2_500_000]) {
    expect(client.ask(command, { payload: Buffer.alloc(length, 7) }).error).toBe(ERR.inval);
  }
  expect(sessions.device.calls.every(({ operation }) => operation === 'flush')).toBe(true);
  expect(sessions.lent).toEqual({ bytes: 0, requests: 0 });
});

it.each([BigInt(NBD_PAYLOAD_BYTES_MAX) + 1n, 2n ** 32n, 2n ** 64n - 1n])(
  'PAYLOAD_LEN of %s bytes ends the connection, whatever the command',
  (length) => {
    for (const command of [CMD.read, CMD.write, CMD.flush, CMD.blockStatus, 99]) {
      const victim = sessions.openWithContexts('extended');
      const flags = FLAG.payloadLen;
      victim.connection.write(
        extendedRequest(CMD.flush, { cookie: 1 }),
        extendedRequest(command, { length, flags }),
        extendedRequest(CMD.flush, { cookie: 2 }),
      );
      expect(victim.take().map(({ cookie }) => cookie)).toEqual([1n]);
      expect([victim.connection.over, victim.fault]).toEqual([true, true]);
    }
    expect(sessions.lent).toEqual({ bytes: 0, requests: 0 });
  },
);

it('DISC ends the connection whatever its flags and length', () => {
  client.connection.write(extendedRequest(CMD.disc, { flags: 0xffff, length: 2n ** 64n - 1n }));
  expect(client.take()).toEqual([]);
  expect([client.connection.over, client.fault]).toEqual([true, false]);
});
