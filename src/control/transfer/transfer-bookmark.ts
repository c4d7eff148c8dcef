/**
 * Where an interrupted copy goes on: a small file beside the target, or in a directory of its own where the
 * target is no file.
 *
 * Invariants:
 * - It never tells of more than what is durable in the target: it is written after a flush, atomically.
 * - A copy goes on only between the ends that it began with. What cannot be told by name is compared.
 */
import { createHash } from 'node:crypto';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { Disk } from '../../io/disk.ts';
import { BlockferryError } from '../../io/errors.ts';
import {
  TRANSFER_BOOKMARK_BYTES_MAX,
  TRANSFER_CHUNK_BYTES,
  TRANSFER_SPOT_BYTES,
  TRANSFER_SPOTS,
} from '../../io/limits.ts';
import type { TransferSource } from './transfer-ends.ts';

const END = z.strictObject({
  /** A path or a URI. */
  name: z.string(),
  size_bytes: z.number().int().nonnegative(),
  /** Whatever changes when it is another one, or another content where that can be told; may be empty. */
  identity: z.string(),
});

const CONTENT = z.strictObject({
  version: z.literal(1),
  source: END,
  target: END,
  position: z.number().int().nonnegative(),
});

export type BookmarkedEnd = z.infer<typeof END>;
export interface TransferPair {
  readonly source: BookmarkedEnd;
  readonly target: BookmarkedEnd;
}

/** The place of a bookmark for a target that is no file. */
export function bookmarkPath(directory: string, source: string, target: string): string {
  const digest = createHash('sha256')
    .update(JSON.stringify([source, target]))
    .digest('hex');
  return join(directory, `${digest.slice(0, 32)}.json`);
}

export class Bookmark {
  readonly path: string;
  private readonly disk: Disk;

  constructor(disk: Disk, path: string) {
    this.disk = disk;
    this.path = path;
  }

  get exists(): boolean {
    return this.disk.exists(this.path);
  }

  /**
   * The position, and the target as it was; null without a bookmark.
   * @throws BlockferryError TRANSFER_CHANGED: it is about other ends
   */
  read(pair: { source: BookmarkedEnd; target: { name: string } }): Found | null {
    if (!this.exists) return null;
    const content = this.parse();
    if (content === null) throw this.changed(`${this.path} is not a bookmark that can be read`);
    const { source, target, position } = content;
    if (target.name !== pair.target.name) {
      throw this.changed(`it led to ${target.name}, not ${pair.target.name}`);
    }
    this.compare('source', source, pair.source);
    return { target, position: position - (position % TRANSFER_CHUNK_BYTES) };
  }

  /** The target that the copy was begun with, whatever its source was; null where that is not known. */
  targetOf(): BookmarkedEnd | null {
    return this.exists ? (this.parse()?.target ?? null) : null;
  }

  /** @throws BlockferryError TRANSFER_CHANGED */
  compare(which: 'source' | 'target', then: BookmarkedEnd, now: BookmarkedEnd): void {
    if (then.name !== now.name) throw this.changed(`its ${which} was ${then.name}`);
    if (then.size_bytes !== now.size_bytes) {
      const sizes = `${then.size_bytes} bytes, now ${now.size_bytes}`;
      throw this.changed(`its ${which} ${now.name} had ${sizes}`);
    }
    if (then.identity !== now.identity) {
      throw this.changed(`its ${which} ${now.name} is another one, or was changed`);
    }
  }

  /** Durable when it returns. */
  write({ source, target }: TransferPair, position: number): void {
    this.disk.makeDirectory(dirname(this.path));
    const text = JSON.stringify({ version: 1, source, target, position });
    this.disk.replaceFile(this.path, Buffer.from(`${text}\n`));
  }

  remove(): void {
    if (this.exists) this.disk.remove(this.path);
  }

  changed(why: string): BlockferryError {
    return new BlockferryError('TRANSFER_CHANGED', `an earlier copy cannot go on: ${why}`);
  }

  private parse(): z.infer<typeof CONTENT> | null {
    const bytes = this.disk.readFile(this.path);
    if (bytes.length > TRANSFER_BOOKMARK_BYTES_MAX) return null;
    try {
      return CONTENT.parse(JSON.parse(bytes.toString('utf8')));
    } catch {
      return null;
    }
  }
}

export interface Found {
  readonly target: BookmarkedEnd;
  /** A multiple of TRANSFER_CHUNK_BYTES. */
  readonly position: number;
}

/**
 * The first place, below `position`, where the ends differ, or null. Looks at TRANSFER_SPOTS places, the last
 * of them right before it: enough to find another image, or another content, behind a name.
 */
export async function findDifference(
  source: TransferSource,
  target: TransferSource,
  position: number,
): Promise<number | null> {
  const [left, right] = [Buffer.alloc(TRANSFER_SPOT_BYTES), Buffer.alloc(TRANSFER_SPOT_BYTES)];
  const spots = Math.floor(Math.min(position, source.sizeBytes) / TRANSFER_SPOT_BYTES);
  const count = Math.min(spots, TRANSFER_SPOTS);
  for (let index = 1; index <= count; index += 1) {
    const offset = (Math.ceil((index * spots) / count) - 1) * TRANSFER_SPOT_BYTES;
    await Promise.all([
      source.read(left, 0, TRANSFER_SPOT_BYTES, offset),
      target.read(right, 0, TRANSFER_SPOT_BYTES, offset),
    ]);
    if (!left.equals(right)) return offset;
  }
  return null;
}
