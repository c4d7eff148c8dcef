/** Scripts for libnbd (test/clients/libnbd), run by the Python that Debian's binding is made for. */
import { join } from 'node:path';
import { run, type RunOptions } from './process.ts';
import { ROOT } from './root.ts';

export const LIBNBD_SCRIPTS: string = join(ROOT, 'test', 'clients', 'libnbd');

/** Runs a script to its end and returns what it printed; throws, with its traceback, when it fails. */
export async function libnbd(
  script: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const { stdout } = await run('/usr/bin/python3', ['-B', join(LIBNBD_SCRIPTS, script), ...args], {
    ...options,
    env: { ...options.env, PYTHONFAULTHANDLER: '1' },
  });
  return stdout;
}
