/**
 * The staging ring of one volume, in its directory: there while the volume has mirrors, gone when it has none.
 *
 * Invariants:
 * - The file belongs to one ring at a time: the next one is opened when the last one has removed its own.
 * - A disk that cannot do it costs the room, nothing else: it is told of, memory alone counts, and it is tried again when
 *   nothing is left there.
 */
import type { Clock } from '../../io/clock.ts';
import type { Disk } from '../../io/disk.ts';
import { errorText } from '../../io/errors.ts';
import { STAGING_DISK_RETRY_MS } from '../../io/limits.ts';
import { STAGING_NAME } from '../../volume/names.ts';
import type { StagingQueue } from './staging-queue.ts';
import { StagingRing } from './staging-ring.ts';

export interface StagingDiskOptions {
  readonly disk: Disk;
  /** Of the volume. */
  readonly directory: string;
  /** Bytes of the file at most; null: there is none. */
  readonly sizeBytes: number | null;
  readonly clock: Clock;
  readonly queue: StagingQueue;
  /** Something that is staged cannot be read back. */
  readonly onUnreadable: () => void;
  /** The disk failed: why. */
  readonly onFailed: (reason: string) => void;
}

export class StagingDisk {
  private ring: StagingRing | null = null;
  private wanted = false;
  private told = false;
  private triedAt = 0;
  /** Settled when the last ring has removed its file. */
  private gone: Promise<void> | null = null;
  private readonly options: StagingDiskOptions;

  constructor(options: StagingDiskOptions) {
    this.options = options;
  }

  /** Removes what an earlier process left. Called once, first. */
  clear(): void {
    const { disk } = this.options;
    try {
      if (disk.exists(this.path)) disk.remove(this.path);
    } catch (thrown) {
      this.failed(`${this.path} cannot be removed: ${errorText(thrown)}`);
    }
  }

  /** The volume has mirrors. */
  open(): void {
    if (this.wanted || this.options.sizeBytes === null) return;
    this.wanted = true;
    this.told = false;
    this.begin();
  }

  /** It has none, and nothing is staged. Resolves when the file is gone. */
  async close(): Promise<void> {
    this.wanted = false;
    this.end();
    await this.gone;
  }

  /** Now and then. */
  look(now: number): void {
    const { ring } = this;
    if (!this.wanted) return;
    if (ring !== null && !ring.failed) {
      // It works: when it fails again, that is news.
      if (now - this.triedAt >= STAGING_DISK_RETRY_MS) this.told = false;
      return;
    }
    if (ring !== null) this.failed(`${this.path} cannot be written`);
    if (now - this.triedAt < STAGING_DISK_RETRY_MS || (ring?.usedBytes ?? 0) > 0) return;
    this.end();
    this.begin();
  }

  private get path(): string {
    return `${this.options.directory}/${STAGING_NAME}`;
  }

  private begin(): void {
    const { disk, sizeBytes, clock, queue, onUnreadable } = this.options;
    // Whoever waits for the last file to go begins again then.
    if (!this.wanted || sizeBytes === null || this.gone !== null) return;
    this.triedAt = clock.now();
    try {
      this.ring = new StagingRing({ disk, path: this.path, sizeBytes });
    } catch (thrown) {
      this.failed(`${this.path} cannot be made: ${errorText(thrown)}`);
      return;
    }
    queue.spillTo({ ring: this.ring, onUnreadable });
  }

  private end(): void {
    const { ring } = this;
    if (ring === null) return;
    this.ring = null;
    this.options.queue.spillTo(null);
    this.gone = this.removed(ring);
  }

  private async removed(ring: StagingRing): Promise<void> {
    await new Promise<void>((resolve) => {
      ring.close(resolve);
    });
    this.gone = null;
    this.begin();
  }

  private failed(reason: string): void {
    if (this.told) return;
    this.told = true;
    this.options.onFailed(reason);
  }
}
