/**
 * The volumes as they must be, plainly: what each sector of a head may hold (sectors.ts), and of every snapshot what
 * it holds. A snapshot that was taken among requests under way is the content of one instant between its call and its
 * answer, the same for all sectors and all volumes that were taken together.
 */
import { Sector, SECTOR, ZEROES, sectorsOf, type Change } from './sectors.ts';

/** What a snapshot holds; a sector that is missing is zeroes. */
export interface Image {
  readonly sizeBytes: number;
  readonly sectors: ReadonlyMap<number, Buffer>;
}

export function sectorOfImage(image: Image, sector: number): Buffer {
  return image.sectors.get(sector) ?? ZEROES;
}

export function bytesOfImage(image: Image, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += SECTOR) {
    image.sectors.get((offset + at) / SECTOR)?.copy(bytes, at);
  }
  return bytes;
}

/** Whole blocks, in bytes. */
export interface Range {
  readonly offset: number;
  readonly length: number;
}

/** What the volume's device shows. */
export class Head {
  sizeBytes: number;
  readonly sectors = new Map<number, Sector>();
  /** Changes under way while a range was restored: their answer does not say that they came after. */
  private readonly unsure = new Map<Change, Range>();

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  resized(sizeBytes: number): Head {
    const head = new Head(sizeBytes);
    const end = sizeBytes / SECTOR;
    for (const [at, sector] of this.sectors) if (at < end) head.sectors.set(at, sector.clone(at));
    for (const [change, range] of this.unsure) head.unsure.set(change, range);
    return head;
  }

  /** The same with the content of an image in a range. */
  restored(image: Image, { offset, length }: Range): Head {
    const head = this.resized(this.sizeBytes);
    for (const at of head.sectors.keys()) {
      if (inside(at, { offset, length })) head.sectors.delete(at);
    }
    for (const [at, bytes] of image.sectors) {
      if (inside(at, { offset, length })) head.sectors.set(at, new Sector(at, bytes));
    }
    return head;
  }

  begin(change: Change, at: number): void {
    for (const [, sector] of this.touched(change)) sector.begin(change, at);
  }

  /** It comes before or after a restore of the range. */
  unsureWithin(change: Change, range: Range): void {
    this.unsure.set(change, range);
  }

  /** It is under way already: in the range, which is new here, it may still come. */
  beginWithin(change: Change, range: Range): void {
    for (const [index, sector] of this.touched(change)) {
      if (inside(index, range)) sector.begin(change, 0);
    }
  }

  answered(change: Change, at: number): void {
    const open = this.unsure.get(change);
    for (const [index, sector] of this.touched(change)) {
      if (open === undefined || !inside(index, open)) sector.answered(change, at);
    }
  }

  refused(change: Change): void {
    for (const [, sector] of this.touched(change)) sector.refused(change);
  }

  flushed(at: number, pinned: number): void {
    for (const sector of this.sectors.values()) {
      if (!sector.isSettled) sector.flushed(at, pinned);
    }
  }

  sector(at: number): Sector | null {
    return this.sectors.get(at) ?? null;
  }

  private *touched({ offset, length }: Change): Generator<readonly [number, Sector]> {
    if (length === 0) return;
    const { first, end } = sectorsOf(offset, Math.min(length, this.sizeBytes - offset));
    for (let at = first; at < end; at += 1) {
      let sector = this.sectors.get(at);
      if (sector === undefined) this.sectors.set(at, (sector = new Sector(at, ZEROES)));
      yield [at, sector];
    }
  }
}

function inside(sector: number, { offset, length }: Range): boolean {
  return sector * SECTOR >= offset && sector * SECTOR < offset + length;
}

/** Moments at which something may have happened; what is found leaves fewer of them. */
export class Instants {
  private spans: readonly (readonly [number, number])[];

  constructor(from: number, to: number) {
    this.spans = [[from, to]];
  }

