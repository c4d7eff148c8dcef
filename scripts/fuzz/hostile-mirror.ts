/**
 * An NBD server that keeps to the protocol up to a point, and then does not. It has no socket: bytes go in,
 * and what it wants done comes out through `Stage`. Up to that point, and in everything that it says was
 * done, it is honest: what it acknowledged is in `disk`.
 */
import { ByteQueue } from '../../test/wire/decoder.ts';
import { hex, u16, u32, u64 } from '../../test/wire/encoder.ts';
import type { Content } from './content.ts';
import type { Dice } from './dice.ts';

/** Where its deeds go. */
export interface Stage {
  send(bytes: Buffer): void;
  /** Closes in good order; cuts. */
  close(): void;
  reset(): void;
  after(ms: number, act: () => void): void;
}

/** Wrong in the handshake: at a byte of what the server says, or in what it announces. */
export const HANDSHAKE_EVILS = [
  'close-at-byte',
  'reset-at-byte',
  'silence-at-byte',
  'garbage-at-byte',
  'drip-from-byte',
  'huge-reply',
  'endless-infos',
  'wrong-size',
  'wrong-flags',
  'wrong-blocks',
  'refusal',
  'no-go',
  'wrong-option',
  'reply-before-ask',
] as const;

/** Wrong at a request. */
export const REQUEST_EVILS = [
  'close',
  'reset',
  'close-in-reply',
  'silence',
  'wrong-magic',
  'wrong-cookie',
  'twice',
  'unasked',
  'error-once',
  'errors',
  'error-and-data',
  'chunk',
  'late-replies',
  'reversed-replies',
  'garbage',
  'endless-garbage',
  'drip',
] as const;

export type Evil = (typeof HANDSHAKE_EVILS)[number] | (typeof REQUEST_EVILS)[number] | 'none';

/** What may make a falsehood of an answer: bits of it are wrong, and it may still look like one. */
const LIES: ReadonlySet<Evil> = new Set<Evil>([
  'garbage-at-byte',
  'garbage',
  'endless-garbage',
  'wrong-cookie',
]);
export const mayLie = ({ evil }: EvilPlan): boolean => LIES.has(evil);

export interface EvilPlan {
  readonly evil: Evil;
  /** The byte of its output, or the number of its requests, where it begins. */
  readonly at: number;
}

/** HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES, CAN_MULTI_CONN. */
const FLAGS = 0x016d;
const ERRORS = [1, 5, 12, 22, 28, 75, 95, 108, 2, 9999, 0xffffffff];
const REFUSALS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99];
const SIZES = [0n, 1n, 511n, 4096n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n];
type RequestEvil = (typeof REQUEST_EVILS)[number];
type ByteEvil = Extract<Evil, `${string}-byte`>;

const isRequestEvil = (evil: Evil): evil is RequestEvil =>
  (REQUEST_EVILS as readonly Evil[]).includes(evil);
const isByteEvil = (evil: Evil): evil is ByteEvil => evil.endsWith('-byte');
const DRIP_MS = 10;
/** After so many it loses patience: whoever sends something now and then may not be given up. */
const DRIPS_MAX = 300;
const LATE_MS = 40;

const head = (magic: number, error: number, cookie: bigint): Buffer =>
  Buffer.concat([u32(magic), u32(error), u64(cookie)]);

interface Request {
  readonly command: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
  readonly payload: Buffer;
}

export class HostileMirror {
  /** It has done its evil. */
  fired = false;
  /** Requests that came. */
  requests = 0;
  private readonly disk: Content;
  private readonly size: number;
  private readonly plan: EvilPlan;
  private readonly dice: Dice;
  private readonly stage: Stage;
  private readonly input = new ByteQueue();
  private state: 'flags' | 'options' | 'requests' | 'over' = 'flags';
  private said = 0;
  private mute = false;
  /** Bytes leave one at a time. */
  private dripping = false;
  private dripsLeft = DRIPS_MAX;
  private drops: Buffer = Buffer.alloc(0);
  private late: Buffer[] = [];

