/**
 * A part of a volume takes the content that a snapshot has there: copied into a layer of its own while the host works
 * on, and put over the old top in one turn.
 *
 * Invariants:
 * - The layer says something of every block of the range, so whatever the host wrote there meanwhile is gone at once.
 * - Its data is durable before the log names it.
 */
import { Status } from '../../io/device.ts';
import type { Layer } from '../layers/layer.ts';
import { writeError } from '../log/metadata.ts';
import type { SnapshotHost } from './snapshot-host.ts';
import type { View } from '../layers/view.ts';

/** Bytes that are copied at a time. */
const COPY_BYTES: number = 1024 * 1024;

/** Has `announce` name a new top while nothing is on its way to the old one, and puts it in place; else `unused` go. */
type SwitchOver = (announce: () => Layer, unused: readonly Layer[]) => Promise<void>;

/** Throws METADATA_WRITE_FAILED or VOLUME_FAILED: then the volume is as it was. */
export async function restoreRange(
  host: SnapshotHost,
  source: View,
  range: { readonly offset: number; readonly length: number },
  switchOver: SwitchOver,
): Promise<void> {
  const { layers, metadata } = host;
  const part = await layers.prepare();
  try {
    await fill(part, source, range.offset, range.offset + range.length);
  } catch (thrown) {
    layers.drop(part);
    throw thrown;
  }
  const top = await layers.prepare().catch((thrown: unknown) => {
    layers.drop(part);
    throw thrown;
  });
  await switchOver(() => {
    layers.announce(part, layers.top);
    const records = part.takeChanges(Number.POSITIVE_INFINITY);
    for (const record of records) metadata.append(record);
    part.touched = false;
    layers.announce(top, part);
    layers.seal(part);
    return top;
  }, [part, top]);
}

/** Copies what `source` shows from byte `offset` to `end`, durably. */
async function fill(part: Layer, source: View, offset: number, end: number): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(COPY_BYTES, end - offset));
  for (let position = offset; position < end;) {
    const limit = Math.min(end, position + buffer.length);
    const runEnd = source.runEndAt(position, limit);
    const layer = source.layerAt(position);
    if (layer === null) part.markZero(position, runEnd);
    else await copy(part, layer, buffer, position, runEnd);
    position = runEnd;
  }
  const synced = await new Promise<number>((resolve) => part.file.datasync(resolve));
  if (synced < 0) throw writeError(part.file.path, -synced);
}

async function copy(
  part: Layer,
  layer: Layer,
  buffer: Buffer,
  from: number,
  to: number,
): Promise<void> {
  const length = to - from;
  layer.pin();
  const got = await new Promise<number>((resolve) =>
    layer.file.read(buffer, 0, length, from, resolve),
  );
  layer.unpin();
  if (got < length) throw writeError(layer.file.path, got < 0 ? -got : Status.EIO);
  const put = await new Promise<number>((resolve) =>
    part.file.write(buffer, 0, length, from, resolve),
  );
  if (put < 0) throw writeError(part.file.path, -put);
  part.markData(from, to);
}
