/** A volume of a node in the role that it has, as the daemon sees it. */
import type { BlockDevice } from '../io/device.ts';
import type { Volume } from '../volume/volume.ts';
import type { MirrorStatus, Position, SourceStatus } from './status.ts';

export type Role = 'standalone' | 'primary' | 'secondary';

export interface HostedVolume extends BlockDevice {
  readonly volume: Volume;
  readonly role: Role;
  /** Takes up its work. Called once, before the first request. */
  start(): void;
  position(): Position;
  /** Empty on a secondary. */
  mirrorStatuses(): MirrorStatus[];
  /** What a secondary receives from; null in the other roles. */
  sourceStatus(): SourceStatus | null;
  /** Ends links and replication within a bound. The volume stays open. */
  close(): Promise<void>;
}
