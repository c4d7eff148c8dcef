/**
 * Bytes of options and replies at random: what an independent encoder writes is read back, what is cut or
 * lengthened is refused, and noise never throws. Texts are cut between characters, to the byte.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NBD_META_QUERIES_MAX, NBD_STRING_BYTES_MAX } from '../../src/io/limits.ts';
import { NBD_REP } from '../../src/nbd/constants.ts';
import {
  decodeInfoRequest,
  decodeMetaRequest,
  decodeString,
  encodeListEntry,
  encodeMetaContext,
  encodeOptionError,
  quoted,
  stringBytes,
} from '../../src/nbd/handshake/option-codec.ts';
import { infoData, metaData, optionReplies } from './support/wire.ts';

const text = fc.string({ unit: 'grapheme', maxLength: 40 }).filter((each) => !each.includes('\0'));
const bytes = fc.uint8Array({ maxLength: 64 }).map((each) => Buffer.from(each));
/** Lengths that are right, nearly right, and absurd, between other bytes. */
const lengthsAndNoise = fc
  .array(
    fc.oneof(
      fc.nat(8).map((value) => Buffer.from([0, 0, 0, value])),
      fc.constant(Buffer.from('ffffffff', 'hex')),
      fc.constant(Buffer.from('base:')),
      bytes,
    ),
  )
  .map((parts) => Buffer.concat(parts));

describe('requests', () => {
  it('of INFO are read as they were written', () => {
    fc.assert(
      fc.property(text, fc.array(fc.nat(0xffff)), (name, infos) => {
        expect(decodeInfoRequest(infoData(name, infos))).toEqual({ name, infos });
      }),
    );
  });

  it('of META_CONTEXT are read as they were written', () => {
    fc.assert(
      fc.property(text, fc.array(text), (name, queries) => {
        expect(decodeMetaRequest(metaData(name, queries))).toEqual({ name, queries });
      }),
    );
  });

  it('that are cut anywhere, or too long, are refused', () => {
    fc.assert(
      fc.property(text, fc.array(text, { minLength: 1 }), bytes, (name, queries, more) => {
        const meta = metaData(name, queries);
        const info = infoData(name, [1, 2]);
        for (let end = 0; end < meta.length; end++) {
          expect(decodeMetaRequest(meta.subarray(0, end))).toBe('malformed');
        }
        for (let end = 0; end < info.length; end++) {
          expect(decodeInfoRequest(info.subarray(0, end))).toBeNull();
        }
        if (more.length === 0) return;
        expect(decodeMetaRequest(Buffer.concat([meta, more]))).toBe('malformed');
        expect(decodeInfoRequest(Buffer.concat([info, more]))).toBeNull();
      }),
    );
  });

  it('may be any noise', () => {
    fc.assert(
      fc.property(fc.oneof(bytes, lengthsAndNoise), (noise) => {
        const meta = decodeMetaRequest(noise);
        if (typeof meta !== 'string') {
          expect(metaData(meta.name, meta.queries)).toEqual(noise);
        }
        const info = decodeInfoRequest(noise);
        if (info !== null) expect(infoData(info.name, info.infos)).toEqual(noise);
      }),
      { numRuns: 1000 },
    );
  });

  it('with too many queries are told from malformed ones, and their texts not looked at', () => {
    const queries = Array.from({ length: NBD_META_QUERIES_MAX + 1 }, () => Buffer.from([0xff]));
    expect(decodeMetaRequest(metaData('', queries))).toBe('too-many');
    expect(decodeMetaRequest(metaData('', queries.slice(1)))).toBe('malformed');
    const data = metaData('', queries);
    expect(decodeMetaRequest(data.subarray(0, -1))).toBe('malformed');
  });
});

describe('strings', () => {
  it('are cut between characters, and no shorter than must be', () => {
    const any = fc.string({ unit: 'grapheme', maxLength: 100 });
    fc.assert(
      fc.property(any, fc.nat(120), (whole, most) => {
        const cut = stringBytes(whole, most);
        const all = Buffer.from(whole);
        expect(cut.length).toBeLessThanOrEqual(most);
        expect(all.subarray(0, cut.length)).toEqual(cut);
        expect(Buffer.from(cut.toString())).toEqual(cut);
        // The next character would not fit: it is of at most four bytes.
        expect(cut.length === all.length || cut.length > most - 4).toBe(true);
      }),
    );
  });

  it('of messages and names have at most 4096 bytes on the wire', () => {
    const long = 'ä'.repeat(NBD_STRING_BYTES_MAX);
    const [reply] = optionReplies(encodeOptionError(7, NBD_REP.ERR_UNKNOWN, `x${long}`));
    expect(reply?.payload.toString()).toBe(`x${long.slice(0, 2047)}`);
    expect(encodeMetaContext(1, long)).toHaveLength(4 + NBD_STRING_BYTES_MAX);
    expect(encodeListEntry(long, long)).toHaveLength(4 + 2 * NBD_STRING_BYTES_MAX);
  });

  it('are refused when they are too long, no UTF-8, or hold a NUL', () => {
    expect(decodeString(Buffer.alloc(NBD_STRING_BYTES_MAX, 0x61))).toHaveLength(4096);
    expect(decodeString(Buffer.alloc(NBD_STRING_BYTES_MAX + 1, 0x61))).toBeNull();
    expect(decodeString(Buffer.from('a\0'))).toBeNull();
    for (const hex of ['ff', 'c3', 'c080', 'eda080', 'f4908080']) {
      expect(decodeString(Buffer.from(hex, 'hex')), hex).toBeNull();
    }
    expect(decodeString(Buffer.from('\ufeffa'))).toBe('\ufeffa');
  });

  it('are quoted on one line, and only so much of them', () => {
    expect(quoted('a"b\n')).toBe(String.raw`"a\"b\n"`);
    expect(quoted('x'.repeat(256))).toBe(`"${'x'.repeat(256)}"`);
    expect(quoted('x'.repeat(257))).toBe(`"${'x'.repeat(256)}"...`);
  });
});
