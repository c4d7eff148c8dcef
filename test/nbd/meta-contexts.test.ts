/**
 * LIST_META_CONTEXT and SET_META_CONTEXT: queries, selections and what makes them void (protocol sections
 * 1.10 and 3.1). Method: the machine alone with a device of several contexts, each conversation also byte
 * by byte.
 */
import { beforeEach, describe, expect, it } from 'vitest';
import { NBD_META_CONTEXTS_MAX, NBD_META_QUERIES_MAX } from '../../src/io/limits.ts';
import {
  ask,
  contextNamed,
  FRIEND,
  talk,
  TestExports,
  type Setting,
} from './support/handshake-talk.ts';
import {
  go,
  metaData,
  OPT,
  option,
  type OptionReply,
  optionReplies,
  REP,
  u32,
} from './support/wire.ts';

const STRUCTURED = option(OPT.structuredReply);
const BOTH = [
  ['LIST', OPT.listMetaContext],
  ['SET', OPT.setMetaContext],
] as const;

let source: TestExports;
let setting: Setting;

beforeEach(() => {
  source = new TestExports();
  source
    .device()
    .otherContexts.push(contextNamed('x-blockferry:dirty/1'), contextNamed('x-blockferry:dirty/2'));
  setting = { source };
});

const list = (queries: readonly string[], name = ''): Buffer =>
  option(OPT.listMetaContext, metaData(name, queries));
const set = (queries: readonly string[], name = ''): Buffer =>
  option(OPT.setMetaContext, metaData(name, queries));

/** The replies to an option behind STRUCTURED_REPLY. */
const answers = (asked: Buffer): readonly OptionReply[] => ask(setting, STRUCTURED, asked).slice(1);
const types = (replies: readonly OptionReply[]): readonly number[] =>
  replies.map(({ type }) => type);

/** `[id, name]` of each context that the replies name; they must end with ACK. */
const contextsIn = (replies: readonly OptionReply[]): readonly (readonly [number, string])[] => {
  expect(replies.at(-1)?.type).toBe(REP.ack);
  return replies.slice(0, -1).map(({ type, payload }) => {
    expect(type).toBe(REP.metaContext);
    return [payload.readUInt32BE(0), payload.toString('utf8', 4)];
  });
};

/** Names and ids that the transmission is given after these options. */
const selected = (...options: readonly Buffer[]): readonly (readonly [number, string])[] => {
  const { negotiated } = talk(setting, STRUCTURED, ...options);
  expect(negotiated).not.toBeNull();
  return negotiated!.contexts.map(({ id, context }) => [id, context.name]);
};

/** Names of the contexts that LIST finds; their ids are 0. */
const listed = (...queries: readonly string[]): readonly string[] =>
  contextsIn(answers(list(queries))).map(([id, name]) => {
    expect(id).toBe(0);
    return name;
  });

describe('LIST', () => {
  it('without queries names every context', () => {
    expect(listed()).toEqual(['base:allocation', 'x-blockferry:dirty/1', 'x-blockferry:dirty/2']);
  });

  it('knows wildcards for namespaces', () => {
    expect(listed('base:')).toEqual(['base:allocation']);
    expect(listed('x-blockferry:')).toEqual(['x-blockferry:dirty/1', 'x-blockferry:dirty/2']);
  });

  it('finds exact names, each once', () => {
    expect(listed('x-blockferry:dirty/2', 'base:allocation', 'base:', 'base:allocation')).toEqual([
      'base:allocation',
      'x-blockferry:dirty/2',
    ]);
  });

  it('ignores what there is not', () => {
    expect(listed('qemu:', 'nbd-server:x', 'base:other', ':', ':x', 'x-block:')).toEqual([]);
    expect(listed('BASE:ALLOCATION', 'base:alloc', 'x-blockferry:dirty')).toEqual([]);
  });

  it('selects nothing and leaves a selection alone', () => {
    expect(selected(list(['base:allocation']), go())).toEqual([]);
    expect(selected(set(['base:allocation']), list([]), go())).toEqual([[1, 'base:allocation']]);
  });

  it('lists as many contexts as there are', () => {
    for (let number = 0; number < 2 * NBD_META_CONTEXTS_MAX; number++) {
      source.device().otherContexts.push(contextNamed(`x-many:${number}`));
    }
    expect(listed('x-many:')).toHaveLength(2 * NBD_META_CONTEXTS_MAX);
  });
});

