/**
 * One link on the side of the mirror: what comes over it goes where it belongs, and what became of it goes back.
 *
 * Invariants:
 * - Control messages are done one after another; at most INTAKE_MESSAGES_MAX wait.
 * - Epochs come out of the assembly when the stream was begun, behind the very epoch that this copy holds.
 * - Whatever a primary sends can do no more than end its link (I12). When this node cannot go on it says why, and ends it.
 * - Positions are sent once a turn, when they changed; those that nobody waits for, within INTAKE_ACK_MS_MAX.
 */
import { BlockferryError } from '../../io/errors.ts';
import type { Clock, Timer } from '../../io/clock.ts';
import { INTAKE_ACK_MS_MAX, INTAKE_MESSAGES_MAX } from '../../io/limits.ts';
import type { Volume } from '../../volume/volume.ts';
import type { Examiner } from '../../workers/examiner.ts';
import { FrameKind } from '../link/link-types.ts';
import type { FrameHeader, Link, LinkHandler, ReceivedPayload } from '../link/link-types.ts';
import { hasFeature } from '../link/link-version.ts';
import { decodeCommand } from '../link/messages.ts';
import type { EventKind } from '../event-kinds.ts';
import type { ControlMessage, Hello } from '../link/messages.ts';
import { faultInFrame } from './apply.ts';
import type { DeltaIntake, RunBegin } from './delta-intake.ts';
import { faultInDescent, isSameHistory } from './descent.ts';
import { DigestAnswers, isOfTwin } from './digest-answers.ts';
import { EpochAssembly } from './epoch-assembly.ts';
import { refusal } from './epoch-intake.ts';
import type { EpochIntake } from './epoch-intake.ts';
import type { PrimarySnapshots } from './primary-snapshots.ts';
import type { Twins } from './twins.ts';

export type HandOver = Extract<ControlMessage, { kind: 'hand-over' }>;

export interface SessionHost {
  readonly volume: Volume;
  readonly clock: Clock;
  readonly examiner: Examiner;
  readonly intake: EpochIntake;
  readonly delta: DeltaIntake;
  readonly twins: Twins;
  readonly snapshots: PrimarySnapshots;
  tell(kind: EventKind, message: string): void;
  /** The primary gives its writes away. */
  handOver(session: IntakeSession, message: HandOver): Promise<void>;
  handoverDenied(why: string): void;
  /** The link is gone, and nothing of it is on its way. */
  sessionOver(session: IntakeSession, error: BlockferryError): void;
}

export class IntakeSession implements LinkHandler {
  readonly link: Link;
  /** When it was last heard of: milliseconds of the clock. */
  heardAt: number;
  /** The latest moment of the primary that it told of, in wall-clock milliseconds; 0: none. */
  heardTime = 0;
  /** The last epoch that the primary is known to have closed. */
  heardEpoch = 0;
  /** Epochs follow one another. */
  streaming = false;

  /** What its primary said of itself. */
  readonly hello: Hello;
  private readonly host: SessionHost;
  private readonly assembly: EpochAssembly;
  private readonly answers: DigestAnswers;
  private readonly messages: ControlMessage[] = [];
  private working: Promise<void> | null = null;
  private runNumber = -1;
  private acking = false;
  private acked = { epoch: -1, index: -1, aux: -1 };
  private ackedAt = Number.NEGATIVE_INFINITY;
  private ackTimer: Timer | null = null;
  /** The primary says what its host waits for, and no one waits for anything else. */
  private readonly paced: boolean;
  /** It waits for all up to this epoch to be durable. */
  private awaited = 0;
  private over = false;
  /** What comes over the link, which is still there to be answered, is dropped. */
  deaf = false;

  constructor(host: SessionHost, link: Link, hello: Hello) {
    this.host = host;
    this.link = link;
    this.hello = hello;
    this.heardAt = host.clock.now();
    this.paced = hasFeature(hello, 'awaits');
    host.intake.pace(this.paced);
    this.assembly = new EpochAssembly(host.intake.received);
    const { examiner, delta, twins } = host;
    this.answers = new DigestAnswers({
      link,
      examiner,
      soon: (callback) => host.clock.soon(callback),
      deviceOf: (question) => {
        if (isOfTwin(question)) return twins.device(question.epoch);
        return delta.active && question.epoch === this.runNumber ? delta.shown : null;
      },
    });
    this.tellPositions();
  }

