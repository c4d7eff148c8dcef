/** A machine of the simulation: its disk stays, its process comes and goes. */
import { Dice } from '../../../scripts/fuzz/dice.ts';
import { Status } from '../../../src/io/device.ts';
import type { Disk } from '../../../src/io/disk.ts';
import type { Random } from '../../../src/io/random.ts';
import { VolumeStore } from '../../../src/volume/store.ts';
import type { Compressor } from '../../../src/workers/compressor.ts';
import { PAGE, filler } from '../arena.ts';
import { Wrong } from '../failure.ts';
import { Platter } from '../platter.ts';
import { SimDisk, type DiskTraits, type Ending } from '../sim-disk.ts';
import type { Refused } from './history.ts';
import type { Lines } from './lines.ts';
import { Process, type World } from './world.ts';

export interface Surroundings {
  readonly seed: number;
  readonly world: World;
  readonly lines: Lines;
  readonly traits: DiskTraits;
  readonly blocks: number;
  readonly journalFileBytes: number;
  /** Of the links to and from other nodes; null: they know no compression. */
  readonly compressor: Compressor | null;
  readonly note: (line: string) => void;
  readonly wrapDisk: (disk: SimDisk, node: string) => Disk;
}

export interface Begun {
  readonly process: Process;
  readonly disk: Disk;
  readonly random: Random;
}

/** Tells the dice of nodes apart. */
const STREAMS_PER_NODE = 1_000_000;

export abstract class Node {
  readonly name: string;
  readonly surroundings: Surroundings;
  platter: Platter;
  process: Process | null = null;
  disk: SimDisk | null = null;
  store: VolumeStore | null = null;
  /** Counts processes. */
  lives = 0;
  /** What the process began with. */
  begun: Begun | null = null;
  /** An orderly stop is under way. */
  closing = false;
  /** Since when it is down, in milliseconds of the world. */
  downSince = 0;
  lastEnding: Ending = 'kill';
  /** Pages of its disk when a process begins: by then somebody made room, if nothing is said. */
  pagesMax = Infinity;
  /** Its volume failed in an earlier life, and the machine was not started anew since. */
  private distrusted = false;
  /** Told of each end of a process, before it is forgotten. */
  onEnd: (process: Process) => void = () => {};
  private readonly index: number;

  constructor(name: string, index: number, surroundings: Surroundings) {
    this.name = name;
    this.index = index;
    this.surroundings = surroundings;
    this.platter = new Platter(this.dice(0));
  }

  get running(): boolean {
    return this.process !== null;
  }

  /** Something went wrong with its disk, in this life or before it. */
  get troubled(): boolean {
    const { disk } = this;
    if (disk === null) return false;
    return (
      this.distrusted ||
      disk.injected.length > 0 ||
      disk.wasFull ||
      disk.platter.pagesMax < Infinity
    );
  }

  protected dice(stream: number): Dice {
    return new Dice(this.surroundings.seed, (this.index + 1) * STREAMS_PER_NODE + stream);
  }

  protected random(): Random {
    const dice = this.dice(300_000 + this.lives);
    return {
      fraction: () => dice.u32() / 2 ** 32,
      // What is kept back on the disk need not be rolled: only ids and the like are.
      bytes: (count) => (count > PAGE ? filler(count) : dice.bytes(count)),
    };
  }

  /** Starts a process on what the last one left. */
  protected begin(): Begun {
    const { world, traits } = this.surroundings;
    this.lives += 1;
    this.closing = false;
    this.platter.pagesMax = this.pagesMax;
    const process = new Process(world);
    const disk = new SimDisk(this.platter, traits, process, this.dice(100_000 + this.lives));
    this.process = process;
    this.disk = disk;
    const random = this.random();
    this.surroundings.lines.back(this.name);
    this.note(`starts, life ${this.lives}`);
    const wrapped = this.surroundings.wrapDisk(disk, this.name);
    this.store = VolumeStore.open({ disk: wrapped, clock: process, random, path: '/data' });
    const [damaged] = this.store.damaged;
    if (damaged !== undefined) throw new Wrong(`${this.name} does not open: ${damaged.reason}`);
    this.begun = { process, disk: wrapped, random };
    return this.begun;
  }

  /** Its metadata log finds no room, now and then. */
  refuse({ passes, fails }: Refused): void {
    const errno = Status.ENOSPC;
    this.disk?.faults.push({ calls: ['write'], files: 'log', errno, passes, fails });
  }

  /** Starts a process, of which the caller makes what it is. */
  open(): Begun {
    return this.begin();
  }

  /** Ends the process now. */
  end(how: Ending): void {
    this.disk?.endNow(how);
    this.noticeEnd();
  }

  /** Whether the process ended since this was asked last. */
  noticeEnd(): boolean {
    const { disk, process, surroundings } = this;
    if (disk === null || process === null || disk.ended === null) return false;
    this.lastEnding = disk.ended;
    // A store that is being closed has no volume any more, whether that failed or not.
    const failed =
      this.store?.list().some((volume) => volume.failed) === true ||
      (this.closing && this.troubled);
    this.distrusted = disk.ended === 'kill' && failed;
    this.platter = disk.platter;
    this.note(disk.ended === 'cut' ? 'loses power' : 'is killed');
    process.abandon();
    this.onEnd(process);
    if (disk.ended === 'cut') surroundings.lines.lostPower(this.name);
    else surroundings.lines.killed(this.name);
    this.process = null;
    this.disk = null;
    this.store = null;
    this.closing = false;
    this.downSince = surroundings.world.time;
    this.ended();
    return true;
  }

  protected abstract ended(): void;

  note(line: string): void {
    this.surroundings.note(`${this.name} ${line}`);
  }
}
