/** One volume's metadata: the folded state, and the log that makes it durable. */
import type { VolumeState } from './metadata-state.ts';
import type { MetadataRecord } from './records.ts';

export type { LayerRecord, MirrorRecord, VolumeState } from './metadata-state.ts';

export class Metadata {
  /** What the records appended so far fold to. Read it, never change it. */
  readonly state: VolumeState;
  /** The log had no clean mark when it was opened. */
  readonly unclean: boolean;

  constructor(state: VolumeState, unclean: boolean) {
    this.state = state;
    this.unclean = unclean;
  }

  /** Folds the record at once and buffers its bytes for the next commit. */
  append(_record: MetadataRecord): void {
    throw new Error('not written yet');
  }

  /** Makes every record appended before durable; 0 or a positive errno, never before it returned. */
  commit(_callback: (status: number) => void): void {
    throw new Error('not written yet');
  }
}
