/** A device request of a test: its bytes are its own, its answer is a promise. */
import { DeviceRequest, PENDING } from '../../../src/io/device.ts';
import type { Volume } from '../../../src/volume/volume.ts';

export class TestRequest extends DeviceRequest {
  retained = 0;

  override retain(): void {
    this.retained += 1;
    // Moves like the buffers of a session: whoever kept the old place reads rubbish.
    if (this.retained > 1) return;
    const moved = this.memory(this.length + 8);
    moved.fill(0xee, 0, 8);
    this.buffer.copy(moved, 8, this.start, this.start + this.length);
    this.buffer.fill(0xdd);
    this.buffer = moved;
    this.start = 8;
  }

  /** A place of so many bytes, whatever is in it. */
  protected memory(length: number): Buffer {
    return Buffer.allocUnsafe(length);
  }

  get bytes(): Buffer {
    return this.buffer.subarray(this.start, this.start + this.length);
  }
}

export interface Range {
  readonly offset: number;
  readonly length: number;
}

export function requestOf(range: Range, payload?: Buffer): TestRequest {
  const request = new TestRequest();
  request.offset = range.offset;
  request.length = range.length;
  request.buffer = payload === undefined ? Buffer.alloc(range.length, 0xaa) : Buffer.from(payload);
  return request;
}

/** Runs one call and resolves with its final status. */
export function answered(
  request: TestRequest,
  call: (request: TestRequest) => number,
): Promise<number> {
  return new Promise((resolve) => {
    let returned = false;
    const completer = {
      completed(_: DeviceRequest, status: number): void {
        if (!returned) throw new Error('completed before the method returned');
        resolve(status);
      },
    };
    request.push(completer);
    const status = call(request);
    returned = true;
    if (status === PENDING) return;
    request.pop(completer);
    resolve(status);
  });
}

export function write(volume: Volume, offset: number, payload: Buffer): Promise<number> {
  return answered(requestOf({ offset, length: payload.length }, payload), (request) =>
    volume.write(request),
  );
}

export function zero(volume: Volume, range: Range, noHole = false): Promise<number> {
  const request = requestOf(range);
  request.noHole = noHole;
  return answered(request, (asked) => volume.zero(asked));
}

export function flush(volume: Volume): Promise<number> {
  return answered(requestOf({ offset: 0, length: 0 }), (request) => volume.flush(request));
}

/** The bytes of a range; throws unless the read succeeds. */
export async function read(volume: Volume, offset: number, length: number): Promise<Buffer> {
  const request = requestOf({ offset, length });
  const status = await answered(request, (asked) => volume.read(asked));
  if (status !== 0) throw new Error(`read answered ${status}`);
  return request.bytes;
}
