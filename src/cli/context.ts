/** What every verb shares: where the node is, where output goes, and how an error becomes an exit code. */
import { homedir } from 'node:os';
import {
  defaultControlAddress,
  defaultDataDirectory,
  type UserSurroundings,
} from '../control/config/defaults.ts';
import { parseAddress } from '../io/address.ts';
import { BlockferryError, errorText } from '../io/errors.ts';
import type { Address } from '../io/network.ts';
import { ControlClient } from './client.ts';
import { oneLine } from './render/format.ts';

export const EXIT_OK = 0;
/** Refused or failed; one line on stderr says what, why and what to do. */
export const EXIT_FAILED = 1;
/** The command line itself is wrong. */
export const EXIT_USAGE = 2;

/** Options that the verbs share, as commander gives them. */
export interface SharedOptions {
  readonly control?: string;
  readonly json?: boolean;
}

/** The node that the options, the environment, or nobody named. */
export function clientOf(options: SharedOptions): ControlClient {
  return new ControlClient(controlAddress(options));
}

/** Where the node takes commands. */
export function controlAddress(options: SharedOptions): Address {
  const named = options.control ?? process.env['BLOCKFERRY_CONTROL'];
  if (named !== undefined && named !== '') return parseAddress(named);
  return parseAddress(defaultControlAddress(defaultDataDirectory(userOfProcess())));
}

/** The user who runs this process. */
export function userOfProcess(): UserSurroundings {
  return { environment: process.env, home: homedir(), isRoot: process.getuid?.() === 0 };
}

/** Whether what goes to stdout may have colour. */
export function wantsColour(): boolean {
  return process.stdout.isTTY && process.stdout.hasColors();
}

export function print(text: string): void {
  process.stdout.write(text);
}

export function printJson(value: unknown): void {
  print(`${JSON.stringify(value, null, 2)}\n`);
}

/** One line on stderr, and the exit code that goes with it. */
export function reportError(thrown: unknown): number {
  const line =
    thrown instanceof BlockferryError
      ? thrown.line
      : new BlockferryError('INTERNAL', errorText(thrown)).line;
  process.stderr.write(`blockferry: ${oneLine(line)}\n`);
  return thrown instanceof BlockferryError && thrown.code === 'USAGE' ? EXIT_USAGE : EXIT_FAILED;
}
