/**
 * What a client needs to speak TLS: whom it trusts, its own certificate, its pre-shared keys. Read from files once.
 *
 * Invariants:
 * - TLS 1.2 and newer, suites with forward secrecy or a pre-shared key; the server is always verified, by its certificate
 *   and its name, or by the key that both have.
 * - With pre-shared keys and no CA, no certificate is trusted: whoever does not have the key is refused.
 * - A context is returned only if its certificate and key belong together and every line of its files was understood.
 */
import * as fs from 'node:fs';
import { join } from 'node:path';
import * as tls from 'node:tls';

import { BlockferryError, errorText } from '../errors.ts';
import type { TlsClientContext, TlsClientTerms } from '../network.ts';
import type { PskKeys } from './psk-file.ts';
import { loadCa, loadKeys, loadPair, unusable } from './tls-files.ts';
import { NEVER, SUITES_13, SUITES_PSK, SUITES_X509 } from './tls-suites.ts';

/** Paths. Nothing at all: servers are verified by the authorities that Node trusts, and nothing is shown to them. */
export interface TlsClientFiles {
  /** PEM: a server's certificate must be from one of these. */
  readonly ca?: string | undefined;
  /** PEM: what is shown to servers that ask; then those between it and the root. */
  readonly certificate?: string | undefined;
  /** PEM, without a passphrase. */
  readonly key?: string | undefined;
  /** Lines of `user:hexkey`, as psktool writes them. */
  readonly pskFile?: string | undefined;
}

/** Files by the names that GnuTLS programs look for in a directory. The client's pair may be missing. */
export function tlsClientDirectory(directory: string): TlsClientFiles {
  const own = (name: string): string | undefined => {
    const path = join(directory, name);
    return fs.existsSync(path) ? path : undefined;
  };
  return {
    ca: join(directory, 'ca-cert.pem'),
    certificate: own('client-cert.pem'),
    key: own('client-key.pem'),
  };
}

/** A key, and the name of the user who has it. */
export interface PskIdentity {
  readonly identity: string;
  readonly psk: Buffer;
}

/** How one connection is secured. */
export class LoadedTlsClientTerms implements TlsClientTerms {
  readonly kind = 'tls-client-terms';
  readonly secureContext: tls.SecureContext;
  /** A name or address that the server's certificate must have. */
  readonly serverName: string;
  readonly psk: PskIdentity | null;

  constructor(parts: Omit<LoadedTlsClientTerms, 'kind'>) {
    this.secureContext = parts.secureContext;
    this.serverName = parts.serverName;
    this.psk = parts.psk;
  }
}

export class LoadedTlsClientContext implements TlsClientContext {
  readonly kind = 'tls-client-context';
  /** For the log of whoever loaded it: each is one line, and names its file. */
  readonly warnings: readonly string[];
  private readonly secureContext: tls.SecureContext;
  private readonly pskKeys: PskKeys | null;
  /** For errors. */
  private readonly pskFile: string;

  constructor(
    secureContext: tls.SecureContext,
    keys: { readonly keys: PskKeys; readonly path: string } | null,
    warnings: readonly string[],
  ) {
    this.warnings = warnings;
    this.secureContext = secureContext;
    this.pskKeys = keys?.keys ?? null;
    this.pskFile = keys?.path ?? '';
  }

  toward(serverName: string, user: string | null): LoadedTlsClientTerms {
    const { secureContext } = this;
    return new LoadedTlsClientTerms({ secureContext, serverName, psk: this.identityOf(user) });
  }

  private identityOf(user: string | null): PskIdentity | null {
    const { pskKeys, pskFile } = this;
    if (pskKeys === null) {
      if (user === null) return null;
      throw new BlockferryError('TLS_INVALID', 'a user name needs a file of pre-shared keys');
    }
    const [only, ...others] = pskKeys.keys();
    const identity = user ?? (others.length === 0 ? only : undefined);
    if (identity === undefined) {
      throw unusable(pskFile, 'it has the keys of several users: say which, as USER@HOST');
    }
    const psk = pskKeys.get(identity);
    if (psk === undefined) throw unusable(pskFile, `it has no key of the user ${identity}`);
    return { identity, psk };
  }
}

/** @throws BlockferryError TLS_INVALID, which names the file and its fault */
export function loadTlsClientContext(files: TlsClientFiles): LoadedTlsClientContext {
  const warnings: string[] = [];
  const own = loadPair(files.certificate, files.key, warnings);
  const ca = files.ca === undefined ? undefined : loadCa(files.ca, warnings);
  const { pskFile } = files;
  const keys = pskFile === undefined ? null : { keys: loadKeys(pskFile, warnings), path: pskFile };
  const certificates = keys === null || ca !== undefined;
  const suites = [SUITES_13];
  if (keys !== null) suites.push(SUITES_PSK);
  if (certificates) suites.push(SUITES_X509);
  try {
    const secureContext = tls.createSecureContext({
      ...(own === null ? {} : { cert: own.certificate, key: own.key }),
      // An empty list trusts nobody; none at all, the authorities of Node.
      ...(certificates && ca === undefined ? {} : { ca: ca ?? [] }),
      ciphers: [...suites, NEVER].join(':'),
      minVersion: 'TLSv1.2',
    });
    return new LoadedTlsClientContext(secureContext, keys, warnings);
  } catch (error) {
    throw unusable(files.certificate ?? files.ca ?? pskFile ?? '', errorText(error), error);
  }
}
