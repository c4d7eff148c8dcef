/** Steps that an operator takes with snapshots, and what is read of them. */
import type { SnapshotInfo, VolumeSnapshots } from '../../src/volume/snapshots/snapshot-types.ts';
import { createTogether } from '../../src/volume/snapshots/freeze.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { requestOf } from '../volume/support/request.ts';
import { wrongUnless } from './failure.ts';
import { SNAPSHOT_NAMES } from './history.ts';
import { bytesOfImage } from './model.ts';
import type { Operations } from './operations.ts';
import { clip, inBlocks, type StepOf } from './places.ts';
import { SECTOR } from './sectors.ts';
import { verifySnapshot } from './verify.ts';
import type { PendingName, VolumeModel } from './volume-model.ts';

export type SnapshotKind =
  | 'snapshot'
  | 'refresh'
  | 'copy'
  | 'synchronise'
  | 'delete'
  | 'restore'
  | 'restore-range'
  | 'read-snapshot'
  | 'merge';

export class SnapshotSteps {
  private readonly operations: Operations;

  constructor(operations: Operations) {
    this.operations = operations;
  }

  start(
    step: StepOf<SnapshotKind>,
    volume: Volume,
    model: VolumeModel,
  ): object | null | Promise<unknown> {
    const { snapshots } = volume;
    switch (step.kind) {
      case 'snapshot':
        return step.together && this.operations.machine.models.length > 1
          ? this.takeTogether(step)
          : this.take(nameOf(step.name), snapshots, model, false);
      case 'refresh': {
        const name = model.existing(step.from);
        if (name === null) return null;
        return (
          this.cloned(model, name, () => snapshots.refresh(name)) ??
          this.take(name, snapshots, model, true)
        );
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
    if (model.headIsBusy || model.isBusy(name)) return null;
    if (model.snapshots.has(name) !== refresh) return null;
    const pending = model.beginTake(name, this.operations.machine.tick());
    const promise = refresh ? snapshots.refresh(name) : snapshots.create(name);
    return this.operateOnName(promise, pending, model, refresh ? 'refresh' : 'create');
  }

  private takeTogether(step: StepOf<'snapshot'>): object | null {
    const { machine } = this.operations;
    const name = nameOf(step.name);
    const models = machine.models.slice();
    for (const model of models) {
      if (model.headIsBusy || model.isBusy(name) || model.snapshots.has(name)) return null;
    }
    const instants = new Map();
    const from = machine.tick();
    const pending = models.map((model) => model.beginTake(name, from, instants));
    const volumes = models.map((_, index) => machine.volume(index));
    return this.operations.operate(
      createTogether(volumes, name),
      (infos) => {
        const at = machine.tick();
        models.forEach((model, index) => model.nameDone(pending[index]!, infos[index]!.id, at));
      },
      (error) => {
        this.operations.mayThrow(error, 'snapshot of two volumes');
        const unknown = volumes.some((volume) => volume.failed);
        models.forEach((model, index) => this.nameFailed(model, pending[index]!, unknown));
      },
    );
  }

  /** What a clone reads through stays: the step is over with that. Null when there is none. */
  private cloned(
    model: VolumeModel,
    name: string,
    call: () => Promise<unknown>,
  ): Promise<void> | null {
    const clones = this.operations.machine.clonesOf(model, name);
    if (clones === 'none') return null;
    // Of one that comes or goes nobody knows.
    if (clones === 'perhaps') return Promise.resolve();
    return this.operations.refusedWith('SNAPSHOT_HAS_CLONES', call());
  }

  private copy(
    step: StepOf<'copy'>,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
  ): object | null {
    const from = model.existing(step.from);
    const name = nameOf(step.name);
    if (from === null || model.isBusy(name) || model.snapshots.has(name)) return null;
    const { expected } = model.snapshots.get(from)!;
    const pending = model.beginName(name, this.operations.machine.tick(), () => expected);
    return this.operateOnName(snapshots.copy(from, name), pending, model, 'copy');
  }

  private synchronise(
    step: StepOf<'synchronise'>,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
  ): object | null | Promise<void> {
    const from = model.existing(step.from);
    const to = model.existing(step.to);
    if (from === null || to === null || from === to) return null;
    const cloned = this.cloned(model, to, () => snapshots.synchronise(from, to));
    if (cloned !== null) return cloned;
    const { expected } = model.snapshots.get(from)!;
    const pending = model.beginName(to, this.operations.machine.tick(), () => expected);
    return this.operateOnName(snapshots.synchronise(from, to), pending, model, 'synchronise');
  }

  private remove(
    step: StepOf<'delete'>,
    volume: Volume,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
  ): object | null | Promise<void> {
    const name = model.existing(step.from);
    if (name === null) return null;
    const cloned = this.cloned(model, name, () => snapshots.delete(name));
    if (cloned !== null) return cloned;
    const pending = model.beginName(name, this.operations.machine.tick(), () => null);
    return this.operations.operate(
      snapshots.delete(name),
      () => model.nameDone(pending, null, this.operations.machine.tick()),
      (error) => {
        this.operations.mayThrow(error, 'delete');
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
    const { machine } = this.operations;
    const name = model.existing(step.from);
    if (name === null || model.headIsBusy) return;
    const { expected } = model.snapshots.get(name)!;
    if (expected.image === null) await this.readWhole(volume, name, model);
    const { image } = expected;
    if (image === null || machine.disk.ended !== null) return;
    const whole = { offset: 0, length: model.head.sizeBytes };
    const limit = Math.min(image.sizeBytes, model.head.sizeBytes);
    const range = step.kind === 'restore' ? whole : inBlocks(clip(step, limit));
    if (range.length === 0) return;
    if (step.kind === 'restore' && image.sizeBytes > model.head.sizeBytes) {
      await this.operations.refusedWith('SNAPSHOT_TOO_LARGE', snapshots.restore(name));
      return;
    }
    const pending = model.beginRestore(image, range);
    const promise =
      step.kind === 'restore'
        ? snapshots.restore(name)
        : snapshots.restoreRange(name, range.offset, range.length);
    const own = this.operations.operate(
      promise,
      () => model.endHead(pending, true),
      (error) => {
        this.operations.mayThrow(error, step.kind);
        // Where nothing at all could be written any more, not even taking it back, it stands.
        const open = volume.failed || machine.disk.wasFull;
        model.endHead(pending, open ? null : false);
      },
    );
    if (step.turns < 0) await machine.until(step.kind, () => !this.operations.running.has(own));
  }

  /** A snapshot that was taken under load is known when it was read. */
  async readWhole(volume: Volume, name: string, model: VolumeModel): Promise<void> {
    if (this.operations.machine.disk.faults.some(({ fails }) => fails > 0)) return;
    const { expected } = model.snapshots.get(name)!;
    await verifySnapshot(this.operations.machine, volume, name, expected);
  }

  private readSnapshot(
    step: StepOf<'read-snapshot'>,
    snapshots: VolumeSnapshots,
    model: VolumeModel,
  ): object | null {
    const name = model.existing(step.from);
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
    return this.operations.ask(
      request,
      (asked) => device.read(asked),
      (status) => {
        const gone = model.snapshots.get(name)?.expected !== expected || model.isBusy(name);
        if (status !== 0) {
          if (!gone) this.operations.mayFail(status, 'read of a snapshot');
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
    const { machine } = this.operations;
    return this.operations.operate(
      promise,
      ({ id }) => model.nameDone(pending, id, machine.tick()),
      (error) => {
        this.operations.mayThrow(error, what);
        const volume = machine.volume(machine.models.indexOf(model));
        this.nameFailed(model, pending, volume.failed);
      },
    );
  }

  private nameFailed(model: VolumeModel, pending: PendingName, unknown: boolean): void {
    // Of a volume that failed nobody knows what is durable.
    if (!unknown) model.nameRefused(pending);
  }
}

function control(snapshots: VolumeSnapshots, what: StepOf<'merge'>['what']): void {
  if (what === 'pause') snapshots.pauseMerge();
  else if (what === 'resume') snapshots.resumeMerge();
  else snapshots.limitMerge(what === 'limit' ? 8 * 1024 * 1024 : null);
}

function nameOf(number: number): string {
  return `s${number % SNAPSHOT_NAMES}`;
}
