/**
 * The link between two nodes over 1 to 16 connections (docs/internals/link.md).
 *
 * Invariants:
 * - Every frame that is delivered was whole, proven, and of this link; those of one lane come in their order.
 * - When one lane breaks, is silent, or brings what is no frame, all end: nothing of the link is delivered after that.
 * - `sent` of every frame is told once, never inside `send`; `closed` once, after all else, never inside a call of ours.
 * - Memory is bounded: of payloads that came by the pool, whose end pauses all lanes; of what is to be sent by senders that
 *   heed `backlogBytes`, and by LINK_BACKLOG_BYTES_MAX for those that cannot.
 * - What the handler throws is not caught here: it is a bug and reaches the process.
 *
 * States: open -> leaving (sends what is queued, or waits for the system to let go) -> closed.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../../io/clock.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import {
  LINK_CLOSE_MS_MAX,
  LINK_EARLY_BYTES_MAX,
  LINK_LANES_MAX,
  LINK_SILENCE_MS_MAX,
} from '../../io/limits.ts';
import type { Connection } from '../../io/network.ts';
import type { Compressor } from '../../workers/compressor.ts';
import { type BeatOwner, Beats } from './beats.ts';
import type { DecodedFrame } from './frame.ts';
import { FrameCompressor } from './frame-compressor.ts';
import { type ExpanderOwner, FrameExpander } from './frame-expander.ts';
import { COMPRESSED, type LinkSide } from './frame-kinds.ts';
import { Lane, type LaneOwner } from './lane.ts';
import { FrameKind, type FrameHeader, type Link, type LinkHandler } from './link-types.ts';
import { type ControlMessage, decodeControl, encodeControl } from './messages.ts';
import type { LinkMemory } from './link-memory.ts';
import { Outbox, type OutboxOwner } from './outbox.ts';
import { type OutgoingFrame, OutgoingPool } from './outgoing-frame.ts';
import { ChecksumKind } from '../payload-checksum.ts';
import { PayloadPool, type PooledPayload } from './payload-pool.ts';

const NO_PAYLOAD: readonly Buffer[] = [];

export interface PeerLinkOptions {
  readonly clock: Clock;
  /** Who this node is on the link. */
  readonly side: LinkSide;
  /** Of the welcome: the same on both sides, another for every link. */
  readonly token: string;
  /** The other node, for logs and errors. */
  readonly peer: string;
  /** Both ends have it: payloads may be compressed on the way to the mirror. Null: they never are. */
  readonly compressor?: Compressor | null;
  /** Of all links of the node. Absent: this one is bounded by itself alone. */
  readonly memory?: LinkMemory | null;
  /** Of payloads, both ways; CRC32 if not given. */
  readonly checksums?: ChecksumKind;
}

type State = 'open' | 'leaving' | 'closed';

export class PeerLink implements Link, LaneOwner, BeatOwner, OutboxOwner, ExpanderOwner {
  readonly peer: string;
  /** Of the primary, where both ends have a codec; off until it is set. */
  readonly compression: FrameCompressor | null;
  bytesReceived = 0;
  private readonly clock: Clock;
  private readonly side: LinkSide;
  private readonly token: string;
  private readonly checksums: ChecksumKind;
  private readonly lanes: Lane[] = [];
  private readonly frames = new OutgoingPool();
  private readonly payloads: PayloadPool;
  private handler: LinkHandler | null = null;
  private state: State = 'open';
  /** Delivery has begun. */
  private running = false;
  private readonly outbox: Outbox;
  private readonly beats: Beats;
  /** Of the mirror, where both ends have a codec. */
  private readonly expander: FrameExpander | null;
  /** The other side ended at least one lane: it reads nothing more. */
  private peerEnding = false;
  private closeTimer: Timer | null = null;
  private failure: BlockferryError | null = null;
  private told = false;
  private heartbeat: FrameHeader = heartbeatOf({ epoch: 0, index: 0, aux: 0 });

  constructor(options: PeerLinkOptions) {
    const { clock, side, token, peer, compressor = null, memory = null } = options;
    this.checksums = options.checksums ?? ChecksumKind.CRC32;
    this.clock = clock;
    this.side = side;
    this.token = token;
    this.peer = peer;
    this.payloads = new PayloadPool(() => this.resumeAll(), memory);
    this.beats = new Beats(clock, this.lanes, this);
    const outbox = new Outbox(clock, this.lanes, this);
    this.outbox = outbox;
    const compresses = side === 'primary' && compressor !== null;
    const expands = side === 'mirror' && compressor !== null;
    this.compression = compresses
      ? new FrameCompressor({ clock, compressor, outbox, pass: this.pass })
      : null;
    this.expander = expands ? new FrameExpander(compressor, this.payloads, this) : null;
  }

  get open(): boolean {
    return this.state === 'open' && !this.peerEnding;
  }

