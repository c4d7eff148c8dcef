/**
 * Streams epochs to another node over a private link. What is closed goes in the same turn, and the next epoch begins before this one is
 * acknowledged; of the open one what is there goes ahead of its end when it has come to `pushBytes`.
 *
 * Invariants:
 * - Every epoch is sent whole and in order: its frames count from 0, CLOSE says how many there are.
 * - `durable` <= `held` <= the last epoch that was closed towards the peer, and none of them ever falls. A peer
 *   that claims more ends its link.
 * - What is not acknowledged as durable stays within the window of the far end; what the system has not
 *   taken yet stays within the backlog of the link. At either limit nothing is taken, and the epoch
 *   that is open folds what comes.
 * - Memory of frames is held until the link says `sent`, which it does in any case.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import {
  EPOCH_AGE_MS,
  LINK_BACKLOG_BYTES_HIGH,
  LINK_FRAME_BYTES_MAX,
  SNAPSHOTS_PER_VOLUME_MAX,
  STAGING_SLAB_BYTES,
} from '../../io/limits.ts';
import { EpochCursor } from '../staging/epoch-cursor.ts';
import type { Epoch } from '../staging/epoch.ts';
import { FrameKind, type FrameHeader, type Link } from '../link/link-types.ts';
import { encodeCommand, type SnapshotCommand, type StreamCommand } from '../link/messages.ts';
import { encodeRanges, RANGE_BYTES } from '../link/ranges.ts';
import type { MirrorHost } from '../mirror/mirror-host.ts';
import { closesNow } from '../policy/policy.ts';
import { limitLookMs, type SendLimit } from '../pace/send-limit.ts';
import { SendWindow } from './send-window.ts';

assert(STAGING_SLAB_BYTES <= LINK_FRAME_BYTES_MAX, 'the entries of a slab fit into one frame');

/** What a stream needs of its host. */
export interface StreamHost extends Pick<MirrorHost, 'queue' | 'hasWaiters'> {
  readonly surroundings: { readonly clock: Clock };
}

export class PeerSender {
  /** Every epoch up to this one arrived at the peer. */
  held: number;
  /** Every epoch up to this one is durable there. */
  durable: number;
  /** Every epoch up to this one can be read there. */
  readable: number;
  /** Payload bytes given to the link. */
  bytesSent = 0;
  /** The last epoch whose CLOSE was sent. */
  private closedEpoch: number;
  /** Of the epoch that is being sent: frames, and payload that it had when all of it was taken. */
  private frames = 0;
  private pushed = 0;
  private stopped = false;
  private idle = false;
  private turnPlanned = false;
  private ageTimer: Timer | null = null;
  /** Until more may be sent. */
  private limitTimer: Timer | null = null;
  private readonly limit: SendLimit | null;
  private readonly snapshots: boolean;
  /** The peer is told what is waited for. */
  private readonly awaits: boolean;
  /** A request of the host waits for all up to this epoch; what the peer was told. */
  private awaited = 0;
  private awaitedTold = 0;
  /** Commands about snapshots that the peer did not answer, so many at most: of further ones nobody hears what became. */
  private readonly ordered = new Map<number, SnapshotCommand>();
  private readonly cursor: EpochCursor;
  private readonly window: SendWindow;
  private readonly host: StreamHost;
  private readonly link: Link;
  private readonly onSent: (bytes: number) => void;
  private readonly onHeld: (epoch: Epoch) => void;
  private readonly onDurable: () => void;
  private readonly onReadable: () => void;
  private readonly onIdle: () => void;

  constructor(options: {
    host: StreamHost;
    link: Link;
    /** The peer has everything up to this epoch, durably. */
    after: number;
    /** So many bytes of payload were given to the link. */
    onSent?: (bytes: number) => void;
    /** `held` rose to this epoch. */
    onHeld: (epoch: Epoch) => void;
    /** `durable` rose. */
    onDurable: () => void;
    /** `readable` rose. */
    onReadable?: () => void;
    /** Stopped, and every epoch that was sent whole has arrived. */
    onIdle: () => void;
    /** Bytes a second; no limit if not given. */
    limit?: SendLimit | null;
    /** The peer knows commands about snapshots. */
    snapshots?: boolean;
    /** The peer wants to know what is waited for. */
    awaits?: boolean;
  }) {
    this.snapshots = options.snapshots ?? false;
    this.awaits = options.awaits ?? false;
    this.limit = options.limit ?? null;
    this.host = options.host;
    this.link = options.link;
    this.held = options.after;
    this.durable = options.after;
    this.readable = options.after;
    this.closedEpoch = options.after;
    this.cursor = new EpochCursor(options.after + 1);
    this.window = new SendWindow(options.after);
    this.onSent = options.onSent ?? ((): void => {});
    this.onHeld = options.onHeld;
    this.onDurable = options.onDurable;
    this.onReadable = options.onReadable ?? ((): void => {});
    this.onIdle = options.onIdle;
  }

