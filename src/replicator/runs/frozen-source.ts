/**
 * Content that does not change while it is read: what a delta run sends, and what a comparison holds against a mirror.
 */
import assert from 'node:assert';
import type { BlockDevice } from '../../io/device.ts';
import { SnapshotDevice } from '../../volume/snapshots/snapshot-device.ts';

export interface FrozenSource {
  /** Whole blocks. */
  readonly sizeBytes: number;
  /** Reads `length` bytes at byte `offset` into `buffer[start ..]`; `callback` gets 0 or an errno, never before this returned. */
  read(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: (status: number) => void,
  ): void;
  /** The longest run from `offset` (a block) that is all data, or all zero, by the map; at most to `end`. May be cut short. */
  runAt(offset: number, end: number): { readonly end: number; readonly zero: boolean };
}

/** What a snapshot holds. Reads are answered ESHUTDOWN once the snapshot is gone. */
export function frozenSource(device: BlockDevice): FrozenSource {
  assert(device instanceof SnapshotDevice, 'the device of a snapshot');
  return {
    sizeBytes: device.sizeBytes,
    read: (buffer, start, length, offset, callback) =>
      device.readAt(buffer, start, length, offset, callback),
    runAt: (offset, end) => device.runAt(offset, end),
  };
}
