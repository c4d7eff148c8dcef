/**
 * Long outages with a staging disk, and everything that may go wrong with it: the file is full, cannot be written or read back, or is
 * left by a process that died. The host never hears of it, what the mirror shows is at every instant one moment of the volume, and
 * memory stays within its bound. Method: the real replicator and a real secondary over real sockets; a reader of the
 * mirror who looks all the time at pairs of blocks that the host writes in order; real files, and disks in memory that fail.
 */
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { DiskFile } from '../../src/io/disk.ts';
import { testScope } from '../support/tools.ts';
import { Host, stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { RefusingDisk } from './support/refusing-disk.ts';
import { MIB, Rig, type RigOptions } from './support/rig.ts';

const SIZE = 64 * MIB;
const MEMORY = 4 * MIB;
const DISK: RigOptions = { stagingBytes: MEMORY, stagingDiskBytes: 256 * MIB, graceMs: 200 };
const EIO = -5;
/** The host writes `FIRST` before `SECOND`, each time. */
const FIRST = SIZE - MIB;
const SECOND = 0;

async function pair(options: RigOptions) {
  const scope = testScope();
  const rig = await Rig.create(scope, { sizeBytes: SIZE, ...options });
  const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
  await writeRound(rig, 1);
  await rig.addPeer(mirror);
  await rig.inStep();
  rig.events.length = 0;
  return { rig, mirror };
}

/** A megabyte somewhere, between two blocks that tell the round. */
async function writeRound(rig: Rig, round: number): Promise<void> {
  await rig.write(FIRST, stamped(4096, round));
  await rig.write((1 + (round % 56)) * MIB, stamped(MIB, round));
  await rig.write(SECOND, stamped(4096, round));
  await rig.flush();
}

/** Rounds of an outage, with time for the file of `fileBytes` while it has room; the most that was staged in memory. */
async function outage(rig: Rig, rounds: number, fileBytes = 256 * MIB): Promise<number> {
  const { queue } = rig.device;
  let most = 0;
  for (let round = 2; round < 2 + rounds; round += 1) {
    await writeRound(rig, round);
    most = Math.max(most, queue.memoryBytes);
    await rig.until('room', ({ state, staged_bytes: staged }) => {
      if (state !== 'connecting' || !queue.hasDisk) return true;
      return queue.memoryBytes <= MEMORY * 0.6 || staged > fileBytes - MEMORY;
    });
  }
  return most;
}

/** Reads the later block first: what it tells of the other one must be there already. */
function watch(mirror: PeerMirror): () => Promise<number> {
  const reader = { over: false };
  const roundAt = async (offset: number): Promise<number> =>
    (await new Host(mirror.secondary).read(offset, 4096)).readUInt32LE(0);
  const looking = (async () => {
    let looks = 0;
    let last = 0;
    while (!reader.over) {
      const second = await roundAt(SECOND);
      const first = await roundAt(FIRST);
      if (first < second || second < last) {
        throw new Error(`torn: ${second} of ${last} without ${first}`);
      }
      last = second;
      looks += 1;
      await new Promise((resolve) => setImmediate(resolve));
    }
    return looks;
  })();
  looking.catch(() => {});
  return () => {
    reader.over = true;
    return looking;
  };
}

const away = (rig: Rig): Promise<unknown> =>
  rig.until('the outage', ({ state }) => state === 'connecting');

describe('a long outage with a staging disk', () => {
  it('ends in the stream, in order, without a delta run, and within the memory', async () => {
    const { rig, mirror } = await pair(DISK);
    const { delta_bytes_sent: before } = rig.status();
    mirror.leave();
    await away(rig);
    const most = await outage(rig, 24);
    expect(rig.status()).toMatchObject({ state: 'connecting', dirty_bytes: 0 });
    expect(rig.status().staged_bytes).toBeGreaterThan(5 * MEMORY);
    expect(most).toBeLessThanOrEqual(MEMORY);
    const stop = watch(mirror);
    mirror.comeBack();
    await rig.inStep();
    expect(await stop()).toBeGreaterThan(2);
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.status().delta_bytes_sent).toBe(before);
    expect(rig.kinds()).not.toContain('mirror-delta');
  });

  it('that is longer than the file goes on in delta, and the mirror shows what it held until it has all', async () => {
    const { rig, mirror } = await pair({ ...DISK, stagingDiskBytes: 8 * MIB });
    mirror.leave();
    await away(rig);
    const before = rig.expected.clone();
    const most = await outage(rig, 24, 8 * MIB);
    expect(rig.status()).toMatchObject({ state: 'delta', consistent: true, staged_bytes: 0 });
    expect(rig.status().dirty_bytes).toBeGreaterThan(23 * MIB);
    expect(most).toBeLessThanOrEqual(MEMORY);
    expect(await mirror.differences(before)).toEqual([]);
    const stop = watch(mirror);
    mirror.comeBack();
    await rig.inStep();
    await stop();
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });

  it('in which the process dies is covered by marks: what the file holds means nothing', async () => {
    const { rig, mirror } = await pair(DISK);
    mirror.leave();
    await away(rig);
    await outage(rig, 20);
    expect(existsSync(`${rig.volume.directory}/staging`)).toBe(true);
    expect(rig.status().staged_bytes).toBeGreaterThan(4 * MEMORY);
    const next = rig.killAndRestart();
    expect(next.status().staged_bytes).toBe(0);
    const stop = watch(mirror);
    mirror.comeBack();
    await next.inStep();
    await stop();
    expect(await mirror.differences(next.expected)).toEqual([]);
    expect(await next.differencesHere()).toEqual([]);
  });
});

/** Its staging file cannot be read back. */
class UnreadableDisk extends RefusingDisk {
  override open(path: string, options: { create: boolean; exclusive?: boolean }): DiskFile {
    const file = super.open(path, options);
    if (path.endsWith('/staging')) {
      file.read = (_buffer, _start, _length, position, callback) =>
        this.later('read', path, position, () => callback(EIO));
    }
    return file;
  }
}

describe('a staging disk that fails', () => {
  it('when it is written costs the room, and no write of the host', async () => {
    const disk = new RefusingDisk();
    const { rig, mirror } = await pair({ ...DISK, disk });
    disk.refuse = (path) => (path.endsWith('/staging') ? EIO : 0);
    mirror.leave();
    await away(rig);
    await outage(rig, 20);
    await rig.until('marks', ({ state }) => state === 'delta');
    await rig.until('news', () => rig.kinds().includes('staging-disk-failed'));
    mirror.comeBack();
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });

  it('when it is read back leads to a delta run, and no write of the host fails', async () => {
    const { rig, mirror } = await pair({ ...DISK, disk: new UnreadableDisk() });
    mirror.leave();
    await away(rig);
    await outage(rig, 20);
    expect(rig.status().staged_bytes).toBeGreaterThan(3 * MEMORY);
    const stop = watch(mirror);
    mirror.comeBack();
    await rig.until('marks', () => rig.kinds().includes('mirror-delta'));
    await rig.inStep();
    await stop();
    expect(await mirror.differences(rig.expected)).toEqual([]);
  });
});
