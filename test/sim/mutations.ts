/**
 * Ways to break the code, each by hand of a prototype or of the disk, for as long as a test lasts. They say what the
 * histories are good for: a mutation that nobody notices is a check that is missing.
 */
import type { Disk, DiskCallback, DiskFile } from '../../src/io/disk.ts';
import { DeviceRequest, PENDING } from '../../src/io/device.ts';
import { Changes } from '../../src/volume/changes.ts';
import { Flusher, type FlushWaiter } from '../../src/volume/flusher.ts';
import { Layer } from '../../src/volume/layers/layer.ts';
import { LayerMap, BlockState } from '../../src/volume/maps/layer-map.ts';
import { LayerSet } from '../../src/volume/layers/layer-set.ts';
import type { MergePair } from '../../src/volume/layers/layer-tree.ts';
import { OwnerCache } from '../../src/volume/layers/owner-cache.ts';
import { RecordBuffer } from '../../src/volume/log/metadata-log.ts';
import { SnapshotCatalog } from '../../src/volume/snapshots/snapshot-catalog.ts';
import { SnapshotSteps } from '../../src/volume/snapshots/snapshot-steps.ts';
import { LayerMerge } from '../../src/volume/merge/layer-merge.ts';
import { Volume } from '../../src/volume/volume.ts';
import type { MetadataRecord } from '../../src/volume/log/records.ts';
import type { SimDisk } from './sim-disk.ts';

export interface Mutation {
  readonly name: string;
  /** Breaks the code; the result mends it. */
  readonly patch?: () => () => void;
  readonly wrapDisk?: (disk: SimDisk) => Disk;
}

type Method = (...args: never[]) => unknown;

/** Puts another method in place of one, until it is put back. */
export function replace<Owner extends object>(
  owner: Owner,
  name: string,
  make: (original: (...args: unknown[]) => unknown) => (this: Owner, ...args: never[]) => unknown,
): () => void {
  const methods = owner as Record<string, Method>;
  const original = methods[name];
  if (original === undefined) throw new Error(`there is no method ${name} to break`);
  methods[name] = make(original as (...args: unknown[]) => unknown);
  return () => {
    methods[name] = original;
  };
}

/** A disk that does something else with some files when they are opened. */
function onOpen(change: (file: DiskFile, path: string) => void): (disk: SimDisk) => Disk {
  return (disk) => {
    const open = disk.open.bind(disk);
    disk.open = (path, options) => {
      const file = open(path, options);
      change(file, path);
      return file;
    };
    return disk;
  };
}

const isData = (path: string): boolean => path.endsWith('.data');

function lieAboutSyncs(matches: (path: string) => boolean): (disk: SimDisk) => Disk {
  return (disk) =>
    onOpen((file, path) => {
      if (matches(path)) file.datasync = (callback: DiskCallback) => disk.later(() => 0, callback);
    })(disk);
}

