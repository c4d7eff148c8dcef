/**
 * The mirror's node is killed at random moments, up to ten times in a row: in the initial copy, in delta runs, in the stream. What
 * it shows right after each start, while the link is down, is one state that the volume really had, and no older one than
 * what it showed before; the writers notice nothing, and in the end both sides are equal. The writer of rounds leaves its
 * place in history in the content; fio writes beside it.
 */
import { expect, test } from 'vitest';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep } from '../support/wait.ts';
import { awaitRounds, endLoad, FERRY_TEST, FerryRig, MIB, VOLUME } from './ferry-rig.ts';

const SIZE = 96 * MIB;
/** The rounds are all over the first half, and fio writes into the second. */
const AREA = { blocks: 60, spread: 768 * 1024 };
/** So that a copy or a delta run lasts. */
const SLOW_BYTES = 40 * MIB;

const CASES = [
  { lanes: 1, kills: 4 },
  { lanes: 4, kills: 10 },
];

test.for(CASES)('$kills times, $lanes lanes', FERRY_TEST, async ({ lanes, kills }, context) => {
  requireTools(context, 'fio', 'nbdcopy', 'python3-libnbd');
  const rig = await FerryRig.create(testScope(), { sizeBytes: SIZE, lanes });
  await rig.fill(48 * MIB, SIZE);
  const rounds = rig.rounds(AREA, 1);
  await awaitRounds(rounds, 3);
  const load = rig.load([`--offset=${48 * MIB}`, `--size=${48 * MIB}`]);
  rig.link.throttle(SLOW_BYTES);
  await rig.addMirrors();

  let shown = 0;
  const seen = new Set<string>();
  for (let kill = 0; kill < kills; kill++) {
    await sleep(Math.random() * (kill % 2 === 0 ? 700 : 2000));
    const { state, position } = await rig.alpha.mirror(VOLUME);
    seen.add(state);
    await rig.beta.kill();
    rig.link.cut();
    await rig.beta.start();
    expect((await rig.source()).durable_epoch).toBeGreaterThanOrEqual(position?.epoch ?? 0);
    const writes = await rig.writesShown(AREA);
    expect(writes).toBeGreaterThanOrEqual(shown);
    shown = writes;
    rig.link.restore();
  }
  rig.link.throttle(null);
  await awaitRounds(rounds, 3);
  await rig.waitMirror('streaming under load', ({ state }) => state === 'streaming');
  await rounds.kill();
  await endLoad(load);
  await rig.settle();
  await rig.expectEqual();
  expect(await rig.writesShown(AREA)).toBeGreaterThan(shown);
  expect(shown).toBeGreaterThan(0);
  expect([...seen]).toEqual(expect.arrayContaining(['shipping']));
});
