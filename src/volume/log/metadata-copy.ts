/**
 * The part of the metadata reducer that keeps what a secondary is: its source, its position, the delta run that it receives.
 *
 * Invariants:
 * - Only a secondary has a position or a run, and its position lies in a generation of its history.
 * - Outside of a run a position never goes back. A run that is committed brings its position and its history at once.
 * - A copy that rejoins has marks of what may differ, until a run is committed.
 * - What it refuses its primary stays over all changes of its role.
 * - A journal is kept for a layer that has something below it; that layer stays as long.
 * - A volume in the middle of a run does not leave its source: its content is no state that the primary had.
 */
import { check, hasBelow, layerOf } from '../volume-state.ts';
import type { CopyPosition, MutableState, RunRecord } from '../volume-state.ts';
import { checkHistory, setHistory } from './metadata-history.ts';
import type { Generation, MetadataRecord, RunClosed, RunOpened } from './records.ts';

type CopyKind =
  | 'source-bound'
  | 'source-cleared'
  | 'source-policy'
  | 'position'
  | 'rejoining'
  | 'journal-kept'
  | 'journal-released'
  | 'run-opened'
  | 'run-marked'
  | 'run-closed';

/** Throws RecordRefused before any change. */
export function foldCopyRecord(
  state: MutableState,
  record: Extract<MetadataRecord, { kind: CopyKind }>,
): void {
  if (record.kind === 'source-bound') {
    state.source = { node: record.node, volumeId: record.volumeId };
    state.fenced = null;
    state.handover = null;
    return;
  }
  if (record.kind === 'source-policy') {
    state.refuses = [...record.refuses];
    return;
  }
  if (record.kind === 'journal-kept') {
    const { layer, generation, after, last } = record;
    check(hasBelow(state, layerOf(state, layer)), `nothing is below layer ${layer}`);
    check(after <= last, 'a journal goes on behind what is durable');
    state.kept = { layer, generation, after, last };
    return;
  }
  if (record.kind === 'journal-released') {
    state.kept = null;
    return;
  }
  check(state.source !== null, 'the volume is no secondary');
  switch (record.kind) {
    case 'source-cleared':
      check(state.run === null, 'a delta run is not over');
      state.reservedEpoch = Math.max(state.reservedEpoch, state.position?.epoch ?? 0);
      state.position = null;
      state.source = null;
      endRejoin(state);
      keepSnapshots(state);
      return;
    case 'position': {
      const { generation, epoch, time } = record;
      checkPosition(state.generations, record);
      check(state.run !== null || !isBefore(record, state.position), 'a position never goes back');
      state.position = { generation, epoch, time };
      return;
    }
    case 'rejoining': {
      const { mirror, generation, epoch } = record;
      check(state.mirrors.has(mirror), `mirror ${mirror} is unknown`);
      checkPosition(state.generations, record);
      state.rejoin = { mirror, generation, epoch };
      return;
    }
    case 'run-opened':
      openRun(state, record);
      return;
    case 'run-marked': {
      const run = runOf(state, record.run);
      check(record.cursor >= run.cursor, 'the cursor of a run never goes back');
      check(record.cursor <= state.sizeBytes, 'the cursor of a run is past the end');
      state.run = { ...run, cursor: record.cursor };
      return;
    }
    case 'run-closed':
      closeRun(state, record);
  }
}

/** What came from a primary is the volume's own from now on. */
function keepSnapshots(state: MutableState): void {
  for (const [id, { mark, ...snapshot }] of state.snapshots) {
    if (mark?.shipped !== true) continue;
    state.snapshots.set(id, { ...snapshot, mark: { ...mark, shipped: false } });
  }
}

function openRun(state: MutableState, record: RunOpened): void {
  const { run, generation, epoch, time, generations, base, full } = record;
  check(state.run === null, 'another delta run is not over');
  check(state.snapshots.has(base), `snapshot ${base} is unknown`);
  checkHistory(generations);
  checkPosition(generations, record);
  state.run = { run, generation, epoch, time, generations, base, full, cursor: 0 };
}

function closeRun(state: MutableState, { run: id, committed }: RunClosed): void {
  const { generation, epoch, time, generations } = runOf(state, id);
  if (committed) {
    setHistory(state, generations);
    state.position = { generation, epoch, time };
    endRejoin(state);
  }
  state.run = null;
}

/** It holds what its primary held, or takes writes: what may differ means nothing any more. */
function endRejoin(state: MutableState): void {
  if (state.rejoin !== null) state.mirrors.delete(state.rejoin.mirror);
  state.rejoin = null;
}

function runOf(state: MutableState, id: string): RunRecord {
  check(state.run?.run === id, `the delta run ${id} is unknown`);
  return state.run;
}

function checkPosition(generations: readonly Generation[], { generation }: CopyPosition): void {
  const known = generations.some(({ number }) => number === generation);
  check(known, `generation ${generation} is not in the history`);
}

/** Whether one position lies before the other in the order of generations and epochs. */
export function isBefore(one: CopyPosition, other: CopyPosition | null): boolean {
  if (other === null) return false;
  if (one.generation !== other.generation) return one.generation < other.generation;
  return one.epoch < other.epoch;
}
