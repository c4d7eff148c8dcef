/** Randomness, as everything below the daemon sees it. The simulator passes a seeded one. */
import { randomBytes } from 'node:crypto';

export interface Random {
  /** A number in [0, 1). */
  fraction(): number;
  /** `count` unpredictable bytes. */
  bytes(count: number): Buffer;
}

export const systemRandom: Random = {
  fraction: () => randomBytes(4).readUInt32BE(0) / 2 ** 32,
  bytes: (count) => randomBytes(count),
};