  get backlogBytes(): number {
    return this.outbox.backlogBytes;
  }

  get bytesSent(): number {
    return this.outbox.bytesSent;
  }

  /** Memory of payloads that came and were not released. */
  get heldBytes(): number {
    return this.payloads.lentBytes;
  }

  get laneCount(): number {
    return this.lanes.length;
  }

  /**
   * The connection becomes lane `index`, of 0 to LINK_LANES_MAX - 1, each once. It was not started, or is such that its
   * `start` takes it over. `early`: bytes that came behind its handshake. When the link is over it is closed.
   */
  addLane(index: number, connection: Connection, early: Buffer): void {
    assert(index >= 0 && index < LINK_LANES_MAX, 'a link has so many lanes');
    assert(!this.lanes.some((lane) => lane.index === index), 'a lane is added once');
    const { side, token, payloads, frames, checksums } = this;
    const compressed = this.expander !== null;
    const options = { index, token, side, payloads, frames, early, compressed, checksums };
    const lane = new Lane(this, connection, options);
    this.lanes.push(lane);
    if (this.state !== 'open') return lane.leave(true);
    if (early.length > LINK_EARLY_BYTES_MAX) {
      return this.broken(`${early.length} bytes behind the handshake of lane ${index}`);
    }
    if (this.running) this.clock.soon(() => this.beginLane(lane));
  }

  start(handler: LinkHandler): void {
    assert(this.handler === null, 'a link is started once');
    this.handler = handler;
    this.clock.soon(() => this.begin());
  }

  send(header: FrameHeader, payload: readonly Buffer[] = NO_PAYLOAD, sent?: () => void): void {
    assert(header.kind !== FrameKind.CONTROL, 'control messages have their own way');
    const { compression } = this;
    if (compression !== null && this.open && compression.wants(header)) {
      compression.take(header, payload, sent ?? null);
    } else {
      this.pass(header, payload, sent ?? null);
    }
  }

  private readonly pass = (
    header: FrameHeader,
    payload: readonly Buffer[],
    sent: (() => void) | null,
  ): void => {
    const { outbox } = this;
    if (this.open) outbox.send(outbox.idlestLane(), header, payload, sent);
    else if (sent !== null) outbox.drop(sent);
  };

  sendControl(message: ControlMessage): void {
    if (!this.open) return;
    const { outbox } = this;
    outbox.send(outbox.lane(0), CONTROL_HEADER, [encodeControl(message)], null);
  }

  setHeartbeat(positions: { epoch: number; index: number; aux: number }): void {
    this.heartbeat = heartbeatOf(positions);
  }

  end(reason: string): void {
    this.leave(new BlockferryError('LINK_ENDED', `${this.peer}: ${reason}`), false);
  }

  destroy(error: BlockferryError): void {
    this.leave(error, true);
  }

  // --- LaneOwner ---

  laneFrame(lane: Lane, frame: DecodedFrame, payload: PooledPayload | null): void {
    const { handler } = this;
    assert(handler !== null, 'lanes begin after the start');
    if (frame.kind === FrameKind.HEARTBEAT) {
      // The other lanes say the same, only to show that they live.
      if (lane.index === 0) handler.heartbeat(frame.toHeader());
    } else if (frame.kind === FrameKind.CONTROL) {
      this.controlFrame(lane, payload);
    } else if ((frame.flags & COMPRESSED) !== 0) {
      assert(
        this.expander !== null && payload !== null,
        'the reader refuses what was not agreed on',
      );
      this.expander.take(frame.toHeader(), payload);
    } else {
      handler.frame(frame.toHeader(), payload);
    }
  }

  laneReceived(_lane: Lane, bytes: number): void {
    this.bytesReceived += bytes;
    if (this.state !== 'open' || !this.isFull()) return;
    for (const lane of this.lanes) if (!lane.paused) lane.pause();
  }

  laneSent(frame: OutgoingFrame): void {
    this.outbox.parted(frame);
  }

  laneBroken(lane: Lane, what: string): void {
    this.broken(`${what} on lane ${lane.index}`);
  }

  laneEnded(lane: Lane, whole: boolean): void {
    if (!whole) return this.lost(`lane ${lane.index} ended in the middle of a frame`);
    this.peerEnding = true;
    // The others end behind what is still on its way there; when they do not, the silence of this one ends the link.
    if (!this.lanes.every(({ peerEnded }) => peerEnded)) return;
    // What came before the end counts, also where it is still being expanded.
    if (this.expander?.idle !== false) this.peerLeft();
  }

  laneClosed(lane: Lane, error: Error | null): void {
    const why = error === null ? 'was closed' : `was lost (${errorText(error)})`;
    // At an end in order the others may still be sending.
    if (this.state === 'open' || error !== null) this.lost(`lane ${lane.index} ${why}`);
    this.finishWhenFree();
  }

