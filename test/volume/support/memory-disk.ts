/**
 * A disk in memory that fails as told: it loses what was not synced at a power cut, refuses to grow when full,
 * fails a sync for good, and holds its pool until a test lets it go.
 *
 * Every file has what the page cache shows and what the platter holds; a directory entry likewise. `crash`
 * keeps the platter and, chosen by a seed, any part of the changes that were not synced.
 */
import { randomBytes } from 'node:crypto';
import type { Disk, DiskCallback, DiskFile, DiskSpace } from '../../../src/io/disk.ts';
import { WOULD_BLOCK } from '../../../src/io/disk.ts';

const ENOSPC = 28;
const PAGE = 4096;

function failure(code: string, errno: number, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code, errno: -errno });
}

interface Change {
  readonly position: number;
  /** Null: the file got the length `position`. */
  readonly bytes: Buffer | null;
}

class Content {
  /** What reads see. */
  pages = new Map<number, Buffer>();
  size = 0;
  /** What a power cut leaves. */
  safe: { pages: Map<number, Buffer>; size: number } = { pages: new Map(), size: 0 };
  changes: Change[] = [];
  /** Its directory was synced since it has its name there. */
  linked = false;

  apply(change: Change): void {
    applyTo(this, change);
    this.changes.push(change);
  }

  sync(changes: readonly Change[]): void {
    for (const change of changes) applyTo(this.safe, change);
    const done = new Set(changes);
    this.changes = this.changes.filter((change) => !done.has(change));
  }

  allocated(): number {
    return this.pages.size * PAGE;
  }
}

function applyTo(target: { pages: Map<number, Buffer>; size: number }, change: Change): void {
  const { position, bytes } = change;
  if (bytes === null) {
    for (const [page, content] of target.pages) {
      if (page * PAGE >= position) target.pages.delete(page);
      else if ((page + 1) * PAGE > position) content.fill(0, position - page * PAGE);
    }
    target.size = position;
    return;
  }
  let done = 0;
  while (done < bytes.length) {
    const at = position + done;
    const page = Math.floor(at / PAGE);
    const within = at - page * PAGE;
    const length = Math.min(PAGE - within, bytes.length - done);
    const content = target.pages.get(page) ?? Buffer.alloc(PAGE);
    bytes.copy(content, within, done, done + length);
    target.pages.set(page, content);
    done += length;
  }
  target.size = Math.max(target.size, position + bytes.length);
}

export class MemoryDisk implements Disk {
  knowsExtents = true;
  /** Another one after a power cut. */
  bootId = randomBytes(16).toString('hex');
  /** Pages that the disk has. A write that needs more gets ENOSPC. */
  pagesMax = Number.POSITIVE_INFINITY;
  /** Bytes of the first page that found no room which are written all the same: its blocks may be smaller. */
  partBytes = 0;
  /** Writes that got ENOSPC, in all or in part. */
  refused = 0;
  /** Answers of the next syncs of files whose path matches; a non-zero answer stays. */
  failSync: ((path: string) => number) | null = null;
  /** Reads answer WOULD_BLOCK. */
  cold = false;
  canPunch = true;
  /** False: of a file, all is data. */
  tellsHoles = true;
  /** Pages that are called data together, when one of them is. */
  extentPages = 1;
  failTruncate = false;
  canProvision = true;
  canReadAhead = true;
  readonly readAheads: { position: number; length: number }[] = [];
  /** Called before each `writeNow`, for a test that makes writes slow. */
  beforeWriteNow: ((path: string) => void) | null = null;
  /** While set, work for the pool is kept in `held`, in order of arrival. */
  holding = false;
  readonly held: { kind: string; path: string; position: number; run: () => void }[] = [];
  readonly syncs = new Map<string, number>();
  /** Its process was killed. */
  killed = false;
  private files = new Map<string, Content>();
  private directories = new Set<string>(['/']);
  private safeFiles = new Map<string, Content>();
  private safeDirectories = new Set<string>(['/']);
  private locked = new Set<string>();

