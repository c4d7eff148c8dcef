/**
 * `blockferry volume import`: a file or an export of any NBD server becomes the content of a volume.
 *
 * Invariants:
 * - What is refused is refused before anything changes; a volume that was made for nothing is removed again.
 * - A volume that holds something is replaced only with --force, and one that clients use never.
 * - After an import the volume reads as the source, and as zeroes behind it.
 */
import {
  Bookmark,
  bookmarkPath,
  type BookmarkedEnd,
} from '../../control/transfer/transfer-bookmark.ts';
import { RAW, fileArgument } from '../../control/transfer/transfer-formats.ts';
import type { NbdEnd } from '../../control/transfer/transfer-nbd.ts';
import type { VolumeStatus } from '../../control/status.ts';
import { BlockferryError } from '../../io/errors.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import { nodeDisk } from '../../io/node-disk.ts';
import { validateSize, validateVolumeName } from '../../volume/names.ts';
import { clientOf, controlAddress } from '../context.ts';
import { TransferNode } from './transfer-node.ts';
import {
  bookmarkDirectory,
  convert,
  copy,
  reportFor,
  stopSignal,
  type TransferFlags,
} from './transfer-run.ts';
import { judgeTarget, openSource, uriIn, type SourceSide } from './transfer-sides.ts';

export async function importVolume(
  name: string,
  from: string,
  flags: TransferFlags,
): Promise<void> {
  validateVolumeName(name);
  const signal = stopSignal();
  const node = await TransferNode.at(clientOf(flags), controlAddress(flags), flags.nbd);
  const uri = uriIn(from);
  if (uri !== null && node.isExport(uri, name)) {
    throw new BlockferryError('USAGE', `${uri.text} is the volume ${name} itself`);
  }
  const source = await openSource(from, flags.format);
  try {
    await new Import({ name, node, source, flags, signal }).run();
  } finally {
    await source.close();
  }
}

/** Its content is that of its primary, or of the copy that goes on. Throws VOLUME_IS_SECONDARY, VOLUME_FENCED. */
function refuseSecondary(volume: VolumeStatus | null): void {
  if (volume !== null && volume.fenced !== null) {
    const message = `volume ${volume.name} takes no writes: ${volume.fenced}`;
    throw new BlockferryError('VOLUME_FENCED', message);
  }
  if (volume === null || volume.source === null) return;
  const message = `volume ${volume.name} is a mirror of a volume on ${volume.source.node} and cannot be imported into`;
  throw new BlockferryError('VOLUME_IS_SECONDARY', message);
}

interface ImportParts {
  readonly name: string;
  readonly node: TransferNode;
  readonly source: SourceSide;
  readonly flags: TransferFlags;
  readonly signal: AbortSignal;
}

interface Begun {
  readonly target: NbdEnd;
  readonly bookmarked: BookmarkedEnd;
  readonly from: number;
  readonly targetIsZero: boolean;
}

class Import {
  private readonly parts: ImportParts;
  private readonly bookmark: Bookmark;

  constructor(parts: ImportParts) {
    this.parts = parts;
    const targetName = `volume ${parts.name} of node ${parts.node.facts.name}`;
    this.bookmark = new Bookmark(
      nodeDisk,
      bookmarkPath(bookmarkDirectory(), parts.source.name, targetName),
    );
  }

  async run(): Promise<void> {
    const { name, node, source } = this.parts;
    const existing = await node.find(name);
    refuseSecondary(existing);
    node.refuseTls(existing);
    const begun = existing === null ? await this.intoNew() : await this.intoExisting(existing);
    try {
      await this.fill(begun);
    } finally {
      await begun.target.close();
    }
    if (!source.unchanged()) {
      this.bookmark.remove();
      throw new BlockferryError(
        'TRANSFER_CHANGED',
        `${source.name} was written to while it was read: volume ${name} holds a mixture`,
      );
    }
  }

