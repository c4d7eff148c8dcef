/**
 * Plays a history: starts what its steps say, keeps the model true to what is answered, and ends lives. Requests and
 * operations run side by side; what may not be told apart by the model is not started at the same time.
 */
import type { Disk } from '../../src/io/disk.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import type { SnapshotInfo, VolumeSnapshots } from '../../src/volume/snapshots/snapshot-types.ts';
import { createTogether } from '../../src/volume/snapshots/freeze.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { answered, requestOf } from '../volume/support/request.ts';
import type { TestRequest } from '../volume/support/request.ts';
import { wrongUnless } from './failure.ts';
import { SNAPSHOT_NAMES, type History, type Step } from './history.ts';
import { Machine } from './machine.ts';
import { bytesOfImage } from './model.ts';
import { checkRead } from './read-check.ts';
import { SECTOR, type Change } from './sectors.ts';
import type { SimDisk } from './sim-disk.ts';
import { verify, verifySnapshot } from './verify.ts';
import type { PendingName, VolumeModel } from './volume-model.ts';

const EINVAL = 22;
const ENOSPC = 28;
const ENOTSUP = 95;
const ESHUTDOWN = 108;
const BLOCK = 4096;
/** Steps that a volume goes on for, refusing, after a sync failed. */
const STEPS_FAILED_MAX = 3;

type StepOf<Kind extends Step['kind']> = Extract<Step, { kind: Kind }>;
type SnapshotKind =
  | 'snapshot'
  | 'refresh'
  | 'copy'
  | 'synchronise'
  | 'delete'
  | 'restore'
  | 'restore-range'
  | 'read-snapshot'
  | 'merge';

export class Player {
  private readonly machine: Machine;
  private readonly history: History;
  /** What was started and not answered. */
  private readonly running = new Set<object>();
  private failedSteps = 0;

  constructor(history: History, wrapDisk?: (disk: SimDisk) => Disk) {
    this.history = history;
    this.machine = new Machine(history, wrapDisk);
  }

  /** Throws Wrong when something is. */
  async play(): Promise<void> {
    const { machine, history } = this;
    await machine.create();
    for (const step of history.steps) {
      machine.scheduler.reseed(history.seed, step.salt);
      await this.step(step);
      this.checkFailures();
      if (machine.disk.ended === null && this.failedSteps > STEPS_FAILED_MAX) {
        machine.disk.endNow('cut');
      }
      if (machine.disk.ended !== null) await this.live([]);
    }
    await this.finish();
  }

  // ---- lives

  private async finish(): Promise<void> {
    const { machine, history } = this;
    await this.drain();
    this.checkFailures();
    if (machine.disk.ended === null) await this.verify();
    if (machine.disk.ended === null) await this.end(history.finally, 0);
    if (machine.disk.ended !== null) await this.live([]);
    await this.drain();
  }

  /** Begins lives until one lasts, and looks at what it found. `again`: where those before it end. */
  private async live(again: readonly number[]): Promise<void> {
    const { machine } = this;
    for (const calls of [...again, null]) {
      this.running.clear();
      this.failedSteps = 0;
      if (machine.begin(calls)) await verify(machine);
      if (machine.disk.ended === null) {
        machine.disk.forgetEnding();
        return;
      }
    }
    wrongUnless(machine.disk.ended === null, 'a life without an end ended');
  }

  private async end(how: 'close' | 'kill' | 'cut', calls: number): Promise<void> {
    const { machine } = this;
    if (how === 'close') await this.close();
    else if (calls === 0) machine.disk.endNow(how);
    else machine.disk.endAfter(how, calls);
  }

  /** A clean stop: everything is answered, and what was acknowledged is durable. */
  private async close(): Promise<void> {
    const { machine } = this;
    const { store } = machine;
    if (store === null) return;
    await machine.done(store.close(), 'closing the store');
    await this.drain();
    if (machine.disk.ended !== null) return;
    if (!machine.troubled) for (const model of machine.models) model.flushed(machine.tick());
    machine.disk.endNow('kill');
  }

  private async drain(): Promise<void> {
    const { machine, running } = this;
    if (running.size > 0) await machine.until('what was asked', () => running.size === 0);
    await machine.run(20_000);
  }

  private async verify(): Promise<void> {
    const { machine } = this;
    await this.drain();
    machine.disk.faults.length = 0;
    if (machine.disk.ended === null) await verify(machine);
  }

