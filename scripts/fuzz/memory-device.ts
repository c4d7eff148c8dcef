/**
 * A device for the fuzzer: as large as is asked for and held sparsely, answering at once or late and in
 * any order, with places where it fails. What it answers late it has already done: overlapping requests
 * are applied in the order in which they came.
 */
import {
  type BlockDevice,
  type DeviceRequest,
  type Extent,
  PENDING,
  type StatusContext,
  Status,
} from '../../src/io/device.ts';
import { Content } from './content.ts';
import type { Dice } from './dice.ts';
import type { BadRange } from './judge-facts.ts';

const PAGE_BYTES = 4096;

/** A bad range, and the system's errno that stands behind the client's error. */
export interface FailingRange extends BadRange {
  readonly errno: number;
}

export interface FuzzDeviceOptions {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly answers: 'now' | 'late' | 'mixed';
  readonly failing: readonly FailingRange[];
  /** Whether it says ENOTSUP to what must be fast. */
  readonly slowZeroes: boolean;
  readonly dice: Dice;
}

export class FuzzDevice implements BlockDevice {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly description = 'for the fuzzer';
  readonly content = new Content();
  users = 0;
  private readonly options: FuzzDeviceOptions;
  private held: (() => void)[] = [];

  constructor(options: FuzzDeviceOptions) {
    this.options = options;
    this.sizeBytes = options.sizeBytes;
    this.readOnly = options.readOnly;
  }

  opened(): void {
    this.users++;
  }

  closed(): void {
    this.users--;
  }

  get heldCount(): number {
    return this.held.length;
  }

  /** Answers one of what it holds. */
  releaseOne(): void {
    const { dice } = this.options;
    const [answer] = this.held.splice(dice.below(this.held.length), 1);
    answer?.();
  }

  read(request: DeviceRequest): number {
    const failure = this.failureOf('read', request);
    if (!this.isLate()) {
      if (failure !== 0) return failure;
      this.content.read(request.offset, request.length).bytes.copy(request.buffer, request.start);
      return Status.OK;
    }
    const { bytes } = this.content.read(request.offset, request.length);
    const early = this.options.dice.below(bytes.length + 1);
    bytes.copy(request.buffer, request.start, 0, early);
    request.retain();
    return this.answerLater(request, failure, () => {
      bytes.copy(request.buffer, request.start + early, early);
    });
  }

  write(request: DeviceRequest): number {
    const failure = this.failureOf('write', request);
    const { offset, start, length } = request;
    const late = this.isLate();
    const keeps = late && this.options.dice.chance(70);
    if (keeps) request.retain();
    if (failure === 0) {
      const { buffer, start: now } = keeps ? request : { buffer: request.buffer, start };
      this.content.write(offset, Buffer.from(buffer.subarray(now, now + length)));
    }
    return late ? this.answerLater(request, failure) : failure;
  }

  zero(request: DeviceRequest): number {
    if (request.fastZero && this.options.slowZeroes) return Status.ENOTSUP;
    const failure = this.failureOf('zero', request);
    if (failure === 0) this.content.zero(request.offset, request.length);
    return this.isLate() ? this.answerLater(request, failure) : failure;
  }

  trim(request: DeviceRequest): number {
    const failure = this.failureOf('trim', request);
    const first = Math.ceil(request.offset / PAGE_BYTES) * PAGE_BYTES;
    const end = request.offset + request.length;
    const last = Math.floor(end / PAGE_BYTES) * PAGE_BYTES;
    // As a volume does: the request itself is narrowed to whole blocks.
    request.offset = first;
    request.length = Math.max(0, last - first);
    if (failure === 0) this.content.zero(first, request.length);
    return this.isLate() ? this.answerLater(request, failure) : failure;
  }

  flush(request: DeviceRequest): number {
    const failure = this.failureOf('flush', request);
    return this.isLate() ? this.answerLater(request, failure) : failure;
  }

  cache(request: DeviceRequest): number {
    return this.isLate() ? this.answerLater(request, 0) : Status.OK;
  }

  contexts(): readonly StatusContext[] {
    return [this.allocation, this.parity];
  }

  private readonly allocation: StatusContext = {
    name: 'base:allocation',
    describe: (offset, end, into) => this.describeAllocation(offset, end, into),
  };

  /** Changes every 64 KiB. */
  private readonly parity: StatusContext = {
    name: 'x-test:even',
    describe: (offset, end, into) => {
      const unit = Math.floor(offset / 65536);
      into.end = Math.min(end, (unit + 1) * 65536);
      into.flags = unit % 2;
    },
  };

  private describeAllocation(offset: number, end: number, into: Extent): void {
    const here = Math.floor(offset / PAGE_BYTES);
    const stored = new Set(this.content.storedPages());
    if (stored.has(here)) {
      let page = here;
      while (stored.has(page)) page++;
      into.end = Math.min(end, page * PAGE_BYTES);
      into.flags = 0;
      return;
    }
    let next = Infinity;
    for (const page of stored) if (page > here && page < next) next = page;
    into.end = Math.min(end, next * PAGE_BYTES);
    into.flags = 3;
  }

  private failureOf(operation: BadRange['operation'], { offset, length }: DeviceRequest): number {
    for (const bad of this.options.failing) {
      if (bad.operation !== operation) continue;
      const meets = bad.offset < offset + length && offset < bad.offset + bad.length;
      if (operation === 'flush' || meets) return bad.errno;
    }
    return 0;
  }

  private isLate(): boolean {
    const { answers, dice } = this.options;
    return answers === 'late' || (answers === 'mixed' && dice.chance(50));
  }

  private answerLater(request: DeviceRequest, status: number, before?: () => void): number {
    this.held.push(() => {
      before?.();
      request.complete(status);
    });
    return PENDING;
  }
}
