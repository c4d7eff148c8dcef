/**
 * The configuration file: read, bounded, parsed, and of the right shape.
 *
 * Invariants: whatever is wrong with it becomes one line that names file, line and key. Relative paths
 * are relative to the file.
 */
import { dirname, resolve } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import type { z } from 'zod';
import { BlockferryError, errorText, type ErrorCode } from '../../io/errors.ts';
import { CONFIG_BYTES_MAX } from '../../io/limits.ts';
import { EXPORT, FILE, knownKeys, type ExportValues, type FileValues } from './config-schema.ts';
import { keyText, lineOf, type KeyPath } from './toml-lines.ts';

type ReadFile = (path: string) => Buffer;

export class ConfigFile {
  readonly values: FileValues;
  /** By name of the export. */
  readonly exports: ReadonlyMap<string, ExportValues>;
  private readonly path: string;
  private readonly text: string;

  /**
   * Reads `path`; without one it is a file with nothing in it.
   * @throws BlockferryError CONFIG_INVALID
   */
  constructor(path: string | undefined, readFile: ReadFile) {
    this.path = path ?? '';
    this.text = path === undefined ? '' : readText(path, readFile);
    this.values = this.shaped(FILE, parseToml(this.path, this.text), []);
    const tables = Object.entries(this.values.export ?? {});
    this.exports = new Map(
      tables.map(([name, table]) => [name, this.shaped(EXPORT, table, ['export', name])]),
    );
  }

  /** A path of the file, seen from the working directory. */
  resolve(path: string): string {
    return resolve(dirname(this.path), path);
  }

  /** What is wrong with the value at `key`. */
  fault(key: KeyPath, why: string, code: ErrorCode = 'CONFIG_INVALID'): BlockferryError {
    return new BlockferryError(code, `${this.where(key)}: ${keyText(key)}: ${why}`);
  }

  private shaped<T>(schema: z.ZodType<T>, value: unknown, at: KeyPath): T {
    const parsed = schema.safeParse(value);
    if (parsed.success) return parsed.data;
    const issue = parsed.error.issues[0];
    const path = [...at, ...(issue?.path ?? []).map(plainKey)];
    if (issue?.code !== 'unrecognized_keys') throw this.fault(path, issue?.message ?? 'not usable');
    const key = issue.keys[0] ?? '';
    const inside = path.length === 0 ? '' : ` in ${keyText(path)}`;
    throw new BlockferryError(
      'CONFIG_INVALID',
      `${this.where([...path, key])}: unknown key ${JSON.stringify(key)}${inside}; ` +
        `known are ${knownKeys(path).join(', ')}`,
    );
  }

  private where(key: KeyPath): string {
    const line = lineOf(this.text, key);
    return line === null ? this.path : `${this.path}:${line}`;
  }
}

/** Keys of TOML are never symbols. */
function plainKey(key: PropertyKey): string | number {
  return typeof key === 'number' ? key : String(key);
}

function readText(path: string, readFile: ReadFile): string {
  let bytes: Buffer;
  try {
    bytes = readFile(path);
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
