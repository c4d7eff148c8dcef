/**
 * An export of another server in the place of a file: what a volume on it reads and writes.
 *
 * Invariants:
 * - Every callback is called once, and never from inside the call that it was given to.
 * - A lost connection is made again, for ever. What waits goes on then; after CONTAINER_WAIT_MS_MAX without one it is
 *   answered EIO, and so is what comes until there is one.
 * - A new connection first gets every change that no flush covers, in order: the server may have been restarted and have
 *   lost them. Only then anything else is sent. So a flush that succeeds covers all that was answered before it.
 * - A flush that the server refuses, or a change that it answered once and refuses now, is final (I10): everything is
 *   answered EIO from then on, and `lost` tells why.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import { WOULD_BLOCK, type DiskCallback, type DiskFile } from '../../io/disk.ts';
import { errorText } from '../../io/errors.ts';
import {
  CONTAINER_REQUESTS_IN_FLIGHT_MAX,
  CONTAINER_RETRY_MS_MAX,
  CONTAINER_RETRY_MS_MIN,
  CONTAINER_WAIT_MS_MAX,
} from '../../io/limits.ts';
import { systemError } from '../../io/system-error.ts';
import { ExportWire, unfitFor, type ExportClient } from './export-wire.ts';
import { Unflushed, type Change } from './unflushed.ts';

export interface ExportFileOptions {
  readonly clock: Clock;
  /** The URI of the export. */
  readonly path: string;
  /** Bytes of it that are needed. */
  readonly sizeBytes: number;
  /** Makes a connection. Throws BlockferryError. */
  readonly connect: () => Promise<ExportClient>;
  /** One that is made already; without it the first is sought at once. */
  readonly client: ExportClient | null;
  /** The export is out of reach, and why; null: it is there again. */
  readonly troubled: (why: string | null) => void;
  /** See the last invariant. */
  readonly lost: (reason: string) => void;
}

type Task =
  | {
      readonly kind: 'read' | 'write';
      readonly buffer: Buffer;
      readonly start: number;
      readonly position: number;
      readonly length: number;
      readonly callback: DiskCallback;
    }
  | {
      readonly kind: 'zero';
      readonly position: number;
      readonly length: number;
      readonly noHole: boolean;
      readonly callback: DiskCallback;
    }
  | { readonly kind: 'flush'; readonly callback: DiskCallback };

/** `seeking` a connection, `replaying` changes on one, `ready`; `lost` and `closed` for good. */
type State = 'seeking' | 'replaying' | 'ready' | 'lost' | 'closed';

export class ExportFile implements DiskFile {
  readonly path: string;
  private readonly options: ExportFileOptions;
  private readonly clock: Clock;
  private state: State = 'seeking';
  private wire: ExportWire | null = null;
  private sizeBytes: number;
  private capacity: number;
  private readonly unflushed = new Unflushed();
  private waiting: Task[] = [];
  private inFlight = 0;
  /** A flush is on its way that nobody asked for. */
  private makingRoom = false;
  private retry: Timer | null = null;
  private retryMs = CONTAINER_RETRY_MS_MIN;
  /** Runs while there is no connection. */
  private patience: Timer | null = null;
  /** It ran out. */
  private impatient = false;

  constructor(options: ExportFileOptions) {
    this.options = options;
    this.path = options.path;
    this.clock = options.clock;
    this.sizeBytes = options.sizeBytes;
    this.capacity = options.sizeBytes;
    if (options.client === null) {
      this.beginWaiting();
      this.seek();
    } else {
      this.adopt(options.client);
    }
  }

  // ---- DiskFile

  /** Nothing of it is in the memory of this machine. */
  readNow(): number {
    return WOULD_BLOCK;
  }

  readBlocking(): number {
    assert.fail('an export is not read on the calling thread');
  }

  writeNow(): number {
    assert.fail('an export is not written on the calling thread');
  }

  datasyncNow(): void {
    assert.fail('an export is not flushed on the calling thread');
  }

