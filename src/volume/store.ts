/** All volumes of a data directory. */
import type { Clock } from '../io/clock.ts';
import type { Disk } from '../io/disk.ts';
import type { Random } from '../io/random.ts';
import type { Volume } from './volume.ts';

export interface StoreOptions {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly random: Random;
  readonly path: string;
}

export interface DamagedVolume {
  readonly id: string;
  readonly reason: string;
}

export class VolumeStore {
  readonly damaged: readonly DamagedVolume[] = [];

  static open(_options: StoreOptions): VolumeStore {
    throw new Error('not written yet');
  }

  list(): Volume[] {
    throw new Error('not written yet');
  }

  find(_name: string): Volume | null {
    throw new Error('not written yet');
  }

  create(_name: string, _sizeBytes: number): Promise<Volume> {
    throw new Error('not written yet');
  }

  delete(_volume: Volume): Promise<void> {
    throw new Error('not written yet');
  }

  close(): Promise<void> {
    throw new Error('not written yet');
  }
}
