/** A read that no client asked for: its memory is the caller's, and its answer goes to a callback. */
import { DeviceRequest } from '../io/device.ts';
import type { Completer } from '../io/device.ts';

export class OwnRead extends DeviceRequest implements Completer {
  private readonly callback: (status: number) => void;

  /** `callback` gets 0 or an errno; until then the memory is in use. */
  constructor(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: (status: number) => void,
  ) {
    super();
    this.buffer = buffer;
    this.start = start;
    this.length = length;
    this.offset = offset;
    this.callback = callback;
    this.push(this);
  }

  override retain(): void {}

  completed(_: DeviceRequest, status: number): void {
    this.callback(status);
  }
}
