/**
 * The configuration of a node: defaults, then the TOML file, then flags.
 *
 * Invariants:
 * - Every key has a default; a key that does not exist is an error that names file, line and key.
 * - Paths of the file are relative to the file, paths of flags to the working directory.
 * - No address outside loopback without `insecure`: there is no TLS yet.
 */
import { dirname, join, resolve } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import { z } from 'zod';
import { formatAddress, isLoopback, parseAddress } from '../io/address.ts';
import { BlockferryError, errorText } from '../io/errors.ts';
import { CONFIG_BYTES_MAX, NBD_LISTENERS_MAX } from '../io/limits.ts';
import type { Address } from '../io/network.ts';
import {
  defaultControlAddress,
  defaultDataDirectory,
  LOG_LEVELS,
  NBD_ADDRESS_DEFAULT,
  type LogLevel,
  type UserSurroundings,
} from './defaults.ts';

export interface NodeConfig {
  readonly name: string;
  readonly data: string;
  readonly nbd: readonly Address[];
  readonly control: Address;
  readonly insecure: boolean;
  readonly logLevel: LogLevel;
}

/** What the command line said; absent where it said nothing. */
export interface ConfigFlags {
  readonly config?: string;
  readonly name?: string;
  readonly data?: string;
  readonly nbd?: readonly string[];
  readonly control?: string;
  readonly insecure?: boolean;
  readonly logLevel?: LogLevel;
}

/** What the defaults depend on. */
export interface Surroundings extends UserSurroundings {
  readonly hostname: string;
  readFile(path: string): Buffer;
}

const NODE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

const FILE_SCHEMA = z.strictObject({
  name: z.string().regex(NODE_NAME, 'must be 1 to 63 letters, digits, dots, dashes').optional(),
  data: z.string().min(1).optional(),
  nbd: z.array(z.string()).min(1).max(NBD_LISTENERS_MAX).optional(),
  control: z.string().optional(),
  insecure: z.boolean().optional(),
  log_level: z.enum(LOG_LEVELS).optional(),
});

type FileConfig = z.output<typeof FILE_SCHEMA>;

/**
 * The configuration to run with.
 * @throws BlockferryError CONFIG_INVALID, ADDRESS_INVALID, INSECURE_ADDRESS or USAGE
 */
export function resolveConfig(flags: ConfigFlags, surroundings: Surroundings): NodeConfig {
  const file = flags.config === undefined ? {} : readConfigFile(flags.config, surroundings);
  const data = flags.data ?? file.data ?? defaultDataDirectory(surroundings);
  if (data === '') throw new BlockferryError('USAGE', '--data is empty');
  const name = flags.name ?? file.name ?? nameOfHost(surroundings.hostname);
  if (!NODE_NAME.test(name)) {
    throw new BlockferryError(
      'USAGE',
      `--name ${JSON.stringify(name)} must be 1 to 63 letters, digits, dots and dashes`,
    );
  }
  const nbd = flags.nbd ?? file.nbd ?? [NBD_ADDRESS_DEFAULT, `unix:${join(data, 'nbd.sock')}`];
  if (nbd.length > NBD_LISTENERS_MAX) {
    throw new BlockferryError('USAGE', `--nbd is given ${nbd.length} times`);
  }
  const config: NodeConfig = {
    name,
    data,
    nbd: nbd.map(parseAddress),
    control: parseAddress(flags.control ?? file.control ?? defaultControlAddress(data)),
    insecure: flags.insecure ?? file.insecure ?? false,
    logLevel: flags.logLevel ?? file.log_level ?? 'info',
  };
  if (!config.insecure) refuseStrangers(config);
  return config;
}

/** Without TLS anyone who reaches an address may read and write everything. */
function refuseStrangers(config: NodeConfig): void {
  for (const address of [...config.nbd, config.control]) {
    if (isLoopback(address)) continue;
    throw new BlockferryError(
      'INSECURE_ADDRESS',
      `${formatAddress(address)} is reachable from other machines, without encryption or passwords`,
    );
  }
}

