/**
 * One mirror as the writes of the host see it: what is staged for it, on its way to it, and answered by it; and when it
 * comes into the stream and leaves it. What happens while it is not in it is `mirror.ts`.
 *
 * Invariants:
 * - `streaming`, `consistent` and the wait of synchronous replies begin when the mirror has what was staged
 *   while the delta run was sending: until then its blocks are of different moments.
 * - Who leaves the stream leaves marks of what is not durable there (`place`), in the same turn.
 * - A link that lives on is sent nothing new before all that was on its way was answered.
 */
import assert from 'node:assert';
import { BlockferryError } from '../../io/errors.ts';
import { PARKED_REGIONS_MAX, STAGING_BYTES_MAX, STREAM_PAUSE_MS_MIN } from '../../io/limits.ts';
import { nameOfErrno } from '../../nbd/constants.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';
import type { MirrorRecord } from '../../volume/log/metadata.ts';
import type { Contact, Sender, SenderHooks } from '../contact/contact.ts';
import { MirrorBlocks } from './mirror-blocks.ts';
import type { MirrorHost } from './mirror-host.ts';
import type { MirrorLink } from './mirror-link.ts';
import { MirrorPlace } from './mirror-place.ts';
import type { MirrorRuns } from './mirror-runs.ts';
import { MirrorStanding } from './mirror-standing.ts';
import type { MirrorVerify } from './mirror-verify.ts';
import { MirrorWatch } from './mirror-watch.ts';
import { PeerSender } from '../contact/peer-sender.ts';
import { isInStep } from '../policy/policy.ts';
import type { MirrorEvent } from './progress.ts';
import type { Backlog, Follower } from '../staging/staging-queue.ts';
import type { MirrorMode, MirrorState, StallPolicy } from '../status.ts';
import { isLoss } from './stream-bridge.ts';
import type { Trigger } from '../policy/triggers.ts';

export abstract class FollowingMirror {
  readonly id: number;
  readonly uri: NbdUri;
  readonly mode: MirrorMode;
  readonly stallPolicy: StallPolicy;
  readonly blocks: MirrorBlocks;
  readonly place: MirrorPlace;
  protected readonly host: MirrorHost;
  protected readonly standing: MirrorStanding;
  protected abstract readonly link: MirrorLink;
  protected abstract readonly runs: MirrorRuns;
  /** It is compared while it follows; null: it is not. */
  protected verification: MirrorVerify | null = null;
  /** Synchronous replies wait for this mirror. */
  protected guarding: boolean;
  private sender: Sender | null = null;
  /** The epoch that ends the delta run: the last one that was staged while it was sending. */
  private catchUpTo: number | null = null;
  private readonly watch: MirrorWatch;
  /** Before a mirror that had to leave the stream is tried again. */
  private pauseMs: number = STREAM_PAUSE_MS_MIN;

  /** `fresh`: it was added just now and has nothing yet. */
  constructor(options: { host: MirrorHost; record: MirrorRecord; uri: NbdUri; fresh: boolean }) {
    const { host, record, uri, fresh } = options;
    this.host = host;
    this.id = record.id;
    this.uri = uri;
    this.mode = record.mode;
    this.stallPolicy = record.stallPolicy;
    this.watch = new MirrorWatch(host.surroundings.clock, host.queue);
    this.blocks = new MirrorBlocks(host.volume.metadata, record, host.parked);
    this.place = new MirrorPlace(host, this.blocks);
    this.standing = new MirrorStanding(record.paused ? 'paused' : 'connecting', (kind, message) =>
      host.emit(kind, this, message),
    );
    const blocking = this.mode === 'sync' && this.stallPolicy === 'block';
    this.guarding = blocking && !record.paused && !fresh;
  }

  get state(): MirrorState {
    return this.standing.state;
  }

  get lastError(): string | null {
    return this.standing.lastError;
  }

  /** Host writes are staged for this mirror. */
  get inStream(): boolean {
    return this.place.follower !== null;
  }

  get stagedBytes(): number {
    return this.place.stagedBytes;
  }

  /** How far this mirror lags behind in the stream; null when it is not in it. */
  get backlog(): Backlog | null {
    return this.place.backlog;
  }

  /** Something was staged or closed: an idle link may take it. */
  wake(): void {
    this.sender?.pump();
  }

  /** The host flushed when `epoch` was the last one closed. */
  barrier(epoch: number): void {
    this.sender?.barrier(epoch, this.isWaitedFor);
  }

  /** Every epoch up to `epoch` was answered by the mirror (`held`), or flushed by it. */
  has(epoch: number, level: 'held' | 'durable'): boolean {
    const { follower, bridge } = this.place;
    if (follower === null) return false;
    if (bridge !== null) return bridge.has(epoch, level);
    if (this.sender === null) return false;
    return (level === 'held' ? this.sender.held : this.sender.durable) >= epoch;
  }

  /** Whether a region last written in `epoch` needs its hot mark no longer, once its bits are recorded. */
  covers(epoch: number): boolean {
    return this.settledEpoch >= epoch;
  }

