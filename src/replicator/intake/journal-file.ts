/**
 * One of the two files of a journal: its present use, and how far that is written and durable.
 *
 * Invariants:
 * - A use begins when its header is durable, alone: records of it are written after that.
 * - The file keeps its length from one use to the next: what was written once has its space.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import type { Disk, DiskFile } from '../../io/disk.ts';
import { BlockferryError, errnoOf, errorText } from '../../io/errors.ts';
import {
  JournalHeader,
  RECORDS_START,
  decodeJournalHeader,
  encodeJournalHeader,
  seedOf,
} from './journal-codec.ts';
import type { JournalUse } from './journal-codec.ts';

export class JournalFile {
  readonly path: string;
  /** What its header says; null: there is no use that could have records. */
  use: JournalUse | null = null;
  /** Of `use`. */
  seed = 0;
  /** Where the next record begins, and up to where all is durable. */
  written: number = RECORDS_START;
  synced: number = RECORDS_START;
  /** The last epoch that was written in this use; 0: it has none, or they are not known. */
  lastEpoch = 0;
  /** It may have records: a new use must begin before it takes others. */
  stale = false;
  private opened: DiskFile | null = null;
  /** Its name is in the directory durably: a header that found no space may have left the file, and no more. */
  private isNamed = false;
  private readonly disk: Disk;
  private readonly clock: Clock;
  private readonly directory: string;

  constructor(options: { disk: Disk; clock: Clock; directory: string; name: string }) {
    this.disk = options.disk;
    this.clock = options.clock;
    this.directory = options.directory;
    this.path = `${options.directory}/${options.name}`;
  }

  get file(): DiskFile {
    assert(this.opened, 'the file is open');
    return this.opened;
  }

  get isOpen(): boolean {
    return this.opened !== null;
  }

  /** Looks at what an earlier process left. Throws JOURNAL_UNUSABLE, DATA_DIR_FORMAT_NEWER. */
  load(volumeId: string): void {
    if (!this.disk.exists(this.path)) return;
    const header = Buffer.alloc(JournalHeader.SIZE);
    let count: number;
    try {
      this.opened = this.disk.open(this.path, { create: false });
      // A process that was killed may have left this in the page cache alone, and what it tells is acted on.
      this.opened.datasyncNow();
      this.disk.syncDirectory(this.directory);
      this.isNamed = true;
      count = this.opened.readBlocking(header, 0, header.length, 0);
    } catch (thrown) {
      throw unusable(this.path, 0, errorText(thrown), thrown);
    }
    if (count < 0) throw unusable(this.path, 0, `it cannot be read (errno ${-count})`);
    const found = decodeJournalHeader(header.subarray(0, count), volumeId);
    if (found.kind === 'bad') throw unusable(this.path, 0, found.why);
    if (found.kind === 'newer') {
      throw new BlockferryError(
        'DATA_DIR_FORMAT_NEWER',
        `${this.path} has the format ${found.format}, which is unknown`,
      );
    }
    if (found.kind === 'use') this.setUse(found.use);
    this.stale = true;
  }

  /** Makes the header of a new use durable; 0 or an errno, never before it returned. */
  begin(use: JournalUse, callback: (errno: number) => void): void {
    if (this.opened === null) {
      try {
        this.opened = this.disk.open(this.path, { create: true });
      } catch (thrown) {
        const errno = errnoOf(thrown);
        this.clock.soon(() => callback(errno));
        return;
      }
    }
    const { file } = this;
    const header = encodeJournalHeader(use);
    this.stale = true;
    file.write(header, 0, header.length, 0, (count) => {
      if (count < 0) callback(-count);
      else this.syncHeader(file, use, callback);
    });
  }

  private syncHeader(file: DiskFile, use: JournalUse, callback: (errno: number) => void): void {
    const done = (result: number): void => {
      if (result >= 0) {
        this.isNamed = true;
        this.setUse(use);
        this.stale = false;
      }
      callback(result < 0 ? -result : 0);
    };
    file.datasync((status) => {
      if (status >= 0 && !this.isNamed) this.disk.syncDirectoryLater(this.directory, done);
      else done(status);
    });
  }

  close(): void {
    this.opened?.closeNow();
    this.opened = null;
  }

  private setUse(use: JournalUse): void {
    this.use = use;
    this.seed = seedOf(use);
    this.written = RECORDS_START;
    this.synced = RECORDS_START;
    this.lastEpoch = 0;
  }
}

export function unusable(
  path: string,
  offset: number,
  why: string,
  cause?: unknown,
): BlockferryError {
  return new BlockferryError('JOURNAL_UNUSABLE', `${path}, offset ${offset}: ${why}`, { cause });
}