  constructor(disk: Content, size: number, plan: EvilPlan, dice: Dice, stage: Stage) {
    this.disk = disk;
    this.size = size;
    this.plan = plan;
    this.dice = dice;
    this.stage = stage;
  }

  opened(): void {
    this.say(hex('4e42444d41474943 49484156454f5054 0003'));
    if (this.plan.evil === 'reply-before-ask' && this.fire()) this.say(this.optionReply(7, 1));
  }

  received(bytes: Buffer): void {
    this.input.append(Buffer.from(bytes));
    while (this.state !== 'over' && this.step());
  }

  private step(): boolean {
    const { input } = this;
    if (this.state === 'flags') {
      if (input.length < 4) return false;
      input.take(4);
      this.state = 'options';
      return true;
    }
    if (this.state === 'options') {
      if (input.length < 16) return false;
      const length = input.peek(16).readUInt32BE(12);
      if (input.length < 16 + length) return false;
      const number = input.take(16).readUInt32BE(8);
      this.answerOption(number, Buffer.from(input.take(length)));
      return true;
    }
    return this.takeRequest();
  }

  // The handshake.

  private answerOption(number: number, data: Buffer): void {
    const { evil } = this.plan;
    if (number === 2) {
      this.say(this.optionReply(2, 1));
      this.end();
      return;
    }
    if (number === 1) {
      this.say(Buffer.concat([u64(this.announcedSize()), u16(this.announcedFlags())]));
      this.state = 'requests';
      return;
    }
    if (number !== 7 || (evil === 'no-go' && this.fire())) {
      this.say(this.optionReply(number, 0x80000001));
      return;
    }
    if (evil === 'refusal' && this.fire()) {
      const text = Buffer.alloc(this.dice.skewed(6000), 0x20 + this.dice.below(200));
      this.say(this.optionReply(7, 0x80000000 + this.dice.pick(REFUSALS), text));
      return;
    }
    if (evil === 'huge-reply' && this.fire()) {
      const length = this.dice.pick([0xffffffff, 0x80000000, 0x7fffffff, 8192, 65536]);
      this.say(Buffer.concat([hex('0003e889045565a9'), u32(7), u32(3), u32(length)]));
      this.flood();
      return;
    }
    if (evil === 'wrong-option' && this.fire()) {
      this.say(this.optionReply(this.dice.pick([0, 6, 8, 0xffffffff]), 1));
      return;
    }
    if (evil === 'endless-infos' && this.fire()) {
      this.infosWithoutEnd();
      return;
    }
    this.grant(data);
  }

  private grant(data: Buffer): void {
    const size = this.announcedSize();
    const flags = this.announcedFlags();
    const parts = [this.optionReply(7, 3, Buffer.concat([u16(0), u64(size), u16(flags)]))];
    if (data.includes(Buffer.from([0, 3])) || this.plan.evil === 'wrong-blocks') {
      parts.push(this.optionReply(7, 3, this.blockSizes()));
    }
    parts.push(this.optionReply(7, 1));
    this.state = 'requests';
    this.say(Buffer.concat(parts));
  }

  private announcedSize(): bigint {
    return this.plan.evil === 'wrong-size' && this.fire()
      ? this.dice.pick([...SIZES, BigInt(this.size) - 4096n, BigInt(this.size) + 1n])
      : BigInt(this.size);
  }

  private announcedFlags(): number {
    if (this.plan.evil !== 'wrong-flags' || !this.fire()) return FLAGS;
    return this.dice.pick([0, 0x0003, 0x016f, 0x0001, 0x0005, 0xffff, this.dice.below(65536)]);
  }

