/**
 * What a primary had at the end of each epoch, block by block, and the frames that tell of it. A block is a tag: all of its
 * bytes follow from it, and 0 is zeroes.
 */
import type { Dice } from '../../../../scripts/fuzz/dice.ts';
import {
  encodeWriteHeader,
  WRITE_HEADER_BYTES,
} from '../../../../src/nbd/client/client-prepared.ts';
import { FrameKind } from '../../../../src/replicator/link/link-types.ts';
import { encodeRanges, type LinkRange } from '../../../../src/replicator/link/ranges.ts';

export const BLOCK = 4096;

export type Content = Uint32Array;

export interface ModelFrame {
  readonly kind: FrameKind;
  readonly payload: Buffer;
}

export function blockOf(tag: number): Buffer {
  const block = Buffer.alloc(BLOCK);
  if (tag !== 0) for (let at = 0; at < BLOCK; at += 4) block.writeUInt32LE((tag ^ at) >>> 0, at);
  return block;
}

/** The tags of what was read; throws when a block is none. */
export function tagsOf(bytes: Buffer): Content {
  const tags = new Uint32Array(bytes.length / BLOCK);
  for (let block = 0; block < tags.length; block += 1) {
    const found = bytes.subarray(block * BLOCK, (block + 1) * BLOCK);
    const tag = found.readUInt32LE(0);
    if (!found.equals(blockOf(tag))) throw new Error(`block ${block} is torn`);
    tags[block] = tag;
  }
  return tags;
}

/** The payload of DATA: a write for each run. */
export function entriesOf(runs: readonly { first: number; tags: readonly number[] }[]): Buffer {
  return Buffer.concat(
    runs.map(({ first, tags }, index) => {
      const header = Buffer.alloc(WRITE_HEADER_BYTES);
      const length = tags.length * BLOCK;
      encodeWriteHeader(header, 0, { offset: first * BLOCK, length, batch: 1, index });
      return Buffer.concat([header, ...tags.map(blockOf)]);
    }),
  );
}

export class CopyModel {
  readonly blocks: number;
  /** Content at the end of each epoch; what is before `first` is not known. */
  readonly states: Content[] = [];
  readonly frames = new Map<number, ModelFrame[]>();
  private tag = 1;
  private readonly dice: Dice;

  constructor(blocks: number, dice: Dice) {
    this.blocks = blocks;
    this.dice = dice;
    this.states.push(new Uint32Array(blocks));
  }

  /** The last closed epoch. */
  get last(): number {
    return this.states.length - 1;
  }

  get sizeBytes(): number {
    return this.blocks * BLOCK;
  }

  /** Whether the content is that of the end of `epoch`. */
  isAt(epoch: number, content: Content): boolean {
    const state = this.states[epoch];
    return state !== undefined && Buffer.from(state.buffer).equals(Buffer.from(content.buffer));
  }

  /** Writes and closes one more epoch. */
  write(): void {
    const state = Uint32Array.from(this.states[this.last]!);
    const frames: ModelFrame[] = [];
    const count = this.dice.between(0, 5);
    for (let index = 0; index < count; index += 1) {
      frames.push(this.dice.chance(25) ? this.zeroes(state) : this.data(state));
    }
    this.states.push(state);
    this.frames.set(this.last, frames);
  }

  private run(): { first: number; count: number } {
    const first = this.dice.below(this.blocks);
    const most = Math.min(this.blocks - first, this.dice.chance(10) ? this.blocks : 6);
    return { first, count: this.dice.between(1, most) };
  }

  private data(state: Content): ModelFrame {
    const runs = Array.from({ length: this.dice.between(1, 3) }, () => {
      const { first, count } = this.run();
      const tags = Array.from({ length: count }, () => (this.tag += 1) * 65_536 + 1);
      state.set(tags, first);
      return { first, tags };
    });
    return { kind: FrameKind.DATA, payload: entriesOf(runs) };
  }

  private zeroes(state: Content): ModelFrame {
    const ranges: LinkRange[] = Array.from({ length: this.dice.between(1, 3) }, () => {
      const { first, count } = this.run();
      state.fill(0, first, first + count);
      return { offset: first * BLOCK, length: count * BLOCK, trim: this.dice.chance(50) };
    });
    return { kind: FrameKind.RANGES, payload: encodeRanges(ranges) };
  }

  /** What turns `from` into the content at `epoch`, as frames of a run; blocks below `cursor` are left out. */
  difference(
    from: Content,
    epoch: number,
    cursor: number,
  ): { frames: ModelFrame[]; first: number }[] {
    const to = this.states[epoch]!;
    const parts: { frames: ModelFrame[]; first: number }[] = [];
    for (let block = cursor; block < this.blocks;) {
      if (from[block] === to[block]) {
        block += 1;
        continue;
      }
      let end = block;
      const isZero = to[block] === 0;
      while (end < this.blocks && (to[end] === 0) === isZero && end - block < 7) end += 1;
      const frame: ModelFrame = isZero
        ? {
            kind: FrameKind.RUN_RANGES,
            payload: encodeRanges([
              { offset: block * BLOCK, length: (end - block) * BLOCK, trim: false },
            ]),
          }
        : {
            kind: FrameKind.RUN_DATA,
            payload: entriesOf([{ first: block, tags: [...to.subarray(block, end)] }]),
          };
      parts.push({ frames: [frame], first: block });
      block = end;
    }
    return parts;
  }
}
