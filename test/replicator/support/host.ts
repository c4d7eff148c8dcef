/** What a client of a device does: requests of any kind, answered as promises. Bytes are the request's own. */
import { DeviceRequest, PENDING, type BlockDevice } from '../../../src/io/device.ts';

export class HostRequest extends DeviceRequest {
  private kept = false;

  override retain(): void {
    if (this.kept || this.buffer.length === 0) return;
    this.kept = true;
    // Moves as the buffers of a session do: whoever kept the old place reads rubbish.
    const moved = Buffer.alloc(this.length + 8, 0xee);
    this.buffer.copy(moved, 8, this.start, this.start + this.length);
    this.buffer.fill(0xdd);
    this.buffer = moved;
    this.start = 8;
  }
}

export interface Options {
  readonly fua?: boolean;
  readonly noHole?: boolean;
}

export class Host {
  private readonly device: BlockDevice;
  /** Requests without an answer. */
  waiting = 0;

  constructor(device: BlockDevice) {
    this.device = device;
  }

  write(offset: number, bytes: Buffer, options: Options = {}): Promise<number> {
    const request = requestOf(offset, bytes.length, options);
    request.buffer = Buffer.from(bytes);
    return this.answered(request, () => this.device.write(request));
  }

  zero(offset: number, length: number, options: Options = {}): Promise<number> {
    const request = requestOf(offset, length, options);
    return this.answered(request, () => this.device.zero(request));
  }

  trim(offset: number, length: number, options: Options = {}): Promise<number> {
    const request = requestOf(offset, length, options);
    return this.answered(request, () => this.device.trim(request));
  }

  flush(): Promise<number> {
    const request = requestOf(0, 0, {});
    return this.answered(request, () => this.device.flush(request));
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const request = requestOf(offset, length, {});
    request.buffer = Buffer.alloc(length, 0xaa);
    const status = await this.answered(request, () => this.device.read(request));
    if (status !== 0) throw new Error(`a read answered ${status}`);
    return request.buffer.subarray(request.start, request.start + length);
  }

  private answered(request: HostRequest, call: () => number): Promise<number> {
    this.waiting += 1;
    return new Promise((resolve) => {
      let returned = false;
      const completer = {
        completed: (_: DeviceRequest, status: number): void => {
          if (!returned) throw new Error('completed before the method returned');
          this.waiting -= 1;
          resolve(status);
        },
      };
      request.push(completer);
      const status = call();
      returned = true;
      // As a session does: what was not retained is reused as soon as the method returned.
      if (status === PENDING) return;
      request.pop(completer);
      this.waiting -= 1;
      resolve(status);
    });
  }
}

function requestOf(offset: number, length: number, options: Options): HostRequest {
  const request = new HostRequest();
  request.offset = offset;
  request.length = length;
  request.fua = options.fua === true;
  request.noHole = options.noHole === true;
  return request;
}

/** Numbers in [0, 1) that a seed decides (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Bytes without a zero, told apart from those of every other `stamp`. */
export function stamped(length: number, stamp: number): Buffer {
  const bytes = Buffer.alloc(length, 1 + (stamp % 254));
  for (let at = 0; at + 8 <= length; at += 512) {
    bytes.writeUInt32LE(stamp >>> 0, at);
    bytes.writeUInt32LE(at ^ 0x5bd1e995, at + 4);
  }
  return bytes;
}