describe('SET', () => {
  it('gives each context an id of its own, and the transmission the same', () => {
    const all = ['x-blockferry:dirty/2', 'base:allocation', 'x-blockferry:dirty/1'];
    const told = contextsIn(answers(set(all)));
    expect(told.map(([, name]) => name).toSorted()).toEqual(all.toSorted());
    expect(new Set(told.map(([id]) => id)).size).toBe(3);
    expect(selected(set(all), go())).toEqual(told);
    expect(selected(set(all), option(OPT.exportName))).toEqual(told);
  });

  it('selects a context once, however often it is asked for', () => {
    expect(contextsIn(answers(set(['base:allocation', 'base:allocation'])))).toEqual([
      [1, 'base:allocation'],
    ]);
  });

  it('without queries selects none', () => {
    expect(types(answers(set([])))).toEqual([REP.ack]);
    expect(selected(set(['base:allocation']), set([]), go())).toEqual([]);
  });

  it.each(['base:', 'x-blockferry:', 'base:other', 'qemu:dirty-bitmap:x', ':'])(
    'ignores %s',
    (query) => {
      expect(types(answers(set([query])))).toEqual([REP.ack]);
      expect(contextsIn(answers(set([query, 'base:allocation'])))).toEqual([
        [1, 'base:allocation'],
      ]);
    },
  );

  it('replaces an earlier selection', () => {
    expect(selected(set(['base:allocation']), set(['x-blockferry:dirty/1']), go())).toEqual([
      [1, 'x-blockferry:dirty/1'],
    ]);
  });

  it('leaves none when more contexts are chosen than allowed', () => {
    const names = Array.from({ length: NBD_META_CONTEXTS_MAX + 1 }, (_, at) => `x-many:${at}`);
    source.device().otherContexts.push(...names.map((name) => contextNamed(name)));
    expect(types(answers(set(names)))).toEqual([REP.tooBig]);
    expect(selected(set(['base:allocation']), set(names), go())).toEqual([]);
    expect(selected(set(names.slice(1)), go())).toHaveLength(NBD_META_CONTEXTS_MAX);
  });

  const failing: readonly (readonly [string, () => Buffer, number])[] = [
    ['an unknown export', () => set(['base:allocation'], 'nobody'), REP.unknown],
    ['an export for others', () => set(['base:allocation'], 'private'), REP.unknown],
    ['an export for TLS', () => set(['base:allocation'], 'safe'), REP.unknown],
    ['a query without a namespace', () => set(['allocation']), REP.invalid],
    ['no data', () => option(OPT.setMetaContext), REP.invalid],
    [
      'too many queries',
      () => set(Array.from({ length: NBD_META_QUERIES_MAX + 1 }, () => 'base:')),
      REP.tooBig,
    ],
  ];
  it.each(failing)('that fails for %s leaves no earlier selection', (_, failed, type) => {
    expect(types(answers(failed()))).toEqual([type]);
    expect(selected(set(['base:allocation']), failed(), go())).toEqual([]);
  });
});

describe('a selection', () => {
  it('is for the export that it named', () => {
    expect(selected(set(['base:allocation'], 'vol0'), go('vol0'))).toHaveLength(1);
    expect(selected(set(['base:allocation'], 'vol0'), go('other'))).toEqual([]);
    expect(selected(set(['base:allocation'], 'other'), go('vol0'))).toEqual([]);
  });

  it('is for the name as it was given', () => {
    expect(selected(set(['base:allocation']), go(''))).toHaveLength(1);
    expect(selected(set(['base:allocation']), go('vol0'))).toEqual([]);
    expect(selected(set(['base:allocation'], 'vol0'), go(''))).toEqual([]);
  });

  it('is not for another device that has got the name', () => {
    const other = source.device('other');
    const find = source.find.bind(source);
    let asked = 0;
    // Found once for SET; from then on the name means another device. Two conversations are held.
    source.find = (name, client) => {
      const access = find(name, client);
      if (asked++ % 2 === 0 || access.kind !== 'granted') return access;
      return { kind: 'granted', export: { ...access.export, device: other } };
    };
    const { negotiated } = talk(setting, STRUCTURED, set(['base:allocation']), go());
    expect(negotiated?.device).toBe(other);
    expect(negotiated?.contexts).toEqual([]);
  });

  it('keeps the context even if the device lists it no longer', () => {
    const context = source.device().otherContexts[0]!;
    const { negotiated } = talk(setting, STRUCTURED, set([context.name]), go());
    source.device().otherContexts.length = 0;
    expect(negotiated?.contexts[0]?.context).toBe(context);
  });

  it('survives questions about other exports', () => {
    const info = option(OPT.info, go('other').subarray(16));
    expect(selected(set(['base:allocation']), info, list([], 'other'), go())).toHaveLength(1);
  });
});

