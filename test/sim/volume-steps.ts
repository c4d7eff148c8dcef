/** Steps that an operator takes with whole volumes: new ones, clones of snapshots, and their end. */
import type { Volume } from '../../src/volume/volume.ts';
import { VOLUME_NAMES } from './history.ts';
import type { Operations } from './operations.ts';
import { BLOCK, type StepOf } from './places.ts';
import type { SnapshotSteps } from './snapshot-steps.ts';
import { VolumeModel } from './volume-model.ts';

const VOLUMES_MAX = 4;

export class VolumeSteps {
  private readonly operations: Operations;
  private readonly snapshots: SnapshotSteps;

  constructor(operations: Operations, snapshots: SnapshotSteps) {
    this.operations = operations;
    this.snapshots = snapshots;
  }

  create(step: StepOf<'create'>): object | null {
    const name = this.freeName(step.name);
    const store = this.operations.machine.store;
    if (name === null || store === null) return null;
    const sizeBytes = Math.max(1, step.blocks) * BLOCK;
    return this.make(new VolumeModel(name, sizeBytes), store.create(name, sizeBytes));
  }

  async clone(step: StepOf<'clone'>, volume: Volume, model: VolumeModel): Promise<void> {
    const { machine } = this.operations;
    const { store } = machine;
    const snapshot = model.existing(step.from);
    const known = snapshot === null ? undefined : model.snapshots.get(snapshot);
    if (snapshot === null || known === undefined || store === null) return;
    if (known.expected.image === null) await this.snapshots.readWhole(volume, snapshot, model);
    const { image } = known.expected;
    const name = this.freeName(step.name);
    if (image === null || name === null || machine.disk.ended !== null) return;
    const clone = VolumeModel.cloneOf(name, image, { volume: model, snapshot: known.id });
    const own = this.make(clone, store.clone(volume, snapshot, name));
    const { running } = this.operations;
    if (step.turns < 0) await machine.until(step.kind, () => !running.has(own));
  }

  private make(model: VolumeModel, promise: Promise<unknown>): object {
    const { machine } = this.operations;
    machine.coming.set(model.name, model);
    return this.operations.operate(
      promise,
      () => {
        machine.coming.delete(model.name);
        machine.models.push(model);
      },
      // It may be there all the same, when the next process looks.
      (error) => this.operations.mayThrow(error, `creating ${model.name}`),
    );
  }

  remove(volume: Volume, model: VolumeModel): object | null | Promise<unknown> {
    const { machine } = this.operations;
    const { store } = machine;
    if (machine.models.length < 2 || !model.isAtRest || store === null) return null;
    const clones = machine.clonesOf(model, null);
    if (clones === 'perhaps') return null;
    const { name } = model;
    if (clones === 'some') {
      return this.operations.refusedWith('VOLUME_HAS_CLONES', store.delete(volume));
    }
    machine.models.splice(machine.models.indexOf(model), 1);
    machine.leaving.set(name, model);
    return this.operations.operate(
      store.delete(volume),
      () => machine.leaving.delete(name),
      (error) => {
        this.operations.mayThrow(error, `deleting ${name}`);
        if (store.find(name) === null) return;
        // It was closed, and opened again.
        machine.leaving.delete(name);
        machine.models.push(model);
        model.reopened = true;
      },
    );
  }

  private freeName(number: number): string | null {
    const { models, coming, leaving } = this.operations.machine;
    const name = `v${number % VOLUME_NAMES}`;
    if (models.length + coming.size + leaving.size >= VOLUMES_MAX) return null;
    const taken =
      coming.has(name) || leaving.has(name) || models.some((each) => each.name === name);
    return taken ? null : name;
  }
}
