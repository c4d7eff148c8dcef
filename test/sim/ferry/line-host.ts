/**
 * Hosts that write to both nodes of a pair at any time, whoever takes writes there: what is answered is noted in the book of the line
 * that the node goes on with.
 *
 * A write is answered by a volume that is no mirror, and never under an older generation than another one of its line was before it was
 * asked for: two nodes never take the writes of one line. One that was asked for earlier may have been given away with the line, and its
 * answer have waited for a mirror.
 */
import type { Dice } from '../../../scripts/fuzz/dice.ts';
import type { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import { answered } from '../../volume/support/request.ts';
import { takePage } from '../arena.ts';
import { wrongUnless } from '../failure.ts';
import type { LineBook } from './line-book.ts';
import type { Operations } from './operations.ts';
import { BLOCK } from './oracle.ts';
import { readOf, writeOf } from './requests.ts';
import type { Site } from './site.ts';
import type { Process } from './world.ts';

interface Pending {
  readonly device: ReplicatedVolume;
  readonly process: Process | null;
  readonly book: LineBook;
  /** Null: a flush. */
  readonly block: number | null;
}

/** Requests to one node that are not answered. */
const PENDING_MAX = 8;

export class LineHost {
  private readonly dice: Dice;
  private readonly operations: Operations;
  private readonly pending = new Set<Pending>();
  private tags = 0;
  /** Told before a write counts that was answered under a newer generation than all of its line before. */
  onGeneration: () => void = () => {};

  constructor(dice: Dice, operations: Operations) {
    this.dice = dice;
    this.operations = operations;
  }

  /** Requests that a volume which still takes some has not answered. */
  waiting(site: Site): number {
    return [...this.pending].filter(({ device }) => device === site.primary).length;
  }

  /** Forgets what nobody answers any more: its process is over, or its volume is a mirror by now. */
  forget(sites: readonly Site[]): void {
    for (const each of this.pending) {
      const site = sites.find(({ primary }) => primary === each.device);
      if (site !== undefined && each.process?.over === false) continue;
      this.pending.delete(each);
      if (each.block !== null) each.book.given(each.block);
    }
  }

  /** A write, or now and then a flush, to whatever the node has. */
  ask(site: Site, book: LineBook): void {
    const { dice } = this;
    const device = site.primary;
    if (device === null || this.waiting(site) >= PENDING_MAX) return;
    if (dice.chance(12)) return this.flush(site, device, book);
    const block = dice.below(book.blockCount);
    if (book.isOpen(block)) return;
    const value = this.value();
    book.asked(block, value);
    const pending = { device, process: site.node.process, book, block };
    const { generation } = book;
    // Whoever retains the request scribbles over its bytes.
    const bytes = takePage();
    value.copy(bytes);
    const request = writeOf(block * BLOCK, bytes);
    this.send(
      pending,
      answered(request, (asked) => device.write(asked)),
      () => {
        this.mustTake(site, device, { book, generation });
        book.answered(block, value);
      },
    );
  }

  /** What a write is answered that nothing is in the way of. */
  async probe({ primary }: Site, book: LineBook): Promise<number> {
    const value = this.value();
    book.asked(0, value);
    const bytes = takePage();
    value.copy(bytes);
    const status = await answered(writeOf(0, bytes), (asked) => primary!.write(asked));
    if (status === 0) book.answered(0, value);
    else book.given(0);
    return status;
  }

  /** No two alike. */
  private value(): Buffer {
    this.tags += 1;
    const value = takePage().fill(this.tags % 251);
    value.writeUInt32LE(this.tags, 0);
    return value;
  }

  private flush(site: Site, device: ReplicatedVolume, book: LineBook): void {
    const covered = book.covered();
    const pending = { device, process: site.node.process, book, block: null };
    const request = readOf({ offset: 0, length: 0 });
    this.send(
      pending,
      answered(request, (asked) => device.flush(asked)),
      () => {
        book.flushed(covered);
      },
    );
  }

  /** `done`: it was answered OK while its process lives. */
  private send(pending: Pending, status: Promise<number>, done: () => void): void {
    this.pending.add(pending);
    void this.hear(pending, status, done);
  }

  private async hear(pending: Pending, status: Promise<number>, done: () => void): Promise<void> {
    const result = await status;
    this.pending.delete(pending);
    if (pending.process?.over !== false) return;
    if (result === 0) this.operations.hear(done);
    else if (pending.block !== null) pending.book.given(pending.block);
  }

  /** `generation`: the newest of the line when the write was asked for. */
  private mustTake(
    site: Site,
    { volume }: ReplicatedVolume,
    { book, generation }: { book: LineBook; generation: number },
  ): void {
    const { state } = volume.metadata;
    const { name } = site.node;
    wrongUnless(state.source === null, `${name} answered a write and is a mirror`);
    wrongUnless(
      state.generation >= generation,
      `${name} answered a write under generation ${state.generation}, and another node one under ${generation}`,
    );
    if (state.generation > book.generation) this.onGeneration();
    book.generation = Math.max(book.generation, state.generation);
  }
}
