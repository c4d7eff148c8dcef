/**
 * The volumes of a node as operators see them: commands, status.
 *
 * Invariants:
 * - Commands on one volume run one at a time; what they refuse, they refuse before they change anything.
 * - A volume that is being deleted is no export any more, and its last session has ended before its
 *   files go.
 * - Nothing begins after `stop`; what began before has ended when `stop` resolves.
 */
import type { BlockDevice } from '../io/device.ts';
import { BlockferryError, errorText } from '../io/errors.ts';
import type { Address } from '../io/network.ts';
import { parseNbdUri } from '../nbd/uri.ts';
import type { ReplicatedVolume } from '../replicator/replicated-volume.ts';
import type { NewMirror } from '../replicator/mirror-set.ts';
import type { EventSink } from '../replicator/status.ts';
import { parseSize, type Volume, type VolumeStore } from '../volume/store.ts';
import { volumeCheckStatus, type VolumeCheckStatus } from './check-status.ts';
import { Serial } from './serial.ts';
import type { MirrorAction, NodeStatus, VolumeAccess, VolumeStatus } from './status.ts';

/** The NBD server: who uses a device now, and who may use a volume. */
export interface Sessions {
  accessOf(name: string): VolumeAccess;
  connectionsOf(device: BlockDevice): number;
  closeSessionsOf(device: BlockDevice): Promise<void>;
}

interface VolumeCommandsOptions {
  readonly node: string;
  readonly store: VolumeStore;
  readonly events: EventSink;
  /** Puts the replicator over a volume. */
  readonly replicate: (volume: Volume) => ReplicatedVolume;
  /** Whether an export at this address is one of our own. */
  readonly isOurs: (address: Address) => boolean;
}

/** Before there is a server. */
const NOBODY: VolumeAccess = Object.freeze({ read_only: false, hidden: false, tls: 'off' });

export class VolumeCommands {
  private readonly node: string;
  private readonly store: VolumeStore;
  private readonly events: EventSink;
  private readonly replicate: (volume: Volume) => ReplicatedVolume;
  private readonly isOurs: (address: Address) => boolean;
  private readonly attached = new Map<string, ReplicatedVolume>();
  private readonly serial = new Serial();
  private sessions: Sessions | null = null;
  private started = false;
  private stopping = false;

  constructor(options: VolumeCommandsOptions) {
    this.node = options.node;
    this.store = options.store;
    this.events = options.events;
    this.replicate = options.replicate;
    this.isOurs = options.isOurs;
    for (const volume of this.store.list()) this.attach(volume);
  }

  /** What there is to export now, by name. */
  get devices(): ReadonlyMap<string, ReplicatedVolume> {
    return this.attached;
  }

  /** The server that exports these volumes. */
  servedBy(sessions: Sessions): void {
    this.sessions = sessions;
  }

  /** Mirrors are sought from now on. */
  start(): void {
    this.started = true;
    for (const device of this.devices.values()) device.start();
  }

  /** Sorted. */
  private names(): string[] {
    return [...this.devices.keys()].toSorted();
  }

  status(): NodeStatus {
    return {
      node: this.node,
      volumes: this.names().map((name) => this.show(name)),
      damaged: this.store.damaged.map(({ id, reason }) => ({ id, reason })),
    };
  }

  /** @throws BlockferryError VOLUME_NOT_FOUND */
  show(name: string): VolumeStatus {
    const device = this.require(name);
    const { volume } = device;
    const mirrors = device.mirrorStatuses();
    const position = device.position();
    return {
      name: volume.name,
      id: volume.id,
      size_bytes: volume.sizeBytes,
      allocated_bytes: volume.allocatedBytes,
      io: volume.io,
      role: mirrors.length > 0 ? 'primary' : 'standalone',
      generation: position.generation,
      position,
      connections: this.sessions?.connectionsOf(device) ?? 0,
      access: this.sessions?.accessOf(name) ?? NOBODY,
      failure: volume.failed ? (volume.failure ?? 'the disk failed') : null,
      mirrors,
    };
  }

  /** Other commands go on meanwhile. @throws BlockferryError VOLUME_NOT_FOUND, BUSY */
  async check(name: string): Promise<VolumeCheckStatus> {
    const { volume } = this.require(name);
    return volumeCheckStatus(volume.id, volume.name, await this.store.check(volume));
  }

  /** @throws BlockferryError VOLUME_NAME_INVALID, SIZE_INVALID, VOLUME_EXISTS, VOLUME_LIMIT */
  create(name: string, size: string): Promise<VolumeStatus> {
    return this.command(name, async () => {
      const volume = await this.store.create(name, parseSize(size));
      this.attach(volume).start();
      this.tell('volume-created', name, `volume ${name} created, ${volume.sizeBytes} bytes`);
      return this.show(volume.name);
    });
  }

  /**
   * Removes a volume and its content. Mirrors keep theirs.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_HAS_MIRRORS, VOLUME_BUSY
   */
  delete(name: string, options: { force: boolean }): Promise<void> {
    return this.command(name, async () => {
      const device = this.require(name);
      if (!options.force) this.refuseUsed(name, device);
      this.attached.delete(name);
      try {
        await this.sessions?.closeSessionsOf(device);
        await device.close();
        await this.store.delete(device.volume);
      } catch (error) {
        this.reattach(name);
        throw error;
      }
      this.tell('volume-deleted', name, `volume ${name} deleted`);
    });
  }