  open(path: string, options: { create: boolean; exclusive?: boolean }): DiskFile {
    let content = this.files.get(path);
    if (content !== undefined && options.exclusive === true) throw failure('EEXIST', 17, path);
    if (content === undefined) {
      if (!options.create) throw failure('ENOENT', 2, path);
      content = new Content();
      this.files.set(path, content);
    }
    return new MemoryFile(this, path, content);
  }

  makeDirectory(path: string): void {
    let prefix = '';
    for (const part of path.split('/').slice(1)) {
      prefix += `/${part}`;
      this.directories.add(prefix);
      // The root of the tests is there before them.
      if (prefix === path && !path.slice(1).includes('/')) this.safeDirectories.add(prefix);
    }
  }

  list(path: string): string[] {
    const names = new Set<string>();
    for (const each of [...this.files.keys(), ...this.directories]) {
      if (each.startsWith(`${path}/`)) names.add(each.slice(path.length + 1).split('/')[0]!);
    }
    return [...names].toSorted();
  }

  exists(path: string): boolean {
    return this.files.has(path) || this.directories.has(path);
  }

  readFile(path: string): Buffer {
    const content = this.files.get(path);
    if (content === undefined) throw failure('ENOENT', 2, path);
    const bytes = Buffer.alloc(content.size);
    for (const [page, data] of content.pages) data.copy(bytes, page * PAGE);
    return bytes;
  }

  replaceFile(path: string, content: Buffer): void {
    const file = new Content();
    file.apply({ position: 0, bytes: Buffer.from(content) });
    file.sync(file.changes);
    this.files.set(path, file);
    this.safeFiles.set(path, file);
  }

  rename(from: string, to: string): void {
    if (!this.exists(from)) throw failure('ENOENT', 2, from);
    const move = (path: string): string => (path === from ? to : to + path.slice(from.length));
    const inside = (path: string): boolean => path === from || path.startsWith(`${from}/`);
    for (const [path, content] of this.files) {
      if (!inside(path)) continue;
      this.files.delete(path);
      this.files.set(move(path), content);
    }
    for (const path of this.directories) {
      if (!inside(path)) continue;
      this.directories.delete(path);
      this.directories.add(move(path));
    }
  }

  remove(path: string): void {
    if (!this.exists(path)) throw failure('ENOENT', 2, path);
    for (const each of this.files.keys()) {
      if (each === path || each.startsWith(`${path}/`)) this.files.delete(each);
    }
    for (const each of this.directories) {
      if (each === path || each.startsWith(`${path}/`)) this.directories.delete(each);
    }
  }

  syncDirectory(path: string): void {
    const child = (each: string): boolean =>
      each.startsWith(`${path}/`) && !each.slice(path.length + 1).includes('/');
    const safeTop = new Set([...this.directories].filter(child));
    // An entry that moved away, or came, takes its whole tree with it.
    for (const each of this.safeDirectories) {
      if (child(each) && !safeTop.has(each)) this.forget(each);
    }
    for (const each of safeTop) {
      if (!this.safeDirectories.has(each)) this.adopt(each);
    }
    for (const each of this.safeFiles.keys()) {
      if (!each.startsWith(`${path}/`)) continue;
      const top = `${path}/${each.slice(path.length + 1).split('/')[0]!}`;
      if (top === each ? !this.files.has(each) : !safeTop.has(top)) this.safeFiles.delete(each);
    }
    for (const [each, content] of this.files) {
      if (!child(each)) continue;
      content.linked = true;
      this.safeFiles.set(each, content);
    }
  }

  syncDirectoryLater(path: string, callback: DiskCallback): void {
    this.later('sync-directory', path, 0, () => {
      this.syncDirectory(path);
      callback(0);
    });
  }

  space(path: string, callback: (space: DiskSpace | null) => void): void {
    this.later('space', path, 0, () => {
      if (!Number.isFinite(this.pagesMax)) return callback(null);
      const free = Math.max(0, this.pagesMax - this.pagesUsed());
      callback({ freeBytes: free * PAGE, totalBytes: this.pagesMax * PAGE });
    });
  }

