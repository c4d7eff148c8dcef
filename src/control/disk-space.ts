/**
 * The space under the volumes: looked at every few seconds, told in the status, and an event when it runs out.
 *
 * Invariants:
 * - One question is on its way at a time: a file system that hangs takes one thread of the pool, and no more.
 * - A level is told when it is reached, not again while it lasts. What left a level by a hair does not come back to it by
 *   a hair: there is a margin.
 */
import type { Clock, Timer } from '../io/clock.ts';
import type { Disk, DiskSpace } from '../io/disk.ts';
import { SPACE_FULL_BYTES, SPACE_FULL_PERCENT, SPACE_LOOK_MS } from '../io/limits.ts';
import type { EventSink } from '../replicator/status.ts';
import type { SpaceLevel, SpaceStatus } from './status.ts';

/** What a volume says of itself, in bytes. */
export interface SpaceUser {
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
}

interface SpaceWatchOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly events: EventSink;
  /** The data directory. */
  readonly path: string;
  /** Less than this is free: `low`. 0: that level is not told. */
  readonly warnPercent: number;
  readonly volumes: () => readonly SpaceUser[];
}

/** The level after `before`. Leaving one takes a fifth more than the threshold of the warning, or twice what counts as full. */
export function nextLevel(before: SpaceLevel, space: DiskSpace, warnPercent: number): SpaceLevel {
  const { freeBytes, totalBytes } = space;
  const full = Math.min(SPACE_FULL_BYTES, (totalBytes * SPACE_FULL_PERCENT) / 100);
  if (freeBytes <= (before === 'full' ? 2 * full : full)) return 'full';
  const warn = (totalBytes * warnPercent) / 100;
  if (freeBytes < (before === 'ok' ? warn : 1.2 * warn)) return 'low';
  return 'ok';
}

/** What the volumes may come to take, as a multiple of what there is for them; null when there is nothing. */
export function overProvisioning(
  sizeBytes: number,
  { allocatedBytes, freeBytes }: { allocatedBytes: number; freeBytes: number },
): number | null {
  const there = allocatedBytes + freeBytes;
  return there === 0 ? null : Math.round((sizeBytes / there) * 1000) / 1000;
}

export class SpaceWatch {
  private readonly options: SpaceWatchOptions;
  private space: DiskSpace | null = null;
  private level: SpaceLevel = 'ok';
  private timer: Timer | null = null;
  private stopped = false;

  constructor(options: SpaceWatchOptions) {
    this.options = options;
  }

  /** Looks now, and from then on every SPACE_LOOK_MS. */
  start(): void {
    const { disk, clock, path } = this.options;
    disk.space(path, (space) => {
      if (this.stopped) return;
      this.space = space;
      if (space !== null) this.judge(space);
      this.timer = clock.after(SPACE_LOOK_MS, () => this.start());
    });
  }

  stop(): void {
    this.stopped = true;
    this.timer?.cancel();
  }

  /** As of the last look; the volumes as of now. */
  get status(): SpaceStatus {
    const { space } = this;
    let sizeBytes = 0;
    let allocatedBytes = 0;
    for (const volume of this.options.volumes()) {
      sizeBytes += volume.sizeBytes;
      allocatedBytes += volume.allocatedBytes;
    }
    const freeBytes = space?.freeBytes ?? null;
    return {
      level: space === null ? null : this.level,
      free_bytes: freeBytes,
      total_bytes: space?.totalBytes ?? null,
      size_bytes: sizeBytes,
      allocated_bytes: allocatedBytes,
      over_provisioning:
        freeBytes === null ? null : overProvisioning(sizeBytes, { allocatedBytes, freeBytes }),
    };
  }

  private judge(space: DiskSpace): void {
    const before = this.level;
    this.level = nextLevel(before, space, this.options.warnPercent);
    if (this.level === before) return;
    this.options.events.emit({
      kind: `disk-${this.level}`,
      volume: null,
      mirror: null,
      message: `${WORDS[this.level]}: ${this.numbers(space)}`,
    });
  }

  private numbers({ freeBytes, totalBytes }: DiskSpace): string {
    const { size_bytes: sizes, allocated_bytes: allocated, over_provisioning: over } = this.status;
    const percent = Math.floor((freeBytes / totalBytes) * 1000) / 10;
    return (
      `${freeBytes} of ${totalBytes} bytes are free (${percent} %) on the file system of ${this.options.path}; ` +
      `volumes of ${sizes} bytes in all take ${allocated}, over-provisioning ${over ?? 'without bound'}`
    );
  }
}

const WORDS: Readonly<Record<SpaceLevel, string>> = {
  ok: 'there is space again',
  low: 'space runs low',
  full: 'the disk is full, or will be any moment, and writes that need space fail with ENOSPC',
};
