/**
 * What the handshake makes of TLS: a test for each row of the table in protocol section 4, what STARTTLS
 * makes void, and what may not slip from clear text into TLS. Method: the machine alone in each mode of a
 * listener; TLS itself is played by the test. Each conversation is also held byte by byte.
 */
import { describe, expect, it } from 'vitest';
import {
  ANONYMOUS,
  ask,
  FRIEND,
  machine,
  talk,
  TestExports,
  typesOf,
  type Outcome,
  type Setting,
  type Step,
} from './support/handshake-talk.ts';
import {
  CLIENT_FLAGS,
  go,
  infoData,
  metaData,
  OPT,
  option,
  optionReplies,
  REP,
  u32,
} from './support/wire.ts';

const STARTTLS = option(OPT.starttls);
const STRUCTURED = option(OPT.structuredReply);
const EXTENDED = option(OPT.extendedHeaders);
const info = (name: string): Buffer => option(OPT.info, infoData(name));
const set = (name: string): Buffer =>
  option(OPT.setMetaContext, metaData(name, ['base:allocation']));

const OFF: Setting = { tls: 'off' };
const ALLOWED: Setting = { tls: 'allowed' };
const REQUIRED: Setting = { tls: 'required' };

/** One option of every kind, also unknown ones. INFO and GO are for an export that is for TLS only. */
const everyOption = (name: string): readonly Buffer[] => [
  option(OPT.list),
  option(4),
  info(name),
  STRUCTURED,
  option(OPT.listMetaContext, metaData(name, [])),
  set(name),
  EXTENDED,
  option(99),
  option(OPT.go, infoData(name)),
];

/** The names that LIST tells after `steps`. */
const names = (...steps: readonly Step[]): readonly string[] =>
  ask(ALLOWED, ...steps, option(OPT.list))
    .filter(({ type }) => type === REP.server)
    .map(({ payload }) => payload.toString('utf8', 4));

const types = (replies: ReturnType<typeof ask>): readonly number[] =>
  replies.map(({ type }) => type);
const kindsOf = ({ effects }: Outcome): readonly string[] => effects.map(({ kind }) => kind);

describe('TLS off', () => {
  it.each([Buffer.alloc(0), Buffer.from('data')])('refuses STARTTLS by policy', (data) => {
    expect(types(ask(OFF, option(OPT.starttls, data), option(OPT.list)))).toEqual([
      REP.policy,
      REP.server,
      REP.server,
      REP.ack,
    ]);
  });

  it('never demands TLS: an export that needs it is unknown, and the log says why', () => {
    const outcome = talk(OFF, ...everyOption('safe'));
    const replies = optionReplies(outcome.bytes);
    expect(types(replies)).not.toContain(REP.tlsRequired);
    expect(typesOf(replies)).toContainEqual([OPT.info, REP.unknown]);
    expect(typesOf(replies)).toContainEqual([OPT.go, REP.unknown]);
    expect(outcome.effects).toContainEqual({
      kind: 'denied',
      exportName: '"safe"',
      reason: 'it needs TLS, which cannot be started',
    });
  });

  it('closes on EXPORT_NAME of an export that needs TLS', () => {
    const { bytes, closed } = talk(OFF, option(OPT.exportName, Buffer.from('safe')));
    expect(bytes.length).toBe(0);
    expect(closed?.fault).toBe(true);
    expect(closed?.reason).toContain('"safe"');
  });
});

describe('TLS required', () => {
  it('demands it for every option but STARTTLS and ABORT, also for unknown ones', () => {
    for (const name of ['vol0', 'safe', 'nobody', 'private']) {
      const options = everyOption(name);
      const outcome = talk(REQUIRED, ...options);
      const replies = optionReplies(outcome.bytes);
      expect(types(replies)).toEqual(options.map(() => REP.tlsRequired));
      expect(new Set(replies.map(({ payload }) => payload.toString()))).toEqual(
        new Set(['TLS is required here']),
      );
      expect(outcome.negotiated).toBeNull();
    }
  });

  it('demands it also for what is malformed, and while the server stops', () => {
    expect(types(ask(REQUIRED, option(OPT.list, Buffer.alloc(9)), option(OPT.go)))).toEqual([
      REP.tlsRequired,
      REP.tlsRequired,
    ]);
    expect(types(ask({ ...REQUIRED, stopping: true }, info('vol0'), STARTTLS))).toEqual([
      REP.tlsRequired,
      REP.shutdown,
    ]);
  });

  it('closes on EXPORT_NAME, whatever the name', () => {
    for (const name of ['', 'vol0', 'safe', 'nobody']) {
      const { bytes, closed } = talk(REQUIRED, option(OPT.exportName, Buffer.from(name)));
      expect(bytes.length).toBe(0);
      expect(closed).toEqual({ reason: 'NBD_OPT_EXPORT_NAME before TLS', fault: true });
    }
  });

  it('lets a client go that aborts', () => {
    const { bytes, closed } = talk(REQUIRED, option(OPT.abort));
    expect(types(optionReplies(bytes))).toEqual([REP.ack]);
    expect(closed?.fault).toBe(false);
  });

  it('serves whoever started it', () => {
    const { negotiated } = talk(REQUIRED, info('vol0'), STARTTLS, ANONYMOUS, go('vol0'));
    expect(negotiated?.exportName).toBe('vol0');
    const named = talk(REQUIRED, STARTTLS, ANONYMOUS, option(OPT.exportName));
    expect(named.negotiated?.exportName).toBe('vol0');
  });
});

