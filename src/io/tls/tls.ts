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
import { constants } from 'node:crypto';
import * as tls from 'node:tls';

import { BlockferryError, errorText } from '../errors.ts';
import type { TlsServerContext } from '../network.ts';
import type { PskKeys } from './psk-file.ts';
import { loadCa, loadKeys, loadPair, type Pair, unusable } from './tls-files.ts';
import { NEVER, SUITES_13, SUITES_PSK, SUITES_X509 } from './tls-suites.ts';

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

/** @throws BlockferryError TLS_INVALID, which names the file and its fault */
export function loadTlsServerContext(files: TlsServerFiles): LoadedTlsContext {
  const warnings: string[] = [];
  const x509 = loadServerPair(files, warnings);
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
    throw unusable(files.certificate ?? files.pskFile ?? '', errorText(error), error);
  }
}

function loadServerPair(files: TlsServerFiles, warnings: string[]): Pair | null {
  const { certificate, key, clientCa } = files;
  if (certificate === undefined && key === undefined && clientCa !== undefined) {
    throw unusable(clientCa, 'a CA for clients is of no use without a certificate and key');
  }
  return loadPair(certificate, key, warnings);
}
