/**
 * Synchronous mirrors: a write is answered when the mirror holds it, a FLUSH and a FUA when it has it durable.
 * A stalled mirror is given up after the deadline (`degrade`) or waited for (`block`); copying and
 * comparing never freeze the host. The clock is the test's; the mirror holds its answers.
 */
import { describe, expect, it } from 'vitest';
import { SYNC_DEADLINE_MS } from '../../src/io/limits.ts';
import type { Asked } from './support/mirror-device.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { stamped } from './support/host.ts';
import { ManualClock } from './support/life.ts';
import type { MirrorServer } from './support/mirror-server.ts';
import { MIB, Rig, type MirrorOptions } from './support/rig.ts';

/** A rig whose time the test moves, with a mirror in step. */
async function stillRig(options: MirrorOptions): Promise<{
  rig: Rig;
  clock: ManualClock;
  mirror: MirrorServer;
}> {
  const clock = new ManualClock();
  const rig = await Rig.create(testScope(), { clock });
  const mirror = await rig.mirror();
  await rig.addMirror(mirror, options);
  await passUntil(clock, 'the mirror to be in step', () => rig.isInStep());
  return { rig, clock, mirror };
}

/** Lets time pass until something is so; at most a minute of it. */
async function passUntil(clock: ManualClock, what: string, is: () => boolean): Promise<void> {
  for (let step = 0; step < 1200 && !is(); step += 1) await clock.advance(50);
  if (!is()) throw new Error(`a minute passed without ${what}`);
}

function stallAt(mirror: MirrorServer, operation: Asked['operation']): void {
  const { device } = mirror;
  device.onAsked = (asked) => asked.operation === operation && device.stall();
}

function goOn(mirror: MirrorServer): void {
  mirror.device.onAsked = null;
  mirror.device.resume();
}

describe('a synchronous mirror', () => {
  it('holds zeroes before a request is answered that finds them there', async () => {
    const { rig, mirror } = await stillRig({ mode: 'sync' });
    await rig.write(0, stamped(4096, 1));
    stallAt(mirror, 'zero');
    const zeroed = rig.zero(0, 4096);
    await waitUntil('the zeroes on their way', () => mirror.device.heldCount === 1);
    const again = rig.host.trim(0, 4096);
    expect(rig.host.waiting).toBe(2);
    goOn(mirror);
    await zeroed;
    expect(await again).toBe(0);
  });

  it('holds a write before it is answered', async () => {
    const { rig, mirror } = await stillRig({ mode: 'sync' });
    stallAt(mirror, 'write');
    const written = rig.write(0, stamped(4096, 1));
    await waitUntil('the write on the mirror', () => mirror.device.heldCount === 1);
    expect(rig.host.waiting).toBe(1);
    stallAt(mirror, 'flush');
    mirror.device.resume();
    await written;
    // The mirror has not flushed it: only held.
    expect(mirror.device.afterPowerCut(() => false).usedPages()).toEqual([]);
    goOn(mirror);
  });

  it.each(['FLUSH', 'FUA'])('has everything durable before a %s is answered', async (kind) => {
    const { rig, mirror } = await stillRig({ mode: 'sync' });
    stallAt(mirror, 'flush');
    const under = rig.write(4096, stamped(4096, 1), { fua: kind === 'FUA' });
    if (kind === 'FLUSH') await under;
    const flushed = kind === 'FLUSH' ? rig.flush() : under;
    await waitUntil('the flush on the mirror', () => mirror.device.heldCount === 1);
    await new Promise((resolve) => {
      setTimeout(resolve, 50);
    });
    expect(rig.host.waiting).toBe(1);
    goOn(mirror);
    await flushed;
    expect(mirror.device.afterPowerCut(() => false).usedPages()).toEqual([1]);
  });

  it('answers a FLUSH at once when there is nothing to wait for', async () => {
    const { rig, mirror } = await stillRig({ mode: 'sync' });
    await rig.write(0, stamped(4096, 1));
    await rig.flush();
    const asked = mirror.device.asked.length;
    await rig.flush();
    expect(mirror.device.asked).toHaveLength(asked);
  });

  it('takes the writes of one turn in one epoch', async () => {
    const { rig, mirror } = await stillRig({ mode: 'sync' });
    await rig.write(0, stamped(4096, 1));
    await rig.flush();
    const flushes = mirror.device.count('flush');
    await Promise.all(
      [1, 2, 3, 4, 5].map((block) => rig.write(block * 8192, stamped(4096, block))),
    );
    await rig.flush();
    expect(mirror.device.count('flush') - flushes).toBeLessThanOrEqual(2);
  });
});

