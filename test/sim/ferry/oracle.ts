/**
 * What the primary's volume was, change by change: the content at the end of every epoch, and what its host was promised.
 *
 * A content is an array of blocks that are never written to again; null is a block of which nobody knows what it holds.
 */
import type { LinkPosition } from '../../../src/replicator/link/messages.ts';
import { PAGE, takePage } from '../arena.ts';

export const BLOCK: number = PAGE;
const ZEROES = Buffer.alloc(BLOCK);

export type Content = readonly (Buffer | null)[];

/** The end of an epoch. */
export interface Boundary {
  readonly generation: number;
  readonly epoch: number;
  /** The number of the last change in it. */
  readonly change: number;
  readonly content: Content;
}

interface Pending {
  readonly first: number;
  readonly end: number;
}
/** No content of a block. */
const NEVER = Buffer.alloc(0);

export class Oracle {
  readonly blockCount: number;
  /** What the volume holds: every change that it completed. */
  readonly now: (Buffer | null)[];
  /** Changes are counted. */
  change = 0;
  /** Of a request the change that it was. */
  readonly changeOf = new WeakMap<object, number>();
  private readonly boundaries = new Map<number, Boundary>();
  private reserved = 0;
  /** Handed to the volume and not completed. */
  private readonly pending = new Set<Pending>();
  /** The blocks that the last change changed, as they were before it. */
  private before = new Map<number, Buffer | null>();
  /** The last change has a number: it was none that left all as it was. */
  private isCounted = true;
  /** The last change that is durable at the primary, and of each block the last one at all. */
  private durable = 0;
  private readonly lastOf: number[];
  /** Of blocks of a failed change: the last change then. Another process may find them otherwise, until a flush. */
  private readonly doubtAt = new Map<number, number>();

  constructor(blockCount: number) {
    this.blockCount = blockCount;
    this.now = Array.from({ length: blockCount }, () => ZEROES);
    this.lastOf = Array.from({ length: blockCount }, () => 0);
  }

  // ---- changes

  began(offset: number, length: number): Pending {
    const pending = {
      first: Math.floor(offset / BLOCK),
      end: Math.ceil((offset + length) / BLOCK),
    };
    this.pending.add(pending);
    return pending;
  }

  ended(pending: Pending): void {
    this.pending.delete(pending);
  }

  /** `bytes` null: zeroes. Returns the number of the change since which that is there. */
  changed(offset: number, length: number, bytes: Buffer | null): number {
    // What was zeroes already needs no epoch.
    if (bytes === null && this.isZero(offset, length)) {
      this.before = new Map();
      this.isCounted = false;
      return this.lastChangeIn(offset, length);
    }
    this.begin();
    for (let done = 0; done < length;) {
      const block = Math.floor((offset + done) / BLOCK);
      const within = offset + done - block * BLOCK;
      const part = Math.min(BLOCK - within, length - done);
      const before = this.now[block] ?? null;
      this.touch(block);
      if (before !== null || part === BLOCK) {
        const after = takePage();
        if (part < BLOCK) after.set(before ?? ZEROES);
        if (bytes === null) after.fill(0, within, within + part);
        else bytes.copy(after, within, done, done + part);
        this.now[block] = after;
      }
      done += part;
    }
    return this.change;
  }

  private lastChangeIn(offset: number, length: number): number {
    const end = Math.ceil((offset + length) / BLOCK);
    return Math.max(...this.lastOf.slice(Math.floor(offset / BLOCK), end));
  }

  private isZero(offset: number, length: number): boolean {
    const end = Math.ceil((offset + length) / BLOCK);
    return this.now
      .slice(Math.floor(offset / BLOCK), end)
      .every((bytes) => bytes === ZEROES || bytes?.equals(ZEROES) === true);
  }

  /** A change failed halfway: the blocks are as they are. */
  failed(offset: number, length: number, contentOf: (block: number) => Buffer | null): void {
    const first = Math.floor(offset / BLOCK);
    const end = Math.ceil((offset + length) / BLOCK);
    const found = Array.from({ length: end - first }, (_, index) => contentOf(first + index));
    // Where nothing came of it no epoch is needed; it may still come of it when the process ends.
    if (found.every((bytes, index) => bytes?.equals(this.now[first + index] ?? NEVER) === true)) {
      for (let block = first; block < end; block += 1) this.doubtAt.set(block, this.change);
      this.before = new Map();
      this.isCounted = false;
      return;
    }
    this.begin();
    for (const [index, bytes] of found.entries()) {
      this.touch(first + index);
      this.doubtAt.set(first + index, this.change);
      this.now[first + index] = bytes;
    }
  }

