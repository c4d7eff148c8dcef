/**
 * The journal of a mirror: whole epochs, durable before they are acknowledged and before they are applied. Two files that
 * are used in turn; docs/internals/journal.md has the bytes.
 *
 * Invariants:
 * - `journaled` is told of an epoch after a sync that began when its record was written, in the order of the epochs.
 * - Records are written while a sync is under way; one sync makes all of them durable that were written before it.
 * - A sync that nobody waits for begins when JOURNAL_SYNC_BYTES were written, or JOURNAL_SYNC_MS after the last one began; for
 *   JOURNAL_PROMPT_MS after somebody waited, at once: who flushes will flush again, and finds it done.
 * - A file is used again when all its epochs are part of the volume for good (`settled`). Until then what comes waits.
 * - The other file is begun when all of this one is durable: a record of the later use says that the earlier one is whole.
 * - A full disk costs the epochs that are not written yet, and nothing else. A failed sync, or a write that failed for
 *   another reason, is final (I10).
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../../io/clock.ts';
import type { Disk } from '../../io/disk.ts';
import {
  JOURNAL_FILE_BYTES,
  JOURNAL_PROMPT_MS,
  JOURNAL_SYNC_BYTES,
  JOURNAL_SYNC_MS,
} from '../../io/limits.ts';
import type { Random } from '../../io/random.ts';
import { JOURNAL_NAMES } from '../../volume/names.ts';
import type { CompleteEpoch } from './epoch-assembly.ts';
import { RECORDS_START, recordBytes } from './journal-codec.ts';
import { JournalFile } from './journal-file.ts';
import { epochsAfter } from './journal-replay.ts';
import { RecordWriter } from './record-writer.ts';
import { isSpaceError } from './space-error.ts';

export interface JournalOwner {
  /** The epoch is durable. */
  journaled(epoch: CompleteEpoch): void;
  /** There was no room for these, which are no longer the journal's. Others may follow. */
  refused(epochs: readonly CompleteEpoch[], errno: number): void;
  /** Nothing is made durable any more. What waited is given back to `refused` first. */
  failed(reason: string): void;
}

export interface JournalOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  /** The directory of the volume. */
  readonly directory: string;
  readonly volumeId: string;
  readonly owner: JournalOwner;
  /** Length of a file; JOURNAL_FILE_BYTES if not given. The longest epoch fits. */
  readonly fileBytes?: number;
}

export class Journal {
  private readonly options: JournalOptions;
  private readonly owner: JournalOwner;
  private readonly fileBytes: number;
  private readonly files: readonly JournalFile[];
  private readonly writer: RecordWriter;
  private current: JournalFile | null = null;
  private serial = 0;
  /** All up to this epoch is part of the volume for good. */
  private settledEpoch = 0;
  /** Given to `append` and not written; written and not durable. */
  private queued: CompleteEpoch[] = [];
  private unsynced: CompleteEpoch[] = [];
  /** Bytes written since the last sync began, and when that was. */
  private unsyncedBytes = 0;
  private syncedAt = Number.NEGATIVE_INFINITY;
  private syncTimer: Timer | null = null;
  /** Somebody waits until all up to this epoch is durable. */
  private hurried = Number.POSITIVE_INFINITY;
  private promptUntil = Number.NEGATIVE_INFINITY;
  private writing = false;
  private syncing = false;
  private beginning = false;
  private failure: string | null = null;
  private closed = false;
  private idleWaiters: (() => void)[] = [];

  constructor(options: JournalOptions) {
    this.options = options;
    this.owner = options.owner;
    this.fileBytes = options.fileBytes ?? JOURNAL_FILE_BYTES;
    const { disk, clock, directory } = options;
    this.writer = new RecordWriter(clock);
    this.files = JOURNAL_NAMES.map((name) => new JournalFile({ disk, clock, directory, name }));
  }

  /** Looks at what is there. Throws JOURNAL_UNUSABLE, DATA_DIR_FORMAT_NEWER. */
  open(): void {
    for (const file of this.files) {
      file.load(this.options.volumeId);
      this.serial = Math.max(this.serial, file.use?.serial ?? 0);
    }
  }

