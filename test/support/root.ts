/** Where the checkout is, seen from source (test/support) and from the build (dist/test/support). */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

function findRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(dir, 'package-lock.json'))) {
    const parent = dirname(dir);
    if (parent === dir) throw new Error('no package-lock.json above test/support');
    dir = parent;
  }
  return dir;
}

export const ROOT: string = findRoot();

/** The command under test. `BLOCKFERRY_BIN` names another one, for a build outside dist. */
export const BLOCKFERRY_BIN: string =
  process.env['BLOCKFERRY_BIN'] ?? join(ROOT, 'bin', 'blockferry.cjs');
