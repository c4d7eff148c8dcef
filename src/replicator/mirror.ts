/**
 * One mirror of a volume: its progress, its link, what it lacks, and what is on its way to it.
 *
 * Invariants:
 * - `streaming`, `consistent` and the wait of synchronous replies begin when the mirror has what was staged
 *   while the delta run was sending: until then its blocks are of different moments.
 * - State changes go through `progress.step` only, and each is emitted as an event.
 */
import assert from 'node:assert';
import { isoTime } from '../io/clock.ts';
import { BlockferryError } from '../io/errors.ts';
import { PARKED_REGIONS_MAX, STAGING_BYTES_MAX, STREAM_PAUSE_MS_MIN } from '../io/limits.ts';
import { nameOfErrno } from '../nbd/constants.ts';
import type { NbdUri } from '../nbd/uri.ts';
import type { MirrorRecord } from '../volume/log/metadata.ts';
import type { BlockSet } from '../volume/maps/block-set.ts';
import type { Contact, Sender, SenderHooks, Transfer } from './contact.ts';
import { RunAborted, RunFailed } from './delta-run.ts';
import { dirtyContextName } from './dirty-name.ts';
import { MirrorBlocks } from './mirror-blocks.ts';
import { MirrorCompression } from './mirror-compression.ts';
import { MirrorCounts } from './mirror-counts.ts';
import type { MirrorHost } from './mirror-host.ts';
import { MirrorLink } from './mirror-link.ts';
import { MirrorPlace } from './mirror-place.ts';
import { MirrorVerify } from './mirror-verify.ts';
import { MirrorWatch } from './mirror-watch.ts';
import { PeerContact } from './peer-contact.ts';
import { isInStep, throttleMs } from './policy.ts';
import { step, type MirrorEvent } from './progress.ts';
import { PartedWays, reachMirror } from './reach.ts';
import { RunSchedule } from './run-schedule.ts';
import { formatSchedule, type Schedule } from './schedule.ts';
import { SendLimit } from './send-limit.ts';
import { PeerSender } from './peer-sender.ts';
import { isLoss } from './stream-bridge.ts';
import type { Backlog, Follower } from './staging-queue.ts';
import type { Trigger } from './triggers.ts';
import type { MirrorMode, MirrorRunningStatus, MirrorState, StallPolicy } from './status.ts';

export class Mirror {
  readonly id: number;
  readonly uri: NbdUri;
  readonly mode: MirrorMode;
  readonly stallPolicy: StallPolicy;
  readonly blocks: MirrorBlocks;
  readonly place: MirrorPlace;
  state: MirrorState;
  /** The mirror holds a state that the volume really had. */
  consistent = false;
  lastError: string | null = null;
  /** What it did not do about a snapshot, and why. */
  private lastRefusal: string | null = null;

  private sender: Sender | null = null;
  private run: Transfer | null = null;
  private verification: MirrorVerify | null = null;
  /** Settled when nothing of the last run is on its way. */
  private lastRun: Promise<void> = Promise.resolve();
  private started = false;
  /** The epoch that ends the delta run: the last one that was staged while it was sending. */
  private catchUpTo: number | null = null;
  private runSummary = '';
  private readonly watch: MirrorWatch;
  private readonly runs: RunSchedule;
  /** In contact, between two runs of its schedule. */
  private resting: Contact | null = null;
  /** Writes of the host are slowed down while it lags more; null: never. */
  private lagLimitMs: number | null;
  /** Before a mirror that had to leave the stream is tried again. */
  private pauseMs: number = STREAM_PAUSE_MS_MIN;
  private durableEpoch: number | null = null;
  /** Synchronous replies wait for this mirror. */
  private guarding: boolean;
  private readonly counts = new MirrorCounts();
  private readonly link: MirrorLink;
  private readonly host: MirrorHost;
  /** What may be sent to it. */
  readonly limit: SendLimit;
  /** Whether that may be compressed. */
  readonly compression: MirrorCompression;

