/** Ways to break what only some histories have (draw-features.ts). */
import { Status } from '../../../src/io/device.ts';
import { Fence } from '../../../src/replicator/changes/fence.ts';
import { Handover } from '../../../src/replicator/failover/handover.ts';
import { PrimarySnapshots } from '../../../src/replicator/intake/primary-snapshots.ts';
import { FrameCompressor } from '../../../src/replicator/link/frame-compressor.ts';
import { Mirror } from '../../../src/replicator/mirror/mirror.ts';
import { SharedLimit } from '../../../src/replicator/pace/shared-limit.ts';
import { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import type { Refusal } from '../../../src/volume/refusals.ts';
import { Volume } from '../../../src/volume/volume.ts';
import type { Packed } from '../../../src/workers/compressor.ts';
import { replace } from '../mutations.ts';
import type { FerryMutation } from './mutations.ts';

interface Compressing {
  goOn(entry: { readonly sent: (() => void) | null }, packed: Packed | null): void;
}

interface Guarding {
  readonly volume: { readonly metadata: { readonly state: { refuses: readonly Refusal[] } } };
  guarded(...args: unknown[]): Promise<string | null>;
}

export const FEATURE_MUTATIONS: readonly FerryMutation[] = [
  {
    name: 'a payload that does not shrink is not sent',
    patch: () =>
      replace(FrameCompressor.prototype as unknown as Compressing, 'goOn', (original) => {
        return function goOn(this: Compressing, ...args: Parameters<Compressing['goOn']>) {
          const [entry, packed] = args;
          if (packed?.bytes === null) entry.sent?.();
          else original.call(this, ...args);
        };
      }),
  },
  {
    name: 'a schedule has no further run when the host wrote',
    patch: () =>
      replace(Mirror.prototype as unknown as { lookAtSchedule(): void }, 'lookAtSchedule', () => {
        return function lookAtSchedule() {};
      }),
  },
  {
    name: 'who once waits for the limit of the node waits for ever',
    patch: () => {
      const waiting = new WeakSet<object>();
      return replace(SharedLimit.prototype, 'waitMs', (original) => {
        return function waitMs(this: SharedLimit, ...args: never[]) {
          const [sharer] = args as unknown as Parameters<SharedLimit['waitMs']>;
          const ms = original.call(this, ...args) as number;
          if (ms > 0) waiting.add(sharer);
          return waiting.has(sharer) ? Math.max(ms, 1000) : ms;
        };
      });
    },
  },
  {
    name: 'the policy of a mirror keeps no snapshots',
    patch: () =>
      replace(PrimarySnapshots.prototype as unknown as Guarding, 'guarded', (original) => {
        return function guarded(this: Guarding, ...args: never[]) {
          const { state } = this.volume.metadata;
          const { refuses } = state;
          state.refuses = [];
          const result = original.call(this, ...args);
          state.refuses = refuses;
          return result;
        };
      }),
  },
  {
    name: 'a primary goes on while it gives its writes away',
    patch: () =>
      replace(Fence.prototype, 'pause', () => {
        return function pause() {};
      }),
  },
  {
    name: 'who took over the writes is not known by the id of its generation',
    patch: () =>
      replace(Handover.prototype, 'learned', () => {
        return function learned() {
          return false;
        };
      }),
  },
  {
    name: 'a record that the log has no room for counts as made',
    from: 700,
    patch: () =>
      replace(Volume.prototype, 'commit', (original) => {
        return async function commit(this: Volume, ...args: never[]) {
          const status = await (original.call(this, ...args) as Promise<number>);
          return status === Status.ENOSPC ? Status.OK : status;
        };
      }),
  },
  {
    name: 'a host whose volume found the disk full once writes no more',
    from: 3700,
    patch: () => {
      const full = new WeakSet<Volume>();
      const noticing = replace(Volume.prototype, 'write', (original) => {
        return function write(this: Volume, ...args: never[]) {
          const status = original.call(this, ...args) as number;
          if (status === Status.ENOSPC) full.add(this);
          return status;
        };
      });
      const refusing = replace(ReplicatedVolume.prototype, 'write', (original) => {
        return function write(this: ReplicatedVolume, ...args: never[]) {
          return full.has(this.volume) ? Status.ENOSPC : (original.call(this, ...args) as number);
        };
      });
      return () => {
        refusing();
        noticing();
      };
    },
  },
];
