/**
 * What a device holds, as far as it is known: sparse, so that it may be as large as a volume. A page
 * that nobody wrote is zero. Offsets and lengths are safe integers.
 *
 * Invariant: `known` pages exist only where `bytes` pages do; without one, all of the page is known.
 */
const PAGE_BYTES = 4096;

export class Content {
  /** Somebody else writes too: nothing is known for sure. */
  shared = false;
  private readonly pages = new Map<number, Buffer>();
  /** Of pages that are not known whole: 1 for each byte that is not. */
  private readonly unknown = new Map<number, Buffer>();

  write(offset: number, bytes: Buffer): void {
    this.eachPart(offset, bytes.length, (page, start, end, at) => {
      bytes.copy(this.page(page), start, at, at + end - start);
      this.unknown.get(page)?.fill(0, start, end);
    });
  }

  zero(offset: number, length: number): void {
    this.eachStored(offset, length, (page, start, end) => {
      this.page(page).fill(0, start, end);
      this.unknown.get(page)?.fill(0, start, end);
    });
  }

  /** The range may hold anything from now on. */
  forget(offset: number, length: number): void {
    this.eachPart(offset, length, (page, start, end) => this.blur(page, start, end));
  }

  /** The range is as it was, or zero, or a mixture. */
  mayBeZero(offset: number, length: number): void {
    this.eachStored(offset, length, (page, start, end) => this.blur(page, start, end));
  }

  /** The bytes, and a mask with 1 for each that is not known; null when all are. */
  read(offset: number, length: number): { readonly bytes: Buffer; readonly mask: Buffer | null } {
    const bytes = Buffer.alloc(length);
    if (this.shared) return { bytes, mask: Buffer.alloc(length, 1) };
    let mask: Buffer | null = null;
    this.eachPart(offset, length, (page, start, end, at) => {
      this.pages.get(page)?.copy(bytes, at, start, end);
      const unknown = this.unknown.get(page);
      if (unknown === undefined) return;
      mask ??= Buffer.alloc(length);
      unknown.copy(mask, at, start, end);
    });
    return { bytes, mask };
  }

  /** Whether a byte of the range is known not to be zero; tells the first such offset, or null. */
  firstNonZero(offset: number, length: number): number | null {
    let found: number | null = null;
    if (this.shared) return found;
    this.eachStored(offset, length, (page, start, end) => {
      const bytes = this.page(page);
      const unknown = this.unknown.get(page);
      for (let at = start; at < end; at++) {
        if (bytes[at] === 0 || unknown?.[at] === 1) continue;
        const where = page * PAGE_BYTES + at;
        if (found === null || where < found) found = where;
        return;
      }
    });
    return found;
  }

  /** Pages that hold something, in no order. */
  storedPages(): Iterable<number> {
    return this.pages.keys();
  }

  private page(index: number): Buffer {
    let page = this.pages.get(index);
    if (page === undefined) {
      page = Buffer.alloc(PAGE_BYTES);
      this.pages.set(index, page);
    }
    return page;
  }

  private blur(page: number, start: number, end: number): void {
    this.page(page);
    let mask = this.unknown.get(page);
    if (mask === undefined) {
      mask = Buffer.alloc(PAGE_BYTES);
      this.unknown.set(page, mask);
    }
    mask.fill(1, start, end);
  }

  private eachPart(
    offset: number,
    length: number,
    visit: (page: number, start: number, end: number, at: number) => void,
  ): void {
    for (let at = 0; at < length;) {
      const page = Math.floor((offset + at) / PAGE_BYTES);
      const start = (offset + at) % PAGE_BYTES;
      const end = Math.min(PAGE_BYTES, start + length - at);
      visit(page, start, end, at);
      at += end - start;
    }
  }

  /** The parts of the range that lie in pages of ours, whatever the range's length. */
  private eachStored(
    offset: number,
    length: number,
    visit: (page: number, start: number, end: number) => void,
  ): void {
    const end = offset + length;
    for (const page of this.pages.keys()) {
      const base = page * PAGE_BYTES;
      if (base >= end || base + PAGE_BYTES <= offset) continue;
      visit(page, Math.max(0, offset - base), Math.min(PAGE_BYTES, end - base));
    }
  }
}