  read(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void {
    this.take({ kind: 'read', buffer, start, length, position, callback });
  }

  write(
    buffer: Buffer,
    start: number,
    length: number,
    position: number,
    callback: DiskCallback,
  ): void {
    this.take({ kind: 'write', buffer, start, length, position, callback });
  }

  datasync(callback: DiskCallback): void {
    this.take({ kind: 'flush', callback });
  }

  punchHole(position: number, length: number, callback: DiskCallback): void {
    this.take({ kind: 'zero', position, length, noHole: false, callback });
  }

  provisionZeroes(position: number, length: number, callback: DiskCallback): void {
    this.take({ kind: 'zero', position, length, noHole: true, callback });
  }

  readAhead(_position: number, _length: number, callback: DiskCallback): void {
    this.answerSoon(callback, -Status.ENOTSUP);
  }

  dataAfter(): null {
    return null;
  }

  truncateNow(sizeBytes: number): void {
    if (sizeBytes > this.capacity) throw systemError(Status.ENOSPC, 'truncate', this.path);
    this.sizeBytes = sizeBytes;
  }

  /** As the server told when it was connected to last. */
  sizeNow(): number {
    return this.capacity;
  }

  allocatedNow(): number {
    return this.capacity;
  }

  closeNow(): void {
    assert(this.state !== 'closed', 'the export is closed already');
    assert(this.waiting.length === 0, 'work on the export still waits');
    const { wire } = this;
    this.end('closed');
    void wire?.client.close();
  }

  // ---- requests

  private take(task: Task): void {
    assert(this.state !== 'closed', 'the export is closed');
    if (this.state === 'lost' || this.impatient) this.answerSoon(task.callback, -Status.EIO);
    else {
      this.waiting.push(task);
      this.pump();
    }
  }

  private answerSoon(callback: DiskCallback, result: number): void {
    this.clock.soon(() => callback(result));
  }

  /** Sends what may be sent. */
  private pump(): void {
    const { wire } = this;
    if (this.state !== 'ready' || wire?.open !== true) return;
    while (this.inFlight < CONTAINER_REQUESTS_IN_FLIGHT_MAX) {
      const [task] = this.waiting;
      if (task === undefined) break;
      if (isChange(task) && !this.unflushed.hasRoom(task.length)) {
        this.makeRoom(wire);
        break;
      }
      this.waiting.shift();
      this.send(wire, task);
    }
  }

  private send(wire: ExportWire, task: Task): void {
    switch (task.kind) {
      case 'read':
        this.sendRead(wire, task);
        break;
      case 'flush':
        this.sendFlush(wire, task);
        break;
      case 'zero':
        if (!wire.canZero) this.answerSoon(task.callback, -Status.ENOTSUP);
        else this.sendChange(wire, this.unflushed.add({ ...task, bytes: null }));
        break;
      case 'write': {
        const { buffer, start, length, position, callback } = task;
        // The caller has its buffer back after the answer; this one is kept until a flush.
        const bytes = Buffer.allocUnsafeSlow(length);
        buffer.copy(bytes, 0, start, start + length);
        const change = { position, length, bytes, noHole: false, callback };
        this.sendChange(wire, this.unflushed.add(change));
      }
    }
  }

  private sendRead(wire: ExportWire, task: Task & { kind: 'read' | 'write' }): void {
    const { buffer, start, length, position, callback } = task;
    this.inFlight += 1;
    wire.read(buffer, start, length, position, (errno) => {
      this.inFlight -= 1;
      if (errno !== 0 && !wire.open) this.sendAgain(task);
      else callback(errno === 0 ? length : -errno);
      this.pump();
    });
  }

  private sendFlush(wire: ExportWire, task: Task & { kind: 'flush' }): void {
    const flush = this.unflushed.flushing();
    this.inFlight += 1;
    wire.flush((errno) => {
      this.inFlight -= 1;
      if (errno !== 0 && !wire.open) {
        this.sendAgain(task);
        return;
      }
      if (errno === 0) this.unflushed.flushed(flush);
      else this.lose(`the server could not flush (errno ${errno})`);
      task.callback(errno === 0 ? 0 : -errno);
      this.pump();
    });
  }

  /** The connection was lost with it: it goes with the next one. */
  private sendAgain(task: Task): void {
    if (this.state === 'lost' || this.impatient) task.callback(-Status.EIO);
    else this.waiting.unshift(task);
  }

  private sendChange(wire: ExportWire, change: Change): void {
    this.inFlight += 1;
    issue(wire, change, (errno) => {
      this.inFlight -= 1;
      // The next connection gets it again.
      if (errno !== 0 && !wire.open) return;
      if (errno === 0) this.unflushed.answered(change);
      else this.unflushed.drop(change);
      this.answer(change, errno);
      if (this.unflushed.isHalfFull) this.makeRoom(wire);
      this.pump();
    });
  }

  private answer(change: Change, errno: number): void {
    const { callback, bytes } = change;
    change.callback = null;
    if (errno === 0) callback?.(bytes === null ? 0 : bytes.length);
    else callback?.(-errno);
  }

  /** Flushes for the sake of memory. */
  private makeRoom(wire: ExportWire): void {
    if (this.makingRoom || !this.unflushed.canShrink || this.state !== 'ready') return;
    this.makingRoom = true;
    const flush = this.unflushed.flushing();
    wire.flush((errno) => {
      this.makingRoom = false;
      if (errno !== 0 && !wire.open) return;
      if (errno === 0) this.unflushed.flushed(flush);
      else this.lose(`the server could not flush (errno ${errno})`);
      this.pump();
    });
  }

  // ---- the connection

  private seek(): void {
    this.retry = null;
    this.options.connect().then(
      (client) => this.connected(client),
      (thrown: unknown) => this.notConnected(errorText(thrown)),
    );
  }

  private connected(client: ExportClient): void {
    if (this.state !== 'seeking') {
      void client.close();
      return;
    }
    const why = unfitFor(client, this.sizeBytes);
    if (why === null) {
      this.adopt(client);
      return;
    }
    void client.close();
    this.notConnected(`${this.path}: ${why}`);
  }

  private notConnected(why: string): void {
    if (this.state !== 'seeking') return;
    this.options.troubled(why);
    this.seekLater();
  }

  private seekLater(): void {
    this.retry = this.clock.after(this.retryMs, () => this.seek());
    this.retryMs = Math.min(CONTAINER_RETRY_MS_MAX, this.retryMs * 2);
  }

  private adopt(client: ExportClient): void {
    const wire = new ExportWire(client);
    this.wire = wire;
    this.capacity = client.info.sizeBytes;
    this.state = 'replaying';
    client.onClosed = (error) => this.disconnected(wire, error.message);
    this.unflushed.forget();
    this.replay(wire);
  }

  /** Does again what no flush covers, a batch at a time. */
  private replay(wire: ExportWire): void {
    const batch = this.unflushed.nextToReplay();
    let left = batch.length;
    if (left === 0) this.becomeReady();
    for (const change of batch) {
      issue(wire, change, (errno) => {
        left -= 1;
        if (this.wire !== wire || (errno !== 0 && !wire.open)) return;
        this.replayed(change, errno);
        if (left === 0 && this.state === 'replaying') this.replay(wire);
      });
    }
  }

  private replayed(change: Change, errno: number): void {
    if (errno === 0) this.unflushed.answered(change);
    else this.unflushed.drop(change);
    if (change.callback !== null) this.answer(change, errno);
    else if (errno !== 0) this.lose(`the server took a change once and not again (errno ${errno})`);
  }

  private becomeReady(): void {
    this.state = 'ready';
    this.patience?.cancel();
    this.patience = null;
    this.impatient = false;
    this.retryMs = CONTAINER_RETRY_MS_MIN;
    this.options.troubled(null);
    this.pump();
  }

  private disconnected(wire: ExportWire, why: string): void {
    if (this.wire !== wire) return;
    this.wire = null;
    this.state = 'seeking';
    this.options.troubled(why);
    this.beginWaiting();
    this.seekLater();
  }

  private beginWaiting(): void {
    if (this.impatient) return;
    this.patience ??= this.clock.after(CONTAINER_WAIT_MS_MAX, () => {
      this.patience = null;
      this.impatient = true;
      this.refuseAll();
    });
  }

  /** Answers EIO to all that waits. */
  private refuseAll(): void {
    const tasks = this.waiting;
    this.waiting = [];
    for (const change of this.unflushed.owed()) {
      this.unflushed.drop(change);
      this.answer(change, Status.EIO);
    }
    for (const { callback } of tasks) callback(-Status.EIO);
  }

  private lose(reason: string): void {
    if (this.state === 'lost' || this.state === 'closed') return;
    const { wire } = this;
    this.end('lost');
    this.options.troubled(reason);
    this.options.lost(reason);
    wire?.client.destroy();
    this.refuseAll();
  }

  private end(state: 'lost' | 'closed'): void {
    this.state = state;
    this.wire = null;
    this.retry?.cancel();
    this.patience?.cancel();
  }
}

function isChange(task: Task): task is Task & { kind: 'write' | 'zero' } {
  return task.kind === 'write' || task.kind === 'zero';
}

function issue(wire: ExportWire, change: Change, done: (errno: number) => void): void {
  const { position, length, bytes, noHole } = change;
  if (bytes === null) wire.zero(position, length, noHole, done);
  else wire.write(bytes, position, done);
}