  /** Every epoch up to this one was sent whole. */
  get sent(): number {
    return this.closedEpoch;
  }

  /** Bytes of epochs that the peer has not acknowledged as durable. */
  get unackedBytes(): number {
    return this.window.unacked;
  }

  /** Something was staged or closed, or there is room again: at the end of this turn it is looked at, and what is due is sent. */
  pump(): void {
    if (this.stopped || this.turnPlanned) return;
    this.turnPlanned = true;
    this.host.surroundings.clock.soon(this.turn);
  }

  /**
   * The host flushed when `epoch` was the last one closed: its end is sent at the end of this turn, and the peer told, if the
   * answer is `awaited`.
   */
  barrier(epoch: number, awaited: boolean): void {
    if (awaited) this.awaited = Math.max(this.awaited, epoch);
    this.pump();
  }

  /** Nothing further is sent. Returns whether an epoch that was sent whole is still on its way. */
  stop(): boolean {
    this.stopped = true;
    this.ageTimer?.cancel();
    this.ageTimer = null;
    this.limitTimer?.cancel();
    this.limitTimer = null;
    this.idle = this.held === this.closedEpoch;
    return !this.idle;
  }

  /** The link is over: nothing is on its way any more. It lets go of the memory by itself. */
  connectionOver(): void {
    this.stop();
    this.idle = true;
  }

  /** The peer answered the command of that epoch: what it was, if it was about a snapshot. */
  answered(epoch: number): SnapshotCommand | null {
    const command = this.ordered.get(epoch) ?? null;
    this.ordered.delete(epoch);
    return command;
  }

  /** An ACK, or a heartbeat, which says the same. Older ones than those seen mean nothing. */
  ack(header: Pick<FrameHeader, 'epoch' | 'index' | 'aux'>): void {
    const { epoch: durable, index: received, aux: readable } = header;
    if (Math.max(durable, received, readable) > this.closedEpoch) {
      this.claimsTooMuch(Math.max(durable, received, readable));
      return;
    }
    if (this.stopped) {
      this.ackedAfterStop(Math.max(durable, received));
      return;
    }
    // What is durable or readable has arrived, and what is readable is durable.
    this.receivedTo(Math.max(durable, received, readable));
    this.durableTo(Math.max(durable, readable));
    this.readableTo(readable);
  }

  private readonly turn = (): void => {
    this.turnPlanned = false;
    if (this.stopped || !this.link.open) return;
    const before = this.closedEpoch;
    this.send();
    this.tellAwaited();
    if (this.closedEpoch > before) {
      this.link.setHeartbeat({ epoch: this.host.queue.openNumber - 1, index: 0, aux: 0 });
    }
  };

  /** What waited on disk is in memory. */
  private readonly fetched = (): void => this.pump();

  private tellAwaited(): void {
    const { awaited } = this;
    if (!this.awaits || awaited <= Math.max(this.awaitedTold, this.durable)) return;
    this.awaitedTold = awaited;
    this.link.send({
      kind: FrameKind.AWAITS,
      flags: 0,
      volume: 0,
      epoch: awaited,
      index: 0,
      offset: 0,
      length: 0,
      aux: 0,
    });
  }

  /** All that is there and fits. What does not fit follows after `ack` or `drained`. */
  private send(): void {
    const { queue } = this.host;
    for (;;) {
      const epoch = queue.epochOrOpen(this.cursor.number);
      assert(epoch !== null, 'epochs that were not sent are in the queue');
      if (!this.window.admits(epoch.number) || !queue.fetch(epoch, this.fetched)) return;
      const ends = epoch.closed !== null || this.isDue();
      if (ends || epoch.bytes - this.pushed >= queue.pushBytes) {
        if (!this.sendContent(epoch)) return;
        this.pushed = epoch.bytes;
      }
      if (!ends) {
        queue.wantsMore(this.pushed + queue.pushBytes);
        return;
      }
      if (epoch.closed === null) this.closeOpen();
      this.sendEnd(epoch);
    }
  }

