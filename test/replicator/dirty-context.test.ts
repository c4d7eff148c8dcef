/**
 * `x-blockferry:dirty/N` of a mirrored volume, asked as an NBD session does: what it calls clean is the same on
 * the mirror, whatever happens to the link; when the mirror has everything nothing is dirty; and of one write that a
 * stalled mirror has not acknowledged exactly its blocks are. The mirror is a real server over a device whose content
 * and answers the test controls.
 */
import { describe, expect, it } from 'vitest';
import type { Extent, StatusContext } from '../../src/io/device.ts';
import { testScope } from '../support/tools.ts';
import { seeded, stamped } from './support/host.ts';
import type { MirrorServer } from './support/mirror-server.ts';
import { MIB, Rig } from './support/rig.ts';

const BLOCK = 4096;

function dirtyOf(rig: Rig): StatusContext {
  const context = rig.device.contexts().find(({ name }) => name.startsWith('x-blockferry:dirty/'));
  if (context === undefined) throw new Error('no dirty context');
  return context;
}

/** Runs of dirty bytes, joined; checks that every answer lies in the range. */
function dirtyRuns(context: StatusContext, from: number, to: number): [number, number][] {
  const runs: [number, number][] = [];
  const extent: Extent = { end: 0, flags: 0 };
  for (let at = from; at < to; at = extent.end) {
    context.describe(at, to, extent);
    expect(extent.end).toBeGreaterThan(at);
    expect(extent.end).toBeLessThanOrEqual(to);
    if (extent.flags === 0) continue;
    expect(extent.flags).toBe(1);
    const last = runs.at(-1);
    if (last !== undefined && last[1] === at) last[1] = extent.end;
    else runs.push([at, extent.end]);
  }
  return runs;
}

/** Blocks that differ though the context calls them clean. */
function wronglyClean(rig: Rig, mirror: MirrorServer): number[] {
  const size = rig.volume.sizeBytes;
  const dirty = dirtyRuns(dirtyOf(rig), 0, size);
  const isDirty = (block: number): boolean =>
    dirty.some(([from, to]) => block * BLOCK >= from && block * BLOCK < to);
  return rig.expected.differences(mirror.device.image).filter((block) => !isDirty(block));
}

describe('the dirty context', () => {
  it('of a stalled mirror has the blocks of what is staged, until they are acknowledged', async () => {
    const rig = await Rig.create(testScope());
    const mirror = await rig.mirrored();
    const context = dirtyOf(rig);
    await rig.write(8 * MIB, stamped(3 * BLOCK, 1));
    await rig.inStep();
    expect(dirtyRuns(context, 0, rig.volume.sizeBytes)).toEqual([]);
    mirror.device.stall();
    await rig.write(8 * MIB + 10 * BLOCK, stamped(2 * BLOCK, 2));
    await rig.write(20 * MIB + 100, stamped(10, 3));
    await rig.zero(4 * MIB - BLOCK, 4 * MIB + 2 * BLOCK);
    expect(dirtyRuns(context, 0, rig.volume.sizeBytes)).toEqual([
      [4 * MIB - BLOCK, 8 * MIB + BLOCK],
      [8 * MIB + 10 * BLOCK, 8 * MIB + 12 * BLOCK],
      [20 * MIB, 20 * MIB + BLOCK],
    ]);
    expect(dirtyRuns(context, 20 * MIB + 7, 20 * MIB + 9)).toEqual([[20 * MIB + 7, 20 * MIB + 9]]);
    mirror.device.resume();
    await rig.equal(mirror);
    expect(dirtyRuns(context, 0, rig.volume.sizeBytes)).toEqual([]);
  });

  it('never calls a block clean that differs, over writes, outages and delta runs', async () => {
    const rig = await Rig.create(testScope());
    const mirror = await rig.mirrored();
    const random = seeded(11);
    for (let round = 0; round < 120; round += 1) {
      const dice = random();
      if (dice < 0.05) mirror.cut();
      else if (dice < 0.1) mirror.leave();
      else if (dice < 0.25) mirror.comeBack();
      else if (dice < 0.3) mirror.device.stall();
      else if (dice < 0.45) mirror.device.resume();
      const block = Math.floor(random() * 4000);
      const count = 1 + Math.floor(random() * 8);
      if (random() < 0.2) await rig.zero(block * BLOCK, count * 512);
      else await rig.write(block * BLOCK, stamped(count * 700, round));
      expect(wronglyClean(rig, mirror)).toEqual([]);
    }
    mirror.device.resume();
    mirror.comeBack();
    await rig.equal(mirror);
    expect(dirtyRuns(dirtyOf(rig), 0, rig.volume.sizeBytes)).toEqual([]);
  });

  it('has a name that lasts, and outlives its mirror', async () => {
    const rig = await Rig.create(testScope());
    const mirror = await rig.mirrored();
    const other = await rig.mirror();
    await rig.addMirror(other);
    const names = rig.device.contexts().map(({ name }) => name);
    expect(names).toEqual(['base:allocation', 'x-blockferry:dirty/1', 'x-blockferry:dirty/2']);
    const [, first] = rig.device.contexts();
    await rig.device.removeMirror(mirror.uri);
    expect(rig.device.contexts().map(({ name }) => name)).toEqual([names[0], names[2]]);
    expect(dirtyRuns(first!, 4096, 5 * MIB)).toEqual([[4096, 5 * MIB]]);
    const again = await rig.restart();
    expect(again.device.contexts().map(({ name }) => name)).toEqual([names[0], names[2]]);
    await again.addMirror(mirror);
    expect(again.device.contexts().at(-1)?.name).toBe('x-blockferry:dirty/3');
    expect(again.device.contexts()[0]).toBe(again.volume.allocation);
  });
});
