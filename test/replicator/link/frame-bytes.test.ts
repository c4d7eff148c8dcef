/**
 * The header of a frame has the bytes that the document says, everything comes back as it went, and nothing that is
 * otherwise is believed. Method: frames written by hand (support/wire.ts) against the codec, both ways; every bit of a
 * header flipped; random headers.
 */
import { crc32 } from 'node:zlib';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  DecodedFrame,
  decodeFrame,
  encodeFrame,
  FRAME_HEADER_BYTES,
  laneSeed,
  newHeaderMemory,
  nextSequence,
} from '../../../src/replicator/link/frame.ts';
import {
  COMPRESSED,
  KIND_RULES,
  type KindRule,
  type LinkSide,
} from '../../../src/replicator/link/frame-kinds.ts';
import type { FrameHeader } from '../../../src/replicator/link/link-types.ts';
import { TOKEN, wireFrame, type WireFrame } from './support/wire.ts';

const SEED = laneSeed(TOKEN, 0, 'primary');

const HEADER: FrameHeader = {
  kind: 4,
  flags: 0,
  volume: 0x0102,
  epoch: 0x0011223344556,
  index: 2 ** 32 + 7,
  offset: 2 ** 53 - 1,
  length: 4096,
  aux: 1_700_000_000_000,
};

function encoded(header: FrameHeader, payload: Buffer, sequence: number, seed = SEED): Buffer {
  const memory = newHeaderMemory();
  const seal = { payloadBytes: payload.length, payloadChecksum: crc32(payload), sequence };
  encodeFrame(memory, header, seal, seed);
  return memory.bytes;
}

function decode(bytes: Buffer, sender: LinkSide = 'primary', seed = SEED): DecodedFrame | string {
  const memory = newHeaderMemory();
  bytes.copy(memory.bytes, 0, 0, FRAME_HEADER_BYTES);
  const frame = new DecodedFrame();
  return decodeFrame(memory, seed, sender, frame) ?? frame;
}

const refusal = (frame: WireFrame): string => {
  const outcome = decode(wireFrame(frame));
  if (typeof outcome !== 'string') throw new Error('it was believed');
  return outcome;
};

const number = fc.oneof(
  fc.maxSafeNat(),
  fc.constantFrom(0, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1),
);

const rules: readonly KindRule[] = Object.values(KIND_RULES);
const anyFrame = fc
  .record({
    rule: fc.constantFrom(...rules),
    flags: fc.nat(255),
    volume: fc.nat(0xffff),
    numbers: fc.tuple(number, number, number, number, number),
    share: fc.double({ min: 0, max: 1, noNaN: true }),
    sequence: fc.nat(0xffff_ffff),
  })
  .map(({ rule, flags, volume, numbers, share, sequence }) => {
    const steps = Math.floor(((rule.most - rule.least) / rule.unit) * share);
    const plainBytes = rule.least + steps * rule.unit;
    const compressed = rule.lengthOfPayload && (flags & COMPRESSED) !== 0;
    const payload = Buffer.alloc(compressed ? Math.ceil(plainBytes / 3) : plainBytes, 9);
    const [epoch, index, offset, length, aux] = numbers;
    const header: FrameHeader = {
      kind: rule.kind,
      flags: flags & rule.flags,
      volume,
      epoch,
      index,
      offset,
      length: rule.lengthOfPayload ? plainBytes : length,
      aux,
    };
    return { header, payload, sequence, sender: rule.sender ?? ('mirror' as const) };
  });

/** The header of a compressed frame. */
function compressed(payloadBytes: number, length: bigint, kind = 1): string | DecodedFrame {
  return decode(wireFrame({ kind, flags: COMPRESSED, length, payloadBytes }));
}