  private bookmarkedVolume(volume: VolumeStatus): BookmarkedEnd {
    return { name: volume.name, size_bytes: volume.size_bytes, identity: volume.id };
  }

  private async intoNew(): Promise<Begun> {
    const { name, node, source } = this.parts;
    const bytes = Math.ceil(source.sizeBytes / BLOCK_BYTES) * BLOCK_BYTES;
    const volume = await node.create(name, validateSize(bytes));
    const bookmarked = this.bookmarkedVolume(volume);
    try {
      const { end: target } = await node.open(name);
      try {
        node.checkSize(volume, target);
        const targetIsZero = await judgeTarget(target, source.sizeBytes, {
          what: `volume ${name}`,
          mayReplace: false,
        });
        return { target, bookmarked, from: 0, targetIsZero };
      } catch (error) {
        await target.close();
        throw error;
      }
    } catch (error) {
      await node.remove(name);
      throw error;
    }
  }

  private async intoExisting(volume: VolumeStatus): Promise<Begun> {
    const { name, node, source, flags } = this.parts;
    if (volume.connections > 0) {
      const clients = `${volume.connections} connection${volume.connections === 1 ? '' : 's'}`;
      throw new BlockferryError('VOLUME_BUSY', `volume ${name} is used by ${clients}`);
    }
    const bookmarked = this.bookmarkedVolume(volume);
    const resumed = flags.restart === true ? null : this.resumed(bookmarked);
    // A half-filled volume is nobody's loss.
    const mayReplace = flags.force === true || this.filledBefore(bookmarked);
    const { end: target } = await node.open(name);
    try {
      node.checkSize(volume, target);
      const targetIsZero = await judgeTarget(target, source.sizeBytes, {
        what: `volume ${name}`,
        mayReplace,
      });
      return { target, bookmarked, from: resumed ?? 0, targetIsZero };
    } catch (error) {
      await target.close();
      throw error;
    }
  }

  /** Where an earlier import of this source into this volume stopped, or null. */
  private resumed(volume: BookmarkedEnd): number | null {
    const { source } = this.parts;
    if (source.end === null) return null;
    const found = this.bookmark.read({ source: source.bookmarked, target: volume });
    if (found === null) return null;
    this.bookmark.compare('target', found.target, volume);
    return found.position;
  }

  /** An earlier import, of whatever there was under the name of the source, did not come to its end. */
  private filledBefore(volume: BookmarkedEnd): boolean {
    const target = this.bookmark.targetOf();
    return target !== null && target.name === volume.name && target.identity === volume.identity;
  }

  private async fill({ target, bookmarked, from, targetIsZero }: Begun): Promise<void> {
    const { source, flags, signal, name } = this.parts;
    const pair = { source: source.bookmarked, target: bookmarked };
    const report = reportFor(flags, {
      done: 'imported',
      source: source.name,
      target: `volume ${name}`,
      totalBytes: target.sizeBytes,
      skippedBytes: from,
    });
    if (source.end !== null) {
      const { bookmark } = this;
      const ends = { source: source.end, target, from, targetIsZero, zeroTail: true };
      await copy({ ...ends, bookmark, pair, report, signal });
    } else {
      this.bookmark.write(pair, 0);
      await this.convertInto(target, targetIsZero);
      const args = ['-n', '-f', source.format, '-O', RAW, fileArgument(source.name), target.name];
      await convert(args, { totalBytes: target.sizeBytes, report, signal });
      await target.flush();
    }
    this.bookmark.remove();
    report.done();
  }

  /** qemu-img leaves what lies behind the image as it is. */
  private async convertInto(target: NbdEnd, targetIsZero: boolean): Promise<void> {
    const { sizeBytes } = this.parts.source;
    if (targetIsZero || sizeBytes === target.sizeBytes) return;
    await target.zero(sizeBytes, target.sizeBytes - sizeBytes);
  }
}
