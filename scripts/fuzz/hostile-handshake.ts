/** How a hostile mirror answers options: rightly, but for the evil of its plan. */
import { hex, u16, u32, u64 } from '../../test/wire/encoder.ts';
import type { Dice } from './dice.ts';
import type { EvilPlan } from './evil-plans.ts';
import type { HostileVoice } from './hostile-voice.ts';

/** HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN. */
const FLAGS = 0x016d;
const REFUSALS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99];
const SIZES = [0n, 1n, 511n, 4096n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];

function optionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([hex('0003e889045565a9'), u32(option), u32(type), u32(data.length), data]);
}

export class HostileHandshake {
  private readonly size: number;
  private readonly plan: EvilPlan;
  private readonly dice: Dice;
  private readonly voice: HostileVoice;

  constructor(size: number, plan: EvilPlan, dice: Dice, voice: HostileVoice) {
    this.size = size;
    this.plan = plan;
    this.dice = dice;
    this.voice = voice;
  }

  greet(): void {
    const { voice } = this;
    voice.say(hex('4e42444d41474943 49484156454f5054 0003'));
    if (this.plan.evil === 'reply-before-ask' && voice.fire()) voice.say(optionReply(7, 1));
  }

  /** True when requests follow. */
  answer(number: number, data: Buffer): boolean {
    const { evil } = this.plan;
    const { voice } = this;
    if (number === 2) {
      voice.say(optionReply(2, 1));
      voice.end();
      return false;
    }
    if (number === 1) {
      voice.say(Buffer.concat([u64(this.announcedSize()), u16(this.announcedFlags())]));
      return true;
    }
    if (number !== 7 || (evil === 'no-go' && voice.fire())) {
      voice.say(optionReply(number, 0x80000001));
      return false;
    }
    if (evil === 'refusal' && voice.fire()) {
      const text = Buffer.alloc(this.dice.skewed(6000), 0x20 + this.dice.below(200));
      voice.say(optionReply(7, 0x80000000 + this.dice.pick(REFUSALS), text));
      return false;
    }
    if (evil === 'huge-reply' && voice.fire()) {
      const length = this.dice.pick([0xffffffff, 0x80000000, 0x7fffffff, 8192, 65536]);
      voice.say(Buffer.concat([hex('0003e889045565a9'), u32(7), u32(3), u32(length)]));
      voice.flood();
      return false;
    }
    if (evil === 'wrong-option' && voice.fire()) {
      voice.say(optionReply(this.dice.pick([0, 6, 8, 0xffffffff]), 1));
      return false;
    }
    if (evil === 'endless-infos' && voice.fire()) {
      this.infosWithoutEnd();
      return false;
    }
    this.grant(data);
    return true;
  }

  private grant(data: Buffer): void {
    const size = this.announcedSize();
    const flags = this.announcedFlags();
    const parts = [optionReply(7, 3, Buffer.concat([u16(0), u64(size), u16(flags)]))];
    if (data.includes(Buffer.from([0, 3])) || this.plan.evil === 'wrong-blocks') {
      parts.push(optionReply(7, 3, this.blockSizes()));
    }
    parts.push(optionReply(7, 1));
    this.voice.say(Buffer.concat(parts));
  }

  private announcedSize(): bigint {
    return this.plan.evil === 'wrong-size' && this.voice.fire()
      ? this.dice.pick([...SIZES, BigInt(this.size) - 4096n, BigInt(this.size) + 1n])
      : BigInt(this.size);
  }

  private announcedFlags(): number {
    if (this.plan.evil !== 'wrong-flags' || !this.voice.fire()) return FLAGS;
    return this.dice.pick([0, 0x0003, 0x016f, 0x0001, 0x0005, 0xffff, this.dice.below(65536)]);
  }

  private blockSizes(): Buffer {
    if (this.plan.evil !== 'wrong-blocks' || !this.voice.fire()) {
      return Buffer.concat([u16(3), u32(1), u32(4096), u32(33554432)]);
    }
    const odd = (): number =>
      this.dice.pick([0, 1, 3, 511, 512, 4096, 65536, 131072, 2 ** 31, 0xffffffff]);
    return Buffer.concat([u16(3), u32(odd()), u32(odd()), u32(odd())]);
  }

  private infosWithoutEnd(): void {
    const info = optionReply(7, 3, Buffer.concat([u16(1), this.dice.bytes(100)]));
    this.voice.say(Buffer.concat(Array.from({ length: 20 }, () => info)));
    this.voice.after(5, () => this.infosWithoutEnd());
  }
}
