/**
 * One open file: the form of `DiskFile` that talks to the operating system.
 *
 * Invariants:
 * - `readNow` and `writeNow` allocate nothing and move all bytes, or fail: short transfers are continued.
 * - Work on the pool keeps the descriptor: `closeNow` with any in flight is a programmer error, since
 *   the number could be given to another file while the pool still uses it.
 * - Callbacks never run before the call that took them returned.
 */
import assert from 'node:assert';
import * as fs from 'node:fs';

import { WOULD_BLOCK, type DiskCallback, type DiskFile } from './disk.ts';
import { errnoOf } from './errors.ts';
import { readLane, writeLane } from './pool-lane.ts';
import type { PoolLane } from './pool-lane.ts';
import { SyncDescriptors } from './sync-descriptors.ts';
import { PUNCH_HOLE, RWF_NOWAIT, SEEK_DATA, SEEK_HOLE, ZERO_RANGE } from './syscalls.ts';
import type { Syscalls } from './syscalls.ts';
import { systemError } from './system-error.ts';

const EINTR = 4;
const EIO = 5;
const ENXIO = 6;
const EOPNOTSUPP = 95;
/** EPERM, EXDEV, EINVAL, ENOSYS, EOPNOTSUPP: the system, or these two files, cannot be copied that way. */
const CANNOT_COPY: ReadonlySet<number> = new Set([1, 18, 22, 38, EOPNOTSUPP]);
/** What `stat` counts in, whatever the block size of the file system. */
const STAT_BLOCK_BYTES = 512;

export class NodeFile implements DiskFile {
  readonly path: string;
  private readonly descriptor: number;
  private readonly syscalls: Syscalls | null;
  /** Turned to 0 when the file system does not know RWF_NOWAIT (tmpfs): reads there are from memory. */
  private readFlags = RWF_NOWAIT;
  private readonly syncs: SyncDescriptors;
  private inFlight = 0;
  private open = true;

  constructor(path: string, descriptor: number, syscalls: Syscalls | null) {
    this.path = path;
    this.descriptor = descriptor;
    this.syscalls = syscalls;
    this.syncs = new SyncDescriptors(descriptor);
  }

  readNow(buffer: Buffer, start: number, length: number, position: number): number {
    this.checkRange(buffer, start, length, position);
    const read = this.syscalls?.read ?? null;
    if (this.syscalls === null || read === null) {
      // Without preadv2 nothing tells whether a read would wait for the disk: it is done at once.
      return this.readBlocking(buffer, start, length, position);
    }
    const address = this.syscalls.addressOf(buffer) + start;
    let done = 0;
    while (done < length) {
      const count = read(
        this.descriptor,
        address + done,
        length - done,
        position + done,
        this.readFlags,
      );
      if (count > 0) done += count;
      else if (count === 0) break;
      else if (count === -EOPNOTSUPP && this.readFlags !== 0) this.readFlags = 0;
      else if (count === WOULD_BLOCK && done > 0) break;
      else if (count !== -EINTR) return count;
    }
    return done;
  }

  readBlocking(buffer: Buffer, start: number, length: number, position: number): number {
    this.checkRange(buffer, start, length, position);
    let done = 0;
    while (done < length) {
      try {
        const count = fs.readSync(
          this.descriptor,
          buffer,
          start + done,
          length - done,
          position + done,
        );
        if (count === 0) break;
        done += count;
      } catch (error) {
        const errno = errnoOf(error);
        // EAGAIN has a meaning of its own here, and no regular file gives it to a plain read.
        if (errno !== EINTR) return errno === -WOULD_BLOCK ? -EIO : -errno;
      }
    }
    return done;
  }

