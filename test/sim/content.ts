/**
 * A file as the page cache has it and as the disk has it, and what lies between the two.
 *
 * What a power cut leaves, by dice: of each write that was not synced any of its 512-byte sectors, each as the page
 * cache had it after that write; of holes and lengths, which file systems journal, the first few. A sync that fails
 * leaves any part of what it covered, and no later sync knows of the rest: the pages count as clean.
 *
 * Invariant: a page is never written to once it is part of a file. So files, copies of them and what is not synced have
 * pages in common, and whoever changes one makes another.
 */
import type { Dice } from '../../scripts/fuzz/dice.ts';
import { FILLER_PAGE, PAGE, isFiller, takePage } from './arena.ts';

export const SECTOR = 512;
const SECTORS = PAGE / SECTOR;

/** Sectors `from` .. `end` of one page of a file, as they were after a write. */
interface Written {
  readonly page: number;
  readonly from: number;
  readonly end: number;
  readonly after: Buffer;
  /** What the page was before: the other sectors are the same in it. */
  readonly before: Buffer | undefined;
}

type Change =
  /** The file then reached at least to `end`. */
  | { readonly kind: 'write'; readonly written: readonly Written[]; readonly end: number }
  | { readonly kind: 'zero'; position: number; length: number; reserve: boolean }
  | { readonly kind: 'size'; size: number };

/** How much of what was not synced a power cut leaves: a percentage of the sectors, writes or files. */
export interface Survival {
  readonly per: 'sector' | 'write' | 'file' | 'early' | 'late';
  readonly percent: number;
}

/** A page to be written to, that holds the same. */
function copyOf(page: Buffer | undefined): Buffer {
  const copy = takePage();
  if (page === undefined) copy.fill(0);
  else copy.set(page);
  return copy;
}

export class Bytes {
  /** Is changed after `own` alone, as the other one. */
  pages: Map<number, Buffer>;
  /** Pages that have space and read as zeroes. */
  reserved: Set<number>;
  size: number;
  /** Another one may have the same maps. */
  private isShared: boolean;

  constructor(from?: Bytes) {
    this.pages = from?.pages ?? new Map<number, Buffer>();
    this.reserved = from?.reserved ?? new Set<number>();
    this.size = from?.size ?? 0;
    this.isShared = from !== undefined;
  }

  /** A copy: both have the same pages until one changes them. */
  clone(): Bytes {
    this.isShared = true;
    return new Bytes(this);
  }

  private own(): void {
    if (!this.isShared) return;
    this.isShared = false;
    this.pages = new Map(this.pages);
    this.reserved = new Set(this.reserved);
  }

  has(page: number): boolean {
    return this.pages.has(page) || this.reserved.has(page);
  }

  /** What it changed. */
  write(position: number, bytes: Buffer): Written[] {
    this.own();
    const written: Written[] = [];
    const isFilling = isFiller(bytes);
    for (let done = 0; done < bytes.length;) {
      const page = Math.floor((position + done) / PAGE);
      const within = position + done - page * PAGE;
      const length = Math.min(PAGE - within, bytes.length - done);
      const before = this.pages.get(page);
      let after = FILLER_PAGE;
      if (!isFilling || length < PAGE) {
        after = length < PAGE ? copyOf(before) : takePage();
        bytes.copy(after, within, done, done + length);
      }
      this.reserved.delete(page);
      this.pages.set(page, after);
      const end = Math.ceil((within + length) / SECTOR);
      written.push({ page, from: Math.floor(within / SECTOR), end, after, before });
      done += length;
    }
    this.size = Math.max(this.size, position + bytes.length);
    return written;
  }

  /** Takes over the sectors; the file reaches at least to `end` then. */
  take(written: readonly Written[], end: number): void {
    this.own();
    for (const { page, from, end: until, after, before } of written) {
      this.reserved.delete(page);
      const found = this.pages.get(page);
      const isWhole = (from === 0 && until === SECTORS) || found === before;
      this.pages.set(page, isWhole ? after : mixed(found, after, from, until));
    }
    this.size = Math.max(this.size, end);
  }

  zero(position: number, length: number, reserve: boolean): void {
    this.own();
    const end = Math.min(position + length, reserve ? Infinity : Math.max(this.size, position));
    for (let at = position; at < end;) {
      const page = Math.floor(at / PAGE);
      const pageEnd = Math.min(end, (page + 1) * PAGE);
      if (at === page * PAGE && (pageEnd - at === PAGE || pageEnd >= this.size)) {
        this.pages.delete(page);
        this.reserved.delete(page);
        if (reserve) this.reserved.add(page);
      } else {
        if (this.pages.has(page)) this.clear(page, at - page * PAGE, pageEnd - page * PAGE);
        if (reserve && !this.pages.has(page)) this.reserved.add(page);
      }
      at = pageEnd;
    }
    if (reserve) this.size = Math.max(this.size, position + length);
  }

