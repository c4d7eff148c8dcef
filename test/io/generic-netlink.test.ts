/*
 * Messages of generic netlink: requests byte for byte as a kernel was seen to take them, and answers as it gave them, cut at every
 * place. The answers were recorded with strace, from Linux 6.1.
 */
import { describe, expect, test } from 'vitest';
import {
  attribute,
  encodeRequest,
  nestedAttribute,
  numberOf,
  parseAttributes,
  parseMessages,
  textAttribute,
  textOf,
  u32Attribute,
  u64Attribute,
} from '../../src/io/kernel/generic-netlink.ts';

/** Of NBD_CMD_CONNECT to the device 0: the device, then the status. */
const CONNECTED = Buffer.from('1c0000001a00000002000000ca020000010100000800010000000000', 'hex');
const DONE = Buffer.from(
  '240000000200000102000000ca02000000000000880000001a00050002000000ca020000',
  'hex',
);

describe('a request', () => {
  test('has its lengths, its flags and its padding', () => {
    const attributes = [u32Attribute(1, 3), textAttribute(10, 'ab'), u64Attribute(2, 2 ** 40)];
    const bytes = encodeRequest({ family: 0x1a, command: 1, sequence: 7, attributes });
    expect(bytes.toString('hex')).toBe(
      [
        '300000001a0005000700000000000000', // 48 bytes, the family, REQUEST and ACK
        '01010000',
        '0800010003000000',
        '07000a0061620000', // "ab", its zero, one byte of padding
        '0c0002000000000000010000',
      ].join(''),
    );
  });

  test('nests attributes, and finds them again', () => {
    const nested = nestedAttribute(7, [
      nestedAttribute(1, [u32Attribute(1, 9)]),
      attribute(1, Buffer.alloc(5)),
    ]);
    const [outer] = parseAttributes(nested);
    const inner = parseAttributes(outer?.data ?? Buffer.alloc(0));
    expect(inner.map(({ data }) => data.length)).toEqual([8, 5]);
    expect(numberOf(parseAttributes(inner[0]?.data ?? Buffer.alloc(0)), 1)).toBe(9);
  });

  test('holds no number that 64 bits cannot', () => {
    expect(() => u64Attribute(1, -1)).toThrow('64 bits');
    expect(() => u64Attribute(1, 2 ** 53)).toThrow('64 bits');
  });
});

describe('an answer', () => {
  test('is data and a status, in one datagram or two', () => {
    const [data, status] = parseMessages(Buffer.concat([CONNECTED, DONE]));
    expect(data).toMatchObject({ kind: 'data', sequence: 2, family: 0x1a, command: 1 });
    expect(data?.kind === 'data' && numberOf(data.attributes, 1)).toBe(0);
    expect(status).toEqual({ kind: 'status', sequence: 2, errno: 0 });
  });

  test('is an errno when it was refused', () => {
    const refused = Buffer.from(DONE);
    refused.writeInt32LE(-16, 16);
    expect(parseMessages(refused)).toEqual([{ kind: 'status', sequence: 2, errno: 16 }]);
  });

  test('ends where its bytes end, whatever its lengths say', () => {
    for (let length = 0; length < CONNECTED.length; length += 1) {
      expect(parseMessages(CONNECTED.subarray(0, length))).toEqual([]);
    }
    const long = Buffer.from(CONNECTED);
    long.writeUInt16LE(200, 20);
    expect(parseMessages(long)).toMatchObject([{ attributes: [] }]);
    const short = Buffer.from(CONNECTED);
    short.writeUInt16LE(1, 20);
    expect(parseMessages(short)).toMatchObject([{ attributes: [] }]);
    expect(parseMessages(Buffer.alloc(64))).toEqual([]);
  });

  test('has texts up to their zero, and no number of another length', () => {
    const attributes = parseAttributes(
      Buffer.concat([textAttribute(2, 'nbd'), u64Attribute(3, 1)]),
    );
    expect(textOf(attributes, 2)).toBe('nbd');
    expect(numberOf(attributes, 3)).toBeNull();
    expect(textOf(attributes, 9)).toBeNull();
  });
});
