/**
 * What cannot be used for TLS is refused when it is loaded, with the file and the fault in one line and no key in
 * it; what works but should not stay so is a warning. Method: files that openssl made, spoilt one by one.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { BlockferryError } from '../../src/io/errors.ts';
import { PSK_KEY_BYTES_MAX, PSK_USER_BYTES_MAX, TLS_FILE_BYTES_MAX } from '../../src/io/limits.ts';
import { parsePskFile } from '../../src/io/tls/psk-file.ts';
import { loadTlsServerContext, type TlsServerFiles } from '../../src/io/tls/tls.ts';
import { issue, makePskFile, type Certificates } from '../support/certificates.ts';
import { certificates, listenTls, peerOf, secureClient, serverFiles } from './tls-wire.ts';
import { temporaryDirectory } from './wire.ts';

const KEY = '00112233445566778899aabbccddeeff';

function fault(files: TlsServerFiles): string {
  try {
    loadTlsServerContext(files);
  } catch (error) {
    expect(error).toBeInstanceOf(BlockferryError);
    const { code, line } = error as BlockferryError;
    expect(code).toBe('TLS_INVALID');
    expect(line).not.toContain('\n');
    return line;
  }
  throw new Error('it was loaded');
}

function file(content: string | Buffer): string {
  const path = join(temporaryDirectory(), 'file.pem');
  writeFileSync(path, content, { mode: 0o600 });
  return path;
}

describe('loading', () => {
  it.each<[string, (made: Certificates) => TlsServerFiles, RegExp]>([
    ['nothing', () => ({}), /certificate or a file of pre-shared keys/],
    ['a certificate alone', ({ certificate }) => ({ certificate }), /has no key/],
    ['a key alone', ({ key }) => ({ key }), /has no certificate/],
    ['a CA alone', ({ ca }) => ({ clientCa: ca }), /of no use/],
    [
      'a CA beside keys alone',
      ({ ca }) => ({ clientCa: ca, pskFile: makePskFile(file(''), { a: KEY }) }),
      /of no use/,
    ],
    ['no such file', (made) => ({ ...serverFiles(made), key: '/nonexistent/key' }), /no such file/],
    ['a directory', (made) => ({ ...serverFiles(made), key: '/' }), /is a directory/],
    [
      'a swapped pair',
      ({ certificate, key }) => ({ certificate: key, key: certificate }),
      /no certificate/,
    ],
    [
      'the key of another',
      (made) => ({ ...serverFiles(made), key: made.clientKey }),
      /not the key of/,
    ],
    ['an empty key', (made) => ({ ...serverFiles(made), key: file('') }), /no private key in PEM/],
    ['a locked key', (made) => ({ ...serverFiles(made), key: locked(made) }), /has a passphrase/],
    [
      'garbage',
      (made) => ({ ...serverFiles(made), certificate: file('\0\u{ffff}') }),
      /no certificate in PEM/,
    ],
    [
      'a torn certificate',
      (made) => ({ ...serverFiles(made), certificate: torn(made) }),
      /cannot be read/,
    ],
    [
      'a CA of garbage',
      (made) => ({ ...serverFiles(made), clientCa: file('x') }),
      /no certificate in PEM/,
    ],
    [
      'a file that never ends',
      (made) => ({ ...serverFiles(made), certificate: file(Buffer.alloc(TLS_FILE_BYTES_MAX + 1)) }),
      /at most 1048576/,
    ],
    ['no keys', () => ({ pskFile: file('# nobody\n\n') }), /no line of user:hexkey/],
    [
      'a bad line of keys',
      () => ({ pskFile: file(`a:${KEY}\nb:xyz\n`) }),
      /line 2.*not hexadecimal/,
    ],
  ])('refuses %s', (_what, files, expected) => {
    const made = certificates();
    const line = fault(files(made));
    expect(line).toMatch(expected);
    expect(line).toContain('[TLS_INVALID]');
    expect(line).not.toContain(KEY);
  });

  it('warns of certificates out of their time, and of files that everybody can read', () => {
    const made = certificates();
    expect(loadTlsServerContext(serverFiles(made)).warnings).toEqual([]);
    const { directory } = made;
    const old = { from: '200101000000Z', until: '200102000000Z' };
    const early = { from: '400101000000Z', until: '400102000000Z' };
    const expired = issue(directory, 'old', { subject: '/CN=a', use: 'server', ...old });
    const future = issue(directory, 'early', { subject: '/CN=a', use: 'server', ...early });
    expect(loadTlsServerContext(expired).warnings).toEqual([
      `${expired.certificate}: a certificate in it expired on Jan  2 00:00:00 2020 GMT`,
    ]);
    expect(loadTlsServerContext(future).warnings).toEqual([
      `${future.certificate}: a certificate in it is valid from Jan  1 00:00:00 2040 GMT`,
    ]);
    const pskFile = makePskFile(join(directory, 'psk'), { a: KEY, b: '00'.repeat(15) });
    chmodSync(made.key, 0o644);
    chmodSync(pskFile, 0o644);
    expect(loadTlsServerContext({ ...serverFiles(made), pskFile }).warnings).toEqual([
      `${made.key}: every user can read the key`,
      `${pskFile}: every user can read the file of pre-shared keys`,
      `${pskFile}: line 2: the key of b has only 15 bytes`,
    ]);
  });

  it('takes a chain, and a CA file with several', async () => {
    const made = certificates();
    const other = certificates();
    appendFileSync(made.certificate, readFileSync(made.ca));
    const clientCa = file(`${readFileSync(other.ca, 'utf8')}\n${readFileSync(made.ca, 'utf8')}`);
    const { listener, ends } = await listenTls({ ...serverFiles(made), clientCa });
    for (const [index, from] of [made, other].entries()) {
      await secureClient(listener, {
        ca: readFileSync(made.ca),
        cert: readFileSync(from.clientCertificate),
        key: readFileSync(from.clientKey),
      });
      await peerOf(ends, index);
      expect(ends[index]!.peer?.kind).toBe('x509');
    }
  });

  it('takes keys of every usual kind', async () => {
    const made = certificates();
    const kinds = ['rsa:2048', 'ec -pkeyopt ec_paramgen_curve:P-384', 'ed25519'];
    for (const [index, kind] of kinds.entries()) {
      const [certificate, key] = [
        join(made.directory, `${index}.pem`),
        join(made.directory, `${index}.key`),
      ];
      const command = `req -x509 -config openssl.cnf -newkey ${kind} -nodes -subj /CN=localhost`;
      const files = [
        '-addext',
        'subjectAltName=DNS:localhost',
        '-keyout',
        key,
        '-out',
        certificate,
      ];
      execFileSync('openssl', [...command.split(' '), ...files], {
        cwd: made.directory,
        stdio: 'ignore',
      });
      const { listener, ends } = await listenTls({ certificate, key });
      await secureClient(listener, { ca: readFileSync(certificate) });
      await peerOf(ends);
    }
  });
});

describe('a file of pre-shared keys', () => {
  it('is read line by line, comments and carriage returns aside', () => {
    expect(
      keysOf(`# people: of the house\r\n\r\na:${KEY}\r\nwith:colon:${KEY}\n  \n b : ${KEY} \n`),
    ).toEqual([
      ['a', KEY],
      ['with:colon', KEY],
      [' b ', KEY],
    ]);
    expect(keysOf(`A:${KEY.toUpperCase()}`)).toEqual([['A', KEY]]);
    expect(keysOf(`#6dc3bc6c:${KEY}\n#not hex:${KEY}\n`)).toEqual([['mül', KEY]]);
    expect(
      keysOf(`${'u'.repeat(PSK_USER_BYTES_MAX)}:${'ab'.repeat(PSK_KEY_BYTES_MAX)}`),
    ).toHaveLength(1);
  });

  it.each([
    ['a', 'line 1: it is not of the form user:hexkey'],
    [`:${KEY}`, 'line 1: the user is empty'],
    ['a:', 'line 1: the key of a is not hexadecimal'],
    ['\na:123', 'line 2: the key of a is not hexadecimal'],
    ['a:0x11', 'line 1: the key of a is not hexadecimal'],
    [`a:${KEY}\na:${KEY}`, 'line 2: the user a has a key already'],
    [`a\tb:${KEY}`, 'line 1: the user has a control character'],
    [`${'u'.repeat(PSK_USER_BYTES_MAX + 1)}:${KEY}`, 'line 1: the user has more than 255 bytes'],
    [`a:${'ab'.repeat(PSK_KEY_BYTES_MAX + 1)}`, 'line 1: the key of a has over 256 bytes'],
  ])('of %j is refused', (text, why) => {
    expect(parsePskFile(text)).toBe(why);
  });
});

function locked({ directory, key }: Certificates): string {
  const path = join(directory, 'locked.pem');
  execFileSync('openssl', ['pkcs8', '-topk8', '-in', key, '-passout', 'pass:x', '-out', path]);
  return path;
}

function torn({ certificate }: Certificates): string {
  const lines = readFileSync(certificate, 'utf8').split('\n');
  return file([...lines.slice(0, 3), ...lines.slice(-2)].join('\n'));
}

function keysOf(text: string): [string, string][] {
  const outcome = parsePskFile(text);
  if (typeof outcome === 'string') throw new Error(outcome);
  return [...outcome.keys].map(([user, key]) => [user, key.toString('hex')]);
}
