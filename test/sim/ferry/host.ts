/** What the host of the volume asks for, and what it is promised. */
import { answered, type TestRequest } from '../../volume/support/request.ts';
import { takeBytes } from '../arena.ts';
import { wrongUnless } from '../failure.ts';
import type { Place, Step } from './history.ts';
import { BLOCK } from './oracle.ts';
import { readOf, writeOf } from './requests.ts';
import type { Stage } from './stage.ts';

/** Requests of the host under way. */
const REQUESTS_MAX = 24;
const ESHUTDOWN = 108;

export class Host {
  private readonly stage: Stage;
  private tags = 0;

  constructor(stage: Stage) {
    this.stage = stage;
  }

  burst({ count, blocks, flushes }: Extract<Step, { kind: 'burst' }>): void {
    for (let index = 0; index < count; index += 1) {
      if (flushes && this.stage.dice.chance(25)) this.flush();
      const block = this.stage.dice.below(this.stage.oracle.blockCount);
      const most = Math.min(blocks, this.stage.oracle.blockCount - block);
      this.write(
        { offset: block * BLOCK, length: this.stage.dice.between(1, most) * BLOCK },
        false,
      );
    }
  }

  write(place: Place, fua: boolean): void {
    this.tags += 1;
    const bytes = takeBytes(place.length).fill(1 + (this.tags % 255));
    this.addNoise(bytes);
    for (let at = 0; at + 8 <= bytes.length; at += 256) bytes.writeUInt32LE(this.tags, at);
    this.ask(place, { kind: 'write', fua, bytes });
  }

  /** A part of each block does not shrink, where that makes a difference. */
  private addNoise(bytes: Buffer): void {
    const { history, dice } = this.stage;
    const { noise } = history.compression ?? { noise: 0 };
    const noisy = Math.floor((BLOCK * noise) / 100);
    for (let block = 0; block < bytes.length; block += BLOCK) {
      const end = Math.min(block + noisy, bytes.length - 3);
      for (let at = block; at < end; at += 4) bytes.writeUInt32LE(dice.u32(), at);
    }
  }

  ask(
    { offset, length }: Place,
    what: { kind: 'write' | 'zero' | 'trim'; fua: boolean; noHole?: boolean; bytes?: Buffer },
  ): void {
    const { device, closing } = this.stage.primary;
    if (device === null || closing || this.stage.operations.count >= REQUESTS_MAX) return;
    const { kind, fua, noHole = false, bytes } = what;
    const request = bytes === undefined ? readOf({ offset, length }) : writeOf(offset, bytes);
    request.fua = fua;
    request.noHole = noHole;
    this.request(request, kind, (asked) => device[kind](asked));
  }

  flush(): void {
    const { device, closing } = this.stage.primary;
    if (device === null || closing || this.stage.operations.count >= REQUESTS_MAX) return;
    this.request(readOf({ offset: 0, length: 0 }), 'flush', (asked) => device.flush(asked));
  }

  private request(request: TestRequest, kind: string, call: (asked: TestRequest) => number): void {
    const { primary, oracle } = this.stage;
    // A flush makes durable what was applied before it.
    const before = oracle.change;
    this.stage.operations.operate(primary, kind, answered(request, call), {
      done: (status) => {
        if (status !== 0) {
          const excused = primary.troubled || primary.closing || status === ESHUTDOWN;
          wrongUnless(excused, `a ${kind} was answered ${status} for no reason`);
        } else if (kind === 'flush') {
          oracle.flushed(before);
          this.promised(kind, before, true);
        } else {
          const change = oracle.changeOf.get(request);
          if (change !== undefined) this.promised(kind, change, request.fua);
        }
      },
    });
  }

  /** The host was told that a change is on every synchronous mirror that is in step: durably, or at all. */
  private promised(kind: string, change: number, durably: boolean): void {
    // Hosts are sent away before a node stops.
    if (this.stage.primary.closing) return;
    for (const node of this.stage.mirrors) {
      const mirror = this.stage.primary.mirrorOf(node.name);
      if (mirror?.mode !== 'sync' || mirror.state !== 'streaming' || node.setBack) continue;
      if (durably) {
        node.promised = Math.max(node.promised, change);
        const held = this.stage.oracle.of(node.claimed)?.change ?? -1;
        wrongUnless(
          held >= change,
          `a ${kind} was answered, and ${node.name} has change ${held} of ${change} durably`,
        );
        continue;
      }
      // Its word may be older than its process.
      if (node.secondary?.sourceStatus().state !== 'streaming') continue;
      const held = this.stage.oracle.at(node.secondary.intake.received)?.change ?? -1;
      wrongUnless(
        held >= change,
        `a ${kind} was answered, and ${node.name} holds change ${held} of ${change}`,
      );
    }
  }
}
