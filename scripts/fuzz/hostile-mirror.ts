/**
 * An NBD server that keeps to the protocol up to a point, and then does not. It has no socket: bytes go in,
 * and what it wants done comes out through `Stage`. Up to that point, and in everything that it says was
 * done, it is honest: what it acknowledged is in `disk`.
 */
import { ByteQueue } from '../../test/wire/decoder.ts';
import { hex, u32, u64 } from '../../test/wire/encoder.ts';
import type { Content } from './content.ts';
import type { Dice } from './dice.ts';
import { type EvilPlan, isRequestEvil, type RequestEvil } from './evil-plans.ts';
import { HostileHandshake } from './hostile-handshake.ts';
import { HostileVoice, type Stage } from './hostile-voice.ts';

const ERRORS = [1, 5, 12, 22, 28, 75, 95, 108, 2, 9999, 0xffffffff];
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
  private requests = 0;
  private readonly disk: Content;
  private readonly size: number;
  private readonly plan: EvilPlan;
  private readonly dice: Dice;
  private readonly voice: HostileVoice;
  private readonly handshake: HostileHandshake;
  private readonly input = new ByteQueue();
  private state: 'flags' | 'options' | 'requests' = 'flags';
  private late: Buffer[] = [];

  constructor(disk: Content, size: number, plan: EvilPlan, dice: Dice, stage: Stage) {
    this.disk = disk;
    this.size = size;
    this.plan = plan;
    this.dice = dice;
    this.voice = new HostileVoice(plan, dice, stage);
    this.handshake = new HostileHandshake(size, plan, dice, this.voice);
  }

  /** It has done its evil. */
  get fired(): boolean {
    return this.voice.fired;
  }

  opened(): void {
    this.handshake.greet();
  }

  received(bytes: Buffer): void {
    this.input.append(Buffer.from(bytes));
    while (!this.voice.over && this.step());
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
      const data = Buffer.from(input.take(length));
      if (this.handshake.answer(number, data)) this.state = 'requests';
      return true;
    }
    return this.takeRequest();
  }

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
      this.voice.end();
      return false;
    }
    this.serve({ command, cookie, offset, length, payload });
    return true;
  }

  private serve(request: Request): void {
    const { evil, at } = this.plan;
    const due = this.requests++ >= at && isRequestEvil(evil);
    const again = evil === 'error-once' && this.voice.fired;
    if (!due || again) this.voice.say(this.reply(request));
    else this.misbehave(evil, request);
  }

  private misbehave(evil: RequestEvil, request: Request): void {
    const { dice, voice } = this;
    const cookie = request.cookie ^ (1n << BigInt(dice.below(64)));
    voice.fire();
    switch (evil) {
      case 'close':
      case 'reset':
        voice.end(evil);
        return;
      case 'close-in-reply': {
        const reply = this.reply(request);
        voice.say(reply.subarray(0, dice.below(reply.length)));
        voice.end('close');
        return;
      }
      case 'silence':
        return;
      case 'wrong-magic':
        voice.say(head(dice.pick([0, 0x67446699, 0x6e8a278c, dice.u32()]), 0, request.cookie));
        return;
      case 'wrong-cookie':
        voice.say(head(0x67446698, dice.pick([0, 5]), cookie));
        return;
      case 'twice': {
        const reply = this.reply(request);
        voice.say(Buffer.concat([reply, reply]));
        return;
      }
      case 'unasked':
        voice.say(Buffer.concat([this.reply(request), head(0x67446698, 0, dice.u64())]));
        return;
      case 'error-once':
      case 'errors':
        voice.say(head(0x67446698, dice.pick(ERRORS), request.cookie));
        return;
      case 'error-and-data':
        voice.say(Buffer.concat([head(0x67446698, 5, request.cookie), dice.bytes(512)]));
        return;
      case 'chunk':
        voice.say(Buffer.concat([hex('668e33ef 0001 0000'), u64(request.cookie), u32(0)]));
        return;
      case 'late-replies':
        this.later(this.reply(request));
        return;
      case 'reversed-replies':
        this.late.push(this.reply(request));
        if (this.late.length === 1) voice.after(LATE_MS, () => this.sayReversed());
        return;
      case 'garbage':
        voice.say(dice.bytes(1 + dice.skewed(5000)));
        return;
      case 'endless-garbage':
        voice.flood();
        return;
      case 'drip':
        voice.dripping = true;
        voice.say(this.reply(request));
    }
  }

  private later(reply: Buffer): void {
    this.voice.after(this.dice.below(LATE_MS), () => this.voice.say(reply));
  }

  private sayReversed(): void {
    const replies = this.late.toReversed();
    this.late = [];
    this.voice.say(Buffer.concat(replies));
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
}
