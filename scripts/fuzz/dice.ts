/**
 * Seeded randomness: the same seed and iteration give the same dice for ever, on every machine. Not for
 * secrets.
 */

/** sfc32: small, fast, and passes the usual batteries. */
export class Dice {
  private a: number;
  private b: number;
  private c: number;
  private d: number;

  /** Both are integers; `stream` keeps the dice of one seed apart, an iteration's from the next. */
  constructor(seed: number, stream: number) {
    this.a = seed >>> 0;
    this.b = Math.floor(seed / 2 ** 32) >>> 0;
    this.c = stream >>> 0;
    this.d = 1;
    for (let round = 0; round < 16; round++) this.u32();
  }

  u32(): number {
    const sum = (this.a + this.b + this.d) | 0;
    this.d = (this.d + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = ((this.c << 21) | (this.c >>> 11)) + sum;
    return sum >>> 0;
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  /** 0 .. end - 1; `end` up to 2^32. */
  below(end: number): number {
    return Math.floor((this.u32() / 2 ** 32) * end);
  }

  /** `first` .. `last`, both included. */
  between(first: number, last: number): number {
    return first + this.below(last - first + 1);
  }

  /** True in `percent` of a hundred. */
  chance(percent: number): boolean {
    return this.below(10_000) < percent * 100;
  }

  pick<T>(choices: readonly T[]): T {
    const chosen = choices[this.below(choices.length)];
    if (chosen === undefined) throw new Error('nothing to choose from');
    return chosen;
  }

  /** Each choice behind its weight, any positive integers. */
  weighted<T>(choices: readonly (readonly [number, T])[]): T {
    let at = this.below(choices.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, choice] of choices) {
      if (at < weight) return choice;
      at -= weight;
    }
    throw new Error('nothing to choose from');
  }

  /** Mostly small: 0 .. `end` - 1, each power of two as likely as the next. */
  skewed(end: number): number {
    if (end <= 1) return 0;
    const bits = this.between(0, Math.ceil(Math.log2(end)));
    return Math.min(end - 1, Math.floor((this.u32() / 2 ** 32) * 2 ** bits));
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let at = 0; at + 4 <= length; at += 4) bytes.writeUInt32LE(this.u32(), at);
    for (let at = length & ~3; at < length; at++) bytes[at] = this.below(256);
    return bytes;
  }
}
