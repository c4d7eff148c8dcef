/**
 * The node of the primary: a store with the volume, and the replicator over it. Every change that the volume completes, and
 * every end of an epoch, is told to the oracle in the very turn.
 */
import {
  PENDING,
  type BlockDevice,
  type Completer,
  type DeviceRequest,
} from '../../../src/io/device.ts';
import type { Mirror } from '../../../src/replicator/mirror.ts';
import { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import type { StagingQueue } from '../../../src/replicator/staging-queue.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { takePage } from '../arena.ts';
import { wrongUnless } from '../failure.ts';
import type { History } from './history.ts';
import { Lines } from './lines.ts';
import { PRIMARY } from './mirror-node.ts';
import { Node, type Begun, type Surroundings } from './node.ts';
import { BLOCK, type Oracle } from './oracle.ts';
import { simExaminer } from './requests.ts';
import type { SnapshotBook } from './snapshots.ts';

export const PRIMARY_VOLUME = 'v';

export type Staging = Pick<History, 'stagingBytes' | 'graceMs' | 'ringBytes'>;

export class PrimaryNode extends Node {
  device: ReplicatedVolume | null = null;
  readonly oracle: Oracle;
  private readonly book: SnapshotBook;
  private readonly staging: Staging;

  constructor(surroundings: Surroundings, oracle: Oracle, book: SnapshotBook, staging: Staging) {
    super(PRIMARY, 0, surroundings);
    this.oracle = oracle;
    this.book = book;
    this.staging = staging;
  }

  get mirrors(): readonly Mirror[] {
    return this.device === null ? [] : mirrorsOf(this.device);
  }

  mirrorOf(node: string): Mirror | null {
    return this.mirrors.find(({ uri }) => uri.text === Lines.uri(node)) ?? null;
  }

  async create(): Promise<void> {
    const parts = this.begin();
    await this.store!.create(PRIMARY_VOLUME, this.surroundings.blocks * BLOCK);
    this.replicate(parts);
  }

  get volume(): Volume {
    const volume = this.store?.find(PRIMARY_VOLUME) ?? null;
    wrongUnless(volume !== null, 'the volume of the primary is gone');
    return volume;
  }

  replicate({ process, disk, random }: Begun): void {
    const { lines } = this.surroundings;
    const { stagingBytes, graceMs, ringBytes } = this.staging;
    const { volume } = this;
    this.tapVolume(volume);
    const device = new ReplicatedVolume({
      node: PRIMARY,
      volume,
      clock: process,
      random,
      network: lines.of(PRIMARY, process),
      examiner: simExaminer,
      events: {
        emit: ({ kind, mirror, message }) => {
          this.note(`${kind} ${/m\d+/.exec(mirror ?? '')?.[0] ?? ''}: ${message}`);
        },
      },
      stagingBytes,
      graceMs,
      stagingDisk: { disk, sizeBytes: ringBytes },
    });
    this.tapQueue(device.queue, volume);
    this.device = device;
    device.start();
    this.tapSnapshots(volume);
  }

  async close(): Promise<void> {
    const { device, store } = this;
    this.closing = true;
    await device?.close();
    await store?.close();
  }

  /** Its device is somebody else's from now on. */
  handOver(): void {
    this.ended();
  }

  protected override ended(): void {
    this.device = null;
  }

  // ---- taps

  private tapQueue(queue: StagingQueue, volume: Volume): void {
    const { process } = this;
    const tapped = queue as unknown as { rotate(reason: string): void };
    const rotate = tapped.rotate.bind(queue);
    tapped.rotate = (reason) => {
      const { openNumber } = queue;
      if (process?.over === false) {
        const { generation, reservedEpoch } = volume.metadata.state;
        const made = this.oracle.closed(openNumber, generation, {
          // A change that does not fit into an epoch ends it while it is being staged.
          beforeLast: reason === 'conflict',
          isReserved: openNumber <= reservedEpoch,
        });
        wrongUnless(made !== null, `epoch ${openNumber} is used twice`);
      }
      rotate(reason);
    };
  }

  private tapSnapshots({ snapshots }: Volume): void {
    const { book, process } = this;
    const { witness } = snapshots;
    if (witness === null) return;
    snapshots.witness = {
      taken: (twin, replaces) => {
        const position = witness.taken(twin, replaces);
        if (process?.over === false) book.took(twin.id, twin.name, replaces, position.epoch);
        return position;
      },
      removed: (id) => {
        if (process?.over === false) book.leave(id);
        witness.removed(id);
      },
    };
  }

  private tapVolume(volume: Volume): void {
    const write = volume.write.bind(volume);
    const zero = volume.zero.bind(volume);
    volume.write = (request) => new Tap(this, volume, true).pass(request, write);
    volume.zero = (request) => new Tap(this, volume, false).pass(request, zero);
  }
}

export function mirrorsOf(device: ReplicatedVolume): readonly Mirror[] {
  return (device as unknown as { mirrors: readonly Mirror[] }).mirrors;
}

/** Sees one change through the volume. */
class Tap implements Completer {
  private readonly node: PrimaryNode;
  private readonly volume: Volume;
  private readonly isWrite: boolean;
  private pending: ReturnType<Oracle['began']> | null = null;
  private readonly process: PrimaryNode['process'];

  constructor(node: PrimaryNode, volume: Volume, isWrite: boolean) {
    this.node = node;
    this.volume = volume;
    this.isWrite = isWrite;
    this.process = node.process;
  }

  pass(request: DeviceRequest, call: BlockDevice['write']): number {
    if (this.process?.over !== false) return call(request);
    this.pending = this.node.oracle.began(request.offset, request.length);
    request.push(this);
    const status = call(request);
    if (status === PENDING) return PENDING;
    request.pop(this);
    this.saw(request, status);
    return status;
  }

  completed(request: DeviceRequest, status: number): void {
    this.saw(request, status);
    request.complete(status);
  }

  private saw(request: DeviceRequest, status: number): void {
    const { node, pending } = this;
    if (this.process?.over !== false || pending === null || node.process !== this.process) return;
    const { oracle } = node;
    const { offset, length, buffer, start } = request;
    oracle.ended(pending);
    if (status === 0) {
      const bytes = this.isWrite ? buffer.subarray(start, start + length) : null;
      oracle.changeOf.set(request, oracle.changed(offset, length, bytes));
    } else {
      oracle.failed(offset, length, (block) => this.readNow(block));
    }
  }

  private readNow(block: number): Buffer | null {
    const bytes = takePage();
    const faults = this.node.disk!.faults.splice(0);
    const status = this.volume.readNow(bytes, 0, BLOCK, block * BLOCK);
    this.node.disk!.faults.push(...faults);
    return status === 0 ? bytes : null;
  }
}
