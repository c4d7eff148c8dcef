/**
 * One volume as it must be: its head, its snapshots, and what is under way. An operation on the whole volume that was
 * not answered has happened or has not: until that is known the head is any of several, and a snapshot one of two.
 */
import { Expected, Head, Instants, type Image, type Range } from './model.ts';
import type { Change } from './sectors.ts';

export interface SnapshotModel {
  readonly id: string;
  readonly expected: Expected;
}

/** What becomes of a name: from `before` to what `after` says, if it happened until the moment that is asked for. */
export interface PendingName {
  readonly name: string;
  readonly from: number;
  readonly before: SnapshotModel | null;
  readonly after: (to: number) => Expected | null;
  /** It is the content of the head. */
  readonly takes: boolean;
}

/** What becomes of the head. */
export interface PendingHead {
  readonly next: Head;
  /** What of the content is the snapshot's; null: another size. */
  readonly range: Range | null;
}

/** A request under way: where it ends, and whether the volume ended before that for a while. */
interface Span {
  readonly end: number;
  cut: boolean;
}

/** What a clone reads through. */
interface Origin {
  readonly volume: VolumeModel;
  /** Its id. */
  readonly snapshot: string;
}

export class VolumeModel {
  readonly name: string;
  readonly origin: Origin | null;
  /** The first is the present one; the others are possible since something was not answered. */
  heads: Head[];
  readonly snapshots = new Map<string, SnapshotModel>();
  readonly names = new Set<PendingName>();
  pendingHead: PendingHead | null = null;
  /** It was closed and opened again in this life, and not looked at since. */
  reopened = false;
  /** Moments since which something is asked of the past. */
  readonly pins = new Set<{ readonly from: number }>();
  readonly spans = new Set<Span>();
  /** Changes not answered yet. */
  private readonly running = new Set<Change>();

  constructor(name: string, sizeBytes: number, origin: Origin | null = null) {
    this.name = name;
    this.heads = [new Head(sizeBytes)];
    this.origin = origin;
  }

  /** A volume with the content of a snapshot. */
  static cloneOf(name: string, image: Image, origin: Origin): VolumeModel {
    const clone = new VolumeModel(name, image.sizeBytes, origin);
    clone.heads = [clone.head.restored(image, { offset: 0, length: image.sizeBytes })];
    return clone;
  }

  /** Nothing is under way. */
  get isAtRest(): boolean {
    return this.quiet && !this.headIsBusy && this.names.size + this.spans.size === 0;
  }

  get head(): Head {
    return this.heads[0]!;
  }

  get quiet(): boolean {
    return this.running.size === 0;
  }

  /** It is taken, restored or resized: the model knows no second such thing beside it. */
  get headIsBusy(): boolean {
    return this.heads.length > 1 || this.pendingHead !== null || this.isTaken;
  }

  /** Bytes that are there before and after a resize under way. */
  get safeBytes(): number {
    return Math.min(...this.heads.map(({ sizeBytes }) => sizeBytes));
  }

  /** The name of one of the snapshots that nothing is being done with; null when there is none. */
  existing(number: number): string | null {
    const names = [...this.snapshots.keys()].filter((name) => !this.isBusy(name));
    return names.length === 0 ? null : (names[number % names.length] ?? null);
  }

  /** A request up to this byte begins. */
  reaches(end: number): Span {
    const span = { end, cut: false };
    this.spans.add(span);
    return span;
  }

  // ---- changes

  begin(change: Change, at: number): void {
    this.running.add(change);
    for (const head of this.heads) head.begin(change, at);
    const { pendingHead } = this;
    const range = pendingHead?.range ?? null;
    if (pendingHead !== null && range !== null) pendingHead.next.unsureWithin(change, range);
  }

  answered(change: Change, at: number): void {
    this.running.delete(change);
    for (const head of this.heads) head.answered(change, at);
  }

  /** It failed: any part of it may be in effect. */
  failed(change: Change): void {
    this.running.delete(change);
  }