  /** Sends what is in the epoch by now; false when not all of it fits. */
  private sendContent(epoch: Epoch): boolean {
    const { cursor, window, link } = this;
    while (!cursor.hasAllOf(epoch)) {
      if (link.backlogBytes >= LINK_BACKLOG_BYTES_HIGH || this.isLimited()) return false;
      const zeroes = epoch.zeroes.length - cursor.zeroes;
      if (zeroes > 0) {
        if (zeroes * RANGE_BYTES > window.room) return false;
        this.sendFrame(epoch, FrameKind.RANGES, encodeRanges(cursor.takeZeroes(epoch)));
      }
      const most = Math.min(LINK_FRAME_BYTES_MAX, window.room);
      const entries = cursor.takeEntries(epoch, most);
      if (entries !== null && cursor.slab !== null) {
        cursor.slab.hold();
        this.sendFrame(epoch, FrameKind.DATA, entries, cursor.slab.letGo);
      } else if (!cursor.hasAllOf(epoch)) return false;
    }
    return true;
  }

  /** The command, if there is one, and CLOSE. */
  private sendEnd(epoch: Epoch): void {
    const { command } = epoch;
    if (command !== null && (this.snapshots || !isAboutSnapshots(command))) {
      this.sendFrame(epoch, FrameKind.COMMAND, encodeCommand(command));
      if (isAboutSnapshots(command) && this.ordered.size < SNAPSHOTS_PER_VOLUME_MAX) {
        this.ordered.set(epoch.number, command);
      }
    }
    this.link.send({
      kind: FrameKind.CLOSE,
      flags: 0,
      volume: 0,
      epoch: epoch.number,
      index: this.frames,
      offset: 0,
      length: 0,
      aux: Math.max(0, Math.floor(epoch.closedAt)),
    });
    this.window.closed(epoch.number);
    this.closedEpoch = epoch.number;
    this.frames = 0;
    this.pushed = 0;
    this.cursor.advance();
  }

  private sendFrame(epoch: Epoch, kind: FrameKind, payload: Buffer, sent?: () => void): void {
    const bytes = payload.length;
    const length = kind === FrameKind.DATA ? bytes : 0;
    const { number } = epoch;
    this.link.send(
      { kind, flags: 0, volume: 0, epoch: number, index: this.frames, offset: 0, length, aux: 0 },
      [payload],
      sent,
    );
    this.frames += 1;
    this.window.took(bytes);
    this.bytesSent += bytes;
    this.onSent(bytes);
    this.limit?.take(bytes);
  }

  /** Nothing may be sent now; then it is looked at again. */
  private isLimited(): boolean {
    if (this.limitTimer !== null) return true;
    const waitMs = this.limit?.waitMs ?? 0;
    if (waitMs === 0) return false;
    this.limitTimer = this.host.surroundings.clock.after(limitLookMs(waitMs), () => {
      this.limitTimer = null;
      this.turn();
    });
    return true;
  }

  /** Whether the open epoch is to be closed now; if not yet, this is looked at again. */
  private isDue(): boolean {
    const { queue, surroundings, hasWaiters } = this.host;
    if (queue.openIsEmpty) return false;
    const { ageMs } = this;
    if (closesNow({ bytes: queue.openBytes, ageMs, waiters: hasWaiters })) return true;
    // One timer until it fires: then it is set anew for the epoch that is open by then.
    this.ageTimer ??= surroundings.clock.after(Math.max(1, EPOCH_AGE_MS - ageMs), this.aged);
    return false;
  }

  private closeOpen(): void {
    this.host.queue.close(this.ageMs >= EPOCH_AGE_MS ? 'age' : 'size');
  }

  /** Of the open epoch. */
  private get ageMs(): number {
    const { queue, surroundings } = this.host;
    return surroundings.clock.now() - queue.openedAt;
  }

  private readonly aged = (): void => {
    this.ageTimer = null;
    this.turn();
  };

  private receivedTo(epoch: number): void {
    while (this.held < epoch) {
      this.held += 1;
      const arrived = this.host.queue.epoch(this.held);
      // A mirror that left the queue meanwhile has its sender stopped.
      if (arrived !== null) this.onHeld(arrived);
    }
  }

  private durableTo(epoch: number): void {
    if (epoch <= this.durable) return;
    this.durable = epoch;
    this.window.acknowledged(epoch);
    this.onDurable();
    this.pump();
  }

  private readableTo(epoch: number): void {
    if (epoch <= this.readable) return;
    this.readable = epoch;
    this.onReadable();
  }

  private ackedAfterStop(received: number): void {
    if (received > this.held) this.held = received;
    if (this.idle || this.held < this.closedEpoch) return;
    this.idle = true;
    this.onIdle();
  }

  private claimsTooMuch(epoch: number): void {
    if (this.idle) return;
    const message = `${this.link.peer} acknowledged epoch ${epoch}, the last sent is ${this.closedEpoch}`;
    this.link.destroy(new BlockferryError('LINK_PROTOCOL', message));
  }
}

function isAboutSnapshots(command: StreamCommand): command is SnapshotCommand {
  return command.kind === 'snapshot-create' || command.kind === 'snapshot-delete';
}