  private clear(page: number, from: number, end: number): void {
    const copy = copyOf(this.pages.get(page));
    copy.fill(0, from, end);
    this.pages.set(page, copy);
  }

  truncate(size: number): void {
    this.own();
    if (size < this.size) {
      for (const page of this.pages.keys()) {
        if (page * PAGE >= size) this.pages.delete(page);
        else if ((page + 1) * PAGE > size) this.clear(page, size - page * PAGE, PAGE);
      }
      for (const page of this.reserved) if (page * PAGE >= size) this.reserved.delete(page);
    }
    this.size = size;
  }

  read(position: number, length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length);
    this.readInto(bytes, 0, position, length);
    return bytes;
  }

  readInto(target: Buffer, start: number, position: number, length: number): void {
    for (let done = 0; done < length;) {
      const page = Math.floor((position + done) / PAGE);
      const within = position + done - page * PAGE;
      const part = Math.min(PAGE - within, length - done);
      const found = this.pages.get(page);
      if (found === undefined) target.fill(0, start + done, start + done + part);
      else if (part === PAGE) target.set(found, start + done);
      else found.copy(target, start + done, within, within + part);
      done += part;
    }
  }
}

function mixed(found: Buffer | undefined, after: Buffer, from: number, end: number): Buffer {
  const page = copyOf(found);
  after.copy(page, from * SECTOR, from * SECTOR, end * SECTOR);
  return page;
}

export class Inode {
  /** What everybody sees. */
  readonly cache: Bytes;
  /** What is durable. */
  private readonly disk: Bytes;
  /** What is not, the oldest first. */
  private changes: Change[] = [];
  /** How many there were that are not in `changes` any more. */
  private forgotten = 0;
  /** How many syncs of it have failed. */
  syncsFailed = 0;

  constructor(durable = new Bytes()) {
    this.disk = durable;
    this.cache = durable.clone();
  }

  write(position: number, bytes: Buffer): void {
    if (bytes.length === 0) return;
    // Sectors go to the disk as the page cache has them, with what stood beside the bytes.
    const written = this.cache.write(position, bytes);
    this.changes.push({ kind: 'write', written, end: position + bytes.length });
  }

  zero(position: number, length: number, reserve: boolean): void {
    this.cache.zero(position, length, reserve);
    this.changes.push({ kind: 'zero', position, length, reserve });
  }

  truncate(size: number): void {
    this.cache.truncate(size);
    this.changes.push({ kind: 'size', size });
  }

  /** What a sync that begins now will cover: changes are counted. */
  dirty(): number {
    return this.forgotten + this.changes.length;
  }

  synced(covered: number): void {
    for (const change of this.forget(covered)) apply(this.disk, change);
  }

  syncFailed(covered: number, dice: Dice): void {
    this.syncsFailed += 1;
    keepSome(this.disk, this.forget(covered), dice, { per: 'write', percent: 30 });
  }

  afterPowerCut(dice: Dice, survival: Survival): Inode {
    const left = this.disk.clone();
    keepSome(left, this.changes, dice, survival);
    return new Inode(left);
  }

  /** Takes out those of the changes that another sync has not taken meanwhile. */
  private forget(covered: number): Change[] {
    const count = Math.max(0, covered - this.forgotten);
    this.forgotten += count;
    return this.changes.splice(0, count);
  }
}

function apply(target: Bytes, change: Change): void {
  if (change.kind === 'write') target.take(change.written, change.end);
  else if (change.kind === 'zero') target.zero(change.position, change.length, change.reserve);
  else target.truncate(change.size);
}

function keepSome(
  target: Bytes,
  changes: readonly Change[],
  dice: Dice,
  { per, percent }: Survival,
): void {
  const journaled = changes.filter(({ kind }) => kind !== 'write').length;
  let journal = percent === 100 ? journaled : dice.below(journaled + 1);
  if (percent === 0) journal = 0;
  const border = dice.below(changes.length + 1);
  const file = dice.chance(percent);
  changes.forEach((change, index) => {
    if (change.kind !== 'write') {
      if (journal > 0) apply(target, change);
      journal -= 1;
      return;
    }
    if (per === 'sector' && percent < 100) {
      keepSectors(target, change, dice, percent);
      return;
    }
    const whole = per === 'file' ? file : per === 'early' ? index < border : index >= border;
    const isOfWrite = per === 'write' || per === 'sector';
    if (isOfWrite ? dice.chance(percent) : whole) apply(target, change);
  });
}

/** Each sector of a write is there, or not. */
function keepSectors(
  target: Bytes,
  { written, end }: Extract<Change, { kind: 'write' }>,
  dice: Dice,
  percent: number,
): void {
  for (const each of written) {
    for (let from = each.from; from < each.end; from += 1) {
      if (!dice.chance(percent)) continue;
      const sectorEnd = each.page * PAGE + (from + 1) * SECTOR;
      target.take([{ ...each, from, end: from + 1, before: NEVER }], Math.min(end, sectorEnd));
    }
  }
}

/** No page of a file. */
const NEVER = Buffer.alloc(0);
