/**
 * A synchronous mirror: the primary is killed the moment a FLUSH was answered, and what the mirror then shows has
 * everything that was flushed, and is one state that the volume had. Several volumes at once, kill after kill;
 * BLOCKFERRY_FERRY_ROUNDS says how many.
 */
import { expect, test } from 'vitest';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep, waitUntil } from '../support/wait.ts';
import { awaitRounds, FERRY_TEST, FerryRig, lastRound, MIB } from './ferry-rig.ts';

const KILLS = Number(process.env['BLOCKFERRY_FERRY_ROUNDS'] ?? 10);
const MS_A_KILL_MAX = 15_000;
const AREA = { blocks: 16, spread: 512 * 1024 };
const VOLUMES = ['one', 'two', 'three', 'four'];

test(
  'what was flushed is there',
  { timeout: FERRY_TEST.timeout + KILLS * MS_A_KILL_MAX },
  async (context) => {
    requireTools(context, 'nbdcopy', 'python3-libnbd');
    const rig = await FerryRig.inStep(testScope(), {
      sizeBytes: 8 * MIB,
      mode: 'sync',
      volumes: VOLUMES,
    });
    let next = 1;
    for (let kill = 0; kill < KILLS; kill++) {
      const writers = VOLUMES.map((volume) => ({
        volume,
        rounds: rig.rounds(AREA, next, { volume }),
      }));
      await Promise.all(writers.map(({ rounds }) => awaitRounds(rounds, next)));
      await sleep(Math.random() * 100);
      const [first] = writers;
      if (first !== undefined) await awaitRounds(first.rounds, 1);
      await rig.alpha.kill();
      for (const { volume, rounds } of writers) {
        await rounds.waitForExit(20_000);
        await waitUntil(`${volume} to be shown`, () => rig.applied(volume), { everyMs: 5 });
        const flushed = lastRound(rounds) * AREA.blocks;
        expect(await rig.writesShown(AREA, volume)).toBeGreaterThanOrEqual(flushed);
        next = Math.max(next, lastRound(rounds) + 2);
      }
      await rig.alpha.start();
      await rig.settle();
    }
    await rig.expectEqual();
  },
);
