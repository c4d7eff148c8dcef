/** What an import reads from and an export writes to: a raw file, an image of another format, or a URI. */
import { dirname, resolve } from 'node:path';
import type { BookmarkedEnd } from '../../control/transfer/transfer-bookmark.ts';
import {
  isKnownEmpty,
  type TransferSource,
  type TransferTarget,
} from '../../control/transfer/transfer-ends.ts';
import { FileEnd } from '../../control/transfer/transfer-file.ts';
import { formatOfImage, RAW, virtualSize } from '../../control/transfer/transfer-formats.ts';
import { NbdEnd } from '../../control/transfer/transfer-nbd.ts';
import { systemClock } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import {
  checkImagePath,
  imageExists,
  openImageForReading,
  openImageForWriting,
  type ImageFile,
} from '../../io/image-file.ts';
import { nodeNetwork } from '../../io/node-network.ts';
import { parseNbdUri, type NbdUri } from '../../nbd/uri/uri.ts';

const URI = /^nbds?(\+[a-z]+)?:\/\//i;

/** Null for the path of a file. @throws BlockferryError URI_INVALID */
export function uriIn(text: string): NbdUri | null {
  return URI.test(text) ? parseNbdUri(text) : null;
}

export async function openUri(uri: NbdUri): Promise<NbdEnd> {
  return await NbdEnd.open(uri, { network: nodeNetwork, clock: systemClock });
}

export interface SourceSide {
  readonly name: string;
  /** Of the disk in it. */
  readonly sizeBytes: number;
  readonly format: string;
  /** Null for a format that only qemu-img reads. */
  readonly end: TransferSource | null;
  readonly bookmarked: BookmarkedEnd;
  /** Nobody wrote to it since it was opened, as far as that can be told. */
  unchanged(): boolean;
  close(): Promise<void>;
}

/** @throws BlockferryError before anything is changed */
export async function openSource(text: string, format: string | undefined): Promise<SourceSide> {
  const uri = uriIn(text);
  if (uri === null) return await openFileSource(resolve(text), format);
  if (format !== undefined && format !== RAW) {
    throw new BlockferryError('USAGE', 'an NBD export is raw: --format is for files');
  }
  const end = await openUri(uri);
  const { name, sizeBytes } = end;
  return {
    name,
    sizeBytes,
    format: RAW,
    end,
    bookmarked: { name, size_bytes: sizeBytes, identity: '' },
    unchanged: () => true,
    close: () => end.close(),
  };
}

async function openFileSource(path: string, named: string | undefined): Promise<SourceSide> {
  const image = openImageForReading(path);
  try {
    const format = named ?? formatOfImage(image);
    const isRaw = format === RAW;
    const sizeBytes = isRaw
      ? image.sizeBytes
      : await virtualSize(path, format, named !== undefined);
    if (sizeBytes === 0) {
      throw new BlockferryError('FILE_UNUSABLE', `${path} cannot be used: it is empty`);
    }
    const end = new FileEnd(image, sizeBytes);
    const version = image.version();
    return {
      name: path,
      sizeBytes,
      format,
      end: isRaw ? end : null,
      bookmarked: { name: path, size_bytes: sizeBytes, identity: `${image.identity}:${version}` },
      unchanged: () => image.version() === version,
      close: () => end.close(),
    };
  } catch (error) {
    image.file.closeNow();
    throw error;
  }
}

/**
 * Refuses a target that cannot take the source, or holds something that nobody allowed to replace. True: it is
 * known to read as zeroes. `what`: the target in messages.
 * @throws BlockferryError TARGET_READ_ONLY, TARGET_TOO_SMALL, TARGET_NOT_EMPTY
 */
export async function judgeTarget(
  target: NbdEnd,
  sourceBytes: number,
  options: { what: string; mayReplace: boolean },
): Promise<boolean> {
  const { sizeBytes } = target;
  const { what: name } = options;
  if (target.readOnly) throw new BlockferryError('TARGET_READ_ONLY', `${name} is read-only`);
  if (sizeBytes < sourceBytes) {
    const sizes = `${sizeBytes} bytes, the source ${sourceBytes}`;
    throw new BlockferryError('TARGET_TOO_SMALL', `${name} has ${sizes}`);
  }
  if (target.knowsHoles && (await isKnownEmpty(target))) return true;
  if (options.mayReplace) return false;
  const why = target.knowsHoles ? 'holds data' : 'may hold data, and cannot tell';
  throw new BlockferryError('TARGET_NOT_EMPTY', `${name} ${why}`);
}

/** A file under another name until it is whole, so that what has the right name always is. */
export interface FileTarget {
  readonly path: string;
  readonly partPath: string;
  readonly bookmarkPath: string;
}

/** @throws BlockferryError FILE_UNUSABLE, FILE_EXISTS */
export function planFileTarget(text: string, force: boolean): FileTarget {
  const path = resolve(text);
  checkImagePath(path, dirname(path));
  if (imageExists(path) && !force) {
    throw new BlockferryError('FILE_EXISTS', `${path} exists`);
  }
  const partPath = `${path}.blockferry-part`;
  return { path, partPath, bookmarkPath: `${partPath}.json` };
}

/** @throws BlockferryError FILE_UNUSABLE, FILE_IN_USE */
export function openPart(path: string): ImageFile {
  const image = openImageForWriting(path);
  if (image.tryLock()) return image;
  image.file.closeNow();
  throw new BlockferryError('FILE_IN_USE', `${path} is written by another process`);
}

/** Nothing but holes from `from` on, and as long as the source. */
export function partTarget(image: ImageFile, sizeBytes: number, from: number): TransferTarget {
  image.file.truncateNow(from);
  image.file.truncateNow(sizeBytes);
  return new FileEnd(image, sizeBytes);
}