export const MUTATIONS: readonly Mutation[] = [
  {
    name: 'the data is not synced before its records',
    // That of a volume that is being made is: else nothing more is seen than that.
    wrapDisk: lieAboutSyncs((path) => isData(path) && !path.includes('creating-')),
  },
  {
    name: 'the log is not synced',
    wrapDisk: lieAboutSyncs((path) => path.includes('metadata.log')),
  },
  {
    name: 'a flush is answered before its sync',
    // The volume's own flushes are left alone: its close waits for what they do.
    patch: () =>
      replace(Flusher.prototype, 'flush', (original) => {
        return function flush(this: Flusher, waiter: FlushWaiter) {
          if (!(waiter instanceof DeviceRequest)) return original.call(this, waiter);
          original.call(this, { complete: () => {} });
          return 0;
        };
      }),
  },
  {
    name: 'the entry of a new layer is not durable',
    wrapDisk: (disk) => {
      disk.syncDirectoryLater = (_path, callback) => disk.later(() => 0, callback);
      return disk;
    },
  },
  {
    name: 'zeroes over another layer are not marked',
    patch: () =>
      replace(LayerMap.prototype, 'set', (original) => {
        return function set(this: LayerMap, first: number, count: number, state: BlockState) {
          const told = state === BlockState.ZERO ? BlockState.ABSENT : state;
          return original.call(this, first, count, told);
        };
      }),
  },
  {
    name: 'the edges of a first write to a block are lost',
    wrapDisk: (disk) => {
      // A block that is copied up is read from the layer below: those reads bring zeroes.
      return onOpen((file, path) => {
        if (!isData(path)) return;
        const write = file.write.bind(file);
        file.write = (buffer, start, length, position, callback) => {
          const copy = Buffer.from(buffer.subarray(start, start + length));
          if (length === 4096 && !path.endsWith('00000001.data')) copy.fill(0, length - 64);
          write(copy, 0, length, position, callback);
        };
      })(disk);
    },
  },
  {
    name: 'the records of a layer are dropped',
    patch: () =>
      replace(Layer.prototype, 'takeChanges', (original) => {
        return function takeChanges(this: Layer, limit: number) {
          original.call(this, limit);
          return [];
        };
      }),
  },
  {
    name: 'extents are believed after a power cut',
    wrapDisk: (disk) => {
      Object.defineProperty(disk, 'bootId', { value: 'ab'.repeat(16) });
      return disk;
    },
  },
  {
    name: 'extents are not believed after a kill',
    patch: () => replace(Layer.prototype, 'recover', () => () => {}),
  },
  {
    name: 'two records are swapped: a snapshot is recorded before its layer is sealed',
    patch: () => {
      const held = new WeakMap<RecordBuffer, MetadataRecord>();
      return replace(RecordBuffer.prototype, 'append', (original) => {
        return function append(this: RecordBuffer, record: MetadataRecord) {
          if (record.kind === 'layer-sealed' && !held.has(this)) {
            held.set(this, record);
            return;
          }
          original.call(this, record);
          const late = held.get(this);
          held.delete(this);
          if (late !== undefined) original.call(this, late);
        };
      });
    },
  },
  {
    name: 'a merge takes the wrong one of two blocks',
    patch: () =>
      replace(LayerSet.prototype, 'merged', (original) => {
        return function merged(this: LayerSet, from: number, into: number) {
          const gone = this.layerOf(from);
          const kept = this.layerOf(into);
          const run = gone.map.data.nextRun(0, 1);
          if (run !== null) kept.map.set(run.first, 1, BlockState.ZERO);
          return original.call(this, from, into);
        };
      }),
  },
  {
    name: 'a snapshot takes the layer below the one that it should',
    patch: () =>
      replace(SnapshotSteps.prototype, 'split', (original) => {
        return function split(this: SnapshotSteps, ...args: unknown[]) {
          const frozen = original.call(this, ...args) as Layer;
          return frozen.parent?.sealed === true ? frozen.parent : frozen;
        };
      }),
  },
  {
    name: 'a flush joins the sync that is on its way, whatever was written since',
    patch: () =>
      replace(Flusher.prototype, 'flush', (original) => {
        return function flush(this: Flusher, waiter: FlushWaiter) {
          const { begun } = this as unknown as { begun: { waiters: FlushWaiter[] }[] };
          const last = begun.at(-1);
          if (last === undefined || !(waiter instanceof DeviceRequest)) {
            return original.call(this, waiter);
          }
          last.waiters.push(waiter);
          return PENDING;
        };
      }),
  },
  {
    name: 'a merge goes in the wrong direction',
    patch: () =>
      replace(Volume.prototype, 'mergeable', (original) => {
        return function mergeable(this: Volume) {
          const pairs = original.call(this) as MergePair[];
          return pairs.map((pair) => ({
            ...pair,
            direction: pair.direction === 'up' ? 'down' : 'up',
          }));
        };
      }),
  },
  {
    name: 'a merge lets go of the upper blocks before the lower ones are written',
    patch: () =>
      replace(LayerMerge.prototype, 'settle', (original) => {
        return function settle(this: LayerMerge) {
          const own = this as unknown as { batch: { bytes: number } };
          // Nothing was copied, so nothing has to be synced.
          own.batch.bytes = 0;
          return original.call(this);
        };
      }),
  },
  {
    name: 'a layer is sealed and recorded before it is durable',
    patch: () => {
      const mend = replace(SnapshotSteps.prototype, 'durable', () => () => Promise.resolve());
      const mendSeal = replace(Layer.prototype, 'seal', () => {
        return function seal(this: Layer, map: LayerMap) {
          this.sealed = true;
          this.map = map;
        };
      });
      return () => {
        mend();
        mendSeal();
      };
    },
  },
  {
    name: 'what a volume grows by is not marked zero',
    patch: () =>
      replace(Layer.prototype, 'resize', (original) => {
        return function resize(this: Layer, sizeBytes: number) {
          const before = this.map.blockCount;
          original.call(this, sizeBytes);
          const grown = this.map.blockCount - before;
          if (grown > 0) this.map.set(before, grown, BlockState.ABSENT);
          this.shownBy?.look(this);
        };
      }),
  },
  {
    name: 'an owner cache keeps what it knew',
    patch: () => replace(OwnerCache.prototype, 'changed', () => () => {}),
  },
  {
    name: 'a snapshot that a clone reads through may go',
    patch: () => replace(SnapshotCatalog.prototype, 'refuseCloned', () => () => {}),
  },
  {
    name: 'the entry of a new volume is not durable',
    wrapDisk: (disk) => {
      const sync = disk.syncDirectory.bind(disk);
      disk.syncDirectory = (path) => {
        if (!path.endsWith('/volumes')) sync(path);
      };
      return disk;
    },
  },
  {
    name: 'a top is written while the log hears that it goes',
    patch: () => replace(Changes.prototype, 'switching', () => () => {}),
  },
  {
    name: 'a layer takes writes again whatever a merge, or a power cut, left in its file',
    patch: () => {
      const mend = replace(Layer.prototype, 'distrust', () => () => {});
      const mendBegin = replace(Layer.prototype, 'mergeBegins', () => () => {});
      return () => {
        mend();
        mendBegin();
      };
    },
  },
  {
    name: 'coarse extents are believed',
    wrapDisk: onOpen((file, path) => {
      if (!path.endsWith('/extents')) return;
      const start = 4 * 1024 * 1024;
      file.dataAfter = (position) => (position === 0 ? { start, end: start + 4096 } : null);
    }),
  },
];
