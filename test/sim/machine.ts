/**
 * A machine that runs the volume store, life after life: the disk stays, a process comes and goes. It knows the volumes
 * as they must be, and the moments at which things happened.
 */
import { Dice } from '../../scripts/fuzz/dice.ts';
import type { Disk } from '../../src/io/disk.ts';
import type { Random } from '../../src/io/random.ts';
import { VolumeStore } from '../../src/volume/store.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { PAGE, filler } from './arena.ts';
import { Wrong, wrongUnless } from './failure.ts';
import { Inode } from './content.ts';
import type { History } from './history.ts';
import { Platter } from './platter.ts';
import { Scheduler, settled } from './scheduler.ts';
import { SimDisk, type Ending, type Fault } from './sim-disk.ts';
import { VolumeModel } from './volume-model.ts';

/** Work after which a machine that has nothing to do must have come to rest. */
const STEPS_MAX = 60_000;

/** Pages with which every store opens: for the files of the volumes' tops, and what shows whether extents can be believed. */
const ROOM_TO_OPEN = 8;

export class Machine {
  readonly history: History;
  readonly models: VolumeModel[] = [];
  /** Volumes that were asked for, or whose end was: by name, until that is answered, or found by the next process. */
  readonly coming = new Map<string, VolumeModel>();
  readonly leaving = new Map<string, VolumeModel>();
  disk: SimDisk;
  scheduler: Scheduler;
  store: VolumeStore | null = null;
  /** The worst end since the content was looked at as a whole. */
  since: Ending | 'nothing' = 'nothing';
  lives = 0;
  /** Moments count up: at each of them one thing began or was answered. */
  private moment = 0;
  private heard: { readonly thrown: unknown } | null = null;
  private readonly wrapDisk: (disk: SimDisk) => Disk;

  constructor(history: History, wrapDisk: (disk: SimDisk) => Disk = (disk) => disk) {
    this.history = history;
    this.wrapDisk = wrapDisk;
    const platter = new Platter(new Dice(history.seed, 1_000_000));
    this.scheduler = this.newScheduler(0);
    this.disk = this.newDisk(platter);
  }

  get now(): number {
    return this.moment;
  }

  tick(): number {
    this.moment += 1;
    return this.moment;
  }

  /** Something went wrong with the disk in this life: requests may fail. */
  get troubled(): boolean {
    const { injected, wasFull, platter } = this.disk;
    return injected.length > 0 || wasFull || platter.pagesMax !== Infinity;
  }

  volume(index: number): Volume {
    const volume = this.store?.find(this.models[index]!.name) ?? null;
    wrongUnless(volume !== null, `volume ${this.models[index]!.name} is gone`);
    return volume;
  }

  async create(): Promise<void> {
    this.openStore();
    let name = 'a';
    for (const blocks of this.history.volumes) {
      this.models.push(new VolumeModel(name, blocks * 4096));
      await this.done(this.store!.create(name, blocks * 4096), `creating ${name}`);
      name = 'b';
    }
  }

  /** Whether there are clones of a snapshot of a volume, or of any (null). */
  clonesOf(model: VolumeModel, snapshot: string | null): 'none' | 'perhaps' | 'some' {
    const id = snapshot === null ? null : model.snapshots.get(snapshot)?.id;
    const isClone = ({ origin }: VolumeModel): boolean =>
      origin?.volume === model && (id === null || origin.snapshot === id);
    if (this.models.some(isClone)) return 'some';
    return [...this.coming.values(), ...this.leaving.values()].some(isClone) ? 'perhaps' : 'none';
  }

  /** Runs what a callback of the process has to say; what is wrong about it comes out at the next turn. */
  hear(run: () => void): void {
    try {
      run();
    } catch (thrown) {
      this.heard ??= { thrown };
    }
  }

  private async settled(): Promise<void> {
    await settled();
    if (this.heard === null) return;
    const { thrown } = this.heard;
    this.heard = null;
    throw thrown;
  }

  /** Lets `count` pieces of work happen. Stops when the process ended. */
  async run(count: number): Promise<void> {
    await this.settled();
    for (let index = 0; index < count && this.disk.ended === null; index += 1) {
      if (this.scheduler.idle) return;
      this.scheduler.step();
      await this.settled();
    }
  }

