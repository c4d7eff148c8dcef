/** Damage to bytes, from seeded dice. */
import type { Dice } from './dice.ts';

const EDGES = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff];

function once(dice: Dice, bytes: Buffer): Buffer {
  if (bytes.length === 0) return dice.bytes(dice.skewed(64));
  const at = dice.below(bytes.length);
  const to = Math.min(bytes.length, at + 1 + dice.skewed(64));
  const copy = Buffer.from(bytes);
  return dice.weighted<() => Buffer>([
    [
      30,
      () => {
        copy[at] = (copy[at] ?? 0) ^ (1 << dice.below(8));
        return copy;
      },
    ],
    [
      10,
      () => {
        copy[at] = dice.below(256);
        return copy;
      },
    ],
    [
      15,
      () => {
        if (at + 4 <= copy.length) copy.writeUInt32BE(dice.pick(EDGES), at);
        return copy;
      },
    ],
    [10, () => Buffer.concat([bytes.subarray(0, at), bytes.subarray(to)])],
    [10, () => Buffer.concat([bytes.subarray(0, to), bytes.subarray(at)])],
    [10, () => Buffer.concat([bytes.subarray(0, at), dice.bytes(to - at), bytes.subarray(at)])],
    [10, () => bytes.subarray(0, at)],
    [5, () => Buffer.concat([bytes.subarray(at), bytes.subarray(0, at)])],
  ])();
}

export function mutateBytes(dice: Dice, bytes: Buffer): Buffer {
  let mutated = bytes;
  for (let left = 1 + dice.skewed(6); left > 0; left--) mutated = once(dice, mutated);
  return mutated;
}
