/**
 * An old primary that does not know whether its mirror took over, or has just heard: what answers count, what commands may do, and
 * what a full disk leaves. Method: a volume whose log says that it was handed over, and a mirror that nobody can reach; the answers
 * of mirrors are given by the test.
 */
import { expect, test } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import { Fence } from '../../src/replicator/changes/fence.ts';
import { Handover } from '../../src/replicator/failover/handover.ts';
import type { Mirror } from '../../src/replicator/mirror/mirror.ts';
import type { MirrorHost } from '../../src/replicator/mirror/mirror-host.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { testScope } from '../support/tools.ts';
import { Rig } from './support/rig.ts';

const ENOSPC = 28;
const NOWHERE = 'nbd://127.0.0.1:1/v';
const ID = 'ee'.repeat(16);

/** The volume of a node that asked its mirror, and ended. */
async function inDoubt(): Promise<Rig> {
  const rig = await Rig.create(testScope());
  const { metadata } = rig.volume;
  const mirror = metadata.state.nextMirrorId;
  metadata.append({
    kind: 'mirror-added',
    mirror,
    uri: NOWHERE,
    mode: 'async',
    stallPolicy: 'degrade',
  });
  metadata.append({ kind: 'mirror-peer', mirror, node: 'beta', volumeId: null });
  metadata.append({ kind: 'handing-over', mirror, id: ID, epoch: 0 });
  expect(await rig.volume.commit()).toBe(0);
  return await rig.restart();
}

function askedMirror({ metadata }: Volume): number {
  return metadata.state.handover!.mirror;
}

test('the mirror that was asked stays until it is decided who goes on', async () => {
  const { device, volume } = await inDoubt();
  await expect(device.removeMirror(NOWHERE)).rejects.toMatchObject({ code: 'HANDOVER_IN_DOUBT' });
  expect(volume.metadata.state.handover).not.toBeNull();
  await device.goOnAlone();
  await device.removeMirror(NOWHERE);
  expect(device.fenced).toBeNull();
});

test('going on alone is tried again after a full disk', async () => {
  const { device, volume, host } = await inDoubt();
  const written = host.write(0, Buffer.alloc(4096, 1));
  const commit = volume.commit.bind(volume);
  Object.assign(volume, { commit: () => Promise.resolve(ENOSPC) });
  await expect(device.goOnAlone()).rejects.toMatchObject({ code: 'METADATA_WRITE_FAILED' });
  expect(device.fenced).toMatch(/not known/);
  expect(host.waiting).toBe(1);
  Object.assign(volume, { commit });
  expect(await device.goOnAlone()).toMatchObject({ generation: 2 });
  expect(await written).toBe(0);
});

test('what a full disk keeps from being recorded does not hold writes for ever', async () => {
  const { device, volume, host } = await inDoubt();
  const written = host.write(0, Buffer.alloc(4096, 1));
  const commit = volume.commit.bind(volume);
  Object.assign(volume, { commit: () => Promise.resolve(ENOSPC) });
  await device.handover.notTaken(askedMirror(volume));
  Object.assign(volume, { commit });
  expect(await written).toBe(0);
});

test('the answers of another mirror count for nothing', async () => {
  const { device, volume } = await inDoubt();
  let taken = false;
  device.handover.onTaken = () => (taken = true);
  const other = askedMirror(volume) + 1;
  device.handover.heard(other, { kind: 'handed-over' });
  device.handover.heard(other, { kind: 'handover-refused', message: 'no' });
  expect(taken).toBe(false);
  expect(device.fenced).toMatch(/not known/);
  device.handover.heard(askedMirror(volume), { kind: 'handed-over' });
  expect(taken).toBe(true);
});

test('another mirror that lags takes no time from the one that is asked', async () => {
  const rig = await Rig.create(testScope());
  const { volume, device } = rig;
  const host = { volume, queue: device.queue, surroundings: device.surroundings };
  const lags = { id: 8, peer: {}, wake: () => {}, has: () => false } as unknown as Mirror;
  const sendControl = ({ kind }: { kind: string }): void => {
    if (kind === 'hand-over') setTimeout(() => handover.heard(7, { kind: 'handed-over' }), 20);
  };
  const peer = { link: { sendControl }, welcome: {} };
  const uri = { text: NOWHERE };
  const asked = { id: 7, uri, peer, wake: () => {}, has: () => true } as unknown as Mirror;
  const handover: Handover = new Handover({
    host: host satisfies Pick<MirrorHost, 'volume' | 'queue' | 'surroundings'>,
    fence: new Fence(volume.metadata, systemClock),
    mirrors: [asked, lags],
    isQuiet: () => true,
  });
  const mirror = { mirror: 7, uri: NOWHERE, mode: 'async', stallPolicy: 'degrade' } as const;
  volume.metadata.append({ kind: 'mirror-added', ...mirror });
  await handover.run({ mirror: asked, back: null, withinMs: 900, split: false });
  expect(volume.metadata.state.handover).toMatchObject({ mirror: 7 });
});

test('a refusal that came late lets no write pass while the next handover waits', async () => {
  const { volume, device } = await inDoubt();
  const fence = new Fence(volume.metadata, systemClock);
  const host = { volume, queue: device.queue, surroundings: device.surroundings };
  const mirror = { id: askedMirror(volume), peer: null } as unknown as Mirror;
  const handover = new Handover({
    host: host satisfies Pick<MirrorHost, 'volume' | 'queue' | 'surroundings'>,
    fence,
    mirrors: [],
    isQuiet: () => false,
  });
  let recorded: ((status: number) => void) | null = null;
  const commit = volume.commit.bind(volume);
  Object.assign(volume, { commit: () => new Promise((resolve) => (recorded = resolve)) });
  handover.heard(mirror.id, { kind: 'handover-refused', message: 'no' });
  const next = handover.run({ mirror, back: null, withinMs: 200, split: false });
  Object.assign(volume, { commit });
  (recorded as ((status: number) => void) | null)?.(0);
  await new Promise((resolve) => setImmediate(resolve));
  expect(fence.up).toBe(true);
  await expect(next).rejects.toMatchObject({ code: 'HANDOVER_FAILED' });
  expect(fence.up).toBe(false);
});