  /** A sync that failed is final: the volume says so, and is not written. */
  private checkFailures(): void {
    const { machine } = this;
    if (machine.disk.ended !== null) return;
    const syncs = machine.disk.injected.filter(({ call }) => call === 'sync');
    if (syncs.length > 0) this.failedSteps += 1;
    if (!machine.scheduler.idle) return;
    machine.models.forEach((model, index) => {
      const volume = machine.volume(index);
      const mine = machine.disk.injected.filter(({ path }) => path.includes(volume.id));
      const final = mine.find(({ call, path }) => call === 'sync' && isLive(volume, path));
      if (final !== undefined) {
        wrongUnless(volume.failed, `${model.name} goes on after a failed sync of ${final.path}`);
      }
      const serious = mine.some(({ errno, call }) => errno !== 28 || call === 'sync');
      wrongUnless(
        !volume.failed || serious,
        `${model.name} failed for want of space: ${volume.failure}`,
      );
    });
  }

  // ---- steps

  private async step(step: Step): Promise<void> {
    const { machine } = this;
    const index = step.volume % machine.models.length;
    const volume = machine.volume(index);
    const model = machine.models[index]!;
    const started = this.start(step, volume, model);
    if (started instanceof Promise) await started;
    if (machine.disk.ended !== null && 'again' in step) {
      await this.live(step.again);
      return;
    }
    if (step.turns < 0) {
      const own = started instanceof Promise ? null : started;
      if (own !== null) await machine.until(step.kind, () => !this.running.has(own));
    } else {
      await machine.run(step.turns);
    }
  }

  /** What it started, if something; a promise where the step is over when that is settled. */
  private start(step: Step, volume: Volume, model: VolumeModel): object | null | Promise<unknown> {
    const { machine } = this;
    switch (step.kind) {
      case 'write':
      case 'zero':
      case 'trim':
        return this.change(step, volume, model);
      case 'read':
        return this.read(step, volume, model);
      case 'flush':
        return this.flush(volume, model);
      case 'turns':
        return null;
      case 'resize':
        return this.resize(step, volume, model);
      case 'verify':
        return this.verify();
      case 'fault':
        machine.disk.faults.push({ ...step });
        return null;
      case 'full':
        machine.disk.platter.pagesMax = machine.disk.platter.pagesUsed() + step.pages;
        return null;
      case 'room':
        machine.disk.platter.pagesMax = Infinity;
        return null;
      case 'kill':
      case 'cut':
        return this.end(step.kind, step.calls);
      case 'close':
        return this.close();
      case 'snapshot':
      case 'refresh':
      case 'copy':
      case 'synchronise':
      case 'delete':
      case 'restore':
      case 'restore-range':
      case 'read-snapshot':
      case 'merge':
        return this.snapshotStep(step, volume, model);
    }
  }

  private change(
    step: StepOf<'write' | 'zero' | 'trim'>,
    volume: Volume,
    model: VolumeModel,
  ): object | null {
    const { machine } = this;
    const range =
      step.kind === 'trim'
        ? inBlocks(clip(step, this.safeBytes(model)))
        : clip(step, this.safeBytes(model));
    if (range.length === 0) return null;
    const payload = step.kind === 'write' ? payloadOf(step, range) : null;
    const request = requestOf(range, payload ?? undefined);
    request.free = step.kind === 'trim';
    if (step.kind === 'zero') {
      request.noHole = step.noHole;
      request.fastZero = step.fastZero;
    }
    const change: Change = { ...range, bytes: payload };
    const failed = volume.failed;
    model.begin(change, machine.tick());
    const span = model.reaches(range.offset + range.length);
    return this.ask(
      request,
      (asked) => (payload === null ? volume.zero(asked) : volume.write(asked)),
      (status) => {
        model.spans.delete(span);
        wrongUnless(status !== 0 || !failed, `a volume that failed took a ${step.kind}`);
        if (status === 0) model.answered(change, machine.tick());
        else if (status === ENOTSUP && request.fastZero) model.refused(change);
        else {
          if (status !== ENOSPC || !span.cut) this.mayFail(status, step.kind);
          model.failed(change);
        }
      },
    );
  }

