/**
 * A mirrored volume as a node has it: a real store on a disk, the replicator over it, mirrors reached through
 * real sockets; and the content that its host believes to be there.
 */
import { rmSync } from 'node:fs';
import type { Clock } from '../../../src/io/clock.ts';
import type { Disk } from '../../../src/io/disk.ts';
import { nodeDisk } from '../../../src/io/node-disk.ts';
import { systemRandom } from '../../../src/io/random.ts';
import { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import type { SharedLimit } from '../../../src/replicator/pace/shared-limit.ts';
import type { BlockferryEvent, MirrorStatus } from '../../../src/replicator/status.ts';
import { VolumeStore, type Volume } from '../../../src/volume/store.ts';
import { inlineExaminer } from '../../../src/workers/examiner.ts';
import { copyExactly } from '../../support/copy-exactly.ts';
import type { Scope } from '../../support/scope.ts';
import { waitUntil } from '../../support/wait.ts';
import { Host } from './host.ts';
import { Life, ManualClock } from './life.ts';
import { MirrorDevice } from './mirror-device.ts';
import { MirrorServer } from './mirror-server.ts';
import { SparseImage } from './sparse-image.ts';

export const MIB = 1024 * 1024;
const NAME = 'v';
/** The machine may be busy with other things. */
const WAIT_MS = 40_000;

export interface RigOptions {
  readonly sizeBytes?: number;
  readonly stagingBytes?: number;
  readonly stagingDiskBytes?: number;
  readonly graceMs?: number;
  readonly nodeLimit?: SharedLimit;
  readonly clock?: Clock;
  readonly disk?: Disk;
}

export interface MirrorOptions {
  readonly lanes?: number;
  readonly seeded?: boolean;
  readonly mode?: 'async' | 'sync';
  readonly stallPolicy?: 'degrade' | 'block';
}

export class Rig {
  readonly scope: Scope;
  readonly path: string;
  readonly life: Life;
  readonly store: VolumeStore;
  readonly volume: Volume;
  readonly device: ReplicatedVolume;
  readonly host: Host;
  readonly events: Pick<BlockferryEvent, 'kind' | 'message'>[] = [];
  /** What the host wrote. */
  readonly expected: SparseImage;
  private readonly options: RigOptions;

  private constructor(
    scope: Scope,
    options: RigOptions,
    opened: { path: string; life: Life; store: VolumeStore; volume: Volume; expected: SparseImage },
  ) {
    this.scope = scope;
    this.options = options;
    this.path = opened.path;
    this.life = opened.life;
    this.store = opened.store;
    this.volume = opened.volume;
    this.expected = opened.expected;
    this.device = new ReplicatedVolume({
      node: 'primary',
      volume: opened.volume,
      clock: opened.life.clock,
      random: systemRandom,
      network: opened.life.network,
      examiner: inlineExaminer,
      events: { emit: ({ kind, message }) => void this.events.push({ kind, message }) },
      ...(options.stagingBytes === undefined ? {} : { stagingBytes: options.stagingBytes }),
      ...(options.graceMs === undefined ? {} : { graceMs: options.graceMs }),
      ...(options.nodeLimit === undefined ? {} : { nodeLimit: options.nodeLimit }),
      stagingDisk: {
        disk: options.disk ?? nodeDisk,
        sizeBytes: options.stagingDiskBytes ?? null,
      },
    });
    this.host = new Host(this.device);
    scope.reportOnFailure('events', () =>
      this.events.map(({ kind, message }) => `${kind}: ${message}`).join('\n'),
    );
    scope.defer('the node', () => this.close());
    this.device.start();
  }

  static async create(scope: Scope, options: RigOptions = {}): Promise<Rig> {
    const life = new Life(options.clock);
    const path = options.disk === undefined ? scope.tempDir('bf-rig-') : '/data';
    const store = openStore(path, life, options);
    const volume = await store.create(NAME, options.sizeBytes ?? 64 * MIB);
    return new Rig(scope, options, { path, life, store, volume, expected: new SparseImage() });
  }

  /** A node on what another one left. `expected`: what the host believes to be there. */
  static open(scope: Scope, path: string, expected: SparseImage, options: RigOptions = {}): Rig {
    const life = new Life(options.clock);
    const store = openStore(path, life, options);
    const volume = store.find(NAME);
    if (volume === null) throw new Error(`no volume: ${JSON.stringify(store.damaged)}`);
    return new Rig(scope, options, { path, life, store, volume, expected });
  }

  /** Ends the process at once, with everything it had handed to the system, and starts another. */
  killAndRestart(): Rig {
    this.life.kill();
    const path = `${this.scope.tempDir('bf-rig-')}/data`;
    copyExactly(this.path, path);
    // It names this test's process, which lives on.
    rmSync(`${path}/lock`);
    return Rig.open(this.scope, path, this.expected, this.options);
  }

  /** An orderly stop; opens the same directory again. */
  async restart(): Promise<Rig> {
    await this.close();
    return Rig.open(this.scope, this.path, this.expected, this.options);
  }

  async close(): Promise<void> {
    if (this.life.over) return;
    const { clock } = this.options;
    // Closing takes time, which would not pass by itself.
    const passing =
      clock instanceof ManualClock ? setInterval(() => void clock.advance(50), 5) : null;
    await this.device.close();
    if (passing !== null) clearInterval(passing);
    await this.store.close();
    this.life.kill();
  }

  async mirrored(options: MirrorOptions = {}): Promise<MirrorServer> {
    const mirror = await this.mirror();
    await this.addMirror(mirror, options);
    await this.inStep();
    return mirror;
  }

  mirror(sizeBytes = this.volume.sizeBytes): Promise<MirrorServer> {
    return MirrorServer.start(this.scope, new MirrorDevice(sizeBytes));
  }

  addMirror(mirror: MirrorServer, options: MirrorOptions = {}): Promise<void> {
    const { mode = 'async', stallPolicy = 'degrade' } = options;
    return this.device.addMirror({ uri: mirror.uri, mode, stallPolicy });
  }

  addPeer(mirror: { readonly uri: string }, options: MirrorOptions = {}): Promise<void> {
    const { mode = 'async', stallPolicy = 'degrade' } = options;
    return this.device.addMirror({ uri: mirror.uri, ...options, mode, stallPolicy });
  }

  // --- the host, and what it believes ---

  async write(offset: number, bytes: Buffer, options: { fua?: boolean } = {}): Promise<void> {
    this.expected.write(offset, bytes);
    expectOk(await this.host.write(offset, bytes, options));
  }

  async zero(offset: number, length: number, options: { noHole?: boolean } = {}): Promise<void> {
    this.expected.zero(offset, length);
    expectOk(await this.host.zero(offset, length, options));
  }

  async flush(): Promise<void> {
    expectOk(await this.host.flush());
  }

  // --- what is to be seen ---

  status(mirror?: MirrorServer): MirrorStatus {
    const statuses = this.device.mirrorStatuses();
    const found = mirror === undefined ? statuses[0] : statuses.find(sameAs(mirror));
    if (found === undefined) throw new Error('no such mirror');
    return found;
  }

  /** Waits for a status of the mirror. */
  until(what: string, accept: (status: MirrorStatus) => boolean, mirror?: MirrorServer) {
    return waitUntil(what, () => accept(this.status(mirror)), {
      everyMs: 5,
      timeoutMs: WAIT_MS,
      onTimeout: () => JSON.stringify(this.status(mirror)),
    });
  }

  inStep(mirror?: MirrorServer): Promise<unknown> {
    return this.until('the mirror to be in step', () => this.isInStep(mirror), mirror);
  }

  /** The mirror has every epoch, and nothing is open. */
  isInStep(mirror?: MirrorServer): boolean {
    const { state, dirty_bytes, suspect_bytes, staged_bytes, position } = this.status(mirror);
    if (state !== 'streaming' || dirty_bytes + suspect_bytes + staged_bytes > 0) return false;
    return position?.epoch === this.device.position().epoch;
  }

  /** Waits until the mirror has everything, and checks that volume and mirror hold what the host wrote. */
  async equal(mirror: MirrorServer): Promise<void> {
    await this.inStep(mirror);
    const onMirror = this.expected.differences(mirror.device.image);
    const here = await this.differencesHere();
    if (onMirror.length + here.length === 0) return;
    throw new Error(
      `blocks that differ: on the mirror ${onMirror.join(' ')}, here ${here.join(' ')}`,
    );
  }

  /** Blocks of the volume that are not what the host wrote; only looks where one of the two has data. */
  async differencesHere(): Promise<number[]> {
    const differing: number[] = [];
    const end = this.volume.sizeBytes;
    let from = 0;
    const pages = new Set(this.expected.usedPages());
    while (from < end) {
      const run = this.volume.runAt(from, end);
      if (!run.zero) for (let at = from; at < run.end; at += 4096) pages.add(at / 4096);
      from = run.end;
    }
    for (const page of pages) {
      const bytes = await this.host.read(page * 4096, 4096);
      if (!bytes.equals(this.expected.page(page))) differing.push(page);
    }
    return differing.slice(0, 10);
  }

  /** Kinds of the events so far. */
  kinds(): string[] {
    return this.events.map(({ kind }) => kind);
  }
}

function sameAs(mirror: MirrorServer): (status: MirrorStatus) => boolean {
  const socket = mirror.uri.split('=')[1] ?? '';
  return (status) => status.uri.includes(socket);
}

function openStore(path: string, life: Life, options: RigOptions): VolumeStore {
  const disk = options.disk ?? nodeDisk;
  return VolumeStore.open({ disk, clock: life.clock, random: systemRandom, path });
}

function expectOk(status: number): void {
  if (status !== 0) throw new Error(`the device answered errno ${status}`);
}
