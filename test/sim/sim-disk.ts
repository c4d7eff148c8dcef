/**
 * The disk as one process sees it, wholly under dice: work of the pool is done in any order, calls fail as armed, and
 * the process ends, killed or by a power cut, between any two calls.
 *
 * A process that ended runs on until it gives up the thread, and nothing that it does then reaches the disk. What
 * the next one finds is in `platter`.
 */
import type { Dice } from '../../scripts/fuzz/dice.ts';
import type { Disk, DiskCallback, DiskFile, DiskSpace } from '../../src/io/disk.ts';
import { WOULD_BLOCK } from '../../src/io/disk.ts';
import { PAGE } from './arena.ts';
import { Inode } from './content.ts';
import { Directory, failure, type Platter } from './platter.ts';
import type { Scheduler } from './scheduler.ts';

export const EIO = 5;
export const ENOSPC = 28;
const EEXIST = 17;
const EOPNOTSUPP = 95;

/** What the machine is like, for a whole history. */
export interface DiskTraits {
  readonly knowsExtents: boolean;
  readonly knowsBoot: boolean;
  readonly canPunch: boolean;
  readonly canProvision: boolean;
  readonly canCopy?: boolean;
  /** Pages that a file system calls data together, when one of them is. */
  readonly grain: number;
  /** Percent of the reads that do not find their bytes in memory. */
  readonly cold: number;
  /** Percent of the writes into the page cache that take long. */
  readonly slow: number;
}

export type CallKind =
  'read' | 'write' | 'sync' | 'zero' | 'open' | 'entry' | 'size' | 'sync-entry';

/** Of the calls of these kinds, to files of this class, so many pass and then so many fail. */
export interface Fault {
  readonly calls: readonly CallKind[];
  readonly files: 'log' | 'data' | 'any';
  readonly errno: number;
  passes: number;
  fails: number;
}

export interface Injected {
  readonly call: CallKind;
  readonly path: string;
  readonly errno: number;
}

export type Ending = 'kill' | 'cut';

/** What a disk needs of the process that uses it. */
export type DiskThreads = Pick<Scheduler, 'submit' | 'abandon' | 'lose'>;

export class SimDisk implements Disk {
  readonly bootId: string;
  readonly knowsExtents: boolean;
  /** What the next process finds, once this one ended. */
  platter: Platter;
  ended: Ending | null = null;
  readonly faults: Fault[] = [];
  readonly injected: Injected[] = [];
  /** Something failed for want of space. */
  wasFull = false;
  readonly traits: DiskTraits;
  private readonly scheduler: DiskThreads;
  private readonly dice: Dice;
  private readonly locked = new Set<string>();
  private ending: { how: Ending; calls: number } | null = null;

  constructor(platter: Platter, traits: DiskTraits, scheduler: DiskThreads, dice: Dice) {
    this.platter = platter;
    this.traits = traits;
    this.scheduler = scheduler;
    this.dice = dice;
    this.knowsExtents = traits.knowsExtents;
    this.bootId = traits.knowsBoot ? platter.bootId : '';
  }

  // ---- endings and faults

  /** Ends the process before its call after so many others. */
  endAfter(how: Ending, calls: number): void {
    this.ending ??= { how, calls };
  }

  forgetEnding(): void {
    this.ending = null;
  }

  endNow(asked: Ending): void {
    if (this.ended !== null) return;
    this.ending = null;
    // What threads of the pool do in these moments is still done by this process.
    this.scheduler.abandon();
    // What a failed sync left in the page cache is clean, and not on the disk: no later process can know. So nothing is
    // promised of it, and the next process begins after a power cut.
    const how = this.injected.some(({ call }) => call === 'sync') ? 'cut' : asked;
    if (how === 'cut') this.platter = this.platter.afterPowerCut(this.dice);
    this.ended = how;
  }

  /** Each call comes here first. True: the process is gone, and the call changes nothing. */
  private gone(): boolean {
    if (this.ended === null && this.ending !== null && this.ending.calls-- <= 0) {
      this.endNow(this.ending.how);
    }
    return this.ended !== null;
  }