  /** What was staged up to this epoch is durable there, or marked: infinite while nothing is staged for it. */
  get settledEpoch(): number {
    const { follower } = this.place;
    if (follower === null) return Number.POSITIVE_INFINITY;
    return this.sender?.durable ?? follower.released;
  }

  /**
   * A synchronous reply waits for this mirror: from the moment it is in step, until it leaves the stream
   * (`degrade`) or an operator sends it away. Copying and comparing never freeze the host.
   */
  get isWaitedFor(): boolean {
    return this.guarding;
  }

  /** Staged data is on its way and may arrive. */
  get draining(): boolean {
    return this.sender !== null && this.place.lackingSince !== null;
  }

  /** A synchronous mirror did not answer in time. Replies wait for it until its state says that they do not. */
  stalled(message: string): void {
    this.link.fail(new BlockferryError('MIRROR_UNREACHABLE', message));
  }

  /**
   * Gives the memory of epochs back that the mirror answered and has not flushed: their blocks are
   * marked instead, until it has.
   */
  shed(): void {
    if (this.place.bridge !== null) return this.lookAtBridge();
    if (this.sender !== null) this.place.shed(this.sender);
  }

  /** What is staged is all that it lacks: it follows, or waits for its link, or catches up after that. */
  protected get inOrder(): boolean {
    return this.state === 'streaming' || this.place.bridged;
  }

  /** What was staged while a run was sending is on its way. */
  protected get catchingUp(): boolean {
    return this.catchUpTo !== null;
  }

  // ---- coming into the stream

  /** Behind a run: all that is still lacking is staged. */
  protected followBehindRun(contact: Contact, follower: Follower): void {
    assert(this.blocks.clean, 'a run ends with nothing left');
    this.catchUpTo = this.host.queue.close('command');
    this.host.wakeSoon();
    const last = this.runs.schedule.follows ? null : this.catchUpTo;
    const sender = contact.sender(follower.released, this.senderHooks(contact, follower), last);
    this.sender = sender;
    this.noticeInStep();
    this.host.progressed();
    sender.pump();
  }

  /** The stream goes on behind an epoch that the mirror has, with what waited. */
  protected crossBridge(contact: Contact, behind: number): void {
    const { host, place, runs } = this;
    const { follower } = place;
    assert(follower !== null, 'a bridge is for what is staged');
    place.crossBridge();
    // A schedule that is set before it is in step takes this for a run.
    runs.schedule.began();
    runs.summary = `${this.stagedBytes} bytes waited for the link`;
    const sender = contact.sender(behind, this.senderHooks(contact, follower), null);
    this.sender = sender;
    // `streaming` tells of a synchronous mirror that replies wait for it: after degrading, that is when it is in step.
    if (this.mode === 'async' || this.guarding) this.rejoin();
    this.catchUpTo = host.queue.close('command');
    this.flushedTo(follower);
    host.wakeSoon();
    sender.pump();
  }

  private rejoin(): void {
    this.standing.transition({ kind: 'rejoined' }, `the link is back (${this.runs.summary})`);
  }

  private senderHooks(contact: Contact, follower: Follower): SenderHooks {
    return {
      onSent: (bytes) => this.runs.counts.streamed(bytes),
      onHeld: () => this.host.progressed(),
      onDurable: () => this.flushedTo(follower),
      onError: (errno) => {
        const message = `mirror ${this.uri.text} answered ${nameOfErrno(errno)}`;
        this.link.fail(new BlockferryError('MIRROR_REFUSED', message));
      },
      onIdle: () => this.leftWith(contact),
    };
  }

  private flushedTo(follower: Follower): void {
    const durable = this.sender?.durable;
    if (durable === undefined || this.place.follower !== follower) return;
    this.place.settle(durable);
    const { generation } = this.host.volume.metadata.state;
    this.blocks.acknowledge({ generation, epoch: durable });
    const { standing } = this;
    // On any other server it has a meaning once all that was staged in the run is there.
    if (this.catchUpTo === null || standing.consistent) standing.durableEpoch = durable;
    this.noticeInStep();
    this.host.progressed();
  }

  /** The end of a delta run: what was staged meanwhile is on the mirror too. */
  private noticeInStep(): void {
    const { backlog, sender, catchUpTo, mode, standing } = this;
    if (catchUpTo === null || sender === null || backlog === null) return;
    const { durable } = sender;
    if (!isInStep({ durable, catchUpTo, mode, stagedBytes: backlog.bytes })) return;
    this.catchUpTo = null;
    this.place.inStep();
    this.guarding = mode === 'sync';
    standing.arrived(durable);
    standing.lastError = null;
    this.link.settled();
    const { contact } = this.link;
    if (!this.runs.schedule.follows && contact !== null) return this.ranInStream(sender, contact);
    this.watch.entered();
    if (this.state === 'connecting') this.rejoin();
    else standing.transition({ kind: 'shipped' }, `in step with the volume (${this.runs.summary})`);
  }

