/**
 * One mirror of a volume: its link, the delta runs that bring it into the stream or keep to a schedule, and what operators
 * ask of it. As the writes of the host see it, it is a `FollowingMirror`.
 *
 * Invariants:
 * - In contact it does one of three things: a run is under way, it is in the stream (or about to be tried again), or it
 *   rests until a run is due.
 * - A mirror that an operator sent away, or has to decide about, has no link.
 */
import assert from 'node:assert';
import { isoTime } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';
import type { MirrorRecord } from '../../volume/log/metadata.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';
import type { Contact } from '../contact/contact.ts';
import { dirtyContextName } from './dirty-name.ts';
import { FollowingMirror } from './following-mirror.ts';
import { MirrorCompression } from './mirror-compression.ts';
import type { MirrorHost } from './mirror-host.ts';
import { MirrorLink } from './mirror-link.ts';
import { MirrorRuns, type RunOwner } from './mirror-runs.ts';
import { MirrorVerify } from './mirror-verify.ts';
import { PeerContact } from '../contact/peer-contact.ts';
import { throttleMs } from '../policy/policy.ts';
import { PartedWays, reachMirror } from '../contact/reach.ts';
import type { Schedule } from '../policy/schedule.ts';
import { SendLimit } from '../pace/send-limit.ts';
import type { MirrorRunningStatus } from '../status.ts';

export class Mirror extends FollowingMirror {
  protected readonly link: MirrorLink;
  protected readonly runs: MirrorRuns;
  private started = false;
  /** Writes of the host are slowed down while it lags more; null: never. */
  private lagLimitMs: number | null;
  /** What may be sent to it. */
  readonly limit: SendLimit;
  /** Whether that may be compressed. */
  readonly compression: MirrorCompression;

