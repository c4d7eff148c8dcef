/**
 * One volume's metadata: the folded state, and the log that makes it durable.
 *
 * Invariants:
 * - `state` is the fold of every record that is durable or waiting; a commit that answers 0 made durable
 *   every record appended before it was called.
 * - One batch is on its way at a time, and the next is written only after it was synced: recovery tells a
 *   torn tail from corruption by that (metadata-log.ts).
 * - A batch that does not fit on the disk is cut back and stays waiting: nothing is lost, nothing breaks.
 * - A failed sync, or a log whose length is unknown, is final (I10): every later commit answers EIO.
 * - A log that was cut at open, or cannot be appended to, is replaced by a new file (written, synced, renamed
 *   over) and never written again: bytes past a cut can never be read as records.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import type { Disk, DiskFile } from '../../io/disk.ts';
import { BlockferryError, errnoOf } from '../../io/errors.ts';
import { METADATA_COMPACT_BYTES, METADATA_PENDING_BYTES_MAX } from '../../io/limits.ts';
import type { Random } from '../../io/random.ts';
import {
  FORMAT_VERSION,
  FileHeader,
  RecordBuffer,
  encodeFileHeader,
  readLog,
} from './metadata-log.ts';
import type { LogIdentity } from './metadata-log.ts';
import { emptyState, foldRecord, recordsOf } from './metadata-state.ts';
import type { VolumeState } from './metadata-state.ts';
import type { MetadataRecord } from './records.ts';
import type { Spare } from '../layers/spare.ts';

export type { LayerRecord, MirrorRecord, VolumeState } from './metadata-state.ts';

type CommitCallback = (status: number) => void;

export interface MetadataOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  /** The directory of the volume. */
  readonly directory: string;
  /** Length from which the log is compacted. */
  readonly compactBytes?: number;
  /** Space for records that free more of it. */
  readonly spare?: Spare | undefined;
}

export const LOG_NAME = 'metadata.log';
/** A compaction on its way; removed at open. */
export const NEW_LOG_NAME = 'metadata.log.new';

const SYNC_FAILED = 'the metadata log could not be synced';
const EDQUOT = 122;
const EFBIG = 27;

/** Errors of a full disk: the operation fails, the volume does not. */
function isSpaceError(errno: number): boolean {
  return errno === Status.ENOSPC || errno === EDQUOT || errno === EFBIG;
}

export class Metadata {
  /** What the records appended so far fold to. Read it, never change it. */
  readonly state: VolumeState;
  /** The log had no clean mark when it was opened. */
  readonly unclean: boolean;
  /** Called once, when the log failed for good; `unsynced`: because a sync did. */
  onFailed: ((reason: string, unsynced: boolean) => void) | null = null;

  private readonly options: MetadataOptions;
  private readonly compactBytes: number;
  private file: DiskFile;
  private identity: LogIdentity;
  /** Bytes of the log that are durable; the next batch begins here. */
  private length: number;
  private nextSequence: number;
  /** Length past which compaction is considered. */
  private compactAt: number;
  /** The log must be replaced before anything is appended to it. */
  private mustReplace: boolean;

  private pending = new RecordBuffer();
  /** The batch on its way; empty when none is. */
  private batch = new RecordBuffer();
  private waiting: CommitCallback[] = [];
  private served: CommitCallback[] = [];
  private busy = false;
  /** A last log is being written: the one that says that this one failed. */
  private marking = false;
  /** That one is in place. */
  private marked = false;
  /** A batch was refused, and the next does not begin in this turn. */
  private resting = false;
  /** Someone who waits gives space back when this is durable. */
  private freeing = false;
  private errno = 0;
  private closed = false;

  private constructor(options: MetadataOptions, log: OpenedLog) {
    this.options = options;
    this.compactBytes = options.compactBytes ?? METADATA_COMPACT_BYTES;
    this.state = log.state;
    this.unclean = !log.state.clean;
    this.file = log.file;
    this.identity = log.identity;
    this.length = log.length;
    this.nextSequence = log.nextSequence;
    this.mustReplace = log.torn || log.outdated;
    this.compactAt = this.compactBytes;
  }

