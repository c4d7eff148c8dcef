/**
 * The oracle of the fuzzer objects: to each wrong thing that a server may say in each form, and to nothing
 * that is right. Method: conversations by hand, the server's part of them right or wrong in one thing.
 */
import { describe, expect, it } from 'vitest';
import { Content } from '../../scripts/fuzz/content.ts';
import type { ServerFacts } from '../../scripts/fuzz/judge-facts.ts';
import { Judge } from '../../scripts/fuzz/judge.ts';
import * as wire from '../wire/encoder.ts';

const { hex, u16, u32, u64 } = wire;
const SIZE = 65536;
const GREETING = hex('4e42444d41474943 49484156454f5054 0003');

const facts: ServerFacts = {
  exports: [
    {
      name: 'disk',
      size: SIZE,
      readOnly: false,
      description: '',
      contexts: ['base:allocation'],
      badRanges: [],
      tlsOnly: false,
    },
  ],
  defaultName: null,
  tls: 'none',
  listing: true,
  privately: false,
  optionsMax: 64,
};

function judge(content = new Content()): Judge {
  const readsInOrder = true;
  return new Judge({ facts, contentOf: () => content, stopping: () => false, readsInOrder });
}

const optionReply = (option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer =>
  Buffer.concat([hex('0003e889045565a9'), u32(option), u32(type), u32(data.length), data]);

const infoExport = (flags: number, size = BigInt(SIZE)): Buffer =>
  optionReply(7, 3, Buffer.concat([u16(0), u64(size), u16(flags)]));

type Form = 'simple' | 'structured' | 'extended';

/** A judge of a client that got through; `disk` holds 01 in its first KiB. */
function ready(form: Form, contexts = false): Judge {
  const content = new Content();
  content.write(0, Buffer.alloc(1024, 1));
  const session = judge(content);
  session.heard(GREETING);
  session.sent(wire.clientFlags());
  if (form !== 'simple') {
    session.sent(form === 'structured' ? wire.structuredReply() : wire.extendedHeaders());
    session.heard(optionReply(form === 'structured' ? 8 : 11, 1));
  }
  if (contexts) {
    session.sent(wire.setMetaContext('disk', ['base:allocation']));
    const id = Buffer.concat([u32(1), Buffer.from('base:allocation')]);
    session.heard(Buffer.concat([optionReply(10, 4, id), optionReply(10, 1)]));
  }
  session.sent(wire.go('disk'));
  session.heard(
    Buffer.concat([infoExport(form === 'simple' ? 0x0d6d : 0x0ded), optionReply(7, 1)]),
  );
  return session;
}

const simple = (error: number, cookie: bigint, data: Buffer = Buffer.alloc(0)): Buffer =>
  Buffer.concat([u32(0x67446698), u32(error), u64(cookie), data]);

const chunk = (
  flags: number,
  type: number,
  cookie: bigint,
  payload: Buffer = Buffer.alloc(0),
): Buffer =>
  Buffer.concat([
    u32(0x668e33ef),
    u16(flags),
    u16(type),
    u64(cookie),
    u32(payload.length),
    payload,
  ]);

const data = (offset: bigint, bytes: Buffer): Buffer => Buffer.concat([u64(offset), bytes]);
const hole = (offset: bigint, length: number): Buffer => Buffer.concat([u64(offset), u32(length)]);
const error = (code: number): Buffer => Buffer.concat([u32(code), u16(3), Buffer.from('bad')]);
const status = (...extents: readonly (readonly [number, number])[]): Buffer =>
  Buffer.concat([u32(1), ...extents.flat().map(u32)]);

const ones = (length: number): Buffer => Buffer.alloc(length, 1);
const read = wire.request(wire.READ, { cookie: 7n, offset: 512n, length: 1024n });
const good = Buffer.concat([ones(512), Buffer.alloc(512)]);

/** A client that said this, and what it heard. */
const option = (words: Buffer, ...answers: readonly Buffer[]): (() => void) => {
  return () => {
    const session = judge();
    session.heard(GREETING);
    session.sent(Buffer.concat([wire.clientFlags(), words]));
    for (const answer of answers) session.heard(answer);
    session.quiet();
  };
};

/** A client that read, in each form. */
const simply = (...replies: readonly Buffer[]): (() => void) => {
  return () => {
    const session = ready('simple');
    session.sent(read);
    for (const reply of replies) session.heard(reply);
    session.quiet();
  };
};

const structured = (...replies: readonly Buffer[]): (() => void) => {
  return () => {
    const session = ready('structured');
    session.sent(read);
    for (const reply of replies) session.heard(reply);
    session.quiet();
  };
};

const extended = (reply: Buffer) => (): void => {
  const session = ready('extended');
  session.sent(wire.extendedRequest(wire.TRIM, { cookie: 7n, offset: 512n, length: 1n }));
  session.heard(reply);
  session.quiet();
};
const none = (offset: bigint): Buffer =>
  Buffer.concat([hex('6e8a278c 0001 0000'), u64(7n), u64(offset), u64(0n)]);

/** A client that asked for 8 KiB of block status. */
const described = (flags: number, ...payloads: readonly Buffer[]): (() => void) => {
  return () => {
    const session = ready('structured', true);
    const range = { cookie: 7n, flags, offset: 512n, length: 8192n };
    session.sent(wire.request(wire.BLOCK_STATUS, range));
    for (const payload of payloads) session.heard(chunk(1, 5, 7n, payload));
    session.quiet();
  };
};

describe('answers to options', () => {
  const go = wire.go('disk', [3]);
  const block = optionReply(7, 3, hex('0003 00000001 00001000 02000000'));

  it('may be right', () => {
    expect(option(go, infoExport(0x0d6d), block, optionReply(7, 1))).not.toThrow();
    expect(option(wire.go('none'), optionReply(7, 0x80000006))).not.toThrow();
    expect(option(wire.option(99), optionReply(99, 0x80000001))).not.toThrow();
  });

  it.each([
    ['nothing', option(go), 'does not answer option 7'],
    ['too much', option(wire.list().subarray(0, 3), optionReply(3, 1)), 'answer nothing'],
    ['for another', option(go, optionReply(6, 1)), 'answers option 6, not 7'],
    ['no magic', option(go, Buffer.alloc(20)), 'wrong magic'],
    ['no size', option(go, block, optionReply(7, 1)), 'INFO_EXPORT is missing'],
    ['a wrong size', option(go, infoExport(0x0d6d, 1n), block, optionReply(7, 1)), 'a size of 1'],
    ['no block sizes', option(go, infoExport(0x0d6d), optionReply(7, 1)), 'block sizes'],
    ['DF for nobody', option(go, infoExport(0x0ded), block, optionReply(7, 1)), 'SEND_DF'],
    ['a wrong no', option(wire.go('none'), optionReply(7, 0x80000003)), 'not 0x80000006'],
    ['yes to nonsense', option(wire.option(7, hex('00')), optionReply(7, 1)), 'not 0x80000003'],
    [
      'an ACK that talks',
      option(wire.structuredReply(), optionReply(8, 1, hex('00'))),
      'with data',
    ],
    ['an unlisted list', option(wire.list(), optionReply(3, 1)), 'LIST tells of "disk" 0 times'],
  ])('are wrong: %s', (_, play, message) => {
    expect(play).toThrow(message);
  });
});

describe('replies', () => {
  it('may be right, whole or in pieces', () => {
    expect(simply(simple(0, 7n, good))).not.toThrow();
    const whole = [chunk(0, 2, 7n, hole(1024n, 512)), chunk(1, 1, 7n, data(512n, ones(512)))];
    expect(structured(...whole)).not.toThrow();
    const bytes = Buffer.concat(whole);
    for (let at = 1; at < bytes.length; at++) {
      expect(structured(bytes.subarray(0, at), bytes.subarray(at))).not.toThrow();
    }
  });

  it.each([
    ['nothing', simply(), 'does not answer command 0'],
    ['twice', simply(simple(0, 7n, good), simple(0, 7n, good)), 'waits for nothing'],
    ['for nobody', simply(simple(0, 8n)), 'the cookie 0x8, which waits for nothing'],
    ['a chunk', simply(chunk(1, 0, 7n)), 'the magic 0x668e33ef'],
    ['wrong bytes', simply(simple(0, 7n, ones(1024))), 'byte 1024 is 1 instead of 0'],
    ['an error without a reason', simply(simple(22, 7n)), 'the error 22 (legal: )'],
    ['an error that is none', simply(simple(999, 7n)), 'the error 999'],
  ])('of the simple form are wrong: %s', (_, play, message) => {
    expect(play).toThrow(message);
  });

  it.each([
    ['a simple one', structured(simple(0, 7n, good)), 'a simple reply'],
    ['no end', structured(chunk(0, 1, 7n, data(512n, good))), 'does not answer'],
    ['too little', structured(chunk(1, 1, 7n, data(512n, ones(512)))), '512 bytes for'],
    ['nothing but the end', structured(chunk(1, 0, 7n)), '0 bytes for'],
    ['past the range', structured(chunk(1, 1, 7n, data(513n, good))), '1024 bytes at 513'],
    ['before the range', structured(chunk(1, 2, 7n, hole(0n, 16))), '16 bytes at 0'],
    [
      'twice the same',
      structured(chunk(0, 1, 7n, data(512n, good)), chunk(1, 2, 7n, hole(1024n, 512))),
      'come twice',
    ],
    ['a hole that is none', structured(chunk(0, 2, 7n, hole(512n, 512))), 'byte 512 is 0'],
    ['a hole of nothing', structured(chunk(0, 2, 7n, hole(512n, 0))), 'of no bytes'],
    ['an unknown type', structured(chunk(1, 3, 7n)), 'type 0x3'],
    ['an unknown flag', structured(chunk(3, 1, 7n, data(512n, good))), 'flags 0x3'],
    ['no error', structured(chunk(1, 0x8001, 7n, error(0))), 'without an error'],
    ['an error without a reason', structured(chunk(1, 0x8001, 7n, error(5))), 'the error 5'],
    [
      'two errors',
      structured(chunk(0, 0x8001, 7n, error(5)), chunk(1, 0x8001, 7n, error(5))),
      'two errors',
    ],
    ['a status', structured(chunk(1, 5, 7n, status([512, 0]))), 'a status for'],
  ])('of the structured form are wrong: %s', (_, play, message) => {
    expect(play).toThrow(message);
  });

  it('of the extended form are wrong: a compact chunk, a wrong offset', () => {
    expect(extended(none(512n))).not.toThrow();
    expect(extended(none(0n))).toThrow('echoes a wrong offset');
    expect(extended(Buffer.concat([chunk(1, 0, 7n), Buffer.alloc(12)]))).toThrow('the magic');
  });
});

describe('block status', () => {
  it('may be right', () => {
    expect(described(0, status([3584, 0], [4608, 3]))).not.toThrow();
    expect(described(0, status([3584, 0], [61440, 3]))).not.toThrow();
    expect(described(wire.REQ_ONE, status([100, 0]))).not.toThrow();
  });

  it.each([
    ['empty', described(0, status([0, 0])), 'an extent of no bytes'],
    ['past its end', described(0, status([8192, 0], [512, 3])), 'reaches the end'],
    ['past the export', described(0, status([65536, 0])), 'past the end of the export'],
    ['zero where it is not', described(0, status([8192, 3])), 'byte 512 is called zero'],
    ['unknown flags', described(0, status([8192, 4])), 'base:allocation says 0x4'],
    ['two for one', described(wire.REQ_ONE, status([512, 0], [512, 3])), '2 extents'],
    ['too long for one', described(wire.REQ_ONE, status([8193, 0])), 'longer than was asked'],
    ['of another context', described(0, Buffer.concat([u32(2), u32(8192), u32(0)])), 'context 2'],
  ])('is wrong: %s', (_, run, message) => {
    expect(run).toThrow(message);
  });
});

describe('the end of a connection', () => {
  it('needs a reason, and comes when there is one', () => {
    const open = ready('simple');
    expect(() => open.closed()).toThrow('without a reason');
    const left = ready('simple');
    left.left();
    expect(() => left.closed()).not.toThrow();
    const broken = ready('simple');
    broken.sent(Buffer.alloc(28));
    expect(() => broken.quiet()).toThrow('does not close the connection');
    expect(() => broken.closed()).not.toThrow();
  });
});
