/**
 * A link to another node that is lost for a while: what is staged waits for it, in memory for a short outage and on disk for a
 * long one, and the stream goes on where it was, without a delta run. When it cannot, everything is marked, and a delta
 * run follows as always. Method: the real replicator, links over real sockets that are cut, and a real secondary.
 */
import { cpSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { nodeDisk } from '../../src/io/node-disk.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { seeded, stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig, type MirrorOptions, type RigOptions } from './support/rig.ts';

const SIZE = 32 * MIB;

async function pair(
  options: MirrorOptions & RigOptions & { path?: string } = {},
): Promise<{ rig: Rig; mirror: PeerMirror }> {
  const scope = testScope();
  const { path, ...more } = options;
  const rig = await Rig.create(scope, { sizeBytes: SIZE, ...more });
  const kept = path === undefined ? {} : { path, disk: nodeDisk };
  const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE, ...kept });
  await rig.write(0, stamped(MIB, 1));
  const { lanes = 1, mode = 'async', stallPolicy = 'degrade' } = options;
  await rig.addPeer(mirror, { lanes, mode, stallPolicy });
  await rig.inStep();
  rig.events.length = 0;
  return { rig, mirror };
}

const away = (rig: Rig): Promise<unknown> =>
  rig.until('the outage', ({ state }) => state === 'connecting');

async function writeSome(rig: Rig, random: () => number, count: number): Promise<void> {
  for (let each = 0; each < count; each += 1) {
    const offset = Math.floor(random() * (SIZE / 512 - 128)) * 512;
    if (each % 7 === 3) await rig.zero(offset, 64 * 1024);
    else await rig.write(offset, stamped(512 * (1 + (each % 40)), each));
    if (each % 11 === 5) await rig.flush();
    if (each % 5 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
}

describe('a lost link', () => {
  it('is bridged: the stream goes on with all that waited, and no delta run', async () => {
    const { rig, mirror } = await pair({ lanes: 2 });
    const { delta_bytes_sent: before, bytes_sent: sent } = rig.status();
    const random = seeded(5);
    for (let round = 0; round < 6; round += 1) {
      await writeSome(rig, random, 20);
      // In the middle of what is on its way.
      mirror.leave();
      await writeSome(rig, random, 20);
      await away(rig);
      await writeSome(rig, random, 20);
      const { staged_bytes, dirty_bytes, consistent, lag_seconds } = rig.status();
      expect(staged_bytes).toBeGreaterThan(0);
      expect({ dirty_bytes, consistent }).toEqual({ dirty_bytes: 0, consistent: true });
      expect(lag_seconds).toBeGreaterThan(0);
      mirror.comeBack();
      await rig.inStep();
      expect(await mirror.differences(rig.expected)).toEqual([]);
    }
    expect(rig.status().delta_bytes_sent).toBe(before);
    expect(rig.status().bytes_sent).toBeGreaterThan(sent);
    expect(rig.kinds()).toContain('mirror-streaming');
    expect(rig.kinds()).not.toContain('mirror-delta');
    expect(rig.kinds()).not.toContain('mirror-shipping');
  });

  it('is bridged over a restart of the mirror', async () => {
    const { rig, mirror } = await pair();
    await writeSome(rig, seeded(6), 50);
    await mirror.restart();
    await writeSome(rig, seeded(7), 50);
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.kinds()).not.toContain('mirror-shipping');
  });

  it('is bridged for so long: then what waited is marked, and a delta run sends it', async () => {
    const { rig, mirror } = await pair({ graceMs: 300 });
    mirror.leave();
    await away(rig);
    await rig.write(3 * MIB, stamped(MIB, 8));
    await rig.until('the end', ({ state }) => state === 'delta');
    expect(rig.status()).toMatchObject({ staged_bytes: 0, dirty_bytes: MIB });
    expect(rig.status().last_error).not.toBeNull();
    await rig.write(4 * MIB, stamped(MIB, 9));
    mirror.comeBack();
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.kinds()).toContain('mirror-shipping');
  });

  it('takes no more than half of the memory for it', async () => {
    const { rig, mirror } = await pair({ stagingBytes: 4 * MIB, graceMs: 60_000 });
    mirror.leave();
    await away(rig);
    for (let at = 0; at < 3; at += 1) await rig.write((3 + at) * MIB, stamped(MIB, at));
    await rig.until('the end', ({ state }) => state === 'delta');
    expect(rig.status()).toMatchObject({ staged_bytes: 0, dirty_bytes: 3 * MIB });
    mirror.comeBack();
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });

  it('is not believed to have what it lost: a mirror that was set back is compared', async () => {
    const scope = testScope();
    const path = scope.tempDir('bf-back-');
    const { rig, mirror } = await pair({ path: `${path}/now`, graceMs: 60_000 });
    await mirror.stop();
    cpSync(`${path}/now`, `${path}/then`, { recursive: true });
    await mirror.restart();
    await rig.inStep();
    await writeSome(rig, seeded(9), 30);
    await rig.inStep();
    await mirror.stop();
    rmSync(`${path}/now`, { recursive: true });
    cpSync(`${path}/then`, `${path}/now`, { recursive: true });
    await writeSome(rig, seeded(10), 30);
    rig.events.length = 0;
    await mirror.restart();
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.kinds()).toContain('mirror-shipping');
  });

  it('makes synchronous writes wait if they are to block, and answers them when the mirror has them', async () => {
    const { rig, mirror } = await pair({ mode: 'sync', stallPolicy: 'block', graceMs: 60_000 });
    await rig.write(MIB, stamped(4096, 11));
    mirror.leave();
    await away(rig);
    let answered = false;
    const write = (async () => {
      await rig.write(2 * MIB, stamped(4096, 12));
      answered = true;
    })();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(answered).toBe(false);
    mirror.comeBack();
    await write;
    const { received_epoch } = mirror.secondary.sourceStatus();
    expect(received_epoch).toBeGreaterThanOrEqual(rig.device.position().epoch);
    expect(rig.kinds()).not.toContain('mirror-delta');
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });

  it('makes no synchronous write wait for a mirror that may degrade, and is waited for again later', async () => {
    const { rig, mirror } = await pair({ mode: 'sync', graceMs: 60_000 });
    mirror.leave();
    await away(rig);
    await rig.write(2 * MIB, stamped(4096, 13));
    expect(rig.status().state).toBe('connecting');
    await rig.write(3 * MIB, stamped(4096, 14));
    mirror.comeBack();
    await rig.inStep();
    await rig.write(4 * MIB, stamped(4096, 15));
    const { received_epoch } = mirror.secondary.sourceStatus();
    expect(received_epoch).toBeGreaterThanOrEqual(rig.device.position().epoch);
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.kinds()).not.toContain('mirror-delta');
  });
});