  private read(step: StepOf<'read'>, volume: Volume, model: VolumeModel): object | null {
    const { machine } = this;
    const range = clip(step, this.safeBytes(model));
    if (range.length === 0) return null;
    const pin = { from: machine.now };
    model.pins.add(pin);
    const span = model.reaches(range.offset + range.length);
    const heads = model.heads.slice();
    const request = requestOf(range);
    return this.ask(
      request,
      (asked) => volume.read(asked),
      (status) => {
        model.pins.delete(pin);
        model.spans.delete(span);
        if (status === EINVAL && span.cut) return;
        if (status !== 0) this.mayFail(status, 'read');
        // Across a restore or a resize any mixture of before and after is allowed.
        else if (heads.length === 1 && model.heads.length === 1 && heads[0] === model.head) {
          checkRead(model.head, range, request.bytes, pin.from);
        }
      },
    );
  }

  private flush(volume: Volume, model: VolumeModel): object {
    const { machine } = this;
    const at = machine.tick();
    const failed = volume.failed;
    return this.ask(
      requestOf({ offset: 0, length: 0 }),
      (asked) => volume.flush(asked),
      (status) => {
        wrongUnless(status !== 0 || !failed, 'a volume that failed answered a flush');
        if (status === 0) model.flushed(at);
        else this.mayFail(status, 'flush');
      },
    );
  }

  private resize(step: StepOf<'resize'>, volume: Volume, model: VolumeModel): object | null {
    const sizeBytes = Math.max(1, step.blocks) * BLOCK;
    if (this.headIsBusy(model) || sizeBytes === model.head.sizeBytes) return null;
    const pending = model.beginResize(sizeBytes);
    return this.operate(
      volume.resize(sizeBytes),
      () => {
        wrongUnless(volume.sizeBytes === sizeBytes, 'a resize was answered, and is not there');
        model.endHead(pending, true);
      },
      (error) => {
        this.mayThrow(error, 'resize');
        model.endHead(pending, volume.failed ? null : false);
      },
    );
  }

  // ---- snapshots

  private snapshotStep(
    step: StepOf<SnapshotKind>,
    volume: Volume,
    model: VolumeModel,
  ): object | null | Promise<unknown> {
    const { snapshots } = volume;
    switch (step.kind) {
      case 'snapshot':
        return step.together && this.machine.models.length > 1
          ? this.takeTogether(step)
          : this.take(nameOf(step.name), snapshots, model, false);
      case 'refresh': {
        const name = this.existing(step.from, model);
        return name === null ? null : this.take(name, snapshots, model, true);
      }
      case 'copy':
        return this.copy(step, snapshots, model);
      case 'synchronise':
        return this.synchronise(step, snapshots, model);
      case 'delete':
        return this.remove(step, volume, snapshots, model);
      case 'restore':
      case 'restore-range':
        return this.restore(step, volume, snapshots, model);
      case 'read-snapshot':
        return this.readSnapshot(step, snapshots, model);
      case 'merge':
        control(snapshots, step.what);
        return null;
    }
  }

  private take(
    name: string,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
    refresh: boolean,
  ): object | null {
    if (this.headIsBusy(model) || model.isBusy(name)) return null;
    if (model.snapshots.has(name) !== refresh) return null;
    const pending = model.beginTake(name, this.machine.tick());
    const promise = refresh ? snapshots.refresh(name) : snapshots.create(name);
    return this.operateOnName(promise, pending, model, refresh ? 'refresh' : 'create');
  }

  private takeTogether(step: StepOf<'snapshot'>): object | null {
    const { machine } = this;
    const name = nameOf(step.name);
    const { models } = machine;
    for (const model of models) {
      if (this.headIsBusy(model) || model.isBusy(name) || model.snapshots.has(name)) return null;
    }
    const instants = new Map();
    const from = machine.tick();
    const pending = models.map((model) => model.beginTake(name, from, instants));
    const volumes = models.map((_, index) => machine.volume(index));
    return this.operate(
      createTogether(volumes, name),
      (infos) => {
        const at = machine.tick();
        models.forEach((model, index) => model.nameDone(pending[index]!, infos[index]!.id, at));
      },
      (error) => {
        this.mayThrow(error, 'snapshot of two volumes');
        const unknown = volumes.some((volume) => volume.failed);
        models.forEach((model, index) => this.nameFailed(model, pending[index]!, unknown));
      },
    );
  }

  private copy(
    step: StepOf<'copy'>,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
  ): object | null {
    const from = this.existing(step.from, model);
    const name = nameOf(step.name);
    if (from === null || model.isBusy(name) || model.snapshots.has(name)) return null;
    const { expected } = model.snapshots.get(from)!;
    const pending = model.beginName(name, this.machine.tick(), () => expected);
    return this.operateOnName(snapshots.copy(from, name), pending, model, 'copy');
  }