  // --- LinkHandler ---

  frame(header: FrameHeader, payload: ReceivedPayload | null): void {
    this.heardAt = this.host.clock.now();
    if (this.over || this.deaf) {
      payload?.release();
      return;
    }
    this.orEnd(() => this.take(header, payload));
  }

  control(message: ControlMessage): void {
    this.heardAt = this.host.clock.now();
    if (this.over || this.deaf) return;
    if (this.messages.length >= INTAKE_MESSAGES_MAX) {
      this.cut(protocol(`more than ${INTAKE_MESSAGES_MAX} messages at once`));
      return;
    }
    this.messages.push(message);
    this.work();
  }

  heartbeat({ epoch }: FrameHeader): void {
    this.heardAt = this.host.clock.now();
    this.heardEpoch = Math.max(this.heardEpoch, epoch);
  }

  drained(): void {}

  closed(error: BlockferryError): void {
    this.silence();
    this.assembly.drop();
    void this.leave(error);
  }

  private async leave(error: BlockferryError): Promise<void> {
    const { delta, twins } = this.host;
    // Once for who waits for more of the run, and once for what was begun meanwhile.
    await delta.leaveLink();
    await this.working;
    await delta.leaveLink();
    await this.answers.stop();
    await twins.discardAll();
    this.host.sessionOver(this, error);
  }

  // ---- for the host

  /** `received`, `durable` or `applied` changed. */
  progressed(): void {
    const durable = this.host.intake.durable?.epoch ?? 0;
    this.assembly.acknowledged(durable);
    // The awaited epoch is the last of them: other requests may wait for earlier ones.
    const isAwaited = this.acked.epoch < Math.min(durable, this.awaited);
    if (!this.paced || isAwaited) this.tellPositions();
    else this.tellPositionsLater();
  }

  commandDone(epoch: number, error: string | null): void {
    this.link.sendControl({ kind: 'command-done', epoch, error });
  }

  hearNoMore(): void {
    this.deaf = true;
    this.messages.length = 0;
  }

  /** This node cannot go on: the primary is told why, and the link ends. */
  fail(error: BlockferryError): void {
    if (this.over) return;
    this.silence();
    this.host.tell('source-failed', error.line);
    this.link.sendControl({ kind: 'failed', code: error.code, message: error.message });
    this.link.end(error.message);
  }

  // ---- frames

  private take(header: FrameHeader, payload: ReceivedPayload | null): void {
    switch (header.kind) {
      case FrameKind.DATA:
      case FrameKind.RANGES:
      case FrameKind.COMMAND:
        this.takePart(header, payload);
        return;
      case FrameKind.CLOSE:
        payload?.release();
        this.heardTime = Math.max(this.heardTime, header.aux);
        this.heardEpoch = Math.max(this.heardEpoch, header.epoch);
        this.assembly.close(header);
        this.takeEpochs();
        return;
      case FrameKind.RUN_DATA:
      case FrameKind.RUN_RANGES:
        this.host.delta.frame(header, payload);
        return;
      case FrameKind.DIGESTS:
        this.answers.ask(header, payload);
        return;
      case FrameKind.AWAITS:
        payload?.release();
        this.awaited = Math.max(this.awaited, header.epoch);
        this.host.intake.hurry(header.epoch);
        // It may be durable by now, and nobody was told.
        this.progressed();
        return;
      case FrameKind.ACK:
      case FrameKind.CONTROL:
      case FrameKind.HEARTBEAT:
      case FrameKind.DIFFERS:
        payload?.release();
        throw protocol(`a frame of kind ${header.kind}`);
    }
  }

  private takePart(header: FrameHeader, payload: ReceivedPayload | null): void {
    if (header.volume !== 0) {
      payload?.release();
      throw protocol(`a frame for volume ${header.volume} of a group of one`);
    }
    if (payload !== null) this.judge(header, payload);
    this.assembly.add(header, payload);
    this.takeEpochs();
  }

  /** Before the journal has it: what is there can be applied. */
  private judge({ kind }: FrameHeader, payload: ReceivedPayload): void {
    let fault: string | null = null;
    try {
      fault = faultInFrame(kind, payload, this.host.volume.sizeBytes);
      if (kind === FrameKind.COMMAND) decodeCommand(payload.buffer.subarray(0, payload.length));
    } catch (thrown) {
      payload.release();
      throw thrown;
    }
    if (fault === null) return;
    payload.release();
    throw protocol(fault);
  }