  lock(directory: string): { release(): void } | null {
    if (this.locked.has(directory)) return null;
    this.locked.add(directory);
    return { release: () => void this.locked.delete(directory) };
  }

  /** The power goes and comes back. `survives` says of each change that was not synced whether it is there. */
  crash(survives: () => boolean): MemoryDisk {
    const after = new MemoryDisk();
    after.directories = new Set(this.safeDirectories);
    after.safeDirectories = new Set(this.safeDirectories);
    for (const [path, content] of this.safeFiles) {
      if (!this.safeDirectories.has(path.slice(0, path.lastIndexOf('/')))) continue;
      const kept = new Content();
      kept.safe = {
        pages: new Map([...content.safe.pages].map(([page, data]) => [page, Buffer.from(data)])),
        size: content.safe.size,
      };
      for (const change of content.changes.flatMap(pieces)) {
        if (survives()) applyTo(kept.safe, change);
      }
      kept.pages = new Map([...kept.safe.pages].map(([page, data]) => [page, Buffer.from(data)]));
      kept.size = kept.safe.size;
      after.files.set(path, kept);
      after.safeFiles.set(path, kept);
    }
    return after;
  }

  /** The process is killed: everything it handed to the system stays, and nothing more comes from it. */
  kill(): MemoryDisk {
    this.killed = true;
    const after = new MemoryDisk();
    after.bootId = this.bootId;
    after.files = this.files;
    after.directories = this.directories;
    after.safeFiles = this.safeFiles;
    after.safeDirectories = this.safeDirectories;
    return after;
  }

  pagesUsed(): number {
    let pages = 0;
    for (const content of this.files.values()) pages += content.pages.size;
    return pages;
  }

  /** Runs `run` as the pool would: later, or when the test says so. */
  later(kind: string, path: string, position: number, run: () => void): void {
    if (this.killed) return;
    if (this.holding) this.held.push({ kind, path, position, run });
    else {
      setImmediate(() => {
        if (!this.killed) run();
      });
    }
  }

  /** Lets the pool do one held piece of work. */
  letGo(index = 0): void {
    const [work] = this.held.splice(index, 1);
    work?.run();
  }

  private adopt(directory: string): void {
    this.safeDirectories.add(directory);
    for (const [each, content] of this.files) {
      if (each.startsWith(`${directory}/`) && content.linked) this.safeFiles.set(each, content);
    }
  }

  private forget(directory: string): void {
    this.safeDirectories.delete(directory);
    for (const each of this.safeFiles.keys()) {
      if (each.startsWith(`${directory}/`)) this.safeFiles.delete(each);
    }
  }
}

/** A change may survive in part: a write by 512-byte sectors. */
function pieces(change: Change): Change[] {
  if (change.bytes === null) return [change];
  const parts: Change[] = [];
  for (let done = 0; done < change.bytes.length; done += 512) {
    const bytes = change.bytes.subarray(done, done + 512);
    parts.push({ position: change.position + done, bytes });
  }
  return parts;
}

class MemoryFile implements DiskFile {
  readonly path: string;
  private readonly disk: MemoryDisk;
  private readonly content: Content;
  private syncFailure = 0;

  constructor(disk: MemoryDisk, path: string, content: Content) {
    this.disk = disk;
    this.path = path;
    this.content = content;
  }

  readNow(buffer: Buffer, start: number, length: number, position: number): number {
    return this.disk.cold ? WOULD_BLOCK : this.readBlocking(buffer, start, length, position);
  }

  readBlocking(buffer: Buffer, start: number, length: number, position: number): number {
    const count = Math.max(0, Math.min(length, this.content.size - position));
    for (let done = 0; done < count;) {
      const at = position + done;
      const page = Math.floor(at / PAGE);
      const within = at - page * PAGE;
      const part = Math.min(PAGE - within, count - done);
      const data = this.content.pages.get(page);
      if (data === undefined) buffer.fill(0, start + done, start + done + part);
      else data.copy(buffer, start + done, within, within + part);
      done += part;
    }
    return count;
  }

