/**
 * The handshake, byte for byte: the worked bytes of the protocol reference (section 10), and the same
 * answers however the client's bytes are cut. Method: the machine alone, fed by an independent encoder.
 */
import { describe, expect, it } from 'vitest';

import type { Handshake, HandshakeEffect } from '../../src/nbd/handshake/handshake.ts';
import { machine as machineOf, TestExports } from './support/handshake-talk.ts';
import {
  CLIENT_FLAGS,
  CMD,
  go,
  hex,
  infoData,
  OPT,
  option,
  optionReplies,
  request,
  u32,
} from './support/wire.ts';

const SIZE = 128 * 1024 * 1024;

const machine = (): Handshake => {
  const source = new TestExports();
  source.device().sizeBytes = SIZE;
  return machineOf({ source });
};

const sent = (effects: readonly HandshakeEffect[]): Buffer =>
  Buffer.concat(effects.map((effect) => (effect.kind === 'send' ? effect.bytes : Buffer.alloc(0))));

const kinds = (effects: readonly HandshakeEffect[]): string[] =>
  effects.map(({ kind }) => kind).filter((kind) => kind !== 'send');

describe('worked bytes', () => {
  it('greets with fixed newstyle and no zeroes', () => {
    expect(machine().greeting()).toEqual(hex('4e42444d41474943 49484156454f5054 0003'));
  });

  it('answers GO with size, flags and the block sizes that were asked for', () => {
    const { effects } = machine().feed(
      hex('00000003 49484156454f5054 00000007 0000000c 00000004 766f6c30 0001 0003'),
    );
    expect(sent(effects)).toEqual(
      hex(`0003e889045565a9 00000007 00000003 0000000c 0000 0000000008000000 0d6d
           0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000
           0003e889045565a9 00000007 00000001 00000000`),
    );
    expect(kinds(effects)).toEqual(['transmit']);
  });

  it('answers EXPORT_NAME with 124 zeroes to a client that did not refuse them', () => {
    const answer = hex('0000000008000000 0d6d');
    const ask = option(OPT.exportName, Buffer.from('vol0'));
    const padded = machine().feed(Buffer.concat([u32(1), ask]));
    expect(sent(padded.effects)).toEqual(Buffer.concat([answer, Buffer.alloc(124)]));
    const bare = machine().feed(Buffer.concat([u32(3), ask]));
    expect(sent(bare.effects)).toEqual(answer);
    expect(kinds(bare.effects)).toEqual(['transmit']);
  });
});

describe('every split', () => {
  const conversation = Buffer.concat([
    CLIENT_FLAGS,
    option(99, Buffer.from('whatever')),
    option(OPT.list),
    option(OPT.info, infoData('nobody', [3])),
    option(OPT.info, infoData('vol0', [1, 2, 3, 77])),
    go('', [3]),
  ]);
  const trailing = request(CMD.read, { length: 512, cookie: 1 });
  const whole = machine().feed(Buffer.concat([conversation, trailing]));
  const expected = sent(whole.effects);

  it('leaves what follows GO to the transmission', () => {
    expect(whole.consumed).toBe(conversation.length);
    expect(optionReplies(expected).map(({ type }) => type)).toEqual([
      0x80000001, 2, 2, 1, 0x80000006, 3, 3, 3, 1, 3, 3, 1,
    ]);
  });

  it('gives the same answers when cut in two at every byte', () => {
    for (let cut = 0; cut <= conversation.length; cut++) {
      const handshake = machine();
      const first = handshake.feed(conversation.subarray(0, cut));
      const second = handshake.feed(Buffer.concat([conversation.subarray(cut), trailing]));
      const effects = [...first.effects, ...second.effects];
      expect(sent(effects).equals(expected), `cut at ${cut}`).toBe(true);
      expect(kinds(effects)).toEqual(['transmit']);
      const consumedInSecond = cut === conversation.length ? 0 : conversation.length - cut;
      expect(second.consumed).toBe(consumedInSecond);
    }
  });

  it.each([1, 2, 3, 5, 7, 13, 16, 19])('gives the same answers in pieces of %i bytes', (size) => {
    const handshake = machine();
    const effects: HandshakeEffect[] = [];
    for (let at = 0; at < conversation.length; at += size) {
      // A copy that is overwritten afterwards: the machine must not keep views of it.
      const piece = Buffer.from(conversation.subarray(at, at + size));
      effects.push(...handshake.feed(piece).effects);
      piece.fill(0xee);
    }
    expect(sent(effects).equals(expected)).toBe(true);
    expect(kinds(effects)).toEqual(['transmit']);
  });
});