describe('a frame header', () => {
  test('has these bytes', () => {
    expect(encoded(HEADER, Buffer.alloc(0), 0xfffffffe).toString('hex')).toBe(
      '42464c4b' + // magic
        '04' + // kind
        '00' + // flags
        '0102' + // volume
        '0000011223344556' + // epoch
        '0000000100000007' + // index
        '001fffffffffffff' + // offset
        '0000000000001000' + // length
        '0000018bcfe56800' + // aux
        '00000000' + // payload bytes
        '00000000' + // payload checksum
        'fffffffe' + // sequence
        'b18dab35', // checksum
    );
  });

  test('is the one that is written by hand, and comes back as it went', () => {
    fc.assert(
      fc.property(anyFrame, ({ header, payload, sequence, sender }) => {
        const seed = laneSeed(TOKEN, 0, sender);
        const bytes = encoded(header, payload, sequence, seed);
        const byHand = wireFrame({
          ...header,
          epoch: BigInt(header.epoch),
          index: BigInt(header.index),
          offset: BigInt(header.offset),
          length: BigInt(header.length),
          aux: BigInt(header.aux),
          payload,
          sequence,
          sender,
        });
        expect(bytes.equals(byHand.subarray(0, 64))).toBe(true);
        const frame = decode(bytes, sender, seed);
        if (typeof frame === 'string') throw new Error(frame);
        expect(frame.toHeader()).toEqual(header);
        expect(frame.payloadBytes).toBe(payload.length);
        expect(frame.payloadChecksum).toBe(crc32(payload));
        expect(frame.sequence).toBe(sequence);
      }),
      { numRuns: 300 },
    );
  });

  test('is refused when any bit of it was turned', () => {
    const bytes = wireFrame({ kind: 4, epoch: 5n, index: 3n });
    expect(typeof decode(bytes)).not.toBe('string');
    for (let bit = 0; bit < FRAME_HEADER_BYTES * 8; bit += 1) {
      const turned = Buffer.from(bytes);
      turned[bit >> 3]! ^= 1 << (bit & 7);
      expect(typeof decode(turned), `bit ${bit}`).toBe('string');
    }
  });

  test('is refused when it is any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 64 }), (bytes) => {
        expect(typeof decode(Buffer.from(bytes))).toBe('string');
      }),
    );
  });

  test('is numbered, and behind the last number comes the first', () => {
    expect([0, 1, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff].map(nextSequence)).toEqual([
      1, 2, 0x8000_0000, 0xffff_ffff, 0,
    ]);
  });

  test('of another link, another lane or the own side is refused', () => {
    const close = { kind: 4 };
    expect(typeof decode(wireFrame(close))).not.toBe('string');
    expect(refusal({ ...close, token: 'ff'.repeat(16) })).toContain('checksum');
    expect(refusal({ ...close, lane: 1 })).toContain('checksum');
    expect(refusal({ ...close, sender: 'mirror' })).toContain('checksum');
  });

  test('with a kind, a flag or a number that there is not is refused by name', () => {
    for (const kind of [0, 13, 255]) expect(refusal({ kind })).toContain(`unknown kind ${kind}`);
    const payload = Buffer.alloc(4124);
    for (const flags of [1, 0x40, 0xff]) {
      expect(refusal({ kind: 1, flags, payload, length: 4124n })).toContain(`flags ${flags}`);
    }
    expect(refusal({ kind: 10, flags: 8 })).toContain('flags 8');
    for (const field of ['epoch', 'index', 'offset', 'length', 'aux'] as const) {
      for (const value of [2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
        expect(refusal({ kind: 4, [field]: value })).toContain('beyond 2^53');
      }
      expect(typeof decode(wireFrame({ kind: 4, [field]: 2n ** 53n - 1n }))).not.toBe('string');
    }
  });

  test('of a compressed payload says how long it was, within the bounds of its kind', () => {
    for (const kind of [1, 8]) {
      expect(typeof compressed(1, 4124n, kind)).not.toBe('string');
      expect(typeof compressed(4123, 4124n, kind)).not.toBe('string');
      expect(typeof compressed(1, 1114112n, kind)).not.toBe('string');
      const wrong: readonly (readonly [number, bigint])[] = [
        [0, 4124n],
        [4124, 4124n],
        [1, 4120n],
        [1, 4125n],
        [1, 1114116n],
        [1, 2n ** 53n - 4n],
        [2 ** 32 - 1, 1114112n],
      ];
      for (const [payloadBytes, length] of wrong) {
        expect(compressed(payloadBytes, length, kind)).toContain('bytes of payload');
      }
    }
    for (const kind of [2, 3, 4, 6, 7, 9, 10]) {
      expect(compressed(0, 0n, kind)).toContain('unknown flags 128');
    }
  });

  test('is refused when the side that sent it never sends such a frame', () => {
    expect(refusal({ kind: 5 })).toContain('ACK frame, which is not its to send');
    const fromMirror = wireFrame({ kind: 4, sender: 'mirror' });
    expect(decode(fromMirror, 'mirror', laneSeed(TOKEN, 0, 'mirror'))).toContain('CLOSE');
  });

  test('may announce what its kind can have, to the byte', () => {
    for (const [name, rule] of Object.entries(KIND_RULES)) {
      const sender = rule.sender ?? 'primary';
      const announce = (payloadBytes: number, length = payloadBytes): DecodedFrame | string => {
        const frame = { kind: rule.kind, sender, payloadBytes, length: BigInt(length) };
        return decode(wireFrame(frame), sender, laneSeed(TOKEN, 0, sender));
      };
      expect(typeof announce(rule.least), name).not.toBe('string');
      expect(typeof announce(rule.most), name).not.toBe('string');
      expect(announce(rule.most + rule.unit), name).toContain('bytes of payload');
      expect(announce(0xffff_ffff - (0xffff_ffff % rule.unit)), name).toContain('bytes of payload');
      if (rule.least > 0) expect(announce(rule.least - rule.unit), name).toContain('payload');
      if (rule.unit > 1) expect(announce(rule.least + 1), name).toContain('bytes of payload');
      if (rule.lengthOfPayload) expect(announce(rule.least, 5), name).toContain('payload');
    }
  });

  test('that no frame may have is not written', () => {
    const bytes = Buffer.alloc(0);
    for (const wrong of [
      { flags: 1 },
      { volume: 0x10000 },
      { volume: -1 },
      { epoch: 2 ** 53 },
      { index: -1 },
      { offset: 0.5 },
    ]) {
      expect(() => encoded({ ...HEADER, ...wrong }, bytes, 0)).toThrow();
    }
    expect(() => encoded(HEADER, Buffer.alloc(1), 0)).toThrow('the payload fits the kind');
  });
});
