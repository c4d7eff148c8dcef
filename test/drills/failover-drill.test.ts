/**
 * The drill itself, as an operator holds it: one round for each mode, from the built script. It must find
 * everything sound, say so, and leave nothing behind, also when it is interrupted. Its refusals are one line and exit code 2.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { run, start } from '../support/process.ts';
import { ROOT } from '../support/root.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const BUILD = process.env['BLOCKFERRY_BUILD'] ?? join(ROOT, 'dist');
const DRILL = join(BUILD, 'scripts', 'drill.js');
/** A round takes some 20 s on an idle machine. */
const DRILL_MS_MAX = 180_000;

/** In the short form the old primary comes home for each fourth seed. */
const SEED = '20240612';

test.for([
  ['failover', 'async', 'nbd'],
  ['failover', 'sync', 'kernel'],
  ['restart', 'async', 'nbd'],
] as const)('one round of %s, %s, client %s', { timeout: DRILL_MS_MAX }, async (form, context) => {
  const [drill, mode, client] = form;
  requireRoot(context, 'mounting a filesystem');
  requireTools(context, 'nbdfuse', 'nbdcopy', 'losetup', 'mkfs.ext4', 'e2fsck', 'fio', 'sqlite3');
  if (client === 'kernel') requireTools(context, 'linux.uml', 'insmod', 'ip');
  const scope = testScope();
  const directory = scope.tempDir('bf-');
  const args = [DRILL, drill, '--short', '--seed', SEED, '--mode', mode, '--client', client];
  const { stdout } = await run(process.execPath, args, {
    timeoutMs: DRILL_MS_MAX,
    env: { TMPDIR: directory },
  });
  const words = `${mode}${client === 'kernel' ? ', kernel client' : ''}`;
  expect(stdout).toContain(`round 1 of 1: ${drill}, ${words}, seed ${SEED}`);
  expect(stdout).toMatch(/alpha killed \(SIGKILL\) under load/);
  expect(stdout).toMatch(/oracle: .* sound/);
  expect(stdout).toMatch(/fsck clean/);
  if (drill === 'failover') {
    expect(stdout).toMatch(mode === 'sync' ? /RPO 0 acknowledged/ : /RPO [\d,]+ acknowledged/);
    expect(stdout).toMatch(/alpha is back and fenced, a client of it waits/);
    expect(stdout).toMatch(/diverged-\w+ has every write that alpha answered/);
  }
  if (client === 'kernel') {
    expect(stdout).toMatch(/the kernel goes on at beta with its file system mounted/);
    expect(stdout).toMatch(/no I\/O error in its log/);
  }
  expect(stdout).toMatch(/equal, byte for byte/);
  expect(stdout.trimEnd().split('\n').at(-1)).toBe('drill PASSED: 1 of 1 rounds sound');
  expect(readdirSync(directory)).toEqual([]);
  expect(readFileSync('/proc/self/mounts', 'utf8')).not.toContain(directory);
});

test('an interrupted drill leaves nothing behind', { timeout: DRILL_MS_MAX }, async (context) => {
  requireRoot(context, 'mounting a filesystem');
  requireTools(context, 'nbdfuse', 'nbdcopy', 'losetup', 'mkfs.ext4', 'e2fsck', 'fio', 'sqlite3');
  const scope = testScope();
  const directory = scope.tempDir('bf-');
  const drill = start(scope, process.execPath, [DRILL, 'failover'], { env: { TMPDIR: directory } });
  await waitUntil('the load', () => drill.stdout.includes('ext4 mounted'), { timeoutMs: 60_000 });
  drill.signal('SIGINT');
  expect(await drill.waitForExit(60_000)).toBe(true);
  expect(drill.exitCode).toBe(1);
  expect(drill.stdout).toContain('interrupted');
  expect(readdirSync(directory)).toEqual([]);
  expect(readFileSync('/proc/self/mounts', 'utf8')).not.toContain(directory);
});

test.each([
  [[], /the drills/],
  [['flood'], /the drills/],
  [['failover', '--mode', 'perhaps'], /--mode perhaps/],
  [['failover', '--client', 'cat'], /--client cat/],
  [['upgrade', '--client', 'kernel'], /upgrade has no kernel client/],
  [['failover', '--size', '4G'], /--size: failover has its own/],
  [['failback', '--size', '4T'], /--size 4T/],
  [['failover', '--rounds', '0'], /--rounds 0/],
  [['failover', '--seed', '-1'], /seed/],
  [['failover', '--what'], /--what/],
])('refuses %j', async (args, reason) => {
  const result = await run(process.execPath, [DRILL, ...args], { allowFailure: true });
  expect(result.code).toBe(2);
  expect(result.stderr).toMatch(reason);
});
