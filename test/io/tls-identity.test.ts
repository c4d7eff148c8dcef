/**
 * A connection that became TLS knows who its client is: nobody, the subject of a certificate that verifies, or
 * the user of a pre-shared key. Whatever does not verify ends the connection with a reason. Method: Node's own
 * client over real sockets, with certificates that openssl made for each case.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type * as tls from 'node:tls';
import { describe, expect, it } from 'vitest';

import { issue, makeCa, makePskFile, type Certificates } from '../support/certificates.ts';
import {
  certificates,
  listenTls,
  peerOf,
  pskOptions,
  secureClient,
  serverFiles,
} from './tls-wire.ts';
import { temporaryDirectory, until } from './wire.ts';

const KEY = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff';
const OTHER_KEY = KEY.replaceAll('0', '1');
const versions = ['TLSv1.2', 'TLSv1.3'] as const;
const only = (version: (typeof versions)[number]): tls.ConnectionOptions => ({
  minVersion: version,
  maxVersion: version,
});

const pair = (
  made: Pick<Certificates, 'ca' | 'clientCertificate' | 'clientKey'>,
): tls.ConnectionOptions => ({
  ca: readFileSync(made.ca),
  cert: readFileSync(made.clientCertificate),
  key: readFileSync(made.clientKey),
});

describe.each(versions)('with %s', (version) => {
  it('a client that shows no certificate is anonymous, asked for one or not', async () => {
    const made = certificates();
    for (const files of [serverFiles(made), { ...serverFiles(made), clientCa: made.ca }]) {
      const { listener, ends } = await listenTls(files);
      const client = await secureClient(listener, { ca: readFileSync(made.ca), ...only(version) });
      expect(client.socket.authorized).toBe(true);
      await peerOf(ends);
      expect(ends[0]!.peer).toEqual({ kind: 'anonymous', identity: '' });
    }
  });

  it('a certificate is not asked for, and no identity, without a CA for clients', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    await secureClient(listener, { ...pair(made), ...only(version) });
    await peerOf(ends);
    expect(ends[0]!.peer).toEqual({ kind: 'anonymous', identity: '' });
  });

  it('the subject of a verified certificate is the identity', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls({ ...serverFiles(made), clientCa: made.ca });
    await secureClient(listener, { ...pair(made), ...only(version) });
    await peerOf(ends);
    expect(ends[0]!.peer).toEqual({ kind: 'x509', identity: 'CN=host1' });
  });

  it('the user of a key is the identity, with a certificate beside it or not', async () => {
    const made = certificates();
    const pskFile = makePskFile(join(temporaryDirectory(), 'psk'), {
      'host1.example': KEY,
      b: OTHER_KEY,
    });
    for (const files of [{ pskFile }, { ...serverFiles(made), clientCa: made.ca, pskFile }]) {
      const { listener, ends } = await listenTls(files);
      await secureClient(listener, pskOptions('host1.example', KEY, only(version)));
      await peerOf(ends);
      expect(ends[0]!.peer).toEqual({ kind: 'psk', identity: 'host1.example' });
    }
  });

  it('certificates go on to work where keys work too', async () => {
    const made = certificates();
    const pskFile = makePskFile(join(temporaryDirectory(), 'psk'), { a: KEY });
    const { listener, ends } = await listenTls({
      ...serverFiles(made),
      clientCa: made.ca,
      pskFile,
    });
    await secureClient(listener, { ...pair(made), ...only(version) });
    await peerOf(ends);
    expect(ends[0]!.peer).toEqual({ kind: 'x509', identity: 'CN=host1' });
  });

  it('an unknown user fails exactly like a wrong key', async () => {
    const pskFile = makePskFile(join(temporaryDirectory(), 'psk'), { a: KEY });
    const { listener, ends } = await listenTls({ pskFile });
    const codes = [];
    for (const [user, key] of [
      ['a', OTHER_KEY],
      ['nobody', KEY],
      ['A', KEY],
      ['a ', KEY],
    ] as const) {
      const client = await secureClient(listener, pskOptions(user, key, only(version)));
      await until(() => client.closed, 'the refusal');
      codes.push(client.error?.code);
    }
    expect(codes[0]).toMatch(/^ERR_SSL_/);
    expect(new Set(codes).size).toBe(1);
    await until(() => ends.every(({ heard }) => heard.events.includes('closed')), 'the closes');
    for (const { heard, peer } of ends) {
      expect(peer).toBeNull();
      expect(heard.events).toEqual(['closed']);
      expect(heard.error?.message).toBe(ends[0]!.heard.error?.message);
      expect(heard.error?.message).toMatch(/^TLS handshake failed: \w/);
    }
  });

  it.each([
    ['of another CA', () => strangerPair(), /unable to .*certificate|self.signed/],
    ['that has expired', (made: Certificates) => oldPair(made), /expired/],
    ['made for servers', (made: Certificates) => serverPair(made), /purpose/],
  ])('refuses a certificate %s, and says why', async (_what, make, why) => {
    const made = certificates();
    const { listener, ends } = await listenTls({ ...serverFiles(made), clientCa: made.ca });
    const client = await secureClient(listener, {
      ...pair({ ...made, ...make(made) }),
      ...only(version),
    });
    await until(() => client.closed, 'the refusal');
    await until(() => ends[0]!.heard.events.includes('closed'), 'the close');
    expect(ends[0]!.peer).toBeNull();
    expect(ends[0]!.heard.events).toEqual(['closed']);
    expect(ends[0]!.heard.error?.message).toMatch(
      /^TLS handshake failed: certificate of the client: /,
    );
    expect(ends[0]!.heard.error?.message).toMatch(why);
    expect(ends[0]!.heard.receivedBytes).toBe(0);
  });

  it('never resumes a session, and asks for the identity again', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls({ ...serverFiles(made), clientCa: made.ca });
    const first = await secureClient(listener, { ...pair(made), ...only(version) });
    const sessions: Buffer[] = [];
    first.socket.on('session', (session) => sessions.push(session));
    first.socket.write('x');
    await until(() => ends[0]?.heard.text === 'x', 'a byte');
    const session = sessions.at(-1) ?? first.socket.getSession();
    const second = await secureClient(listener, { ...pair(made), ...only(version), session });
    await peerOf(ends, 1);
    expect(second.socket.isSessionReused()).toBe(false);
    expect(ends[1]!.peer).toEqual({ kind: 'x509', identity: 'CN=host1' });
    const bare = await secureClient(listener, {
      ca: readFileSync(made.ca),
      ...only(version),
      session,
    });
    await peerOf(ends, 2);
    expect(bare.socket.isSessionReused()).toBe(false);
    expect(ends[2]!.peer).toEqual({ kind: 'anonymous', identity: '' });
  });

  it('lets a client with a session of before in, where keys work too', async () => {
    const made = certificates();
    const pskFile = makePskFile(join(temporaryDirectory(), 'psk'), { a: KEY });
    const { listener, ends } = await listenTls({
      ...serverFiles(made),
      clientCa: made.ca,
      pskFile,
    });
    const sessions: Buffer[] = [];
    for (const index of [0, 1]) {
      const session = sessions.at(-1);
      const client = await secureClient(listener, {
        ...pair(made),
        ...only(version),
        ...(session === undefined ? {} : { session }),
      });
      client.socket.on('session', (given) => sessions.push(given));
      client.socket.write('x');
      await until(() => ends[index]?.heard.text === 'x', 'a byte');
      expect(ends[index]!.peer).toEqual({ kind: 'x509', identity: 'CN=host1' });
      const kept = client.socket.getSession();
      if (version === 'TLSv1.2' && kept !== undefined) sessions.push(kept);
      else await until(() => sessions.length > 0, 'a session');
    }
  });

  it('prefers AES-128-GCM whatever the client prefers', async () => {
    const made = certificates();
    const { listener } = await listenTls(serverFiles(made));
    const client = await secureClient(listener, {
      ca: readFileSync(made.ca),
      ciphers:
        'TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:ECDHE+CHACHA20:ECDHE+AES256:ECDHE+AES128',
      ...only(version),
    });
    expect(client.socket.getCipher().standardName).toMatch(/AES_128_GCM_SHA256$/);
  });
});

describe('the identity', () => {
  it.each([
    ['/O=b/CN=a', 'CN=a,O=b'],
    ['/DC=org/DC=example/UID=jsmith', 'UID=jsmith,DC=example,DC=org'],
    ['/O=Müller, Söhne/CN=a', 'CN=a,O=Müller\\, Söhne'],
    ['/O=x+CN=a', /^(?:CN=a\+O=x|O=x\+CN=a)$/],
    ['/CN=a\\+b', 'CN=a\\+b'],
    ['/CN= #lead "and" <trail>; ', 'CN=\\ #lead \\"and\\" \\<trail\\>\\;\\ '],
    ['/CN=#x', 'CN=\\#x'],
    ['/CN=back\\\\slash', 'CN=back\\\\slash'],
    ['/CN=two\nlines', 'CN=two\\0Alines'],
    ['/', ''],
  ])('of the subject %j is %s', async (subject, expected) => {
    const made = certificates();
    const request = subject.includes('+CN') ? ['-multivalue-rdn'] : [];
    const issued = issue(made.directory, 'odd', { subject, use: 'client', request });
    const { listener, ends } = await listenTls({ ...serverFiles(made), clientCa: made.ca });
    await secureClient(
      listener,
      pair({ ...made, clientCertificate: issued.certificate, clientKey: issued.key }),
    );
    await peerOf(ends);
    if (typeof expected === 'string') expect(ends[0]!.peer?.identity).toBe(expected);
    else expect(ends[0]!.peer?.identity).toMatch(expected);
  });
});

describe('what is too old', () => {
  it.each(['TLSv1', 'TLSv1.1'] as const)('is refused: %s', async (version) => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const client = await secureClient(listener, {
      ca: readFileSync(made.ca),
      minVersion: 'TLSv1',
      maxVersion: version,
      ciphers: 'ALL:@SECLEVEL=0',
    });
    await until(() => client.closed, 'the refusal');
    await until(() => ends[0]!.heard.events.includes('closed'), 'the close');
    expect(ends[0]!.peer).toBeNull();
    expect(ends[0]!.heard.error?.message).toBe('TLS handshake failed: unsupported protocol');
  });

  it('is not let in by renegotiation either', async () => {
    const made = certificates();
    const { listener, ends } = await listenTls(serverFiles(made));
    const client = await secureClient(listener, { ca: readFileSync(made.ca), ...only('TLSv1.2') });
    const outcome = await new Promise<Error | null>((resolve) => {
      client.socket.renegotiate({}, resolve);
      client.socket.once('error', resolve);
    });
    expect(outcome).toBeInstanceOf(Error);
    expect(ends[0]!.heard.receivedBytes).toBe(0);
  });
});

type OtherPair = Pick<Certificates, 'clientCertificate' | 'clientKey'>;

function strangerPair(): OtherPair {
  const directory = temporaryDirectory();
  makeCa(directory, 'another CA');
  const { certificate, key } = issue(directory, 'x', { subject: '/CN=host1', use: 'client' });
  return { clientCertificate: certificate, clientKey: key };
}

function oldPair({ directory }: Certificates): OtherPair {
  const times = { from: '200101000000Z', until: '200102000000Z' };
  const { certificate, key } = issue(directory, 'old', {
    subject: '/CN=host1',
    use: 'client',
    ...times,
  });
  return { clientCertificate: certificate, clientKey: key };
}

function serverPair({ directory }: Certificates): OtherPair {
  const { certificate, key } = issue(directory, 'srv', { subject: '/CN=host1', use: 'server' });
  return { clientCertificate: certificate, clientKey: key };
}
