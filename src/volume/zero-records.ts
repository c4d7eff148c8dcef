/**
 * What the log is told of zeroes above other layers, where the file shows nothing of them.
 *
 * Invariants:
 * - Of a piece that the log has ahead of the map, every flush tells the log again, until the map has it.
 * - What the log was told and did not come true is told anew, by the flush that follows or at once.
 */
import assert from 'node:assert';
import { BLOCK_BYTES } from '../io/limits.ts';
import type { View } from './layers/view.ts';
import type { Metadata } from './log/metadata.ts';
import { BlockState } from './maps/layer-map.ts';
import type { Operation } from './operation-queue.ts';
import type { AllocatedRecord } from './recorded-zeroes.ts';

export class ZeroRecords {
  /** Operations with a piece that the log has, and the map has not. */
  private readonly ahead = new Set<Operation>();
  private readonly view: View;
  private readonly metadata: Metadata;
  private readonly recorded: (record: AllocatedRecord) => void;

  /** `recorded` is told of what was appended. */
  constructor(options: {
    view: View;
    metadata: Metadata;
    recorded: (record: AllocatedRecord) => void;
  }) {
    this.view = options.view;
    this.metadata = options.metadata;
    this.recorded = options.recorded;
  }

  /** Tells of the zeroes that the log has, and the map has not. */
  eachAhead(visit: (record: AllocatedRecord) => void): void {
    for (const operation of this.ahead) visit(this.recordOf(operation));
  }

  /**
   * Has `record` tell the log of what a flush covers, beneath zeroes that it has ahead of the map: a request that leaves all as it was
   * takes back to that, and not to what was before the flush.
   */
  beneathAhead(record: () => void): void {
    if (this.ahead.size === 0) return record();
    const probes = [...this.ahead].filter(
      (each) => each.pieceEnd - each.pieceStart === BLOCK_BYTES,
    );
    for (const probe of probes) this.metadata.append(this.recordOf(probe, probe.recordedBefore));
    record();
    for (const probe of probes) {
      probe.recordedBefore = this.recordedState(probe.pieceStart);
      this.metadata.append(this.recordOf(probe));
    }
  }

  /** Appends the zeroes of the piece on its way. */
  add(operation: Operation): void {
    this.append(this.recordOf(operation));
  }

  /** Appends them before the disk has them, and before the map. */
  addAhead(operation: Operation): void {
    operation.recorded = true;
    operation.recordedBefore = this.recordedState(operation.pieceStart);
    this.ahead.add(operation);
    this.add(operation);
  }

  /** The map says what became of the piece. */
  isMapped(operation: Operation): void {
    operation.recorded = false;
    this.ahead.delete(operation);
  }

  /** The log has to say again what it said of the one block of a piece, before the answer: nothing was to be changed. */
  takeBack(operation: Operation): void {
    const { pieceStart, recordedBefore } = operation;
    // A flush may have told it meanwhile.
    if (this.recordedState(pieceStart) !== BlockState.ZERO) return;
    const { id: layer } = this.view.top;
    const first = pieceStart / BLOCK_BYTES;
    this.append({ kind: 'allocated', layer, first, count: 1, state: recordedBefore });
    operation.holed = true;
  }

  /** What the log was told of a piece did not come true: the next flush tells it what is. */
  again({ pieceStart, pieceEnd }: Operation): void {
    const first = pieceStart / BLOCK_BYTES;
    this.view.top.forgetRecordsOf(first, pieceEnd / BLOCK_BYTES - first);
  }

  private recordOf(
    { pieceStart, pieceEnd }: Operation,
    state: BlockState = BlockState.ZERO,
  ): AllocatedRecord {
    const first = pieceStart / BLOCK_BYTES;
    const count = pieceEnd / BLOCK_BYTES - first;
    return { kind: 'allocated', layer: this.view.top.id, first, count, state };
  }

  private append(record: AllocatedRecord): void {
    this.metadata.append(record);
    this.recorded(record);
  }

  /** What the log says of the block at a byte of the top layer. */
  private recordedState(offset: number): BlockState {
    const record = this.metadata.state.layers.get(this.view.top.id);
    assert(record, 'the top is in the log');
    return record.map.stateOf(offset / BLOCK_BYTES);
  }
}
