/**
 * Two nodes where their sizes and their pasts are unusual: long holes, copies of what nobody recorded, a mirror that was set
 * back. Method: as in ferry.test.ts, the real replicator and a real secondary in one process; the mirror is read through its
 * export.
 */
import { rmSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { nodeDisk } from '../../src/io/node-disk.ts';
import { copyExactly } from '../support/copy-exactly.ts';
import { testScope } from '../support/tools.ts';
import { write } from '../volume/support/request.ts';
import { stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig } from './support/rig.ts';

const SIZE = 300 * MIB;

describe('a mirror that is compared', () => {
  it('tells of data where the volume has a hole longer than any other question', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope, { sizeBytes: SIZE });
    const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
    await rig.write(0, stamped(MIB, 1));
    const { volume } = mirror.secondary;
    expect(await write(volume, 0, stamped(MIB, 1))).toBe(0);
    expect(await write(volume, 200 * MIB, stamped(8192, 2))).toBe(0);
    expect(await write(volume, SIZE - 4096, stamped(4096, 3))).toBe(0);
    await rig.addPeer(mirror, { seeded: true });
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.status().delta_bytes_sent).toBeLessThan(64 * 1024);
  });
});

describe('a mirror that was just added', () => {
  it('keeps its volume from another size, and is no plain server, before the first delta run', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope, { sizeBytes: 16 * MIB });
    const mirror = await PeerMirror.start(scope, { sizeBytes: 16 * MIB });
    await rig.addPeer(mirror, {});
    mirror.leave();
    expect(rig.status()).toMatchObject({ kind: 'blockferry', node: 'secondary' });
    for (const size of [12 * MIB, 20 * MIB]) {
      await expect(rig.device.resize(size)).rejects.toMatchObject({ code: 'MIRROR_SIZE_FIXED' });
    }
    mirror.comeBack();
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });
});

describe('a mirror that was seeded', () => {
  it('is compared all the same when the host wrote before it was reached, or the link was lost meanwhile', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope, { sizeBytes: 48 * MIB });
    const mirror = await PeerMirror.start(scope, { sizeBytes: 48 * MIB });
    const { volume } = mirror.secondary;
    for (let at = 0; at < 40 * MIB; at += MIB) {
      const bytes = stamped(MIB, at / MIB);
      await rig.write(at, bytes);
      expect(await write(volume, at, bytes)).toBe(0);
    }
    await rig.addPeer(mirror, { seeded: true });
    await rig.write(3 * MIB, stamped(4096, 90));
    await rig.until('an answer', ({ bytes_compared }) => bytes_compared > 0);
    mirror.cut();
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.kinds()).not.toContain('mirror-diverged');
    expect(rig.status().delta_bytes_sent).toBeLessThan(2 * MIB);
  });
});

describe('a mirror that was set back', () => {
  it('is compared, also when what it held is in no log yet', async () => {
    const scope = testScope();
    const path = `${scope.tempDir('bf-edges-')}/mirror`;
    const backup = `${scope.tempDir('bf-edges-')}/backup`;
    const rig = await Rig.create(scope, { sizeBytes: 16 * MIB });
    const mirror = await PeerMirror.start(scope, { sizeBytes: 16 * MIB, disk: nodeDisk, path });
    await rig.addPeer(mirror);
    await rig.inStep();
    copyExactly(path, backup);
    for (let count = 0; count < 5; count += 1) {
      await rig.write(count * 8192, stamped(4096, 20 + count));
      await rig.flush();
    }
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    await mirror.stop();
    rmSync(path, { recursive: true });
    copyExactly(backup, path);
    rmSync(`${path}/lock`);
    await mirror.restart();
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });
});

describe('a mirror whose history is another', () => {
  it('waits for an operator, and is not compared before it was resumed', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope, { sizeBytes: 16 * MIB });
    const mirror = await PeerMirror.start(scope, { sizeBytes: 16 * MIB });
    await rig.addPeer(mirror);
    await rig.inStep();
    const { uri } = rig.status();
    const { metadata } = mirror.secondary.volume;
    const { generations } = metadata.state;
    const other = [{ number: 1, id: 'ee'.repeat(16), firstEpoch: 1 }];
    metadata.append({ kind: 'history-set', generations: other });
    mirror.cut();
    await rig.until('an operator', ({ state }) => state === 'diverged');
    await expect(rig.device.resyncMirror(uri)).rejects.toMatchObject({ code: 'MIRROR_STATE' });
    expect(rig.status().state).toBe('diverged');
    metadata.append({ kind: 'history-set', generations });
    await rig.write(MIB, stamped(8192, 5));
    await rig.device.resumeMirror(uri);
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });
});

describe('a mirror that is to be compared', () => {
  it('still is when the node ends before it is in contact again', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope, { sizeBytes: 16 * MIB });
    const mirror = await PeerMirror.start(scope, { sizeBytes: 16 * MIB });
    await rig.addPeer(mirror);
    await rig.inStep();
    mirror.leave();
    await rig.until('the outage', ({ state }) => state === 'delta');
    await rig.device.resyncMirror(rig.status().uri);
    const next = rig.killAndRestart();
    expect(next.status().suspect_bytes).toBe(16 * MIB);
    mirror.comeBack();
    await next.inStep();
    expect(await mirror.differences(next.expected)).toEqual([]);
    expect(next.status().bytes_compared).toBe(16 * MIB);
  });
});
