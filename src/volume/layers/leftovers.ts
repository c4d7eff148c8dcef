/**
 * What a change that failed half-way left in the file of a layer above others, where the map shows what lies below.
 *
 * A kill would bring it up: the extents of the file are then taken for what was written (recovery.ts), and one of them may
 * be a part of a block. So it is punched out again, which needs no space, before the change is answered.
 */
import type { DiskCallback } from '../../io/disk.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { Layer } from './layer.ts';

/**
 * Punches what the map does not call data from byte `from` to `end`, which are whole blocks. Nobody else changes them.
 * `callback` gets 0 or the negative errno of the first hole that could not be punched.
 */
export function dropLeftovers(
  layer: Layer,
  from: number,
  end: number,
  callback: DiskCallback,
): void {
  const { data } = layer.map;
  const limit = end / BLOCK_BYTES;
  let first = from / BLOCK_BYTES;
  if (first < limit && data.has(first)) first = data.runEnd(first, limit);
  if (first >= limit) return callback(0);
  const next = data.runEnd(first, limit);
  const length = (next - first) * BLOCK_BYTES;
  layer.file.punchHole(first * BLOCK_BYTES, length, (result) => {
    if (result < 0) callback(result);
    else dropLeftovers(layer, next * BLOCK_BYTES, end, callback);
  });
}