  /** Reads the log of a volume. Throws METADATA_CORRUPT, DATA_DIR_FORMAT_NEWER, or what the disk throws. */
  static open(options: MetadataOptions): Metadata {
    const { disk, directory } = options;
    const leftover = `${directory}/${NEW_LOG_NAME}`;
    if (disk.exists(leftover)) disk.remove(leftover);
    const path = `${directory}/${LOG_NAME}`;
    const state = emptyState();
    const contents = readLog(disk.readFile(path), path, (record) => foldRecord(state, record));
    if (state.id !== contents.identity.volumeId || state.topLayer === 0) {
      throw new BlockferryError('METADATA_CORRUPT', `${path}: the volume is not described in it`);
    }
    const file = disk.open(path, { create: false });
    try {
      // A process that was killed may have left this in the page cache alone. Whoever acts on it, or shows it, must be
      // able to rely on it.
      file.datasyncNow();
      disk.syncDirectory(directory);
    } catch (thrown) {
      file.closeNow();
      throw thrown;
    }
    return new Metadata(options, {
      state,
      file,
      identity: contents.identity,
      length: contents.end,
      nextSequence: contents.nextSequence,
      torn: contents.torn,
      outdated: contents.outdated,
    });
  }

  /** Writes the log of a new volume into `directory`, durably but for its directory entry. */
  static create(options: MetadataOptions, records: readonly MetadataRecord[]): Promise<void> {
    const state = emptyState();
    for (const record of records) foldRecord(state, record);
    const buffer = new RecordBuffer();
    for (const record of records) buffer.append(record);
    const path = `${options.directory}/${LOG_NAME}`;
    const identity = newIdentity(state.id, options.random);
    return new Promise((resolve, reject) => {
      writeNewLog(options, path, { identity, firstSequence: 1, buffer }, (errno, file) => {
        file?.closeNow();
        if (errno === 0) resolve();
        else reject(writeError(path, errno));
      });
    });
  }

  /** The part of the log that is durable, and will not change until a new log takes its place. */
  get durableBytes(): number {
    return this.length;
  }

  /** Something was appended, or must be written anew, that no commit took yet. */
  get isBehind(): boolean {
    return this.pending.length > 0 || this.mustReplace;
  }

  /** A commit is on its way. */
  get committing(): boolean {
    return this.busy || this.marking || this.waiting.length > 0;
  }

  /** Folds the record at once and buffers its bytes for the next commit. */
  append(record: MetadataRecord): void {
    assert(!this.closed, 'the log is open');
    foldRecord(this.state, record);
    this.pending.append(record);
    if (this.pending.length > METADATA_PENDING_BYTES_MAX) {
      // The state holds all of it: a new log made from the state needs none of these bytes.
      this.pending = new RecordBuffer();
      this.mustReplace = true;
    }
  }

  /**
   * Makes every record appended before durable; 0 or a positive errno, never before it returned. `frees`: space comes of
   * it, so what is kept back for that may be used.
   */
  commit(callback: CommitCallback, frees = false): void {
    this.freeing ||= frees;
    if (this.errno !== 0 || this.closed) {
      this.options.clock.soon(() => callback(Status.EIO));
    } else if (this.busy && this.pending.length === 0 && !this.mustReplace) {
      this.served.push(callback);
    } else if (!this.busy && this.pending.length === 0 && !this.mustReplace) {
      this.options.clock.soon(() => callback(Status.OK));
    } else {
      this.waiting.push(callback);
      if (!this.busy && !this.resting) this.start();
    }
  }

  /**
   * The same at once, before anybody uses the volume. What a full disk refuses, and all that waits for a new log, is made durable
   * with the next commit. Throws what the disk throws.
   */
  commitNow(): void {
    assert(!this.committing && this.errno === 0, 'nothing is on its way');
    const { pending, file, length } = this;
    if (pending.length === 0 || this.mustReplace) return;
    pending.seal(this.identity, { batch: length, firstSequence: this.nextSequence });
    const { content } = pending;
    if (file.writeNow(content, 0, content.length, length) < 0) {
      file.truncateNow(length);
      return;
    }
    file.datasyncNow();
    this.length += content.length;
    this.nextSequence += pending.records;
    pending.clear();
  }

  /**
   * Makes it known to the next process that a sync failed in the run `boot` of the system: with a commit, or, when the log
   * itself failed, once and without a promise, in a new one. What that holds was appended: none of it is untrue.
   */
  recordFailure(boot: string): void {
    if (this.closed) return;
    const record = { kind: 'sync-failed', boot } as const;
    if (this.errno === 0) {
      if (this.state.failedBoot === boot) return;
      this.append(record);
      this.commit(() => {});
    } else if (!this.marking && !this.marked) {
      // A second one at the same time would take the file away under the first, which then put one in place that is not durable.
      foldRecord(this.state, record);
      this.writeLast();
    }
  }

