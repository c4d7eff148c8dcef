/**
 * `blockferry volume export`: a volume, or a snapshot of one, is copied to a file or an export of any NBD server.
 *
 * Invariants:
 * - What is refused is refused before anything changes.
 * - A file of the name that was given is whole: until then it has another name, beside it.
 */
import { dirname } from 'node:path';
import {
  Bookmark,
  bookmarkPath,
  type BookmarkedEnd,
} from '../../control/transfer/transfer-bookmark.ts';
import { RAW, fileArgument, formatOfName } from '../../control/transfer/transfer-formats.ts';
import type { NbdEnd } from '../../control/transfer/transfer-nbd.ts';
import type { SnapshotStatus, VolumeStatus } from '../../control/status.ts';
import { BlockferryError } from '../../io/errors.ts';
import { imageExists } from '../../io/image-file.ts';
import { nodeDisk } from '../../io/node-disk.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';
import { clientOf, controlAddress } from '../context.ts';
import { oneLine } from '../render/format.ts';
import { TransferNode } from './transfer-node.ts';
import type { ProgressReport } from './transfer-progress.ts';
import {
  bookmarkDirectory,
  convert,
  copy,
  remark,
  reportFor,
  stopSignal,
  type TransferFlags,
} from './transfer-run.ts';
import {
  judgeTarget,
  openPart,
  openUri,
  partTarget,
  planFileTarget,
  uriIn,
  type FileTarget,
} from './transfer-sides.ts';

export async function exportVolume(
  exportName: string,
  to: string,
  flags: TransferFlags,
): Promise<void> {
  const signal = stopSignal();
  const uri = uriIn(to);
  const format = flags.format ?? (uri === null ? formatOfName(to) : RAW);
  if (uri !== null && format !== RAW) {
    throw new BlockferryError('USAGE', 'an NBD export is raw: --format is for files');
  }
  const file = uri === null ? planFileTarget(to, flags.force === true) : null;
  const node = await TransferNode.at(clientOf(flags), controlAddress(flags), flags.nbd);
  const { volume, content } = await findContent(node, exportName);
  if (uri !== null && node.isExport(uri, volume.name)) {
    throw new BlockferryError('USAGE', `${uri.text} is the volume ${volume.name} itself`);
  }
  const { end: source } = await node.open(exportName);
  try {
    node.checkSize(content, source);
    if (content === volume && volume.connections > 0) remark(warning(volume));
    const job = new Export({ exportName, contentId: content.id, source, flags, signal });
    if (uri !== null) await job.toUri(uri);
    else if (file !== null && format === RAW) await job.toRawFile(file);
    else if (file !== null) await job.toImage(file, format);
  } finally {
    await source.close();
  }
}

/** The volume, and what of it is wanted: itself, or a snapshot of it. */
async function findContent(
  node: TransferNode,
  exportName: string,
): Promise<{ volume: VolumeStatus; content: VolumeStatus | SnapshotStatus }> {
  const [name = '', snapshot] = exportName.split('@');
  const volume = await node.find(name);
  if (volume === null) {
    throw new BlockferryError('VOLUME_NOT_FOUND', `there is no volume ${JSON.stringify(name)}`);
  }
  node.refuseTls(volume);
  if (snapshot === undefined) return { volume, content: volume };
  return { volume, content: await node.snapshot(name, snapshot) };
}

function warning(volume: VolumeStatus): string {
  return (
    `volume ${oneLine(volume.name)} is in use: what is written meanwhile may be in the copy or not; ` +
    'a snapshot holds still\n'
  );
}

interface ExportParts {
  /** `VOLUME` or `VOLUME@SNAPSHOT`. */
  readonly exportName: string;
  /** Of the volume or the snapshot. */
  readonly contentId: string;
  readonly source: NbdEnd;
  readonly flags: TransferFlags;
  readonly signal: AbortSignal;
}

class Export {
  private readonly parts: ExportParts;

  constructor(parts: ExportParts) {
    this.parts = parts;
  }

