/**
 * One delta run: compares what is suspect, then sends what is dirty, while host writes go on.
 *
 * The volume is read live, so a block may be read in the middle of a change. That is sound because every
 * host write during the run is either marked dirty again after it was applied (and sent by a later
 * sweep), or staged (and streamed after the run).
 *
 * Invariants:
 * - A block is not sent while an earlier copy of it is unanswered: a sweep goes through the volume once,
 *   and the next begins when everything was answered and flushed.
 * - Staging begins before the last sweep reads its first block, so nothing falls between the two.
 */
import { BLOCK_BYTES, DELTA_BATCHES_IN_FLIGHT_MAX, DELTA_BATCH_BYTES } from '../../io/limits.ts';
import type { NbdClient } from '../../nbd/client/client.ts';
import type { Volume } from '../../volume/volume.ts';
import type { Examiner } from '../../workers/examiner.ts';
import type { RunHooks, Transfer } from '../contact/contact.ts';
import { BatchPlanner, type DataBatch, type Piece } from './delta-batch.ts';
import type { MirrorBlocks } from '../mirror/mirror-blocks.ts';
import { afterRound, CONVERGING, isFinalSweep } from '../policy/policy.ts';
import { limitLookMs, type SendLimit } from '../pace/send-limit.ts';
import { TaskWindow } from './task-window.ts';

/** The run ended early: the link is gone, or somebody stopped it. */
export class RunAborted extends Error {}

/** The mirror, or the local disk, answered with an error. */
export class RunFailed extends Error {
  readonly errno: number;
  readonly local: boolean;

  constructor(message: string, options: { errno: number; local: boolean }) {
    super(message);
    this.errno = options.errno;
    this.local = options.local;
  }
}

/** Between flushes of a run: what a lost link makes it send again. */
const CHECKPOINT_BYTES = 64 * 1024 * 1024;
const STUCK_PAUSE_MS = 1000;
/** Holes looked at, without anything to wait for, before others have their turn. */
const LOOKS_PER_TURN_MAX = 256;

export class DeltaRun implements Transfer {
  /** Payload bytes sent and bytes compared by this run. */
  bytesSent = 0;
  bytesCompared = 0;
  private aborted = false;
  private uncheckedBytes = 0;
  private readonly idleBuffers: Buffer[] = [];
  private readonly volume: Volume;
  private readonly client: NbdClient;
  private readonly blocks: MirrorBlocks;
  private readonly examiner: Examiner;
  private readonly hooks: RunHooks;
  private readonly planner: BatchPlanner;
  private readonly limit: SendLimit | null;

  constructor(options: {
    volume: Volume;
    client: NbdClient;
    blocks: MirrorBlocks;
    examiner: Examiner;
    hooks: RunHooks;
    /** Bytes a second; no limit if not given. */
    limit?: SendLimit | null;
  }) {
    this.limit = options.limit ?? null;
    this.volume = options.volume;
    this.client = options.client;
    this.blocks = options.blocks;
    this.examiner = options.examiner;
    this.hooks = options.hooks;
    this.planner = new BatchPlanner(options.volume);
  }

  abort(): void {
    this.aborted = true;
  }

  /** Resolves when the mirror lacks nothing but what is staged. Rejects with RunAborted or RunFailed. */
  async run(): Promise<void> {
    await this.compare();
    this.check();
    this.hooks.compared();
    let convergence = CONVERGING;
    for (;;) {
      const bytesBefore = this.blocks.dirtyBytes;
      if (isFinalSweep(bytesBefore)) this.hooks.beginStaging();
      await this.sweep();
      if (this.hooks.isStaging()) return;
      convergence = afterRound(convergence, { bytesBefore, bytesAfter: this.blocks.dirtyBytes });
      this.hooks.stuck(convergence.notConverging);
      if (convergence.notConverging) await this.hooks.pause(STUCK_PAUSE_MS);
      this.check();
    }
  }

