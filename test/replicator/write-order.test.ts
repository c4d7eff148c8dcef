/**
 * What a mirror holds after its own power cut, at any moment at which its status calls it consistent: all that
 * the host had flushed before any surviving write was issued (a disk with a write cache promises no
 * less); with a synchronous mirror that is killed but keeps its power, all that was answered.
 * Random writes, zeroes, flushes and cuts of the link, seeded; the mirror answers in random order. The judge
 * is the drill's oracle, which uses nothing of the program.
 */
import { describe, expect, it } from 'vitest';
import { waitUntil } from '../support/wait.ts';
import { testScope } from '../support/tools.ts';
import { seeded, stamped } from './support/host.ts';
import { LoggedHost } from './support/logged-host.ts';
import { MIB, Rig } from './support/rig.ts';

const SIZE = 8 * MIB;
const BLOCKS = SIZE / 4096;

interface Load {
  readonly host: LoggedHost;
  readonly random: () => number;
  stamp: number;
}

/** One request of the load; most are answered in the same turn. */
function request(load: Load): Promise<void> {
  const { host, random } = load;
  const dice = random();
  if (dice < 0.08) return host.flush();
  load.stamp += 1;
  if (dice < 0.16) {
    const sector = Math.floor(random() * (SIZE / 512 - 64));
    return host.write(sector * 512, stamped((1 + Math.floor(random() * 40)) * 512, load.stamp));
  }
  const block = Math.floor(random() * (BLOCKS - 8));
  const length = (1 + Math.floor(random() * 8)) * 4096;
  if (dice < 0.2) return host.zero(block * 4096, length);
  return host.write(block * 4096, stamped(length, load.stamp), dice > 0.97);
}

const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

describe('the order of writes on a mirror', () => {
  it.each([1, 2, 3])(
    'holds at every moment of a power cut of the mirror (seed %i)',
    async (seed) => {
      const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
      const random = seeded(seed);
      const load: Load = { host: new LoggedHost(rig), random, stamp: 0 };
      const mirror = await rig.mirrored();
      // Both regions are hot from now on: requests that overlap are applied as they come.
      await load.host.write(0, stamped(4096, 1));
      await load.host.write(4 * MIB, stamped(4096, 1));
      mirror.device.shuffleAnswers(random);
      let judged = 0;
      let flushesInForce = 0;
      // A slow machine needs more of them until the mirror was consistent often enough.
      for (let round = 0; round < 60 || (judged <= 10 && round < 600); round += 1) {
        const under: Promise<void>[] = [];
        for (let index = 0; index < 30; index += 1) {
          under.push(request(load));
          if (random() < 0.15) await pause(random() * 6);
        }
        if (rig.status().consistent) {
          const left = mirror.device.afterPowerCut(() => random() < 0.5);
          const verdict = load.host.judge(left);
          expect(verdict.violations).toEqual([]);
          judged += 1;
          flushesInForce = Math.max(flushesInForce, verdict.flushesInForce);
        }
        if (round < 60 && round % 20 === 7) {
          mirror.powerCut(() => random() < 0.5);
          mirror.device.shuffleAnswers(random);
        }
        if (round < 60 && round % 20 === 15) mirror.cut();
        await Promise.all(under);
      }
      expect(judged).toBeGreaterThan(10);
      expect(flushesInForce).toBeGreaterThan(5);
      await rig.equal(mirror);
    },
  );

  it('calls no mirror consistent that has the blocks of a delta run but not what was staged meanwhile', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 32 * MIB });
    const host = new LoggedHost(rig);
    for (let at = 0; at < 32 * MIB; at += MIB) await host.write(at, stamped(MIB, at / MIB));
    const mirror = await rig.mirror();
    const { device } = mirror;
    device.onAsked = ({ operation }) => operation === 'write' && device.stall();
    await rig.addMirror(mirror);
    // The first blocks are on their way; the last ones are not even read.
    await waitUntil('the run to be under way', () => device.heldCount === 8);
    await host.write(0, stamped(4096, 100));
    await host.flush();
    await host.write(32 * MIB - 4096, stamped(4096, 101));
    device.onAsked = ({ operation, offset, length }) =>
      operation === 'write' && offset === 0 && length === 4096 && device.stall();
    device.resume();
    await waitUntil('the end of the run', () => device.heldCount > 0);
    expect(host.judge(device.afterPowerCut(() => true)).ok).toBe(false);
    expect(rig.status()).toMatchObject({ state: 'shipping', consistent: false, position: null });
    device.onAsked = null;
    device.resume();
    await rig.equal(mirror);
    expect(rig.status()).toMatchObject({ state: 'streaming', consistent: true });
    expect(host.judge(device.afterPowerCut(() => false)).violations).toEqual([]);
  });

  it.each([6, 7])(
    'holds all that was answered when the mirror is synchronous (seed %i)',
    async (seed) => {
      const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
      const random = seeded(seed);
      const load: Load = { host: new LoggedHost(rig), random, stamp: 0 };
      const mirror = await rig.mirrored({ mode: 'sync' });
      await load.host.write(0, stamped(4096, 1));
      await load.host.write(4 * MIB, stamped(4096, 1));
      mirror.device.shuffleAnswers(random);
      for (let round = 0; round < 15; round += 1) {
        const under: Promise<void>[] = [];
        for (let index = 0; index < 20; index += 1) {
          under.push(request(load));
          if (random() < 0.2) await pause(random() * 5);
        }
        const killed = load.host.judge(
          mirror.device.afterPowerCut(() => true),
          'sync',
        );
        expect(killed.violations).toEqual([]);
        const cut = load.host.judge(mirror.device.afterPowerCut(() => random() < 0.5));
        expect(cut.violations).toEqual([]);
        await Promise.all(under);
      }
      await rig.equal(mirror);
    },
  );
});