function nameOfHost(hostname: string): string {
  const first = hostname.split('.')[0] ?? '';
  const cleaned = first.replace(/[^A-Za-z0-9_-]/g, '-').replace(/^[^A-Za-z0-9]+/, '');
  return cleaned === '' ? 'blockferry' : cleaned.slice(0, 63);
}

function readConfigFile(path: string, surroundings: Surroundings): FileConfig {
  const text = readText(path, surroundings);
  const parsed = FILE_SCHEMA.safeParse(parseToml(path, text));
  if (!parsed.success) throw schemaError(path, text, parsed.error);
  const file = parsed.data;
  const base = dirname(path);
  for (const address of [...(file.nbd ?? []), ...(file.control ? [file.control] : [])]) {
    checkAddress(path, text, address);
  }
  return {
    ...file,
    ...(file.data === undefined ? {} : { data: resolve(base, file.data) }),
    ...(file.nbd === undefined ? {} : { nbd: file.nbd.map((text) => rebase(base, text)) }),
    ...(file.control === undefined ? {} : { control: rebase(base, file.control) }),
  };
}

function readText(path: string, surroundings: Surroundings): string {
  let bytes: Buffer;
  try {
    bytes = surroundings.readFile(path);
  } catch (error) {
    throw new BlockferryError('CONFIG_INVALID', `cannot read ${path}: ${errorText(error)}`, {
      cause: error,
    });
  }
  if (bytes.length > CONFIG_BYTES_MAX) {
    throw new BlockferryError('CONFIG_INVALID', `${path} has more than ${CONFIG_BYTES_MAX} bytes`);
  }
  return bytes.toString('utf8');
}

function parseToml(path: string, text: string): unknown {
  try {
    return parse(text);
  } catch (error) {
    const where = error instanceof TomlError ? `:${error.line}:${error.column}` : '';
    // The library draws the line with a caret below its first line of text.
    const what = errorText(error).split('\n')[0] ?? '';
    throw new BlockferryError('CONFIG_INVALID', `${path}${where}: ${what}`, { cause: error });
  }
}

function schemaError(path: string, text: string, error: z.ZodError): BlockferryError {
  const issue = error.issues[0];
  if (issue === undefined) return new BlockferryError('CONFIG_INVALID', `${path} is not usable`);
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0] ?? '';
    const known = Object.keys(FILE_SCHEMA.shape).join(', ');
    return new BlockferryError(
      'CONFIG_INVALID',
      `${path}${lineOf(text, key)}: unknown key ${JSON.stringify(key)}; known are ${known}`,
    );
  }
  const key = String(issue.path[0] ?? '');
  const inner = issue.path.length > 1 ? `[${issue.path.slice(1).join('.')}]` : '';
  return new BlockferryError(
    'CONFIG_INVALID',
    `${path}${lineOf(text, key)}: ${key}${inner}: ${issue.message}`,
  );
}

function checkAddress(path: string, text: string, address: string): void {
  try {
    parseAddress(address);
  } catch (error) {
    if (!(error instanceof BlockferryError)) throw error;
    const line = text.split('\n').findIndex((line) => line.includes(address));
    const where = line === -1 ? '' : `:${line + 1}`;
    throw new BlockferryError(error.code, `${path}${where}: ${error.message}`, { cause: error });
  }
}

function rebase(base: string, address: string): string {
  const parsed = parseAddress(address);
  return parsed.kind === 'unix' ? `unix:${resolve(base, parsed.path)}` : address;
}

/** `:LINE` of a top-level key or table, or nothing when it is written in an unusual way. */
function lineOf(text: string, key: string): string {
  const quoted = key.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  const pattern = new RegExp(`^\\s*(?:\\[\\[?\\s*)?["']?${quoted}["']?\\s*[=.\\]]`);
  const index = text.split('\n').findIndex((line) => pattern.test(line));
  return index === -1 ? '' : `:${index + 1}`;
}
