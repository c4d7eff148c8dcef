/**
 * One connection of a link.
 *
 * Invariants:
 * - The connection is started exactly once, at the latest when the lane leaves: so its end is always heard.
 * - Frames go out in the order of `send`, numbered without a gap.
 * - Bytes that came behind the handshake are read first.
 * - After `leave` the link hears nothing of this lane but the end of its sends and `laneClosed`, once and last.
 */
import assert from 'node:assert';
import type { Connection, ConnectionHandler } from '../../io/network.ts';
import {
  type DecodedFrame,
  encodeFrame,
  FRAME_HEADER_BYTES,
  laneSeed,
  nextSequence,
} from './frame.ts';
import { COMPRESSED, type LinkSide } from './frame-kinds.ts';
import { FrameReader, type FrameSink } from './frame-reader.ts';
import type { FrameHeader } from './link-types.ts';
import { type ChecksumKind, checksumOfAll } from '../payload-checksum.ts';
import type { FrameOwner, OutgoingFrame, OutgoingPool } from './outgoing-frame.ts';
import type { PayloadPool, PooledPayload } from './payload-pool.ts';

/** The link, as its lanes see it. */
export interface LaneOwner {
  laneFrame(lane: Lane, frame: DecodedFrame, payload: PooledPayload | null): void;
  /** `bytes` came; what they hold was passed on. */
  laneReceived(lane: Lane, bytes: number): void;
  /** No part of a frame is in use any more. */
  laneSent(frame: OutgoingFrame): void;
  /** The other side sent what is none of a link. */
  laneBroken(lane: Lane, what: string): void;
  /** The other side sends no more; `whole`: it ended behind a frame, not in one. */
  laneEnded(lane: Lane, whole: boolean): void;
  laneClosed(lane: Lane, error: Error | null): void;
}

export interface LaneOptions {
  readonly index: number;
  readonly token: string;
  /** This side. */
  readonly side: LinkSide;
  readonly payloads: PayloadPool;
  readonly frames: OutgoingPool;
  /** Bytes that came behind the handshake. Copied. */
  readonly early: Buffer;
  /** Payloads may come compressed. */
  readonly compressed: boolean;
  /** Of payloads, both ways. */
  readonly checksums: ChecksumKind;
}

const NO_BYTES = Buffer.alloc(0);

export class Lane implements ConnectionHandler, FrameSink, FrameOwner {
  readonly index: number;
  /** Bytes given to the connection and not yet to the system. */
  queuedBytes = 0;
  /** Since the last beat (beats.ts): something was sent, something came. */
  spoke = false;
  heard = true;
  /** Beats in a row without anything that came. */
  silentBeats = 0;
  /** It is not read: our side has no room. */
  paused = false;
  /** The other side sends no more. */
  peerEnded = false;
  /** The connection is gone. */
  gone = false;
  private readonly owner: LaneOwner;
  private readonly connection: Connection;
  private readonly frames: OutgoingPool;
  private readonly reader: FrameReader;
  private readonly seed: number;
  private readonly checksums: ChecksumKind;
  private early: Buffer;
  private sequence = 0;
  private begun = false;
  private leaving = false;
  private corked = false;

  constructor(owner: LaneOwner, connection: Connection, options: LaneOptions) {
    const { index, token, side, payloads, frames, early, compressed, checksums } = options;
    const sender = side === 'primary' ? 'mirror' : 'primary';
    this.owner = owner;
    this.connection = connection;
    this.index = index;
    this.frames = frames;
    this.seed = laneSeed(token, index, side);
    const seed = laneSeed(token, index, sender);
    this.reader = new FrameReader(this, { pool: payloads, sender, seed, compressed, checksums });
    this.checksums = checksums;
    this.early = Buffer.from(early);
  }

  /** Reads what came early, then the connection. */
  begin(): void {
    if (this.begun) return;
    const { early } = this;
    this.early = NO_BYTES;
    if (early.length > 0) this.received(early, early.length);
    // What came early may have been the end of the link.
    if (!this.begun) this.listen();
  }

  /** Queues a frame. It leaves with the next `flush`; `sent` is told when no part of it is in use. */
  send(header: FrameHeader, payload: readonly Buffer[], sent: (() => void) | null): void {
    assert(!this.leaving, 'a lane that leaves sends nothing');
    let payloadBytes = 0;
    for (const chunk of payload) payloadBytes += chunk.length;
    const payloadChecksum = checksumOfAll(this.checksums, payload);
    const frame = this.frames.take();
    const { sequence } = this;
    encodeFrame(frame.header, header, { payloadBytes, payloadChecksum, sequence }, this.seed);
    this.sequence = nextSequence(sequence);
    frame.owner = this;
    frame.sent = sent;
    frame.parts = 1 + payload.length;
    frame.bytes = FRAME_HEADER_BYTES + payloadBytes;
    frame.plainBytes =
      (header.flags & COMPRESSED) === 0 ? frame.bytes : FRAME_HEADER_BYTES + header.length;
    this.queuedBytes += frame.bytes;
    this.spoke = true;
    this.cork();
    this.connection.send(frame.header.bytes, frame.partSent);
    for (const chunk of payload) this.connection.send(chunk, frame.partSent);
  }

  /** Hands what was sent since the last time to the system, together. */
  flush(): void {
    if (!this.corked) return;
    this.corked = false;
    this.connection.uncork();
  }

  pause(): void {
    this.paused = true;
    if (this.begun) this.connection.pause();
  }

  resume(): void {
    if (!this.paused) return;
    this.paused = false;
    // Nothing could be heard meanwhile.
    this.heard = true;
    if (this.begun) this.connection.resume();
  }

  /** Looks at nothing that comes. `cut`: what is queued is dropped; else it is sent first. */
  leave(cut: boolean): void {
    const first = !this.leaving;
    this.leaving = true;
    this.reader.stop();
    if (this.gone) return;
    this.flush();
    if (!this.begun) this.listen();
    if (cut) this.connection.destroy();
    else if (first) this.connection.end();
  }

  // --- FrameOwner ---

  parted(frame: OutgoingFrame): void {
    this.queuedBytes -= frame.bytes;
    this.owner.laneSent(frame);
  }

  // --- FrameSink ---

  frame(frame: DecodedFrame, payload: PooledPayload | null): void {
    this.owner.laneFrame(this, frame, payload);
  }

  broken(what: string): void {
    this.owner.laneBroken(this, what);
  }

  // --- ConnectionHandler ---

  received(buffer: Buffer, length: number): void {
    this.heard = true;
    this.reader.received(buffer, length);
    this.owner.laneReceived(this, length);
  }

  landing(): Buffer | null {
    return this.reader.landing();
  }

  drained(): void {}

  ended(): void {
    if (this.leaving) return;
    this.peerEnded = true;
    this.owner.laneEnded(this, this.reader.betweenFrames);
  }

  closed(error: Error | null): void {
    this.gone = true;
    this.reader.closed();
    this.owner.laneClosed(this, error);
  }

  private listen(): void {
    this.begun = true;
    this.connection.start(this);
    // Starting is reading: what came early may have filled the memory.
    if (this.paused) this.connection.pause();
  }

  private cork(): void {
    if (this.corked) return;
    this.corked = true;
    this.connection.cork();
  }
}