  private synchronise(
    step: StepOf<'synchronise'>,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
  ): object | null {
    const from = this.existing(step.from, model);
    const to = this.existing(step.to, model);
    if (from === null || to === null || from === to) return null;
    const { expected } = model.snapshots.get(from)!;
    const pending = model.beginName(to, this.machine.tick(), () => expected);
    return this.operateOnName(snapshots.synchronise(from, to), pending, model, 'synchronise');
  }

  private remove(
    step: StepOf<'delete'>,
    volume: Volume,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
  ): object | null {
    const name = this.existing(step.from, model);
    if (name === null) return null;
    const pending = model.beginName(name, this.machine.tick(), () => null);
    return this.operate(
      snapshots.delete(name),
      () => model.nameDone(pending, null, this.machine.tick()),
      (error) => {
        this.mayThrow(error, 'delete');
        this.nameFailed(model, pending, volume.failed);
      },
    );
  }

  private async restore(
    step: StepOf<'restore' | 'restore-range'>,
    volume: Volume,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
  ): Promise<void> {
    const { machine } = this;
    const name = this.existing(step.from, model);
    if (name === null || this.headIsBusy(model)) return;
    const { expected } = model.snapshots.get(name)!;
    if (expected.image === null) await this.readWhole(volume, name, model);
    const { image } = expected;
    if (image === null || machine.disk.ended !== null) return;
    const whole = { offset: 0, length: model.head.sizeBytes };
    const limit = Math.min(image.sizeBytes, model.head.sizeBytes);
    const range = step.kind === 'restore' ? whole : inBlocks(clip(step, limit));
    if (range.length === 0) return;
    if (step.kind === 'restore' && image.sizeBytes > model.head.sizeBytes) {
      await this.refusedWith('SNAPSHOT_TOO_LARGE', snapshots.restore(name));
      return;
    }
    const pending = model.beginRestore(image, range);
    const promise =
      step.kind === 'restore'
        ? snapshots.restore(name)
        : snapshots.restoreRange(name, range.offset, range.length);
    const own = this.operate(
      promise,
      () => model.endHead(pending, true),
      (error) => {
        this.mayThrow(error, step.kind);
        model.endHead(pending, volume.failed ? null : false);
      },
    );
    if (step.turns < 0) await machine.until(step.kind, () => !this.running.has(own));
  }

  private async refusedWith(code: string, promise: Promise<unknown>): Promise<void> {
    try {
      await this.machine.done(promise, code);
    } catch (thrown) {
      const wanted = thrown instanceof BlockferryError && thrown.code === code;
      if (!wanted) this.mayThrow(thrown, `something that is refused with ${code}`);
      return;
    }
    wrongUnless(this.machine.disk.ended !== null, `nothing was refused with ${code}`);
  }

  private async readWhole(volume: Volume, name: string, model: VolumeModel): Promise<void> {
    if (this.machine.disk.faults.some(({ fails }) => fails > 0)) return;
    const { expected } = model.snapshots.get(name)!;
    await verifySnapshot(this.machine, volume, name, expected);
  }

  private readSnapshot(
    step: StepOf<'read-snapshot'>,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
  ): object | null {
    const name = this.existing(step.from, model);
    if (name === null) return null;
    const { expected } = model.snapshots.get(name)!;
    const device = snapshots.device(name);
    wrongUnless(device !== null, `snapshot ${name} has no device`);
    const range = clip(step, expected.sizeBytes);
    const { image } = expected;
    if (range.length === 0 || image === null) return null;
    const first = Math.floor(range.offset / SECTOR) * SECTOR;
    const end = Math.ceil((range.offset + range.length) / SECTOR) * SECTOR;
    const wanted = bytesOfImage(image, first, end - first).subarray(range.offset - first);
    const request = requestOf(range);
    return this.ask(
      request,
      (asked) => device.read(asked),
      (status) => {
        const gone = model.snapshots.get(name)?.expected !== expected || model.isBusy(name);
        if (status !== 0) {
          if (!gone) this.mayFail(status, 'read of a snapshot');
        } else {
          const same = request.bytes.equals(wanted.subarray(0, range.length));
          wrongUnless(same, `a read of snapshot ${name} at ${range.offset} is wrong`);
        }
      },
    );
  }