  refused(change: Change): void {
    this.running.delete(change);
    for (const head of this.heads) head.refused(change);
  }

  flushed(at: number): void {
    const pinned = Math.min(at, ...[...this.pins].map(({ from }) => from));
    for (const head of this.heads) head.flushed(at, pinned);
  }

  // ---- the whole head

  beginRestore(image: Image, range: Range): PendingHead {
    const next = this.head.restored(image, range);
    for (const change of this.running) {
      next.beginWithin(change, range);
      next.unsureWithin(change, range);
    }
    return this.beginHead(next, range);
  }

  beginResize(sizeBytes: number): PendingHead {
    const { head } = this;
    const next = head.resized(sizeBytes);
    for (const span of this.spans) span.cut ||= span.end > sizeBytes;
    // What was asked of a part that was cut off meanwhile may still come, when it is there again.
    const grown = { offset: head.sizeBytes, length: Math.max(0, sizeBytes - head.sizeBytes) };
    for (const change of this.running) next.beginWithin(change, grown);
    return this.beginHead(next, null);
  }

  private beginHead(next: Head, range: Range | null): PendingHead {
    this.pendingHead = { next, range };
    this.heads.push(next);
    return this.pendingHead;
  }

  /** It happened (true), did not (false), or nobody knows (null). */
  endHead(pending: PendingHead, happened: boolean | null): void {
    this.pendingHead = null;
    if (happened === true) this.heads = [pending.next];
    else if (happened === false) this.heads = this.heads.filter((head) => head !== pending.next);
  }

  // ---- snapshots

  /** Taking the present content under a name. */
  beginTake(name: string, from: number, instants = new Map<number, Instants>()): PendingName {
    const { head } = this;
    const after = (to: number): Expected => {
      const shared = instants.get(to) ?? new Instants(from, to);
      instants.set(to, shared);
      return Expected.of(head, from, to, shared);
    };
    return this.beginName(name, from, after, true);
  }

  beginName(
    name: string,
    from: number,
    after: (to: number) => Expected | null,
    takes = false,
  ): PendingName {
    const before = this.snapshots.get(name) ?? null;
    const pending: PendingName = { name, from, before, after, takes };
    this.names.add(pending);
    this.pins.add(pending);
    return pending;
  }

  /** It happened, under this id (null: the name is gone). */
  nameDone(pending: PendingName, id: string | null, at: number): void {
    this.forget(pending);
    const expected = pending.after(at);
    if (expected === null || id === null) this.snapshots.delete(pending.name);
    else this.snapshots.set(pending.name, { id, expected });
  }

  nameRefused(pending: PendingName): void {
    this.forget(pending);
  }

  /** A snapshot of the present content is being taken. */
  get isTaken(): boolean {
    return [...this.names].some(({ takes }) => takes);
  }

  isBusy(name: string): boolean {
    return [...this.names].some((pending) => pending.name === name);
  }

  /**
   * The process ended at the moment `at`; `found` are the snapshots that the next one has, ids by names. Returns
   * what cannot be.
   */
  foundNames(found: ReadonlyMap<string, string>, at: number): string | null {
    for (const pending of this.names) {
      const id = found.get(pending.name);
      if (id === pending.before?.id) this.nameRefused(pending);
      else this.nameDone(pending, id ?? null, at);
    }
    for (const [name, { id }] of this.snapshots) {
      const there = found.get(name);
      if (there !== id) return `snapshot ${name} has the id ${there ?? 'none'}, not ${id}`;
    }
    for (const name of found.keys()) {
      if (!this.snapshots.has(name)) return `there is a snapshot ${name} that nobody made`;
    }
    return null;
  }

  /** Nothing is under way any more: the process is gone. */
  ended(): void {
    this.reopened = false;
    this.running.clear();
    this.spans.clear();
    this.pendingHead = null;
    for (const pin of this.pins) if (!this.names.has(pin as PendingName)) this.pins.delete(pin);
  }

  private forget(pending: PendingName): void {
    this.names.delete(pending);
    this.pins.delete(pending);
  }
}
