/**
 * The mirror's node is killed at random moments, again and again: in the initial copy and in delta runs, where alpha keeps
 * nothing for a lost link, and in the stream, which goes on without a delta run where it does. What it shows right after each
 * start, while the link is down, is one state that the volume really had, and no older one than what it showed before; the
 * writers notice nothing, and in the end both sides are equal. The writer of rounds leaves its place in history in the content.
 */
import { expect, test } from 'vitest';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep } from '../support/wait.ts';
import { awaitRounds, endLoad, FERRY_TEST, FerryRig, MIB, VOLUME } from './ferry-rig.ts';

const SIZE = 96 * MIB;
/** The rounds are all over the volume, and fio writes between them: so a run is long between their blocks too. */
const AREA = { blocks: 125, spread: 768 * 1024 };
const BETWEEN = ['--offset=4k', '--blockalign=768k', '--bs=256k', '--rate_iops=60'];
/** In a bridged stream, so slowly that no other cause for a delta run comes up while beta is away, however long that is. */
const BRIDGED_PACE = { pauseMs: 250 };
const KILLS = 5;
/** When it dies: at a random moment from the beginning of this on. The first one is the initial copy. */
const PHASES = ['shipping', 'streaming', 'shipping'];
/** So that a copy or a delta run lasts. */
const SLOW_BYTES = 40 * MIB;
const KILLS_IN_STREAM = 3;
/** Longer than beta is away, however slow the machine. */
const GRACE_SECONDS = 120;

/** Kills beta and starts it again, with the link down meanwhile; the rounds that it shows then, at least `shown`. */
async function killOnce(rig: FerryRig, shown: number): Promise<number> {
  const { position } = await rig.alpha.mirror(VOLUME);
  await rig.beta.kill();
  rig.link.cut();
  await rig.beta.start();
  // Reads wait until the journal is taken up again.
  const writes = await rig.writesShown(AREA);
  expect(writes).toBeGreaterThanOrEqual(shown);
  expect((await rig.source()).durable_epoch).toBeGreaterThanOrEqual(position?.epoch ?? 0);
  rig.link.restore();
  return writes;
}

test('kill -9 of the mirror, in copies and in the stream', FERRY_TEST, async (context) => {
  requireTools(context, 'fio', 'nbdcopy', 'python3-libnbd');
  const rig = await FerryRig.create(testScope(), { sizeBytes: SIZE, lanes: 4, graceSeconds: 0 });
  await rig.fill(0, SIZE);
  const rounds = rig.rounds(AREA, 1);
  await awaitRounds(rounds, 3);
  const load = rig.load([...BETWEEN, `--size=${SIZE - MIB}`]);
  rig.link.throttle(SLOW_BYTES);
  await rig.addMirrors();

  let shown = 0;
  const seen = new Set<string>();
  for (let kill = 0; kill < KILLS; kill++) {
    const phase = PHASES[kill % PHASES.length];
    await rig.waitMirror(`${phase}`, (mirror) => mirror.state === phase);
    await sleep(Math.random() * (kill === 0 ? 2000 : 600));
    seen.add((await rig.alpha.mirror(VOLUME)).state);
    shown = await killOnce(rig, shown);
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
  expect([...seen]).toEqual(expect.arrayContaining(['shipping', 'streaming']));
});

test('kill -9 of the mirror in a stream that is bridged', FERRY_TEST, async (context) => {
  requireTools(context, 'nbdcopy', 'python3-libnbd');
  const options = { sizeBytes: SIZE, lanes: 2, graceSeconds: GRACE_SECONDS };
  const rig = await FerryRig.inStep(testScope(), options);
  const rounds = rig.rounds(AREA, 1, BRIDGED_PACE);
  const before = await rig.alpha.mirror(VOLUME);
  let shown = 0;
  for (let kill = 0; kill < KILLS_IN_STREAM; kill++) {
    await awaitRounds(rounds, 3);
    await sleep(Math.random() * 200);
    shown = await killOnce(rig, shown);
    await rig.waitMirror('the stream again', ({ state }) => state === 'streaming');
  }
  await awaitRounds(rounds, 3);
  await rounds.kill();
  const { delta_bytes_sent, bytes_compared } = await rig.settle();
  expect({ delta_bytes_sent, bytes_compared }).toEqual({
    delta_bytes_sent: before.delta_bytes_sent,
    bytes_compared: before.bytes_compared,
  });
  await rig.expectEqual();
  expect(await rig.writesShown(AREA)).toBeGreaterThan(shown);
  expect(shown).toBeGreaterThan(0);
});
