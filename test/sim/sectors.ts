/**
 * What one sector of a volume may hold: a content that was durable once, and every change since in the order in which they
 * came. A change is in effect from its answer on; before that, and after an error, it may be. Those that overlap take
 * effect in the order in which they came, and what does not overlap may be applied in any.
 *
 * After a power cut a sector is as it may have been at any moment since the last flush that was answered began; after a
 * kill it is as it may be now.
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
  /** It is in effect since this moment; Infinity: nobody knows. */
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
  /** What was answered until then is durable. */
  private durableTo = 0;

  constructor(sector: number, base: Buffer) {
    this.start = sector * SECTOR;
    this.base = base;
  }

  clone(sector: number): Sector {
    const copy = new Sector(sector, this.base);
    copy.entries = this.entries.map((entry) => ({ ...entry }));
    copy.durableTo = this.durableTo;
    return copy;
  }

  /** Nothing happened since its content became durable. */
  get isSettled(): boolean {
    return this.entries.length === 0;
  }

  /** Nothing happened since the moment `at`, and nothing is open. */
  quietSince(at: number): boolean {
    return this.entries.every((entry) => entry.at <= at);
  }

  begin(change: Change, begun: number): void {
    this.entries.push({ change, begun, at: Infinity });
  }

  answered(change: Change, at: number): void {
    const entry = this.entries.findLast((each) => each.change === change);
    if (entry !== undefined) entry.at = at;
  }

  /** It never came into effect. */
  refused(change: Change): void {
    this.entries = this.entries.filter((entry) => entry.change !== change);
  }

  /** What was answered until `at` is durable. What it was since the moment `pinned` is still asked for. */
  flushed(at: number, pinned: number): void {
    this.durableTo = Math.max(this.durableTo, at);
    const limit = Math.min(this.durableTo, pinned);
    // Whatever came before a change of the whole sector is over.
    const covering = this.entries.findLastIndex((each) => each.at <= limit && this.covers(each));
    if (covering > 0) this.entries.splice(0, covering);
    while (this.entries.length > 0 && this.entries[0]!.at <= limit) {
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
    const { states } = this.now();
    if (states.length === 1 && states[0]!.equals(content)) return;
    const change = { offset: this.start, length: SECTOR, bytes: content };
    this.entries.push({ change, begun: at, at });
  }

  /** What it may hold now, or may have held at the moment `at`. */
  now(at = Infinity): Possible {
    let states: Buffer[] = [this.base];
    for (const entry of this.entries) {
      if (entry.begun > at) continue;
      const next = states.map((state) => this.applied(state, entry.change));
      const certain = entry.at !== Infinity && entry.at <= at;
      states = distinct(certain ? next : [...states, ...next]);
      if (states.length > STATES_MAX) return { states, known: false };
    }
    return { states, known: true };
  }

  /** What a power cut may leave; the newest last. */
  afterCut(): Possible {
    const moments = [this.durableTo, ...this.momentsAfter(this.durableTo)];
    const each = moments.map((moment) => this.now(moment));
    return {
      states: distinct(each.flatMap(({ states }) => states)),
      known: each.every(({ known }) => known),
    };
  }

  /** Moments after `from` at which what it may hold changed. */
  momentsAfter(from: number): number[] {
    const moments = this.entries.flatMap(({ begun, at }) => [begun, at]);
    const finite = moments.filter((moment) => moment > from && moment !== Infinity);
    return [...new Set(finite)].toSorted((one, other) => one - other);
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
