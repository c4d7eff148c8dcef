/**
 * Primary and mirror die under load, in either order, and come back in either order: both sides become
 * equal without a command, and nothing that was acknowledged is missing on the primary.
 */
import { test } from 'vitest';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep } from '../support/wait.ts';
import { awaitLoad, CRASH_TEST, MIB, Rig } from './rig.ts';

const NAMES = ['alpha', 'beta'] as const;
const ORDERS = NAMES.flatMap((firstKilled) =>
  NAMES.map((firstStarted) => ({ firstKilled, firstStarted })),
);

test.for(ORDERS)(
  'killed $firstKilled first, started $firstStarted first',
  CRASH_TEST,
  async ({ firstKilled, firstStarted }, context) => {
    requireTools(context, 'fio', 'nbdcopy');
    const rig = await Rig.create(testScope(), { sizeBytes: 64 * MIB });
    const load = rig.load();
    await awaitLoad(rig, load, 2000);
    const kills = firstKilled === 'alpha' ? [rig.alpha, rig.beta] : [rig.beta, rig.alpha];
    for (const node of kills) {
      await node.kill();
      await sleep(300);
    }
    await load.waitForExit(20_000);
    const starts = firstStarted === 'alpha' ? [rig.alpha, rig.beta] : [rig.beta, rig.alpha];
    for (const node of starts) {
      await node.start();
      await sleep(300);
    }
    await rig.settle();
    await rig.expectEqual();
    await rig.expectNothingLost();
  },
);
