/**
 * A machine with a mirror on it, under dice: its disk fails and loses power as the simulator's does, its link brings frames
 * in any order, and a reader looks at the export all the time.
 */
import { Dice } from '../../../../scripts/fuzz/dice.ts';
import { DeviceRequest, PENDING } from '../../../../src/io/device.ts';
import type { Random } from '../../../../src/io/random.ts';
import { SecondaryVolume } from '../../../../src/replicator/intake/secondary.ts';
import { FrameKind } from '../../../../src/replicator/link/link-types.ts';
import {
  LINK_VERSION,
  type Hello,
  type Welcome,
} from '../../../../src/replicator/link/messages.ts';
import { VolumeStore } from '../../../../src/volume/store.ts';
import { inlineExaminer } from '../../../../src/workers/examiner.ts';
import { Platter } from '../../../sim/platter.ts';
import { Scheduler, settled } from '../../../sim/scheduler.ts';
import { SimDisk, type DiskTraits } from '../../../sim/sim-disk.ts';
import { CopyModel, tagsOf, type Content } from './copy-model.ts';
import { LaneLink } from './lane-link.ts';

const STEPS_MAX = 400_000;

export const GENERATIONS = [{ number: 1, id: 'a1'.repeat(16), firstEpoch: 1 }];
export const VOLUME_ID = 'c0'.repeat(16);

class ReaderRequest extends DeviceRequest {
  override retain(): void {}
}

export class MirrorWorld {
  readonly dice: Dice;
  readonly model: CopyModel;
  readonly events: string[] = [];
  scheduler: Scheduler;
  disk: SimDisk;
  store: VolumeStore | null = null;
  mirror: SecondaryVolume | null = null;
  link: LaneLink | null = null;
  runNumber = 0;
  journalFileBytes = 1024 * 1024;
  /** Epochs that the mirror acknowledged as durable, or brought by a committed run: it must never fall behind. */
  promised = 0;
  reads = 0;
  /** The primary says what it waits for; else the mirror hurries always. */
  awaits: boolean;
  private readonly seed: number;
  readonly traits: DiskTraits;
  private lives = 0;

  constructor(seed: number, blocks = 48) {
    this.seed = seed;
    this.dice = new Dice(seed, 1);
    this.awaits = new Dice(seed, 6).chance(60);
    this.traits = {
      knowsExtents: this.dice.chance(80),
      knowsBoot: this.dice.chance(80),
      canPunch: this.dice.chance(80),
      canProvision: this.dice.chance(50),
      grain: this.dice.pick([1, 1, 4]),
      cold: this.dice.pick([0, 0, 30, 90]),
      slow: this.dice.pick([0, 0, 5, 60]),
    };
    this.model = new CopyModel(blocks, new Dice(seed, 2));
    this.scheduler = new Scheduler(new Dice(seed, 3), 1000);
    this.disk = new SimDisk(
      new Platter(new Dice(seed, 4)),
      this.traits,
      this.scheduler,
      new Dice(seed, 5),
    );
  }

  async create(): Promise<void> {
    this.openStore();
    await this.done(this.store!.create('m', this.model.sizeBytes, 'one'), 'creating');
    this.openMirror();
  }

  /** The process ends, and the next one begins on what it left. */
  restart(how: 'kill' | 'cut'): void {
    this.disk.endNow(how);
    this.begin();
  }

  begin(): void {
    this.lives += 1;
    this.scheduler = new Scheduler(
      new Dice(this.seed, 1000 + this.lives),
      this.scheduler.now() + 10,
    );
    this.disk = new SimDisk(
      this.disk.platter,
      this.traits,
      this.scheduler,
      new Dice(this.seed, 5000 + this.lives),
    );
    this.link = null;
    this.mirror = null;
    this.runNumber = 0;
    this.openStore();
    this.openMirror();
  }

  private openStore(): void {
    const { disk, scheduler } = this;
    this.store = VolumeStore.open({ disk, clock: scheduler, random: this.random(), path: '/data' });
  }

