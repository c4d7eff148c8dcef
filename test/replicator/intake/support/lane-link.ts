/**
 * A link as the mirror sees it, whose other end is the test: what the test sends arrives on any lane, in order on each, and
 * when the test says so.
 */
import type { Dice } from '../../../../scripts/fuzz/dice.ts';
import type { Clock } from '../../../../src/io/clock.ts';
import { BlockferryError } from '../../../../src/io/errors.ts';
import { FrameKind } from '../../../../src/replicator/link/link-types.ts';
import type {
  FrameHeader,
  Link,
  LinkHandler,
  ReceivedPayload,
} from '../../../../src/replicator/link/link-types.ts';
import type { ControlMessage } from '../../../../src/replicator/link/messages.ts';

export type Sent =
  | { readonly control: ControlMessage }
  | { readonly header: FrameHeader; readonly payload: Buffer | null };

export class LaneLink implements Link {
  open = true;
  readonly peer = 'primary';
  readonly backlogBytes = 0;
  bytesSent = 0;
  bytesReceived = 0;
  /** What the mirror sent. */
  readonly controls: ControlMessage[] = [];
  readonly answers: { header: FrameHeader; payload: Buffer | null }[] = [];
  positions = { epoch: 0, index: 0, aux: 0 };
  /** The last acknowledgement of what is durable. */
  acknowledged = 0;
  endedBy: BlockferryError | null = null;
  /** Payloads that the mirror has not released. */
  held = 0;
  private readonly lanes: Sent[][];
  private handler: LinkHandler | null = null;
  private readonly clock: Clock;
  private readonly dice: Dice;

  constructor(clock: Clock, dice: Dice, lanes = 3) {
    this.clock = clock;
    this.dice = dice;
    this.lanes = Array.from({ length: lanes }, () => []);
  }

  // --- the primary's end

  control(message: ControlMessage): void {
    this.lanes[0]!.push({ control: message });
  }

  frame(header: Partial<FrameHeader> & { kind: FrameHeader['kind'] }, payload?: Buffer): void {
    const whole = {
      flags: 0,
      volume: 0,
      epoch: 0,
      index: 0,
      offset: 0,
      length: 0,
      aux: 0,
      ...header,
    };
    this.dice.pick(this.lanes).push({ header: whole, payload: payload ?? null });
  }

  get queued(): number {
    return this.lanes.reduce((sum, lane) => sum + lane.length, 0);
  }

  /** Delivers one thing of some lane; false when there is nothing. */
  deliver(): boolean {
    const full = this.lanes.filter((lane) => lane.length > 0);
    if (full.length === 0 || this.handler === null || this.endedBy !== null) return false;
    const next = this.dice.pick(full).shift()!;
    if ('control' in next) {
      this.handler.control(next.control);
      return true;
    }
    const { header, payload } = next;
    this.bytesReceived += 64 + (payload?.length ?? 0);
    this.handler.frame(header, payload === null ? null : this.lend(payload));
    return true;
  }

  /** The connection is lost. */
  lose(): void {
    this.destroy(new BlockferryError('MIRROR_UNREACHABLE', 'the connection was lost'));
  }

  private lend(bytes: Buffer): ReceivedPayload {
    const buffer = Buffer.concat([bytes, Buffer.from('tail')]);
    this.held += 1;
    let released = false;
    return {
      buffer,
      length: bytes.length,
      release: () => {
        if (released) throw new Error('a payload was released twice');
        released = true;
        this.held -= 1;
        buffer.fill(0xdb);
      },
    };
  }

  // --- Link

  start(handler: LinkHandler): void {
    this.handler = handler;
  }

  send(header: FrameHeader, payload: readonly Buffer[] = [], sent?: () => void): void {
    if (this.endedBy === null) {
      if (header.kind === FrameKind.ACK)
        this.acknowledged = Math.max(this.acknowledged, header.epoch);
      this.answers.push({ header, payload: payload.length === 0 ? null : Buffer.concat(payload) });
    }
    if (sent !== undefined) this.clock.soon(sent);
  }

  sendControl(message: ControlMessage): void {
    if (this.endedBy === null) this.controls.push(message);
  }

  setHeartbeat(positions: { epoch: number; index: number; aux: number }): void {
    this.positions = positions;
  }

  end(reason: string): void {
    this.destroy(new BlockferryError('MIRROR_UNREACHABLE', reason));
  }

  destroy(error: BlockferryError): void {
    if (this.endedBy !== null) return;
    this.endedBy = error;
    this.open = false;
    this.clock.soon(() => this.handler?.closed(error));
  }
}