  /** The last sweep was sent with what was staged meanwhile: that was all. */
  private ranInStream(sender: Sender, contact: Contact): void {
    this.leaveQueue();
    this.blocks.takeBack();
    const busy = sender.stop();
    if (!busy) this.sender = null;
    this.ran(contact);
    if (busy) this.runs.resting = null;
  }

  /** A run of the schedule is over: the mirror has all, and nothing more is staged for it. */
  protected abstract ran(contact: Contact): void;

  // ---- leaving it

  /** Leaves it if that is better for all: see triggers.ts. No run is under way. */
  protected lookAtStream(follower: Follower): void {
    if (this.place.bridge !== null) return this.lookAtBridge();
    const { parked } = this.host;
    if (parked.size >= PARKED_REGIONS_MAX / 2 && this.stagedBytes >= STAGING_BYTES_MAX / 2) {
      this.outrun('it lags behind in too many regions of the volume');
      return;
    }
    const fired = this.watch.look(follower, this.place.lateSince);
    if (fired !== null) this.outrun(fired.message, fired.trigger);
  }

  /** Whether it is still worth while to wait for the link, by the triggers but for the age of what waits. */
  private lookAtBridge(): void {
    const { follower, bridge } = this.place;
    if (follower === null || bridge === null) return;
    const now = this.host.surroundings.clock.now();
    const why = bridge.over(now) ?? this.watch.look(follower, null)?.message ?? null;
    if (why !== null) this.burnBridge(why);
  }

  private burnBridge(message: string): void {
    this.watch.left('link');
    this.leaveStream({ kind: 'lost' }, `${message}: ${this.lastError ?? ''}`);
  }

  /** The link is back, and what waited for it is of no use to the mirror. */
  protected dropBridge(): void {
    this.watch.left('link');
    this.leaveQueue();
    this.blocks.takeBack();
    this.host.progressed();
  }

  /** The mirror cannot keep up: what is staged for it becomes marks, and a delta run follows later. */
  outrun(message: string, trigger: Trigger = 'fill'): void {
    if (!this.inStream) return;
    this.standing.lastError = message;
    if (this.runs.underWay) {
      // Only the staging of the last sweep is given up; the run goes on and adds another sweep.
      this.leaveQueue();
      this.standing.emit('mirror-outrun', message);
      this.host.progressed();
      return;
    }
    this.pauseMs = this.watch.left(trigger);
    this.leaveStream({ kind: 'outrun' }, message);
  }

  /** The link is gone; another attempt follows by itself. */
  protected lost(error: BlockferryError): void {
    const { standing, sender } = this;
    const news = standing.failed(error.message);
    sender?.connectionOver();
    this.sender = null;
    this.runs.interrupt();
    if (sender instanceof PeerSender) this.buildBridge(sender, error);
    if (this.place.bridge !== null) {
      if (news) standing.emit('mirror-error', error.message);
      return;
    }
    this.watch.left('link');
    const changed = this.leaveStream({ kind: 'lost' }, error.message);
    // Attempts go on without end: only a new reason is worth an event.
    if (!changed && news) standing.emit('mirror-error', error.message);
  }

  /** What is staged waits for the next link, if the mirror can go on from there. */
  private buildBridge(sender: PeerSender, error: BlockferryError): void {
    if (!this.inStream || !this.inOrder || !isLoss(error)) return;
    if (this.host.graceMs === 0) return;
    this.catchUpTo = null;
    if (this.stallPolicy === 'degrade') this.guarding = false;
    this.place.buildBridge(sender);
    this.standing.transition({ kind: 'interrupted' }, error.message);
    this.host.progressed();
  }

  /** Returns whether the state changed. */
  protected leaveStream(event: MirrorEvent, message: string): boolean {
    const left = this.leaveQueue();
    this.blocks.takeBack();
    const changed = this.standing.transition(event, message);
    const { sender } = this;
    // The connection lives on: nothing new may be sent before the last epoch was answered.
    if (sender !== null && !sender.stop() && this.link.contact !== null) {
      this.leftWith(this.link.contact);
    }
    if (left) this.host.progressed();
    return changed;
  }

  private leftWith(contact: Contact): void {
    // The last answers come while the link is being ended: nothing begins on it any more.
    if (this.link.contact !== contact) return;
    this.sender = null;
    this.left(contact, this.pauseMs);
  }

  /** Out of the stream, with a link that is idle. A run to catch up should not begin before `pauseMs` are over. */
  protected abstract left(contact: Contact, pauseMs: number): void;

  protected leaveQueue(): boolean {
    if (!this.place.leave()) return false;
    this.verification?.lost();
    this.catchUpTo = null;
    if (this.stallPolicy === 'degrade') this.guarding = false;
    return true;
  }

  /** Stops all traffic and marks what is not durable there. The state stays as it is. */
  async halt(): Promise<void> {
    this.runs.interrupt();
    this.leaveQueue();
    const { sender } = this;
    sender?.stop();
    await this.link.stop();
    await this.runs.settled;
    sender?.connectionOver();
    if (this.sender === sender) this.sender = null;
    this.blocks.takeBack();
    this.host.progressed();
  }
}