  /** 0, or the errno with which a call fails. */
  private fault(call: CallKind, path: string): number {
    const log = path.includes('metadata.log');
    for (const fault of this.faults) {
      if (!fault.calls.includes(call) || fault.fails === 0) continue;
      if (fault.files !== 'any' && (fault.files === 'log') !== log) continue;
      fault.passes -= 1;
      if (fault.passes >= 0) continue;
      fault.fails -= 1;
      this.injected.push({ call, path, errno: fault.errno });
      return fault.errno;
    }
    return 0;
  }

  private check(call: CallKind, path: string): void {
    const errno = this.fault(call, path);
    if (errno !== 0) throw failure(errno === ENOSPC ? 'ENOSPC' : 'EIO', errno, path);
  }

  // ---- directories

  open(
    path: string,
    options: { create: boolean; exclusive?: boolean; append?: boolean },
  ): DiskFile {
    if (this.gone()) return new SimFile(this, path, new Inode());
    this.check('open', path);
    const found = this.platter.find(path);
    if (found !== null && options.exclusive === true) throw failure('EEXIST', EEXIST, path);
    if (found === null && options.create) {
      this.needPages(1, path);
      const { directory, name } = this.platter.place(path);
      directory.change({ kind: 'put', name, entry: new Inode() });
    }
    return new SimFile(this, path, this.platter.file(path));
  }

  makeDirectory(path: string): void {
    if (this.gone()) return;
    this.check('entry', path);
    let prefix = '';
    for (const part of path.split('/').slice(1)) {
      prefix += `/${part}`;
      if (this.platter.find(prefix) !== null) continue;
      const { directory, name } = this.platter.place(prefix);
      directory.change({ kind: 'put', name, entry: new Directory() });
      // Somebody made the root of the data directory before, and well.
      if (directory === this.platter.root) directory.sync();
    }
  }

  list(path: string): string[] {
    return [...this.platter.directory(path).entries.keys()].toSorted();
  }

  exists(path: string): boolean {
    return this.platter.find(path) !== null;
  }

  readFile(path: string): Buffer {
    const { cache } = this.platter.file(path);
    if (!this.gone()) this.check('read', path);
    return cache.read(0, cache.size);
  }

  replaceFile(path: string, content: Buffer): void {
    if (this.gone()) return;
    this.check('write', path);
    const inode = new Inode();
    inode.write(0, content);
    inode.synced(inode.dirty());
    const { directory, name } = this.platter.place(path);
    directory.change({ kind: 'put', name, entry: inode });
    directory.sync();
  }

  rename(from: string, to: string): void {
    if (this.gone()) return;
    this.check('entry', from);
    const { directory, name } = this.platter.place(from);
    const target = this.platter.place(to);
    if (target.directory !== directory) throw new Error('a rename stays in its directory here');
    if (!directory.entries.has(name)) throw failure('ENOENT', 2, from);
    directory.change({ kind: 'moved', name, to: target.name });
  }

  remove(path: string): void {
    if (this.gone()) return;
    this.check('entry', path);
    const { directory, name } = this.platter.place(path);
    const entry = directory.entries.get(name);
    if (entry === undefined) throw failure('ENOENT', 2, path);
    if (entry instanceof Directory) {
      for (const child of entry.entries.keys()) this.remove(`${path}/${child}`);
    }
    if (!this.gone()) directory.change({ kind: 'gone', name });
  }

  syncDirectory(path: string): void {
    if (this.gone()) return;
    this.check('sync-entry', path);
    this.platter.directory(path).sync();
  }

  syncDirectoryLater(path: string, callback: DiskCallback): void {
    this.later(() => {
      const errno = this.fault('sync-entry', path);
      if (errno === 0) this.platter.directory(path).sync();
      return -errno;
    }, callback);
  }

  /** Nothing of a volume asks for it. */
  space(_path: string, callback: (space: DiskSpace | null) => void): void {
    this.later(
      () => 0,
      () => callback(null),
    );
  }

  lock(directory: string): { release(): void } | null {
    if (this.locked.has(directory)) return null;
    this.locked.add(directory);
    return { release: () => void this.locked.delete(directory) };
  }

  // ---- files