describe('a synchronous mirror that stalls', () => {
  it('is given up after the deadline, and waited for again when it is back in step', async () => {
    const { rig, clock, mirror } = await stillRig({ mode: 'sync' });
    mirror.device.stall();
    const began = clock.now();
    const written = rig.write(0, stamped(4096, 1));
    await clock.advance(SYNC_DEADLINE_MS - 300);
    expect(rig.host.waiting).toBe(1);
    await passUntil(clock, 'the answer', () => rig.host.waiting === 0);
    await written;
    // The deadline counts from when the write waits for the mirror, and is looked at now and then.
    expect(clock.now() - began).toBeLessThan(SYNC_DEADLINE_MS + 3000);
    expect(rig.status()).toMatchObject({ state: 'delta', dirty_bytes: 4096 });
    expect(rig.status().last_error).toContain('writes go on without it');
    await rig.write(8192, stamped(4096, 2));
    mirror.device.resume();
    await passUntil(clock, 'the mirror to be back', () => rig.isInStep());
    await rig.equal(mirror);
    mirror.device.stall();
    const again = rig.write(0, stamped(4096, 3));
    await new Promise((resolve) => {
      setTimeout(resolve, 50);
    });
    expect(rig.host.waiting).toBe(1);
    goOn(mirror);
    await again;
  });

  it('makes writes wait when it blocks, however long, and completes them when it is back', async () => {
    const { rig, clock, mirror } = await stillRig({ mode: 'sync', stallPolicy: 'block' });
    mirror.leave();
    const written = rig.write(0, stamped(4096, 1));
    const flushed = rig.write(8192, stamped(4096, 2), { fua: true });
    await clock.advance(60_000, 200);
    expect(rig.host.waiting).toBe(2);
    mirror.comeBack();
    await passUntil(clock, 'the answers', () => rig.host.waiting === 0);
    await Promise.all([written, flushed]);
    expect(mirror.device.image.differences(rig.expected)).toEqual([]);
    expect(mirror.device.afterPowerCut(() => false).differences(rig.expected)).toEqual([]);
  });

  it('lets writes go when the operator pauses or removes it', async () => {
    const { rig, clock, mirror } = await stillRig({ mode: 'sync', stallPolicy: 'block' });
    mirror.leave();
    const written = rig.write(0, stamped(4096, 1));
    await clock.advance(1000);
    expect(rig.host.waiting).toBe(1);
    await rig.device.pauseMirror(mirror.uri);
    await written;
    mirror.comeBack();
    await rig.device.resumeMirror(mirror.uri);
    await passUntil(clock, 'the mirror to be back', () => rig.isInStep());
    mirror.leave();
    const other = rig.write(4096, stamped(4096, 2));
    await clock.advance(1000);
    expect(rig.host.waiting).toBe(1);
    await rig.device.removeMirror(mirror.uri);
    await other;
  });

  it('is given up alone: a mirror that answered is not', async () => {
    const { rig, clock, mirror } = await stillRig({ mode: 'sync' });
    const healthy = await rig.mirror();
    await rig.addMirror(healthy, { mode: 'sync' });
    await passUntil(clock, 'both in step', () =>
      [mirror, healthy].every((one) => rig.isInStep(one)),
    );
    mirror.device.stall();
    const written = rig.write(0, stamped(4096, 1));
    await passUntil(clock, 'the answer', () => rig.host.waiting === 0);
    await written;
    expect(rig.status(healthy).state).toBe('streaming');
    expect(rig.kinds().filter((kind) => kind === 'mirror-delta')).toHaveLength(1);
  });

  it('does not make another one pay for blocking', async () => {
    const { rig, clock, mirror } = await stillRig({ mode: 'sync', stallPolicy: 'block' });
    const healthy = await rig.mirror();
    await rig.addMirror(healthy, { mode: 'sync', stallPolicy: 'degrade' });
    await passUntil(clock, 'both in step', () =>
      [mirror, healthy].every((one) => rig.isInStep(one)),
    );
    mirror.leave();
    const written = rig.write(0, stamped(4096, 1));
    await clock.advance(3 * SYNC_DEADLINE_MS);
    expect(rig.host.waiting).toBe(1);
    expect(rig.status(healthy).state).toBe('streaming');
    expect(rig.kinds().filter((kind) => kind === 'mirror-delta')).toHaveLength(1);
    mirror.comeBack();
    await passUntil(clock, 'the answer', () => rig.host.waiting === 0);
    await written;
  });
});

describe('a synchronous mirror that is being brought in step', () => {
  it.each(['degrade', 'block'] as const)(
    'does not freeze the host while it is copied (%s)',
    async (policy) => {
      const clock = new ManualClock();
      const rig = await Rig.create(testScope(), { clock });
      await rig.write(0, stamped(MIB, 1));
      const mirror = await rig.mirror();
      stallAt(mirror, 'write');
      await rig.addMirror(mirror, { mode: 'sync', stallPolicy: policy });
      await passUntil(clock, 'the copy to be under way', () => mirror.device.heldCount > 0);
      await rig.write(MIB, stamped(MIB, 2));
      await rig.flush();
      goOn(mirror);
      await passUntil(clock, 'the mirror to be in step', () => rig.isInStep());
      await rig.device.resyncMirror(mirror.uri);
      await rig.write(2 * MIB, stamped(4096, 3));
      await passUntil(clock, 'the mirror to be in step', () => rig.isInStep());
      await rig.equal(mirror);
    },
  );

  it('does not make the host wait for what was staged during the run', async () => {
    const { rig, clock, mirror } = await stillRig({ mode: 'sync' });
    mirror.leave();
    await passUntil(clock, 'the loss to be seen', () => rig.status().state === 'delta');
    await rig.write(0, stamped(4096, 1));
    const { device } = mirror;
    device.onAsked = ({ operation }) => operation === 'write' && device.stall();
    mirror.comeBack();
    await passUntil(clock, 'the run to be under way', () => device.heldCount > 0);
    // The run ends; the first epoch of what was staged meanwhile is stalled.
    for (let at = MIB; at < 17 * MIB; at += MIB) await rig.write(at, stamped(MIB, at));
    device.onAsked = ({ operation, offset }) =>
      operation === 'write' && offset >= MIB && device.stall();
    device.resume();
    await passUntil(clock, 'the staged epoch', () => device.heldCount > 0);
    await rig.write(20 * MIB, stamped(4096, 2));
    await rig.flush();
    goOn(mirror);
    await passUntil(clock, 'the mirror to be in step', () => rig.isInStep());
    await rig.equal(mirror);
  });
});
