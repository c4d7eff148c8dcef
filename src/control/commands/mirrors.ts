/**
 * The mirrors of the volumes of a node, as operators see them: added, removed, paused, resumed, compared anew.
 *
 * Invariant: what a command refuses, it refuses before it changes anything.
 */
import { isLoopback } from '../../io/address.ts';
import { BlockferryError } from '../../io/errors.ts';
import type { Address } from '../../io/network.ts';
import { parseNbdUri, type NbdUri } from '../../nbd/uri/uri.ts';
import type { MirrorPolicy } from '../../replicator/policy/mirror-policy.ts';
import type { NewMirror } from '../../replicator/mirror/mirror-set.ts';
import type { ReplicatedVolume } from '../../replicator/replicated-volume.ts';
import type { VerifyReport } from '../../replicator/status.ts';
import type { CommandRoom } from './command-room.ts';
import type { MirrorAction, VolumeStatus } from '../status.ts';

interface MirrorCommandsOptions {
  readonly room: CommandRoom;
  /** Whether an export at this address is one of our own. */
  readonly isOurs: (address: Address) => boolean;
  readonly show: (volume: string) => VolumeStatus;
  /** The operator said that the network is trusted. */
  readonly insecure: boolean;
}

export class MirrorCommands {
  private readonly room: CommandRoom;
  private readonly isOurs: (address: Address) => boolean;
  private readonly show: (volume: string) => VolumeStatus;
  private readonly insecure: boolean;

  constructor(options: MirrorCommandsOptions) {
    this.room = options.room;
    this.isOurs = options.isOurs;
    this.show = options.show;
    this.insecure = options.insecure;
  }

  /** @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_SECONDARY and the MIRROR_ codes */
  add(volume: string, mirror: NewMirror): Promise<VolumeStatus> {
    return this.room.command(volume, async () => {
      const device = this.primary(volume);
      const uri = parseNbdUri(mirror.uri);
      if (this.isOurs(uri.address)) {
        throw new BlockferryError('MIRROR_SELF', `${uri.text} is an export of this node`);
      }
      this.refuseClear(uri);
      refuseRemote(volume, device);
      await device.addMirror(mirror);
      return this.show(volume);
    });
  }

  /**
   * Bytes a second that are sent to a mirror at most; null: no limit. In force at once.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_SECONDARY, MIRROR_NOT_FOUND
   */
  limit(volume: string, uri: string, bytesPerSecond: number | null): Promise<VolumeStatus> {
    return this.room.command(volume, async () => {
      await this.primary(volume).limitMirror(uri, bytesPerSecond);
      return this.show(volume);
    });
  }

  /**
   * When it is sent what changed, and what it may lag; what is not given stays.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_SECONDARY, MIRROR_NOT_FOUND, USAGE
   */
  set(volume: string, uri: string, policy: Partial<MirrorPolicy>): Promise<VolumeStatus> {
    return this.room.command(volume, async () => {
      await this.primary(volume).setMirror(uri, policy);
      return this.show(volume);
    });
  }

  /**
   * Compares a mirror with its volume. Takes as long as reading both; other commands go on meanwhile.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_SECONDARY, MIRROR_NOT_FOUND, MIRROR_STATE
   */
  async verify(
    volume: string,
    uri: string | null,
    options: { repair: boolean },
  ): Promise<VerifyReport> {
    if (this.room.stopping) throw new BlockferryError('SHUTTING_DOWN', 'the node is stopping');
    const device = this.primary(volume);
    return await device.verifyMirror(uri ?? onlyMirror(volume, device), options);
  }

  /**
   * `uri` may be null when the volume has one mirror.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_SECONDARY, MIRROR_NOT_FOUND, MIRROR_STATE, USAGE
   */
  change(volume: string, action: MirrorAction, uri: string | null): Promise<VolumeStatus> {
    return this.room.command(volume, async () => {
      const device = this.primary(volume);
      const mirror = uri ?? onlyMirror(volume, device);
      switch (action) {
        case 'remove':
          await device.removeMirror(mirror);
          break;
        case 'pause':
          await device.pauseMirror(mirror);
          break;
        case 'resume':
          await device.resumeMirror(mirror);
          break;
        case 'resync':
          await device.resyncMirror(mirror);
          break;
        case 'sync':
          await device.syncMirror(mirror);
          break;
      }
      return this.show(volume);
    });
  }

  /** Whoever is on the way would read and change everything. */
  private refuseClear({ address, tls, text }: NbdUri): void {
    if (this.insecure || tls !== null || isLoopback(address)) return;
    const message = `${text} is reached in clear, and is not on this machine`;
    throw new BlockferryError('MIRROR_INSECURE', message);
  }

  private primary(volume: string): ReplicatedVolume {
    return this.room.requirePrimary(volume, 'have mirrors of its own');
  }
}

function onlyMirror(volume: string, device: ReplicatedVolume): string {
  const [only, ...others] = device.mirrorStatuses();
  if (only === undefined) {
    throw new BlockferryError('MIRROR_NOT_FOUND', `volume ${volume} has no mirror`);
  }
  if (others.length > 0) {
    throw new BlockferryError(
      'USAGE',
      `volume ${volume} has ${others.length + 1} mirrors: say which`,
    );
  }
  return only.uri;
}

/** What is sent to a mirror is read back where it was applied, at once. */
function refuseRemote(name: string, { volume }: ReplicatedVolume): void {
  if (volume.canReadNow) return;
  const message = `volume ${name} lies on an export of another server, and cannot have mirrors`;
  throw new BlockferryError('CONTAINER_REMOTE', message);
}
