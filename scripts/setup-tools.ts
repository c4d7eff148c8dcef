/**
 * Installs what the tests need of Debian's packages when it may (root on a Debian-like system), else
 * names what is missing. Idempotent; asks the package manager only when a proof fails.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { TOOLS, type Tool } from './tool-list.ts';

const APT_MS_MAX = 10 * 60_000;
/** fsck, mkfs and losetup live in sbin, which is not on every user's PATH. */
const PATH = `${process.env['PATH'] ?? ''}:/usr/local/sbin:/usr/sbin:/sbin`;

export function missingTools(): Tool[] {
  return TOOLS.filter(
    (tool) =>
      spawnSync('sh', ['-c', tool.proof], {
        stdio: 'ignore',
        timeout: 20_000,
        env: { ...process.env, PATH },
      }).status !== 0,
  );
}

function packagesOf(tools: readonly Tool[]): string[] {
  return [...new Set(tools.map((tool) => tool.package))].toSorted();
}

function mayInstall(): boolean {
  return process.getuid?.() === 0 && existsSync('/usr/bin/apt-get');
}

/** Runs apt-get quietly; its output is shown when it fails. */
function apt(args: readonly string[]): boolean {
  const result = spawnSync('apt-get', ['-q', ...args], {
    encoding: 'utf8',
    timeout: APT_MS_MAX,
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  });
  if (result.status === 0) return true;
  console.error(`apt-get ${args.join(' ')} failed:\n${result.stdout}${result.stderr}`);
  return false;
}

/** Returns the tools that are still missing; prints one line for what was done or what to do. */
export function setupTools(): readonly Tool[] {
  const missing = missingTools();
  if (missing.length === 0) {
    console.log(`tools: all ${TOOLS.length} present`);
    return [];
  }
  const packages = packagesOf(missing);
  if (!mayInstall()) {
    console.log(
      `tools: missing ${missing.map((tool) => tool.name).join(' ')}; tests that need them are`,
    );
    console.log(
      `skipped. As root on Debian: apt-get install --no-install-recommends ${packages.join(' ')}`,
    );
    return missing;
  }
  console.log(`tools: installing ${packages.join(' ')}`);
  apt(['update']);
  apt(['install', '-y', '--no-install-recommends', ...packages]);
  const still = missingTools();
  if (still.length > 0) console.log(`tools: still missing ${still.map((t) => t.name).join(' ')}`);
  return still;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  process.exitCode = setupTools().length === 0 ? 0 : 1;
}
