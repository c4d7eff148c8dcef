/**
 * One merge of two neighbouring layers: what is to be done next, and what of it is recorded.
 *
 * Invariants:
 * - A map says data only after the file was synced with it: pieces are done, then synced, then recorded, in batches.
 * - Nobody sees a difference at any step. `up`: the upper layer takes what it had through the lower one. `down`: what is
 *   written over the lower layer is hidden by the upper one, until it is durable; then the upper one lets go of it.
 *   So a merge that a crash cut off goes on from the maps, in either direction.
 * - The merged layer has the size of the upper one.
 * - Nothing is written before it is durable that nobody looks at the lower layer alone.
 * - `from` is gone in the metadata from the turn of `merged` on. Its file goes when that is durable.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import { errnoOf } from '../../io/errors.ts';
import {
  BLOCK_BYTES,
  MERGE_BATCH_BYTES,
  MERGE_BATCH_BYTES_BUSY,
  MERGE_BATCH_MS,
  MERGE_BATCH_RUNS_MAX,
  MERGE_HOLE_BYTES,
  MERGE_RECORDS_PER_TURN,
} from '../../io/limits.ts';
import { BlockSet } from '../maps/block-set.ts';
import { BlockState } from '../maps/layer-map.ts';
import type { MergePair } from '../layers/layer-tree.ts';
import type { MergeHost, MergeLayer } from './merge-host.ts';
import { mergePieces, mergedState } from './merge-plan.ts';
import type { MergeMaps, MergePiece } from './merge-plan.ts';
import { MergeStep, answer, runStep } from './merge-step.ts';
import type { MergeFault } from './merge-step.ts';
import { hasBelow, recordsOfMap } from '../log/metadata-state.ts';
import { ZeroPace } from '../zero-pace.ts';

/** The same two layers, whatever the direction. */
export function isSame(pair: MergePair, other: MergePair | undefined): boolean {
  if (other === undefined) return false;
  if (pair.from === other.from) return pair.into === other.into;
  return pair.from === other.into && pair.into === other.from;
}

/** What was done and is not recorded yet. */
interface Batch {
  readonly pieces: MergePiece[];
  bytes: number;
  /** When the first of it was done. */
  since: number;
}

export class LayerMerge {
  readonly pair: MergePair;
  /** Bytes of data copied, by this object. */
  doneBytes = 0;
  /** Nobody wants it any more. */
  abandoned = false;
  /** The metadata say that the layers are one. */
  merged = false;
  private confirmed = false;
  private readonly host: MergeHost;
  private readonly clock: Clock;
  private readonly from: MergeLayer;
  private readonly into: MergeLayer;
  private plan: Generator<MergePiece | null, undefined> | null = null;
  /** A piece that did not fit into the last step. */
  private held: MergePiece | null = null;
  /** Steps that failed. */
  private readonly again: MergeStep[] = [];
  private planEnded = false;
  private batch: Batch = { pieces: [], bytes: 0, since: 0 };
  private settling = false;
  private readonly zeroPace = new ZeroPace();
  private readonly ability = { copies: true };

  constructor(host: MergeHost, clock: Clock, pair: MergePair) {
    this.host = host;
    this.clock = clock;
    this.pair = pair;
    this.from = host.layerOf(pair.from);
    this.into = host.layerOf(pair.into);
  }

  /** Every piece was handed out; those on their way, or put back, are not looked at. */
  get isPlanned(): boolean {
    return this.planEnded && this.again.length === 0;
  }

  /**
   * Makes durable what makes the two a pair, and says whether they still are one: a snapshot whose end is not durable may come
   * back, and what is written over its layer would be its content. Comes before everything else.
   */
  async confirm(): Promise<MergeFault | null> {
    if (this.confirmed) return null;
    const fault = await this.commit();
    if (fault !== null) return fault;
    this.confirmed = true;
    this.abandoned ||= !this.host.mergeable().some((pair) => isSame(pair, this.pair));
    return null;
  }

  /** Gives `into` the room that it needs. Comes before the first step, and may be repeated. */
  async begin(): Promise<MergeFault | null> {
    const { from, into } = this;
    if (this.pair.direction === 'down' && from.map.blockCount > into.map.blockCount) {
      const sizeBytes = from.map.blockCount * BLOCK_BYTES;
      try {
        // What lies past its end may be left from before it shrank.
        into.file.truncateNow(into.map.blockCount * BLOCK_BYTES);
        into.file.truncateNow(sizeBytes);
      } catch (thrown) {
        return { errno: errnoOf(thrown), what: `${into.file.path} could not be lengthened` };
      }
      // A recorded size must have its bytes.
      const fault = await this.sync();
      if (fault !== null) return fault;
      this.host.metadata.append({ kind: 'layer-resized', layer: into.id, sizeBytes });
      into.resize(sizeBytes);
    }
    this.plan ??= mergePieces(this.maps());
    return null;
  }

  /** The next step; null when there is none, or none was found in this turn (see `isPlanned`). */
  nextStep(): MergeStep | null {
    const again = this.again.shift();
    if (again !== undefined) return again;
    assert(this.plan, 'a merge begins before its first step');
    const step = new MergeStep();
    while (!this.planEnded) {
      const piece = this.held ?? this.plan.next().value;
      this.held = null;
      if (piece === undefined) this.planEnded = true;
      if (piece === undefined || piece === null) break;
      if (!step.add(piece)) {
        this.held = piece;
        break;
      }
    }
    return step.pieces.length > 0 ? step : null;
  }