  /** `fresh`: it was added just now and has nothing yet. */
  constructor(options: { host: MirrorHost; record: MirrorRecord; uri: NbdUri; fresh: boolean }) {
    const { host, record, uri, fresh } = options;
    this.host = host;
    this.id = record.id;
    this.uri = uri;
    this.mode = record.mode;
    this.stallPolicy = record.stallPolicy;
    this.watch = new MirrorWatch(host.surroundings.clock, host.queue);
    this.limit = new SendLimit(host.surroundings.clock, record.limit, host.nodeLimit);
    this.compression = new MirrorCompression(record.compress, this.limit);
    this.runs = new RunSchedule({
      clock: host.surroundings.clock,
      schedule: record.schedule,
      lastRunAt: record.ranAt,
      unfinished: record.run !== null,
    });
    this.lagLimitMs = record.lagLimitMs;
    this.blocks = new MirrorBlocks(host.volume.metadata, record, host.parked);
    this.place = new MirrorPlace(host, this.blocks);
    this.state = record.paused ? 'paused' : 'connecting';
    const blocking = this.mode === 'sync' && this.stallPolicy === 'block';
    this.guarding = blocking && !record.paused && !fresh;
    this.link = new MirrorLink({
      surroundings: host.surroundings,
      connect: () => this.connect(),
      onUp: (contact) => this.inContact(contact),
      onDown: (error) => this.lost(error),
    });
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

  /** The link to a mirror that follows, if it is another node. */
  get peer(): PeerContact | null {
    const { contact } = this.link;
    const follows = this.state === 'streaming' && contact?.open === true;
    return follows && contact instanceof PeerContact ? contact : null;
  }

  start(): void {
    assert(!this.started, 'started once');
    this.started = true;
    if (this.state !== 'paused') this.link.start();
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
   * Gives the memory of epochs back that the mirror answered and has not flushed: their blocks are
   * marked instead, until it has.
   */
  shed(): void {
    if (this.place.bridge !== null) return this.lookAtBridge();
    if (this.sender !== null) this.place.shed(this.sender);
  }

  /** Leaves the stream if that is better for all: see triggers.ts. Called now and then. */
  look(): void {
    if (!this.runs.follows) this.runs.look(this.host.hostBytes);
    const { follower, bridge } = this.place;
    if (follower === null) return this.lookAtSchedule();
    if (this.run !== null) return;
    if (bridge !== null) return this.lookAtBridge();
    const { parked } = this.host;
    if (parked.size >= PARKED_REGIONS_MAX / 2 && this.stagedBytes >= STAGING_BYTES_MAX / 2) {
      this.outrun('it lags behind in too many regions of the volume');
      return;
    }
    const fired = this.watch.look(follower, this.place.lateSince);
    if (fired !== null) this.outrun(fired.message, fired.trigger);
  }

  private lookAtSchedule(): void {
    const { resting } = this;
    if (resting === null || !this.runs.isDue(this.blocks.clean)) return;
    this.beginRun(resting, this.runs.follows ? 'follows every write again' : 'a delta run is due');
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

  /** The mirror cannot keep up: what is staged for it becomes marks, and a delta run follows later. */
  outrun(message: string, trigger: Trigger = 'fill'): void {
    if (!this.inStream) return;
    this.lastError = message;
    if (this.run !== null) {
      // Only the staging of the last sweep is given up; the run goes on and adds another sweep.
      this.leaveQueue();
      this.host.emit('mirror-outrun', this, message);
      this.host.progressed(this);
      return;
    }
    this.pauseMs = this.watch.left(trigger);
    this.leaveStream({ kind: 'outrun' }, message);
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

  async pause(): Promise<void> {
    if (this.state === 'paused') return;
    this.guarding = false;
    this.transition({ kind: 'pause' }, 'paused by the operator');
    await this.halt();
  }

  resume(): void {
    if (this.state !== 'paused' && this.state !== 'diverged') return;
    this.transition({ kind: 'resume' }, 'resumed by the operator');
    this.link.start();
  }

  /** Marks everything, to be compared. The caller records that, and `reconnect` follows. */
  async resync(): Promise<void> {
    this.guarding = false;
    this.runs.request();
    await this.interrupt('compares everything, as the operator asked');
    this.blocks.suspect.addAll();
  }

  /**
   * Compares the volume with the mirror, both as they were at the end of one epoch, while all goes on. Throws MIRROR_STATE when
   * the mirror is not in the stream, or is no blockferry node, and what freezing throws.
   */
  async verify(): Promise<{ differing: BlockSet; bytesCompared: number }> {
    const { contact } = this.link;
    if (this.state !== 'streaming' || !(contact instanceof PeerContact)) {
      const why = this.state === 'streaming' ? 'is no blockferry node' : `is ${this.state}`;
      const message = `${this.uri.text} ${why}: only a node that follows can be compared`;
      throw new BlockferryError('MIRROR_STATE', message);
    }
    const verification = new MirrorVerify(contact);
    this.verification = verification;
    try {
      const differing = await verification.run();
      return { differing, bytesCompared: verification.bytesCompared };
    } finally {
      this.verification = null;
    }
  }

  /** Marks these blocks, to be sent again. The caller records that, and `reconnect` follows. */
  async repair(differing: BlockSet): Promise<void> {
    this.runs.request();
    // No run is under way then, which would take them for its own.
    await this.interrupt('sends again what was found different');
    this.blocks.dirty.addSet(differing);
  }

  /** By the operator. The caller has recorded it. */
  setPolicy(schedule: Schedule, lagLimitMs: number | null): void {
    this.lagLimitMs = lagLimitMs;
    const { clock } = this.host.surroundings;
    const asOf = clock.wall() - this.lagSeconds(clock.now()) * 1000;
    this.runs.schedule = schedule;
    if (this.runs.follows) return this.lookAtSchedule();
    // A run that is under way comes to its end first.
    if (!this.inStream || this.run !== null || this.catchUpTo !== null) return;
    this.leaveStream({ kind: 'rested' }, 'is sent delta runs from now on');
    this.runs.lastRunAt = asOf;
    this.recordRun(asOf);
  }

  /** A delta run begins as soon as it can. Throws MIRROR_STATE: it has no schedule, or an operator sent it away. */
  requestRun(): void {
    const { state } = this;
    const away = state === 'paused' || state === 'diverged';
    if (away || this.runs.follows) {
      const why = away ? `is ${state}` : 'follows every write: it has no delta runs by choice';
      throw new BlockferryError('MIRROR_STATE', `mirror ${this.uri.text} ${why}`);
    }
    this.runs.request();
    this.lookAtSchedule();
  }

  /** How long a write of the host is held back for it, in milliseconds. */
  get hostDelayMs(): number {
    if (this.lagLimitMs === null || this.state !== 'streaming') return 0;
    const since = this.place.lateSince;
    const lagMs = since === null ? 0 : this.host.surroundings.clock.now() - since;
    return throttleMs(lagMs, this.lagLimitMs);
  }

  /** Ends the contact for a moment, and marks what the mirror lacks. `reconnect` follows. */
  async interrupt(message: string): Promise<void> {
    this.transition({ kind: 'lost' }, message);
    await this.halt();
  }

  /** After `interrupt`. A mirror that an operator has to resume stays as it is. */
  reconnect(): void {
    if (this.state !== 'paused' && this.state !== 'diverged') this.link.start();
  }

  /** Stops all traffic and marks what is not durable there. The state stays as it is. */
  async halt(): Promise<void> {
    this.resting = null;
    this.stopRun();
    this.leaveQueue();
    const sender = this.sender;
    sender?.stop();
    await this.link.stop();
    await this.lastRun;
    sender?.connectionOver();
    if (this.sender === sender) this.sender = null;
    this.blocks.takeBack();
    this.host.progressed(this);
  }

  status(): MirrorRunningStatus & { readonly durableEpoch: number | null } {
    const now = this.host.surroundings.clock.now();
    const { dirtyBytes, suspectBytes } = this.blocks;
    return {
      uri: this.uri.text,
      dirty_context: dirtyContextName(this.id),
      mode: this.mode,
      stall_policy: this.stallPolicy,
      delta: this.runs.follows ? null : formatSchedule(this.runs.schedule),
      last_run_at: this.runs.lastRunAt === null ? null : isoTime(this.runs.lastRunAt),
      lag_limit_seconds: this.lagLimitMs === null ? null : this.lagLimitMs / 1000,
      host_delay_ms: Math.round(this.hostDelayMs * 10) / 10,
      state: this.state,
      consistent: this.consistent,
      durableEpoch: this.durableEpoch,
      staged_bytes: this.stagedBytes,
      dirty_bytes: dirtyBytes,
      suspect_bytes: suspectBytes,
      lag_seconds: this.lagSeconds(now),
      ...this.counts.status(this.run, { now, remainingBytes: dirtyBytes + suspectBytes }),
      compression: this.compression.status(),
      last_error: this.lastError,
      refuses: this.link.contact instanceof PeerContact ? this.link.contact.refuses : [],
      last_refusal: this.lastRefusal,
    };
  }

  /** What is staged is all that it lacks: it follows, or waits for its link, or catches up after that. */
  private get inOrder(): boolean {
    return this.state === 'streaming' || this.place.bridged;
  }

  private lagSeconds(now: number): number {
    if (this.resting !== null && this.blocks.clean) return 0;
    const since = this.place.lagsSince(this.inOrder);
    // Never zero while something is lacking, however young: scripts wait for zero.
    return since === null ? 0 : Math.max(1, Math.round(now - since)) / 1000;
  }

  private async connect(): Promise<Contact> {
    const { host, uri, blocks, limit, id: mirrorId } = this;
    try {
      const contact = await reachMirror({
        uri,
        host,
        mirrorId,
        blocks,
        limit,
        arrived: (epoch) => {
          this.durableEpoch = epoch;
          this.consistent = true;
        },
        note: (kind, message) => {
          if (kind === 'mirror-snapshot-refused') this.lastRefusal = message;
          host.emit(kind, this, message);
        },
      });
      if (contact instanceof PeerContact) this.compression.attach(contact.link.compression ?? null);
      return contact;
    } catch (thrown) {
      if (thrown instanceof PartedWays) this.part(thrown);
      throw thrown;
    } finally {
      host.heard(this);
    }
  }

  /** No attempt follows: an operator has to decide. */
  private part(why: PartedWays): void {
    this.lastError = why.message;
    if (this.leaveQueue()) this.blocks.takeBack();
    if (why.code === 'MIRROR_NEWER') this.host.superseded(this, why.message);
    if (this.transition({ kind: 'parted' }, why.message)) void this.link.stop();
  }

  private inContact(contact: Contact): void {
    const bridged = this.place.bridge !== null;
    if (!bridged) this.greet(contact);
    if (bridged || this.runs.isDue(this.blocks.clean)) return this.beginRun(contact, 'in contact');
    this.rest(contact, 'in contact, waits for its next delta run');
  }

  /** What the mirror holds before anything is sent. */
  private greet(contact: Contact): void {
    if (contact.alwaysConsistent) {
      this.consistent = contact.position !== null;
      this.durableEpoch = contact.position;
    }
  }

  /** Until the next run of its schedule only bits are kept. */
  private rest(contact: Contact, message: string): void {
    this.resting = contact;
    this.lastError = null;
    this.link.settled();
    this.transition({ kind: 'rested' }, message);
  }

  private beginRun(contact: Contact, message: string): void {
    this.resting = null;
    const { bridge } = this.place;
    if (bridge !== null) {
      const behind = contact instanceof PeerContact ? bridge.goesOnBehind(contact) : null;
      if (behind !== null) return this.crossBridge(contact, behind);
      this.watch.left('link');
      this.leaveQueue();
      this.blocks.takeBack();
      this.host.progressed(this);
      this.greet(contact);
    }
    if (!this.transition({ kind: 'contact', suspect: this.blocks.suspect.count > 0 }, message)) {
      return;
    }
    this.runs.began();
    if (!contact.alwaysConsistent && !this.blocks.clean) {
      this.consistent = false;
      this.durableEpoch = null;
    }
    const { dirtyBytes, suspectBytes } = this.blocks;
    this.counts.runBegan(this.host.surroundings.clock.now(), dirtyBytes + suspectBytes);
    const run = contact.transfer({
      follows: () => this.runs.follows,
      compared: () => this.transition({ kind: 'compared' }, 'compared, sending what differs'),
      beginStaging: () => {
        this.place.take();
        this.host.wakeSoon();
      },
      isStaging: () => this.inStream,
      stuck: (stuck) => this.stuck(stuck),
      pause: (ms) =>
        new Promise((resolve) => {
          if (ms === 0) this.host.surroundings.clock.soon(resolve);
          else this.host.surroundings.clock.after(ms, resolve);
        }),
    });
    this.run = run;
    // One at a time also when the last one was stopped: it may still have to let go of what it froze.
    this.lastRun = this.runAfter(this.lastRun, run, contact);
  }

  /** The stream goes on behind an epoch that the mirror has, with what waited. */
  private crossBridge(contact: Contact, behind: number): void {
    const { host, place } = this;
    const { follower } = place;
    assert(follower !== null, 'a bridge is for what is staged');
    place.crossBridge();
    // A schedule that is set before it is in step takes this for a run.
    this.runs.began();
    this.runSummary = `${this.stagedBytes} bytes waited for the link`;
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
    this.transition({ kind: 'rejoined' }, `the link is back (${this.runSummary})`);
  }

  private async runAfter(last: Promise<void>, run: Transfer, contact: Contact): Promise<void> {
    await last;
    try {
      if (this.run !== run) return;
      await run.run();
    } catch (thrown) {
      this.runFailed(run, thrown);
      return;
    }
    this.runEnded(run, contact);
  }

  private runEnded(run: Transfer, contact: Contact): void {
    if (this.run !== run) return;
    this.stopRun();
    this.blocks.recordAll();
    this.blocks.commit();
    const { follower } = this.place;
    this.runSummary = `${run.bytesSent} bytes sent, ${run.bytesCompared} compared`;
    if (follower === null) return this.ran(contact);
    assert(this.blocks.clean, 'a run ends with nothing left');
    this.catchUpTo = this.host.queue.close('command');
    this.host.wakeSoon();
    const last = this.runs.follows ? null : this.catchUpTo;
    const sender = contact.sender(follower.released, this.senderHooks(contact, follower), last);
    this.sender = sender;
    this.noticeInStep();
    this.host.progressed(this);
    sender.pump();
  }

  /** A run of the schedule is over. */
  private ran(contact: Contact): void {
    assert(this.place.follower === null, 'nothing more is staged for it');
    const { clock } = this.host.surroundings;
    const time = this.runs.over();
    this.place.ranAt(clock.now() - Math.max(0, clock.wall() - time));
    this.recordRun(time);
    this.consistent = true;
    this.rest(contact, `holds what the volume held at ${isoTime(time)} (${this.runSummary})`);
    this.host.progressed(this);
  }

  private recordRun(time: number): void {
    const { metadata } = this.host.volume;
    if (!metadata.state.mirrors.has(this.id)) return;
    metadata.append({ kind: 'mirror-ran', mirror: this.id, time: Math.floor(time) });
    this.blocks.commit();
  }

  /** The end of a delta run: what was staged meanwhile is on the mirror too. */
  private noticeInStep(): void {
    const { backlog, sender, catchUpTo, mode } = this;
    if (catchUpTo === null || sender === null || backlog === null) return;
    const { durable } = sender;
    if (!isInStep({ durable, catchUpTo, mode, stagedBytes: backlog.bytes })) return;
    this.catchUpTo = null;
    this.place.inStep();
    this.consistent = true;
    this.guarding = mode === 'sync';
    this.lastError = null;
    this.durableEpoch = durable;
    this.link.settled();
    const { contact } = this.link;
    if (!this.runs.follows && contact !== null) return this.ranInStream(sender, contact);
    this.watch.entered();
    if (this.state === 'connecting') this.rejoin();
    else this.transition({ kind: 'shipped' }, `in step with the volume (${this.runSummary})`);
  }

  /** The last sweep was sent with what was staged meanwhile: that was all. */
  private ranInStream(sender: Sender, contact: Contact): void {
    this.leaveQueue();
    this.blocks.takeBack();
    const busy = sender.stop();
    if (!busy) this.sender = null;
    this.ran(contact);
    if (busy) this.resting = null;
  }

  private senderHooks(contact: Contact, follower: Follower): SenderHooks {
    return {
      onSent: (bytes) => this.counts.streamed(bytes),
      onHeld: () => this.host.progressed(this),
      onDurable: () => this.flushedTo(follower),
      onError: (errno) => {
        const message = `mirror ${this.uri.text} answered ${nameOfErrno(errno)}`;
        this.link.fail(new BlockferryError('MIRROR_REFUSED', message));
      },
      onIdle: () => this.retryLater(contact),
    };
  }

  private flushedTo(follower: Follower): void {
    const durable = this.sender?.durable;
    if (durable === undefined || this.place.follower !== follower) return;
    this.place.settle(durable);
    const { generation } = this.host.volume.metadata.state;
    this.blocks.acknowledge({ generation, epoch: durable });
    // On any other server it has a meaning once all that was staged in the run is there.
    if (this.catchUpTo === null || this.consistent) this.durableEpoch = durable;
    this.noticeInStep();
    this.host.progressed(this);
  }

  private runFailed(run: Transfer, thrown: unknown): void {
    if (this.run !== run || thrown instanceof RunAborted) return;
    if (thrown instanceof BlockferryError) {
      this.link.fail(thrown);
      return;
    }
    if (!(thrown instanceof RunFailed)) throw thrown;
    const code = thrown.local ? 'VOLUME_FAILED' : 'MIRROR_REFUSED';
    const message = `delta run to ${this.uri.text}: ${thrown.message} (${nameOfErrno(thrown.errno)})`;
    this.link.fail(new BlockferryError(code, message));
  }

  private stuck(stuck: boolean): void {
    if (stuck) {
      this.transition({ kind: 'stuck' }, 'the host writes faster than the mirror takes');
    } else {
      this.transition({ kind: 'unstuck' }, 'the delta run makes progress again');
    }
  }

  private lost(error: BlockferryError): void {
    const news = this.lastError !== error.message;
    this.lastError = error.message;
    const { sender } = this;
    sender?.connectionOver();
    this.sender = null;
    this.resting = null;
    this.stopRun();
    if (sender instanceof PeerSender) this.buildBridge(sender, error);
    if (this.place.bridge !== null) {
      if (news) this.host.emit('mirror-error', this, error.message);
      return;
    }
    this.watch.left('link');
    const changed = this.leaveStream({ kind: 'lost' }, error.message);
    // Attempts go on without end: only a new reason is worth an event.
    if (!changed && news) this.host.emit('mirror-error', this, error.message);
  }

  /** What is staged waits for the next link, if the mirror can go on from there. */
  private buildBridge(sender: PeerSender, error: BlockferryError): void {
    if (!this.inStream || !this.inOrder || !isLoss(error)) return;
    if (this.host.graceMs === 0) return;
    this.catchUpTo = null;
    if (this.stallPolicy === 'degrade') this.guarding = false;
    this.place.buildBridge(sender);
    this.transition({ kind: 'interrupted' }, error.message);
    this.host.progressed(this);
  }

  /** Returns whether the state changed. */
  private leaveStream(event: MirrorEvent, message: string): boolean {
    const left = this.leaveQueue();
    this.blocks.takeBack();
    const changed = this.transition(event, message);
    const sender = this.sender;
    // The connection lives on: nothing new may be sent before the last epoch was answered.
    if (sender !== null && !sender.stop() && this.link.contact !== null) {
      this.retryLater(this.link.contact);
    }
    if (left) this.host.progressed(this);
    return changed;
  }

  private retryLater(contact: Contact): void {
    this.sender = null;
    if (!this.runs.follows) {
      this.resting = contact;
      return;
    }
    this.host.surroundings.clock.after(this.pauseMs, () => {
      if (this.state !== 'delta' || this.link.contact !== contact || this.run !== null) return;
      this.beginRun(contact, 'catching up');
    });
  }

  private leaveQueue(): boolean {
    if (!this.place.leave()) return false;
    this.verification?.lost();
    this.catchUpTo = null;
    if (this.stallPolicy === 'degrade') this.guarding = false;
    return true;
  }

  private stopRun(): void {
    const { run } = this;
    if (run === null) return;
    this.run = null;
    run.abort();
    this.counts.runOver(run);
  }

  /** Returns whether the event meant anything in the present state. */
  private transition(event: MirrorEvent, message: string): boolean {
    const next = step(this.state, event);
    if (next === null) return false;
    this.state = next;
    this.host.emit(event.kind === 'rested' ? 'mirror-rested' : `mirror-${next}`, this, message);
    return true;
  }
}
