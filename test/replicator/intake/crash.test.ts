/**
 * A mirror that is killed, loses power, or loses its link at any moment shows, afterwards and in between, the content of its
 * primary at the end of one epoch: the one that it says it holds, and none before what it acknowledged as durable.
 * Method: seeded histories on the simulator's disk. A primary brings its content by delta runs and streams what follows, over
 * three lanes in any order; a reader looks all the time.
 */
import { describe, expect, test } from 'vitest';
import { MirrorWorld } from './support/mirror-world.ts';

/** More with INTAKE_SEEDS. */
const SEEDS = Number(process.env['INTAKE_SEEDS'] ?? 24);
const EPOCHS = 200;

async function history(seed: number): Promise<MirrorWorld> {
  const world = new MirrorWorld(seed);
  const { model, dice } = world;
  world.journalFileBytes = dice.pick([512, 1024, 4096]) * 1024;
  await world.create();
  for (let count = dice.below(4); count > 0; count -= 1) model.write();
  while (model.last < EPOCHS) {
    if (dice.chance(60)) world.disk.endAfter(dice.pick(['kill', 'cut']), dice.below(600));
    await life(world);
    if (world.disk.ended !== null) world.begin();
    else if (dice.chance(20)) world.restart(dice.pick(['kill', 'cut']));
    else if (dice.chance(10)) {
      await world.done(world.mirror!.close(), 'closing the mirror');
      if (world.disk.ended === null) await world.done(world.store!.close(), 'closing the store');
      world.disk.endNow('kill');
      world.begin();
    } else {
      world.link?.lose();
    }
    await expectPromised(world);
  }
  return world;
}

/** From a connection to its end, or that of the process. */
async function life(world: MirrorWorld): Promise<void> {
  const { model, dice } = world;
  let welcome = await world.connect();
  if (welcome === null) return;
  expect(welcome.position?.epoch ?? 0).toBeGreaterThanOrEqual(world.promised);
  if (welcome.position === null || welcome.run !== null || dice.chance(25)) {
    const resumed =
      welcome.run !== null && openRun.get(world)?.id === welcome.run.id && dice.chance(80);
    if (!resumed) {
      if (dice.chance(70)) model.write();
      const id = dice.bytes(16).toString('hex');
      openRun.set(world, {
        id,
        epoch: model.last,
        full: welcome.position === null || dice.chance(20),
      });
    }
    const run = openRun.get(world)!;
    const abort = dice.chance(25);
    // Often in the middle of it: then the run may still be open, or be over.
    if (abort && dice.chance(70)) world.disk.endAfter(dice.pick(['kill', 'cut']), dice.below(150));
    if (!(await world.run(welcome, { ...run, abort }))) return;
    welcome = { ...welcome, position: { generation: 1, epoch: run.epoch }, run: null };
  }
  await stream(world, welcome.position!.epoch);
}

const openRun = new WeakMap<MirrorWorld, { id: string; epoch: number; full: boolean }>();

async function stream(world: MirrorWorld, after: number): Promise<void> {
  const { model, dice } = world;
  const link = world.link!;
  link.control({ kind: 'stream-begin', generation: 1, after });
  let next = after + 1;
  for (let count = dice.below(40); count > 0 && world.connected; count -= 1) {
    if (next > model.last) model.write();
    world.sendEpoch(next);
    next += 1;
    if (dice.chance(30)) world.readInBackground();
    for (let more = dice.below(25); more > 0 && world.connected; more -= 1) await world.step();
    world.promised = Math.max(world.promised, link.acknowledged);
  }
  if (dice.chance(30)) {
    await world.heard('the last epoch', () => link.positions.aux === next - 1);
    if (world.connected)
      expect(link.positions).toEqual({ epoch: next - 1, index: next - 1, aux: next - 1 });
  }
  world.promised = Math.max(world.promised, link.acknowledged);
}

async function expectPromised(world: MirrorWorld): Promise<void> {
  const { mirror, model } = world;
  const from = mirror!.intake.applied?.epoch ?? 0;
  const content = await world.content();
  if (content === null) return;
  // It may have gone on meanwhile.
  const to = mirror!.intake.applied?.epoch ?? 0;
  const shown = model.states.findLastIndex((_, epoch) => model.isAt(epoch, content));
  const states = model.states.slice(from, to + 1);
  const isState = states.some((_, index) => model.isAt(from + index, content));
  expect(isState, `it holds epoch ${from} to ${to}, and shows ${shown}`).toBe(true);
  expect(mirror!.position().epoch).toBeGreaterThanOrEqual(world.promised);
}

describe('a mirror under crashes', () => {
  test.each(Array.from({ length: SEEDS }, (_, seed) => seed))('seed %i', async (seed) => {
    const world = await history(seed);
    expect(world.reads).toBeGreaterThan(0);
    // Nothing more goes wrong: it comes to the last epoch.
    if (world.disk.ended !== null) world.begin();
    world.disk.forgetEnding();
    world.link?.lose();
    const welcome = await world.connect();
    expect(welcome).not.toBeNull();
    if (welcome!.position === null || welcome!.run !== null) {
      expect(await world.run(welcome!, { full: welcome!.position === null })).toBe(true);
    } else {
      world.link!.control({ kind: 'stream-begin', generation: 1, after: welcome!.position.epoch });
      for (let epoch = welcome!.position.epoch + 1; epoch <= world.model.last; epoch += 1)
        world.sendEpoch(epoch);
    }
    await world.until('the end', () => world.mirror!.intake.applied?.epoch === world.model.last);
    expect(world.model.isAt(world.model.last, (await world.content())!)).toBe(true);
    expect(world.link!.held).toBe(0);
  });
});
