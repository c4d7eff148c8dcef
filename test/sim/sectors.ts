/**
 * What one sector of a volume may hold: a durable content, and every change since in the order in which it came or was
 * answered. A change that is not answered may be in effect or not, and so may one that was answered with an error.
 *
 * After a flush what was answered before it is there. After a power cut a sector is at any point between its durable
 * content and its newest, since the page cache had it so at some moment; after a kill it is the newest.
 */
export const SECTOR = 512;
export const ZEROES: Buffer = Buffer.alloc(SECTOR);

/** A change to a volume: a payload, or zeroes. */
export interface Change {
  readonly offset: number;
  readonly length: number;
  /** Null for zeroes. */
  readonly bytes: Buffer | null;
}

interface Entry {
  readonly change: Change;
  /** It may be in effect since this moment. */
  readonly begun: number;
  /** It is in effect since the moment `at`, or nobody knows whether it ever was. */
  definite: boolean;
  durable: boolean;
  at: number;
}

/** More possible contents than this are not told apart: then the sector counts as unchecked. */
const STATES_MAX = 512;

export interface Possible {
  readonly states: readonly Buffer[];
  /** False: there are too many, and any content must be accepted. */
  readonly known: boolean;
}

export class Sector {
  private readonly start: number;
  private base: Buffer;
  private entries: Entry[] = [];

  constructor(sector: number, base: Buffer) {
    this.start = sector * SECTOR;
    this.base = base;
  }

  clone(sector: number): Sector {
    const copy = new Sector(sector, this.base);
    copy.entries = this.entries.map((entry) => ({ ...entry }));
    return copy;
  }

  /** Nothing happened since its content became durable. */
  get isSettled(): boolean {
    return this.entries.length === 0;
  }

  /** Nothing happened since the moment `at`, and nothing is open. */
  quietSince(at: number): boolean {
    return this.entries.every((entry) => entry.definite && entry.at <= at);
  }

  begin(change: Change, at: number): void {
    this.entries.push({ change, begun: at, definite: false, durable: false, at });
  }

  answered(change: Change, at: number): void {
    const last = this.entries.at(-1);
    if (last?.change === change) {
      last.definite = true;
      last.at = at;
    } else {
      this.entries.push({ change, begun: at, definite: true, durable: false, at });
    }
  }

  /** It never came into effect. */
  refused(change: Change): void {
    this.entries = this.entries.filter((entry) => entry.change !== change);
  }

  /** What was answered until `at` is durable. What it was since the moment `pinned` is still asked for. */
  flushed(at: number, pinned: number): void {
    const durable = new Set<Change>();
    let covering = -1;
    this.entries.forEach((entry, index) => {
      if (!entry.definite || entry.at > at) return;
      entry.durable = true;
      if (entry.at > pinned) return;
      durable.add(entry.change);
      if (this.covers(entry)) covering = index;
    });
    if (durable.size === 0) return;
    // What durable changes hide, and the beginnings of them, say nothing any more.
    this.entries = this.entries.filter(
      (entry, index) => index >= covering && (entry.definite || !durable.has(entry.change)),
    );
    while (this.entries[0]?.durable === true && this.entries[0].at <= pinned) {
      this.base = this.applied(this.base, this.entries.shift()!.change);
    }
  }

  /** It is known what it holds. Durable after a power cut. */
  resolve(content: Buffer, durable: boolean, at: number): void {
    if (durable) {
      this.base = content;
      this.entries = [];
      return;
    }
    if (this.entries.every((entry) => entry.definite)) return;
    const change = { offset: this.start, length: SECTOR, bytes: content };
    this.entries.push({ change, begun: at, definite: true, durable: false, at });
  }

  /** What it may hold now, or may have held at the moment `at`. */
  now(at = Infinity): Possible {
    return this.fold(at, false);
  }

  /** What a power cut may leave. */
  afterCut(): Possible {
    return this.fold(Infinity, true);
  }

  /** Moments after `from` at which what it may hold changed. */
  momentsAfter(from: number): number[] {
    const moments = this.entries.flatMap(({ begun, at }) => [begun, at]);
    return [...new Set(moments)].filter((moment) => moment > from).toSorted((a, b) => a - b);
  }

  private fold(until: number, cut: boolean): Possible {
    let states: Buffer[] = [this.base];
    let seen: Buffer[] = [this.base];
    for (const entry of this.entries) {
      if (entry.begun > until) continue;
      const next = states.map((state) => this.applied(state, entry.change));
      const certain = entry.definite && entry.at <= until;
      states = distinct(certain ? next : [...states, ...next]);
      seen = entry.durable ? states : cut ? distinct([...seen, ...states]) : states;
      if (seen.length > STATES_MAX) return { states: seen, known: false };
    }
    return { states: cut ? seen : states, known: true };
  }

  private covers({ change }: Entry): boolean {
    return change.offset <= this.start && change.offset + change.length >= this.start + SECTOR;
  }

  private applied(content: Buffer, change: Change): Buffer {
    const from = Math.max(this.start, change.offset);
    const end = Math.min(this.start + SECTOR, change.offset + change.length);
    const { bytes } = change;
    if (end - from === SECTOR) {
      return bytes === null
        ? ZEROES
        : bytes.subarray(from - change.offset, from - change.offset + SECTOR);
    }
    const after = Buffer.from(content);
    if (bytes === null) after.fill(0, from - this.start, end - this.start);
    else bytes.copy(after, from - this.start, from - change.offset, end - change.offset);
    return after;
  }
}

function distinct(states: readonly Buffer[]): Buffer[] {
  const found: Buffer[] = [];
  for (const state of states) {
    if (!found.some((other) => other === state || other.equals(state))) found.push(state);
  }
  return found;
}

export function sectorsOf(offset: number, length: number): { first: number; end: number } {
  return { first: Math.floor(offset / SECTOR), end: Math.ceil((offset + length) / SECTOR) };
}
