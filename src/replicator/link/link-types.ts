/**
 * The private link between two blockferry nodes, as the rooms on both of its ends see it. Byte layout: frame.ts and
 * docs/internals/link.md.
 */
import type { BlockferryError } from '../../io/errors.ts';
import type { ChecksumKind } from '../payload-checksum.ts';
import type { ControlMessage } from './messages.ts';

/** What a frame carries. The numbers are on the wire. */
export const FrameKind = Object.freeze({
  /** Part of an epoch: entries, each an NBD write request with its payload. `index` counts the frames of the epoch from 0. */
  DATA: 1,
  /** Part of an epoch: ranges that read as zeroes, as a table (see `ranges.ts`). `index` as for DATA. */
  RANGES: 2,
  /** Part of an epoch, always its last frame before CLOSE: a command in msgpack, run on the mirror behind the epoch's writes. */
  COMMAND: 3,
  /** The epoch is complete when `index` frames of it have arrived. `aux`: wall-clock milliseconds of its end on the primary. */
  CLOSE: 4,
  /** `epoch`: all up to it is durable on the mirror. `index`: all up to it arrived. `aux`: all up to it is readable there. */
  ACK: 5,
  /** A control message in msgpack. */
  CONTROL: 6,
  /** Both ways, when nothing else was sent for a while. Fields as for ACK from the mirror; `epoch` is the last closed from the primary. */
  HEARTBEAT: 7,
  /** Part of a delta run: entries as in DATA. `epoch` is the number of the run on this link, `index` counts its frames from 0. */
  RUN_DATA: 8,
  /** Part of a delta run: ranges as in RANGES. */
  RUN_RANGES: 9,
  /** Question: digests of blocks from `offset`, `length` bytes; `index` numbers the question, `aux` says of what (see compare). */
  DIGESTS: 10,
  /** Answer to question `index`: one bit a block, set where the mirror's differs. */
  DIFFERS: 11,
  /** A request of the host waits until all epochs up to `epoch` are durable. Where this is not known the mirror hurries always. */
  AWAITS: 12,
} as const);
export type FrameKind = (typeof FrameKind)[keyof typeof FrameKind];

export interface FrameHeader {
  readonly kind: FrameKind;
  readonly flags: number;
  /** Which volume of the group: 0 for a group of one. */
  readonly volume: number;
  readonly epoch: number;
  readonly index: number;
  readonly offset: number;
  /** Bytes of the volume that the frame is about; of the payload before compression, for DATA and RUN_DATA. */
  readonly length: number;
  readonly aux: number;
}

/** Compression of what the primary sends, on a link whose ends have a codec in common. */
export interface LinkCompression {
  /** Payloads are compressed now. */
  readonly active: boolean;
  /** Which part of their bytes is left, while it is active; else null. */
  readonly share: number | null;
  /** Bytes of payloads that went out compressed: before, and after. */
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** `off` until it is set. `limit`: what holds senders back; null: nothing. */
  set(mode: 'auto' | 'off', limit: WireLimit | null): void;
}

/** What holds senders back, as far as compression has to do with it. */
export interface WireLimit {
  /** Nothing may be sent now. To ask that is not to wait for it. */
  readonly heldBack: boolean;
  /** Payloads are likely to be left with this part of their bytes, of 0 to 1: so much of them is taken from now on. */
  expect(share: number): void;
  /** A payload of `plainBytes`, of which what was likely was taken, has `wireBytes` on the wire. */
  correct(plainBytes: number, wireBytes: number): void;
}

/** A payload that arrived: the receiver's until it says `release`, exactly once. */
export interface ReceivedPayload {
  /** `buffer[0 .. length)`, decompressed, its checksum proven. */
  readonly buffer: Buffer;
  readonly length: number;
  /** The checksum that was proven, and its kind; left out, or null: it is not that of these bytes, which were compressed. */
  readonly checksum?: number;
  readonly checksumKind?: ChecksumKind | null;
  release(): void;
}

export interface LinkHandler {
  /** Frames of all lanes; those of one lane in their order, but for compressed ones, which may come later. `payload` is null when there is none. Never CONTROL or HEARTBEAT. */
  frame(header: FrameHeader, payload: ReceivedPayload | null): void;
  /** A control message, checked against its schema. Those come in the order in which they were sent. */
  control(message: ControlMessage): void;
  /** A heartbeat came. */
  heartbeat(header: FrameHeader): void;
  /** The backlog fell below LINK_BACKLOG_BYTES_LOW. */
  drained(): void;
  /** Last call ever: every lane is gone. `error` says why. */
  closed(error: BlockferryError): void;
}

/** One end of a link of 1 to 16 lanes. When one lane breaks, all end: what was under way is not known to have arrived. */
export interface Link {
  readonly open: boolean;
  /** Null, or not there: payloads are never compressed. */
  readonly compression?: LinkCompression | null;
  /** Who is at the other end, for logs and events. */
  readonly peer: string;
  /** Bytes given to `send` and not yet taken by the system, over all lanes. */
  readonly backlogBytes: number;
  /** Bytes sent and received since the link began, frames included. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Begins delivery; called once. What came before is kept, within bounds. */
  start(handler: LinkHandler): void;
  /**
   * Sends a frame on any lane. The chunks are not copied: they are in use until `sent` is called, once, also when the link
   * breaks. Dropped silently, `sent` called, when the link is over.
   */
  send(header: FrameHeader, payload?: readonly Buffer[], sent?: () => void): void;
  /** Sends a control message; all of them on lane 0, so in order among themselves. */
  sendControl(message: ControlMessage): void;
  /** What heartbeats say from now on. */
  setHeartbeat(positions: { epoch: number; index: number; aux: number }): void;
  /** Sends what is queued, then closes. */
  end(reason: string): void;
  /** Closes at once; `closed` follows in a later turn. */
  destroy(error: BlockferryError): void;
}
