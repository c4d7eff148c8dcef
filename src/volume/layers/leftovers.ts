/**
 * What a change that failed half-way left in the file of a layer above others, where the map shows what lies below.
 *
 * A kill would bring it up: the extents of the file are then taken for what was written (recovery.ts). So it is punched out
 * again, which needs no space, before the change is answered. Where the disk cannot do that, its blocks get the content that
 * they have for everybody, which needs no space either, and the map says so. A block of which only a part is in the file, and
 * that has no room for the rest, may stay as it is: nobody takes it for data.
 *
 * Where extents do not say which blocks were written, nothing can be told, and nobody may trust them.
 */
import { BLOCK_BYTES } from '../../io/limits.ts';
import type { DiskCallback, DiskFile } from '../../io/disk.ts';
import { blocksOf } from '../recovery.ts';
import type { View } from './view.ts';

/**
 * Settles what the map does not call data from byte `from` to `end`, which are whole blocks and nobody else changes.
 * False: the file may hold, for good, what its map does not show. `tellsBlocks`: as the function of that name (extents-probe.ts).
 */
export async function settleLeftovers(
  view: View,
  { from, end }: { readonly from: number; readonly end: number },
  tellsBlocks: () => boolean,
): Promise<boolean> {
  const { data } = view.top.map;
  const limit = end / BLOCK_BYTES;
  let first = from / BLOCK_BYTES;
  while (first < limit) {
    if (data.has(first)) first = data.runEnd(first, limit);
    if (first >= limit) break;
    const next = data.runEnd(first, limit);
    const position = first * BLOCK_BYTES;
    const length = (next - first) * BLOCK_BYTES;
    const punched = await answer((done) => view.top.file.punchHole(position, length, done));
    if (punched < 0) {
      if (!tellsBlocks() || !(await keepExtents(view, first, next))) return false;
    }
    first = next;
  }
  return true;
}

/** Makes data of the blocks from `first` to `end` that are in the file. False when the file does not say which. */
async function keepExtents(view: View, first: number, end: number): Promise<boolean> {
  const limit = end * BLOCK_BYTES;
  let extent = extentAfter(view.top.file, first * BLOCK_BYTES);
  while (extent !== null && extent !== undefined && extent.start < limit) {
    const touched = blocksOf(extent, limit, 'touched');
    const covered = blocksOf(extent, limit, 'covered');
    for (let block = touched.first; block < touched.end; block += 1) {
      const whole = block >= covered.first && block < covered.end;
      // Where not even that can be written, it is a part of what was asked for.
      if ((await rewrite(view, block)) || whole) {
        view.top.markData(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
      } else {
        view.top.distrust();
      }
    }
    extent = extent.end < limit ? extentAfter(view.top.file, extent.end) : null;
  }
  return extent !== undefined;
}

/** Undefined when the disk does not answer. */
function extentAfter(
  file: DiskFile,
  position: number,
): ReturnType<DiskFile['dataAfter']> | undefined {
  try {
    return file.dataAfter(position);
  } catch {
    return undefined;
  }
}

/** Writes into the top what a block shows. */
async function rewrite(view: View, block: number): Promise<boolean> {
  const bytes = Buffer.alloc(BLOCK_BYTES);
  const position = block * BLOCK_BYTES;
  const below = view.layerAt(position);
  if (below !== null) {
    below.pin();
    const read = await answer((done) => below.file.read(bytes, 0, BLOCK_BYTES, position, done));
    below.unpin();
    if (read < BLOCK_BYTES) return false;
  }
  const { file } = view.top;
  return (await answer((done) => file.write(bytes, 0, BLOCK_BYTES, position, done))) >= 0;
}

function answer(call: (done: DiskCallback) => void): Promise<number> {
  return new Promise((resolve) => {
    call(resolve);
  });
}
