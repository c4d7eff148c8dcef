/**
 * Ways to break the ferry, each by hand of a prototype or of a disk, for as long as a test lasts. They say what the histories
 * are good for: a mutation that nobody notices is a check that is missing.
 */
import type { DeviceRequest } from '../../../src/io/device.ts';
import type { DiskCallback } from '../../../src/io/disk.ts';
import { DeltaIntake } from '../../../src/replicator/intake/delta-intake.ts';
import { EpochAssembly } from '../../../src/replicator/intake/epoch-assembly.ts';
import { EpochIntake } from '../../../src/replicator/intake/epoch-intake.ts';
import { Journal } from '../../../src/replicator/intake/journal.ts';
import { ReadGate } from '../../../src/replicator/intake/read-gate.ts';
import { Epoch } from '../../../src/replicator/staging/epoch.ts';
import type { FrameHeader } from '../../../src/replicator/link/link-types.ts';
import type { StreamCommand } from '../../../src/replicator/link/messages.ts';
import { MirrorBlocks } from '../../../src/replicator/mirror/mirror-blocks.ts';
import { Mirror } from '../../../src/replicator/mirror/mirror.ts';
import { PeerSender } from '../../../src/replicator/contact/peer-sender.ts';
import { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import { SnapshotRounds } from '../../../src/replicator/contact/snapshot-rounds.ts';
import { StagingQueue } from '../../../src/replicator/staging/staging-queue.ts';
import { BlockSet } from '../../../src/volume/maps/block-set.ts';
import { Metadata } from '../../../src/volume/log/metadata.ts';
import type { MetadataRecord } from '../../../src/volume/log/records.ts';
import { Snapshots } from '../../../src/volume/snapshots/snapshots.ts';
import { Volume } from '../../../src/volume/volume.ts';
import { replace } from '../mutations.ts';
import { FEATURE_MUTATIONS } from './feature-mutations.ts';
import type { WrapDisk } from './player.ts';

export interface FerryMutation {
  readonly name: string;
  /** Breaks the code; the result mends it. */
  readonly patch?: () => () => void;
  readonly wrapDisk?: WrapDisk;
  /** Only who reads a mirror often can notice. */
  readonly isOfReads?: boolean;
  /** The first history that is played, 1 if not given: of what needs a rare moment, so that it comes soon. */
  readonly from?: number;
}

/** Records of a kind are not written. */
function dropRecords(kind: MetadataRecord['kind']): () => void {
  return replace(Metadata.prototype, 'append', (original) => {
    return function append(this: Metadata, record: MetadataRecord) {
      return record.kind === kind ? undefined : original.call(this, record);
    };
  });
}

export const FERRY_MUTATIONS: readonly FerryMutation[] = [
  {
    name: 'an epoch is acknowledged before the sync of the journal',
    wrapDisk: (disk) => {
      const open = disk.open.bind(disk);
      disk.open = (path, options) => {
        const file = open(path, options);
        if (path.includes('/journal-')) {
          file.datasync = (callback: DiskCallback) => disk.later(() => 0, callback);
        }
        return file;
      };
      return disk;
    },
  },
  {
    name: 'a write is folded into an epoch that is closed',
    patch: () => {
      const kept = new WeakMap<Epoch, Map<number, number>>();
      const closing = replace(Epoch.prototype, 'close', (original) => {
        return function close(this: Epoch, ...args: never[]) {
          kept.set(this, new Map((this as unknown as { places: Map<number, number> }).places));
          return original.call(this, ...args);
        };
      });
      const appending = replace(StagingQueue.prototype, 'append', (original) => {
        return function append(
          this: StagingQueue,
          ...args: [number, Buffer, number, number, number]
        ) {
          const [offset, buffer, start, length] = args;
          const last = this.epoch(this.openNumber - 1);
          const place = last === null ? undefined : kept.get(last)?.get(offset / 4096);
          const result = original.call(this, ...args);
          if (last === null || place === undefined || length < 4096) return result;
          (
            last as unknown as { overwrite(place: number, buffer: Buffer, start: number): void }
          ).overwrite(place, buffer, start);
          return result;
        };
      });
      return () => {
        appending();
        closing();
      };
    },
  },
  {
    name: 'a write is folded into what the link took',
    patch: () => replace(Epoch.prototype, 'conflictsWithTaken', () => () => false),
  },
  {
    name: 'a flush does not end an epoch',
    patch: () =>
      replace(StagingQueue.prototype, 'close', (original) => {
        return function close(this: StagingQueue, reason: string) {
          return reason === 'barrier' ? this.openNumber - 1 : original.call(this, reason);
        };
      }),
  },
  {
    name: 'the marks of a delta run that failed are forgotten',
    patch: () =>
      replace(MirrorBlocks.prototype, 'takeBack', () => {
        return function takeBack(this: MirrorBlocks) {
          this.inFlight.clear();
        };
      }),
  },
  {
    name: 'marks are let go of when a delta run begins',
    patch: () =>
      replace(MirrorBlocks.prototype, 'beginRun', (original) => {
        return function beginRun(this: MirrorBlocks) {
          original.call(this);
          this.inFlight.clear();
        };
      }),
  },
  {
    name: 'what was staged is not marked when a mirror leaves the stream',
    patch: () =>
      replace(StagingQueue.prototype, 'leave', (original) => {
        return function leave(this: StagingQueue, follower: unknown) {
          return original.call(this, follower, () => {});
        };
      }),
  },
  {
    name: 'zeroes that were staged are not marked when a mirror leaves the stream',
    patch: () =>
      replace(Epoch.prototype, 'eachRange', () => {
        return function eachRange(this: Epoch, visit: (offset: number, length: number) => void) {
          this.eachPayload(visit);
        };
      }),
  },
  {
    name: 'what has arrived counts as durable',
    patch: () =>
      replace(PeerSender.prototype, 'ack', (original) => {
        return function ack(this: PeerSender, header: FrameHeader) {
          return original.call(this, { ...header, epoch: Math.max(header.epoch, header.index) });
        };
      }),
  },
  {
    name: 'a synchronous reply does not wait',
    patch: () => replace(Mirror.prototype, 'has', () => () => true),
  },
  {
    name: 'an epoch that is not complete is applied',
    patch: () =>
      replace(EpochAssembly.prototype, 'next', (original) => {
        return function next(this: EpochAssembly) {
          type Arriving = { count: number | null; frames: readonly object[] };
          const { arriving } = this as unknown as { arriving: Map<number, Arriving> };
          const first = arriving.get(this.last + 1);
          if (first !== undefined && first.frames.length > 0) first.count ??= first.frames.length;
          return original.call(this);
        };
      }),
  },
  {
    name: 'regions that are written are not recorded',
    patch: () => dropRecords('regions-hot'),
  },
  {
    name: 'regions that were written are not compared after a crash',
    patch: () => replace(MirrorBlocks.prototype, 'suspectRegions', () => () => {}),
  },
  {
    name: 'the marks of a mirror are not recorded',
    patch: () => dropRecords('mirror-bits'),
  },
  {
    name: 'numbers of epochs are used again after a restart',
    patch: () =>
      replace(ReplicatedVolume.prototype, 'start', (original) => {
        return function start(this: ReplicatedVolume) {
          const { open } = this.queue as unknown as { open: Epoch };
          Object.defineProperty(open, 'number', { value: 1 });
          return original.call(this);
        };
      }),
  },
  {
    name: 'a delta run is committed without a flush',
    patch: () => replace(DeltaIntake.prototype, 'flush', () => () => Promise.resolve()),
  },
  {
    name: 'a position is recorded without a flush',
    patch: () => {
      let recording = false;
      const flushing = replace(Volume.prototype, 'flushed', (original) => {
        return function flushed(this: Volume) {
          return recording ? Promise.resolve(0) : original.call(this);
        };
      });
      const record = replace(EpochIntake.prototype, 'record', (original) => {
        return function recordIt(this: EpochIntake) {
          recording = true;
          const result = original.call(this);
          recording = false;
          return result;
        };
      });
      return () => {
        record();
        flushing();
      };
    },
  },
  {
    name: 'a delta run that was given up is not taken back',
    // A promotion in the midst of a run.
    from: 1500,
    patch: () => replace(Snapshots.prototype, 'restoreHidden', () => () => Promise.resolve()),
  },
  {
    name: 'a delta run is shown while it arrives',
    patch: () =>
      replace(DeltaIntake.prototype, 'show', (original) => {
        return function show(this: DeltaIntake) {
          return original.call(this, null);
        };
      }),
  },
  {
    name: 'the journal is replayed one epoch too late',
    patch: () =>
      replace(Journal.prototype, 'replay', (original) => {
        return function replay(this: Journal, after: number) {
          return original.call(this, after + 1);
        };
      }),
  },
  {
    name: 'the journal is not replayed',
    patch: () =>
      replace(Journal.prototype, 'replay', (original) => {
        return function replay(this: Journal) {
          return original.call(this, Number.MAX_SAFE_INTEGER);
        };
      }),
  },
  {
    name: 'a mirror is read while an epoch is applied',
    isOfReads: true,
    patch: () =>
      replace(ReadGate.prototype, 'read', () => {
        return function read(this: ReadGate, request: DeviceRequest) {
          return (this as unknown as { begin: (of: DeviceRequest) => number }).begin(request);
        };
      }),
  },
  {
    name: 'the command for a snapshot is one epoch late',
    patch: () =>
      replace(StagingQueue.prototype, 'closeWithCommand', () => {
        return function closeWithCommand(this: StagingQueue, command: StreamCommand) {
          const number = this.seal();
          (this as unknown as { open: { command: StreamCommand } }).open.command = command;
          return number;
        };
      }),
  },
  {
    name: 'delta runs bring no snapshots',
    patch: () => replace(SnapshotRounds.prototype, 'next', () => () => null),
  },
  {
    name: 'a snapshot that was deleted stays on the mirror',
    patch: () => replace(Snapshots.prototype, 'removeTwin', () => () => Promise.resolve()),
  },
  {
    name: 'every block is found equal',
    patch: () =>
      replace(BlockSet.prototype, 'addAll', () => {
        return function addAll() {};
      }),
  },
  ...FEATURE_MUTATIONS,
];
