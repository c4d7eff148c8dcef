/**
 * Which clients a list of subjects lets in, and how address, TLS and subject are judged together. Method:
 * subjects as OpenSSL prints them (RFC 4514), and every combination of policy and client.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AddressList, judgeAccess, SubjectList } from '../../src/nbd/server/access.ts';
import type { TlsPeer } from '../../src/io/network.ts';

const x509 = (identity: string): TlsPeer => ({ kind: 'x509', identity });
const psk = (identity: string): TlsPeer => ({ kind: 'psk', identity });
const ANONYMOUS: TlsPeer = { kind: 'anonymous', identity: '' };

const has = (text: string, subject: string): boolean =>
  SubjectList.parse([text]).has(x509(subject));

/** Every byte in hexadecimal. */
const escape = (value: string): string =>
  [...Buffer.from(value)].map((byte) => `\\${byte.toString(16).padStart(2, '0')}`).join('');
/** Only what must be escaped, as OpenSSL does. */
const plain = (value: string): string =>
  value
    .replaceAll(/["+,;<>\\]/g, '\\$&')
    .replace(/(?<=.) $/, '\\ ')
    .replace(/^[ #]/, '\\$&');

describe('subjects', () => {
  it.each([
    // Whole subjects.
    ['CN=host1,O=Example', 'CN=host1,O=Example', true],
    ['cn=host1, o=Example', 'CN=host1,O=Example', true],
    ['CN = host1 , O = Example', 'CN=host1,O=Example', true],
    ['CN=host1,O=Example', 'O=Example,CN=host1', false],
    ['CN=host1,O=Example', 'CN=host1,O=Example,C=DE', false],
    ['CN=host1,O=Example', 'CN=host1', false],
    ['CN=host1,O=Example', 'CN=HOST1,O=Example', false],
    // One part.
    ['CN=host1', 'CN=host1,O=Example', true],
    ['O=Example', 'CN=host1,O=Example', true],
    ['CN=host1', 'CN=host1', true],
    ['CN=host1', 'CN=host10,O=Example', false],
    ['CN=host1', 'OU=host1,O=Example', false],
    ['CN=host', 'CN=host1', false],
    // Escapes.
    ['CN=host1', 'O=a\\,CN\\=host1', false],
    ['CN=host1', 'O=a\\,CN=host1', false],
    ['O=a\\,CN=host1', 'O=a\\2cCN=host1', true],
    ['CN=a\\,b', 'CN=a\\2Cb,O=x', true],
    ['CN=a\\+b', 'CN=a+b', false],
    ['CN=\\c3\\a4', 'CN=ä', true],
    ['CN=a\\\\', 'CN=a\\5c', true],
    ['CN=a\\\\,O=b', 'CN=a\\\\,O=b', true],
    ['CN=\\ a\\ ', 'CN=\\20a\\20', true],
    ['CN=a\\ ', 'CN=a', false],
    ['CN=\\#a', 'CN=\\23a', true],
    ['CN=a\u00a0', 'CN=a', false],
    // Parts of several attributes are one part, in any order.
    ['CN=a+OU=b', 'OU=b+CN=a,O=x', true],
    ['CN=a', 'OU=b+CN=a,O=x', false],
    // Empty values are values.
    ['CN=', 'CN=,O=x', true],
    ['CN=', 'CN=a', false],
    // Nothing that can be parsed.
    ['CN=host1', '', false],
    ['CN=host1', 'CN=host1,', false],
    ['CN=host1', 'CN=host1,nonsense', false],
  ])('%j has %j: %s', (text, subject, expected) => {
    expect(has(text, subject)).toBe(expected);
  });

  it('keeps certificates and pre-shared keys apart', () => {
    const list = SubjectList.parse(['CN=host1', 'psk:ann', 'psk:CN=eve']);
    expect(list.has(psk('ann'))).toBe(true);
    expect(list.has(psk('CN=eve'))).toBe(true);
    expect(list.has(psk('Ann'))).toBe(false);
    expect(list.has(psk('CN=host1'))).toBe(false);
    expect(list.has(psk('psk:ann'))).toBe(false);
    expect(list.has(psk(''))).toBe(false);
    expect(list.has(x509('psk:ann'))).toBe(false);
    expect(list.has(x509('CN=eve'))).toBe(false);
    expect(list.has(ANONYMOUS)).toBe(false);
    expect(list.has({ kind: 'anonymous', identity: 'CN=host1' })).toBe(false);
  });

  it('lets nobody in when it is empty', () => {
    const list = SubjectList.parse([]);
    for (const peer of [x509('CN=a'), x509(''), psk('a'), psk(''), ANONYMOUS]) {
      expect(list.has(peer)).toBe(false);
    }
  });

  it.each([
    '',
    'host1',
    '=host1',
    'CN',
    'CN=a,',
    ',CN=a',
    'CN=a,,O=b',
    'CN=a+',
    'CN="a, b"',
    'CN=a;O=b',
    'CN=a\\',
    'CN=a\\zz',
    'CN=#0401',
    'C N=a',
    'psk:',
    'PSK:ann',
  ])('refuses %j by name', (text) => {
    const attempt = (): unknown => SubjectList.parse(['CN=fine', text]);
    expect(attempt).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    expect(attempt).toThrow(JSON.stringify(text));
  });

  it('finds each part of a subject, and the whole, whatever the values hold', () => {
    const values = fc.array(
      fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0')),
      { minLength: 1, maxLength: 4 },
    );
    fc.assert(
      fc.property(values, fc.nat(3), (texts, index) => {
        const subject = texts.map((value, at) => `A${at}=${plain(value)}`).join(',');
        const whole = texts.map((value, at) => `a${at}= ${escape(value)} `).join(' , ');
        const at = index % texts.length;
        expect(has(whole, subject)).toBe(true);
        expect(has(`A${at}=${escape(texts[at]!)}`, subject)).toBe(true);
        expect(has(`A${at}=${escape(`${texts[at]!}x`)}`, subject)).toBe(false);
      }),
    );
  });
});

describe('the judgement', () => {
  const allow = AddressList.parse(['10.0.0.0/8']);
  const subjects = SubjectList.parse(['CN=host1', 'psk:ann']);
  const inside = '10.1.1.1';
  const outside = '11.1.1.1';

  it('lets everybody use an export without rules', () => {
    const open = { tls: 'any', allow: null, subjects: null } as const;
    for (const ip of [inside, outside, null]) {
      for (const tls of [null, ANONYMOUS, x509('CN=a')]) {
        expect(judgeAccess(open, { ip, tls })).toBe('granted');
      }
    }
  });

  it('asks for TLS where the export does, and where subjects are named', () => {
    const policies = [
      { tls: 'required', allow: null, subjects: null },
      { tls: 'any', allow: null, subjects },
      { tls: 'required', allow, subjects },
    ] as const;
    for (const policy of policies) {
      expect(judgeAccess(policy, { ip: inside, tls: null })).toBe('tls-required');
      expect(judgeAccess(policy, { ip: inside, tls: x509('CN=host1,O=x') })).toBe('granted');
      expect(judgeAccess(policy, { ip: inside, tls: psk('ann') })).toBe('granted');
    }
    expect(judgeAccess(policies[0], { ip: inside, tls: ANONYMOUS })).toBe('granted');
  });

  it('says to an address outside nothing of TLS', () => {
    const policy = { tls: 'required', allow, subjects } as const;
    for (const tls of [null, x509('CN=host1')]) {
      expect(judgeAccess(policy, { ip: outside, tls })).toEqual({
        denied: '11.1.1.1 is not among its addresses',
      });
    }
    expect(judgeAccess(policy, { ip: null, tls: null })).toEqual({
      denied: 'a unix socket is not among its addresses',
    });
  });

  it('denies whom the subjects do not name, and says who it was', () => {
    const policy = { tls: 'any', allow: null, subjects } as const;
    const denied = (tls: TlsPeer): unknown => judgeAccess(policy, { ip: null, tls });
    expect(denied(x509('CN=host2'))).toEqual({
      denied: 'subject "CN=host2" is not among its subjects',
    });
    expect(denied(psk('bob'))).toEqual({ denied: 'PSK user "bob" is not among its subjects' });
    expect(denied(ANONYMOUS)).toEqual({
      denied: 'a client that showed no certificate is not among its subjects',
    });
    const long = denied(x509(`CN=${'x'.repeat(5000)}`)) as { denied: string };
    expect(long.denied.length).toBeLessThan(400);
  });
});