  read(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void {
    this.disk.later('read', this.path, position, () =>
      callback(this.readBlocking(buffer, start, length, position)),
    );
  }

  writeNow(buffer: Buffer, start: number, length: number, position: number): number {
    this.disk.beforeWriteNow?.(this.path);
    return this.put(buffer.subarray(start, start + length), position);
  }

  write(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void {
    this.disk.later('write', this.path, position, () =>
      callback(this.put(buffer.subarray(start, start + length), position)),
    );
  }

  datasync(callback: DiskCallback): void {
    this.disk.syncs.set(this.path, (this.disk.syncs.get(this.path) ?? 0) + 1);
    const covered = this.content.changes.slice();
    this.disk.later('sync', this.path, 0, () => {
      this.syncFailure ||= this.disk.failSync?.(this.path) ?? 0;
      if (this.syncFailure === 0) this.content.sync(covered);
      callback(-this.syncFailure);
    });
  }

  datasyncNow(): void {
    this.content.sync(this.content.changes);
  }

  punchHole(position: number, length: number, callback: DiskCallback): void {
    this.disk.later('punch', this.path, position, () => {
      callback(this.disk.canPunch ? this.wipe(position, length) : -95);
    });
  }

  provisionZeroes(position: number, length: number, callback: DiskCallback): void {
    this.disk.later('provision', this.path, position, () => {
      callback(this.disk.canProvision ? this.provision(position, length) : -95);
    });
  }

  readAhead(position: number, length: number, callback: DiskCallback): void {
    this.disk.later('read-ahead', this.path, position, () => {
      this.disk.readAheads.push({ position, length });
      callback(this.disk.canReadAhead ? 0 : -95);
    });
  }

  dataAfter(position: number): { start: number; end: number } | null {
    const { size } = this.content;
    if (!this.disk.tellsHoles) return position < size ? { start: position, end: size } : null;
    const grain = this.disk.extentPages * PAGE;
    const grains = new Set(
      [...this.content.pages.keys()].map((page) => Math.floor((page * PAGE) / grain)),
    );
    const first = [...grains]
      .toSorted((one, other) => one - other)
      .find((each) => (each + 1) * grain > position);
    if (first === undefined) return null;
    let end = first;
    while (grains.has(end)) end += 1;
    return { start: Math.max(position, first * grain), end: Math.min(end * grain, size) };
  }

  truncateNow(sizeBytes: number): void {
    if (this.disk.failTruncate) throw failure('EIO', 5, this.path);
    this.content.apply({ position: sizeBytes, bytes: null });
  }

  sizeNow(): number {
    return this.content.size;
  }

  allocatedNow(): number {
    return this.content.allocated();
  }

  closeNow(): void {
    // Nothing to give back.
  }

  private put(bytes: Buffer, position: number): number {
    const first = Math.floor(position / PAGE);
    const last = Math.floor((position + bytes.length - 1) / PAGE);
    let room = this.disk.pagesMax - this.disk.pagesUsed();
    for (let page = first; page <= last; page += 1) {
      if (this.content.pages.has(page)) continue;
      if (room <= 0) {
        // A full disk takes what fits.
        this.disk.refused += 1;
        const fits = Math.min(bytes.length, page * PAGE - position + this.disk.partBytes);
        if (fits > 0) this.content.apply({ position, bytes: Buffer.from(bytes.subarray(0, fits)) });
        return -ENOSPC;
      }
      room -= 1;
    }
    this.content.apply({ position, bytes: Buffer.from(bytes) });
    return bytes.length;
  }

  /** As with fallocate: of what does not fit, what fits. */
  private provision(position: number, length: number): number {
    return Math.min(0, this.put(Buffer.alloc(length), position));
  }

  private wipe(position: number, length: number): number {
    this.content.apply({ position, bytes: Buffer.alloc(length) });
    for (const page of this.content.pages.keys()) {
      if (page * PAGE >= position && (page + 1) * PAGE <= position + length) {
        this.content.pages.delete(page);
      }
    }
    return 0;
  }
}
