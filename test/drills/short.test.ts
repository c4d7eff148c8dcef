/**
 * Every drill in its short form, as an operator holds it, from the built script: what the drills find is that nothing is lost that
 * may not be, and that both sides come in step again (docs/operating/drills.md). failover-drill.test.ts has those that
 * are held in both modes, and what all have in common.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { RoundResult } from '../../scripts/drill/frame.ts';
import { DRILLS } from '../../scripts/drill/table.ts';
import { run } from '../support/process.ts';
import { ROOT } from '../support/root.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';

const BUILD = process.env['BLOCKFERRY_BUILD'] ?? join(ROOT, 'dist');
const DRILL = join(BUILD, 'scripts', 'drill.js');
/** Most take ten to twenty seconds on an idle machine. */
const DRILL_MS_MAX = 240_000;
const ELSEWHERE = new Set(['failover', 'restart']);
/** Held in sync mode here; the others in the first of their modes. */
const SYNC = new Set(['both-crash', 'power-cut']);
/** Held with a Linux kernel that has a volume attached. */
const KERNEL = new Set(['link-outage', 'switchover']);
const KERNEL_TOOLS = ['linux.uml', 'insmod', 'ip', 'e2fsck'];

test.for(DRILLS.filter(({ name }) => !ELSEWHERE.has(name)).map(({ name }) => name))(
  '%s',
  { timeout: DRILL_MS_MAX },
  async (name, context) => {
    requireRoot(context, 'mounting a filesystem');
    requireTools(context, 'nbdfuse', 'nbdcopy', 'nbdkit', 'losetup', 'mkfs.ext4', 'fio', 'sqlite3');
    if (KERNEL.has(name)) requireTools(context, ...KERNEL_TOOLS);
    const scope = testScope();
    const directory = scope.tempDir('bf-');
    const json = join(scope.tempDir('bf-json-'), 'result.json');
    const mode = SYNC.has(name) ? 'sync' : 'async';
    const client = KERNEL.has(name) ? 'kernel' : 'nbd';
    const words = ['--short', '--seed', '20240613', '--mode', mode, '--client', client];
    const args = [DRILL, name, ...words, '--json', json];
    const { code, stdout, stderr } = await run(process.execPath, args, {
      timeoutMs: DRILL_MS_MAX,
      env: { TMPDIR: directory },
      allowFailure: true,
    });
    const [result] = JSON.parse(readFileSync(json, 'utf8')) as RoundResult[];
    if (code !== 0) console.error(`${stdout}${stderr}`);
    // What the machine lacks the tools would have told of.
    if (result?.outcome === 'skipped' && !KERNEL.has(name))
      console.warn(`${name} was not held: ${result.why ?? ''}`);
    else expect(result).toMatchObject({ outcome: 'sound', violations: [], why: null });
    expect(code).toBe(0);
    expect(result).toMatchObject({ drill: name, mode, client });
    expect(readdirSync(directory)).toEqual([]);
    expect(readFileSync('/proc/self/mounts', 'utf8')).not.toContain(directory);
  },
);