const fileOf = (rig: Rig): string => `${rig.volume.directory}/staging`;

describe('a staging disk', () => {
  const DISK = { stagingBytes: 4 * MIB, stagingDiskBytes: 256 * MIB, graceMs: 200 };

  it('keeps the order through an outage that is longer and larger than memory bears', async () => {
    const { rig, mirror } = await pair(DISK);
    expect(existsSync(fileOf(rig))).toBe(true);
    const { delta_bytes_sent: before } = rig.status();
    mirror.leave();
    await away(rig);
    for (let at = 0; at < 24; at += 1) {
      await rig.write((3 + at) * MIB, stamped(MIB, 20 + at));
      await rig.flush();
      // So that the disk can follow.
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await writeSome(rig, seeded(11), 30);
    expect(rig.status()).toMatchObject({ state: 'connecting', dirty_bytes: 0 });
    expect(rig.status().staged_bytes).toBeGreaterThan(24 * MIB);
    mirror.comeBack();
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.status().delta_bytes_sent).toBe(before);
    expect(rig.kinds()).not.toContain('mirror-delta');
  });

  it('is there while there are mirrors, and gone when there are none, or at a stop', async () => {
    const { rig, mirror } = await pair(DISK);
    await rig.device.removeMirror(mirror.uri);
    await waitUntil('the file to go', () => !existsSync(fileOf(rig)));
    await rig.addPeer(mirror);
    expect(existsSync(fileOf(rig))).toBe(true);
    await rig.inStep();
    await rig.close();
    expect(existsSync(fileOf(rig))).toBe(false);
  });

  it('is begun anew by the next process, or removed where it is wanted no longer', async () => {
    const { rig } = await pair(DISK);
    const killed = rig.killAndRestart();
    writeFileSync(fileOf(killed), 'what an earlier process left');
    await killed.inStep();
    await killed.close();
    writeFileSync(fileOf(killed), 'what an earlier process left');
    const without = Rig.open(killed.scope, killed.path, killed.expected);
    expect(existsSync(fileOf(without))).toBe(false);
    await without.inStep();
  });
});
