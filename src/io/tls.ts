/**
 * What a server needs to speak TLS: its certificate and key, the CA of its clients, pre-shared keys. Read
 * from files once; a changed file takes effect when it is loaded again.
 *
 * Invariants:
 * - TLS 1.2 and newer, suites with forward secrecy or a pre-shared key, no renegotiation (protocol section 4).
 * - No session is ever resumed: each connection proves its identity anew, to the certificates of its own time.
 * - A context is returned only if its certificate and key belong together and every line of its files was
 *   understood. What works but should not stay so is a warning.
 */
import { createPrivateKey, constants, type KeyObject, X509Certificate } from 'node:crypto';
import * as fs from 'node:fs';
import * as tls from 'node:tls';

import { systemClock } from './clock.ts';
import { BlockferryError, errorText } from './errors.ts';
import { TLS_FILE_BYTES_MAX } from './limits.ts';
import type { TlsServerContext } from './network.ts';
import { parsePskFile, type PskKeys } from './psk-file.ts';

/** Paths. A certificate and its key go together; there is one of the two ways at least, or both. */
export interface TlsServerFiles {
  /** PEM: the server's certificate, then those between it and the root. */
  readonly certificate?: string | undefined;
  /** PEM, without a passphrase. */
  readonly key?: string | undefined;
  /** PEM: whoever shows a certificate must have it from one of these. Absent: none is asked for. */
  readonly clientCa?: string | undefined;
  /** Lines of `user:hexkey`, as psktool writes them. */
  readonly pskFile?: string | undefined;
}

export class LoadedTlsContext implements TlsServerContext {
  readonly kind = 'tls-server-context';
  /** For the log of whoever loaded it: each is one line, and names its file. */
  readonly warnings: readonly string[];
  readonly secureContext: tls.SecureContext;
  /** Whether clients are asked for a certificate. Those that show none are anonymous. */
  readonly asksCertificate: boolean;
  readonly pskKeys: PskKeys | null;

  constructor(parts: Omit<LoadedTlsContext, 'kind'>) {
    this.warnings = parts.warnings;
    this.secureContext = parts.secureContext;
    this.asksCertificate = parts.asksCertificate;
    this.pskKeys = parts.pskKeys;
  }
}

/**
 * AES-128 first: nobody breaks it either, and it is the fastest. All are authenticated ciphers but the last
 * of those for keys, which some older clients need. TLS 1.2 can only use those of a way that is configured.
 */
const SUITES_13 = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256';
const SUITES_X509 = 'ECDHE+AESGCM+AES128:ECDHE+AESGCM:ECDHE+CHACHA20';
const SUITES_PSK = 'kECDHEPSK+CHACHA20:kPSK+AESGCM+AES128:kPSK+AESGCM:kPSK+CHACHA20:kECDHEPSK+AES';
const NEVER = '!aNULL:!eNULL:!SHA1:!MD5:!3DES:!RC4';

/** @throws BlockferryError TLS_INVALID, which names the file and its fault */
export function loadTlsServerContext(files: TlsServerFiles): LoadedTlsContext {
  const warnings: string[] = [];
  const x509 = loadPair(files, warnings);
  const ca = files.clientCa === undefined ? undefined : loadCa(files.clientCa, warnings);
  const pskKeys = files.pskFile === undefined ? null : loadKeys(files.pskFile, warnings);
  if (x509 === null && pskKeys === null) {
    throw new BlockferryError(
      'TLS_INVALID',
      'TLS needs a certificate or a file of pre-shared keys',
    );
  }
  const suites = [SUITES_13];
  if (pskKeys !== null) suites.push(SUITES_PSK);
  if (x509 !== null) suites.push(SUITES_X509);
  const secureContext = createContext(files, {
    ...(x509 === null ? {} : { cert: x509.certificate, key: x509.key }),
    ...(ca === undefined ? {} : { ca }),
    ciphers: [...suites, NEVER].join(':'),
  });
  return new LoadedTlsContext({
    warnings,
    secureContext,
    asksCertificate: ca !== undefined,
    pskKeys,
  });
}

function createContext(
  files: TlsServerFiles,
  options: tls.SecureContextOptions,
): tls.SecureContext {
  try {
    return tls.createSecureContext({
      ...options,
      honorCipherOrder: true,
      minVersion: 'TLSv1.2',
      // Without it, OpenSSL refuses pre-shared keys where certificates are asked for.
      sessionIdContext: 'blockferry',
      secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
    });
  } catch (error) {
    // Such as a key that is too short for today.
    throw invalid(files.certificate ?? files.pskFile ?? '', errorText(error), error);
  }
}