  private operateOnName(
    promise: Promise<SnapshotInfo>,
    pending: PendingName,
    model: VolumeModel,
    what: string,
  ): object {
    const { machine } = this;
    return this.operate(
      promise,
      ({ id }) => model.nameDone(pending, id, machine.tick()),
      (error) => {
        this.mayThrow(error, what);
        const volume = machine.volume(machine.models.indexOf(model));
        this.nameFailed(model, pending, volume.failed);
      },
    );
  }

  private nameFailed(model: VolumeModel, pending: PendingName, unknown: boolean): void {
    // Of a volume that failed nobody knows what is durable.
    if (!unknown) model.nameRefused(pending);
  }

  private existing(number: number, model: VolumeModel): string | null {
    const names = [...model.snapshots.keys()].filter((name) => !model.isBusy(name));
    return names.length === 0 ? null : names[number % names.length]!;
  }

  // ---- requests and operations

  /** The head is taken, restored or resized: the model knows no second such thing beside it. */
  private headIsBusy(model: VolumeModel): boolean {
    return model.heads.length > 1 || model.pendingHead !== null || model.isTaken;
  }

  /** Bytes that are there before and after a resize under way. */
  private safeBytes(model: VolumeModel): number {
    return Math.min(...model.heads.map(({ sizeBytes }) => sizeBytes));
  }

  private ask(
    request: TestRequest,
    call: (request: TestRequest) => number,
    done: (status: number) => void,
  ): object {
    return this.operate(answered(request, call), done, (error) => {
      throw error;
    });
  }

  private operate<Result>(
    promise: Promise<Result>,
    done: (result: Result) => void,
    refused: (error: unknown) => void,
  ): object {
    const { machine, running } = this;
    const own = {};
    const { disk } = machine;
    running.add(own);
    const end = (run: () => void) => {
      // What a process says after its end nobody hears.
      if (disk.ended !== null || machine.disk !== disk) return;
      running.delete(own);
      machine.hear(run);
    };
    const hear = async (): Promise<void> => {
      let said: () => void;
      try {
        const result = await promise;
        said = () => done(result);
      } catch (error) {
        said = () => refused(error);
      }
      end(said);
    };
    void hear();
    return own;
  }

  /** Only trouble with the disk, or a stop, excuses an error. */
  private mayFail(status: number, what: string): void {
    if (status === ESHUTDOWN) return;
    wrongUnless(this.machine.troubled, `a ${what} was answered ${status} for no reason`);
  }

  private mayThrow(error: unknown, what: string): void {
    if (!(error instanceof BlockferryError)) throw error;
    if (error.code === 'SHUTTING_DOWN') return;
    wrongUnless(this.machine.troubled, `${what} was refused for no reason: ${error.line}`);
  }
}

function isLive(volume: Volume, path: string): boolean {
  if (path.endsWith('/metadata.log')) return true;
  const id = Number(/layer-(\d+)\.data$/.exec(path)?.[1] ?? 0);
  return volume.metadata.state.layers.get(id)?.sealed === false;
}

function control(snapshots: VolumeSnapshots, what: StepOf<'merge'>['what']): void {
  if (what === 'pause') snapshots.pauseMerge();
  else if (what === 'resume') snapshots.resumeMerge();
  else snapshots.limitMerge(what === 'limit' ? 8 * 1024 * 1024 : null);
}

function nameOf(number: number): string {
  return `s${number % SNAPSHOT_NAMES}`;
}

interface Place {
  readonly offset: number;
  readonly length: number;
}

function clip({ offset, length }: Place, sizeBytes: number): Place {
  const start = offset % sizeBytes;
  return { offset: start, length: Math.min(length, sizeBytes - start) };
}

function inBlocks({ offset, length }: Place): Place {
  const first = Math.ceil(offset / BLOCK) * BLOCK;
  const end = Math.floor((offset + length) / BLOCK) * BLOCK;
  return { offset: first, length: Math.max(0, end - first) };
}

/** Each sector has a value of its own, by the step and its place: misplaced bytes are seen. */
function payloadOf(step: StepOf<'write'>, { offset, length }: Place): Buffer {
  const bytes = Buffer.alloc(length);
  if (step.fill === 'zeroes') return bytes;
  for (let at = 0; at < length;) {
    const sector = Math.floor((offset + at) / SECTOR);
    const end = Math.min(length, (sector + 1) * SECTOR - offset);
    bytes.fill(1 + ((step.salt * 37 + sector * 11) % 255), at, end);
    at = end;
  }
  return bytes;
}
