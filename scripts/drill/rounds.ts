/**
 * What a disk holds that test/clients/libnbd/rounds.py or a drill's writer (writer.ts) writes to: which state of its history that is. Any mixture of two
 * states is none, and is told with the numbers that stand side by side.
 */
import { readFileSync } from 'node:fs';

const BLOCK_BYTES = 4096;
const STEP = 7;

/** Where the blocks of the rounds are: so many, one every `spread` bytes from byte 0 on. Not a multiple of 7. */
export interface RoundsArea {
  readonly blocks: number;
  readonly spread: number;
}

/** The number that a whole block holds, or what is wrong with it. */
function numberIn(block: Buffer): number {
  const first = block.readBigUInt64LE(0);
  for (let at = 8; at < block.length; at += 8) {
    if (block.readBigUInt64LE(at) !== first) {
      throw new Error(`a block holds ${first} and ${block.readBigUInt64LE(at)}: it is torn`);
    }
  }
  return Number(first);
}

/**
 * How many writes of the history an image holds: those of the rounds 1 to n are n * blocks. Throws when it is no state
 * that the disk ever had.
 */
export function writesIn(imagePath: string, { blocks, spread }: RoundsArea): number {
  const image = readFileSync(imagePath);
  const numbers = Array.from({ length: blocks }, (_, index) =>
    numberIn(image.subarray(index * spread, index * spread + BLOCK_BYTES)),
  );
  const round = Math.max(...numbers);
  if (round === 0) return 0;
  const inOrder = numbers.map((_, index) => numbers[(index * STEP + round) % blocks]);
  const written = inOrder.filter((number) => number === round).length;
  const expected = (index: number): number => (index < written ? round : round - 1);
  if (inOrder.some((number, index) => number !== expected(index))) {
    throw new Error(`not one state, in the order of round ${round}: ${inOrder.join(' ')}`);
  }
  return (round - 1) * blocks + written;
}