  /** The epochs behind `after` that an earlier process left. Throws JOURNAL_UNUSABLE. */
  replay(after: number): AsyncGenerator<CompleteEpoch, void, void> {
    const used = this.files.filter(({ use }) => use !== null);
    const inOrder = used.toSorted((one, two) => (one.use?.serial ?? 0) - (two.use?.serial ?? 0));
    return epochsAfter(inOrder, after);
  }

  /** Nothing is on its way to the disk. */
  get idle(): boolean {
    return this.queued.length === 0 && this.unsynced.length === 0 && !this.busy;
  }

  /** Bytes of both files that hold epochs which are not part of the volume for good. */
  get bytes(): number {
    let bytes = 0;
    for (const { lastEpoch, written } of this.files) {
      if (lastEpoch > this.settledEpoch) bytes += written - RECORDS_START;
    }
    return bytes;
  }

  /** When all up to this epoch is settled, the other file is free; 0: it is. */
  get reclaimable(): number {
    const { current } = this;
    if (current === null) return 0;
    const { lastEpoch } = this.otherFile(current);
    return lastEpoch > this.settledEpoch ? lastEpoch : 0;
  }

  /** Takes the next epoch: told of by `journaled`, or given back by `refused`, in a later turn. */
  append(epoch: CompleteEpoch): void {
    assert(this.failure === null && !this.closed, 'the journal is usable');
    assert(recordBytes(epoch) <= this.fileBytes - RECORDS_START, 'an epoch fits a file');
    this.queued.push(epoch);
    this.pump();
  }

  /** `paced`: only what `hurry` names is waited for; else all is. */
  pace(paced: boolean): void {
    this.hurried = paced ? 0 : Number.POSITIVE_INFINITY;
    this.syncIfDue();
  }

  /** Somebody waits until all up to this epoch is durable. */
  hurry(epoch: number): void {
    this.hurried = Math.max(this.hurried, epoch);
    this.promptUntil = this.options.clock.now() + JOURNAL_PROMPT_MS;
    this.syncIfDue();
  }

  /** All epochs up to this one are part of the volume for good. */
  settled(epoch: number): void {
    this.settledEpoch = Math.max(this.settledEpoch, epoch);
    this.pump();
  }

  /**
   * Forgets all epochs, which are settled, durably: from now on another position may follow than the next one. 0 or an errno:
   * then they are still known.
   */
  async forget(): Promise<number> {
    assert(this.idle, 'nothing is on its way');
    this.current = null;
    for (const file of this.files) {
      if (!file.stale && file.lastEpoch === 0) continue;
      const errno = await new Promise<number>((resolve) => this.begin(file, resolve));
      if (errno !== 0) return errno;
    }
    this.settledEpoch = 0;
    return 0;
  }

  /** Resolves when nothing is on its way to the disk; what waits for space is not waited for. */
  async close(): Promise<void> {
    this.closed = true;
    this.giveBack(0);
    this.syncIfDue();
    while (this.busy) await new Promise<void>((resolve) => this.idleWaiters.push(resolve));
    for (const file of this.files) file.close();
  }

  private get busy(): boolean {
    return this.writing || this.syncing || this.beginning;
  }

  private otherFile(file: JournalFile): JournalFile {
    const other = this.files.find((each) => each !== file);
    assert(other, 'there are two files');
    return other;
  }

  // ---- writing

  private pump(): void {
    if (this.writing || this.beginning || this.failure !== null || this.closed) return;
    const [first] = this.queued;
    if (first === undefined) return;
    const { current } = this;
    if (current === null) this.beginNext(this.freeFile());
    else if (this.fits(current, first)) this.writeBatch(current);
    else if (this.unsynced.length > 0 || this.syncing) this.sync(current);
    else if (this.reclaimable === 0) this.beginNext(this.otherFile(current));
  }

  private fits(file: JournalFile, epoch: CompleteEpoch): boolean {
    return file.written + recordBytes(epoch) <= this.fileBytes;
  }

  /** After a start, or when all was forgotten: both are free. */
  private freeFile(): JournalFile {
    const fresh = this.files.find(({ use, stale }) => use !== null && !stale);
    const file = fresh ?? this.files[0];
    assert(file, 'there are two files');
    return file;
  }

  private beginNext(file: JournalFile): void {
    const isFresh = file.use !== null && !file.stale && file.lastEpoch === 0;
    // Serials rise in the order of the epochs.
    if (isFresh && file.use?.serial === this.serial) {
      this.current = file;
      this.pump();
      return;
    }
    this.begin(file, (errno) => {
      if (errno === 0) this.current = file;
      if (errno !== 0 && isSpaceError(errno)) this.giveBack(errno);
      this.pump();
    });
  }

