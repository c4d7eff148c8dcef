/**
 * A file as the page cache has it and as the disk has it, and what lies between the two.
 *
 * What a power cut leaves, by dice: of each write that was not synced any of its 512-byte sectors, each as the page
 * cache had it after that write; of holes and lengths, which file systems journal, the first few. A sync that fails
 * leaves any part of what it covered, and no later sync knows of the rest: the pages count as clean.
 */
import type { Dice } from '../../scripts/fuzz/dice.ts';

export const PAGE = 4096;
export const SECTOR = 512;

type Change =
  /** Whole sectors from `position`; the file then reached at least to `end`. */
  | { readonly kind: 'write'; position: number; bytes: Buffer; end: number }
  | { readonly kind: 'zero'; position: number; length: number; reserve: boolean }
  | { readonly kind: 'size'; size: number };

/** How much of what was not synced a power cut leaves: a percentage of the sectors, writes or files. */
export interface Survival {
  readonly per: 'sector' | 'write' | 'file' | 'early' | 'late';
  readonly percent: number;
}

/** Who may write to a page: else it is copied first. */
type Owner = object;

interface Page {
  readonly data: Buffer;
  readonly owner: Owner;
}

const PAGES_AT_ONCE = 64;
let chunk = Buffer.alloc(0);

/** A page of zeroes. A buffer for each would be the most expensive part of the whole simulation. */
function newPage(): Buffer {
  if (chunk.length === 0) chunk = Buffer.alloc(PAGES_AT_ONCE * PAGE);
  const page = chunk.subarray(0, PAGE);
  chunk = chunk.subarray(PAGE);
  return page;
}

export class Bytes {
  readonly pages: Map<number, Page>;
  /** Pages that have space and read as zeroes. */
  readonly reserved: Set<number>;
  size: number;
  private owner: Owner = {};

  constructor(from?: Bytes) {
    this.pages = new Map(from?.pages);
    this.reserved = new Set(from?.reserved);
    this.size = from?.size ?? 0;
  }

  /** A copy: both have the same pages until one writes to them. */
  clone(): Bytes {
    this.owner = {};
    return new Bytes(this);
  }

  /** The page, to be written to. */
  private own(page: number): Buffer {
    const found = this.pages.get(page);
    if (found?.owner === this.owner) return found.data;
    const data = newPage();
    found?.data.copy(data);
    this.pages.set(page, { data, owner: this.owner });
    return data;
  }

  has(page: number): boolean {
    return this.pages.has(page) || this.reserved.has(page);
  }

  write(position: number, bytes: Buffer, end: number): void {
    for (let done = 0; done < bytes.length;) {
      const page = Math.floor((position + done) / PAGE);
      const within = position + done - page * PAGE;
      const length = Math.min(PAGE - within, bytes.length - done);
      this.reserved.delete(page);
      bytes.copy(this.own(page), within, done, done + length);
      done += length;
    }
    this.size = Math.max(this.size, end);
  }

  zero(position: number, length: number, reserve: boolean): void {
    const end = Math.min(position + length, reserve ? Infinity : Math.max(this.size, position));
    for (let at = position; at < end;) {
      const page = Math.floor(at / PAGE);
      const pageEnd = Math.min(end, (page + 1) * PAGE);
      if (at === page * PAGE && (pageEnd - at === PAGE || pageEnd >= this.size)) {
        this.pages.delete(page);
        this.reserved.delete(page);
        if (reserve) this.reserved.add(page);
      } else {
        if (this.pages.has(page)) this.own(page).fill(0, at - page * PAGE, pageEnd - page * PAGE);
        if (reserve && !this.pages.has(page)) this.reserved.add(page);
      }
      at = pageEnd;
    }
    if (reserve) this.size = Math.max(this.size, position + length);
  }

  truncate(size: number): void {
    for (const page of this.pages.keys()) {
      if (page * PAGE >= size) this.pages.delete(page);
      else if ((page + 1) * PAGE > size) this.own(page).fill(0, size - page * PAGE);
    }
    for (const page of this.reserved) if (page * PAGE >= size) this.reserved.delete(page);
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
      else found.data.copy(target, start + done, within, within + part);
      done += part;
    }
  }
}

export class Inode {
  /** What everybody sees. */
  readonly cache: Bytes;
  /** What is durable. */
  private readonly disk: Bytes;
  private changes: Change[] = [];
  /** How many syncs of it have failed. */
  syncsFailed = 0;

  constructor(durable = new Bytes()) {
    this.disk = durable;
    this.cache = durable.clone();
  }

  write(position: number, bytes: Buffer): void {
    if (bytes.length === 0) return;
    const end = position + bytes.length;
    this.cache.write(position, bytes, end);
    // Sectors go to the disk as the page cache has them, with what stood beside the bytes.
    const first = Math.floor(position / SECTOR) * SECTOR;
    const last = Math.ceil(end / SECTOR) * SECTOR;
    const sectors = this.cache.read(first, last - first);
    this.changes.push({ kind: 'write', position: first, bytes: sectors, end });
  }

  zero(position: number, length: number, reserve: boolean): void {
    this.cache.zero(position, length, reserve);
    this.changes.push({ kind: 'zero', position, length, reserve });
  }

  truncate(size: number): void {
    this.cache.truncate(size);
    this.changes.push({ kind: 'size', size });
  }

  /** What a sync that begins now will cover. */
  dirty(): readonly Change[] {
    return this.changes.slice();
  }

  synced(covered: readonly Change[]): void {
    for (const change of this.forget(covered)) apply(this.disk, change);
  }

  syncFailed(covered: readonly Change[], dice: Dice): void {
    this.syncsFailed += 1;
    keepSome(this.disk, this.forget(covered), dice, { per: 'write', percent: 30 });
  }

  afterPowerCut(dice: Dice, survival: Survival): Inode {
    const left = this.disk.clone();
    keepSome(left, this.changes, dice, survival);
    return new Inode(left);
  }

  /** Takes out those of the changes that another sync has not taken meanwhile. */
  private forget(covered: readonly Change[]): Change[] {
    const done = new Set(covered);
    const taken = this.changes.filter((change) => done.has(change));
    this.changes = this.changes.filter((change) => !done.has(change));
    return taken;
  }
}

function apply(target: Bytes, change: Change): void {
  if (change.kind === 'write') target.write(change.position, change.bytes, change.end);
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
    const whole = per === 'file' ? file : per === 'early' ? index < border : index >= border;
    const keepsWrite = per === 'write' ? dice.chance(percent) : whole;
    for (let done = 0; done < change.bytes.length; done += SECTOR) {
      const keeps = per === 'sector' ? dice.chance(percent) : keepsWrite;
      if (!keeps) continue;
      const position = change.position + done;
      const end = Math.min(change.end, position + SECTOR);
      target.write(position, change.bytes.subarray(done, done + SECTOR), end);
    }
  });
}