  private writeLast(): void {
    this.removeLeftover();
    this.marking = true;
    const { path, log } = this.newLog();
    writeNewLog(this.options, path, log, (errno, file) => {
      this.marking = false;
      file?.closeNow();
      if (errno === 0) this.marked = this.putInPlace() === 0;
      else this.removeLeftover();
    });
  }

  /** Closes the file. Nothing may be on its way. */
  close(): void {
    assert(!this.committing, 'no commit is on its way');
    this.closed = true;
    this.file.closeNow();
  }

  private start(): void {
    assert(this.errno === 0, 'a failed log is not written');
    this.busy = true;
    assert(this.served.length === 0, 'the last commit was answered');
    this.served = this.waiting;
    this.waiting = [];
    const batch = this.batch;
    this.batch = this.pending;
    this.pending = batch;
    assert(this.pending.length === 0, 'the last batch is done');
    if (this.mustReplace || this.length + this.batch.length > this.compactAt) this.replace();
    else this.appendBatch();
  }

  private appendBatch(): void {
    const { batch, file, length } = this;
    batch.seal(this.identity, { batch: length, firstSequence: this.nextSequence });
    const content = batch.content;
    file.write(content, 0, content.length, length, (written) => {
      if (written < 0) {
        this.cutBack(-written);
        return;
      }
      file.datasync((synced) => {
        if (synced < 0) {
          this.fail(-synced, SYNC_FAILED);
          return;
        }
        this.length += content.length;
        this.nextSequence += batch.records;
        this.batchDone();
      });
    });
  }

  /** A write failed: what it left past the durable part must not stay there. */
  private cutBack(errno: number): void {
    if (!isSpaceError(errno)) {
      this.fail(errno, 'the metadata log could not be written');
      return;
    }
    try {
      this.file.truncateNow(this.length);
    } catch (thrown) {
      this.fail(errnoOf(thrown), 'the metadata log could not be cut back');
      return;
    }
    if (this.makeRoom()) {
      this.appendBatch();
      return;
    }
    this.keepBatch();
    // Else a power cut may leave what was refused, without what took it back.
    this.file.datasync((synced) => {
      if (synced < 0) this.fail(-synced, SYNC_FAILED);
      else this.finish(errno);
    });
  }

  /** Whether there may be room now, for a batch that frees more. */
  private makeRoom(): boolean {
    return this.freeing && this.options.spare?.release() === true;
  }

  /** Puts the batch back in front of what was appended since. */
  private keepBatch(): void {
    const { batch, pending } = this;
    batch.appendAll(pending);
    pending.clear();
    this.pending = batch;
    this.batch = pending;
  }

  private batchDone(): void {
    this.batch.clear();
    this.finish(Status.OK);
  }

  private finish(status: number): void {
    this.busy = false;
    const served = this.served;
    this.served = [];
    if (this.freeing) this.options.spare?.refill();
    if (this.waiting.length === 0) this.freeing = false;
    if (status !== Status.OK && this.errno === 0) {
      // Whoever takes back what was refused does so in these turns: not a batch later, which a crash may keep from coming.
      this.resting = true;
      this.options.clock.soon(() => this.goOn());
    } else if (this.waiting.length > 0 && this.errno === 0) {
      this.start();
    }
    for (const callback of served) callback(status);
  }

  private goOn(): void {
    this.resting = false;
    if (this.waiting.length > 0) this.start();
  }

  private fail(errno: number, what: string): void {
    this.errno = errno;
    const reason = `${what} (errno ${errno})`;
    const onFailed = this.onFailed;
    this.onFailed = null;
    onFailed?.(reason, what === SYNC_FAILED);
    const orphans = this.waiting;
    this.waiting = [];
    this.finish(Status.EIO);
    for (const callback of orphans) callback(Status.EIO);
  }

  /** Writes the state into a new file in place of the log, when that is due. */
  private replace(): void {
    const buffer = this.stateBuffer();
    if (!this.mustReplace && this.length + this.batch.length <= 2 * buffer.length) {
      this.compactAt = Math.max(this.compactBytes, 2 * buffer.length);
      this.appendBatch();
      return;
    }
    const { path, log } = this.newLog(buffer);
    const hadToReplace = this.mustReplace;
    this.mustReplace = false;
    writeNewLog(this.options, path, log, (errno, file) => {
      if (errno === 0) {
        assert(file, 'a written log has a file');
        this.adopt(file, log);
      } else {
        file?.closeNow();
        this.replaceFailed(errno, hadToReplace);
      }
    });
  }

