/**
 * A primary that does what ours never does, and a disk that fills at the wrong moment: the mirror ends the link, or waits, and
 * goes on. Method: as in session.test.ts, a mirror on the simulator's disk, its primary played by the test; each case is tried
 * at many moments.
 */
import { describe, expect, test } from 'vitest';
import type { DeviceRequest } from '../../../src/io/device.ts';
import { FrameKind } from '../../../src/replicator/link/link-types.ts';
import { encodeCommand } from '../../../src/replicator/link/messages.ts';
import { GENERATIONS, type MirrorWorld } from './support/mirror-world.ts';
import { streaming } from './support/streaming-world.ts';

const ENOSPC = 28;
const RUN = 'ab'.repeat(16);

function beginRun(world: MirrorWorld, epoch: number): void {
  world.link!.control({
    kind: 'run-begin',
    number: 9,
    run: RUN,
    generation: 1,
    epoch,
    time: 5,
    sizeBytes: world.model.sizeBytes,
    generations: GENERATIONS,
    full: false,
  });
}

async function deliverAll(world: MirrorWorld): Promise<void> {
  await world.until('the delivery', () => world.link!.queued === 0 || !world.connected);
}

describe('a run that is begun', () => {
  test.each(Array.from({ length: 40 }, (_, seed) => seed))(
    'ends the stream at once, whatever still comes of it (seed %i)',
    async (seed) => {
      const world = await streaming(seed);
      const { model, link } = world;
      const before = model.last;
      model.write();
      world.sendEpoch(model.last);
      await deliverAll(world);
      beginRun(world, before + 50);
      while (link!.queued > 0) link!.deliver();
      for (let steps = seed % 20; steps > 0; steps -= 1) await world.step();
      for (let count = 0; count < 3; count += 1) {
        model.write();
        world.sendEpoch(model.last);
        while (link!.queued > 0 && link!.deliver());
        await world.step();
      }
      await world.heard('run-ready', () => link!.controls.some(({ kind }) => kind === 'run-ready'));
      const held = world.mirror!.position().epoch;
      expect(held).toBeLessThanOrEqual(before + 1);
      expect(model.isAt(held, (await world.content())!)).toBe(true);
      link!.lose();
      await world.until('the session', () => world.mirror!.sourceStatus().state === 'waiting');
      expect(link!.held).toBe(0);
    },
  );
});

describe('a mirror whose disk is full', () => {
  test.each(Array.from({ length: 20 }, (_, seed) => seed))(
    'shows whole epochs, also the one that found space only in part (seed %i)',
    async (seed) => {
      const world = await streaming(seed);
      const { model, link, mirror } = world;
      const { volume } = mirror!;
      const write = volume.write.bind(volume);
      const zero = volume.zero.bind(volume);
      let changes = 0;
      const full = (): boolean => (changes += 1) > 2 && (changes + seed) % 3 !== 0;
      Object.assign(volume, {
        write: (request: DeviceRequest) => (full() ? ENOSPC : write(request)),
        zero: (request: DeviceRequest) => (full() ? ENOSPC : zero(request)),
      });
      const before = model.last;
      while (mirror!.sourceStatus().state === 'streaming') {
        model.write();
        world.sendEpoch(model.last);
        while (link!.queued > 0 && link!.deliver());
        await world.step();
      }
      for (let count = 0; count < 10; count += 1) {
        const content = (await world.content())!;
        const { applied_epoch: applied } = mirror!.sourceStatus();
        expect(applied).toBeGreaterThanOrEqual(before);
        expect([applied, applied + 1].some((epoch) => model.isAt(epoch, content))).toBe(true);
        for (let steps = 20; steps > 0; steps -= 1) await world.step();
      }
      Object.assign(volume, { write, zero });
      const { epoch } = mirror!.position();
      await world.until('the rest', () => mirror!.sourceStatus().applied_epoch === epoch);
      expect(model.isAt(epoch, (await world.content())!)).toBe(true);
    },
  );

  test('can be closed while a run waits for what came before it to be applied', async () => {
    const world = await streaming(3);
    const { model, link, mirror } = world;
    // The journal has its space; what it holds finds none in the volume.
    Object.assign(mirror!.volume, { write: () => ENOSPC, zero: () => ENOSPC });
    model.write();
    world.sendEpoch(model.last);
    while (link!.deliver());
    beginRun(world, model.last + 1);
    while (link!.deliver());
    await world.until('the end', () => link!.endedBy !== null);
    expect(mirror!.sourceStatus().last_error).toContain('full');
    await world.done(mirror!.close(), 'closing');
    expect(link!.held).toBe(0);
  });
});

test('what was kept for comparing goes with the next run, when its link was lost before it was applied', async () => {
  let left = 0;
  for (let seed = 0; seed < 30; seed += 1) {
    const world = await streaming(seed);
    const { model, link } = world;
    model.write();
    const command = encodeCommand({ kind: 'freeze', id: 'fe'.repeat(16) });
    model.frames.get(model.last)!.push({ kind: FrameKind.COMMAND, payload: command });
    world.sendEpoch(model.last);
    await deliverAll(world);
    for (let steps = seed % 10; steps > 0; steps -= 1) await world.step();
    link!.lose();
    await world.until('the session', () => world.mirror!.sourceStatus().state === 'waiting');
    for (let steps = 200; steps > 0; steps -= 1) await world.step();
    const { snapshots } = world.mirror!.volume;
    left += snapshots.hidden.length;
    world.runNumber = 0;
    const welcome = await world.connect();
    expect(await world.run(welcome!, { full: true })).toBe(true);
    expect(snapshots.hidden).toEqual([]);
  }
  expect(left).toBeGreaterThan(0);
});
