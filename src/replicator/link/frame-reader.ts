/**
 * Bytes of one lane to frames.
 *
 * Invariants:
 * - The split of the bytes into calls does not matter.
 * - A frame is passed on only when its whole payload is there and proven. Memory is taken for payloads that a believed
 *   header announced, one at a time, and never for more than LINK_FRAME_BYTES_MAX.
 * - Frames of a lane are numbered without a gap; one that is lost, or comes twice, ends the lane.
 * - Memory in which bytes may still land is nobody else's until the connection asked again, or is closed.
 * - After `stop`, or after a fault, no byte is looked at.
 */
import { LINK_LANDING_BYTES_MIN } from '../../io/limits.ts';
import {
  DecodedFrame,
  decodeFrame,
  FRAME_HEADER_BYTES,
  newHeaderMemory,
  nextSequence,
  type HeaderMemory,
} from './frame.ts';
import { COMPRESSED, nameOfKind, type LinkSide } from './frame-kinds.ts';
import { ChecksumKind, checksumOf } from '../payload-checksum.ts';
import type { PayloadPool, PooledPayload } from './payload-pool.ts';

export interface FrameSink {
  /** `frame` is the reader's own, and valid during the call. `payload` is the sink's. */
  frame(frame: DecodedFrame, payload: PooledPayload | null): void;
  /** What came is no frame; the reader was stopped. `what` was sent by the other side. */
  broken(what: string): void;
}

type Expecting = 'header' | 'payload' | 'nothing';

export interface FrameReaderOptions {
  readonly pool: PayloadPool;
  /** Who sends. */
  readonly sender: LinkSide;
  /** As `laneSeed` says. */
  readonly seed: number;
  /** The two ends agreed on a codec: payloads may be compressed. They are passed on as they came. */
  readonly compressed?: boolean;
  /** Of payloads; CRC32 if not given. */
  readonly checksums?: ChecksumKind;
}

export class FrameReader {
  private readonly sink: FrameSink;
  private readonly pool: PayloadPool;
  private readonly sender: LinkSide;
  private readonly seed: number;
  private readonly compressed: boolean;
  private readonly checksums: ChecksumKind;
  private expecting: Expecting = 'header';
  private readonly header: HeaderMemory = newHeaderMemory();
  private headerFilled = 0;
  private readonly decoded = new DecodedFrame();
  private sequence = 0;
  /** The payload that is coming, and how much of it is here. Kept after a stop: it may be landed in. */
  private payload: PooledPayload | null = null;
  private filled = 0;
  /** A part of the payload, or the memory of the header. */
  private landingBuffer: Buffer | null = null;
  /** The last payload was large, so the next one may be too: its header is read by itself. */
  private expectsLarge = false;

  constructor(sink: FrameSink, options: FrameReaderOptions) {
    const { pool, sender, seed, compressed = false, checksums = ChecksumKind.CRC32 } = options;
    this.sink = sink;
    this.pool = pool;
    this.sender = sender;
    this.seed = seed;
    this.compressed = compressed;
    this.checksums = checksums;
  }

  /** No frame has begun that is not whole. */
  get betweenFrames(): boolean {
    return this.expecting === 'header' && this.headerFilled === 0;
  }

  /** Where the next bytes should go (`ConnectionHandler.landing`). */
  landing(): Buffer | null {
    this.landingBuffer = null;
    const { payload, filled } = this;
    if (this.expecting === 'payload' && payload !== null) {
      if (payload.length - filled >= LINK_LANDING_BYTES_MIN) {
        this.landingBuffer = payload.buffer.subarray(filled, payload.length);
      }
    } else if (this.expectsLarge && this.betweenFrames) {
      this.landingBuffer = this.header.bytes;
    }
    return this.landingBuffer;
  }

  /** Takes `bytes[0 .. length)`: what a connection brought, perhaps into the buffer that `landing` named. */
  received(bytes: Buffer, length: number): void {
    let at = 0;
    while (at < length) {
      if (this.expecting === 'header') at = this.takeHeader(bytes, at, length);
      else if (this.expecting === 'payload') at = this.takePayload(bytes, at, length);
      else return;
    }
  }

  stop(): void {
    this.expecting = 'nothing';
  }

  /** Nothing will land any more. Stops, too. */
  closed(): void {
    this.stop();
    this.landingBuffer = null;
    const { payload } = this;
    this.payload = null;
    payload?.release();
  }

  private takeHeader(bytes: Buffer, at: number, end: number): number {
    const count = Math.min(FRAME_HEADER_BYTES - this.headerFilled, end - at);
    if (bytes !== this.header.bytes) {
      bytes.copy(this.header.bytes, this.headerFilled, at, at + count);
    }
    this.headerFilled += count;
    if (this.headerFilled < FRAME_HEADER_BYTES) return at + count;
    this.headerFilled = 0;
    const { decoded } = this;
    const fault = decodeFrame(this.header, this.seed, this.sender, decoded) ?? this.unexpected();
    if (fault !== null) {
      this.fail(fault);
    } else if (decoded.payloadBytes === 0) {
      this.expectsLarge = false;
      this.sink.frame(decoded, null);
    } else {
      this.payload = this.pool.take(decoded.payloadBytes);
      this.filled = 0;
      this.expecting = 'payload';
    }
    return at + count;
  }

  private unexpected(): string | null {
    const { kind, flags } = this.decoded;
    // Flag 0x80 of other kinds was refused already.
    if ((flags & COMPRESSED) !== 0 && !this.compressed) {
      return `a compressed ${nameOfKind(kind)} frame, which nobody agreed on`;
    }
    return this.outOfOrder();
  }

  private outOfOrder(): string | null {
    const due = this.sequence;
    const { sequence } = this.decoded;
    if (sequence !== due) return `frame ${sequence} of a lane where ${due} was due`;
    this.sequence = nextSequence(due);
    return null;
  }

  private takePayload(bytes: Buffer, at: number, end: number): number {
    const { payload } = this;
    if (payload === null) return end;
    const count = Math.min(payload.length - this.filled, end - at);
    if (bytes !== this.landingBuffer) {
      bytes.copy(payload.buffer, this.filled, at, at + count);
    }
    this.filled += count;
    if (this.filled === payload.length) this.finishPayload(payload);
    return at + count;
  }

  private finishPayload(payload: PooledPayload): void {
    const { decoded, checksums } = this;
    const { payloadChecksum } = decoded;
    if (checksumOf(checksums, payload.buffer.subarray(0, payload.length)) !== payloadChecksum) {
      return this.fail('a payload with a wrong checksum');
    }
    payload.checksum = payloadChecksum;
    payload.checksumKind = checksums;
    this.expectsLarge = payload.length >= LINK_LANDING_BYTES_MIN;
    this.payload = null;
    this.expecting = 'header';
    this.sink.frame(decoded, payload);
  }

  private fail(what: string): void {
    this.stop();
    this.sink.broken(what);
  }
}
