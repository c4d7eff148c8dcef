/**
 * A volume that is a mirror of a volume of another node: it takes what its primary sends, and shows it to readers.
 *
 * Invariants:
 * - Nobody but the link writes. What a reader sees is one state of the primary, whole (I3).
 * - One link at a time, of the node that the volume is bound to: `admission.ts` says to whom, and when.
 * - While it is `promoting` (`takeover.ts`, `parting.ts`) no link begins.
 */
import assert from 'node:assert';
import { isoTime } from '../../io/clock.ts';
import type { Clock } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import type { DeviceRequest, Extent, StatusContext } from '../../io/device.ts';
import type { Disk } from '../../io/disk.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import { INTAKE_SILENT_MS, MIRROR_DRAIN_MS_MAX } from '../../io/limits.ts';
import type { TlsPeer } from '../../io/network.ts';
import type { Random } from '../../io/random.ts';
import type { Volume } from '../../volume/volume.ts';
import type { Examiner } from '../../workers/examiner.ts';
import type { EventKind } from '../event-kinds.ts';
import type { HostedVolume } from '../hosted-volume.ts';
import type { Link } from '../link/link-types.ts';
import { hasFeature } from '../link/link-version.ts';
import type { Hello } from '../link/messages.ts';
import { tellBlocks } from '../failover/rejoin.ts';
import type { EventSink, MirrorStatus, Position, SourceState, SourceStatus } from '../status.ts';
import { LinkAdmission } from './admission.ts';
import type { AdmissionHost, Verdict } from './admission.ts';
import { DeltaIntake } from './delta-intake.ts';
import { EpochIntake } from './epoch-intake.ts';
import type { IntakeHooks } from './epoch-intake.ts';
import { ReadGate } from './read-gate.ts';
import { Discarded, endHistoryLink } from './history-welcome.ts';
import { IntakeSession } from './session.ts';
import type { HandOver, SessionHost } from './session.ts';
import { Parting } from './parting.ts';
import type { PartingHost, Promotion, PromotionWish } from './parting.ts';
import { PrimarySnapshots } from './primary-snapshots.ts';
import { Takeover } from './takeover.ts';
import { Twins } from './twins.ts';

export interface SecondaryOptions {
  /** Its log says which node it is a mirror of. */
  readonly volume: Volume;
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  readonly examiner: Examiner;
  readonly events: EventSink;
  /** Name of this node. */
  readonly node: string;
  /** Length of a journal file; JOURNAL_FILE_BYTES if not given. */
  readonly journalFileBytes?: number;
}

