/**
 * The part of the metadata reducer that keeps the history of generations and the reserve of epochs.
 *
 * Invariants:
 * - Numbers of generations rise and their first epochs never fall; no two have the same id. Of more than
 *   GENERATIONS_MAX the oldest are forgotten.
 * - The reserve never falls, and every epoch before the first of a generation belongs to it.
 * - What was fenced stays so until it opens a generation of its own, or becomes a secondary.
 */
import { createHash } from 'node:crypto';
import { GENERATIONS_MAX } from '../../io/limits.ts';
import type { Generation, MetadataRecord } from './records.ts';
import { check } from '../volume-state.ts';
import type { MutableState } from '../volume-state.ts';

type HistoryKind =
  'generation-numbered' | 'history-set' | 'generation-opened' | 'epochs-reserved' | 'fenced';

/** Throws RecordRefused before any change. */
export function foldHistoryRecord(
  state: MutableState,
  record: Extract<MetadataRecord, { kind: HistoryKind }>,
): void {
  switch (record.kind) {
    case 'generation-numbered':
      check(record.generation >= Math.max(1, state.generation), 'a generation never goes back');
      if (record.generation > state.generation) {
        // Such a log knows no epochs either: they began anew with each of its generations.
        setHistory(state, [derivedGeneration(state.id, record.generation)]);
      }
      return;
    case 'history-set':
      setHistory(state, record.generations);
      return;
    case 'generation-opened': {
      const { number, id, firstEpoch } = record;
      const history = [...state.generations, { number, id, firstEpoch }];
      setHistory(state, history.slice(-GENERATIONS_MAX));
      state.reservedEpoch = Math.max(state.reservedEpoch, firstEpoch - 1);
      state.fenced = null;
      state.handover = null;
      return;
    }
    case 'fenced':
      check(state.source === null, 'a secondary takes no writes anyway');
      state.fenced = record.reason;
      return;
    case 'epochs-reserved':
      check(record.epoch >= state.reservedEpoch, 'the reserve of epochs never falls');
      state.reservedEpoch = record.epoch;
  }
}

/** A position in a generation that is not there any more says nothing. Throws RecordRefused before any change. */
export function setHistory(state: MutableState, generations: readonly Generation[]): void {
  checkHistory(generations);
  state.generations = generations;
  state.generation = generations.at(-1)?.number ?? 0;
  const held = state.position?.generation;
  if (!generations.some(({ number }) => number === held)) state.position = null;
  const { rejoin } = state;
  if (rejoin === null || generations.some(({ number }) => number === rejoin.generation)) return;
  state.mirrors.delete(rejoin.mirror);
  state.rejoin = null;
}

/** Throws RecordRefused. */
export function checkHistory(generations: readonly Generation[]): void {
  check(generations.length <= GENERATIONS_MAX, 'there are too many generations');
  const ids = new Set<string>();
  let last: Generation | null = null;
  for (const generation of generations) {
    check(generation.number > (last?.number ?? 0), 'the numbers of generations rise');
    check(generation.firstEpoch >= (last?.firstEpoch ?? 1), 'the first epochs never fall');
    check(!ids.has(generation.id), `generation ${generation.id} stands there twice`);
    ids.add(generation.id);
    last = generation;
  }
}

/** The generation of that number of a volume whose log knows only numbers. The id of a volume is random: so is this one. */
export function derivedGeneration(volumeId: string, number: number): Generation {
  const hash = createHash('sha256').update(`blockferry generation ${volumeId} ${number}`);
  return { number, id: hash.digest('hex').slice(0, 32), firstEpoch: 1 };
}