  read(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void {
    this.checkRange(buffer, start, length, position);
    let done = 0;
    const step = (error: Error | null, count: number): void => {
      if (error !== null && errnoOf(error) !== EINTR) {
        this.leave(readLane, callback, -errnoOf(error));
        return;
      }
      done += error === null ? count : 0;
      if (done === length || (error === null && count === 0)) this.leave(readLane, callback, done);
      else fs.read(this.descriptor, buffer, start + done, length - done, position + done, step);
    };
    this.inFlight += 1;
    readLane.enter(() => fs.read(this.descriptor, buffer, start, length, position, step));
  }

  writeNow(buffer: Buffer, start: number, length: number, position: number): number {
    this.checkRange(buffer, start, length, position);
    const write = this.syscalls?.write ?? null;
    if (this.syscalls === null || write === null) {
      return this.writeSync(buffer, start, length, position);
    }
    const address = this.syscalls.addressOf(buffer) + start;
    let done = 0;
    while (done < length) {
      const count = write(this.descriptor, address + done, length - done, position + done);
      if (count > 0) done += count;
      else if (count === 0) return -EIO;
      else if (count !== -EINTR) return count;
    }
    return done;
  }

  write(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void {
    this.checkRange(buffer, start, length, position);
    let done = 0;
    const step = (error: Error | null, count: number): void => {
      if (error !== null && errnoOf(error) !== EINTR) {
        this.leave(writeLane, callback, -errnoOf(error));
        return;
      }
      done += error === null ? count : 0;
      if (done === length) this.leave(writeLane, callback, done);
      else if (error === null && count === 0) this.leave(writeLane, callback, -EIO);
      else fs.write(this.descriptor, buffer, start + done, length - done, position + done, step);
    };
    this.inFlight += 1;
    writeLane.enter(() => fs.write(this.descriptor, buffer, start, length, position, step));
  }

  copyFrom(source: DiskFile, position: number, length: number, callback: DiskCallback): void {
    this.checkSpan(position, length);
    const copyRange = this.syscalls?.copyRange ?? null;
    this.inFlight += 1;
    if (copyRange === null || !(source instanceof NodeFile)) {
      setImmediate(() => this.finish(callback, -EOPNOTSUPP));
      return;
    }
    source.checkSpan(position, length);
    source.inFlight += 1;
    const leave = (result: number): void => {
      source.inFlight -= 1;
      this.leave(writeLane, callback, result);
    };
    let done = 0;
    const next = (): void =>
      copyRange(source.descriptor, this.descriptor, position + done, length - done, (count) => {
        if (count > 0) done += count;
        if (count < 0 && count !== -EINTR) leave(CANNOT_COPY.has(-count) ? -EOPNOTSUPP : count);
        else if (count === 0 || done === length) leave(done);
        else next();
      });
    writeLane.enter(next);
  }

  datasync(callback: DiskCallback): void {
    assert(this.open, 'the file is closed');
    this.inFlight += 1;
    this.syncs.run((error) => this.finish(callback, error === null ? 0 : -errnoOf(error)));
  }

  datasyncNow(): void {
    assert(this.open, 'the file is closed');
    fs.fdatasyncSync(this.descriptor);
  }

  punchHole(position: number, length: number, callback: DiskCallback): void {
    this.allocate(PUNCH_HOLE, position, length, callback);
  }

  provisionZeroes(position: number, length: number, callback: DiskCallback): void {
    this.allocate(ZERO_RANGE, position, length, callback);
  }

  readAhead(position: number, length: number, callback: DiskCallback): void {
    this.checkSpan(position, length);
    const readAhead = this.syscalls?.readAhead ?? null;
    this.inFlight += 1;
    if (readAhead === null) setImmediate(() => this.finish(callback, -EOPNOTSUPP));
    else readAhead(this.descriptor, position, length, (status) => this.finish(callback, status));
  }

  dataAfter(position: number): { start: number; end: number } | null {
    assert(this.open, 'the file is closed');
    assert(Number.isSafeInteger(position) && position >= 0, 'a position is not negative');
    const seek = this.syscalls?.seek ?? null;
    if (seek === null) return null;
    const start = seek(this.descriptor, position, SEEK_DATA);
    if (start === -ENXIO) return null;
    if (start < 0) throw systemError(-start, 'lseek', this.path);
    const end = seek(this.descriptor, start, SEEK_HOLE);
    // The data may have been punched away, or cut off, between the two calls.
    if (end === -ENXIO || end === start) return this.dataAfter(start + 1);
    if (end < 0) throw systemError(-end, 'lseek', this.path);
    return { start, end };
  }

  truncateNow(sizeBytes: number): void {
    assert(this.open, 'the file is closed');
    fs.ftruncateSync(this.descriptor, sizeBytes);
  }

  sizeNow(): number {
    assert(this.open, 'the file is closed');
    return fs.fstatSync(this.descriptor).size;
  }

  allocatedNow(): number {
    assert(this.open, 'the file is closed');
    return fs.fstatSync(this.descriptor).blocks * STAT_BLOCK_BYTES;
  }

  closeNow(): void {
    assert(this.open, 'the file is closed already');
    assert(this.inFlight === 0, 'work on the file is still in flight');
    this.open = false;
    this.syncs.close();
    fs.closeSync(this.descriptor);
  }

  private allocate(mode: number, position: number, length: number, callback: DiskCallback): void {
    this.checkSpan(position, length);
    const allocate = this.syscalls?.allocate ?? null;
    this.inFlight += 1;
    if (allocate === null) {
      setImmediate(() => this.finish(callback, -EOPNOTSUPP));
      return;
    }
    const step = (status: number): void => {
      if (status === -EINTR) allocate(this.descriptor, mode, position, length, step);
      else this.finish(callback, status);
    };
    allocate(this.descriptor, mode, position, length, step);
  }

  private leave(lane: PoolLane, callback: DiskCallback, result: number): void {
    lane.ended();
    this.finish(callback, result);
  }

  private finish(callback: DiskCallback, result: number): void {
    assert(this.inFlight > 0, 'work ended that never began');
    this.inFlight -= 1;
    callback(result);
  }

  private writeSync(buffer: Buffer, start: number, length: number, position: number): number {
    let done = 0;
    while (done < length) {
      try {
        const count = fs.writeSync(
          this.descriptor,
          buffer,
          start + done,
          length - done,
          position + done,
        );
        if (count === 0) return -EIO;
        done += count;
      } catch (error) {
        if (errnoOf(error) !== EINTR) return -errnoOf(error);
      }
    }
    return done;
  }

  private checkSpan(position: number, length: number): void {
    assert(this.open, 'the file is closed');
    assert(Number.isSafeInteger(position) && position >= 0, 'a position is not negative');
    assert(Number.isSafeInteger(length) && length > 0, 'a range has bytes');
  }

  /** What keeps the kernel inside the buffer: addresses are computed from these numbers. */
  private checkRange(buffer: Buffer, start: number, length: number, position: number): void {
    assert(this.open, 'the file is closed');
    assert(Number.isSafeInteger(start) && start >= 0, 'a start is not negative');
    assert(Number.isSafeInteger(length) && length >= 0, 'a length is not negative');
    assert(start + length <= buffer.length, 'the range ends past the buffer');
    assert(Number.isSafeInteger(position) && position >= 0, 'a position is not negative');
  }
}