  private async compare(): Promise<void> {
    const window = new TaskWindow(DELTA_BATCHES_IN_FLIGHT_MAX);
    let cursor = 0;
    let looks = 0;
    for (;;) {
      this.check();
      const batch = this.planner.next(this.blocks.suspect, cursor);
      if (batch === null) break;
      cursor = batch.end;
      if (batch.kind === 'zero') {
        // Nothing to compare without reading: a hole is sent as a command that carries no data.
        this.blocks.dirty.add(batch.first, batch.end - batch.first);
        this.blocks.suspect.remove(batch.first, batch.end - batch.first);
        looks += 1;
        if (looks % LOOKS_PER_TURN_MAX === 0) await this.hooks.pause(0);
      } else {
        await window.add(() => this.compareBatch(batch));
      }
    }
    await window.drain();
  }

  private async compareBatch(batch: DataBatch): Promise<void> {
    const local = this.takeBuffer();
    const remote = this.takeBuffer();
    await Promise.all([
      ...batch.spans.map((span) => this.readLocal(local, batch, span)),
      ...batch.pieces.map((piece) => this.readRemote(remote, batch, piece)),
    ]);
    // Blocks between the pieces hold old bytes: their bits are not looked at.
    const { differs } = await this.examiner.examine(local, remote, lengthOf(batch));
    this.check();
    for (const piece of batch.pieces) {
      for (const run of splitByBits(differs, batch.first, piece)) {
        if (run.value) this.blocks.dirty.add(run.first, run.count);
      }
      this.blocks.suspect.remove(piece.first, piece.count);
      this.bytesCompared += piece.count * BLOCK_BYTES;
    }
    this.idleBuffers.push(local, remote);
  }

  /** Sends every block that is dirty now or becomes dirty ahead of the cursor, then flushes. */
  private async sweep(): Promise<void> {
    const window = new TaskWindow(DELTA_BATCHES_IN_FLIGHT_MAX);
    let cursor = 0;
    for (;;) {
      this.check();
      const batch = this.planner.next(this.blocks.dirty, cursor);
      if (batch === null) break;
      cursor = batch.end;
      // The bits move before anything is read: a host write from here on marks the block anew.
      for (const piece of batch.pieces) {
        this.blocks.dirty.remove(piece.first, piece.count);
        this.blocks.inFlight.add(piece.first, piece.count);
      }
      await this.withinLimit();
      await window.add(() => (batch.kind === 'zero' ? this.shipZeroes(batch) : this.ship(batch)));
      if (this.uncheckedBytes >= CHECKPOINT_BYTES) {
        await window.drain();
        await this.checkpoint();
      }
    }
    await window.drain();
    await this.checkpoint();
  }

  private async withinLimit(): Promise<void> {
    for (let waitMs = this.limit?.waitMs ?? 0; waitMs > 0; waitMs = this.limit?.waitMs ?? 0) {
      await this.hooks.pause(limitLookMs(waitMs));
      this.check();
    }
  }

  /** What was sent is durable on the mirror: its bits are let go. */
  private async checkpoint(): Promise<void> {
    this.check();
    await this.answered((done) => this.client.flush(done), 'flush');
    this.check();
    this.uncheckedBytes = 0;
    this.blocks.settleInFlight();
    // Else a crash while the host is idle makes all of it travel again.
    this.blocks.commit();
  }

  private async shipZeroes(batch: { readonly pieces: readonly Piece[] }): Promise<void> {
    for (const piece of batch.pieces) {
      await this.answered((done) => this.zeroPiece(piece, done), 'write of zeroes');
    }
  }

  private zeroPiece(piece: Piece, done: (errno: number) => void): void {
    const { first, count } = piece;
    this.client.zero(first * BLOCK_BYTES, count * BLOCK_BYTES, { noHole: false }, done);
  }

