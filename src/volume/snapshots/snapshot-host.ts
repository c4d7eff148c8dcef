/** What a volume lends to operations on its layers. */
import type { Clock } from '../../io/clock.ts';
import type { Random } from '../../io/random.ts';
import type { Changes } from '../changes.ts';
import type { LayerSet } from '../layers/layer-set.ts';
import type { Metadata } from '../log/metadata.ts';

export interface SnapshotHost {
  readonly name: string;
  readonly layers: LayerSet;
  readonly changes: Changes;
  readonly metadata: Metadata;
  readonly clock: Clock;
  readonly random: Random;
  /** Runs one operation at a time. Throws SHUTTING_DOWN when the volume closes, METADATA_WRITE_FAILED while a journal is kept. */
  exclusive<Result>(run: () => Promise<Result>): Promise<Result>;
  until(ready: () => boolean): Promise<void>;
  flushed(): Promise<number>;
  /** `frees`: space comes of it, so what is kept back for that may be used. */
  commit(frees?: boolean): Promise<number>;
  /** Throws VOLUME_FAILED. */
  refuseIfFailed(): void;
  noticeIdle(): void;
  /** Names of the volumes that are clones of a snapshot, by its id. */
  clonesOf(snapshot: string): readonly string[];
}