  /** Whether one is left within these spans: then only those are left. */
  narrow(spans: readonly (readonly [number, number])[]): boolean {
    const left: [number, number][] = [];
    for (const [from, to] of this.spans) {
      for (const [first, last] of spans) {
        if (Math.max(from, first) <= Math.min(to, last)) {
          left.push([Math.max(from, first), Math.min(to, last)]);
        }
      }
    }
    if (left.length > 0) this.spans = left;
    return left.length > 0;
  }
}

interface OpenSector {
  readonly from: number;
  readonly to: number;
  readonly states: readonly Buffer[];
  readonly known: boolean;
}

/** What a snapshot must hold, as far as that is known before it was read. */
export class Expected {
  readonly sizeBytes: number;
  private readonly sectors: Map<number, Buffer>;
  private readonly open: Map<number, readonly OpenSector[]>;
  private readonly instants: Instants;

  private constructor(
    sizeBytes: number,
    sectors: Map<number, Buffer>,
    open: Map<number, readonly OpenSector[]>,
    instants: Instants,
  ) {
    this.sizeBytes = sizeBytes;
    this.sectors = sectors;
    this.open = open;
    this.instants = instants;
  }

  /** The content of `head` at one of the moments `from` to `to`. */
  static of(head: Head, from: number, to: number, instants: Instants): Expected {
    const sectors = new Map<number, Buffer>();
    const open = new Map<number, readonly OpenSector[]>();
    for (const [at, sector] of head.sectors) {
      if (sector.quietSince(from)) {
        const [content] = sector.now().states;
        if (content !== undefined && !content.equals(ZEROES)) sectors.set(at, Buffer.from(content));
        continue;
      }
      const moments = [from, ...sector.momentsAfter(from).filter((moment) => moment <= to), to + 1];
      const spans: OpenSector[] = [];
      for (let index = 0; index + 1 < moments.length; index += 1) {
        const first = moments[index]!;
        const { states, known } = sector.now(first);
        spans.push({ from: first, to: moments[index + 1]! - 1, states, known });
      }
      open.set(at, spans);
    }
    return new Expected(head.sizeBytes, sectors, open, instants);
  }

  /** Null until it was read once, unless nothing was under way when it was taken. */
  get image(): Image | null {
    return this.open.size === 0 ? { sizeBytes: this.sizeBytes, sectors: this.sectors } : null;
  }

  /** Why a sector cannot hold this, or null. */
  wrong(at: number, found: Buffer): string | null {
    const open = this.open.get(at);
    if (open === undefined) {
      const expected = this.sectors.get(at) ?? ZEROES;
      return found.equals(expected) ? null : differs(expected, found);
    }
    const spans = open.filter(
      ({ states, known }) => !known || states.some((each) => each.equals(found)),
    );
    if (spans.length === 0) return `holds ${shown(found)}, none of what it held meanwhile`;
    if (this.instants.narrow(spans.map(({ from, to }) => [from, to] as const))) return null;
    return `holds ${shown(found)}, which fits no moment that fits the other sectors`;
  }

  /** It was read as a whole, and nothing was wrong. */
  known(at: number, found: Buffer): void {
    if (!this.open.delete(at)) return;
    if (!found.equals(ZEROES)) this.sectors.set(at, Buffer.from(found));
  }
}

export function differs(expected: Buffer, found: Buffer): string {
  const at = expected.findIndex((byte, index) => byte !== found[index]);
  return `holds ${shown(found)}, not ${shown(expected)} (first at its byte ${at})`;
}

/** The runs of bytes of a sector, as `count*value`. */
export function shown(bytes: Buffer): string {
  const runs: string[] = [];
  for (let at = 0; at < bytes.length && runs.length < 6;) {
    let end = at;
    while (end < bytes.length && bytes[end] === bytes[at]) end += 1;
    runs.push(`${end - at}*${bytes[at]!.toString(16).padStart(2, '0')}`);
    at = end;
  }
  return runs.join(' ');
}
