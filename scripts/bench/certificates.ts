/** One authority and one server certificate, made afresh for a run; every server of the run shows the same. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../test/support/process.ts';

export interface TlsFiles {
  /** Holds ca-cert.pem, server-cert.pem and server-key.pem: the names that nbdkit looks for. */
  readonly dir: string;
  readonly certificate: string;
  readonly key: string;
}

/** RSA of 2048 bits: what both sides and every client of Debian take. */
const KEY = ['-newkey', 'rsa:2048', '-nodes'];
const DAYS = ['-days', '2'];

async function openssl(...args: readonly (string | readonly string[])[]): Promise<void> {
  await run('openssl', args.flat());
}

export async function makeCertificates(parent: string): Promise<TlsFiles> {
  const dir = join(parent, 'tls');
  mkdirSync(dir);
  const at = (name: string): string => join(dir, name);
  const [ca, caKey] = [at('ca-cert.pem'), at('ca-key.pem')];
  const [request, names] = [at('request'), at('names')];
  const [certificate, key] = [at('server-cert.pem'), at('server-key.pem')];
  const authority = ['-keyout', caKey, '-out', ca];
  await openssl('req', '-x509', KEY, DAYS, '-subj', '/CN=bench', authority);
  await openssl('req', KEY, '-subj', '/CN=localhost', '-keyout', key, '-out', request);
  writeFileSync(names, 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
  const signing = ['-CA', ca, '-CAkey', caKey, '-CAcreateserial', '-extfile', names];
  await openssl('x509', '-req', '-in', request, signing, DAYS, '-out', certificate);
  return { dir, certificate, key };
}

/** The cipher suite that the system's client and the server at `uri` agree on, or `unknown`. */
export async function cipherOf(uri: string): Promise<string> {
  const { stderr } = await run('nbdinfo', ['--size', uri], {
    env: { GNUTLS_DEBUG_LEVEL: '4' }, // libnbd's TLS is GnuTLS, which tells of its handshake so
    allowFailure: true,
  });
  return /Selected cipher suite: (?:GNUTLS_|TLS_)?(\w+)/.exec(stderr)?.[1] ?? 'unknown';
}