  private takeEpochs(): void {
    // Before the journal has work with them: the host may wait for it to be said that they are here.
    this.tellPositions();
    for (let epoch = this.assembly.next(); epoch !== null; epoch = this.assembly.next()) {
      this.host.intake.accept(epoch);
    }
  }

  private tellPositions(): void {
    if (this.acking) return;
    this.acking = true;
    this.host.clock.soon(() => {
      this.acking = false;
      this.sendPositions();
    });
  }

  /** Nobody waits for it: it goes with what is told next, or after a while. */
  private tellPositionsLater(): void {
    const { clock } = this.host;
    const waitMs = INTAKE_ACK_MS_MAX - (clock.now() - this.ackedAt);
    if (waitMs <= 0) return this.tellPositions();
    this.ackTimer ??= clock.after(Math.max(1, waitMs), () => {
      this.ackTimer = null;
      this.sendPositions();
    });
  }

  private sendPositions(): void {
    if (this.over) return;
    const { received, durable, applied } = this.host.intake;
    const { acked } = this;
    const positions = { epoch: durable?.epoch ?? 0, index: received, aux: applied?.epoch ?? 0 };
    const { epoch, index, aux } = positions;
    if (epoch === acked.epoch && index === acked.index && aux === acked.aux) return;
    this.acked = positions;
    this.ackedAt = this.host.clock.now();
    this.ackTimer?.cancel();
    this.ackTimer = null;
    this.link.setHeartbeat(positions);
    if (!this.streaming) return;
    this.link.send({
      kind: FrameKind.ACK,
      flags: 0,
      volume: 0,
      offset: 0,
      length: 0,
      ...positions,
    });
  }

  // ---- messages

  private work(): void {
    this.working ??= this.workOff().finally(() => {
      this.working = null;
      if (this.messages.length > 0) this.work();
    });
  }

  private async workOff(): Promise<void> {
    for (let message = this.messages.shift(); message !== undefined;) {
      try {
        await this.answer(message);
      } catch (thrown) {
        if (!(thrown instanceof BlockferryError)) throw thrown;
        if (thrown.code === 'LINK_PROTOCOL') this.cut(thrown);
        else this.fail(thrown);
        return;
      }
      message = this.messages.shift();
    }
  }

  private async answer(message: ControlMessage): Promise<void> {
    switch (message.kind) {
      case 'stream-begin':
        await this.beginStream(message.generation, message.after);
        return;
      case 'run-begin':
        await this.beginRun(message);
        return;
      case 'run-mark':
        if (await this.host.delta.mark(message.run, message.cursor, message.frames)) {
          this.link.sendControl({ kind: 'run-durable', run: message.run, cursor: message.cursor });
        }
        return;
      case 'run-commit':
        await this.commitRun(message);
        return;
      case 'snapshots-are':
        await this.tellSnapshots(message.ids);
        return;
      case 'run-abort':
        await this.host.delta.abort(message.run);
        this.rebase();
        return;
      case 'hand-over':
        await this.host.handOver(this, message);
        return;
      case 'handover-denied':
        this.host.handoverDenied(message.message);
        return;
      case 'run-ready':
      case 'run-durable':
      case 'run-committed':
      case 'snapshots-held':
      case 'command-done':
      case 'failed':
      case 'may-differ':
      case 'policy':
      case 'handed-over':
      case 'handover-refused':
      case 'handover-wanted':
        throw protocol(`the message ${message.kind}`);
    }
  }

  private async beginStream(generation: number, after: number): Promise<void> {
    const { intake, delta, volume } = this.host;
    const { metadata } = volume;
    const fault = faultInDescent(metadata.state, this.hello.generations, generation);
    if (fault !== null) throw protocol(fault);
    if (delta.open !== null || intake.durable === null) {
      throw protocol('epochs, and this copy holds no whole state yet');
    }
    if (!intake.settled || after !== intake.received || after !== this.assembly.last) {
      throw protocol(`epochs after ${after}, and this copy holds epoch ${intake.received}`);
    }
    if (!isSameHistory(metadata.state.generations, this.hello.generations)) {
      metadata.append({ kind: 'history-set', generations: this.hello.generations });
      const status = await volume.commit();
      if (status !== 0) throw refusal(volume.name, status);
      if (this.over) return;
    }
    this.assembly.begin(generation, after);
    this.streaming = true;
    this.host.tell('source-streaming', `${this.link.peer} sends what follows epoch ${after}`);
    this.takeEpochs();
  }

