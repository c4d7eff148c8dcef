/**
 * Frames of a stream in, whole epochs out: pure, but for the payloads, which it holds.
 *
 * Invariants:
 * - An epoch comes out once, when its CLOSE and every frame that it counts are there, after all epochs before it.
 * - What no sender of ours would send is LINK_PROTOCOL: a frame that came before, one past the CLOSE, a CLOSE that counts
 *   fewer frames than were seen, an epoch that came out already, or more than the bounds of what is not acknowledged.
 * - Frames up to `base` are late ones of a stream that is over: another lane was faster. They are dropped.
 * - A payload is released once: here when it is dropped, else by whoever took its epoch.
 */
import assert from 'node:assert';
import { BlockferryError } from '../../io/errors.ts';
import {
  LINK_UNACKED_BYTES_MAX,
  LINK_UNACKED_EPOCHS_MAX,
  LINK_UNACKED_FRAMES_MAX,
} from '../../io/limits.ts';
import { FrameKind } from '../link/link-types.ts';
import type { FrameHeader, ReceivedPayload } from '../link/link-types.ts';

/** A frame that is part of an epoch: DATA, RANGES or COMMAND. */
export interface EpochFrame {
  readonly kind: FrameKind;
  readonly payload: ReceivedPayload;
}

export interface CompleteEpoch {
  readonly generation: number;
  readonly epoch: number;
  /** Wall-clock milliseconds of its end on the primary. */
  readonly time: number;
  /** In their order: of overlapping ones the last counts. */
  readonly frames: readonly EpochFrame[];
  /** Bytes of all payloads. */
  readonly bytes: number;
}

/** One epoch on its way in: the frames that came in order, and those that came too early. */
class Arriving {
  readonly frames: EpochFrame[] = [];
  readonly ahead = new Map<number, EpochFrame>();
  /** Frames that it has; null until its CLOSE came. */
  count: number | null = null;
  /** One more than the highest index seen. */
  seen = 0;
  bytes = 0;
  time = 0;

  get complete(): boolean {
    return this.count === this.frames.length;
  }

  get frameCount(): number {
    return this.frames.length + this.ahead.size;
  }

  has(index: number): boolean {
    return index < this.frames.length || this.ahead.has(index);
  }

  add(index: number, frame: EpochFrame): void {
    this.seen = Math.max(this.seen, index + 1);
    this.bytes += frame.payload.length;
    if (index !== this.frames.length) {
      this.ahead.set(index, frame);
      return;
    }
    this.frames.push(frame);
    while (this.ahead.size > 0) {
      const next = this.ahead.get(this.frames.length);
      if (next === undefined) return;
      this.ahead.delete(this.frames.length);
      this.frames.push(next);
    }
  }

  release(): void {
    for (const { payload } of this.frames) payload.release();
    for (const { payload } of this.ahead.values()) payload.release();
  }
}

export class EpochAssembly {
  /** The last epoch that came out; `base` before the first. */
  last: number;
  /** Frames of epochs up to this one are late. */
  private base: number;
  /** Of the stream that is under way; 0 while none is: then frames are kept, and nothing comes out. */
  private generation = 0;
  private readonly arriving = new Map<number, Arriving>();
  /** Epochs that came out and are not acknowledged, oldest first. */
  private readonly unacknowledged: { epoch: number; bytes: number; frames: number }[] = [];
  private acknowledgedEpoch: number;
  private bytes = 0;
  private frames = 0;

  constructor(base: number) {
    this.base = base;
    this.last = base;
    this.acknowledgedEpoch = base;
  }

  /** Bytes of payloads that came and are not acknowledged. */
  get heldBytes(): number {
    return this.bytes;
  }

  /** A stream of `generation` goes on behind `after`: what came of it already counts. */
  begin(generation: number, after: number): void {
    assert(generation > 0, 'generations count from 1');
    assert.equal(after, this.last, 'a stream goes on where the copy stands');
    this.generation = generation;
  }

  /** The stream is over: nothing comes out any more. `end` follows. */
  halt(): void {
    this.generation = 0;
  }

  /** The stream is over, and what came out of it is durable; another may follow behind `base`. What is incomplete is dropped. */
  end(base: number): void {
    this.drop();
    this.unacknowledged.length = 0;
    this.bytes = 0;
    this.frames = 0;
    this.generation = 0;
    this.base = base;
    this.last = base;
    this.acknowledgedEpoch = base;
  }

