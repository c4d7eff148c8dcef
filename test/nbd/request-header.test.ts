/** Decoding keeps every number exact or safely too large. Method: headers from an independent encoder. */
import { expect, it } from 'vitest';

import {
  COMPACT_REQUESTS,
  decodeRequestHeader,
  EXTENDED_REQUESTS,
  newRequestHeader,
} from '../../src/nbd/transmission/request-header.ts';
import { extendedRequest, request } from './support/wire.ts';

const decode = (bytes: Buffer, at = 0): ReturnType<typeof newRequestHeader> => {
  const header = newRequestHeader();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  decodeRequestHeader(COMPACT_REQUESTS, view, at, header);
  return header;
};

it('reads every field, wherever the header begins', () => {
  const fields = { flags: 0x8001, cookie: 0xfedcba9876543210n, offset: 0x123456789abn };
  const bytes = request(0xfffe, { ...fields, length: 0xffffffff });
  expect(decode(Buffer.concat([Buffer.alloc(3), bytes]), 3)).toEqual({
    magic: 0x25609513,
    flags: 0x8001,
    command: 0xfffe,
    cookieHigh: 0xfedcba98,
    cookieLow: 0x76543210,
    offsetHigh: 0x123,
    offsetLow: 0x456789ab,
    offset: 0x123456789ab,
    length: 0xffffffff,
  });
});

it.each([2n ** 53n - 1n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n])(
  'makes offset %s a safe integer past any end',
  (offset) => {
    expect(decode(request(0, { offset })).offset).toBe(Number.MAX_SAFE_INTEGER);
  },
);

it.each([0n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 50n, 2n ** 53n - 2n])(
  'keeps offset %s exact',
  (offset) => {
    expect(BigInt(decode(request(0, { offset })).offset)).toBe(offset);
  },
);

it.each([
  [0n, 0],
  [2n ** 32n, 2 ** 32],
  [2n ** 53n - 1n, Number.MAX_SAFE_INTEGER],
  [2n ** 53n, Number.MAX_SAFE_INTEGER],
  [2n ** 64n - 1n, Number.MAX_SAFE_INTEGER],
])('reads an extended header, a length of %s as %i', (length, expected) => {
  const bytes = extendedRequest(7, { flags: 0x18, cookie: 5, offset: 2n ** 63n + 9n, length });
  const header = newRequestHeader();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  decodeRequestHeader(EXTENDED_REQUESTS, view, 0, header);
  expect(header).toEqual({
    magic: 0x21e41c71,
    flags: 0x18,
    command: 7,
    cookieHigh: 0,
    cookieLow: 5,
    offsetHigh: 0x80000000,
    offsetLow: 9,
    offset: Number.MAX_SAFE_INTEGER,
    length: expected,
  });
});