describe('TLS for some exports', () => {
  it('is demanded for those in INFO and GO, without a reply more', () => {
    const replies = ask(ALLOWED, info('safe'), go('safe'), info('vol0'));
    expect(typesOf(replies)).toEqual([
      [OPT.info, REP.tlsRequired],
      [OPT.go, REP.tlsRequired],
      [OPT.info, REP.info],
      [OPT.info, REP.ack],
    ]);
    expect(replies[0]?.payload.toString()).toBe('export "safe" needs TLS');
  });

  it('closes on EXPORT_NAME of those', () => {
    const { bytes, closed } = talk(ALLOWED, option(OPT.exportName, Buffer.from('safe')));
    expect(bytes.length).toBe(0);
    expect(closed?.fault).toBe(true);
  });

  it('is demanded for no other option, nor for other names', () => {
    const asked = everyOption('safe').filter(
      (bytes) => ![OPT.info, OPT.go].includes(bytes.readUInt32BE(8) as 6 | 7),
    );
    expect(types(ask(ALLOWED, ...asked))).not.toContain(REP.tlsRequired);
    expect(types(ask(ALLOWED, info('nobody'), info('private')))).toEqual([
      REP.unknown,
      REP.unknown,
    ]);
  });

  it('is what LIST waits for with their names', () => {
    expect(names()).toEqual(['vol0', 'other']);
    expect(names(STARTTLS, ANONYMOUS)).toEqual(['vol0', 'other', 'safe']);
    expect(names(STARTTLS, FRIEND)).toEqual(['vol0', 'other', 'private', 'safe']);
  });

  it('opens them to whoever started it', () => {
    expect(talk(ALLOWED, STARTTLS, ANONYMOUS, go('safe')).negotiated?.exportName).toBe('safe');
    expect(talk(ALLOWED, STARTTLS, FRIEND, go('private')).negotiated?.exportName).toBe('private');
  });
});

describe.each([ALLOWED, REQUIRED])('STARTTLS where TLS is $tls', (setting) => {
  it('is acknowledged, then TLS starts, and that is the last effect', () => {
    const outcome = talk(setting, STARTTLS);
    expect(typesOf(optionReplies(outcome.bytes))).toEqual([[OPT.starttls, REP.ack]]);
    expect(kindsOf(outcome)).toEqual(['send', 'start-tls']);
  });

  it('refuses data, and TLS does not start', () => {
    const outcome = talk(setting, option(OPT.starttls, Buffer.from('x')), STARTTLS);
    expect(types(optionReplies(outcome.bytes))).toEqual([REP.invalid, REP.ack]);
    expect(kindsOf(outcome)).toEqual(['send', 'send', 'start-tls']);
  });

  it.each([Buffer.alloc(0), Buffer.from('x')])('is invalid a second time', (data) => {
    const outcome = talk(
      setting,
      STARTTLS,
      ANONYMOUS,
      option(OPT.starttls, data),
      STRUCTURED,
      go('safe'),
    );
    const replies = typesOf(optionReplies(outcome.bytes));
    expect(replies[1]).toEqual([OPT.starttls, REP.invalid]);
    expect(kindsOf(outcome).filter((kind) => kind === 'start-tls')).toHaveLength(1);
    expect(outcome.negotiated).toMatchObject({ exportName: 'safe', form: 'structured' });
  });

  it('is not for a client without fixed newstyle', () => {
    const outcome = talk({ ...setting, flags: u32(0) }, STARTTLS);
    expect(outcome.bytes.length).toBe(0);
    expect(outcome.closed).toEqual({
      reason: 'NBD_OPT_STARTTLS without fixed newstyle',
      fault: true,
    });
  });

  it('is refused while the server stops', () => {
    expect(types(ask({ ...setting, stopping: true }, STARTTLS))).toEqual([REP.shutdown]);
  });
});

