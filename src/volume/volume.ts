/** One open volume. */
import type { DeviceRequest } from '../io/device.ts';
import type { Metadata } from './metadata.ts';

export interface Volume {
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly failed: boolean;
  readonly failure: string | null;
  /** Bytes of the blocks that hold data. */
  readonly allocatedBytes: number;
  readonly metadata: Metadata;
  /** The data file of the top layer. */
  readonly path: string;
  /** Called once, when a sync failed and the volume refuses writes from then on. */
  onFailed: ((reason: string) => void) | null;

  read(request: DeviceRequest): number;
  write(request: DeviceRequest): number;
  zero(request: DeviceRequest): number;
  flush(request: DeviceRequest): number;
  readNow(buffer: Buffer, start: number, length: number, offset: number): number;
  readAt(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: (status: number) => void,
  ): void;
  runAt(offset: number, end: number): { end: number; zero: boolean };
  resize(sizeBytes: number): Promise<void>;
  close(): Promise<void>;
}
