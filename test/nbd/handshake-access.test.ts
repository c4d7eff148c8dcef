/**
 * A client learns nothing of exports that it may not use: what is denied looks like what is not there, in
 * every option, and only the log knows better. Method: the same conversation about a denied name and
 * about one that is none, byte for byte; each also held byte by byte.
 */
import { describe, expect, it } from 'vitest';
import {
  ANONYMOUS,
  ask,
  FRIEND,
  talk,
  TestExports,
  type Outcome,
  type Step,
} from './support/handshake-talk.ts';
import { go, infoData, metaData, OPT, option, REP } from './support/wire.ts';

const STARTTLS = option(OPT.starttls);

/** Of one length, so that replies can be compared byte for byte. */
const DENIED = 'private';
const NOBODY = 'nobody1';

const questions = (name: string): readonly Buffer[] => [
  option(OPT.structuredReply),
  option(OPT.info, infoData(name, [1, 2, 3])),
  option(OPT.listMetaContext, metaData(name, [])),
  option(OPT.setMetaContext, metaData(name, ['base:allocation'])),
  go(name, [3]),
  option(OPT.exportName, Buffer.from(name)),
];

const denials = ({ effects }: Outcome): unknown[] =>
  effects.filter(({ kind }) => kind === 'denied');

describe('a denied export', () => {
  const ways: readonly (readonly [string, readonly Step[]])[] = [
    ['in clear', []],
    ['under TLS', [STARTTLS, ANONYMOUS]],
  ];

  it.each(ways)('looks like none, %s', (_, before) => {
    const denied = talk({}, ...before, ...questions(DENIED));
    const unknown = talk({}, ...before, ...questions(NOBODY));
    expect(denied.bytes.toString('latin1').replaceAll(DENIED, NOBODY)).toBe(
      unknown.bytes.toString('latin1'),
    );
    expect(denied.negotiated).toBeNull();
    expect(denied.closed?.fault).toBe(true);
  });

  it('is told to the log each time, with its reason', () => {
    const outcome = talk({}, ...questions(DENIED));
    const told = { kind: 'denied', exportName: '"private"', reason: 'not for everybody' };
    expect(denials(outcome)).toEqual([told, told, told, told]);
    expect(outcome.closed?.reason).toBe('no export "private" for this client: not for everybody');
    expect(denials(talk({}, ...questions(NOBODY)))).toEqual([]);
  });

  it('is there for whom it is for', () => {
    const outcome = talk({}, STARTTLS, FRIEND, ...questions(DENIED).slice(0, 5));
    expect(outcome.negotiated).toMatchObject({ exportName: DENIED, form: 'structured' });
    expect(denials(outcome)).toEqual([]);
  });
});

describe('LIST', () => {
  it('is refused by policy where listing is off; names still work', () => {
    const source = new TestExports();
    source.listable = false;
    const types = ask({ source }, option(OPT.list), go('other')).map(({ type }) => type);
    expect(types).toEqual([REP.policy, REP.info, REP.ack]);
  });
});

it('a long name is cut in the log', () => {
  const source = new TestExports();
  source.find = () => ({ kind: 'denied', reason: 'no' });
  const [denial] = denials(talk({ source }, option(OPT.info, infoData('x'.repeat(4096)))));
  expect(denial).toEqual({
    kind: 'denied',
    exportName: `"${'x'.repeat(256)}"...`,
    reason: 'no',
  });
});
