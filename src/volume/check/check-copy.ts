/**
 * The history of a volume and what it holds as a secondary, under a check. Pure. The fold refuses all of this; see
 * check-tree.ts for why it is looked for again.
 */
import { errorText } from '../../io/errors.ts';
import { checkHistory } from '../log/metadata-history.ts';
import type { VolumeState } from '../log/metadata-state.ts';
import type { Generation } from '../log/records.ts';
import { finding } from './check-finding.ts';
import type { Finding, Place } from './check-finding.ts';

export function checkCopy(state: VolumeState, log: Place): Finding[] {
  const { generations, position, run, source } = state;
  const findings: Finding[] = [...historyFindings('the history', generations, log)];
  const add = (what: string): void => void findings.push(finding('position-wrong', log, what));
  if (source === null && (position !== null || run !== null)) {
    add('the volume is no secondary, but holds what one has');
  }
  if (position !== null && !knows(generations, position.generation)) {
    add(`the position lies in generation ${position.generation}, which is not in the history`);
  }
  if (run === null) return findings;
  findings.push(...historyFindings('the history of the delta run', run.generations, log));
  if (!knows(run.generations, run.generation)) {
    add(`the delta run leads to generation ${run.generation}, which is not in its history`);
  }
  if (run.cursor > state.sizeBytes) {
    add(`the delta run came to byte ${run.cursor}, past the end of the volume`);
  }
  if (!state.snapshots.has(run.base)) {
    const what = `the delta run ${run.run} is not over, but its base ${run.base} is not there`;
    findings.push(finding('run-base-missing', log, what));
  }
  return findings;
}

function knows(generations: readonly Generation[], wanted: number): boolean {
  return generations.some(({ number }) => number === wanted);
}

function historyFindings(shown: string, generations: readonly Generation[], log: Place): Finding[] {
  try {
    checkHistory(generations);
    return [];
  } catch (thrown) {
    return [finding('history-wrong', log, `${shown}: ${errorText(thrown)}`)];
  }
}
