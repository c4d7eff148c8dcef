/**
 * How a hostile mirror says what it has to say: right, or cut, muted, damaged or dripping from a byte on.
 * Only here it is known whether it has done its evil, and whether it is gone.
 */
import type { Dice } from './dice.ts';
import { type ByteEvil, type EvilPlan, isByteEvil } from './evil-plans.ts';

/** Where its deeds go. */
export interface Stage {
  send(bytes: Buffer): void;
  /** Closes in good order; cuts. */
  close(): void;
  reset(): void;
  after(ms: number, act: () => void): void;
}

const DRIP_MS = 10;
/** After so many it loses patience: whoever sends something now and then may not be given up. */
const DRIPS_MAX = 300;

export class HostileVoice {
  /** It has done its evil. */
  fired = false;
  /** It closed the connection. */
  over = false;
  /** Bytes leave one at a time. */
  dripping = false;
  private readonly plan: EvilPlan;
  private readonly dice: Dice;
  private readonly stage: Stage;
  private said = 0;
  private mute = false;
  private dripsLeft = DRIPS_MAX;
  private drops: Buffer = Buffer.alloc(0);

  constructor(plan: EvilPlan, dice: Dice, stage: Stage) {
    this.plan = plan;
    this.dice = dice;
    this.stage = stage;
  }

  fire(): true {
    this.fired = true;
    return true;
  }

  end(how: 'close' | 'reset' = 'close'): void {
    this.over = true;
    if (how === 'close') this.stage.close();
    else this.stage.reset();
  }

  /** Unless it is gone by then. */
  after(ms: number, act: () => void): void {
    this.stage.after(ms, () => this.over || act());
  }

  /** Bytes that mean nothing, until it is cut off. */
  flood(): void {
    this.say(this.dice.bytes(4096));
    this.after(5, () => this.flood());
  }

  say(bytes: Buffer): void {
    if (this.over || this.mute) return;
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
    if (this.over || this.drops.length === 0) return;
    const bytes = this.dripsLeft-- > 0 ? 1 : this.drops.length;
    this.stage.send(this.drops.subarray(0, bytes));
    this.drops = this.drops.subarray(bytes);
    if (this.drops.length > 0) this.stage.after(DRIP_MS, () => this.drip());
  }
}