describe.each(BOTH)('%s', (name, kind) => {
  it('needs structured replies, or extended headers', () => {
    const data = metaData('', ['base:allocation']);
    const [reply] = ask(setting, option(kind, data));
    expect(reply?.type).toBe(REP.invalid);
    expect(reply?.payload.toString()).toBe(`NBD_OPT_${name}_META_CONTEXT needs structured replies`);
    for (const form of [OPT.structuredReply, OPT.extendedHeaders]) {
      const replies = ask(setting, option(form), option(kind, data));
      expect(types(replies)).toEqual([REP.ack, REP.metaContext, REP.ack]);
    }
  });

  const malformed: readonly (readonly [string, Buffer])[] = [
    ['no data', Buffer.alloc(0)],
    ['seven bytes', Buffer.alloc(7)],
    ['a name length of 0xffffffff', Buffer.concat([u32(0xffffffff), u32(0)])],
    ['a name one byte too long', Buffer.concat([u32(1), u32(0)])],
    ['a name over the count', Buffer.concat([u32(4), u32(0)])],
    ['a count without its queries', Buffer.concat([u32(0), u32(1)])],
    ['a count of 0xffffffff', Buffer.concat([u32(0), u32(0xffffffff), u32(0)])],
    ['a query length of 0xffffffff', Buffer.concat([u32(0), u32(1), u32(0xffffffff)])],
    ['a query one byte too long', Buffer.concat([u32(0), u32(1), u32(2), Buffer.from(':')])],
    ['a second query that is cut', Buffer.concat([u32(0), u32(2), u32(1), Buffer.from(':aa')])],
    ['a byte left over', Buffer.concat([metaData('', ['base:allocation']), Buffer.alloc(1)])],
    ['a query left over', Buffer.concat([metaData('', ['base:']), u32(1), Buffer.from(':')])],
    ['bytes behind no queries', Buffer.concat([metaData('', []), u32(0)])],
    ['a name of 4097 bytes', metaData('x'.repeat(4097), [])],
    ['a name with NUL', metaData('vol0\0', [])],
    ['a name that is not UTF-8', metaData(Buffer.from([0xff]), [])],
    ['a query of 4097 bytes', metaData('', [`base:${'x'.repeat(4092)}`])],
    ['a query with NUL', metaData('', ['base:\0'])],
    ['a query that is not UTF-8', metaData('', [Buffer.from([0x3a, 0xc3])])],
    ['an empty query', metaData('', [''])],
    ['a query without a colon', metaData('', ['base:allocation', 'base'])],
  ];
  it.each(malformed)('refuses %s, and goes on', (_, data) => {
    const replies = ask(setting, STRUCTURED, option(kind, data), option(OPT.list));
    expect(types(replies)).toEqual([REP.ack, REP.invalid, REP.server, REP.server, REP.ack]);
  });

  it('takes a query of 4096 bytes, and as many as the limit', () => {
    const queries = Array.from({ length: NBD_META_QUERIES_MAX - 1 }, () => 'base:allocation');
    const long = `base:${'x'.repeat(4091)}`;
    const replies = answers(option(kind, metaData('', [...queries, long])));
    expect(types(replies)).toEqual([REP.metaContext, REP.ack]);
  });

  it('refuses one query more', () => {
    const queries = Array.from({ length: NBD_META_QUERIES_MAX + 1 }, () => 'base:allocation');
    expect(types(answers(option(kind, metaData('', queries))))).toEqual([REP.tooBig]);
  });

  it.each(['nobody', 'private', 'safe'])('answers for %s as for a name that is none', (export_) => {
    const data = metaData(export_, ['base:allocation']);
    const outcome = talk(setting, STRUCTURED, option(kind, data));
    const reply = optionReplies(outcome.bytes)[1];
    expect(reply?.type).toBe(REP.unknown);
    expect(reply?.payload.toString()).toBe(`no export "${export_}"`);
    const denials = outcome.effects.filter((effect) => effect.kind === 'denied');
    expect(denials).toHaveLength(export_ === 'private' ? 1 : 0);
  });

  it.each(['private', 'safe'])('answers for %s to whom it is for', (export_) => {
    const replies = ask(
      setting,
      option(OPT.starttls),
      FRIEND,
      STRUCTURED,
      option(kind, metaData(export_, ['base:allocation'])),
    );
    expect(types(replies)).toEqual([REP.ack, REP.ack, REP.metaContext, REP.ack]);
  });
});

it('an ACK and nothing else is what SET of nothing known brings, on a TLS connection too', () => {
  const outcome = talk(
    setting,
    option(OPT.starttls),
    FRIEND,
    STRUCTURED,
    set(['qemu:allocation-depth'], 'safe'),
    go('safe'),
  );
  expect(outcome.negotiated).toMatchObject({ exportName: 'safe', contexts: [] });
});
