/** The Nodes that blockferry runs under: the one that runs this, and others as npm packages. */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../test/support/process.ts';
import type { Scope } from '../../test/support/scope.ts';

const INSTALL_MS_MAX = 300_000;

export interface Runtime {
  /** Of the contender: `blockferry`, `blockferry Node 24`. */
  readonly name: string;
  /** What the binary says: `v24.1.0`. */
  readonly version: string;
  /** The binary, and flags for it. */
  readonly command: readonly string[];
  /** It leaves a CPU profile when it stops. */
  readonly profiled: boolean;
}

/** Where every process leaves a CPU profile when it stops; null for none. */
type ProfileDir = string | null;

function commandOf(binary: string, dir: ProfileDir): string[] {
  return dir === null ? [binary] : [binary, '--cpu-prof', '--cpu-prof-dir', dir];
}

export function ownRuntime(profile: ProfileDir): Runtime {
  const command = commandOf(process.execPath, profile);
  return { name: 'blockferry', version: process.version, command, profiled: profile !== null };
}

/** Installs `node@VERSION` into a directory that goes with the scope. */
export async function installRuntime(
  scope: Scope,
  version: string,
  profile: ProfileDir,
  parent: string,
): Promise<Runtime> {
  const dir = scope.tempDir('bf-bench-node-', parent);
  const quiet = ['--no-save', '--no-audit', '--no-fund'];
  const args = ['install', ...quiet, '--prefix', dir, `node@${version}`];
  const { stdout, stderr } = await run('npm', args, { timeoutMs: INSTALL_MS_MAX, cwd: dir });
  const binary = join(dir, 'node_modules', 'node', 'bin', 'node');
  if (!existsSync(binary)) {
    throw new Error(`npm install node@${version} brought no binary:\n${stdout}${stderr}`);
  }
  const said = (await run(binary, ['--version'])).stdout.trim();
  return {
    name: `blockferry Node ${version}`,
    version: said,
    command: commandOf(binary, profile),
    profiled: profile !== null,
  };
}

export async function runtimesOf(
  scope: Scope,
  versions: readonly string[],
  profile: ProfileDir,
  parent: string,
): Promise<Runtime[]> {
  if (profile !== null) mkdirSync(profile, { recursive: true });
  const runtimes = [ownRuntime(profile)];
  for (const version of versions) {
    runtimes.push(await installRuntime(scope, version, profile, parent));
  }
  return runtimes;
}