  /** Runs until `ready`, or the process ended; timers go off when nothing else is left. */
  async until(what: string, ready: () => boolean): Promise<void> {
    await this.settled();
    for (let count = 0; !ready() && this.disk.ended === null; count += 1) {
      wrongUnless(count < STEPS_MAX, `${what} never ended`);
      wrongUnless(this.scheduler.step(), `${what} hangs: nothing is left to happen`);
      await this.settled();
    }
  }

  /** Runs until a promise is settled, or the process ended; what it was rejected with is thrown. */
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

  /**
   * The next process finds what the last one left. False: it ended too before it served anything. `fault` meets it while it
   * opens the store, and only then.
   */
  begin(endAfter: number | null, fault: Fault | null = null): boolean {
    const how = this.disk.ended;
    if (how !== null) this.since = how === 'cut' || this.since === 'cut' ? 'cut' : 'kill';
    const before = this.disk.platter;
    if (!this.history.startsFull) before.pagesMax = Infinity;
    for (const model of this.models) model.ended();
    this.start(before);
    if (fault !== null) this.disk.faults.push({ ...fault });
    if (endAfter !== null) this.disk.endAfter(how ?? 'kill', endAfter);
    if (!this.openStore()) {
      // What is kept back was not enough: somebody makes room.
      this.disk.endNow('kill');
      before.pagesMax = Infinity;
      this.start(this.disk.platter);
      this.openStore();
    }
    this.disk.faults.length = 0;
    if (this.disk.ended !== null) return false;
    this.settleVolumes();
    return true;
  }

  /** What was under way with whole volumes has happened, or has not. */
  private settleVolumes(): void {
    const { store, models, coming, leaving } = this;
    const isThere = (name: string): boolean => store !== null && store.find(name) !== null;
    for (const model of [...coming.values(), ...leaving.values()]) {
      if (isThere(model.name)) models.push(model);
    }
    coming.clear();
    leaving.clear();
    for (const { name } of store?.list() ?? []) {
      const known = models.some((model) => model.name === name);
      wrongUnless(known, `there is a volume ${name} that nobody made, or that is gone`);
    }
  }

  private start(platter: Platter): void {
    this.lives += 1;
    this.scheduler = this.newScheduler(this.scheduler.now());
    this.disk = this.newDisk(platter);
  }

  /** False when there is no room for that. Throws Wrong when it should have opened. */
  private openStore(): boolean {
    const { disk, scheduler } = this;
    const { platter } = disk;
    const { compactBytes } = this.history;
    const options = {
      disk: this.wrapDisk(disk),
      clock: scheduler,
      random: randomOf(new Dice(this.history.seed, 2_000_000 + this.lives)),
      path: '/data',
      // The store hands it on to its volumes.
      ...(compactBytes === null ? {} : { compactBytes }),
    };
    const excused = platter.pagesMax - platter.pagesUsed() + sparePages(platter) < ROOM_TO_OPEN;
    try {
      this.store = VolumeStore.open(options);
    } catch (thrown) {
      if (disk.ended !== null || this.gaveUp()) return true;
      if (excused) return false;
      throw new Wrong(`the store does not open: ${String(thrown)}`);
    }
    if (disk.ended !== null) return true;
    const [damaged] = this.store.damaged;
    if (damaged !== undefined && this.gaveUp()) return true;
    if (damaged !== undefined && excused) return false;
    wrongUnless(damaged === undefined, `a volume does not open: ${damaged?.reason}`);
    return true;
  }

  /** A fault met the process while it opened the store: it has nothing to serve, and ends. */
  private gaveUp(): boolean {
    if (this.disk.injected.length === 0) return false;
    this.disk.endNow('kill');
    return true;
  }

  private newScheduler(startAt: number): Scheduler {
    return new Scheduler(new Dice(this.history.seed, 3_000_000 + this.lives), startAt + 1000);
  }

  private newDisk(platter: Platter): SimDisk {
    const dice = new Dice(this.history.seed, 4_000_000 + this.lives);
    return new SimDisk(platter, this.history.traits, this.scheduler, dice);
  }
}

/** What the disk keeps back for the store, free or in its file. */
function sparePages(platter: Platter): number {
  const spare = platter.find('/data/spare');
  return spare instanceof Inode ? spare.cache.pages.size : 0;
}

function randomOf(dice: Dice): Random {
  return {
    fraction: () => dice.u32() / 2 ** 32,
    // What is kept back on the disk need not be rolled: only ids and the like are.
    bytes: (count) => (count > PAGE ? filler(count) : dice.bytes(count)),
  };
}
