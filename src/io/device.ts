/**
 * The seam between a protocol and a device: one request, handed down without allocation.
 *
 * Invariants:
 * - A device method returns the final status, or PENDING and later calls `request.complete` exactly
 *   once. It never does both, and never calls `complete` before it returned.
 * - Until the method returns, `request.buffer` is valid. A device that returns PENDING and still
 *   needs the bytes (payload of a write, destination of a read) calls `request.retain()` first, which
 *   may move the request to another buffer: read `buffer` and `start` again afterwards.
 * - A layer that wants to see a completion pushes itself before handing the request down, and pops
 *   itself when the lower layer answered at once.
 */
import assert from 'node:assert';

/** Returned by a device method whose answer comes later, through `DeviceRequest.complete`. */
export const PENDING = -1;

/** System errno values that the rooms exchange as status; 0 is success. */
export const Status = Object.freeze({
  OK: 0,
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const);

export interface Completer {
  /** `status` is 0 or a positive system errno. */
  completed(request: DeviceRequest, status: number): void;
}

const COMPLETER_DEPTH_MAX = 4;

/** One request on its way through the layers. Owners pool these; fields are overwritten on reuse. */
export abstract class DeviceRequest {
  /** Byte offset in the device. */
  offset = 0;
  /** Bytes concerned. Validated against the device's size by the protocol. */
  length = 0;
  /** Payload of a write or destination of a read: `buffer[start .. start + length)`. */
  buffer: Buffer = EMPTY;
  start = 0;
  /** The effect must be durable before the answer. */
  fua = false;
  /** Zeroes: provision the range, do not punch. */
  noHole = false;
  /** Zeroes: answer ENOTSUP at once, with nothing changed, unless this is faster than a write of the range. */
  fastZero = false;
  /** Zeroes: the space is to be given back, also where writing zeroes would be cheaper. Set by the device. */
  free = false;
  /** For a layer between protocol and disk: the epoch that the request waits for. */
  epoch = 0;

  private readonly completers: (Completer | null)[] = [null, null, null, null];
  private depth = 0;

  /** Its client leaves, or is sent away: it waits for no answer but one that is at hand. */
  get ending(): boolean {
    return false;
  }

  /** Moves the bytes to memory that belongs to this request until it is complete. Idempotent. */
  abstract retain(): void;

  push(completer: Completer): void {
    assert(this.depth < COMPLETER_DEPTH_MAX, 'too many layers');
    this.completers[this.depth++] = completer;
  }

  pop(completer: Completer): void {
    assert(this.depth > 0, 'no layer to pop');
    assert(this.completers[this.depth - 1] === completer, 'layers pop in reverse order');
    this.completers[--this.depth] = null;
  }

  /** Answers the request: the topmost completer takes it from here. */
  complete(status: number): void {
    assert(this.depth > 0, 'completed twice, or never started');
    const completer = this.completers[--this.depth];
    this.completers[this.depth] = null;
    assert(completer);
    completer.completed(this, status);
  }
}

const EMPTY = Buffer.alloc(0);

/** The longest run of equal state that `StatusContext.describe` found; overwritten by each call. */
export interface Extent {
  /** Bytes from the start of the device; past the offset that was asked for. */
  end: number;
  /** Meaning by context: for `base:allocation` NBD_STATE_HOLE and NBD_STATE_ZERO. */
  flags: number;
}

/** One kind of block status that a device can tell, under the name that clients ask for. */
export interface StatusContext {
  /** `namespace:leaf`, e.g. `base:allocation`. */
  readonly name: string;
  /**
   * Describes the run from byte `offset`, cut at `end`, from memory and at once. Both lie inside the
   * device and `end` is past `offset`. Neighbouring answers may be equal; flags 0 is always safe.
   */
  describe(offset: number, end: number, into: Extent): void;
}

/** What a protocol may do with an exported device. All methods follow the rules above. */
export interface BlockDevice {
  /** Bytes. Constant while a connection lives, unless the device grows or shrinks under it. */
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Shown to clients that ask; may be empty. */
  readonly description: string;

  /** Reads exactly `length` bytes into the request's buffer. */
  read(request: DeviceRequest): number;
  /** Applies the payload; `fua` as asked. */
  write(request: DeviceRequest): number;
  /** Makes the range read as zeroes; `noHole` and `fua` as asked. */
  zero(request: DeviceRequest): number;
  /**
   * Hint that the range is no longer needed; whole blocks in it read as zeroes afterwards. May narrow
   * the request's range to them.
   */
  trim(request: DeviceRequest): number;
  /** Makes durable every write, zero and trim that was answered before this call. */
  flush(request: DeviceRequest): number;
  /** Hint that the range will be read soon. May do nothing; the range may be the whole device. */
  cache(request: DeviceRequest): number;
  /**
   * What can be told of its blocks, `base:allocation` first. A context stays usable as long as the
   * device, also when it is no longer listed.
   */
  contexts(): readonly StatusContext[];

  /** A connection that may use the device began, or ended. */
  opened(): void;
  closed(): void;
  /** Some connection is about to end: what was held back of its requests (`DeviceRequest.ending`) is to be answered. */
  ending?(): void;
}