  /** Does a step with a buffer of its own. A step that fails is handed out again. */
  async run(step: MergeStep, buffer: Buffer): Promise<MergeFault | null> {
    const { clock, zeroPace, from, into, ability } = this;
    // Holes are for space alone: none is waited for, and some disks cannot make any.
    if (this.pair.direction === 'down' && step.zeroes) into.distrust();
    const files = { from: from.file, into: into.file, map: into.map, clock, zeroPace, ability };
    const fault = await runStep(step, files, buffer);
    if (fault !== null) {
      this.again.push(step);
      return fault;
    }
    const { batch } = this;
    if (batch.pieces.length === 0) batch.since = this.clock.now();
    batch.pieces.push(...step.pieces);
    batch.bytes += step.bytes;
    this.doneBytes += step.bytes;
    return null;
  }

  /** Enough was done since the last time to be recorded. */
  isBatchDue(now: number, busy: boolean): boolean {
    const { pieces, bytes, since } = this.batch;
    if (pieces.length === 0) return false;
    const most = busy ? MERGE_BATCH_BYTES_BUSY : MERGE_BATCH_BYTES;
    return bytes >= most || pieces.length >= MERGE_BATCH_RUNS_MAX || now - since >= MERGE_BATCH_MS;
  }

  /** Makes durable what was done so far, and records it. Steps may go on meanwhile. */
  async settle(): Promise<MergeFault | null> {
    assert(!this.settling, 'batches are recorded one after another');
    const { batch } = this;
    if (batch.pieces.length === 0) return null;
    this.settling = true;
    this.batch = { pieces: [], bytes: 0, since: 0 };
    const fault = (batch.bytes > 0 ? await this.sync() : null) ?? (await this.record(batch.pieces));
    this.settling = false;
    return fault;
  }

  /** Makes the two one. All steps are done and settled. May be repeated when it fails. */
  async finish(): Promise<MergeFault | null> {
    const { host, from, into } = this;
    assert(this.merged || (this.isPlanned && this.batch.pieces.length === 0), 'all is recorded');
    const sizeBytes = from.map.blockCount * BLOCK_BYTES;
    if (!this.merged) {
      if (this.pair.direction === 'down' && into.map.blockCount > from.map.blockCount) {
        host.metadata.append({ kind: 'layer-resized', layer: into.id, sizeBytes });
        into.resize(sizeBytes);
      }
      host.metadata.append({ kind: 'layers-merged', from: from.id, into: into.id });
      this.merged = true;
      host.merged(from.id, into.id);
    }
    const fault = await this.commit();
    if (fault !== null) return fault;
    host.removable(from.id);
    return null;
  }

  /**
   * Cuts off what lies past the end of the merged layer: space to be given back, which nobody looks at. In pieces, while
   * `mayGoOn`: the file is locked meanwhile. What is left is cut off at the next open.
   */
  async trim(mayGoOn: () => boolean): Promise<void> {
    const { file, map } = this.into;
    const end = map.blockCount * BLOCK_BYTES;
    try {
      if (file.sizeNow() <= end) return;
      let extent = file.dataAfter(end);
      while (extent !== null) {
        if (!mayGoOn()) return;
        const start = Math.max(end, extent.start);
        const length = Math.min(MERGE_HOLE_BYTES, extent.end - start);
        const status = await answer((done) => file.punchHole(start, length, done));
        if (status < 0) break;
        extent = file.dataAfter(start + length);
      }
      file.truncateNow(end);
    } catch {
      // Only its space is not given back yet.
    }
  }

  private maps(): MergeMaps {
    const { host, pair } = this;
    const lower = host.metadata.state.layers.get(pair.direction === 'up' ? pair.from : pair.into);
    assert(lower, 'layers that merge exist');
    const { direction } = pair;
    return {
      from: this.from.map,
      into: this.into.map,
      direction,
      base: !hasBelow(host.metadata.state, lower),
    };
  }

  private async sync(): Promise<MergeFault | null> {
    const { file } = this.into;
    const status = await answer((done) => file.datasync(done));
    if (status >= 0) return null;
    this.host.syncFailed(-status, file);
    return { errno: -status, what: `${file.path} could not be synced`, final: true };
  }

  private async record(pieces: readonly MergePiece[]): Promise<MergeFault | null> {
    const { from, into } = this;
    const maps = this.maps();
    const taken = new BlockSet(into.map.blockCount);
    for (const piece of pieces) {
      const { first, count } = piece;
      if (into.map.set(first, count, mergedState(maps, piece))) taken.add(first, count);
    }
    await this.append(into, taken);
    if (maps.direction === 'down') {
      const left = new BlockSet(from.map.blockCount);
      for (const { first, count } of pieces) {
        if (from.map.set(first, count, BlockState.ABSENT)) left.add(first, count);
      }
      // After the records of `into`: a log that ends between them has the blocks twice, never not at all.
      await this.append(from, left);
    }
    return this.commit();
  }

  private async append({ id, map }: MergeLayer, changed: BlockSet): Promise<void> {
    let appended = 0;
    for (const record of recordsOfMap(id, map, changed)) {
      this.host.metadata.append(record);
      appended += 1;
      if (appended % MERGE_RECORDS_PER_TURN === 0) {
        await new Promise<void>((resolve) => {
          this.clock.soon(resolve);
        });
      }
    }
  }

  private async commit(): Promise<MergeFault | null> {
    const status = await answer((done) => this.host.metadata.commit(done, true));
    if (status === Status.OK) return null;
    return { errno: status, what: 'the metadata log could not be written' };
  }
}
