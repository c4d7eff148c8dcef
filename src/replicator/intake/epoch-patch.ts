/**
 * The content of an epoch that the disk took only in part, put over what is read of the volume: whatever of it was applied, a
 * reader sees the state at its end, whole.
 *
 * Invariant: the payloads of the epoch are its owner's, and stay where they are as long as anybody reads through this.
 */
import type { DeviceRequest } from '../../io/device.ts';
import { visitEntries } from '../link/entries.ts';
import { FrameKind } from '../link/link-types.ts';
import { visitRanges } from '../link/ranges.ts';
import type { EpochFrame } from './epoch-assembly.ts';

export class EpochPatch {
  private readonly frames: readonly EpochFrame[];
  private request: DeviceRequest | null = null;

  /** Frames as they would be applied: of overlapping changes the last counts. */
  constructor(frames: readonly EpochFrame[]) {
    this.frames = frames;
  }

  /** Puts it over the bytes that a read has brought. */
  over(request: DeviceRequest): void {
    this.request = request;
    for (const { kind, payload } of this.frames) {
      if (kind === FrameKind.DATA) visitEntries(payload.buffer, payload.length, this.write);
      else if (kind === FrameKind.RANGES) visitRanges(payload.buffer, payload.length, this.zero);
    }
    this.request = null;
  }

  private readonly write = (
    offset: number,
    length: number,
    payload: Buffer,
    start: number,
  ): void => {
    const { request } = this;
    if (request === null) return;
    const from = Math.max(offset, request.offset);
    const to = Math.min(offset + length, request.offset + request.length);
    if (from >= to) return;
    const into = request.start + from - request.offset;
    payload.copy(request.buffer, into, start + from - offset, start + to - offset);
  };

  private readonly zero = (offset: number, length: number): void => {
    const { request } = this;
    if (request === null) return;
    const from = Math.max(offset, request.offset) - request.offset;
    const to = Math.min(offset + length, request.offset + request.length) - request.offset;
    if (from < to) request.buffer.fill(0, request.start + from, request.start + to);
  };
}