  /** `fresh`: it was added just now and has nothing yet. */
  constructor(options: { host: MirrorHost; record: MirrorRecord; uri: NbdUri; fresh: boolean }) {
    super(options);
    const { host, record, uri } = options;
    this.limit = new SendLimit(host.surroundings.clock, record.limit, host.nodeLimit);
    this.compression = new MirrorCompression(record.compress, this.limit);
    this.lagLimitMs = record.lagLimitMs;
    const { blocks, standing } = this;
    this.runs = new MirrorRuns({ host, record, uri, blocks, standing, owner: this.runOwner() });
    this.link = new MirrorLink({
      surroundings: host.surroundings,
      connect: () => this.connect(),
      onUp: (contact) => this.inContact(contact),
      onDown: (error) => this.lost(error),
    });
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

  /** A run begins, or it leaves the stream, if that is better for all. Called now and then. */
  look(): void {
    const { runs } = this;
    if (!runs.schedule.follows) runs.schedule.look(this.host.hostBytes);
    const { follower } = this.place;
    if (follower === null) this.lookAtSchedule();
    else if (!runs.underWay) this.lookAtStream(follower);
  }

  private lookAtSchedule(): void {
    const { resting, due, schedule } = this.runs;
    if (resting === null || !due) return;
    this.beginRun(resting, schedule.follows ? 'follows every write again' : 'a delta run is due');
  }

  // ---- by the operator

  async pause(): Promise<void> {
    if (this.state === 'paused') return;
    this.guarding = false;
    this.standing.transition({ kind: 'pause' }, 'paused by the operator');
    await this.halt();
  }

  resume(): void {
    if (!this.standing.away) return;
    this.standing.transition({ kind: 'resume' }, 'resumed by the operator');
    this.link.start();
  }

  /** Marks everything, to be compared. The caller records that, and `reconnect` follows. */
  async resync(): Promise<void> {
    this.guarding = false;
    this.runs.schedule.request();
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
    this.runs.schedule.request();
    // No run is under way then, which would take them for its own.
    await this.interrupt('sends again what was found different');
    this.blocks.dirty.addSet(differing);
  }

  /** By the operator. The caller has recorded it. */
  setPolicy(schedule: Schedule, lagLimitMs: number | null): void {
    this.lagLimitMs = lagLimitMs;
    const { clock } = this.host.surroundings;
    const asOf = clock.wall() - this.lagSeconds(clock.now()) * 1000;
    const { runs } = this;
    runs.schedule.schedule = schedule;
    if (runs.schedule.follows) return this.lookAtSchedule();
    // A run that is under way comes to its end first.
    if (!this.inStream || runs.underWay || this.catchingUp) return;
    this.leaveStream({ kind: 'rested' }, 'is sent delta runs from now on');
    runs.schedule.lastRunAt = asOf;
    runs.record(asOf);
  }

  /** A delta run begins as soon as it can. Throws MIRROR_STATE: it has no schedule, or an operator sent it away. */
  requestRun(): void {
    const { away, state } = this.standing;
    const { schedule } = this.runs;
    if (away || schedule.follows) {
      const why = away ? `is ${state}` : 'follows every write: it has no delta runs by choice';
      throw new BlockferryError('MIRROR_STATE', `mirror ${this.uri.text} ${why}`);
    }
    schedule.request();
    this.lookAtSchedule();
  }

  /** Ends the contact for a moment, and marks what the mirror lacks. `reconnect` follows. */
  async interrupt(message: string): Promise<void> {
    this.standing.transition({ kind: 'lost' }, message);
    await this.halt();
  }

  /** After `interrupt`. A mirror that an operator has to resume stays as it is. */
  reconnect(): void {
    if (!this.standing.away) this.link.start();
  }

  // ---- what is told of it

  /** How long a write of the host is held back for it, in milliseconds. */
  get hostDelayMs(): number {
    if (this.lagLimitMs === null || this.state !== 'streaming') return 0;
    const since = this.place.lateSince;
    const lagMs = since === null ? 0 : this.host.surroundings.clock.now() - since;
    return throttleMs(lagMs, this.lagLimitMs);
  }

  status(): MirrorRunningStatus & { readonly durableEpoch: number | null } {
    const { standing } = this;
    const { contact } = this.link;
    const now = this.host.surroundings.clock.now();
    return {
      uri: this.uri.text,
      dirty_context: dirtyContextName(this.id),
      mode: this.mode,
      stall_policy: this.stallPolicy,
      ...this.runs.status(),
      lag_limit_seconds: this.lagLimitMs === null ? null : this.lagLimitMs / 1000,
      host_delay_ms: Math.round(this.hostDelayMs * 10) / 10,
      state: standing.state,
      consistent: standing.consistent,
      durableEpoch: standing.durableEpoch,
      staged_bytes: this.stagedBytes,
      dirty_bytes: this.blocks.dirtyBytes,
      suspect_bytes: this.blocks.suspectBytes,
      lag_seconds: this.lagSeconds(now),
      ...this.runs.amounts(now),
      compression: this.compression.status(),
      last_error: standing.lastError,
      refuses: contact instanceof PeerContact ? contact.refuses : [],
      last_refusal: standing.lastRefusal,
    };
  }

  private lagSeconds(now: number): number {
    if (this.runs.resting !== null && this.blocks.clean) return 0;
    const since = this.place.lagsSince(this.inOrder);
    // Never zero while something is lacking, however young: scripts wait for zero.
    return since === null ? 0 : Math.max(1, Math.round(now - since)) / 1000;
  }

  // ---- the link

  private async connect(): Promise<Contact> {
    const { host, uri, blocks, limit, standing, id: mirrorId } = this;
    try {
      const contact = await reachMirror({
        uri,
        host,
        mirrorId,
        blocks,
        limit,
        arrived: (epoch) => standing.arrived(epoch),
        note: (kind, message) => {
          if (kind === 'mirror-snapshot-refused') standing.lastRefusal = message;
          standing.emit(kind, message);
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
    this.standing.lastError = why.message;
    if (this.leaveQueue()) this.blocks.takeBack();
    if (why.code === 'MIRROR_NEWER') this.host.superseded(this, why.message);
    if (this.standing.transition({ kind: 'parted' }, why.message)) void this.link.stop();
  }

  private inContact(contact: Contact): void {
    const bridged = this.place.bridge !== null;
    if (!bridged) this.standing.greet(contact);
    if (bridged || this.runs.due) return this.beginRun(contact, 'in contact');
    this.rest(contact, 'in contact, waits for its next delta run');
  }

  /** Until the next run of its schedule only bits are kept. */
  private rest(contact: Contact, message: string): void {
    this.runs.resting = contact;
    this.standing.lastError = null;
    this.link.settled();
    this.standing.transition({ kind: 'rested' }, message);
  }

  // ---- its runs

  private runOwner(): RunOwner {
    return {
      beginStaging: () => {
        this.place.take();
        this.host.wakeSoon();
      },
      isStaging: () => this.inStream,
      over: (contact) => this.runOver(contact),
      failed: (error) => this.link.fail(error),
    };
  }

  private beginRun(contact: Contact, message: string): void {
    this.runs.resting = null;
    const { bridge } = this.place;
    if (bridge !== null) {
      const behind = contact instanceof PeerContact ? bridge.goesOnBehind(contact) : null;
      if (behind !== null) return this.crossBridge(contact, behind);
      this.dropBridge();
      this.standing.greet(contact);
    }
    this.runs.begin(contact, message);
  }

  private runOver(contact: Contact): void {
    const { follower } = this.place;
    if (follower === null) this.ran(contact);
    else this.followBehindRun(contact, follower);
  }

  protected ran(contact: Contact): void {
    assert(this.place.follower === null, 'nothing more is staged for it');
    const { clock } = this.host.surroundings;
    const { runs } = this;
    const time = runs.schedule.over();
    this.place.ranAt(clock.now() - Math.max(0, clock.wall() - time));
    runs.record(time);
    this.standing.consistent = true;
    this.rest(contact, `holds what the volume held at ${isoTime(time)} (${runs.summary})`);
    this.host.progressed();
  }

  protected left(contact: Contact, pauseMs: number): void {
    const { runs } = this;
    if (!runs.schedule.follows) {
      runs.resting = contact;
      return;
    }
    this.host.surroundings.clock.after(pauseMs, () => {
      if (this.state !== 'delta' || this.link.contact !== contact || runs.underWay) return;
      this.beginRun(contact, 'catching up');
    });
  }
}
