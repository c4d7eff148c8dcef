/**
 * A mirror that is asked to take over, and what comes at the wrong moment: another epoch, a promotion, a full disk. Method: as in
 * session.test.ts, a mirror on the simulator's disk, its primary played by the test; each case is tried at many moments.
 */
import { expect, test } from 'vitest';
import { BlockferryError } from '../../../src/io/errors.ts';
import type { MirrorWorld } from './support/mirror-world.ts';
import { streaming } from './support/streaming-world.ts';

const ENOSPC = 28;
const ID = 'ee'.repeat(16);
const SEEDS = Array.from({ length: 40 }, (_, seed) => seed);

function ask(world: MirrorWorld, id: string = ID): void {
  const { last: epoch } = world.model;
  world.link!.control({ kind: 'hand-over', id, epoch, split: false, back: null });
  while (world.link!.queued > 0 && world.link!.deliver());
}

function answerOf(world: MirrorWorld): string | null {
  const { controls } = world.link!;
  const answer = controls.find(({ kind }) => kind === 'handed-over' || kind === 'handover-refused');
  return answer?.kind ?? null;
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'none';
  } catch (thrown) {
    return thrown instanceof BlockferryError ? thrown.code : String(thrown);
  }
}

test.each(SEEDS)(
  'an epoch behind the question is no part of the new line (seed %i)',
  async (seed) => {
    const world = await streaming(seed);
    const { mirror, model, link } = world;
    const { volume } = mirror!;
    const asked = model.last;
    ask(world);
    for (let steps = seed; steps > 0; steps -= 1) await world.step();
    model.write();
    world.sendEpoch(model.last);
    while (link!.queued > 0 && link!.deliver());
    await world.until('the answer', () => answerOf(world) !== null);
    if (answerOf(world) === 'handed-over') {
      expect(volume.metadata.state).toMatchObject({ source: null, generation: 2 });
      expect(volume.metadata.state.generations.at(-1)).toMatchObject({ firstEpoch: asked + 1 });
      await world.done(mirror!.close(), 'closing');
      expect(mirror!.intake.applied!.epoch).toBe(asked);
    } else {
      expect(volume.metadata.state.source).not.toBeNull();
    }
  },
);

test('a policy keeps the primary from giving its writes away, and the stream goes on', async () => {
  const world = await streaming(1);
  const { volume } = world.mirror!;
  volume.metadata.append({ kind: 'source-policy', refuses: ['handover'] });
  expect(await world.done(volume.commit(), 'the policy')).toBe(0);
  ask(world);
  await world.until('the answer', () => answerOf(world) !== null);
  expect(world.link!.controls.at(-1)).toMatchObject({
    kind: 'handover-refused',
    message: expect.stringContaining('--refuse none') as string,
  });
  expect(volume.metadata.state).toMatchObject({
    generation: 1,
    source: { node: expect.anything() },
  });
  world.model.write();
  world.sendEpoch(world.model.last);
  while (world.link!.queued > 0 && world.link!.deliver());
  await world.until('it', () => world.mirror!.intake.applied?.epoch === world.model.last);
});

test('a question that names a generation that was opened before changes nothing', async () => {
  const world = await streaming(1);
  const { volume } = world.mirror!;
  const [opened] = volume.metadata.state.generations;
  ask(world, opened!.id);
  await world.until('the answer', () => answerOf(world) !== null);
  expect(answerOf(world)).toBe('handover-refused');
  world.model.write();
  world.sendEpoch(world.model.last);
  while (world.link!.queued > 0 && world.link!.deliver());
  await world.until('it', () => world.mirror!.intake.applied?.epoch === world.model.last);
  expect(await world.done(world.mirror!.intake.checkpoint(), 'the position')).toBe(0);
  expect(volume.metadata.state).toMatchObject({
    generation: 1,
    source: { node: expect.anything() },
    position: { epoch: world.model.last },
  });
});

test.each(SEEDS)('a promotion and a takeover exclude each other (seed %i)', async (seed) => {
  const world = await streaming(seed);
  const { mirror } = world;
  const { metadata } = mirror!.volume;
  ask(world);
  for (let steps = seed % 13; steps > 0; steps -= 1) await world.step();
  const code = await world.done(
    codeOf(mirror!.promote({ force: true, keptAs: null })),
    'a promotion',
  );
  expect(['none', 'BUSY']).toContain(code);
  if (code === 'BUSY') await world.until('the answer', () => answerOf(world) !== null);
  expect(metadata.state).toMatchObject({ source: null, generation: 2 });
  await world.done(mirror!.close(), 'closing');
});