  private openMirror(): void {
    const volume = this.store!.find('m');
    if (volume === null)
      throw new Error(`the volume is gone: ${JSON.stringify(this.store!.damaged)}`);
    // It was promoted: the test makes of it what it wants.
    if (volume.metadata.state.source === null) return;
    this.mirror = new SecondaryVolume({
      volume,
      disk: this.disk,
      clock: this.scheduler,
      random: this.random(),
      examiner: inlineExaminer,
      events: { emit: ({ kind, message }) => void this.events.push(`${kind}: ${message}`) },
      node: 'two',
      journalFileBytes: this.journalFileBytes,
    });
    this.mirror.start();
  }

  random(): Random {
    const dice = new Dice(this.seed, 9000 + this.lives);
    return { fraction: () => dice.u32() / 2 ** 32, bytes: (count) => dice.bytes(count) };
  }

  // ---- time

  /** One thing happens, on the machine or on the link. */
  async step(): Promise<boolean> {
    if (this.link !== null && this.link.queued > 0 && this.dice.chance(50)) {
      if (this.link.deliver()) {
        await settled();
        return true;
      }
    }
    const worked = this.scheduler.step();
    await settled();
    return worked || this.link?.deliver() === true;
  }

  async until(what: string, ready: () => boolean): Promise<void> {
    await settled();
    // A promise may have had to say something in the last of them.
    let quiet = 0;
    for (let count = 0; !ready() && this.disk.ended === null; count += 1) {
      if (count > STEPS_MAX)
        throw new Error(`seed ${this.seed}: ${what} never ended\n${this.events.join('\n')}`);
      quiet = (await this.step()) ? 0 : quiet + 1;
      if (quiet > 2 && !ready()) {
        throw new Error(`seed ${this.seed}: ${what} hangs\n${this.events.join('\n')}`);
      }
    }
  }

  async done<Result>(promise: Promise<Result>, what: string): Promise<Result | null> {
    let outcome: { result: Result } | { error: unknown } | null = null;
    promise.then(
      (result) => (outcome = { result }),
      (error: unknown) => (outcome = { error }),
    );
    await this.until(what, () => outcome !== null);
    const ended = outcome as { result: Result } | { error: unknown } | null;
    if (ended === null || this.disk.ended !== null) return null;
    if ('error' in ended) throw ended.error;
    return ended.result;
  }

  // ---- reading

  /** What the export shows, all of it in one read; null when the process ended meanwhile. */
  async content(): Promise<Content | null> {
    const bytes = await this.done(this.read(), 'a read');
    return bytes === null ? null : tagsOf(bytes);
  }

  read(): Promise<Buffer> {
    const request = new ReaderRequest();
    request.length = this.model.sizeBytes;
    request.buffer = Buffer.alloc(request.length, 0xaa);
    return new Promise((resolve, reject) => {
      const told = (status: number): void => {
        if (status === 0) resolve(request.buffer);
        else reject(new Error(`a read answered ${status}`));
      };
      const completer = { completed: (_: DeviceRequest, status: number) => told(status) };
      request.push(completer);
      const status = this.mirror!.read(request);
      if (status === PENDING) return;
      request.pop(completer);
      told(status);
    });
  }

  /** A reader: what it sees is a state of the primary, at any moment. */
  readInBackground(): void {
    const { disk } = this;
    const from = this.shownEpoch();
    void this.read().then(
      (bytes) => {
        if (disk.ended !== null) return;
        this.reads += 1;
        const content = tagsOf(bytes);
        const to = this.model.last;
        for (let epoch = from; epoch <= to; epoch += 1) if (this.model.isAt(epoch, content)) return;
        throw new Error(`seed ${this.seed}: a read saw no state of the primary`);
      },
      () => {},
    );
  }

  private shownEpoch(): number {
    return this.mirror!.intake.applied?.epoch ?? 0;
  }

  // ---- the primary

  hello(): Hello {
    return {
      version: LINK_VERSION,
      node: 'one',
      volume: 'm',
      volumeId: VOLUME_ID,
      sizeBytes: this.model.sizeBytes,
      generations: GENERATIONS,
      epoch: this.model.last,
      lane: null,
      lanes: 3,
      ...(this.awaits ? { features: ['awaits'] } : {}),
    };
  }

