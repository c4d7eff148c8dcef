/**
 * The drill itself, as an operator holds it: one round for each mode, from the built script. It must find
 * everything sound, say so, and leave nothing behind. Its refusals are one line and exit code 2.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { run } from '../support/process.ts';
import { ROOT } from '../support/root.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';

const BUILD = process.env['BLOCKFERRY_BUILD'] ?? join(ROOT, 'dist');
const DRILL = join(BUILD, 'scripts', 'drill.js');
const DRILL_MS_MAX = 90_000;

test.for(['async', 'sync'] as const)(
  'one round, %s',
  { timeout: DRILL_MS_MAX },
  async (mode, context) => {
    requireRoot(context, 'mounting a filesystem');
    requireTools(context, 'nbdfuse', 'nbdcopy', 'losetup', 'mkfs.ext4', 'e2fsck', 'fio');
    const scope = testScope();
    const directory = scope.tempDir('bf-');
    const args = [DRILL, 'failover', '--seed', '20240613', '--mode', mode];
    const { stdout } = await run(process.execPath, args, {
      timeoutMs: DRILL_MS_MAX,
      env: { TMPDIR: directory },
    });
    expect(stdout).toContain(`round 1 of 1: failover, ${mode}, seed 20240613`);
    expect(stdout).toMatch(/alpha killed \(SIGKILL\) under load/);
    expect(stdout).toMatch(/oracle: .* sound/);
    expect(stdout).toMatch(/fsck clean/);
    expect(stdout).toMatch(/equal, byte for byte/);
    expect(stdout.trimEnd().split('\n').at(-1)).toBe('drill PASSED: 1 of 1 rounds sound');
    expect(readdirSync(directory)).toEqual([]);
    expect(readFileSync('/proc/self/mounts', 'utf8')).not.toContain(directory);
  },
);

test.each([
  [[], /one drill/],
  [['flood'], /one drill/],
  [['failover', '--mode', 'perhaps'], /--mode perhaps/],
  [['failover', '--rounds', '0'], /--rounds 0/],
  [['failover', '--seed', '-1'], /seed/],
  [['failover', '--what'], /--what/],
])('refuses %j', async (args, reason) => {
  const result = await run(process.execPath, [DRILL, ...args], { allowFailure: true });
  expect(result.code).toBe(2);
  expect(result.stderr).toMatch(reason);
});
