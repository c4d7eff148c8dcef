/**
 * A client that is to use TLS does, or leaves: certificates, pre-shared keys, the name of the server, and everything that does
 * not fit. Judges: nbdkit and qemu-nbd (GnuTLS), our own server (OpenSSL), and servers that break the rules around STARTTLS,
 * where what came in clear is looked at byte by byte.
 */
import { copyFileSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import tls from 'node:tls';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import type { TlsClientContext } from '../../src/io/network.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { loadTlsServerContext, type TlsServerFiles } from '../../src/io/tls/tls.ts';
import { loadTlsClientContext, tlsClientDirectory } from '../../src/io/tls/tls-client.ts';
import { NbdClient } from '../../src/nbd/client/client.ts';
import { NbdServer, type ServerTls } from '../../src/nbd/server/server.ts';
import { parseNbdUri, type NbdUri } from '../../src/nbd/uri/uri.ts';
import { MemoryDevice, sourceOf } from '../nbd/support/memory-device.ts';
import {
  issue,
  makeCertificates,
  makePskFile,
  type Certificates,
} from '../support/certificates.ts';
import { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { pattern, read, rejection, write } from './support/calls.ts';
import {
  ACK,
  FLAGS,
  GREETING,
  fakeServer,
  infoExport,
  open,
  optionReply,
} from './support/fake-server.ts';
import { nbdkit, qemuNbd, type RealServer } from './support/real-servers.ts';

const MIB = 1024 * 1024;
const KEYS = { ann: 'aa'.repeat(32), bob: 'bb'.repeat(32) };
const STARTTLS = 5;

const lasting = new Scope();
let made: Certificates;
/** Another CA altogether. */
let others: Certificates;
let keys: string;
let annsKey: string;

beforeAll(() => {
  made = makeCertificates(lasting.tempDir('bf-pki-'));
  others = makeCertificates(lasting.tempDir('bf-pki-'));
  const directory = lasting.tempDir('bf-psk-');
  keys = makePskFile(join(directory, 'keys.psk'), KEYS);
  annsKey = makePskFile(join(directory, 'ann.psk'), { ann: KEYS.ann });
  return () => lasting.close();
});

const serverOf = ({ certificate, key }: Certificates): TlsServerFiles => ({ certificate, key });

/** Our own server with one export, '' and what it logged. */
async function ownServer(
  scope: Scope,
  files: TlsServerFiles,
  mode: Exclude<ServerTls['mode'], 'off'> = 'required',
): Promise<{ port: number; log: object[]; server: NbdServer }> {
  const log: object[] = [];
  const server = new NbdServer({
    network: nodeNetwork,
    clock: systemClock,
    exports: sourceOf('disk', new MemoryDevice(4 * MIB)),
    log: { info: (fields) => log.push(fields), warn: (fields) => log.push(fields) },
    tls: { mode, context: loadTlsServerContext(files) },
  });
  const address = await server.listen({ kind: 'tcp', host: '127.0.0.1', port: 0 });
  scope.defer('stop the server', () => server.close());
  if (address.kind !== 'tcp') throw new Error('over TCP');
  return { port: address.port, log, server };
}

const uriOf = (port: number, parameters: string, place = '127.0.0.1'): NbdUri =>
  parseNbdUri(`nbds://${place}:${port}/disk${parameters === '' ? '' : `?${parameters}`}`);

const x509 = ({ directory }: Certificates): string => `tls-certificates=${directory}`;

/** The export is there, and large data goes both ways. */
async function works(client: NbdClient): Promise<void> {
  const bytes = pattern(MIB, 7);
  expect(await write(client, bytes, 4096)).toBe(0);
  const back = Buffer.alloc(bytes.length);
  expect(await read(client, back, 4096)).toBe(0);
  expect(back.equals(bytes)).toBe(true);
}

const refused = (uri: NbdUri, options: { tls?: TlsClientContext } = {}) =>
  rejection(
    NbdClient.connect(uri, {
      network: nodeNetwork,
      clock: systemClock,
      connectMs: 4000,
      ...options,
    }),
  );

describe('Our own server', () => {
  it.each(['TLSv1.2', 'TLSv1.3'] as const)(
    'is used with certificates, over %s',
    async (version) => {
      const scope = testScope();
      restrict(version);
      const { port, log } = await ownServer(scope, { ...serverOf(made), clientCa: made.ca });
      await works(await open(scope, uriOf(port, x509(made))));
      await waitUntil('the log', () => log.length > 0);
      expect(log[0]).toMatchObject({ tls: 'x509:CN=host1' });
    },
  );

  it.each(['TLSv1.2', 'TLSv1.3'] as const)('is used with a key, over %s', async (version) => {
    const scope = testScope();
    restrict(version);
    const { port, log } = await ownServer(scope, { pskFile: keys });
    const uri = parseNbdUri(`nbds://bob@127.0.0.1:${port}/disk?tls-psk-file=${keys}`);
    await works(await open(scope, uri));
    expect(log[0]).toMatchObject({ tls: 'psk:bob' });
    // A file with one key needs no user.
    await works(await open(scope, uriOf(port, `tls-psk-file=${annsKey}`)));
  });

  it('that has both gets what the client has', async () => {
    const scope = testScope();
    const files = { ...serverOf(made), clientCa: made.ca, pskFile: keys };
    const { port, log } = await ownServer(scope, files);
    await works(await open(scope, uriOf(port, x509(made))));
    await works(await open(scope, uriOf(port, `tls-psk-file=${annsKey}`)));
    expect(log).toMatchObject([{ tls: 'x509:CN=host1' }, { tls: 'psk:ann' }]);
  });

  it('is used by its name, by an address, and by a name that the URI gives', async () => {
    const scope = testScope();
    const { port } = await ownServer(scope, serverOf(made));
    const anonymous = `tls-certificates=${made.anonymous}`;
    await works(await open(scope, uriOf(port, anonymous, 'localhost')));
    await works(await open(scope, uriOf(port, anonymous, '127.0.0.1')));
    await works(await open(scope, uriOf(port, `${anonymous}&tls-hostname=localhost`)));
    await works(await open(scope, uriOf(port, `${anonymous}&tls-hostname=::1`)));
    const error = await refused(uriOf(port, `${anonymous}&tls-hostname=store.example`));
    expect(error.code).toBe('MIRROR_TLS');
    expect(error.message).toMatch(/store\.example/);
  });

  it('is used with the context of the node where the URI has no files', async () => {
    const scope = testScope();
    const { port, log } = await ownServer(scope, { ...serverOf(made), clientCa: made.ca });
    const context = loadTlsClientContext(tlsClientDirectory(made.directory));
    await works(await open(scope, uriOf(port, ''), { tls: context }));
    expect(log[0]).toMatchObject({ tls: 'x509:CN=host1' });
    const shown = tlsClientDirectory(made.anonymous);
    expect(Object.keys(shown).filter((name) => shown[name as keyof typeof shown])).toEqual(['ca']);
    // Files of the URI stand in for all of it.
    const error = await refused(uriOf(port, x509(others)), { tls: context });
    expect(error.code).toBe('MIRROR_TLS');
  });

  it('over a unix socket is localhost', async () => {
    const scope = testScope();
    const { server } = await ownServer(scope, serverOf(made));
    const path = join(scope.tempDir('bf-tls-'), 's');
    await server.listen({ kind: 'unix', path });
    const uri = `nbds+unix:///disk?socket=${path}&tls-certificates=${made.anonymous}`;
    await works(await open(scope, parseNbdUri(uri)));
    const error = await refused(parseNbdUri(`${uri}&tls-hostname=store.example`));
    expect(error.code).toBe('MIRROR_TLS');
  });

  it.each([
    ['whose certificate nobody vouches for', () => serverOf(others), () => x509(made)],
    ['whose authority is not known at all', () => serverOf(made), () => ''],
    [
      'that has a certificate where a key is wanted',
      () => serverOf(made),
      () => `tls-psk-file=${annsKey}`,
    ],
    [
      'that has another key',
      () => ({ pskFile: other({ ann: 'cc'.repeat(32) }) }),
      () => `tls-psk-file=${annsKey}`,
    ],
    [
      'that does not know the user',
      () => ({ pskFile: other({ carl: KEYS.ann }) }),
      () => `tls-psk-file=${annsKey}`,
    ],
    [
      'that has keys alone where it is to show a certificate',
      () => ({ pskFile: keys }),
      () => x509(made),
    ],
    [
      'that does not trust the client',
      () => ({ ...serverOf(made), clientCa: others.ca }),
      () => x509(made),
    ],
  ])('%s is left', async (_what, files, parameters) => {
    const scope = testScope();
    const { port, server } = await ownServer(scope, files());
    const error = await refused(uriOf(port, parameters()));
    expect(error.code).toBe('MIRROR_TLS');
    expect(error.message).toMatch(/^nbds:.*TLS/);
    await waitUntil('no connection', () => server.connections === 0);
  });

  it('whose certificate has expired is left', async () => {
    const scope = testScope();
    const expired = issue(made.directory, 'expired', {
      subject: '/CN=localhost',
      use: 'server',
      from: '200101000000Z',
      until: '200201000000Z',
    });
    const { port } = await ownServer(scope, expired);
    expect((await refused(uriOf(port, x509(made)))).message).toMatch(/expired/);
  });

  it('whose certificate is one for clients is left', async () => {
    const scope = testScope();
    const { port } = await ownServer(scope, {
      certificate: made.clientCertificate,
      key: made.clientKey,
    });
    expect((await refused(uriOf(port, x509(made)))).code).toBe('MIRROR_TLS');
  });

  it('that requires TLS tells a client in clear what to do', async () => {
    const scope = testScope();
    const { port } = await ownServer(scope, serverOf(made));
    const error = await refused(parseNbdUri(`nbd://127.0.0.1:${port}/disk`));
    expect(error.code).toBe('MIRROR_REFUSED');
    expect(error.message).toMatch(/requires TLS: use nbds:/);
  });

  it('whose certificate is renewed is used by the next connection, with the files as they are then', async () => {
    const scope = testScope();
    const directory = scope.tempDir('bf-pki-');
    const { port } = await ownServer(scope, serverOf(made));
    const uri = uriOf(port, `tls-certificates=${directory}`);
    const missing = await refused(uri);
    expect(missing.code).toBe('TLS_INVALID');
    expect(missing.message).toContain(join(directory, 'ca-cert.pem'));
    copyFileSync(made.ca, join(directory, 'ca-cert.pem'));
    await works(await open(scope, uri));
  });
});

describe('Files', () => {
  it.each([
    ['of several users without one', () => `tls-psk-file=${keys}`, '', /several users: say which/],
    ['without the user', () => `tls-psk-file=${keys}`, 'carl@', /no key of the user carl/],
    ['that are none', () => `tls-psk-file=${made.ca}`, '', /line 1/],
    ['that are devices', () => 'tls-psk-file=/dev/zero', '', /not a regular file/],
    ['that are not there', () => 'tls-psk-file=/no/such', '', /no such file/],
    ['without keys, and a user', () => x509(made), 'ann@', /user name needs a file/],
  ])('%s are refused before anything is connected', async (_what, parameters, user, why) => {
    const error = await refused(parseNbdUri(`nbds://${user}127.0.0.1:1/disk?${parameters()}`));
    expect(error.code).toBe('TLS_INVALID');
    expect(error.message).toMatch(why);
    expect(error.message).not.toContain('MII');
  });

  it('of a pair without its other half are refused', async () => {
    const scope = testScope();
    const directory = scope.tempDir('bf-pki-');
    mkdirSync(directory, { recursive: true });
    for (const name of ['ca-cert.pem', 'client-cert.pem', 'client-key.pem']) {
      copyFileSync(join(made.directory, name), join(directory, name));
    }
    rmSync(join(directory, 'client-key.pem'));
    const uri = parseNbdUri(`nbds://127.0.0.1:1/disk?tls-certificates=${directory}`);
    expect((await refused(uri)).message).toMatch(/client-cert\.pem.*has no key/);
  });
});

const certificates = (): string => `--tls-certificates=${made.directory}`;

/** Over its unix socket, with TLS. */
const secure = (server: RealServer, parameters: string, user = ''): NbdUri =>
  parseNbdUri(`${server.uri.text.replace('nbd+unix://', `nbds+unix://${user}`)}&${parameters}`);

describe('Servers that nobody here wrote', () => {
  it('nbdkit with certificates', async (context) => {
    requireTools(context, 'nbdkit');
    const scope = testScope();
    const options = ['--tls=require', certificates(), '--tls-verify-peer'];
    const server = await nbdkit(scope, options, ['memory', '4M']);
    await works(await open(scope, secure(server, x509(made))));
    const strangers = [`tls-certificates=${made.anonymous}`, x509(others)];
    for (const parameters of strangers) {
      expect((await refused(secure(server, parameters))).code).toBe('MIRROR_TLS');
    }
    expect((await refused(server.uri)).message).toMatch(/requires TLS: use nbds:/);
  });

  it('nbdkit with keys', async (context) => {
    requireTools(context, 'nbdkit');
    const scope = testScope();
    const server = await nbdkit(scope, ['--tls=require', `--tls-psk=${keys}`], ['memory', '4M']);
    const parameters = `tls-psk-file=${keys}`;
    await works(await open(scope, secure(server, parameters, 'ann@')));
    const wrong = `tls-psk-file=${other({ ann: 'cc'.repeat(32) })}`;
    expect((await refused(secure(server, wrong))).code).toBe('MIRROR_TLS');
  });

  it('nbdkit that may speak clear text too', async (context) => {
    requireTools(context, 'nbdkit');
    const scope = testScope();
    const server = await nbdkit(scope, ['--tls=on', certificates()], ['memory', '4M']);
    await works(await open(scope, secure(server, x509(made))));
    await works(await open(scope, server.uri));
  });

  it('qemu-nbd with certificates', async (context) => {
    requireTools(context, 'qemu-nbd');
    const scope = testScope();
    const credentials = `tls-creds-x509,id=tls0,endpoint=server,verify-peer=yes,dir=${made.directory}`;
    const options = ['--object', credentials, '--tls-creds', 'tls0'];
    const server = await qemuNbd(scope, 4 * MIB, 'disk', options);
    await works(await open(scope, secure(server, x509(made))));
    expect((await refused(secure(server, x509(others)))).code).toBe('MIRROR_TLS');
    expect((await refused(server.uri)).message).toMatch(/requires TLS: use nbds:/);
  });

  it('nbdkit without TLS is never used in clear instead', async (context) => {
    requireTools(context, 'nbdkit');
    const scope = testScope();
    const server = await nbdkit(scope, ['--tls=off'], ['memory', '4M']);
    const error = await refused(secure(server, x509(made)));
    expect(error.code).toBe('MIRROR_REFUSED');
    expect(error.message).toMatch(/offers no TLS/);
  });
});

describe('What goes in clear', () => {
  it.each([
    [
      'says no',
      optionReply(STARTTLS, 0x80000002, Buffer.from('not here')),
      'MIRROR_REFUSED',
      /offers no TLS \(it says: not here\)/,
    ],
    ['does not know it', optionReply(STARTTLS, 0x80000001), 'MIRROR_REFUSED', /offers no TLS/],
    [
      'puts data into its ACK',
      optionReply(STARTTLS, 1, Buffer.from('x')),
      'PROTOCOL',
      /ACK carries data/,
    ],
    [
      'answers with an info',
      optionReply(STARTTLS, 3),
      'PROTOCOL',
      /answered STARTTLS with NBD_REP_INFO/,
    ],
    ['answers something else', optionReply(7, 1), 'PROTOCOL', /was not asked/],
    [
      'puts clear text behind its ACK',
      Buffer.concat([optionReply(STARTTLS, 1), infoExport(MIB, FLAGS), ACK]),
      'PROTOCOL',
      /clear text behind STARTTLS/,
    ],
    [
      'puts one byte behind its ACK',
      Buffer.concat([optionReply(STARTTLS, 1), Buffer.from([22])]),
      'PROTOCOL',
      /clear text behind STARTTLS/,
    ],
  ])('is STARTTLS alone, for a server that %s', async (_what, answer, code, why) => {
    const scope = testScope();
    const clear: Buffer[] = [];
    const { uri, sockets } = await fakeServer(scope, async (wire) => {
      wire.socket.on('data', (chunk: Buffer) => clear.push(chunk));
      await wire.handshake(answer);
    });
    const error = await refused(secured(uri));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(why);
    await waitUntil('the end', () =>
      sockets.every((socket) => socket.readableEnded || socket.closed),
    );
    const said = Buffer.concat(clear).toString('hex');
    const abort = '49484156454f50540000000200000000';
    expect([ASKED, ASKED + abort]).toContain(said);
  });

  it('later is no answer: replies in clear behind the ACK never count', async () => {
    const scope = testScope();
    const { uri } = await fakeServer(scope, async (wire) => {
      await wire.handshake(optionReply(STARTTLS, 1));
      await wire.take(5);
      wire.send(infoExport(MIB, FLAGS), ACK);
    });
    const error = await refused(secured(uri));
    expect(error.code).toBe('MIRROR_TLS');
  });

  it('ends with an end: a server that leaves in the middle of TLS', async () => {
    const scope = testScope();
    const { uri } = await fakeServer(scope, async (wire) => {
      await wire.handshake(optionReply(STARTTLS, 1));
      await wire.take(5);
      wire.socket.end();
    });
    const error = await refused(secured(uri));
    expect(error.code).toBe('MIRROR_TLS');
    expect(error.message).toMatch(/the server left/);
  });

  it('and one that never goes on is given up in time', async () => {
    const scope = testScope();
    const { uri } = await fakeServer(scope, async (wire) => {
      await wire.handshake(optionReply(STARTTLS, 1));
    });
    const connecting = NbdClient.connect(secured(uri), {
      network: nodeNetwork,
      clock: systemClock,
      connectMs: 300,
    });
    const error = await rejection(connecting);
    expect(error.code).toBe('MIRROR_UNREACHABLE');
    expect(error.message).toMatch(/did not end within 300 ms/);
  });

  it('is nothing more from a server that is not fixed newstyle', async () => {
    const scope = testScope();
    const clear: Buffer[] = [];
    const { uri } = await fakeServer(scope, async (wire) => {
      wire.socket.on('data', (chunk: Buffer) => clear.push(chunk));
      wire.send(Buffer.from('4e42444d4147494349484156454f50540002', 'hex'));
      await wire.take(1000);
    });
    const error = await refused(secured(uri));
    expect(error.message).toMatch(/offers no TLS/);
    expect(Buffer.concat(clear).includes('demo')).toBe(false);
  });

  it('comes again under TLS: the name of the export is never seen before', async () => {
    const scope = testScope();
    const { path, clear, peers } = await strictServer(scope);
    const uri = parseNbdUri(`nbds+unix:///demo?socket=${path}&tls-certificates=${made.anonymous}`);
    const client = await open(scope, uri);
    expect(client.info.sizeBytes).toBe(MIB);
    expect(Buffer.concat(clear).toString('hex')).toBe(ASKED);
    expect(peers).toEqual(['localhost']);
  });
});

const secured = (uri: NbdUri): NbdUri =>
  parseNbdUri(`${uri.text.replace('nbd+unix', 'nbds+unix')}&${x509(made)}`);

/** Client flags and STARTTLS. */
const ASKED = '0000000349484156454f50540000000500000000';

/** A TLS server made by Node's own means, which keeps what came in clear, and by which names it was asked for. */
async function strictServer(
  scope: Scope,
): Promise<{ path: string; clear: Buffer[]; peers: (string | false | null)[] }> {
  const path = join(scope.tempDir('bf-strict-'), 's');
  const clear: Buffer[] = [];
  const peers: (string | false | null)[] = [];
  const context = tls.createSecureContext({
    cert: readFileSync(made.certificate),
    key: readFileSync(made.key),
  });
  const server = createServer((socket) => {
    socket.write(GREETING);
    const inClear = (chunk: Buffer): void => {
      clear.push(chunk);
      if (Buffer.concat(clear).length < 20) return;
      socket.off('data', inClear);
      socket.pause();
      socket.write(optionReply(STARTTLS, 1), () => {
        const secure = new tls.TLSSocket(socket, {
          isServer: true,
          secureContext: context,
          SNICallback: (name, done) => {
            peers.push(name);
            done(null, context);
          },
        });
        secure.on('error', () => {});
        secure.once('data', () => secure.write(Buffer.concat([infoExport(MIB, FLAGS), ACK])));
      });
    };
    socket.on('data', inClear);
    socket.on('error', () => {});
    scope.defer('close a socket', () => void socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  scope.defer(
    'stop the server',
    () => new Promise((resolve) => void server.close(() => resolve())),
  );
  return { path, clear, peers };
}

/** A file of other keys, for one test. */
function other(of: Readonly<Record<string, string>>): string {
  const scope = testScope();
  return makePskFile(join(scope.tempDir('bf-psk-'), 'keys.psk'), of);
}

/** Both ends of this process speak at most this version, for one test. */
function restrict(version: tls.SecureVersion): void {
  const { DEFAULT_MAX_VERSION: before } = tls;
  tls.DEFAULT_MAX_VERSION = version;
  onTestFinished(() => {
    tls.DEFAULT_MAX_VERSION = before;
  });
}
