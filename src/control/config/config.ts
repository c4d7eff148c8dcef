/**
 * The configuration of a node: defaults, then the TOML file, then flags.
 *
 * Invariants:
 * - Every key has a default; a key that does not exist is an error that names file, line and key.
 * - Paths of the file are relative to the file, paths of flags to the working directory.
 * - Without `insecure` the control and http addresses are on this machine, and so are the NBD addresses unless
 *   every client has to encrypt.
 */
import { join } from 'node:path';
import { formatAddress, isLoopback, parseAddress } from '../../io/address.ts';
import { BlockferryError } from '../../io/errors.ts';
import { NBD_LISTENERS_MAX } from '../../io/limits.ts';
import type { Address } from '../../io/network.ts';
import type { NbdLimits } from '../../nbd/server/server-limits.ts';
import { ConfigFile } from './config-file.ts';
import {
  defaultControlAddress,
  defaultDataDirectory,
  DISK_WARN_PERCENT_DEFAULT,
  NBD_ADDRESS_DEFAULT,
  type LogLevel,
  type UserSurroundings,
} from './defaults.ts';
import { resolveExports, type ExportRules } from '../exports/export-rules.ts';
import { resolveLimits } from './limits-config.ts';
import { NODE_NAME } from '../node-name.ts';
import {
  resolveReplication,
  type ReplicationConfig,
  type ReplicationFlags,
} from './replication-config.ts';
import { fileAddress, fileListeners, type ListenerConfig } from './listener-config.ts';
import {
  resolveTls,
  resolveTlsClient,
  type TlsClientConfig,
  type TlsConfig,
  type TlsFlags,
} from './tls-config.ts';

export type { ListenerConfig } from './listener-config.ts';

export interface NodeConfig {
  readonly name: string;
  readonly data: string;
  readonly nbd: readonly ListenerConfig[];
  /** Nobody named `nbd`: sockets that the process inherited take its place. */
  readonly nbdIsDefault: boolean;
  readonly control: Address;
  /** Where metrics are shown; null: nowhere. */
  readonly http: Address | null;
  readonly insecure: boolean;
  readonly logLevel: LogLevel;
  readonly tls: TlsConfig;
  /** Toward mirrors; null: nothing of our own. */
  readonly tlsClient: TlsClientConfig | null;
  readonly limits: NbdLimits;
  /** Less than this is free on the file system of `data`: there is a warning. 0: there is none. */
  readonly diskWarnPercent: number;
  readonly exports: ExportRules;
  readonly replication: ReplicationConfig;
}

/** What the command line said; absent where it said nothing. */
export interface ConfigFlags extends TlsFlags, ReplicationFlags {
  readonly config?: string;
  readonly name?: string;
  readonly data?: string;
  readonly nbd?: readonly string[];
  readonly control?: string;
  readonly http?: string;
  readonly insecure?: boolean;
  readonly logLevel?: LogLevel;
  /** False: exports are not listed. True says nothing: it is what the parser of flags puts there. */
  readonly list?: boolean;
}

/** What the defaults depend on. */
export interface Surroundings extends UserSurroundings {
  readonly hostname: string;
  readFile(path: string): Buffer;
}

/**
 * The configuration to run with.
 * @throws BlockferryError CONFIG_INVALID, ADDRESS_INVALID, INSECURE_ADDRESS or USAGE
 */
export function resolveConfig(flags: ConfigFlags, surroundings: Surroundings): NodeConfig {
  const readFile = (path: string): Buffer => surroundings.readFile(path);
  const file = new ConfigFile(flags.config, readFile);
  const { values } = file;
  const data = dataDirectory(flags, file, surroundings);
  // Of the file first: what is wrong there is told also where a flag overrides it.
  const inFile = fileListeners(file, readFile);
  const named = flagListeners(flags) ?? inFile;
  const tls = resolveTls(flags, file);
  const config: NodeConfig = {
    name: nodeName(flags.name ?? values.name ?? nameOfHost(surroundings.hostname)),
    data,
    nbd: named ?? defaultListeners(data),
    nbdIsDefault: named === null,
    control: addressOf('control', flags, file) ?? parseAddress(defaultControlAddress(data)),
    http: addressOf('http', flags, file),
    insecure: flags.insecure ?? values.insecure ?? false,
    logLevel: flags.logLevel ?? values.log_level ?? 'info',
    tls,
    tlsClient: resolveTlsClient(file),
    limits: resolveLimits(values.limits ?? {}),
    diskWarnPercent: values.limits?.disk_warn_percent ?? DISK_WARN_PERCENT_DEFAULT,
    replication: resolveReplication(flags, file),
    exports: resolveExports(file, { list: flags.list !== false && (values.list ?? true), tls }),
  };
  for (const { address } of config.nbd) refuseStrangers(config, address);
  refuseOpenHttp(config, 'control', config.control);
  refuseOpenHttp(config, 'http', config.http);
  return config;
}

function refuseOpenHttp(
  { insecure }: { insecure: boolean },
  key: 'control' | 'http',
  address: Address | null,
): void {
  if (insecure || address === null || isLoopback(address)) return;
  throw new BlockferryError(
    'INSECURE_ADDRESS',
    `the ${key} address ${formatAddress(address)} is reachable from other machines, ` +
      'without encryption or passwords',
  );
}

/**
 * Without TLS anyone who reaches an address may read and write everything.
 * @throws BlockferryError INSECURE_ADDRESS
 */
export function refuseStrangers(config: NodeConfig, address: Address): void {
  if (config.insecure || config.tls.mode === 'required' || isLoopback(address)) return;
  throw new BlockferryError(
    'INSECURE_ADDRESS',
    `${formatAddress(address)} is reachable from other machines, and TLS is not required there`,
  );
}

function dataDirectory(flags: ConfigFlags, file: ConfigFile, surroundings: Surroundings): string {
  if (flags.data === '') throw new BlockferryError('USAGE', '--data is empty');
  if (flags.data !== undefined) return flags.data;
  const { data } = file.values;
  return data === undefined ? defaultDataDirectory(surroundings) : file.resolve(data);
}

function flagListeners({ nbd }: ConfigFlags): ListenerConfig[] | null {
  if (nbd === undefined) return null;
  if (nbd.length > NBD_LISTENERS_MAX) {
    throw new BlockferryError('USAGE', `--nbd is given ${nbd.length} times`);
  }
  return nbd.map((text) => ({ address: parseAddress(text), rights: {} }));
}

function defaultListeners(data: string): ListenerConfig[] {
  const addresses = [NBD_ADDRESS_DEFAULT, `unix:${join(data, 'nbd.sock')}`];
  return addresses.map((text) => ({ address: parseAddress(text), rights: {} }));
}

/** Null where nobody named one. */
function addressOf(key: 'control' | 'http', flags: ConfigFlags, file: ConfigFile): Address | null {
  const text = file.values[key];
  const inFile = text === undefined ? null : fileAddress(file, [key], text);
  const flag = flags[key];
  return flag === undefined ? inFile : parseAddress(flag);
}

function nodeName(name: string): string {
  if (NODE_NAME.test(name)) return name;
  throw new BlockferryError(
    'USAGE',
    `--name ${JSON.stringify(name)} must be 1 to 63 letters, digits, dots and dashes`,
  );
}

function nameOfHost(hostname: string): string {
  const first = hostname.split('.')[0] ?? '';
  const cleaned = first.replace(/[^A-Za-z0-9_-]/g, '-').replace(/^[^A-Za-z0-9]+/, '');
  return cleaned === '' ? 'blockferry' : cleaned.slice(0, 63);
}