  // --- BeatOwner ---

  quiet(lane: Lane): void {
    if (this.open) this.outbox.send(lane, this.heartbeat, NO_PAYLOAD, null);
  }

  silent(lane: Lane): void {
    this.lost(`lane ${lane.index} was silent for ${LINK_SILENCE_MS_MAX / 1000} s`);
  }

  // --- OutboxOwner ---

  overflowed(): void {
    this.lost('the other node does not read');
  }

  drained(): void {
    if (this.open) this.handler?.drained();
  }

  settled(): void {
    this.finishWhenFree();
  }

  // --- ExpanderOwner ---

  expanded(header: FrameHeader, payload: PooledPayload): void {
    assert(this.handler !== null, 'lanes begin after the start');
    this.handler.frame(header, payload);
  }

  notExpanded(what: string): void {
    this.broken(what);
  }

  cannotExpand(): void {
    this.lost('the threads that expand payloads were lost');
  }

  expanderHasRoom(): void {
    this.resumeAll();
  }

  expanderIdle(): void {
    if (this.peerEnding && this.lanes.every(({ peerEnded }) => peerEnded)) this.peerLeft();
  }

  // --- receiving ---

  private begin(): void {
    if (this.state === 'closed') return this.tellClosed();
    if (this.state === 'leaving') return;
    this.running = true;
    this.beats.start();
    for (const lane of this.lanes) this.beginLane(lane);
  }

  private beginLane(lane: Lane): void {
    if (this.state === 'open') lane.begin();
  }

  private controlFrame(lane: Lane, payload: PooledPayload | null): void {
    assert(payload !== null, 'control frames have a payload');
    if (lane.index !== 0) {
      payload.release();
      return this.laneBroken(lane, 'a control message');
    }
    let message: ControlMessage | null = null;
    try {
      message = decodeControl(payload.buffer.subarray(0, payload.length));
    } catch (thrown) {
      if (!(thrown instanceof BlockferryError)) throw thrown;
      this.leave(thrown, true);
    }
    payload.release();
    if (message !== null) this.handler?.control(message);
  }

  private isFull(): boolean {
    const poolIsFull = this.payloads.isFull();
    return poolIsFull || this.expander?.isFull === true;
  }

  /** Something has room again; maybe not all. */
  private resumeAll(): void {
    if (this.state !== 'open') return;
    this.expander?.resume();
    if (this.isFull()) return;
    for (const lane of this.lanes) lane.resume();
  }

  // --- the end ---

  private broken(what: string): void {
    this.leave(new BlockferryError('LINK_PROTOCOL', `${this.peer} sent ${what}`), true);
  }

  private lost(why: string): void {
    this.leave(this.lostError(why), true);
  }

  private peerLeft(): void {
    this.leave(this.lostError('the other node ended the link'), false);
  }

  private lostError(why: string): BlockferryError {
    return new BlockferryError('LINK_LOST', `${this.peer}: ${why}`);
  }

  /** The first reason counts; a cut after an orderly end hastens it. */
  private leave(error: BlockferryError, cut: boolean): void {
    // What is being compressed goes out as it is, while that is still possible.
    if (this.state === 'open') this.compression?.stop(cut);
    if (this.state === 'closed' || (this.state === 'leaving' && !cut)) return;
    this.failure ??= error;
    this.state = 'leaving';
    this.expander?.stop();
    this.payloads.leave();
    if (cut) this.outbox.stop();
    this.beats.stop();
    if (!cut) this.closeTimer = this.clock.after(LINK_CLOSE_MS_MAX, () => this.destroy(error));
    for (const lane of this.lanes) lane.leave(cut);
    // Without lanes nothing else comes that could tell the end.
    if (this.lanes.length === 0) this.clock.soon(() => this.finishWhenFree());
  }

  private finishWhenFree(): void {
    if (this.state !== 'leaving' || !this.outbox.isSettled) return;
    if (!this.lanes.every(({ gone }) => gone)) return;
    this.state = 'closed';
    this.closeTimer?.cancel();
    this.tellClosed();
  }

  private tellClosed(): void {
    const { handler, failure } = this;
    if (handler === null || this.told) return;
    assert(failure !== null, 'a link ends for a reason');
    this.told = true;
    handler.closed(failure);
  }
}

const CONTROL_HEADER: FrameHeader = Object.freeze({
  kind: FrameKind.CONTROL,
  flags: 0,
  volume: 0,
  epoch: 0,
  index: 0,
  offset: 0,
  length: 0,
  aux: 0,
});

function heartbeatOf(positions: { epoch: number; index: number; aux: number }): FrameHeader {
  const { epoch, index, aux } = positions;
  return { ...CONTROL_HEADER, kind: FrameKind.HEARTBEAT, epoch, index, aux };
}
