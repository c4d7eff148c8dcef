/**
 * Space is freed, provisioned and told from holes where the file system can, and refused with the one
 * agreed status where it cannot. Method: real files on a disk, on tmpfs and without the system calls.
 */
import { describe, expect, it } from 'vitest';

import { createNodeDisk } from '../../src/io/node-disk.ts';
import { called, diskDirectory, openFile, pattern } from './files.ts';
import { temporaryDirectory } from './wire.ts';

const MIB = 1 << 20;
const EOPNOTSUPP = 95;

describe('punchHole', () => {
  it('frees space, reads as zeroes and keeps the length', async () => {
    const file = openFile(createNodeDisk());
    file.writeNow(pattern(4 * MIB), 0, 4 * MIB, 0);
    await called((callback) => file.datasync(callback));
    const before = file.allocatedNow();
    expect(await called((callback) => file.punchHole(MIB, 3 * MIB, callback))).toBe(0);
    expect(file.allocatedNow()).toBe(before - 3 * MIB);
    expect(file.sizeNow()).toBe(4 * MIB);
    const back = Buffer.alloc(4 * MIB, 1);
    expect(await called((callback) => file.read(back, 0, 4 * MIB, 0, callback))).toBe(4 * MIB);
    expect(back.subarray(0, MIB).equals(pattern(4 * MIB).subarray(0, MIB))).toBe(true);
    expect(back.subarray(MIB).every((byte) => byte === 0)).toBe(true);
  });

  it('completes more calls at a time than the library takes', async () => {
    const file = openFile(createNodeDisk());
    file.writeNow(pattern(4 * MIB), 0, 4 * MIB, 0);
    const punched = await Promise.all(
      Array.from({ length: 1000 }, (_, index) =>
        called((callback) => file.punchHole(index * 4096, 4096, callback)),
      ),
    );
    expect(punched.every((status) => status === 0)).toBe(true);
    expect(file.dataAfter(0)?.start).toBe(1000 * 4096);
  });

  it('passes on the error of the system, each call its own', async () => {
    const device = createNodeDisk().open('/dev/null', { create: false });
    const file = openFile(createNodeDisk());
    file.writeNow(pattern(4096), 0, 4096, 0);
    const statuses = await Promise.all([
      called((callback) => device.punchHole(0, 4096, callback)),
      called((callback) => file.punchHole(0, 4096, callback)),
      called((callback) => device.punchHole(0, 4096, callback)),
    ]);
    expect(statuses).toEqual([-19, 0, -19]);
    device.closeNow();
  });
});

describe('provisionZeroes', () => {
  it('takes space and reads as zeroes', async () => {
    const file = openFile(createNodeDisk());
    file.truncateNow(8 * MIB);
    file.writeNow(pattern(MIB), 0, MIB, 0);
    expect(await called((callback) => file.provisionZeroes(0, 4 * MIB, callback))).toBe(0);
    expect(file.allocatedNow()).toBeGreaterThanOrEqual(4 * MIB);
    const back = Buffer.alloc(MIB, 1);
    await called((callback) => file.read(back, 0, MIB, 0, callback));
    expect(back.every((byte) => byte === 0)).toBe(true);
  });

  it('is refused by tmpfs, which still punches', async () => {
    const file = openFile(createNodeDisk(), temporaryDirectory('/dev/shm'));
    file.writeNow(pattern(MIB), 0, MIB, 0);
    expect(await called((callback) => file.provisionZeroes(0, 4096, callback))).toBe(-EOPNOTSUPP);
    expect(await called((callback) => file.punchHole(0, MIB, callback))).toBe(0);
    expect(file.allocatedNow()).toBe(0);
  });
});

describe('copyFrom', () => {
  it('copies a range to the same place, and nothing beside it', async () => {
    const directory = diskDirectory();
    const source = openFile(createNodeDisk(), directory, 'source');
    const file = openFile(createNodeDisk(), directory, 'into');
    source.writeNow(pattern(4 * MIB), 0, 4 * MIB, 0);
    file.truncateNow(4 * MIB);
    const copies = [0, 1, 2].map((piece) =>
      called((callback) => file.copyFrom!(source, (1 + piece) * 1_000_000, 1_000_000, callback)),
    );
    expect(await Promise.all(copies)).toEqual([1_000_000, 1_000_000, 1_000_000]);
    const expected = Buffer.alloc(4 * MIB);
    pattern(4 * MIB).copy(expected, 1_000_000, 1_000_000, 4_000_000);
    const back = Buffer.alloc(4 * MIB, 1);
    expect(await called((callback) => file.read(back, 0, 4 * MIB, 0, callback))).toBe(4 * MIB);
    expect(back.equals(expected)).toBe(true);
  });

  it('copies less at the end of the file', async () => {
    const directory = diskDirectory();
    const source = openFile(createNodeDisk(), directory, 'source');
    const file = openFile(createNodeDisk(), directory, 'into');
    source.writeNow(pattern(MIB), 0, MIB, 0);
    expect(await called((callback) => file.copyFrom!(source, MIB - 100, 4096, callback))).toBe(100);
  });

  it('is refused without the system call', async () => {
    const disk = createNodeDisk({ syscalls: null });
    const directory = diskDirectory();
    const source = openFile(disk, directory, 'source');
    const file = openFile(disk, directory, 'into');
    source.writeNow(pattern(4096), 0, 4096, 0);
    expect(await called((callback) => file.copyFrom!(source, 0, 4096, callback))).toBe(-EOPNOTSUPP);
    expect(file.sizeNow()).toBe(0);
  });
});

describe('dataAfter', () => {
  it('walks the data of a sparse file', () => {
    const disk = createNodeDisk();
    const file = openFile(disk);
    file.truncateNow(64 * MIB);
    file.writeNow(pattern(4096), 0, 4096, 8 * MIB);
    file.writeNow(pattern(8192), 0, 8192, 40 * MIB);
    expect(disk.knowsExtents).toBe(true);
    expect(file.dataAfter(0)).toEqual({ start: 8 * MIB, end: 8 * MIB + 4096 });
    expect(file.dataAfter(8 * MIB + 4096)).toEqual({ start: 40 * MIB, end: 40 * MIB + 8192 });
    expect(file.dataAfter(40 * MIB + 4096)).toEqual({
      start: 40 * MIB + 4096,
      end: 40 * MIB + 8192,
    });
    expect(file.dataAfter(41 * MIB)).toBeNull();
    expect(file.dataAfter(64 * MIB)).toBeNull();
  });

  it('leaves the place of an appending file alone', () => {
    const directory = temporaryDirectory();
    const log = createNodeDisk().open(`${directory}/log`, { create: true, append: true });
    log.writeNow(pattern(100), 0, 100, 0);
    log.dataAfter(0);
    log.writeNow(pattern(100), 0, 100, 100);
    expect(log.sizeNow()).toBe(200);
    log.closeNow();
  });
});

describe('without the system calls', () => {
  it('says that it does not know and cannot', async () => {
    const disk = createNodeDisk({ syscalls: null });
    const file = openFile(disk);
    file.writeNow(pattern(4096), 0, 4096, 0);
    expect(disk.knowsExtents).toBe(false);
    expect(file.dataAfter(0)).toBeNull();
    expect(await called((callback) => file.punchHole(0, 4096, callback))).toBe(-EOPNOTSUPP);
    expect(await called((callback) => file.provisionZeroes(0, 4096, callback))).toBe(-EOPNOTSUPP);
  });
});