  private begin(): void {
    this.change += 1;
    this.isCounted = true;
    this.before = new Map();
  }

  private touch(block: number): void {
    this.before.set(block, this.now[block] ?? null);
    this.lastOf[block] = this.change;
  }

  // ---- boundaries

  /** Numbers up to this one were reserved durably: mirrors may have heard of them, and none is used twice. */
  reservedTo(epoch: number): void {
    this.reserved = Math.max(this.reserved, epoch);
  }

  /**
   * An epoch ended; `beforeLast`: the last change was applied, and is the first of the next one. Null: the number was used for
   * another, and was not to be used again.
   */
  closed(epoch: number, generation: number, beforeLast: boolean): Boundary | null {
    if (epoch <= this.reserved && this.boundaries.has(epoch)) return null;
    const content = this.now.slice();
    if (beforeLast) for (const [block, bytes] of this.before) content[block] = bytes;
    const change = beforeLast && this.isCounted ? this.change - 1 : this.change;
    const boundary = { generation, epoch, change, content };
    this.boundaries.set(epoch, boundary);
    return boundary;
  }

  at(epoch: number): Boundary | null {
    return this.boundaries.get(epoch) ?? null;
  }

  /** What a copy holds that is at a position. */
  of(position: LinkPosition | null): Boundary | null {
    if (position !== null) return this.at(position.epoch);
    const content = this.now.map(() => ZEROES);
    return { generation: 0, epoch: 0, change: 0, content };
  }

  /** Boundaries from one epoch to another. */
  between(first: number, last: number): Boundary[] {
    const found: Boundary[] = [];
    for (const boundary of this.boundaries.values()) {
      if (boundary.epoch >= first && boundary.epoch <= last) found.push(boundary);
    }
    return found;
  }

  // ---- what the host was promised

  flushed(change: number): void {
    this.durable = Math.max(this.durable, change);
  }

  /**
   * A process took up what the last one left: says which blocks are not what they must be, and takes the rest as it is. `costs`: what
   * its end may have cost, the same or as much as a power cut would.
   */
  reopened(content: Buffer, ending: 'kill' | 'cut', costs: 'kill' | 'cut'): number[] {
    const wrong: number[] = [];
    const open = new Set<number>();
    for (const { first, end } of this.pending) for (let at = first; at < end; at += 1) open.add(at);
    this.pending.clear();
    this.begin();
    for (let block = 0; block < this.blockCount; block += 1) {
      const expected = this.now[block] ?? null;
      if (expected !== null && isAt(expected, content, block)) continue;
      const mayDiffer =
        expected === null ||
        open.has(block) ||
        (costs === 'cut' && this.lastOf[block]! > this.durable) ||
        (this.doubtAt.get(block) ?? -1) >= this.durable;
      if (!mayDiffer) wrong.push(block);
      this.now[block] = copied(content, block);
      this.lastOf[block] = this.change;
    }
    // Whether what it left is durable is not known after a kill, whatever that cost.
    if (ending === 'cut') this.durable = this.change;
    return wrong;
  }
}

/** Of which epochs the blocks are that were found: for people. */
export function originsOf(oracle: Oracle, blocks: readonly number[], bytes: Buffer): string {
  return blocks
    .map((block) => {
      const found = bytes.subarray(block * BLOCK, (block + 1) * BLOCK);
      const epochs = oracle
        .between(0, Infinity)
        .filter(({ content }) => content[block]?.equals(found) === true)
        .map(({ epoch }) => epoch);
      const span = epochs.length > 0 ? `${epochs[0]}..${epochs.at(-1)}` : 'none';
      return `${block} (as in epochs ${found.equals(ZEROES) ? 'with zeroes ' : ''}${span})`;
    })
    .join(', ');
}

/** Blocks in which bytes are not the content, at most eight. */
export function differences(content: Content, bytes: Buffer): number[] {
  const found: number[] = [];
  for (let block = 0; block < content.length && found.length < 8; block += 1) {
    const expected = content[block] ?? null;
    if (expected === null) continue;
    if (!isAt(expected, bytes, block)) found.push(block);
  }
  return found;
}

function isAt(expected: Buffer, bytes: Buffer, block: number): boolean {
  const start = block * BLOCK;
  return bytes.compare(expected, 0, BLOCK, start, start + BLOCK) === 0;
}

function copied(bytes: Buffer, block: number): Buffer {
  const page = takePage();
  bytes.copy(page, 0, block * BLOCK, (block + 1) * BLOCK);
  return page;
}