  /** The state as records. */
  private stateBuffer(): RecordBuffer {
    const buffer = new RecordBuffer(64 * 1024);
    for (const record of recordsOf(this.state)) buffer.append(record);
    return buffer;
  }

  /** A log that takes the place of this one. */
  private newLog(buffer = this.stateBuffer()): { path: string; log: NewLog } {
    const identity = newIdentity(this.state.id, this.options.random);
    const path = `${this.options.directory}/${NEW_LOG_NAME}`;
    return { path, log: { identity, firstSequence: this.nextSequence, buffer } };
  }

  private adopt(file: DiskFile, { identity, buffer }: NewLog): void {
    const errno = this.putInPlace();
    if (errno !== 0) {
      file.closeNow();
      this.fail(errno, 'the compacted metadata log could not be put in place');
      return;
    }
    this.file.closeNow();
    this.file = file;
    this.identity = identity;
    this.length = FileHeader.SIZE + buffer.length;
    this.nextSequence += buffer.records;
    this.compactAt = Math.max(this.compactBytes, 2 * this.length);
    this.batchDone();
  }

  /** 0, or what the disk answered. */
  private putInPlace(): number {
    const { disk, directory } = this.options;
    try {
      disk.rename(`${directory}/${NEW_LOG_NAME}`, `${directory}/${LOG_NAME}`);
      disk.syncDirectory(directory);
      return 0;
    } catch (thrown) {
      return errnoOf(thrown);
    }
  }

  private removeLeftover(): void {
    const { disk, directory } = this.options;
    try {
      const path = `${directory}/${NEW_LOG_NAME}`;
      if (disk.exists(path)) disk.remove(path);
    } catch {
      // The next attempt to create it will fail and say why.
    }
  }

  private replaceFailed(errno: number, hadToReplace: boolean): void {
    this.removeLeftover();
    if (!isSpaceError(errno)) {
      this.fail(errno, 'the compacted metadata log could not be written');
      return;
    }
    if (hadToReplace) {
      this.mustReplace = true;
      if (this.makeRoom()) {
        this.replace();
        return;
      }
      this.keepBatch();
      this.finish(errno);
      return;
    }
    // No room for a second log: go on with the old one for a while.
    this.compactAt = this.length + this.batch.length + this.compactBytes;
    if (this.mustReplace) {
      // The bytes of this batch's successors were dropped meanwhile; a new log is the only way.
      this.keepBatch();
      this.finish(errno);
    } else {
      this.appendBatch();
    }
  }
}

interface OpenedLog {
  readonly state: VolumeState;
  readonly file: DiskFile;
  readonly identity: LogIdentity;
  readonly length: number;
  readonly nextSequence: number;
  readonly torn: boolean;
  readonly outdated: boolean;
}

function newIdentity(volumeId: string, random: Random): LogIdentity {
  return { format: FORMAT_VERSION, volumeId, salt: random.bytes(4).readUInt32BE(0) };
}

export function writeError(path: string, errno: number): BlockferryError {
  const why = isSpaceError(errno) ? 'there is no space left' : `the disk answered errno ${errno}`;
  return new BlockferryError('METADATA_WRITE_FAILED', `${path} could not be written: ${why}`);
}

interface NewLog {
  readonly identity: LogIdentity;
  readonly firstSequence: number;
  readonly buffer: RecordBuffer;
}

/** Creates a log file with one synced batch. Calls back with 0 or a positive errno, and the file if it was opened. */
function writeNewLog(
  { disk, clock }: MetadataOptions,
  path: string,
  log: NewLog,
  callback: (errno: number, file: DiskFile | null) => void,
): void {
  const { identity, firstSequence, buffer } = log;
  let file: DiskFile;
  try {
    file = disk.open(path, { create: true, exclusive: true });
  } catch (thrown) {
    const errno = errnoOf(thrown);
    clock.soon(() => callback(errno, null));
    return;
  }
  buffer.seal(identity, { batch: FileHeader.SIZE, firstSequence });
  const header = encodeFileHeader(identity, { firstSequence, birthBytes: buffer.length });
  const content = Buffer.concat([header, buffer.content]);
  file.write(content, 0, content.length, 0, (written) => {
    if (written < 0) {
      callback(-written, file);
      return;
    }
    file.datasync((synced) => callback(synced < 0 ? -synced : 0, file));
  });
}