  /** Takes a frame and its payload. Throws LINK_PROTOCOL: the link ends, and the payload is released. */
  add({ kind, epoch, index }: FrameHeader, payload: ReceivedPayload | null): void {
    if (epoch <= this.base) {
      payload?.release();
      return;
    }
    try {
      if (payload === null) throw wrong(`frame ${index} of epoch ${epoch} has no payload`);
      const arriving = this.arrivingOf(epoch);
      if (arriving.has(index)) throw wrong(`frame ${index} of epoch ${epoch} came twice`);
      if (arriving.count !== null && index >= arriving.count) {
        throw wrong(`epoch ${epoch} has ${arriving.count} frames, and frame ${index} came`);
      }
      if (this.frames >= LINK_UNACKED_FRAMES_MAX || index >= LINK_UNACKED_FRAMES_MAX) {
        throw wrong(`there are more than ${LINK_UNACKED_FRAMES_MAX} unacknowledged frames`);
      }
      if (this.bytes + payload.length > LINK_UNACKED_BYTES_MAX) {
        throw wrong(`there are more than ${LINK_UNACKED_BYTES_MAX} unacknowledged bytes`);
      }
      this.frames += 1;
      this.bytes += payload.length;
      arriving.add(index, { kind, payload });
    } catch (thrown) {
      payload?.release();
      throw thrown;
    }
  }

  /** Takes a CLOSE: `index` is the number of frames, `aux` the time. Throws LINK_PROTOCOL. */
  close({ epoch, index, aux }: FrameHeader): void {
    if (epoch <= this.base) return;
    const arriving = this.arrivingOf(epoch);
    if (arriving.count !== null) throw wrong(`epoch ${epoch} was closed twice`);
    if (index < arriving.seen || index > LINK_UNACKED_FRAMES_MAX) {
      throw wrong(`epoch ${epoch} has ${arriving.seen} frames or more, and was closed at ${index}`);
    }
    arriving.count = index;
    arriving.time = aux;
  }

  /** The next epoch, when it is complete; its payloads are the caller's. Throws LINK_PROTOCOL. */
  next(): CompleteEpoch | null {
    const epoch = this.last + 1;
    const arriving = this.arriving.get(epoch);
    if (this.generation === 0 || arriving?.complete !== true) return null;
    const { frames, bytes, time } = arriving;
    if (frames.some(({ kind }, at) => kind === FrameKind.COMMAND && at < frames.length - 1)) {
      throw wrong(`in epoch ${epoch} a command is followed by more`);
    }
    this.arriving.delete(epoch);
    this.last = epoch;
    this.unacknowledged.push({ epoch, bytes, frames: frames.length });
    return { generation: this.generation, epoch, time, frames, bytes };
  }

  /** All up to `epoch` was acknowledged as durable: it counts no longer. */
  acknowledged(epoch: number): void {
    for (;;) {
      const [oldest] = this.unacknowledged;
      if (oldest === undefined || oldest.epoch > epoch) break;
      this.unacknowledged.shift();
      this.bytes -= oldest.bytes;
      this.frames -= oldest.frames;
    }
    this.acknowledgedEpoch = Math.max(this.acknowledgedEpoch, epoch);
  }

  /** The link is gone: what has not come out never will. */
  drop(): void {
    for (const arriving of this.arriving.values()) {
      this.bytes -= arriving.bytes;
      this.frames -= arriving.frameCount;
      arriving.release();
    }
    this.arriving.clear();
  }

  private arrivingOf(epoch: number): Arriving {
    const found = this.arriving.get(epoch);
    if (found !== undefined) return found;
    if (epoch <= this.last) throw wrong(`epoch ${epoch} was complete already`);
    if (epoch > this.acknowledgedEpoch + LINK_UNACKED_EPOCHS_MAX) {
      throw wrong(
        `epoch ${epoch} is more than ${LINK_UNACKED_EPOCHS_MAX} past ${this.acknowledgedEpoch}`,
      );
    }
    const arriving = new Arriving();
    this.arriving.set(epoch, arriving);
    return arriving;
  }
}

function wrong(why: string): BlockferryError {
  return new BlockferryError('LINK_PROTOCOL', `the primary sent what no stream has: ${why}`);
}
