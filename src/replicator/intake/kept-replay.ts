/**
 * The epochs of a kept journal, applied around what was written since: blocks that the layer of new writes holds are left out.
 *
 * Invariants:
 * - Epochs are applied in their order, one change after another. To apply them again does no harm.
 * - Commands are left out: each was done, and recorded, before the promotion.
 * - All of them are there, from the next behind the recorded position to the last of the promotion, or JOURNAL_UNUSABLE. That is
 *   proven before any is applied: what the layers have of a damaged journal may be newer than what can be read of it.
 */
import { DeviceRequest, PENDING, Status } from '../../io/device.ts';
import type { Disk } from '../../io/disk.ts';
import { BlockferryError } from '../../io/errors.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import { writeError } from '../../volume/log/metadata.ts';
import type { VolumeState } from '../../volume/log/metadata-state.ts';
import { BlockState } from '../../volume/maps/layer-map.ts';
import type { LayerMap } from '../../volume/maps/layer-map.ts';
import { JOURNAL_NAMES } from '../../volume/names.ts';
import type { Volume } from '../../volume/volume.ts';
import { visitEntries } from '../link/entries.ts';
import { FrameKind } from '../link/link-types.ts';
import { visitRanges } from '../link/ranges.ts';
import { faultInFrame } from './apply.ts';
import type { CompleteEpoch, EpochFrame } from './epoch-assembly.ts';
import { JournalFile } from './journal-file.ts';
import { epochsAfter } from './journal-replay.ts';

interface ReplayParts {
  readonly volume: Volume;
  readonly disk: Disk;
  readonly kept: NonNullable<VolumeState['kept']>;
}

/** A part of a change; without `buffer` the range is zeroed. */
interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly buffer: Buffer | null;
  readonly start: number;
  readonly trim: boolean;
}

class Change extends DeviceRequest {
  override retain(): void {}
}

/** Reads all of it, and changes nothing. @throws BlockferryError JOURNAL_UNUSABLE, DATA_DIR_FORMAT_NEWER */
export async function prove(parts: ReplayParts): Promise<void> {
  await eachEpoch(parts, (epoch) => judge(parts.volume, epoch));
}

/** @throws BlockferryError JOURNAL_UNUSABLE, DATA_DIR_FORMAT_NEWER, METADATA_WRITE_FAILED, VOLUME_FAILED */
export async function replayAround(parts: ReplayParts): Promise<void> {
  const { volume, kept } = parts;
  const { map } = volume.layers.layerOf(kept.layer);
  await eachEpoch(parts, async (epoch) => {
    judge(volume, epoch);
    for (const frame of epoch.frames) await applyAround(volume, frame, map);
  });
}

async function eachEpoch(
  { volume, disk, kept }: ReplayParts,
  visit: (epoch: CompleteEpoch) => Promise<void> | void,
): Promise<void> {
  const files = JOURNAL_NAMES.map(
    (name) => new JournalFile({ disk, clock: volume.clock, directory: volume.directory, name }),
  );
  try {
    for (const file of files) file.load(volume.id);
    const inOrder = files
      .filter(({ use }) => use !== null)
      .toSorted((one, two) => (one.use?.serial ?? 0) - (two.use?.serial ?? 0));
    let last = kept.after;
    for await (const epoch of epochsAfter(inOrder, kept.after)) {
      // What follows was never promised, nor part of what was promoted.
      if (epoch.epoch > kept.last) break;
      await visit(epoch);
      last = epoch.epoch;
    }
    if (last !== kept.last) {
      const message = `the journal of ${volume.name} ends at epoch ${last}, and the volume was promoted with epoch ${kept.last}`;
      throw new BlockferryError('JOURNAL_UNUSABLE', message);
    }
  } finally {
    for (const file of files) file.close();
  }
}

function judge({ name, sizeBytes }: Volume, { epoch, frames }: CompleteEpoch): void {
  for (const { kind, payload } of frames) {
    const fault = faultInFrame(kind, payload, sizeBytes);
    if (fault === null) continue;
    throw new BlockferryError('JOURNAL_UNUSABLE', `epoch ${epoch} of ${name} holds ${fault}`);
  }
}

async function applyAround(volume: Volume, frame: EpochFrame, map: LayerMap): Promise<void> {
  for (const piece of piecesOf(frame)) {
    for (const part of partsAround(piece, map)) {
      const status = await change(volume, part);
      volume.refuseIfFailed();
      if (status !== Status.OK) throw writeError(volume.directory, status);
    }
  }
}

function piecesOf({ kind, payload }: EpochFrame): Piece[] {
  const pieces: Piece[] = [];
  if (kind === FrameKind.DATA) {
    visitEntries(payload.buffer, payload.length, (offset, length, buffer, start) =>
      pieces.push({ offset, length, buffer, start, trim: false }),
    );
  } else if (kind === FrameKind.RANGES) {
    visitRanges(payload.buffer, payload.length, (offset, length, trim) =>
      pieces.push({ offset, length, buffer: null, start: 0, trim }),
    );
  }
  return pieces;
}

/** The parts of a change that lie in blocks of which the map says nothing. */
function* partsAround(piece: Piece, map: LayerMap): Generator<Piece> {
  const end = piece.offset + piece.length;
  const lastBlock = Math.ceil(end / BLOCK_BYTES);
  for (let offset = piece.offset; offset < end;) {
    const block = Math.floor(offset / BLOCK_BYTES);
    const to = Math.min(end, map.runEnd(block, lastBlock) * BLOCK_BYTES);
    if (map.stateOf(block) === BlockState.ABSENT) {
      const start = piece.start + offset - piece.offset;
      yield { ...piece, offset, length: to - offset, start };
    }
    offset = to;
  }
}

function change(volume: Volume, { offset, length, buffer, start, trim }: Piece): Promise<number> {
  const request = new Change();
  request.offset = offset;
  request.length = length;
  return new Promise((resolve) => {
    const completer = {
      completed: (_request: DeviceRequest, status: number): void => resolve(status),
    };
    request.push(completer);
    let status: number;
    if (buffer === null) {
      request.free = trim;
      status = volume.zero(request);
    } else {
      request.buffer = buffer;
      request.start = start;
      status = volume.write(request);
    }
    if (status === PENDING) return;
    request.pop(completer);
    resolve(status);
  });
}
