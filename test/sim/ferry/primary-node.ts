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
import type { Mirror } from '../../../src/replicator/mirror/mirror.ts';
import { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import { SharedLimit } from '../../../src/replicator/pace/shared-limit.ts';
import type { StagingQueue } from '../../../src/replicator/staging/staging-queue.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { takeBytes, takePage } from '../arena.ts';
import { wrongUnless } from '../failure.ts';
import type { History } from './history.ts';
import { Lines } from './lines.ts';
import { PRIMARY } from './mirror-node.ts';
import { Node, type Begun, type Surroundings } from './node.ts';
import { BLOCK, type Oracle } from './oracle.ts';
import { simExaminer } from './requests.ts';
import type { SnapshotBook } from './snapshots.ts';

export const PRIMARY_VOLUME = 'v';

export type Staging = Pick<History, 'stagingBytes' | 'pushBytes' | 'graceMs' | 'ringBytes'>;

interface Weighed {
  readonly mode: 'auto' | 'off';
  readonly link: { readonly policy: { active: boolean } } | null;
}

export class PrimaryNode extends Node {
  device: ReplicatedVolume | null = null;
  /** What its mirrors may be sent together, in bytes a second; null: no limit. */
  private limit: number | null = null;
  private sharedLimit: SharedLimit | null = null;
  /** By name of the mirror. */
  readonly pays = new Map<string, boolean>();
  readonly oracle: Oracle;
  private readonly book: SnapshotBook;
  private readonly staging: Staging;

  constructor(surroundings: Surroundings, oracle: Oracle, book: SnapshotBook, staging: Staging) {
    super(PRIMARY, 0, surroundings);
    this.oracle = oracle;
    this.book = book;
    this.staging = staging;
  }

  get nodeLimit(): number | null {
    return this.limit;
  }

  /** As its configuration says from now on. */
  set nodeLimit(bytesPerSecond: number | null) {
    this.limit = bytesPerSecond;
    this.sharedLimit?.set(bytesPerSecond, this.surroundings.world.time);
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

  /**
   * Has links compress for as long as that is to pay: volumes are too small for what `CompressionPolicy` measures first. It may
   * still end it.
   */
  weighCompression(): void {
    for (const { uri, compression } of this.mirrors) {
      const { link, mode } = compression as unknown as Weighed;
      if (link === null || mode === 'off') continue;
      const node = /m\d+/.exec(uri.text)?.[0] ?? '';
      link.policy.active = this.pays.get(node) ?? true;
    }
  }

  replicate({ process, disk, random }: Begun): void {
    const { lines, compressor } = this.surroundings;
    const { stagingBytes, pushBytes, graceMs, ringBytes } = this.staging;
    const { volume } = this;
    this.tapVolume(volume);
    this.sharedLimit = new SharedLimit(this.limit, process.now());
    const device = new ReplicatedVolume({
      node: PRIMARY,
      volume,
      clock: process,
      random,
      network: lines.of(PRIMARY, process),
      examiner: simExaminer,
      ...(compressor === null ? {} : { compressor }),
      events: {
        emit: ({ kind, mirror, message }) => {
          this.note(`${kind} ${/m\d+/.exec(mirror ?? '')?.[0] ?? ''}: ${message}`);
        },
      },
      nodeLimit: this.sharedLimit,
      stagingBytes,
      pushBytes,
      graceMs,
      stagingDisk: { disk, sizeBytes: ringBytes },
    });
    this.tapQueue(device.queue, volume);
    this.device = device;
    device.start();
    this.tapSnapshots(volume);
  }

  /** What the volume holds, by its own word. */
  contentNow(): Buffer {
    const { volume } = this;
    const bytes = takeBytes(volume.sizeBytes);
    const status = volume.readNow(bytes, 0, bytes.length, 0);
    wrongUnless(status === 0, `the primary cannot be read: ${status}`);
    return bytes;
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
    // What it reserved after an epoch ended counts as well: the epoch may have gone out then.
    if (this.device !== null) this.oracle.reservedTo(durableReserve(this.device));
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
        const { generation } = volume.metadata.state;
        // A change that does not fit into an epoch ends it while it is being staged.
        const made = this.oracle.closed(openNumber, generation, reason === 'conflict');
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

function durableReserve({ reserve }: ReplicatedVolume): number {
  return (reserve as unknown as { durable: number }).durable;
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