  /**
   * Grows a volume, or with `force` shrinks it. Clients see the new size when they attach again.
   * @throws BlockferryError VOLUME_NOT_FOUND, SIZE_INVALID, SHRINK_NEEDS_FORCE, VOLUME_BUSY,
   *   and what the mirrors refuse
   */
  resize(name: string, size: string, options: { force: boolean }): Promise<VolumeStatus> {
    return this.command(name, async () => {
      const device = this.require(name);
      const bytes = parseSize(size);
      const before = device.volume.sizeBytes;
      if (bytes < before) this.refuseShrink(name, device, bytes, options.force);
      if (bytes !== before) {
        await device.resize(bytes);
        const what = bytes < before ? 'shrunk' : 'grown';
        this.tell(
          'volume-resized',
          name,
          `volume ${name} ${what} from ${before} to ${bytes} bytes`,
        );
      }
      return this.show(name);
    });
  }

  /** @throws BlockferryError VOLUME_NOT_FOUND and the MIRROR_ codes */
  addMirror(name: string, mirror: NewMirror): Promise<VolumeStatus> {
    return this.command(name, async () => {
      const device = this.require(name);
      const { address, text } = parseNbdUri(mirror.uri);
      if (this.isOurs(address)) {
        throw new BlockferryError('MIRROR_SELF', `${text} is an export of this node`);
      }
      await device.addMirror(mirror);
      return this.show(name);
    });
  }

  /**
   * `uri` may be null when the volume has one mirror.
   * @throws BlockferryError VOLUME_NOT_FOUND, MIRROR_NOT_FOUND, MIRROR_STATE, USAGE
   */
  changeMirror(name: string, action: MirrorAction, uri: string | null): Promise<VolumeStatus> {
    return this.command(name, async () => {
      const device = this.require(name);
      const mirror = uri ?? onlyMirror(name, device);
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
      }
      return this.show(name);
    });
  }

  /** Refuses new commands and waits for those under way. */
  async stop(): Promise<void> {
    this.stopping = true;
    await this.serial.idle();
  }

  /** Ships what can be shipped and closes every volume's replicator; tells of those that failed to. */
  async close(): Promise<void> {
    if (!this.started) return;
    const devices = [...this.devices.entries()];
    const results = await Promise.allSettled(devices.map(([, device]) => device.close()));
    for (const [index, result] of results.entries()) {
      const name = devices[index]?.[0] ?? '';
      if (result.status === 'rejected') {
        this.tell('volume-close-failed', name, `volume ${name}: ${errorText(result.reason)}`);
      }
    }
  }

  private command<T>(name: string, run: () => Promise<T>): Promise<T> {
    return this.serial.run(name, async () => {
      if (this.stopping) throw new BlockferryError('SHUTTING_DOWN', 'the node is stopping');
      return await run();
    });
  }

  private require(name: string): ReplicatedVolume {
    const device = this.devices.get(name);
    if (device !== undefined) return device;
    throw new BlockferryError('VOLUME_NOT_FOUND', `there is no volume ${JSON.stringify(name)}`);
  }

  private refuseUsed(name: string, device: ReplicatedVolume): void {
    const mirrors = device.mirrorStatuses().length;
    if (mirrors > 0) {
      throw new BlockferryError(
        'VOLUME_HAS_MIRRORS',
        `volume ${name} has ${counted(mirrors, 'mirror')}`,
      );
    }
    this.refuseClients(name, device);
  }

  private refuseClients(name: string, device: ReplicatedVolume): void {
    const clients = this.sessions?.connectionsOf(device) ?? 0;
    if (clients > 0) {
      throw new BlockferryError(
        'VOLUME_BUSY',
        `volume ${name} is used by ${counted(clients, 'connection')}`,
      );
    }
  }

  private refuseShrink(
    name: string,
    device: ReplicatedVolume,
    bytes: number,
    force: boolean,
  ): void {
    if (!force) {
      const message = `volume ${name} has ${device.volume.sizeBytes} bytes, more than ${bytes}`;
      throw new BlockferryError('SHRINK_NEEDS_FORCE', message);
    }
    // Force accepts the loss of what lies past the end, not an end that moves under a filesystem.
    this.refuseClients(name, device);
  }

  /** After a delete that failed: what the store still has is served again. */
  private reattach(name: string): void {
    const volume = this.store.find(name);
    if (volume !== null && !this.stopping) this.attach(volume).start();
  }

  private attach(volume: Volume): ReplicatedVolume {
    volume.onFailed = (reason) => {
      const message = `volume ${volume.name} refuses writes until the node is restarted: ${reason}`;
      this.tell('volume-failed', volume.name, message);
    };
    const device = this.replicate(volume);
    this.attached.set(volume.name, device);
    return device;
  }

  private tell(kind: string, volume: string, message: string): void {
    this.events.emit({ kind, volume, mirror: null, message });
  }
}

function onlyMirror(name: string, device: ReplicatedVolume): string {
  const [only, ...others] = device.mirrorStatuses();
  if (only === undefined) {
    throw new BlockferryError('MIRROR_NOT_FOUND', `volume ${name} has no mirror`);
  }
  if (others.length > 0) {
    throw new BlockferryError(
      'USAGE',
      `volume ${name} has ${others.length + 1} mirrors: say which`,
    );
  }
  return only.uri;
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
