/**
 * Which NBD URIs are accepted, what they mean, and how the others are refused.
 *
 * Method: a table of spellings written by hand from the specification, a table of wrong ones with
 * the reason that must be given, and properties over random names, paths and plain garbage: the
 * canonical text parses back to the same value, and nothing but URI_INVALID is ever thrown.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BlockferryError } from '../../src/io/errors.ts';
import { parseNbdUri } from '../../src/nbd/uri/uri.ts';

const tcp = (host: string, port: number): object => ({ kind: 'tcp', host, port });
const unix = (path: string): object => ({ kind: 'unix', path });

const accepted: readonly [text: string, canonical: string, address: object, name: string][] = [
  ['nbd://host/demo', 'nbd://host:10809/demo', tcp('host', 10809), 'demo'],
  ['nbd://host', 'nbd://host:10809/', tcp('host', 10809), ''],
  ['nbd://host/', 'nbd://host:10809/', tcp('host', 10809), ''],
  ['nbd://host:/demo', 'nbd://host:10809/demo', tcp('host', 10809), 'demo'],
  ['NBD://Host.Example:1/demo', 'nbd://host.example:1/demo', tcp('host.example', 1), 'demo'],
  ['nbd://127.0.0.1:65535/a/b', 'nbd://127.0.0.1:65535/a/b', tcp('127.0.0.1', 65535), 'a/b'],
  ['nbd://h//x', 'nbd://h:10809//x', tcp('h', 10809), '/x'],
  ['nbd://h/../x', 'nbd://h:10809/../x', tcp('h', 10809), '../x'],
  ['nbd://h/a%2fb%20c%3f', 'nbd://h:10809/a/b%20c%3F', tcp('h', 10809), 'a/b c?'],
  ['nbd://h/v@snap:1', 'nbd://h:10809/v@snap:1', tcp('h', 10809), 'v@snap:1'],
  ['nbd://h/a+b', 'nbd://h:10809/a%2Bb', tcp('h', 10809), 'a+b'],
  ['nbd://h/größe', 'nbd://h:10809/gr%C3%B6%C3%9Fe', tcp('h', 10809), 'größe'],
  ['nbd://h/d?x-trace=1', 'nbd://h:10809/d', tcp('h', 10809), 'd'],
  ['nbd://[::1]/d', 'nbd://[::1]:10809/d', tcp('::1', 10809), 'd'],
  ['nbd://[0:0::0:1]:7/d', 'nbd://[::1]:7/d', tcp('::1', 7), 'd'],
  ['nbd+unix:///d?socket=/tmp/s', 'nbd+unix:///d?socket=/tmp/s', unix('/tmp/s'), 'd'],
  ['nbd+unix://?socket=s%20t', 'nbd+unix:///?socket=s%20t', unix('s t'), ''],
  ['nbd+unix:///?x-a&socket=./s', 'nbd+unix:///?socket=./s', unix('./s'), ''],
];

const secure: readonly [text: string, canonical: string, tls: object][] = [
  ['nbds://h/d', 'nbds://h:10809/d', {}],
  ['NBDS://H/d?tls-verify-peer=1', 'nbds://h:10809/d', {}],
  ['nbds://h/d?tls-hostname=H', 'nbds://h:10809/d', {}],
  [
    'nbds://h/d?tls-hostname=Store.Example',
    'nbds://h:10809/d?tls-hostname=store.example',
    { serverName: 'store.example' },
  ],
  ['nbds://h/d?tls-hostname=::1', 'nbds://h:10809/d?tls-hostname=::1', { serverName: '::1' }],
  ['nbds://[::1]/d', 'nbds://[::1]:10809/d', { serverName: '::1' }],
  [
    'nbds://h/d?tls-certificates=/etc/a%20b',
    'nbds://h:10809/d?tls-certificates=/etc/a%20b',
    { certificates: '/etc/a b' },
  ],
  [
    'nbds://ann@h:7/d?tls-psk-file=/k&tls-certificates=/c',
    'nbds://ann@h:7/d?tls-certificates=/c&tls-psk-file=/k',
    { certificates: '/c', pskFile: '/k', user: 'ann' },
  ],
  ['nbds://a%40%3Ab@h/d', 'nbds://a%40%3Ab@h:10809/d', { user: 'a@:b' }],
  ['nbds+unix:///d?socket=/s', 'nbds+unix:///d?socket=/s', { serverName: 'localhost' }],
  [
    'nbds+unix://ann@/d?tls-psk-file=/k&socket=/s&tls-hostname=h',
    'nbds+unix://ann@/d?socket=/s&tls-hostname=h&tls-psk-file=/k',
    { pskFile: '/k', user: 'ann' },
  ],
];

const refused: readonly [text: string, reason: RegExp][] = [
  ['', /does not begin with nbd:/],
  ['demo', /does not begin with/],
  ['unix:/tmp/s:demo', /does not begin with/],
  ['nbd:host:10809', /does not begin with/],
  ['http://host/demo', /scheme "http" is neither/],
  ['nbd://host/d?tls-type=x509', /"tls-type" needs nbds/],
  ['nbd://host/d?tls-certificates=/c', /"tls-certificates" needs nbds/],
  ['nbd+unix:///d?socket=/s&tls-psk-file=/k', /"tls-psk-file" needs nbds/],
  ['nbd://user@host/d', /user name needs nbds/],
  ['nbd+unix://user@/d?socket=/s', /user name needs nbds/],
  ['nbds://host/d?tls-type=anon', /tls-type is not needed/],
  ['nbds://host/d?tls-verify-peer=0', /always verified/],
  ['nbds://host/d?tls-verify-peer=', /always verified/],
  ['nbds://host/d?tls-certificates=pki', /must be an absolute path/],
  ['nbds://host/d?tls-psk-file=', /must be an absolute path/],
  ['nbds://host/d?tls-psk-file=/a%0a', /control character/],
  [`nbds://host/d?tls-psk-file=/${'a'.repeat(4096)}`, /longer than 4096 bytes/],
  ['nbds://host/d?tls-psk-file=/a&tls-psk-file=/a', /given twice/],
  ['nbds://host/d?tls-hostname=', /not a host name/],
  ['nbds://host/d?tls-hostname=a/b', /not a host name/],
  ['nbds://host/d?tls-hostname=[::1]', /not a host name/],
  ['nbds://@host/d', /user name is empty/],
  ['nbds://a:secret@host/d', /password has no use/],
  ['nbds://a%0ab@host/d', /user name has a control character/],
  [`nbds://${'a'.repeat(256)}@host/d`, /longer than 255 bytes/],
  ['nbds://a@b@host/d', /not a host name/],
  ['nbds+unix://host/demo?socket=/s', /takes no host/],
  ['nbds://host/demo?socket=/s', /needs nbds\+unix/],
  ['nbd:///demo', /names no host/],
  ['nbd://:10809/demo', /names no host/],
  ['nbd://host:0/demo', /"0" is not a port/],
  ['nbd://host:65536/demo', /not a port/],
  ['nbd://host:x/demo', /not a port/],
  ['nbd://host:-1/demo', /not a port/],
  ['nbd://host:1:2/demo', /not a port/],
  ['nbd://ho%73t/demo', /not a host name/],
  ['nbd://-host/demo', /not a host name/],
  ['nbd://[::1/demo', /not an IPv6/],
  ['nbd://[::g]/demo', /not an IPv6/],
  ['nbd://[::1]x/demo', /not an IPv6/],
  ['nbd://[127.0.0.1]/demo', /not an IPv6/],
  ['nbd://::1/demo', /names no host|not a port/],
  ['nbd://host/demo?socket=/tmp/s', /needs nbd\+unix/],
  ['nbd://host/demo?sokcet=1', /parameter "sokcet" is unknown/],
  ['nbd://host/demo#x', /fragment/],
  ['nbd://host/a b', /character 13 must be percent-encoded/],
  ['nbd://host/a\n', /character 13 must be percent-encoded/],
  ['nbd://host/%zz', /wrong percent-encoding/],
  ['nbd://host/%', /wrong percent-encoding/],
  ['nbd://host/%ff', /not UTF-8/],
  ['nbd://host/a%00b', /NUL byte/],
  ['nbd://host/\ud800', /not valid Unicode/],
  [`nbd://host/${'a'.repeat(4097)}`, /longer than 4096 bytes/],
  [`nbd://host/${'%41'.repeat(20000)}`, /too long/],
  ['nbd+unix:///demo', /names no socket/],
  ['nbd+unix:///demo?socket=', /names no socket/],
  ['nbd+unix:///demo?socket', /names no socket/],
  ['nbd+unix:///demo?socket=a&socket=b', /given twice/],
  ['nbd+unix://host/demo?socket=/s', /takes no host/],
  ['nbd+unix:///demo?socket=%00abstract', /abstract sockets/],
  ['nbd+unix:///demo?socket=/a%00b', /socket path has a control character/],
  ['nbd+unix:///demo?socket=/a%0Ab', /socket path has a control character/],
  ['nbd://127.1/demo', /not a host name/],
  ['nbd://0x7f000001/demo', /not a host name/],
  [`nbd+unix:///demo?socket=/${'a'.repeat(107)}`, /longer than 107 bytes/],
];

const errorOf = (text: string): BlockferryError | null => {
  try {
    parseNbdUri(text);
    return null;
  } catch (error) {
    if (!(error instanceof BlockferryError)) throw error;
    return error;
  }
};

describe('NBD URI', () => {
  it.each(accepted)('%s is understood', (text, canonical, address, exportName) => {
    const uri = { text: canonical, address, exportName, tls: null };
    expect(parseNbdUri(text)).toEqual(uri);
    expect(parseNbdUri(canonical)).toEqual(uri);
  });

  it.each(secure)('%s is understood, with TLS', (text, canonical, tls) => {
    const parsed = parseNbdUri(text);
    expect(parsed).toMatchObject({ text: canonical, exportName: 'd' });
    expect(parsed.tls).toEqual({
      certificates: null,
      pskFile: null,
      user: null,
      serverName: 'h',
      ...tls,
    });
    expect(parseNbdUri(canonical)).toEqual(parsed);
  });

  it.each(refused)('%s is refused with its reason', (text, reason) => {
    const error = errorOf(text);
    expect(error?.code).toBe('URI_INVALID');
    expect(error?.message).toMatch(reason);
    expect(error?.message).not.toMatch(/\p{Cc}/u);
    expect(error?.message.length).toBeLessThan(250);
  });

  it('keeps every export name and socket path through its canonical text', () => {
    const text = fc
      .string({ unit: 'binary', maxLength: 100 })
      .filter((name) => !name.includes('\0'));
    const path = text.filter((path) => /^\P{Cc}+$/u.test(path) && Buffer.byteLength(path) <= 107);
    fc.assert(
      fc.property(text, path, (name, path) => {
        const uri = `nbd+unix:///${encodeURIComponent(name)}?socket=${encodeURIComponent(path)}`;
        const parsed = parseNbdUri(uri);
        expect(parsed.exportName).toBe(name);
        expect(parsed.address).toEqual(unix(path));
        expect(parseNbdUri(parsed.text)).toEqual(parsed);
        expect(parsed.text).toMatch(/^[!-~]+$/);
      }),
    );
  });

  it('answers any text with a stable value or URI_INVALID', () => {
    const piece = fc.oneof(
      fc.constantFrom(
        'nbd',
        '+unix',
        '://',
        '/',
        '?',
        '&',
        'socket=',
        'tls-psk-file=',
        'tls-hostname=',
        '%',
        '%41',
        '[',
        ']',
        ':',
        '@',
      ),
      fc.string({ unit: 'binary', maxLength: 6 }),
      fc.ipV6(),
    );
    const garbage = fc.array(piece, { maxLength: 12 }).map((pieces) => pieces.join(''));
    const nearly = fc
      .tuple(fc.constantFrom('nbd://h', 'nbds://h', 'nbds://'), garbage)
      .map((parts) => parts.join(''));
    fc.assert(
      fc.property(fc.oneof(garbage, nearly), (text) => {
        if (errorOf(text) !== null) return;
        const parsed = parseNbdUri(text);
        expect(parseNbdUri(parsed.text)).toEqual(parsed);
      }),
      { numRuns: 2000 },
    );
  });
});
