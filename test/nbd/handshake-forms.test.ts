/**
 * STRUCTURED_REPLY and EXTENDED_HEADERS: what each is answered, how they go together, and which
 * transmission flags they bring (protocol sections 1.6, 3 and 3.2). Method: the machine alone, each
 * conversation also byte by byte.
 */
import { describe, expect, it } from 'vitest';
import { ask, talk, TestExports, typesOf, type Outcome } from './support/handshake-talk.ts';
import { go, infoData, metaData, OPT, option, optionReplies, REP, u32 } from './support/wire.ts';

const STRUCTURED = option(OPT.structuredReply);
const EXTENDED = option(OPT.extendedHeaders);
const ALLOCATION = option(OPT.setMetaContext, metaData('', ['base:allocation']));

/** The transmission flags of an INFO_EXPORT reply to `kind`. */
const flagsTold = (outcome: Outcome, kind: number): number | undefined => {
  const told = optionReplies(outcome.bytes).find(
    ({ option: about, type }) => about === kind && type === REP.info,
  );
  return told?.payload.readUInt16BE(10);
};

describe('STRUCTURED_REPLY', () => {
  it('is acknowledged, and holds for the transmission', () => {
    const outcome = talk({}, STRUCTURED, go());
    expect(typesOf(optionReplies(outcome.bytes))[0]).toEqual([OPT.structuredReply, REP.ack]);
    expect(outcome.negotiated).toMatchObject({ form: 'structured', contexts: [] });
  });

  it('is acknowledged again', () => {
    expect(typesOf(ask({}, STRUCTURED, STRUCTURED))).toEqual([
      [OPT.structuredReply, REP.ack],
      [OPT.structuredReply, REP.ack],
    ]);
  });

  it('refuses data, and nothing is agreed', () => {
    const outcome = talk({}, option(OPT.structuredReply, Buffer.from('x')), go());
    expect(optionReplies(outcome.bytes)[0]?.type).toBe(REP.invalid);
    expect(outcome.negotiated?.form).toBe('simple');
  });

  it('holds for EXPORT_NAME too', () => {
    const { negotiated } = talk({}, STRUCTURED, option(OPT.exportName));
    expect(negotiated).toMatchObject({ form: 'structured', flags: 0x0ded });
  });
});

describe('EXTENDED_HEADERS', () => {
  it('needs nothing before it', () => {
    const outcome = talk({}, EXTENDED, go());
    expect(typesOf(optionReplies(outcome.bytes))[0]).toEqual([OPT.extendedHeaders, REP.ack]);
    expect(outcome.negotiated).toMatchObject({ form: 'extended', flags: 0x0ded });
  });

  it('takes precedence over structured replies', () => {
    const outcome = talk({}, STRUCTURED, EXTENDED, go());
    expect(outcome.negotiated?.form).toBe('extended');
  });

  it('is acknowledged again', () => {
    expect(typesOf(ask({}, EXTENDED, EXTENDED))).toEqual([
      [OPT.extendedHeaders, REP.ack],
      [OPT.extendedHeaders, REP.ack],
    ]);
  });

  it('makes a later STRUCTURED_REPLY an error, and stays', () => {
    const outcome = talk({}, EXTENDED, STRUCTURED, go());
    expect(typesOf(optionReplies(outcome.bytes)).slice(0, 2)).toEqual([
      [OPT.extendedHeaders, REP.ack],
      [OPT.structuredReply, REP.extendedRequired],
    ]);
    expect(outcome.negotiated?.form).toBe('extended');
  });

  it('closes on EXPORT_NAME', () => {
    const { closed, negotiated, bytes } = talk({}, EXTENDED, option(OPT.exportName));
    expect(closed).toEqual({
      reason: 'NBD_OPT_EXPORT_NAME after NBD_OPT_EXTENDED_HEADERS',
      fault: true,
    });
    expect(negotiated).toBeNull();
    expect(optionReplies(bytes)).toHaveLength(1);
  });

  it('refuses data, and nothing is agreed', () => {
    const outcome = talk({}, option(OPT.extendedHeaders, Buffer.from('x')), go());
    expect(optionReplies(outcome.bytes)[0]?.type).toBe(REP.invalid);
    expect(outcome.negotiated?.form).toBe('simple');
  });

  it('supports contexts without structured replies', () => {
    const { negotiated } = talk({}, EXTENDED, ALLOCATION, go());
    expect(negotiated?.contexts).toMatchObject([{ id: 1, context: { name: 'base:allocation' } }]);
  });
});

