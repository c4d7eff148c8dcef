/** Requests of the transmission, good and bad, from seeded dice. */
import * as wire from '../../test/wire/encoder.ts';
import type { Dice } from './dice.ts';
import type { Words } from './generate-options.ts';

const FLAGS = [wire.FUA, wire.NO_HOLE, wire.DF, wire.REQ_ONE, wire.FAST_ZERO, wire.PAYLOAD_LEN];
const PAYLOAD_BYTES_MAX = 33554432n;
/** Where most requests go, so that they meet. */
const HOT_BYTES = 65536;
const NAMES = ['READ', 'WRITE', 'DISC', 'FLUSH', 'TRIM', 'CACHE', 'ZEROES', 'STATUS', 'RESIZE'];

export interface RequestTerrain {
  readonly size: number;
  /** Whether requests of many MiB are worth their time. */
  readonly large: boolean;
}

export class RequestMaker {
  private readonly dice: Dice;
  private readonly terrain: RequestTerrain;
  private readonly extended: boolean;
  private cookies: bigint[] = [];

  constructor(dice: Dice, terrain: RequestTerrain, extended: boolean) {
    this.dice = dice;
    this.terrain = terrain;
    this.extended = extended;
  }

  private cookie(): bigint {
    const { dice, cookies } = this;
    const again = dice.chance(0.5) && cookies.length > 0;
    const cookie = again ? dice.pick(cookies) : dice.u64();
    cookies.push(cookie);
    return cookie;
  }

  private edge(): bigint {
    const size = BigInt(this.terrain.size);
    const around = this.dice.pick([
      0n,
      512n,
      4096n,
      size,
      2n ** 31n,
      2n ** 32n,
      2n ** 53n,
      2n ** 63n,
      2n ** 64n,
    ]);
    const near = around + BigInt(this.dice.between(-2, 2)) * this.dice.pick([1n, 1n, 512n, 4096n]);
    return BigInt.asUintN(64, near);
  }

  private offset(length: bigint): bigint {
    const { dice } = this;
    const { size } = this.terrain;
    return dice.weighted<() => bigint>([
      [60, () => BigInt(dice.below(Math.min(size, HOT_BYTES) || 1))],
      [12, () => BigInt(Math.floor((dice.u32() / 2 ** 32) * size))],
      [8, () => BigInt.asUintN(64, BigInt(size) - length)],
      [8, () => BigInt(dice.below(16)) * 4096n],
      [12, () => this.edge()],
    ])();
  }

  private length(command: number): bigint {
    const { dice } = this;
    const hasData = command === wire.READ || command === wire.WRITE;
    const small = (): bigint => BigInt(dice.skewed(HOT_BYTES));
    const large = (): bigint =>
      this.terrain.large || !hasData ? BigInt(dice.skewed(2 ** 24)) : small();
    return dice.weighted<() => bigint>([
      [60, small],
      [20, () => BigInt(512 * dice.between(0, 64))],
      [hasData ? 2 : 15, large],
      [1, () => (this.terrain.large || !hasData ? PAYLOAD_BYTES_MAX : 65536n)],
      [2, () => PAYLOAD_BYTES_MAX + BigInt(dice.between(1, 4096))],
      [2, () => BigInt(this.terrain.size)],
      [3, () => this.edge()],
    ])();
  }

  private flags(command: number): number {
    const { dice } = this;
    let flags = 0;
    const fits: Readonly<Record<number, readonly number[]>> = {
      [wire.READ]: [wire.DF, wire.FUA],
      [wire.WRITE]: [wire.FUA],
      [wire.WRITE_ZEROES]: [wire.FUA, wire.NO_HOLE, wire.FAST_ZERO],
      [wire.BLOCK_STATUS]: [wire.REQ_ONE],
      [wire.TRIM]: [wire.FUA],
    };
    for (const flag of fits[command] ?? [wire.FUA]) if (dice.chance(25)) flags |= flag;
    if (dice.chance(3)) flags |= dice.pick(FLAGS);
    if (dice.chance(1)) flags |= 1 << dice.below(16);
    if (this.extended && command === wire.WRITE && !dice.chance(2)) flags |= wire.PAYLOAD_LEN;
    return flags;
  }

  request(): Words {
    const { dice } = this;
    const command = dice.weighted([
      [30, wire.READ],
      [30, wire.WRITE],
      [8, wire.FLUSH],
      [8, wire.TRIM],
      [5, wire.CACHE],
      [12, wire.WRITE_ZEROES],
      [12, wire.BLOCK_STATUS],
      [1, dice.pick([wire.RESIZE, 9, 99, 0x8000, 0xffff])],
    ]);
    const plainFlush = command === wire.FLUSH && dice.chance(90);
    let length = plainFlush ? 0n : this.length(command);
    const offset = plainFlush ? 0n : this.offset(length);
    let flags = this.flags(command);
    let payload: Buffer = Buffer.alloc(0);
    if (command === wire.WRITE) payload = this.payload(length);
    else if (this.extended && command === wire.BLOCK_STATUS && dice.chance(25)) {
      flags |= wire.PAYLOAD_LEN;
      const ids = Array.from({ length: dice.skewed(5) }, () => dice.below(5));
      payload = wire.statusPayload(length, ids);
      if (dice.chance(10)) payload = payload.subarray(0, dice.below(payload.length + 1));
      length = BigInt(payload.length);
    }
    const fields = { flags, cookie: this.cookie(), offset, length, payload };
    const lied = this.lie(fields);
    const make = this.extended ? wire.extendedRequest : wire.request;
    const what = NAMES[command] ?? `command ${command}`;
    const note = `${what} flags 0x${flags.toString(16)} at ${offset}, ${lied.length} bytes`;
    return { bytes: make(command, lied), note };
  }

  /** Small, whatever the length says: then the bytes that follow count as payload. */
  private payload(length: bigint): Buffer {
    const { dice } = this;
    const most = this.terrain.large && dice.chance(50) ? PAYLOAD_BYTES_MAX : 262144n;
    if (length > most) return Buffer.alloc(0);
    const bytes = Buffer.alloc(Number(length));
    if (!dice.chance(20)) bytes.fill(dice.bytes(64 + dice.below(64)));
    return bytes;
  }

  private lie<T extends { readonly length: bigint }>(fields: T): T & { magic?: number } {
    const { dice } = this;
    if (dice.chance(98.5)) return fields;
    if (dice.chance(40)) {
      const magic = dice.pick([0, 0x67446698, 0x12560953, 0x25609513, 0x21e41c71, dice.u32()]);
      return { ...fields, magic };
    }
    const near = fields.length + BigInt(dice.between(-64, 64));
    return { ...fields, length: near < 0n ? 0n : near };
  }

  /** A DISC, with or without nonsense in it. */
  disconnect(): Words {
    const { dice } = this;
    const fields = dice.chance(50)
      ? { cookie: dice.u64() }
      : { cookie: dice.u64(), offset: dice.u64(), length: this.edge(), flags: 0xffff };
    const flagged = this.extended && dice.chance(50) ? { ...fields, flags: 0 } : fields;
    const make = this.extended ? wire.extendedRequest : wire.request;
    return { bytes: make(wire.DISC, flagged), note: 'DISC' };
  }
}
