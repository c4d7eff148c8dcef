/**
 * Plays a history: starts what its steps say, keeps the model true to what is answered, and ends lives. Requests and
 * operations run side by side; what may not be told apart by the model is not started at the same time.
 */
import type { Disk } from '../../src/io/disk.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { wrongUnless } from './failure.ts';
import type { History, Step, StepFault } from './history.ts';
import { HostSteps } from './host-steps.ts';
import { Machine } from './machine.ts';
import { Operations } from './operations.ts';
import type { CallKind, SimDisk } from './sim-disk.ts';
import { SnapshotSteps } from './snapshot-steps.ts';
import { verify } from './verify.ts';
import type { VolumeModel } from './volume-model.ts';
import { VolumeSteps } from './volume-steps.ts';

/** Calls that are final when they fail for want of space, too: of their files nobody knows what is durable. */
const FINAL: readonly CallKind[] = ['sync', 'size', 'entry', 'sync-entry'];
/** Steps that a volume goes on for, refusing, after a sync failed. */
const STEPS_FAILED_MAX = 3;

export class Player {
  private readonly machine: Machine;
  private readonly history: History;
  private readonly operations: Operations;
  private readonly host: HostSteps;
  private readonly snapshots: SnapshotSteps;
  private readonly volumes: VolumeSteps;
  private failedSteps = 0;

  constructor(history: History, wrapDisk?: (disk: SimDisk) => Disk) {
    this.history = history;
    this.machine = new Machine(history, wrapDisk);
    this.operations = new Operations(this.machine);
    this.host = new HostSteps(this.operations);
    this.snapshots = new SnapshotSteps(this.operations);
    this.volumes = new VolumeSteps(this.operations, this.snapshots);
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
  private async live(again: readonly number[], fault: StepFault | null = null): Promise<void> {
    const { machine } = this;
    if (fault !== null) {
      this.operations.running.clear();
      if (machine.begin(null, fault)) machine.disk.endNow('kill');
    }
    for (const calls of [...again, null]) {
      this.operations.running.clear();
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
    const { machine } = this;
    const { running } = this.operations;
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
      const serious = mine.some(({ errno, call }) => errno !== 28 || FINAL.includes(call));
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
      await this.live(step.again, step.fault);
      return;
    }
    if (step.turns < 0) {
      const own = started instanceof Promise ? null : started;
      if (own !== null) await machine.until(step.kind, () => !this.operations.running.has(own));
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
        return this.host.change(step, volume, model);
      case 'read':
        return this.host.read(step, volume, model);
      case 'flush':
        return this.host.flush(volume, model);
      case 'turns':
        return null;
      case 'resize':
        return this.host.resize(step, volume, model);
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
      case 'create':
        return this.volumes.create(step);
      case 'clone':
        return this.volumes.clone(step, volume, model);
      case 'remove':
        return this.volumes.remove(volume, model);
      case 'snapshot':
      case 'refresh':
      case 'copy':
      case 'synchronise':
      case 'delete':
      case 'restore':
      case 'restore-range':
      case 'read-snapshot':
      case 'merge':
        return this.snapshots.start(step, volume, model);
    }
  }
}

function isLive(volume: Volume, path: string): boolean {
  if (path.endsWith('/metadata.log')) return true;
  const id = Number(/layer-(\d+)\.data$/.exec(path)?.[1] ?? 0);
  return volume.metadata.state.layers.get(id)?.sealed === false;
}