  /** Connects as soon as the mirror lets it; null when the process ended before. */
  async connect(): Promise<Welcome | null> {
    let welcome: Welcome | null = null;
    await this.until('connecting', () => {
      const verdict = this.mirror!.judge(this.hello(), null);
      if (verdict.kind === 'stranger') throw new Error(verdict.reason);
      if (verdict.kind === 'welcome') welcome = verdict.welcome;
      // Time passes between two attempts.
      else this.scheduler.lose(50);
      return welcome !== null;
    });
    if (welcome === null || this.disk.ended !== null) return null;
    this.link = new LaneLink(this.scheduler, this.dice);
    this.mirror!.attach(this.link, this.hello());
    return welcome;
  }

  get connected(): boolean {
    return this.link !== null && this.link.endedBy === null && this.disk.ended === null;
  }

  /** Sends epoch `epoch` as the model has it. */
  sendEpoch(epoch: number): void {
    const frames = this.model.frames.get(epoch)!;
    frames.forEach(({ kind, payload }, index) =>
      this.link!.frame({ kind, epoch, index, length: payload.length }, payload),
    );
    this.link!.frame({ kind: FrameKind.CLOSE, epoch, index: frames.length, aux: 1000 + epoch });
    if (this.awaits && epoch % 3 === 0) this.link!.frame({ kind: FrameKind.AWAITS, epoch });
  }

  /** Waits for something of the mirror; false when the link or the process is gone. */
  async heard(what: string, ready: () => boolean): Promise<boolean> {
    await this.until(what, () => ready() || !this.connected);
    return this.connected;
  }

  /** One whole run from what the mirror holds to the last epoch. False: it was interrupted. */
  async run(
    welcome: Welcome,
    options: { id?: string; full?: boolean; epoch?: number; abort?: boolean } = {},
  ): Promise<boolean> {
    const link = this.link!;
    const epoch = options.epoch ?? this.model.last;
    const id = options.id ?? this.dice.bytes(16).toString('hex');
    const full = options.full ?? welcome.position === null;
    this.runNumber += 1;
    const number = this.runNumber;
    link.control({
      kind: 'run-begin',
      number,
      run: id,
      generation: 1,
      epoch,
      time: 1000 + epoch,
      sizeBytes: this.model.sizeBytes,
      generations: GENERATIONS,
      full,
    });
    let cursor = 0;
    const ready = await this.heard('run-ready', () =>
      link.controls.some((message) => {
        if (message.kind !== 'run-ready' || message.run !== id) return false;
        cursor = message.cursor;
        return true;
      }),
    );
    if (!ready) return false;
    const base = welcome.position === null || full ? 0 : welcome.position.epoch;
    const from = full ? new Uint32Array(this.model.blocks) : this.model.states[base]!;
    let index = 0;
    for (const { frames, first } of this.model.difference(from, epoch, cursor / 4096)) {
      if (this.dice.chance(20)) {
        link.control({ kind: 'run-mark', run: id, cursor: first * 4096, frames: index });
        for (let more = this.dice.below(30); more > 0 && this.connected; more -= 1)
          await this.step();
      }
      for (const { kind, payload } of frames) {
        link.frame({ kind, epoch: number, index, length: payload.length }, payload);
        index += 1;
      }
      if (this.dice.chance(30)) this.readInBackground();
      if (!this.connected) return false;
    }
    if (options.abort === true) {
      link.control({ kind: 'run-mark', run: id, cursor: this.model.sizeBytes, frames: index });
      link.control({ kind: 'run-abort', run: id });
      const { delta } = this.mirror!;
      await this.heard('the end of the run', () => delta.open === null && delta.settled);
      return false;
    }
    link.control({ kind: 'run-commit', run: id, frames: index });
    const committed = await this.heard('run-committed', () =>
      link.controls.some((message) => message.kind === 'run-committed' && message.run === id),
    );
    if (committed) this.promised = epoch;
    return committed;
  }
}
