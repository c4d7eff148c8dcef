/**
 * Files give back what was written, at once or from the pool, with and without the system calls that Node
 * lacks, whatever memory a buffer lies in, and transfers that the kernel cuts short or interrupts are
 * continued. Method: real files; the kernel's bad moods are put in front of the real calls.
 */
import fs, { readFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { describe, expect, it, onTestFinished } from 'vitest';

import { WOULD_BLOCK, type DiskFile } from '../../src/io/disk.ts';
import { createNodeDisk } from '../../src/io/node-disk.ts';
import { RWF_NOWAIT } from '../../src/io/syscalls.ts';
import { called, diskDirectory, makeCold, openFile, pattern, realSyscalls, WAYS } from './files.ts';
import { temporaryDirectory } from './wire.ts';

const EINTR = 4;

describe.each(WAYS)('a file through %s', (_name, makeDisk) => {
  it('reads back what was written at once', () => {
    const file = openFile(makeDisk());
    const data = pattern(100_000);
    expect(file.writeNow(data, 0, data.length, 5000)).toBe(data.length);
    expect(file.sizeNow()).toBe(105_000);
    const back = Buffer.alloc(100_002, 0xee);
    expect(file.readNow(back, 1, 100_000, 5000)).toBe(100_000);
    expect(back.subarray(1, -1).equals(data)).toBe(true);
    expect([back[0], back.at(-1)]).toEqual([0xee, 0xee]);
    expect(readFileSync(file.path).subarray(5000).equals(data)).toBe(true);
  });

  it('reads back what was written on the pool', async () => {
    const file = openFile(makeDisk());
    const data = pattern(300_000);
    expect(await called((callback) => file.write(data, 10, 299_000, 123, callback))).toBe(299_000);
    const back = Buffer.alloc(299_000);
    expect(await called((callback) => file.read(back, 0, 299_000, 123, callback))).toBe(299_000);
    expect(back.equals(data.subarray(10, 299_010))).toBe(true);
    expect(file.readBlocking(back, 0, 100, 123)).toBe(100);
  });

  it.each(['readNow', 'readBlocking', 'read'] as const)(
    '%s tells how much there was before the end, and touches nothing behind it',
    async (method) => {
      const file = openFile(makeDisk());
      file.writeNow(pattern(1000), 0, 1000, 0);
      const read = (position: number, into: Buffer): Promise<number> =>
        method === 'read'
          ? called((callback) => file.read(into, 0, into.length, position, callback))
          : Promise.resolve(file[method](into, 0, into.length, position));
      const back = Buffer.alloc(600, 0xee);
      expect(await read(700, back)).toBe(300);
      expect(back.subarray(300).every((byte) => byte === 0xee)).toBe(true);
      expect(await read(1000, back)).toBe(0);
      expect(await read(2 ** 40, back)).toBe(0);
    },
  );

  it('reaches offsets past 4 GiB', () => {
    const file = openFile(makeDisk());
    const far = 2 ** 33 + 7;
    file.writeNow(pattern(100), 0, 100, far);
    const back = Buffer.alloc(100);
    expect(file.readNow(back, 0, 100, far)).toBe(100);
    expect(back.equals(pattern(100))).toBe(true);
    expect(file.sizeNow()).toBe(far + 100);
    expect(file.allocatedNow()).toBeLessThan(65_536);
  });

  it('answers a full disk with -ENOSPC', async () => {
    const file = makeDisk().open('/dev/full', { create: false });
    expect(file.writeNow(pattern(10), 0, 10, 0)).toBe(-28);
    expect(await called((callback) => file.write(pattern(10), 0, 10, 0, callback))).toBe(-28);
    file.closeNow();
  });

  it('works with memory of every kind', () => {
    const file = openFile(makeDisk());
    const kinds: Buffer[] = [
      Buffer.alloc(64, 1),
      Buffer.from([2, 2, 2, 2]),
      Buffer.allocUnsafe(100).fill(3),
      Buffer.from(new ArrayBuffer(5000), 17, 4000).fill(4),
      Buffer.from(new SharedArrayBuffer(1 << 20), 4096, 8192).fill(5),
      Buffer.alloc(8 << 20, 6),
    ];
    for (const [index, buffer] of kinds.entries()) {
      expect(file.writeNow(buffer, 0, buffer.length, 0)).toBe(buffer.length);
      buffer.fill(0);
      expect(file.readNow(buffer, 0, buffer.length, 0)).toBe(buffer.length);
      expect(buffer.every((byte) => byte === index + 1)).toBe(true);
    }
  });

  it('refuses ranges outside the buffer and the file, as errors of the program', () => {
    const file = openFile(makeDisk());
    const buffer = Buffer.alloc(10);
    const bad: [number, number, number][] = [
      [0, 11, 0],
      [5, 6, 0],
      [-1, 1, 0],
      [0, -1, 0],
      [0, 1, -1],
      [0.5, 1, 0],
      [0, 1, 2 ** 53],
    ];
    for (const [start, length, position] of bad) {
      expect(() => file.readNow(buffer, start, length, position)).toThrow();
      expect(() => file.writeNow(buffer, start, length, position)).toThrow();
      expect(() => file.read(buffer, start, length, position, () => {})).toThrow();
      expect(() => file.write(buffer, start, length, position, () => {})).toThrow();
    }
    const detached = Buffer.from(new ArrayBuffer(10));
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    expect(() => file.readNow(detached, 0, 1, 0)).toThrow();
  });

  it('does not close under work in flight, and does no work when closed', async () => {
    const file = makeDisk().open(`${diskDirectory()}/file`, { create: true });
    const done = called((callback) => file.write(pattern(10), 0, 10, 0, callback));
    expect(() => file.closeNow()).toThrow('in flight');
    await done;
    file.closeNow();
    const buffer = Buffer.alloc(1);
    expect(() => file.readNow(buffer, 0, 1, 0)).toThrow('closed');
    expect(() => file.writeNow(buffer, 0, 1, 0)).toThrow('closed');
    expect(() => file.datasync(() => {})).toThrow('closed');
    expect(() => file.closeNow()).toThrow('closed');
  });

  it('makes data durable on the pool, and says when that failed', async () => {
    const file = openFile(makeDisk());
    file.writeNow(pattern(10), 0, 10, 0);
    expect(await called((callback) => file.datasync(callback))).toBe(0);
    const device = makeDisk().open('/dev/null', { create: false });
    expect(await called((callback) => device.datasync(callback))).toBe(-22);
    device.closeNow();
  });
});

describe('readAhead', () => {
  it('has the bytes in memory soon, without anybody waiting for them', async () => {
    const file = openFile(createNodeDisk());
    const data = pattern(1 << 20);
    file.writeNow(data, 0, data.length, 0);
    const back = Buffer.alloc(4096);
    const misses = async (between: () => Promise<void>): Promise<number> => {
      let count = 0;
      for (let round = 0; round < 10; round += 1) {
        await makeCold(file);
        await between();
        // Far from the start: a read there fetches nothing that the next round looks at.
        if (file.readNow(back, 0, 4096, round * 65_536) === WOULD_BLOCK) count += 1;
      }
      return count;
    };
    const without = await misses(async () => {});
    const ahead = await misses(async () => {
      expect(await called((done) => file.readAhead(0, data.length, done))).toBe(0);
      await new Promise((resolve) => {
        setTimeout(resolve, 20);
      });
    });
    expect(without).toBeGreaterThan(ahead);
  });

  it('says where it cannot be done', async () => {
    const file = openFile(createNodeDisk({ syscalls: null }));
    expect(await called((done) => file.readAhead(0, 4096, done))).toBe(-95);
  });
});

describe('readNow', () => {
  it('does not wait for the disk: it reads what is in memory', async () => {
    // A refused read makes the kernel fetch the bytes, and they may be there before it looks again: so
    // each answer is checked, and one refusal in many tries is enough.
    const file = openFile(createNodeDisk());
    const data = pattern(1 << 20);
    file.writeNow(data, 0, data.length, 0);
    const answers: number[] = [];
    const tryOne = (length: number): void => {
      const back = Buffer.alloc(length);
      const answer = file.readNow(back, 0, length, 65_536);
      answers.push(answer);
      if (answer === WOULD_BLOCK) return;
      expect(answer).toBeGreaterThan(0);
      const there = back.subarray(0, answer);
      expect(there.equals(data.subarray(65_536, 65_536 + answer))).toBe(true);
      expect(back.subarray(answer).every((byte) => byte === 0)).toBe(true);
    };
    for (let round = 0; round < 20; round += 1) {
      await makeCold(file);
      tryOne(4096);
      tryOne(500_000);
      const back = Buffer.alloc(4096);
      await called((callback) => file.read(back, 0, 4096, 65_536, callback));
      tryOne(4096);
    }
    expect(answers).toContain(WOULD_BLOCK);
    expect(answers).toContain(4096);
  });

  it('gives the bytes up to where it would have to wait', () => {
    const syscalls = realSyscalls();
    let calls = 0;
    const read = (): number => (calls++ === 0 ? 1000 : WOULD_BLOCK);
    const file = openFile(createNodeDisk({ syscalls: { ...syscalls, read } }));
    expect(file.readNow(Buffer.alloc(4096), 0, 4096, 0)).toBe(1000);
    expect(file.readNow(Buffer.alloc(4096), 0, 3096, 1000)).toBe(WOULD_BLOCK);
  });

  it('finds out where a file system does not know how not to wait', () => {
    const syscalls = realSyscalls();
    const flags: number[] = [];
    const disk = createNodeDisk({
      syscalls: {
        ...syscalls,
        read: (fd, address, length, position, flag) => {
          flags.push(flag);
          return syscalls.read!(fd, address, length, position, flag);
        },
      },
    });
    const file = openFile(disk, temporaryDirectory('/dev/shm'));
    file.writeNow(pattern(5000), 0, 5000, 0);
    const back = Buffer.alloc(5000);
    expect(file.readNow(back, 0, 5000, 0)).toBe(5000);
    expect(back.equals(pattern(5000))).toBe(true);
    expect(file.readNow(back, 0, 5000, 0)).toBe(5000);
    expect(flags.slice(0, 2)).toEqual([RWF_NOWAIT, 0]);
    expect(flags.slice(2)).not.toContain(RWF_NOWAIT);
  });
});

describe('a kernel in a bad mood', () => {
  it('does not lose or repeat a byte', () => {
    const file = moody();
    const data = pattern(10_500);
    expect(file.writeNow(data, 0, data.length, 77)).toBe(data.length);
    expect(readFileSync(file.path).subarray(77).equals(data)).toBe(true);
    const back = Buffer.alloc(12_000);
    expect(file.readNow(back, 0, 12_000, 77)).toBe(data.length);
    expect(back.subarray(0, data.length).equals(data)).toBe(true);
  });

  it('does not lose or repeat a byte on the pool', async () => {
    const restore = cutPoolTransfers(1000);
    const file = openFile(createNodeDisk());
    const data = pattern(10_500);
    expect(await called((callback) => file.write(data, 0, data.length, 77, callback))).toBe(10_500);
    expect(readFileSync(file.path).subarray(77).equals(data)).toBe(true);
    const back = Buffer.alloc(12_000);
    expect(await called((callback) => file.read(back, 0, 12_000, 77, callback))).toBe(10_500);
    expect(back.subarray(0, data.length).equals(data)).toBe(true);
    expect(restore()).toBeGreaterThan(20);
  });

  it('fails with the error that came after a part', () => {
    const syscalls = realSyscalls();
    let calls = 0;
    const disk = createNodeDisk({
      syscalls: { ...syscalls, write: () => (calls++ === 0 ? 5 : -28), read: () => -5 },
    });
    const file = openFile(disk);
    expect(file.writeNow(pattern(10), 0, 10, 0)).toBe(-28);
    expect(file.readNow(Buffer.alloc(10), 0, 10, 0)).toBe(-5);
  });
});

/** A file whose transfers are interrupted every third time, and else move at most 1000 bytes. */
function moody(): DiskFile {
  const syscalls = realSyscalls();
  let calls = 0;
  const cut = (length: number): number => (calls++ % 3 === 2 ? -EINTR : Math.min(length, 1000));
  return openFile(
    createNodeDisk({
      syscalls: {
        ...syscalls,
        read: (fd, address, length, position, flag) => {
          const part = cut(length);
          return part < 0 ? part : syscalls.read!(fd, address, part, position, flag);
        },
        write: (fd, address, length, position) => {
          const part = cut(length);
          return part < 0 ? part : syscalls.write!(fd, address, part, position);
        },
      },
    }),
  );
}

/** Lets `fs.read` and `fs.write` move no more than `most` bytes. Returns how to undo it and count calls. */
function cutPoolTransfers(most: number): () => number {
  const { read, write } = fs;
  let calls = 0;
  const cut =
    (real: (...args: unknown[]) => void) =>
    (...args: unknown[]): void => {
      calls += 1;
      const [fd, buffer, offset, length, ...rest] = args;
      real(fd, buffer, offset, Math.min(length as number, most), ...rest);
    };
  replaceInFs({
    read: cut(read as (...args: unknown[]) => void),
    write: cut(write as (...args: unknown[]) => void),
  });
  const restore = (): number => {
    replaceInFs({ read, write });
    return calls;
  };
  onTestFinished(() => void restore());
  return restore;
}

function replaceInFs(functions: object): void {
  Object.assign(fs, functions);
  syncBuiltinESMExports();
}
