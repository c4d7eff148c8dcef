/**
 * How a node encrypts: mode and files, from file and flags, refused where they cannot work together.
 *
 * Invariant: a mode other than `off` has something to prove the server's side with: a certificate with its
 * key, or pre-shared keys.
 */
import { BlockferryError } from '../../io/errors.ts';
import type { ConfigFile } from './config-file.ts';
import type { TlsValues } from './config-schema.ts';
import { TLS_MODES, type TlsMode } from './defaults.ts';

/** Paths; absent where there is none. */
export interface TlsFiles {
  readonly certificate?: string;
  readonly key?: string;
  readonly clientCa?: string;
  readonly pskFile?: string;
}

export interface TlsConfig {
  readonly mode: TlsMode;
  readonly files: TlsFiles;
}

export interface TlsFlags {
  readonly tls?: string;
  readonly tlsCertificate?: string;
  readonly tlsKey?: string;
  readonly tlsClientCa?: string;
  readonly tlsPsk?: string;
}

/** What the node secures the links to its mirrors with. Paths; absent where there is none. */
export interface TlsClientConfig {
  readonly ca?: string;
  readonly certificate?: string;
  readonly key?: string;
  readonly pskFile?: string;
}

/** Null when the file says nothing of it. @throws BlockferryError CONFIG_INVALID */
export function resolveTlsClient(file: ConfigFile): TlsClientConfig | null {
  const given = file.values.tls_client;
  if (given === undefined) return null;
  const { ca, certificate, key, psk_file: pskFile } = given;
  const fault = (why: string): Error => file.fault(['tls_client'], why);
  if (certificate !== undefined && key === undefined) throw fault('a certificate needs its key');
  if (key !== undefined && certificate === undefined) throw fault('a key needs its certificate');
  const path = (name: string | undefined): string | undefined =>
    name === undefined ? undefined : file.resolve(name);
  return withoutGaps({
    ca: path(ca),
    certificate: path(certificate),
    key: path(key),
    pskFile: path(pskFile),
  });
}

/** @throws BlockferryError CONFIG_INVALID, or USAGE when flags said anything of TLS */
export function resolveTls(flags: TlsFlags, file: ConfigFile): TlsConfig {
  const given: TlsValues = file.values.tls ?? {};
  const pick = (flag: string | undefined, path: string | undefined): string | undefined =>
    flag ?? (path === undefined ? undefined : file.resolve(path));
  const files = withoutGaps({
    certificate: pick(flags.tlsCertificate, given.certificate),
    key: pick(flags.tlsKey, given.key),
    clientCa: pick(flags.tlsClientCa, given.client_ca),
    pskFile: pick(flags.tlsPsk, given.psk_file),
  });
  const usable = files.certificate !== undefined || files.pskFile !== undefined;
  const mode = modeOf(flags.tls) ?? given.mode ?? (usable ? 'allowed' : 'off');
  const why = whyUnusable(mode, files);
  if (why !== null) {
    const { tls, tlsCertificate, tlsKey, tlsClientCa, tlsPsk } = flags;
    const flagged = [tls, tlsCertificate, tlsKey, tlsClientCa, tlsPsk];
    const byFlags = flagged.some((flag) => flag !== undefined);
    throw byFlags
      ? new BlockferryError('USAGE', `the flags for TLS do not fit: ${why}`)
      : file.fault(['tls'], why);
  }
  return { mode, files };
}

function whyUnusable(mode: TlsMode, files: TlsFiles): string | null {
  const { certificate, key, clientCa, pskFile } = files;
  if (certificate !== undefined && key === undefined) return 'a certificate needs its key';
  if (key !== undefined && certificate === undefined) return 'a key needs its certificate';
  if (clientCa !== undefined && certificate === undefined) {
    return 'clients show certificates only where the server has one: certificate and key are missing';
  }
  if (mode !== 'off' && certificate === undefined && pskFile === undefined) {
    return `mode "${mode}" needs a certificate and key, or a file of pre-shared keys`;
  }
  return null;
}

function modeOf(text: string | undefined): TlsMode | undefined {
  if (text === undefined) return undefined;
  const mode = TLS_MODES.find((known) => known === text);
  if (mode === undefined) {
    throw new BlockferryError('USAGE', `--tls ${JSON.stringify(text)} is no mode`);
  }
  return mode;
}

type Given<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

/** The same object without the keys that have no value. */
function withoutGaps<T extends object>(object: T): Given<T> {
  const entries = Object.entries(object).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as Given<T>;
}
