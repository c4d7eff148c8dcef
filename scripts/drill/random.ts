/** Randomness that a seed repeats: a failing run is run again with the number that it printed. */
export interface SeededRandom {
  /** A number in [0, 1). */
  fraction(): number;
  /** An integer in [0, limit); 0 when the limit is 0. */
  below(limit: number): number;
  /** A number in [low, high). */
  between(low: number, high: number): number;
  bytes(count: number): Buffer;
}

export function seededRandom(seed: number): SeededRandom {
  let state = seed >>> 0;
  // Mulberry32: one 32-bit word of state, a full period, good enough to pick moments and places.
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  const fraction = (): number => next() / 2 ** 32;
  return {
    fraction,
    below: (limit) => Math.floor(fraction() * limit),
    between: (low, high) => low + fraction() * (high - low),
    bytes(count) {
      const bytes = Buffer.alloc(count);
      for (let at = 0; at < count; at += 4) bytes.writeUIntBE(next(), at, Math.min(4, count - at));
      return bytes;
    },
  };
}
