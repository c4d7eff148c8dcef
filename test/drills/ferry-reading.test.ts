/**
 * A client reads the mirror while the primary is under load and the link comes and goes: each read, of all the blocks at
 * once, shows one state that the volume really had, and never an older one than the read before. So a delta run appears
 * whole, and so does an epoch.
 */
import { expect, test } from 'vitest';
import { join } from 'node:path';
import { LIBNBD_SCRIPTS } from '../support/libnbd.ts';
import { start } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep } from '../support/wait.ts';
import { awaitRounds, endLoad, FERRY_TEST, FerryRig, MIB, VOLUME } from './ferry-rig.ts';

const SIZE = 32 * MIB;
/** All over the volume, and one read of 31 MiB covers it. fio writes between: so a run is long between the blocks too. */
const AREA = { blocks: 31, spread: MIB };
const BETWEEN = ['--offset=4k', '--blockalign=1m', '--bs=512k', '--rate_iops=40'];
const READ_MIN = 20;

test('reads of the mirror', FERRY_TEST, async (context) => {
  requireTools(context, 'fio', 'nbdcopy', 'python3-libnbd');
  const scope = testScope();
  const rig = await FerryRig.inStep(scope, { sizeBytes: SIZE, lanes: 4 });
  const rounds = rig.rounds(AREA, 1);
  const load = rig.load([...BETWEEN, `--size=${SIZE - MIB}`]);
  const script = join(LIBNBD_SCRIPTS, 'read_rounds.py');
  const where = [rig.beta.uri(VOLUME), String(AREA.blocks), String(AREA.spread)];
  const reader = start(scope, '/usr/bin/python3', ['-B', script, ...where]);
  await awaitRounds(rounds, 20);
  for (let cut = 0; cut < 3; cut++) {
    rig.link.cut();
    await sleep(400);
    rig.link.throttle(cut % 2 === 0 ? 20 * MIB : null);
    rig.link.restore();
    await rig.waitMirror('streaming', ({ state }) => state === 'streaming');
    await sleep(300);
  }
  rig.link.throttle(null);
  await awaitRounds(rounds, 20);
  await rounds.kill();
  await endLoad(load);
  reader.signal('SIGTERM');
  await reader.waitForExit(10_000);
  expect(reader.stderr).toBe('');
  const [reads = 0, states = 0] = reader.stdout.trim().split(' ').map(Number);
  expect(reads).toBeGreaterThan(READ_MIN);
  expect(states).toBeGreaterThan(READ_MIN / 2);
  await rig.settle();
  await rig.expectEqual();
});