  /** Has the pool do something. */
  later(perform: () => number, callback: DiskCallback): void {
    if (this.gone()) return;
    this.scheduler.submit(
      () => (this.gone() ? 0 : perform()),
      (result) => {
        if (this.ended === null) callback(result);
      },
    );
  }

  readFrom(file: SimFile, buffer: Buffer, start: number, length: number, position: number): number {
    const errno = this.gone() ? 0 : this.fault('read', file.path);
    if (errno !== 0) return -errno;
    const count = Math.max(0, Math.min(length, file.inode.cache.size - position));
    file.inode.cache.readInto(buffer, start, position, count);
    return count;
  }

  /** As `readFrom`, but some bytes are not in memory. */
  readHot(file: SimFile, buffer: Buffer, start: number, length: number, position: number): number {
    if (!this.dice.chance(this.traits.cold)) {
      return this.readFrom(file, buffer, start, length, position);
    }
    const hot = Math.floor(this.dice.below(length) / PAGE) * PAGE;
    return hot === 0 ? WOULD_BLOCK : this.readFrom(file, buffer, start, hot, position);
  }

  writeTo(file: SimFile, bytes: Buffer, position: number): number {
    if (this.gone()) return bytes.length;
    if (this.dice.chance(this.traits.slow)) this.scheduler.lose(40);
    const errno = this.fault('write', file.path);
    if (errno === 0) return this.putWhatFits(file, bytes, position);
    // An error comes after any part of the write.
    const last = Math.floor((position + bytes.length) / PAGE);
    const end = this.dice.between(Math.floor(position / PAGE), last) * PAGE;
    file.inode.write(position, bytes.subarray(0, Math.max(0, end - position)));
    return -errno;
  }

  private putWhatFits(file: SimFile, bytes: Buffer, position: number): number {
    const { inode } = file;
    const { platter } = this;
    if (platter.pagesMax !== Infinity) {
      let room = platter.pagesMax - platter.pagesUsed();
      const last = Math.floor((position + bytes.length - 1) / PAGE);
      for (let page = Math.floor(position / PAGE); page <= last; page += 1) {
        if (inode.cache.has(page) || room-- > 0) continue;
        this.wasFull = true;
        inode.write(position, bytes.subarray(0, Math.max(0, page * PAGE - position)));
        return -ENOSPC;
      }
    }
    inode.write(position, bytes);
    return bytes.length;
  }

  sync(file: SimFile, callback: DiskCallback): void {
    const covered = file.inode.dirty();
    const { syncsFailed } = file.inode;
    this.later(() => {
      // As Linux has it: every descriptor that waits hears of a failure, and syncs side by side have one each.
      const heard = file.inode.syncsFailed === syncsFailed ? 0 : EIO;
      const errno = heard === 0 ? this.fault('sync', file.path) : heard;
      if (errno === 0) file.inode.synced(covered);
      else file.inode.syncFailed(covered, this.dice);
      return -errno;
    }, callback);
  }

  syncNow(file: SimFile): void {
    if (this.gone()) return;
    this.check('sync', file.path);
    file.inode.synced(file.inode.dirty());
  }

  zeroIn(file: SimFile, position: number, length: number, reserve: boolean): number {
    if (!(reserve ? this.traits.canProvision : this.traits.canPunch)) return -EOPNOTSUPP;
    const errno = this.fault('zero', file.path);
    if (errno !== 0) {
      file.inode.zero(position, this.dice.below(length / PAGE + 1) * PAGE, reserve);
      return -errno;
    }
    if (reserve && this.isFullFor(file, position, length)) return -ENOSPC;
    file.inode.zero(position, length, reserve);
    return 0;
  }

  private isFullFor(file: SimFile, position: number, length: number): boolean {
    const { platter } = this;
    if (platter.pagesMax === Infinity) return false;
    let missing = 0;
    const last = Math.floor((position + length - 1) / PAGE);
    for (let page = Math.floor(position / PAGE); page <= last; page += 1) {
      if (!file.inode.cache.has(page)) missing += 1;
    }
    if (missing <= platter.pagesMax - platter.pagesUsed()) return false;
    this.wasFull = true;
    return true;
  }

