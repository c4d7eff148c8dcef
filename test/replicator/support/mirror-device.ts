/**
 * The disk of a mirror: sparse, with a volatile write cache. It records what it was asked, can hold its answers,
 * answer in any order, fail, and lose at a power cut any part of what was not flushed.
 */
import {
  PENDING,
  type BlockDevice,
  type DeviceRequest,
  type StatusContext,
} from '../../../src/io/device.ts';
import { SparseImage } from './sparse-image.ts';

export type Operation = 'read' | 'write' | 'zero' | 'flush';

export interface Asked {
  readonly operation: Operation;
  readonly offset: number;
  readonly length: number;
}

interface Change {
  readonly offset: number;
  /** Null: zeroes. */
  readonly bytes: Buffer | null;
  readonly length: number;
}

const SECTOR = 512;

export class MirrorDevice implements BlockDevice {
  sizeBytes: number;
  readOnly = false;
  readonly description = '';
  /** What reads see: the cache is in it. */
  readonly image: SparseImage;
  readonly asked: Asked[] = [];
  /** An errno instead of an effect; asked for each request. */
  fault: ((asked: Asked) => number) | null = null;
  /** Told of each request before it is looked at. */
  onAsked: ((asked: Asked) => void) | null = null;
  /** Which requests are kept until `resume`; not together with `shuffleAnswers`. */
  holds: ((asked: Asked) => boolean) | null = null;
  /** Requests are kept, and nothing is answered. */
  private stalling = false;
  private held: { readonly request: DeviceRequest; readonly asked: Asked }[] = [];
  private shuffle: (() => number) | null = null;
  private readonly durable: SparseImage;
  private unflushed: Change[] = [];

  constructor(sizeBytes: number, content: SparseImage = new SparseImage()) {
    this.sizeBytes = sizeBytes;
    this.image = content;
    this.durable = content.clone();
  }

  opened(): void {}
  closed(): void {}

  read(request: DeviceRequest): number {
    return this.take('read', request);
  }
  write(request: DeviceRequest): number {
    return this.take('write', request);
  }
  zero(request: DeviceRequest): number {
    return this.take('zero', request);
  }
  trim(request: DeviceRequest): number {
    return this.take('zero', request);
  }
  flush(request: DeviceRequest): number {
    return this.take('flush', request);
  }

  cache(): number {
    return 0;
  }
  contexts(): readonly StatusContext[] {
    return [];
  }

  /** Answers come in random order from now on, a little later. */
  shuffleAnswers(fraction: () => number): void {
    this.shuffle = fraction;
  }

  stall(): void {
    this.stalling = true;
  }

  resume(): void {
    this.stalling = false;
    this.release();
  }

  get heldCount(): number {
    return this.held.length;
  }

  bytesAsked(operation: Operation): number {
    let bytes = 0;
    for (const each of this.asked) if (each.operation === operation) bytes += each.length;
    return bytes;
  }

  count(operation: Operation): number {
    return this.asked.filter((each) => each.operation === operation).length;
  }

  /** What the disk holds after a power cut: what was flushed, and of the rest any sectors. */
  afterPowerCut(survives: () => boolean): SparseImage {
    const left = this.durable.clone();
    for (const change of this.unflushed) {
      for (let done = 0; done < change.length; done += SECTOR) {
        if (!survives()) continue;
        const part = Math.min(SECTOR, change.length - done);
        if (change.bytes === null) left.zero(change.offset + done, part);
        else left.write(change.offset + done, change.bytes.subarray(done, done + part));
      }
    }
    return left;
  }

  private take(operation: Operation, request: DeviceRequest): number {
    const asked = { operation, offset: request.offset, length: request.length };
    this.asked.push(asked);
    this.onAsked?.(asked);
    const kept = this.stalling || this.holds?.(asked) === true;
    if (!kept && this.shuffle === null) return this.perform(request, asked);
    request.retain();
    this.held.push({ request, asked });
    if (!kept) setTimeout(() => this.releaseOne(), (this.shuffle?.() ?? 0) * 3);
    return PENDING;
  }

  private release(): void {
    while (this.held.length > 0) this.releaseOne();
  }

  private releaseOne(): void {
    if (this.stalling) return;
    const index = Math.floor((this.shuffle?.() ?? 0) * this.held.length);
    const [entry] = this.held.splice(index, 1);
    if (entry !== undefined) entry.request.complete(this.perform(entry.request, entry.asked));
  }

  private perform(request: DeviceRequest, asked: Asked): number {
    const errno = this.fault?.(asked) ?? 0;
    if (errno !== 0) return errno;
    const { operation, offset, length } = asked;
    if (operation === 'read') {
      this.image.read(offset, length).copy(request.buffer, request.start);
    } else if (operation === 'flush') {
      for (const change of this.unflushed) apply(this.durable, change);
      this.unflushed = [];
    } else {
      const { buffer, start } = request;
      const bytes =
        operation === 'write' ? Buffer.from(buffer.subarray(start, start + length)) : null;
      const change = { offset, length, bytes };
      this.unflushed.push(change);
      apply(this.image, change);
    }
    return 0;
  }
}

function apply(image: SparseImage, change: Change): void {
  if (change.bytes === null) image.zero(change.offset, change.length);
  else image.write(change.offset, change.bytes);
}