describe('after TLS', () => {
  it('is never demanded again, whatever the source says', () => {
    const source = new TestExports();
    source.find = () => ({ kind: 'tls-required' });
    for (const setting of [ALLOWED, REQUIRED]) {
      const outcome = talk({ ...setting, source }, STARTTLS, FRIEND, ...everyOption('safe'));
      expect(types(optionReplies(outcome.bytes))).not.toContain(REP.tlsRequired);
      expect(outcome.negotiated).toBeNull();
    }
  });

  it('structured replies are to be negotiated anew', () => {
    const outcome = talk(ALLOWED, STRUCTURED, STARTTLS, FRIEND, go('safe'));
    expect(outcome.negotiated).toMatchObject({ form: 'simple', flags: 0x0d6d });
    expect(types(ask(ALLOWED, STRUCTURED, STARTTLS, FRIEND, set('vol0'))).at(-1)).toBe(REP.invalid);
  });

  it('extended headers are', () => {
    const outcome = talk(ALLOWED, EXTENDED, STARTTLS, FRIEND, go('safe'));
    expect(outcome.negotiated?.form).toBe('simple');
    const structured = talk(ALLOWED, EXTENDED, STARTTLS, FRIEND, STRUCTURED, go('safe'));
    expect(structured.negotiated?.form).toBe('structured');
    const named = talk(ALLOWED, EXTENDED, STARTTLS, FRIEND, option(OPT.exportName));
    expect(named.negotiated?.form).toBe('simple');
  });

  it('contexts are, even if the form is agreed on again', () => {
    const outcome = talk(ALLOWED, EXTENDED, set('vol0'), STARTTLS, FRIEND, EXTENDED, go('vol0'));
    expect(outcome.negotiated).toMatchObject({ form: 'extended', flags: 0x0ded, contexts: [] });
  });

  it('the client flags still hold', () => {
    const zeroes = talk(
      { tls: 'allowed', flags: u32(1) },
      STARTTLS,
      FRIEND,
      option(OPT.exportName),
    );
    expect(zeroes.bytes.length).toBe(20 + 134);
    const none = talk(ALLOWED, STARTTLS, FRIEND, option(OPT.exportName));
    expect(none.bytes.length).toBe(20 + 10);
  });

  it('options are counted on', () => {
    const setting: Setting = { tls: 'allowed', maxOptions: 3 };
    const enough = talk(setting, STRUCTURED, STARTTLS, FRIEND, STRUCTURED);
    expect(enough.closed).toBeNull();
    const tooMany = talk(setting, STRUCTURED, STARTTLS, FRIEND, STRUCTURED, STRUCTURED);
    expect(tooMany.closed).toEqual({ reason: 'more than 3 options', fault: true });
  });
});

describe('clear text behind STARTTLS', () => {
  const CLOSED = {
    kind: 'close',
    reason: 'clear text after NBD_OPT_STARTTLS',
    fault: true,
  };

  it.each([
    ['an option', STRUCTURED],
    ['a byte', Buffer.from('I')],
    ['a ClientHello that did not wait', Buffer.from('1603010200', 'hex')],
  ])('in the same piece, %s: TLS does not even start', (_, behind) => {
    const handshake = machine(ALLOWED);
    const { effects } = handshake.feed(Buffer.concat([CLIENT_FLAGS, STARTTLS, behind]));
    expect(effects).toEqual([CLOSED]);
    expect(handshake.feed(go()).effects).toEqual([]);
  });

  it('in a later piece, before TLS: nothing of it is taken', () => {
    const handshake = machine(ALLOWED);
    handshake.feed(Buffer.concat([CLIENT_FLAGS, STARTTLS]));
    expect(handshake.feed(Buffer.alloc(0)).effects).toEqual([]);
    const { effects, consumed } = handshake.feed(STRUCTURED);
    expect(effects).toEqual([CLOSED]);
    expect(consumed).toBe(0);
    expect(() => handshake.secured(FRIEND)).toThrow();
  });

  it('does not matter where STARTTLS was refused', () => {
    const handshake = machine(OFF);
    const { effects } = handshake.feed(Buffer.concat([CLIENT_FLAGS, STARTTLS, STRUCTURED, go()]));
    expect(effects.at(-1)).toMatchObject({ kind: 'transmit', negotiated: { form: 'structured' } });
  });
});
