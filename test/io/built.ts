/** The compiled program, for what must run in another process or thread. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { ROOT } from '../support/root.ts';

/** URL of a module of the build. `BLOCKFERRY_BUILD` names a build outside dist. */
export function builtModule(path: string): string {
  return pathToFileURL(join(process.env['BLOCKFERRY_BUILD'] ?? join(ROOT, 'dist'), path)).href;
}