  private blockSizes(): Buffer {
    if (this.plan.evil !== 'wrong-blocks' || !this.fire()) {
      return Buffer.concat([u16(3), u32(1), u32(4096), u32(33554432)]);
    }
    const odd = (): number =>
      this.dice.pick([0, 1, 3, 511, 512, 4096, 65536, 131072, 2 ** 31, 0xffffffff]);
    return Buffer.concat([u16(3), u32(odd()), u32(odd()), u32(odd())]);
  }

  private optionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
    return Buffer.concat([hex('0003e889045565a9'), u32(option), u32(type), u32(data.length), data]);
  }

  private infosWithoutEnd(): void {
    if (this.state === 'over') return;
    const info = this.optionReply(7, 3, Buffer.concat([u16(1), this.dice.bytes(100)]));
    this.say(Buffer.concat(Array.from({ length: 20 }, () => info)));
    this.stage.after(5, () => this.infosWithoutEnd());
  }

  /** Bytes that mean nothing, until it is cut off. */
  private flood(): void {
    if (this.state === 'over') return;
    this.say(this.dice.bytes(4096));
    this.stage.after(5, () => this.flood());
  }

  // Requests.

  private takeRequest(): boolean {
    const { input } = this;
    if (input.length < 28) return false;
    const header = input.peek(28);
    if (header.readUInt32BE(0) !== 0x25609513) throw new Error('the client sends no request');
    const command = header.readUInt16BE(6);
    const length = header.readUInt32BE(24);
    const payloadBytes = command === 1 ? length : 0;
    const cookie = header.readBigUInt64BE(8);
    const offset = Number(header.readBigUInt64BE(16));
    if (input.length < 28 + payloadBytes) return false;
    input.take(28);
    const payload = Buffer.from(input.take(payloadBytes));
    if (command === 2) {
      this.end();
      return false;
    }
    this.serve({ command, cookie, offset, length, payload });
    return true;
  }

  private serve(request: Request): void {
    const { evil, at } = this.plan;
    const due = this.requests++ >= at && isRequestEvil(evil);
    if (!due || (evil === 'error-once' && this.fired)) this.say(this.reply(request));
    else this.misbehave(evil, request);
  }

  private misbehave(evil: RequestEvil, request: Request): void {
    const { dice } = this;
    const cookie = request.cookie ^ (1n << BigInt(dice.below(64)));
    switch (evil) {
      case 'close':
      case 'reset':
        if (this.fire()) this.end(evil);
        return;
      case 'close-in-reply': {
        this.fire();
        const reply = this.reply(request);
        this.say(reply.subarray(0, dice.below(reply.length)));
        this.end('close');
        return;
      }
      case 'silence':
        this.fire();
        return;
      case 'wrong-magic':
        this.fire();
        this.say(head(dice.pick([0, 0x67446699, 0x6e8a278c, dice.u32()]), 0, request.cookie));
        return;
      case 'wrong-cookie':
        this.fire();
        this.say(head(0x67446698, dice.pick([0, 5]), cookie));
        return;
      case 'twice': {
        this.fire();
        const reply = this.reply(request);
        this.say(Buffer.concat([reply, reply]));
        return;
      }
      case 'unasked':
        this.fire();
        this.say(Buffer.concat([this.reply(request), head(0x67446698, 0, dice.u64())]));
        return;
      case 'error-once':
      case 'errors':
        this.fire();
        this.say(head(0x67446698, dice.pick(ERRORS), request.cookie));
        return;
      case 'error-and-data':
        this.fire();
        this.say(Buffer.concat([head(0x67446698, 5, request.cookie), dice.bytes(512)]));
        return;
      case 'chunk':
        this.fire();
        this.say(Buffer.concat([hex('668e33ef 0001 0000'), u64(request.cookie), u32(0)]));
        return;
      case 'late-replies':
        this.fire();
        this.later(this.reply(request));
        return;
      case 'reversed-replies':
        this.fire();
        this.late.push(this.reply(request));
        if (this.late.length === 1) this.stage.after(LATE_MS, () => this.sayReversed());
        return;
      case 'garbage':
        this.fire();
        this.say(dice.bytes(1 + dice.skewed(5000)));
        return;
      case 'endless-garbage':
        if (this.fire()) this.flood();
        return;
      case 'drip':
        this.fire();
        this.dripping = true;
        this.say(this.reply(request));
    }
  }

  private later(reply: Buffer): void {
    this.stage.after(this.dice.below(LATE_MS), () => this.say(reply));
  }

  private sayReversed(): void {
    const replies = this.late.toReversed();
    this.late = [];
    this.say(Buffer.concat(replies));
  }

  /** Does what was asked and says so. */
  private reply({ command, cookie, offset, length, payload }: Request): Buffer {
    const answer = (error: number): Buffer => head(0x67446698, error, cookie);
    if (offset + length > this.size) return answer(command === 1 || command === 6 ? 28 : 22);
    switch (command) {
      case 0:
        return Buffer.concat([answer(0), this.disk.read(offset, length).bytes]);
      case 1:
        this.disk.write(offset, payload);
        return answer(0);
      case 4:
      case 6:
        this.disk.zero(offset, length);
        return answer(0);
      case 3:
        return answer(0);
      default:
        return answer(22);
    }
  }

  // What it says.

  private fire(): boolean {
    this.fired = true;
    return true;
  }

  private end(how: 'close' | 'reset' = 'close'): void {
    this.state = 'over';
    if (how === 'close') this.stage.close();
    else this.stage.reset();
  }

  private say(bytes: Buffer): void {
    if (this.state === 'over' || this.mute) return;
    const { evil, at } = this.plan;
    const from = this.said;
    this.said += bytes.length;
    if (isByteEvil(evil) && !this.fired && this.said > at) {
      this.sayUpTo(bytes, Math.max(0, at - from), evil);
      return;
    }
    this.emit(bytes);
  }

  /** The first part is right, and then it happens. */
  private sayUpTo(bytes: Buffer, right: number, evil: ByteEvil): void {
    this.fire();
    this.emit(bytes.subarray(0, right));
    switch (evil) {
      case 'close-at-byte':
        return this.end('close');
      case 'reset-at-byte':
        return this.end('reset');
      case 'silence-at-byte':
        this.mute = true;
        return undefined;
      case 'drip-from-byte':
        this.dripping = true;
        return this.emit(bytes.subarray(right));
      case 'garbage-at-byte': {
        const wrong = Buffer.from(bytes.subarray(right));
        const first = wrong[0] ?? 0;
        wrong[0] = first ^ (1 << this.dice.below(8));
        return this.emit(wrong);
      }
    }
  }

  private emit(bytes: Buffer): void {
    if (bytes.length === 0) return;
    if (!this.dripping) return this.stage.send(bytes);
    const idle = this.drops.length === 0;
    this.drops = Buffer.concat([this.drops, bytes]);
    if (idle) this.stage.after(DRIP_MS, () => this.drip());
    return undefined;
  }

  private drip(): void {
    if (this.state === 'over' || this.drops.length === 0) return;
    const bytes = this.dripsLeft-- > 0 ? 1 : this.drops.length;
    this.stage.send(this.drops.subarray(0, bytes));
    this.drops = this.drops.subarray(bytes);
    if (this.drops.length > 0) this.stage.after(DRIP_MS, () => this.drip());
  }
}

/** Bytes of the whole answer to a GO that asks for block sizes. */
const HANDSHAKE_BYTES = 18 + 32 + 34 + 20;

/** Something wrong, somewhere. */
export function evilPlan(dice: Dice, requestsMax: number): EvilPlan {
  if (dice.chance(45)) {
    return { evil: dice.pick(HANDSHAKE_EVILS), at: dice.below(HANDSHAKE_BYTES + 200) };
  }
  return { evil: dice.pick(REQUEST_EVILS), at: dice.skewed(requestsMax) };
}