  private async beginRun(message: RunBegin): Promise<void> {
    const { intake, delta, volume } = this.host;
    const { state } = volume.metadata;
    // Who rejoins gave up what it held: any line may take its place.
    const { position, rejoin } = state;
    const generations = rejoin === null ? state.generations : [];
    const held = { position, generations };
    const fault = faultInDescent(held, message.generations, message.generation);
    if (fault !== null) throw protocol(fault);
    if (message.sizeBytes !== volume.sizeBytes) {
      throw protocol(`a run of ${message.sizeBytes} bytes for ${volume.sizeBytes}`);
    }
    if (message.number <= this.runNumber) throw protocol(`run ${message.number} a second time`);
    this.runNumber = message.number;
    this.streaming = false;
    this.assembly.halt();
    const status = await intake.finish();
    if (status !== 0) throw intake.trouble ?? refusal(volume.name, status);
    // A command of an epoch that was applied after the end of its link may have left one.
    await this.host.twins.discardAll();
    this.assembly.end(message.epoch);
    this.bind();
    const resumed = state.run?.run === message.run;
    const cursor = await delta.begin(message);
    if (this.over) return;
    this.heardTime = Math.max(this.heardTime, message.time);
    const from = resumed ? `goes on at byte ${cursor}` : 'begins';
    this.host.tell('source-receiving', `the delta run of ${this.link.peer} ${from}`);
    this.link.sendControl({ kind: 'run-ready', run: message.run, cursor });
  }

  /** At the first contact the copy is bound to the volume whose content it takes. The run is recorded with it. */
  private bind(): void {
    const { metadata } = this.host.volume;
    const { source } = metadata.state;
    if (source === null || source.volumeId !== null) return;
    metadata.append({ kind: 'source-bound', node: source.node, volumeId: this.hello.volumeId });
  }

  /** Which snapshots of its primary are here, when all that came is applied. */
  private async tellSnapshots(ids: readonly string[]): Promise<void> {
    const { intake, snapshots, volume } = this.host;
    const status = await intake.finish();
    if (status !== 0) throw intake.trouble ?? refusal(volume.name, status);
    const { held, refused } = await snapshots.compare(ids);
    if (this.over) return;
    const { position } = volume.metadata.state;
    const { generation, epoch } = position ?? { generation: 0, epoch: 0 };
    this.link.sendControl({
      kind: 'snapshots-held',
      ids: held,
      position: position === null ? null : { generation, epoch },
      ...(refused === null || !hasFeature(this.hello, 'refusals') ? {} : { refused }),
    });
  }

  private async commitRun(message: Extract<ControlMessage, { kind: 'run-commit' }>): Promise<void> {
    const { run, frames } = message;
    const outcome = await this.host.delta.finish(run, frames, message.snapshot ?? null);
    if (outcome === null) return;
    this.rebase();
    const epoch = this.host.intake.durable?.epoch ?? 0;
    this.host.tell('source-committed', `the delta run of ${this.link.peer} brought epoch ${epoch}`);
    const { refused } = outcome;
    this.link.sendControl({ kind: 'run-committed', run, ...(refused === null ? {} : { refused }) });
  }

  private rebase(): void {
    this.host.intake.rebase(this.host.volume.metadata.state.position);
    this.tellPositions();
  }

  private orEnd(run: () => void): void {
    try {
      run();
    } catch (thrown) {
      if (!(thrown instanceof BlockferryError)) throw thrown;
      this.cut(thrown);
    }
  }

  /** The primary did what it must not. */
  private cut(error: BlockferryError): void {
    this.silence();
    this.link.destroy(error);
  }

  /** Nothing that comes counts any more; `closed` is still to come. */
  private silence(): void {
    this.over = true;
    this.streaming = false;
    this.messages.length = 0;
    this.ackTimer?.cancel();
    this.ackTimer = null;
  }
}

function protocol(what: string): BlockferryError {
  return new BlockferryError('LINK_PROTOCOL', `the primary sent what does not fit: ${what}`);
}