  private needPages(count: number, path: string): void {
    if (this.platter.pagesMax === Infinity) return;
    if (this.platter.pagesUsed() + count <= this.platter.pagesMax) return;
    this.wasFull = true;
    throw failure('ENOSPC', ENOSPC, path);
  }

  truncate(file: SimFile, sizeBytes: number): void {
    if (this.gone()) return;
    this.check('size', file.path);
    file.inode.truncate(sizeBytes);
  }
}

class SimFile implements DiskFile {
  readonly path: string;
  readonly inode: Inode;
  private readonly disk: SimDisk;
  private closed = false;

  constructor(disk: SimDisk, path: string, inode: Inode) {
    this.disk = disk;
    this.path = path;
    this.inode = inode;
  }

  readNow(buffer: Buffer, start: number, length: number, position: number): number {
    this.mustBeOpen();
    return this.disk.readHot(this, buffer, start, length, position);
  }

  readBlocking(buffer: Buffer, start: number, length: number, position: number): number {
    this.mustBeOpen();
    return this.disk.readFrom(this, buffer, start, length, position);
  }

  read(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void {
    this.mustBeOpen();
    this.disk.later(() => {
      this.mustBeOpen();
      return this.disk.readFrom(this, buffer, start, length, position);
    }, callback);
  }

  writeNow(buffer: Buffer, start: number, length: number, position: number): number {
    this.mustBeOpen();
    return this.disk.writeTo(this, buffer.subarray(start, start + length), position);
  }

  write(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void {
    this.mustBeOpen();
    this.disk.later(() => {
      this.mustBeOpen();
      return this.disk.writeTo(this, buffer.subarray(start, start + length), position);
    }, callback);
  }

  copyFrom(source: DiskFile, position: number, length: number, callback: DiskCallback): void {
    this.mustBeOpen();
    const { disk } = this;
    disk.later(() => {
      if (disk.traits.canCopy !== true || !(source instanceof SimFile)) return -EOPNOTSUPP;
      this.mustBeOpen();
      const bytes = Buffer.alloc(length);
      const count = disk.readFrom(source, bytes, 0, length, position);
      return count <= 0 ? count : disk.writeTo(this, bytes.subarray(0, count), position);
    }, callback);
  }

  datasync(callback: DiskCallback): void {
    this.mustBeOpen();
    this.disk.sync(this, callback);
  }

  datasyncNow(): void {
    this.mustBeOpen();
    this.disk.syncNow(this);
  }

  punchHole(position: number, length: number, callback: DiskCallback): void {
    this.mustBeOpen();
    this.disk.later(() => this.disk.zeroIn(this, position, length, false), callback);
  }

  provisionZeroes(position: number, length: number, callback: DiskCallback): void {
    this.mustBeOpen();
    this.disk.later(() => this.disk.zeroIn(this, position, length, true), callback);
  }

  readAhead(_position: number, _length: number, callback: DiskCallback): void {
    this.mustBeOpen();
    this.disk.later(() => 0, callback);
  }

  dataAfter(position: number): { start: number; end: number } | null {
    const { size, pages } = this.inode.cache;
    const { grain } = this.disk.traits;
    const isData = (group: number): boolean => {
      for (let page = group * grain; page < (group + 1) * grain; page += 1) {
        if (pages.has(page)) return true;
      }
      return false;
    };
    const last = Math.ceil(size / PAGE / grain);
    let first = Math.floor(position / PAGE / grain);
    while (first < last && !isData(first)) first += 1;
    if (first >= last) return null;
    let end = first;
    while (end < last && isData(end)) end += 1;
    return {
      start: Math.max(position, first * grain * PAGE),
      end: Math.min(end * grain * PAGE, size),
    };
  }

  truncateNow(sizeBytes: number): void {
    this.mustBeOpen();
    this.disk.truncate(this, sizeBytes);
  }

  sizeNow(): number {
    return this.inode.cache.size;
  }

  allocatedNow(): number {
    const { pages, reserved } = this.inode.cache;
    return (pages.size + reserved.size) * PAGE;
  }

  closeNow(): void {
    this.closed = true;
  }

  private mustBeOpen(): void {
    if (this.closed && this.disk.ended === null)
      throw new Error(`${this.path} is used after its end`);
  }
}