test.each(SEEDS.slice(0, 24))(
  'a promotion while the node stops ends, and gives nothing up that was acknowledged (seed %i)',
  async (seed) => {
    const world = await streaming(seed);
    const { mirror, model, link } = world;
    const { metadata } = mirror!.volume;
    for (let count = 0; count < 6; count += 1) {
      model.write();
      world.sendEpoch(model.last);
    }
    while (link!.queued > 0 && link!.deliver());
    for (let steps = seed; steps > 0; steps -= 1) await world.step();
    const promote = (): Promise<string> => codeOf(mirror!.promote({ force: true, keptAs: null }));
    const close = (): Promise<void> => mirror!.close();
    const first = seed % 2 === 0 ? promote() : close();
    for (let steps = seed % 7; steps > 0; steps -= 1) await world.step();
    const second = seed % 2 === 0 ? close() : promote();
    await world.done(Promise.all([first, second]), 'both');
    const code = await (seed % 2 === 0 ? first : second);
    const { epoch } = mirror!.position();
    if (code === 'none') {
      expect(metadata.state).toMatchObject({ source: null, generation: 2 });
      expect(metadata.state.generations.at(-1)).toMatchObject({ firstEpoch: epoch + 1 });
    } else {
      expect(['SHUTTING_DOWN', 'METADATA_WRITE_FAILED']).toContain(code);
      expect(metadata.state).toMatchObject({ source: { node: 'one' }, generation: 1 });
    }
  },
);

test.each(SEEDS.slice(0, 10))(
  'a promotion that found no space is tried again (seed %i)',
  async (seed) => {
    const world = await streaming(seed);
    const { volume } = world.mirror!;
    const { epoch } = world.mirror!.position();
    const commit = volume.commit.bind(volume);
    const { metadata } = volume;
    // The commit that opens the generation.
    const full = (): Promise<number> =>
      metadata.state.source === null ? Promise.resolve(ENOSPC) : commit();
    const twin = { id: 'ab'.repeat(16), name: 'monday', createdAt: 1 };
    const mark = { generation: 1, epoch, shipped: true };
    await world.done(volume.snapshots.keepTwin(twin, null, mark, []), 'a snapshot');
    Object.assign(volume, { commit: full });
    const promote = () => world.mirror!.promote({ force: true, keptAs: null });
    expect(await world.done(codeOf(promote()), 'a promotion')).toBe('METADATA_WRITE_FAILED');
    expect(metadata.state).toMatchObject({ source: { node: 'one' }, generation: 1 });
    expect(metadata.state.snapshots.get(twin.id)).toMatchObject({ mark });
    Object.assign(volume, { commit });
    expect(await world.done(promote(), 'a promotion')).toMatchObject({ generation: 2, epoch });
    expect(metadata.state).toMatchObject({ source: null, generation: 2 });
  },
);

test('a takeover that found no space leaves the snapshots of the primary those of the primary', async () => {
  const world = await streaming(3);
  const { volume } = world.mirror!;
  const { metadata } = volume;
  const twin = { id: 'ab'.repeat(16), name: 'monday', createdAt: 1 };
  const mark = { generation: 1, epoch: world.model.last, shipped: true };
  await world.done(volume.snapshots.keepTwin(twin, null, mark, []), 'a snapshot');
  const commit = volume.commit.bind(volume);
  const full = (): Promise<number> =>
    metadata.state.source === null ? Promise.resolve(ENOSPC) : commit();
  Object.assign(volume, { commit: full });
  ask(world);
  await world.until('the answer', () => answerOf(world) !== null);
  expect(answerOf(world)).toBe('handover-refused');
  Object.assign(volume, { commit });
  expect(await world.done(volume.commit(), 'what was taken back')).toBe(0);
  world.restart('kill');
  const { state } = world.mirror!.volume.metadata;
  expect(state.source).toMatchObject({ node: 'one' });
  expect(state.snapshots.get(twin.id)).toMatchObject({ name: 'monday', mark });
});

test('a primary that knows of no handover is not asked for one', async () => {
  const world = await streaming(1);
  const wish = { split: false, withinMs: 1000, back: null };
  expect(await world.done(world.mirror!.want(wish), 'asking')).toMatch(/older version/);
});