describe('transmission flags', () => {
  // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO; DF; BLOCK_STATUS_PAYLOAD.
  const forms: readonly (readonly [string, readonly Buffer[], number])[] = [
    ['nothing agreed', [], 0x0d6d],
    ['structured replies', [STRUCTURED], 0x0ded],
    ['structured replies and a context', [STRUCTURED, ALLOCATION], 0x0ded],
    ['extended headers', [EXTENDED], 0x0ded],
    ['extended headers and a context', [EXTENDED, ALLOCATION], 0x1ded],
    ['a context, then extended headers', [STRUCTURED, ALLOCATION, EXTENDED], 0x1ded],
  ];

  it.each(forms)('with %s: the same in INFO, GO and the transmission', (_, options, flags) => {
    const data = infoData('', [1, 2, 3]);
    const outcome = talk({}, ...options, option(OPT.info, data), option(OPT.go, data));
    expect(flagsTold(outcome, OPT.info)).toBe(flags);
    expect(flagsTold(outcome, OPT.go)).toBe(flags);
    expect(outcome.negotiated?.flags).toBe(flags);
    const answers = (kind: number): readonly (readonly [number, Buffer])[] =>
      optionReplies(outcome.bytes)
        .filter(({ option: about }) => about === kind)
        .map(({ type, payload }) => [type, payload]);
    expect(answers(OPT.info)).toEqual(answers(OPT.go));
  });

  it.each(forms)('with %s: the same on each connection', (_, options) => {
    const source = new TestExports();
    const first = talk({ source }, ...options, go('', [3]));
    const second = talk({ source }, ...options, go('', [3]));
    expect(second.bytes).toEqual(first.bytes);
    expect(second.negotiated).toEqual(first.negotiated);
  });

  it.each(forms)('with %s: READ_ONLY from the device, or from the policy', (_, options, flags) => {
    const byDevice = new TestExports();
    byDevice.device().readOnly = true;
    const byPolicy = new TestExports();
    byPolicy.readOnly.add('vol0');
    for (const source of [byDevice, byPolicy]) {
      expect(talk({ source }, ...options, go()).negotiated?.flags).toBe(flags | 2);
    }
  });

  it('do not promise filters for contexts of another export, nor where none was found', () => {
    const other = talk({}, EXTENDED, ALLOCATION, go('other'));
    expect(other.negotiated).toMatchObject({ flags: 0x0ded, contexts: [] });
    const none = option(OPT.setMetaContext, metaData('', ['base:nothing']));
    expect(talk({}, EXTENDED, none, go()).negotiated?.flags).toBe(0x0ded);
  });
});

describe('a client without fixed newstyle', () => {
  const flags = u32(0);

  it('may choose an export by EXPORT_NAME, and gets the zeroes', () => {
    const { bytes, negotiated } = talk({ flags }, option(OPT.exportName, Buffer.from('vol0')));
    expect(bytes.length).toBe(134);
    expect(bytes.subarray(10)).toEqual(Buffer.alloc(124));
    expect(negotiated).toMatchObject({ exportName: 'vol0', form: 'simple', flags: 0x0d6d });
  });

  it('may refuse the zeroes', () => {
    expect(talk({ flags: u32(2) }, option(OPT.exportName)).bytes.length).toBe(10);
  });

  it.each([OPT.abort, OPT.list, OPT.starttls, OPT.info, OPT.go, OPT.structuredReply, 99])(
    'is cut off for option %i, without a reply',
    (kind) => {
      const { bytes, closed } = talk({ flags }, option(kind, infoData('vol0')));
      expect(bytes.length).toBe(0);
      expect(closed?.fault).toBe(true);
      expect(closed?.reason).toMatch(/^NBD_OPT_\w+ without fixed newstyle$/);
    },
  );
});

describe('a server that stops', () => {
  const setting = { stopping: true };

  it('answers every option but ABORT with ERR_SHUTDOWN', () => {
    const kinds = [3, 4, 5, 6, 7, 8, 9, 10, 11, 99];
    const replies = ask(setting, ...kinds.map((kind) => option(kind)));
    expect(typesOf(replies)).toEqual(kinds.map((kind) => [kind, REP.shutdown]));
  });

  it('acknowledges ABORT, and lets EXPORT_NAME go without calling it a fault', () => {
    const aborted = talk(setting, option(OPT.abort));
    expect(optionReplies(aborted.bytes)[0]?.type).toBe(REP.ack);
    expect(aborted.closed?.fault).toBe(false);
    const named = talk(setting, option(OPT.exportName));
    expect(named.bytes.length).toBe(0);
    expect(named.closed).toEqual({ reason: 'server is stopping', fault: false });
  });
});
