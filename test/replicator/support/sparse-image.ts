/** The content of a disk of any size, by pages that are not zero: what a test expects, or a mirror holds. */
const PAGE = 4096;

export class SparseImage {
  private readonly pages = new Map<number, Buffer>();

  write(offset: number, bytes: Buffer): void {
    for (let done = 0; done < bytes.length;) {
      const at = offset + done;
      const page = Math.floor(at / PAGE);
      const within = at - page * PAGE;
      const part = Math.min(PAGE - within, bytes.length - done);
      let content = this.pages.get(page);
      if (content === undefined) this.pages.set(page, (content = Buffer.alloc(PAGE)));
      bytes.copy(content, within, done, done + part);
      done += part;
    }
  }

  zero(offset: number, length: number): void {
    const end = offset + length;
    for (const [page, content] of this.pages) {
      const from = Math.max(offset, page * PAGE);
      const to = Math.min(end, (page + 1) * PAGE);
      if (from < to) content.fill(0, from - page * PAGE, to - page * PAGE);
    }
  }

  read(offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let done = 0; done < length;) {
      const at = offset + done;
      const page = Math.floor(at / PAGE);
      const within = at - page * PAGE;
      const part = Math.min(PAGE - within, length - done);
      this.pages.get(page)?.copy(bytes, done, within, within + part);
      done += part;
    }
    return bytes;
  }

  /** Numbers of the pages that hold something. */
  usedPages(): number[] {
    return [...this.pages].filter(([, content]) => !content.equals(ZERO_PAGE)).map(([at]) => at);
  }

  page(number: number): Buffer {
    return this.pages.get(number) ?? ZERO_PAGE;
  }

  clone(): SparseImage {
    const copy = new SparseImage();
    for (const [page, content] of this.pages) copy.pages.set(page, Buffer.from(content));
    return copy;
  }

  /** Drops what lies at or past `end`. */
  cut(end: number): void {
    this.zero(end, Number.MAX_SAFE_INTEGER - end);
  }

  /** Numbers of the pages in which the two differ, at most ten. */
  differences(other: SparseImage): number[] {
    const used = new Set([...this.usedPages(), ...other.usedPages()]);
    const differing = [...used].filter((page) => !this.page(page).equals(other.page(page)));
    return differing.toSorted((one, two) => one - two).slice(0, 10);
  }
}

const ZERO_PAGE = Buffer.alloc(PAGE);
