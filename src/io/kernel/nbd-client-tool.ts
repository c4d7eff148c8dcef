/**
 * Runs `nbd-client`, which attaches an export to the kernel.
 *
 * Invariants: it is given its arguments as they are, no shell reads them; what it prints is kept up to a bound; it is
 * ended when it takes too long.
 */
import { spawn } from 'node:child_process';

import { BlockferryError } from '../errors.ts';
import { ATTACH_TOOL_CHARACTERS_MAX, ATTACH_TOOL_MS_MAX } from '../limits.ts';

export const NBD_CLIENT = 'nbd-client';
/** Debian keeps it where not every PATH looks. */
const SBIN = '/usr/local/sbin:/usr/sbin:/sbin';

export interface ToolAnswer {
  /** Null: a signal ended it. */
  readonly code: number | null;
  /** Both streams, as they came. */
  readonly output: string;
}

/** @throws BlockferryError ATTACH_TOOL_MISSING */
export async function runNbdClient(args: readonly string[]): Promise<ToolAnswer> {
  const env = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:${SBIN}`, LC_ALL: 'C' };
  const child = spawn(NBD_CLIENT, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env,
    timeout: ATTACH_TOOL_MS_MAX,
  });
  let output = '';
  const keep = (text: string): void => {
    output = (output + text).slice(-ATTACH_TOOL_CHARACTERS_MAX);
  };
  child.stdout.setEncoding('utf8').on('data', keep);
  child.stderr.setEncoding('utf8').on('data', keep);
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject);
      // Not `close`: with TLS a child of it goes on, and holds the pipes open.
      child.on('exit', (exitCode) => setImmediate(resolve, exitCode));
    });
    return { code, output };
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
    throw new BlockferryError('ATTACH_TOOL_MISSING', `${NBD_CLIENT} is not installed`, {
      cause: error,
    });
  } finally {
    child.stdout.destroy();
    child.stderr.destroy();
  }
}