  private get bookmarkedSource(): BookmarkedEnd {
    const { exportName, contentId, source } = this.parts;
    return { name: exportName, size_bytes: source.sizeBytes, identity: contentId };
  }

  async toUri(uri: NbdUri): Promise<void> {
    const { source, flags, signal } = this.parts;
    const target = await openUri(uri);
    try {
      const pair = {
        source: this.bookmarkedSource,
        target: { name: target.name, size_bytes: target.sizeBytes, identity: '' },
      };
      const { name: sourceName, identity } = pair.source;
      const path = bookmarkPath(bookmarkDirectory(), `${identity} ${sourceName}`, target.name);
      const bookmark = new Bookmark(nodeDisk, path);
      const found = flags.restart === true ? null : bookmark.read(pair);
      if (found !== null) bookmark.compare('target', found.target, pair.target);
      const mayReplace = flags.force === true || bookmark.exists;
      const targetIsZero = await judgeTarget(target, source.sizeBytes, {
        what: target.name,
        mayReplace,
      });
      const from = found?.position ?? 0;
      const report = this.report(target.name, from);
      const ends = { source, target, from, targetIsZero, zeroTail: false };
      await copy({ ...ends, bookmark, pair, report, signal });
      bookmark.remove();
      report.done();
    } finally {
      await target.close();
    }
  }

  async toRawFile(file: FileTarget): Promise<void> {
    const { source, flags, signal } = this.parts;
    const bookmark = new Bookmark(nodeDisk, file.bookmarkPath);
    const goesOn = flags.restart !== true && imageExists(file.partPath);
    const wanted = { source: this.bookmarkedSource, target: { name: file.partPath } };
    const found = goesOn ? bookmark.read(wanted) : null;
    const image = openPart(file.partPath);
    let report: ProgressReport;
    try {
      const bookmarked = {
        name: file.partPath,
        size_bytes: source.sizeBytes,
        identity: image.identity,
      };
      if (found !== null) bookmark.compare('target', found.target, bookmarked);
      const from = found?.position ?? 0;
      report = this.report(file.path, from);
      const target = partTarget(image, source.sizeBytes, from);
      const pair = { source: this.bookmarkedSource, target: bookmarked };
      const ends = { source, target, from, targetIsZero: true, zeroTail: false };
      await copy({ ...ends, bookmark, pair, report, signal });
    } finally {
      image.file.closeNow();
    }
    finish(file);
    bookmark.remove();
    report.done();
  }

  /** By qemu-img, from the beginning each time. */
  async toImage(file: FileTarget, format: string): Promise<void> {
    const { source, signal } = this.parts;
    const image = openPart(file.partPath);
    const report = this.report(file.path, 0);
    try {
      image.file.truncateNow(0);
      const args = ['-f', RAW, '-O', format, source.name, fileArgument(file.partPath)];
      await convert(args, { totalBytes: source.sizeBytes, report, signal });
      // qemu-img leaves that to the system.
      await partSynced(image.file);
    } catch (error) {
      nodeDisk.remove(file.partPath);
      throw error;
    } finally {
      image.file.closeNow();
    }
    finish(file);
    new Bookmark(nodeDisk, file.bookmarkPath).remove();
    report.done();
  }

  private report(target: string, skippedBytes: number): ProgressReport {
    const { exportName, source, flags } = this.parts;
    return reportFor(flags, {
      done: 'exported',
      source: exportName,
      target,
      totalBytes: source.sizeBytes,
      skippedBytes,
    });
  }
}

async function partSynced(file: {
  datasync(callback: (status: number) => void): void;
}): Promise<void> {
  const status = await new Promise<number>((resolve) => file.datasync(resolve));
  if (status < 0) throw new BlockferryError('TRANSFER_FAILED', 'the image could not be synced');
}

/** From now on the file is there, durably and whole. */
function finish({ path, partPath }: FileTarget): void {
  nodeDisk.rename(partPath, path);
  nodeDisk.syncDirectory(dirname(path));
}