export class SecondaryVolume
  implements HostedVolume, SessionHost, IntakeHooks, AdmissionHost, PartingHost
{
  readonly role = 'secondary';
  readonly readOnly = true;
  readonly volume: Volume;
  readonly clock: Clock;
  readonly examiner: Examiner;
  readonly intake: EpochIntake;
  readonly delta: DeltaIntake;
  readonly twins: Twins;
  readonly snapshots: PrimarySnapshots;

  readonly events: EventSink;
  readonly node: string;
  readonly sourceNode: string;
  private readonly gate: ReadGate;
  private readonly contextList: readonly StatusContext[];
  session: IntakeSession | null = null;
  private starting: Promise<void> | null = null;
  private started = false;
  /** It cannot be a mirror until the node is restarted, and why. */
  private broken: BlockferryError | null = null;
  lastError: string | null = null;
  private maintaining: Promise<void> | null = null;
  closing = false;
  /** From now on no link may begin. */
  promoting = false;
  /** Whoever waits for the end of the link. */
  private readonly sessionWaiters: (() => void)[] = [];
  private readonly admission: LinkAdmission;
  private readonly takeover: Takeover;
  private readonly parting: Parting;
  /** The volume takes writes: this object is to be closed. */
  onTakenOver: (() => void) | null = null;
  /** Why this node sends nothing to such a mirror; null: it may. */
  whyNoMirror: ((uri: string) => string | null) | null = null;
  /** Of links that are over. */
  private bytesBefore = 0;

  constructor(options: SecondaryOptions) {
    const { volume, clock, disk, random, journalFileBytes } = options;
    const { source } = volume.metadata.state;
    assert(source, 'the volume is a mirror');
    this.volume = volume;
    this.clock = clock;
    this.examiner = options.examiner;
    this.events = options.events;
    this.node = options.node;
    this.sourceNode = source.node;
    this.gate = new ReadGate((request) => {
      const { shown } = this.delta;
      return shown === null ? volume.read(request) : shown.read(request);
    });
    this.snapshots = new PrimarySnapshots({
      volume,
      tell: (kind, message) => this.tell(kind, message),
    });
    this.delta = new DeltaIntake({ volume, clock, gate: this.gate, twins: this.snapshots });
    this.twins = new Twins(volume);
    this.admission = new LinkAdmission(this, random);
    this.takeover = new Takeover(this);
    this.parting = new Parting(this, random);
    this.intake = new EpochIntake({
      volume,
      disk,
      clock,
      random,
      gate: this.gate,
      twins: this.twins,
      snapshots: this.snapshots,
      hooks: this,
      ...(journalFileBytes === undefined ? {} : { journalFileBytes }),
    });
    this.contextList = [
      {
        name: volume.allocation.name,
        describe: (offset, end, into) => this.describe(offset, end, into),
      },
    ];
  }

  /** Takes up what the last process left. Reads wait until that is done. */
  start(): void {
    assert(this.starting === null, 'it is started once');
    void this.gate.enter();
    this.delta.start();
    this.intake.rebase(this.volume.metadata.state.position);
    this.starting = this.takeUp();
  }

  private async takeUp(): Promise<void> {
    this.delta.gateIsHeld = true;
    try {
      await this.intake.persist(() => this.settled());
      await this.intake.start();
      await this.twins.discardAll();
      this.started = true;
    } catch (thrown) {
      const error = asError(thrown);
      this.gate.torn = error.message;
      if (!this.closing) this.breakDown(error);
    } finally {
      this.delta.gateIsHeld = false;
      this.gate.leave();
    }
  }

  /** As a status: `persist` tries again what a full disk refuses. */
  private async settled(): Promise<number> {
    try {
      await this.delta.settle();
      return Status.OK;
    } catch (thrown) {
      if (thrown instanceof BlockferryError && thrown.code === 'METADATA_WRITE_FAILED') {
        return Status.ENOSPC;
      }
      throw thrown;
    }
  }

  private breakDown(error: BlockferryError): void {
    this.broken = error;
    this.lastError = error.line;
    this.tell('source-failed', error.line);
  }

  // ---- who may send

  /** Whether a new link of this primary may begin. `tls`: what it showed of itself, null when it came in clear. */
  judge(hello: Hello, tls: TlsPeer | null): Verdict {
    return this.admission.judge(hello, tls);
  }

  /** Why it takes no link now, whoever asks; null: it may. */
  get whyNoLink(): string | null {
    const { volume } = this;
    if (this.promoting) return 'it is being promoted';
    if (this.broken !== null) return this.broken.line;
    if (volume.failed) return `it failed: ${volume.failure ?? ''}; restart its node`;
    if (this.intake.trouble !== null) return this.intake.trouble.line;
    if (!this.started || this.closing) return 'its node is starting or stopping; try again';
    return null;
  }

  /** Nothing comes of the last welcome of whoever said `hello`: another may be made. */
  unexpected(hello: Pick<Hello, 'node'>): void {
    this.admission.unexpected(hello);
  }

  /** The link that the last welcome was for, of whoever said `hello`. */
  attach(link: Link, hello: Hello): void {
    const { sourceNode } = this;
    if (hello.node !== sourceNode) {
      return endHistoryLink(link, `${this.volume.name} follows node ${sourceNode}`);
    }
    this.admission.arrived();
    if (this.session !== null || this.closing || this.promoting || !this.started) {
      link.start(new Discarded());
      link.destroy(new BlockferryError('BUSY', 'the mirror has another link'));
      return;
    }
    this.lastError = null;
    this.session = new IntakeSession(this, link, hello);
    link.start(this.session);
    if (hasFeature(hello, 'rejoin')) this.tellWhatMayDiffer(link);
    if (this.volume.metadata.state.refuses.length > 0) this.tellPolicy();
  }

  /** What it does not let its primary do is known there, so that it need not be tried. */
  tellPolicy(): void {
    const { session } = this;
    if (session === null || !hasFeature(session.hello, 'refusals')) return;
    const { refuses } = this.volume.metadata.state;
    this.clock.soon(() => session.link.sendControl({ kind: 'policy', refuses }));
  }

  /** Of a volume that took writes of its own, the blocks that are to be compared. */
  private tellWhatMayDiffer(link: Link): void {
    const { rejoin, mirrors } = this.volume.metadata.state;
    const marks = rejoin === null ? undefined : mirrors.get(rejoin.mirror);
    if (marks === undefined) return;
    this.clock.soon(() => {
      for (const message of tellBlocks([marks.dirty, marks.suspect])) link.sendControl(message);
    });
  }

  /** Ends what a run left that could not be recorded. */
  maintain(): void {
    if (this.maintaining !== null || this.closing) return;
    this.maintaining = this.settleLater().finally(() => {
      this.maintaining = null;
    });
  }

  get isMaintaining(): boolean {
    return this.maintaining !== null;
  }

  /** No link begins meanwhile: of what one brought the position would be taken back. */
  private async settleLater(): Promise<void> {
    try {
      await this.delta.settle();
      this.lastError = null;
      this.intake.rebase(this.volume.metadata.state.position);
    } catch (thrown) {
      this.lastError = asError(thrown).line;
    }
  }

  // --- SessionHost and IntakeHooks ---

  tell(kind: EventKind, message: string): void {
    this.events.emit({ kind, volume: this.volume.name, mirror: null, message });
  }

  sessionOver(session: IntakeSession, error: BlockferryError): void {
    assert(this.session === session, 'there is one session');
    this.session = null;
    this.bytesBefore += session.link.bytesReceived;
    this.lastError ??= error.line;
    this.tell('source-waiting', error.line);
    if (!this.delta.settled) this.maintain();
    for (const resolve of this.sessionWaiters.splice(0)) resolve();
    this.takeover.denied(error.line);
  }

  progressed(): void {
    this.session?.progressed();
  }

  commandDone(epoch: number, error: string | null): void {
    this.session?.commandDone(epoch, error);
  }

  troubled(error: BlockferryError): void {
    this.lastError = error.line;
    if (this.session === null) this.tell('source-failed', error.line);
    else this.session.fail(error);
  }

  // ---- status

  position(): Position {
    const held = this.intake.durable;
    if (held !== null) return { generation: held.generation, epoch: held.epoch };
    return { generation: this.volume.metadata.state.generation, epoch: 0 };
  }

  mirrorStatuses(): MirrorStatus[] {
    return [];
  }

  sourceStatus(): SourceStatus {
    const { intake, session } = this;
    const held = intake.applied;
    return {
      node: this.sourceNode,
      volume_id: this.volume.metadata.state.source?.volumeId ?? null,
      state: this.state(),
      consistent_at: held === null ? null : isoTime(held.time),
      lag_seconds: held === null ? null : this.lagSeconds(held.time),
      received_epoch: intake.received,
      durable_epoch: intake.durable?.epoch ?? 0,
      applied_epoch: held?.epoch ?? 0,
      bytes_received: this.bytesBefore + (session?.link.bytesReceived ?? 0),
      journal_bytes: intake.journalBytes,
      last_error: this.broken?.line ?? intake.trouble?.line ?? this.lastError,
    };
  }

  private state(): SourceState {
    if (this.broken !== null || this.volume.failed || this.intake.trouble !== null) return 'failed';
    if (this.session === null) return 'waiting';
    return this.session.streaming ? 'streaming' : 'receiving';
  }

  private lagSeconds(time: number): number {
    const { session, intake } = this;
    if (session === null) return Math.max(0, (this.clock.wall() - time) / 1000);
    if (session.streaming && session.heardEpoch <= (intake.applied?.epoch ?? 0)) return 0;
    return Math.max(0, (session.heardTime - time) / 1000);
  }

  // ---- the end of being a mirror

  /**
   * Becomes a volume that takes writes, at the latest whole state that it holds: the epochs that are complete are applied, a run
   * that is not is given up (I8). Waits for no primary. When it resolves a generation was opened, durably, and this object is to
   * be closed: the volume is no mirror any more. After an error it may be tried again.
   * `keptAs`: a name for the snapshot that is to keep this state; null: none is made.
   * @throws BlockferryError PRIMARY_ALIVE (unless `force`), MIRROR_EMPTY, VOLUME_FAILED, METADATA_WRITE_FAILED, JOURNAL_UNUSABLE
   */
  promote(wish: PromotionWish): Promise<Promotion> {
    return this.parting.promote(wish);
  }

  /**
   * Ends what it takes from its primary, for good: nothing is on its way then, and no run is left half done. This object is to be closed.
   * After an error it may be tried again, or the node restarted. @throws BlockferryError BUSY and as `promote`
   */
  leaveSource(): Promise<void> {
    return this.parting.leaveSource();
  }

  /** What the last process left is taken up. Throws what broke it. */
  async takenUp(): Promise<void> {
    await this.starting;
    if (this.broken !== null) throw this.broken;
  }

  /** Its primary was heard of in the last moments. */
  get follows(): boolean {
    const { session } = this;
    return session !== null && this.clock.now() - session.heardAt < INTAKE_SILENT_MS;
  }

  /** Ends the link, if there is one, and what was to be done behind it. */
  async endLink(reason: string): Promise<void> {
    const { session } = this;
    if (session !== null) {
      const over = this.untilSessionOver();
      session.link.destroy(new BlockferryError('LINK_ENDED', reason));
      await over;
    }
    await this.maintaining;
  }

  private untilSessionOver(): Promise<void> {
    return new Promise<void>((resolve) => {
      this.sessionWaiters.push(resolve);
    });
  }

  // ---- handover

  /**
   * Asks the primary to give its writes to this mirror, or to split. Resolves with null when this mirror takes them (its object is
   * being closed then), else with the reason why not.
   */
  want(wish: { split: boolean; withinMs: number; back: string | null }): Promise<string | null> {
    return this.takeover.want(wish);
  }

  handoverDenied(why: string): void {
    this.takeover.denied(why);
  }

  handOver(session: IntakeSession, message: HandOver): Promise<void> {
    return this.takeover.take(session, message);
  }

  // ---- closing

  async close(): Promise<void> {
    if (this.closing) return;
    this.closing = true;
    await this.endSession();
    this.intake.stop();
    await this.starting;
    await this.maintaining;
    await this.intake.close();
  }

  private async endSession(): Promise<void> {
    const { session } = this;
    if (session === null) return;
    const over = this.untilSessionOver();
    session.link.end('the node of the mirror is stopping');
    const timer = this.clock.after(MIRROR_DRAIN_MS_MAX, () => {
      session.link.destroy(new BlockferryError('SHUTTING_DOWN', 'the node is stopping'));
    });
    await over;
    timer.cancel();
  }

  // --- BlockDevice ---

  get sizeBytes(): number {
    return this.volume.sizeBytes;
  }

  get description(): string {
    return `mirror of a volume of node ${this.sourceNode}`;
  }

  opened(): void {}

  closed(): void {}

  read(request: DeviceRequest): number {
    return this.gate.read(request);
  }

  write(): number {
    return Status.EPERM;
  }

  zero(): number {
    return Status.EPERM;
  }

  trim(): number {
    return Status.EPERM;
  }

  flush(): number {
    return Status.OK;
  }

  cache(request: DeviceRequest): number {
    const { shown } = this.delta;
    return shown === null ? this.volume.cache(request) : shown.cache(request);
  }

  contexts(): readonly StatusContext[] {
    return this.contextList;
  }

  /** While reads wait, the maps are between two states: nothing is said of them then. */
  private describe(offset: number, end: number, into: Extent): void {
    into.end = end;
    into.flags = 0;
    if (!this.gate.open) return;
    const [allocation] = this.delta.shown?.contexts() ?? [this.volume.allocation];
    allocation?.describe(offset, end, into);
  }
}

function asError(thrown: unknown): BlockferryError {
  if (thrown instanceof BlockferryError) return thrown;
  return new BlockferryError('INTERNAL', errorText(thrown), { cause: thrown });
}