  private async ship(batch: DataBatch): Promise<void> {
    const buffer = this.takeBuffer();
    await Promise.all(batch.spans.map((span) => this.readLocal(buffer, batch, span)));
    const { zero } = await this.examiner.examine(buffer, null, lengthOf(batch));
    await this.answered((done) => this.send(buffer, batch, zero, done), 'write');
    this.idleBuffers.push(buffer);
  }

  private send(
    buffer: Buffer,
    batch: DataBatch,
    zero: Uint8Array,
    done: (errno: number) => void,
  ): void {
    let pending = 1;
    let failure = 0;
    const one = (errno: number): void => {
      if (errno !== 0) failure = errno;
      pending -= 1;
      if (pending === 0) done(failure);
    };
    this.client.cork();
    for (const piece of batch.pieces) {
      for (const run of splitByBits(zero, batch.first, piece)) {
        pending += 1;
        if (run.value) this.zeroPiece(run, one);
        else this.sendRun(buffer, batch, run, one);
      }
    }
    this.client.uncork();
    one(0);
  }

  private sendRun(
    buffer: Buffer,
    batch: DataBatch,
    run: Piece,
    done: (errno: number) => void,
  ): void {
    const length = run.count * BLOCK_BYTES;
    this.bytesSent += length;
    this.limit?.take(length);
    this.uncheckedBytes += length;
    this.client.write(buffer, positionOf(batch, run), length, run.first * BLOCK_BYTES, done);
  }

  private readLocal(buffer: Buffer, batch: DataBatch, piece: Piece): Promise<void> {
    return new Promise((resolve, reject) => {
      const length = piece.count * BLOCK_BYTES;
      const start = positionOf(batch, piece);
      this.volume.readAt(buffer, start, length, piece.first * BLOCK_BYTES, (status) => {
        if (status === 0) resolve();
        else reject(new RunFailed('the volume cannot be read', { errno: status, local: true }));
      });
    });
  }

  private readRemote(buffer: Buffer, batch: DataBatch, piece: Piece): Promise<void> {
    const length = piece.count * BLOCK_BYTES;
    const start = positionOf(batch, piece);
    return this.answered(
      (done) => this.client.read(buffer, start, length, piece.first * BLOCK_BYTES, done),
      'read',
    );
  }

  private answered(start: (done: (errno: number) => void) => void, what: string): Promise<void> {
    this.check();
    return new Promise((resolve, reject) => {
      start((errno) => {
        if (errno === 0) resolve();
        else if (this.aborted) reject(new RunAborted());
        else reject(new RunFailed(`the mirror failed a ${what}`, { errno, local: false }));
      });
    });
  }

  private takeBuffer(): Buffer {
    return this.idleBuffers.pop() ?? this.examiner.allocate(DELTA_BATCH_BYTES);
  }

  private check(): void {
    if (this.aborted) throw new RunAborted();
  }
}

/** A batch is laid out in its buffer as it is in the volume, from its first block on. */
function positionOf(batch: DataBatch, piece: Piece): number {
  return (piece.first - batch.first) * BLOCK_BYTES;
}

function lengthOf(batch: DataBatch): number {
  return (batch.end - batch.first) * BLOCK_BYTES;
}

/** Cuts `piece` into runs of equal bits; bit 0 belongs to block `base`. */
function* splitByBits(
  bits: Uint8Array,
  base: number,
  piece: Piece,
): Generator<Piece & { readonly value: boolean }> {
  const end = piece.first + piece.count;
  let first = piece.first;
  while (first < end) {
    const value = bitAt(bits, first - base);
    let next = first + 1;
    while (next < end && bitAt(bits, next - base) === value) next += 1;
    yield { first, count: next - first, value };
    first = next;
  }
}

function bitAt(bits: Uint8Array, index: number): boolean {
  return (((bits[index >> 3] ?? 0) >> (index & 7)) & 1) === 1;
}
