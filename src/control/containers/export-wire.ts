/**
 * One connection to the export that a volume lies in: any range, whatever blocks the export wants.
 *
 * Invariants:
 * - What is not whole blocks of the export is read, put together and written whole. The volume changes one block of
 *   BLOCK_BYTES at a time, and the export's are no larger: nobody else writes them meanwhile.
 * - Each callback is called once, with 0 or a positive errno, and never from inside the call that took it.
 */
import { BLOCK_BYTES, CONTAINER_ZERO_BYTES_MAX } from '../../io/limits.ts';
import type { NbdClient, RequestCallback } from '../../nbd/client/client.ts';

/** A connection to an export, as far as it is needed here. */
export type ExportClient = Pick<
  NbdClient,
  'info' | 'open' | 'onClosed' | 'read' | 'write' | 'zero' | 'flush' | 'close' | 'destroy'
>;

/** Why an export cannot hold `sizeBytes` of a volume; null when it can. */
export function unfitFor({ info }: ExportClient, sizeBytes: number): string | null {
  if (info.readOnly) return 'the export is read-only';
  if (info.minimumBlock > BLOCK_BYTES) return `it takes no blocks below ${info.minimumBlock} bytes`;
  if (info.sizeBytes >= sizeBytes) return null;
  return `the export has ${info.sizeBytes} bytes, ${sizeBytes} are needed`;
}

export class ExportWire {
  readonly client: ExportClient;
  /** Bytes that offsets and lengths are multiples of. */
  private readonly unit: number;

  constructor(client: ExportClient) {
    this.client = client;
    this.unit = client.info.minimumBlock;
  }

  /** When not, an error is about the connection, not about the request. */
  get open(): boolean {
    return this.client.open;
  }

  get canZero(): boolean {
    return this.client.info.canWriteZeroes;
  }

  read(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: RequestCallback,
  ): void {
    const { client } = this;
    if (this.isWhole(position, length)) {
      client.read(buffer, start, length, position, callback);
      return;
    }
    const { first, end } = this.around(position, length);
    const whole = Buffer.allocUnsafe(end - first);
    client.read(whole, 0, whole.length, first, (errno) => {
      if (errno === 0) whole.copy(buffer, start, position - first, position - first + length);
      callback(errno);
    });
  }

  /** `bytes` are in use until the callback. */
  write(bytes: Buffer, position: number, callback: RequestCallback): void {
    const { client, unit } = this;
    if (this.isWhole(position, bytes.length)) {
      client.write(bytes, 0, bytes.length, position, callback);
      return;
    }
    const { first, end } = this.around(position, bytes.length);
    const whole = Buffer.allocUnsafe(end - first);
    const put = (): void => {
      bytes.copy(whole, position - first);
      client.write(whole, 0, whole.length, first, callback);
    };
    client.read(whole, 0, unit, first, (errno) => {
      if (errno !== 0) callback(errno);
      else if (whole.length === unit) put();
      else {
        const last = whole.length - unit;
        client.read(whole, last, unit, first + last, (failed) => {
          if (failed === 0) put();
          else callback(failed);
        });
      }
    });
  }

  /** Zeroes whole blocks of the volume. */
  zero(position: number, length: number, noHole: boolean, callback: RequestCallback): void {
    const piece = Math.min(length, CONTAINER_ZERO_BYTES_MAX);
    this.client.zero(position, piece, { noHole }, (errno) => {
      if (errno !== 0 || piece === length) callback(errno);
      else this.zero(position + piece, length - piece, noHole, callback);
    });
  }

  flush(callback: RequestCallback): void {
    this.client.flush(callback);
  }

  private isWhole(position: number, length: number): boolean {
    const { unit } = this;
    return unit === 1 || (position % unit === 0 && length % unit === 0);
  }

  private around(position: number, length: number): { first: number; end: number } {
    const { unit } = this;
    const first = Math.floor(position / unit) * unit;
    return { first, end: Math.ceil((position + length) / unit) * unit };
  }
}
