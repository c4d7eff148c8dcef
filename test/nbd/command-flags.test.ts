/**
 * Which command takes which flag (protocol section 1.7), for each form and each transmission flag that makes
 * one legal. Method: each command with each of the 16 bits, alone and with FUA; what is refused must not reach
 * the device, and what is let through must reach it with its meaning.
 */
import { describe, expect, it } from 'vitest';

import { Sessions } from './support/sessions.ts';
import { ALL_FLAGS, CMD, ERR, FLAG } from './support/wire.ts';

const FORMS = ['simple', 'structured', 'extended'] as const;
type Form = (typeof FORMS)[number];

const SEND = { fua: 0x0008, df: 0x0080, fastZero: 0x0800, statusPayload: 0x1000 } as const;

interface Row {
  readonly name: string;
  readonly command: number;
  /** Besides FUA. */
  readonly legal: (form: Form, flags: number) => number;
}

const TABLE: readonly Row[] = [
  {
    name: 'READ',
    command: CMD.read,
    legal: (form, flags) => (form !== 'simple' && (flags & SEND.df) !== 0 ? FLAG.df : 0),
  },
  {
    name: 'WRITE',
    command: CMD.write,
    legal: (form) => (form === 'extended' ? FLAG.payloadLen : 0),
  },
  { name: 'FLUSH', command: CMD.flush, legal: () => 0 },
  { name: 'TRIM', command: CMD.trim, legal: () => 0 },
  { name: 'CACHE', command: CMD.cache, legal: () => 0 },
  {
    name: 'WRITE_ZEROES',
    command: CMD.zeroes,
    legal: (_, flags) => FLAG.noHole | ((flags & SEND.fastZero) === 0 ? 0 : FLAG.fastZero),
  },
  {
    name: 'BLOCK_STATUS',
    command: CMD.blockStatus,
    legal: (form, flags) => {
      if (form === 'simple') return -1;
      const payload = form === 'extended' && (flags & SEND.statusPayload) !== 0;
      return FLAG.reqOne | (payload ? FLAG.payloadLen : 0);
    },
  },
];

const OFFERS = [
  ALL_FLAGS,
  ALL_FLAGS & ~SEND.fua,
  ALL_FLAGS & ~SEND.df,
  ALL_FLAGS & ~SEND.fastZero,
  ALL_FLAGS & ~SEND.statusPayload,
];

describe.each(FORMS)('in %s form', (form) => {
  it.each(TABLE)('$name takes the flags of the table and no other', ({ command, legal }) => {
    for (const flags of OFFERS) {
      const sessions = new Sessions(1 << 16);
      const client = sessions.openWithContexts(form, flags);
      const legalHere = legal(form, flags);
      const fua = (flags & SEND.fua) === 0 || legalHere < 0 ? 0 : FLAG.fua;
      for (let bits = 0; bits < 1 << 16; bits = bits === 0 ? 1 : bits << 1) {
        for (const asked of [bits, bits | FLAG.fua]) {
          // A payload is a matter of its own: extended-requests.test.ts.
          if (form === 'extended' && (asked & FLAG.payloadLen) !== 0) continue;
          const isWrite = command === CMD.write;
          const fields = isWrite
            ? { payload: Buffer.alloc(512) }
            : { length: command === CMD.flush ? 0 : 512 };
          sessions.device.calls.length = 0;
          const { error } = client.ask(command, { ...fields, flags: asked });
          const passes = legalHere >= 0 && (asked & ~(legalHere | fua)) === 0;
          const where = `offer ${flags.toString(16)}, flags ${asked.toString(16)}`;
          expect(error, where).toBe(passes ? 0 : ERR.inval);
          const reached = sessions.device.calls.length - 1;
          expect(reached, where).toBe(passes && command !== CMD.blockStatus ? 1 : 0);
        }
      }
    }
  });

  it.each([
    ['READ', CMD.read, false],
    ['WRITE', CMD.write, true],
    ['FLUSH', CMD.flush, false],
    ['TRIM', CMD.trim, true],
    ['CACHE', CMD.cache, false],
    ['WRITE_ZEROES', CMD.zeroes, true],
  ])('FUA on %s reaches the device if it changes anything', (_, command, changes) => {
    const sessions = new Sessions(1 << 16);
    const client = sessions.openWithContexts(form);
    const fields =
      command === CMD.write
        ? { payload: Buffer.alloc(512) }
        : { length: command === CMD.flush ? 0 : 512 };
    client.ask(command, { ...fields, flags: FLAG.fua });
    client.ask(command, fields);
    expect(sessions.device.calls[0]?.fua).toBe(changes);
    expect(sessions.device.calls[2]?.fua).toBe(false);
  });

  it('hands NO_HOLE and FAST_ZERO to the device', () => {
    const sessions = new Sessions(1 << 16);
    const client = sessions.openWithContexts(form);
    const zeroes = (flags: number): unknown => {
      sessions.device.calls.length = 0;
      client.ask(CMD.zeroes, { offset: 512, length: 1024, flags });
      return sessions.device.calls[0];
    };
    const plain = { operation: 'zero', offset: 512, length: 1024, fua: false };
    expect(zeroes(0)).toEqual({ ...plain, noHole: false, fastZero: false });
    expect(zeroes(FLAG.noHole)).toEqual({ ...plain, noHole: true, fastZero: false });
    expect(zeroes(FLAG.fastZero)).toEqual({ ...plain, noHole: false, fastZero: true });
    const all = FLAG.noHole | FLAG.fastZero | FLAG.fua;
    expect(zeroes(all)).toEqual({ ...plain, fua: true, noHole: true, fastZero: true });
  });
});
