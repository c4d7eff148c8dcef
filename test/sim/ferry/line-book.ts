/**
 * What the host of one line of a volume wrote, and what of it must be there: each block holds the last write that was answered, or
 * a later one; behind a power cut the last one that a flush covered, or a later one, sector by sector.
 */
import { wrongUnless } from '../failure.ts';
import { BLOCK } from './oracle.ts';

const SECTOR = 512;

interface Written {
  /** What the block may hold by now, the oldest first. */
  values: Buffer[];
  /** The first that it may hold: the last that was answered. */
  floor: number;
  /** The last that a flush covered. */
  durable: number;
  /** A write is not answered. */
  open: boolean;
  /** Power was lost since: each sector may be of another write. */
  torn: boolean;
}

/** Blocks that were answered for before a flush began. */
export type Covered = ReadonlyMap<number, Buffer>;

export class LineBook {
  private readonly blocks: Written[];
  /** The newest generation under which a write was answered. */
  generation: number;

  private constructor(blocks: Written[], generation: number) {
    this.blocks = blocks;
    this.generation = generation;
  }

  static of(bytes: Buffer, generation: number): LineBook {
    const count = bytes.length / BLOCK;
    return new LineBook(
      Array.from({ length: count }, (_, block) => {
        const value = copied(bytes, block);
        return { values: [value], floor: 0, durable: 0, open: false, torn: false };
      }),
      generation,
    );
  }

  /** A second line that goes on from here. What the host of this one has no answer to may be there, or not. */
  fork(): LineBook {
    const blocks = this.blocks.map((block) => ({
      ...block,
      values: [...block.values],
      open: false,
    }));
    return new LineBook(blocks, this.generation);
  }

  get blockCount(): number {
    return this.blocks.length;
  }

  isOpen(block: number): boolean {
    return this.blocks[block]!.open;
  }

  asked(block: number, value: Buffer): void {
    const written = this.blocks[block]!;
    written.values.push(value);
    written.open = true;
  }

  answered(block: number, value: Buffer): void {
    const written = this.blocks[block]!;
    written.open = false;
    written.floor = Math.max(written.floor, written.values.indexOf(value));
  }

  /** Nobody will hear an answer: it may be there, or not. */
  given(block: number): void {
    this.blocks[block]!.open = false;
  }

  /** What a flush covers that begins now. */
  covered(): Covered {
    return new Map(
      this.blocks.flatMap(({ values, floor }, block) =>
        values.length === 1 ? [] : [[block, values[floor]!] as const],
      ),
    );
  }

  flushed(covered: Covered): void {
    for (const [block, value] of covered) {
      const written = this.blocks[block]!;
      written.durable = Math.max(written.durable, written.values.indexOf(value));
    }
  }

  /** The node that takes its writes lost power, or began with what a power cut would leave. */
  lostPower(): void {
    for (const written of this.blocks) {
      written.floor = Math.min(written.floor, written.durable);
      written.torn = true;
    }
  }

  /** Takes what is there, and was flushed, for what it is from now on; wrong when it is nothing that may be. */
  observed(bytes: Buffer, where: string): void {
    for (const [block, written] of this.blocks.entries()) {
      const { values, floor } = written;
      if (values.length === 1 && floor === 0 && equals(values[0]!, bytes, block)) continue;
      const found = values.findLastIndex((value) => equals(value, bytes, block));
      wrongUnless(
        found >= floor || (written.torn && isMixed(values.slice(floor), bytes, block)),
        `${where} lost a write to block ${block}: it holds number ${found} of ${values.length}, and ${floor} was answered`,
      );
      if (written.open) continue;
      written.values = [copied(bytes, block)];
      written.torn = false;
      written.floor = 0;
      written.durable = 0;
    }
  }
}

/** Each sector is that of one of these. */
function isMixed(values: readonly Buffer[], bytes: Buffer, block: number): boolean {
  for (let at = 0; at < BLOCK; at += SECTOR) {
    const start = block * BLOCK + at;
    const isOne = values.some(
      (value) => bytes.compare(value, at, at + SECTOR, start, start + SECTOR) === 0,
    );
    if (!isOne) return false;
  }
  return true;
}

function copied(bytes: Buffer, block: number): Buffer {
  return Buffer.from(bytes.subarray(block * BLOCK, (block + 1) * BLOCK));
}

function equals(value: Buffer, bytes: Buffer, block: number): boolean {
  return bytes.compare(value, 0, BLOCK, block * BLOCK, (block + 1) * BLOCK) === 0;
}