interface Pair {
  readonly certificate: string;
  readonly key: string;
}

function loadPair(files: TlsServerFiles, warnings: string[]): Pair | null {
  const { certificate: certificatePath, key: keyPath } = files;
  if (certificatePath === undefined && keyPath === undefined) {
    if (files.clientCa === undefined) return null;
    throw invalid(files.clientCa, 'a CA for clients is of no use without a certificate and key');
  }
  if (keyPath === undefined) throw invalid(certificatePath ?? '', 'the certificate has no key');
  if (certificatePath === undefined) throw invalid(keyPath, 'the key has no certificate');
  const chain = loadCertificates(certificatePath, warnings);
  const key = readText(keyPath);
  warnIfOpen(keyPath, 'the key', warnings);
  const [own] = chain.parsed;
  if (own !== undefined && !own.checkPrivateKey(parseKey(keyPath, key))) {
    throw invalid(keyPath, `it is not the key of the certificate in ${certificatePath}`);
  }
  return { certificate: chain.text, key };
}

/** In the two forms of PEM. */
const LOCKED_KEY = /^-----BEGIN ENCRYPTED |^Proc-Type: 4,ENCRYPTED/m;

function parseKey(path: string, text: string): KeyObject {
  try {
    return createPrivateKey(text);
  } catch (error) {
    const locked = LOCKED_KEY.test(text);
    throw invalid(
      path,
      locked ? 'the key has a passphrase' : 'it holds no private key in PEM',
      error,
    );
  }
}

function loadCa(path: string, warnings: string[]): string[] {
  return loadCertificates(path, warnings).parsed.map((each) => each.toString());
}

interface Chain {
  readonly text: string;
  readonly parsed: readonly X509Certificate[];
}

const CERTIFICATE = /-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----[^-]*-----END [A-Z0-9 ]+-----/g;

function loadCertificates(path: string, warnings: string[]): Chain {
  const text = readText(path);
  const blocks = text.match(CERTIFICATE) ?? [];
  if (blocks.length === 0) throw invalid(path, 'it holds no certificate in PEM');
  const parsed = blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw invalid(path, `certificate ${index + 1} in it cannot be read`, error);
    }
  });
  for (const certificate of parsed) warnOfDates(path, certificate, warnings);
  return { text, parsed };
}

/** Served all the same: clients decide, and a server that does not start helps nobody to renew. */
function warnOfDates(path: string, certificate: X509Certificate, warnings: string[]): void {
  const now = systemClock.wall();
  const [from, until] = [certificate.validFrom, certificate.validTo];
  if (now > Date.parse(until)) warnings.push(`${path}: a certificate in it expired on ${until}`);
  if (now < Date.parse(from)) warnings.push(`${path}: a certificate in it is valid from ${from}`);
}

function loadKeys(path: string, warnings: string[]): PskKeys {
  const text = readText(path);
  warnIfOpen(path, 'the file of pre-shared keys', warnings);
  const outcome = parsePskFile(text);
  if (typeof outcome === 'string') throw invalid(path, outcome);
  for (const note of outcome.notes) warnings.push(`${path}: ${note}`);
  return outcome.keys;
}

const OTHERS_MAY_READ = 0o004;

function warnIfOpen(path: string, what: string, warnings: string[]): void {
  const { mode } = fs.statSync(path);
  if ((mode & OTHERS_MAY_READ) !== 0) warnings.push(`${path}: every user can read ${what}`);
}

function readText(path: string): string {
  try {
    const { size } = fs.statSync(path);
    if (size > TLS_FILE_BYTES_MAX) {
      throw invalid(path, `it has ${size} bytes, at most ${TLS_FILE_BYTES_MAX} are read`);
    }
    return fs.readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof BlockferryError) throw error;
    throw invalid(
      path,
      WHY_UNREADABLE[(error as NodeJS.ErrnoException).code ?? ''] ?? errorText(error),
    );
  }
}

const WHY_UNREADABLE: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EISDIR: 'it is a directory',
  ENOENT: 'there is no such file',
  ENOTDIR: 'there is no such file',
};

function invalid(path: string, why: string, cause?: unknown): BlockferryError {
  return new BlockferryError('TLS_INVALID', `cannot use ${path} for TLS: ${why}`, { cause });
}