  private begin(file: JournalFile, callback: (errno: number) => void): void {
    const { random, volumeId } = this.options;
    this.beginning = true;
    this.serial += 1;
    const use = { volumeId, salt: random.bytes(4).readUInt32BE(0), serial: this.serial };
    file.begin(use, (errno) => {
      this.beginning = false;
      if (errno !== 0 && !isSpaceError(errno)) {
        this.fail(`the journal ${file.path} could not be begun (errno ${errno})`);
      }
      callback(errno);
      this.noticeIdle();
    });
  }

  private writeBatch(file: JournalFile): void {
    const batch: CompleteEpoch[] = [];
    const { seed, synced } = file;
    let end = file.written;
    for (const epoch of this.queued) {
      const bytes = recordBytes(epoch);
      if (end + bytes > this.fileBytes || !this.writer.add(epoch, end, { seed, synced })) break;
      batch.push(epoch);
      end += bytes;
    }
    this.queued.splice(0, batch.length);
    this.writing = true;
    this.writer.write(file, (errno) => this.written(file, batch, end, errno));
  }

  private written(
    file: JournalFile,
    batch: readonly CompleteEpoch[],
    end: number,
    errno: number,
  ): void {
    this.writing = false;
    if (this.failure !== null) {
      // A sync failed meanwhile: what was written now is not durable either.
      this.queued = [...batch, ...this.queued];
      this.giveBack(0);
    } else if (errno === 0) {
      this.unsyncedBytes += end - file.written;
      file.written = end;
      for (const epoch of batch) {
        file.lastEpoch = epoch.epoch;
        this.unsynced.push(epoch);
      }
      this.syncIfDue();
    } else {
      // What it left lies behind the last record, and the next one is written over it.
      file.stale = true;
      this.queued = [...batch, ...this.queued];
      if (isSpaceError(errno)) this.giveBack(errno);
      else this.fail(`the journal ${file.path} could not be written (errno ${errno})`);
    }
    this.pump();
    this.noticeIdle();
  }

  /** Begins a sync that somebody waits for, or sees to it that one begins in time. */
  private syncIfDue(): void {
    const [first] = this.unsynced;
    if (first === undefined || this.syncing || this.current === null) return;
    const { clock } = this.options;
    const now = clock.now();
    const waited = now - this.syncedAt;
    const awaited = first.epoch <= this.hurried || now < this.promptUntil || this.closed;
    if (awaited || waited >= JOURNAL_SYNC_MS || this.unsyncedBytes >= JOURNAL_SYNC_BYTES) {
      this.sync(this.current);
      return;
    }
    this.syncTimer ??= clock.after(Math.max(1, JOURNAL_SYNC_MS - waited), () => {
      this.syncTimer = null;
      this.syncIfDue();
    });
  }

  private sync(file: JournalFile): void {
    if (this.syncing || this.unsynced.length === 0 || this.failure !== null) return;
    this.syncing = true;
    this.syncedAt = this.options.clock.now();
    this.syncTimer?.cancel();
    this.syncTimer = null;
    this.unsyncedBytes = 0;
    const covered = this.unsynced.length;
    const end = file.written;
    file.file.datasync((status) => {
      this.syncing = false;
      if (status < 0) {
        this.fail(`the journal ${file.path} could not be synced (errno ${-status})`);
      } else if (this.failure === null) {
        file.synced = end;
        const durable = this.unsynced.splice(0, covered);
        this.syncIfDue();
        for (const epoch of durable) this.owner.journaled(epoch);
        this.pump();
      }
      this.noticeIdle();
    });
  }

  /** Gives back what is not written. */
  private giveBack(errno: number): void {
    const epochs = this.queued;
    this.queued = [];
    if (epochs.length > 0) this.owner.refused(epochs, errno);
  }

  private fail(reason: string): void {
    if (this.failure !== null) return;
    this.failure = reason;
    this.queued = [...this.unsynced.splice(0), ...this.queued];
    this.giveBack(0);
    this.owner.failed(reason);
  }

  private noticeIdle(): void {
    if (this.busy) return;
    for (const resolve of this.idleWaiters.splice(0)) resolve();
  }
}
