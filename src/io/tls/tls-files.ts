/**
 * Files of certificates, keys and pre-shared keys, read and checked.
 *
 * Invariants:
 * - What is returned was understood to its last line. What works but should not stay so is a warning, one line that names
 *   its file; what does not work is TLS_INVALID, which names the file and its fault, and never shows a key.
 * - No file is read whose size is over TLS_FILE_BYTES_MAX.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import * as fs from 'node:fs';

import { systemClock } from '../clock.ts';
import { BlockferryError, errorText } from '../errors.ts';
import { TLS_FILE_BYTES_MAX } from '../limits.ts';
import { parsePskFile, type PskKeys } from './psk-file.ts';

/** In PEM. */
export interface Pair {
  readonly certificate: string;
  readonly key: string;
}

/** Null when there is neither. */
export function loadPair(
  certificatePath: string | undefined,
  keyPath: string | undefined,
  warnings: string[],
): Pair | null {
  if (certificatePath === undefined && keyPath === undefined) return null;
  if (keyPath === undefined) throw unusable(certificatePath ?? '', 'the certificate has no key');
  if (certificatePath === undefined) throw unusable(keyPath, 'the key has no certificate');
  const chain = loadCertificates(certificatePath, warnings);
  const key = readText(keyPath);
  warnIfOpen(keyPath, 'the key', warnings);
  const [own] = chain.parsed;
  if (own !== undefined && !own.checkPrivateKey(parseKey(keyPath, key))) {
    throw unusable(keyPath, `it is not the key of the certificate in ${certificatePath}`);
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
    throw unusable(
      path,
      locked ? 'the key has a passphrase' : 'it holds no private key in PEM',
      error,
    );
  }
}

export function loadCa(path: string, warnings: string[]): string[] {
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
  if (blocks.length === 0) throw unusable(path, 'it holds no certificate in PEM');
  const parsed = blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw unusable(path, `certificate ${index + 1} in it cannot be read`, error);
    }
  });
  for (const certificate of parsed) warnOfDates(path, certificate, warnings);
  return { text, parsed };
}

/** Used all the same: the other side decides, and a server that does not start helps nobody to renew. */
function warnOfDates(path: string, certificate: X509Certificate, warnings: string[]): void {
  const now = systemClock.wall();
  const [from, until] = [certificate.validFrom, certificate.validTo];
  if (now > Date.parse(until)) warnings.push(`${path}: a certificate in it expired on ${until}`);
  if (now < Date.parse(from)) warnings.push(`${path}: a certificate in it is valid from ${from}`);
}

export function loadKeys(path: string, warnings: string[]): PskKeys {
  const text = readText(path);
  warnIfOpen(path, 'the file of pre-shared keys', warnings);
  const outcome = parsePskFile(text);
  if (typeof outcome === 'string') throw unusable(path, outcome);
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
    const facts = fs.statSync(path);
    // A pipe would be waited for, and a device may have no end.
    if (!facts.isFile() && !facts.isDirectory()) throw unusable(path, 'it is not a regular file');
    const { size } = facts;
    if (size > TLS_FILE_BYTES_MAX) {
      throw unusable(path, `it has ${size} bytes, at most ${TLS_FILE_BYTES_MAX} are read`);
    }
    return fs.readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof BlockferryError) throw error;
    throw unusable(
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

export function unusable(path: string, why: string, cause?: unknown): BlockferryError {
  return new BlockferryError('TLS_INVALID', `cannot use ${path} for TLS: ${why}`, { cause });
}
