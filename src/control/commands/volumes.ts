/**
 * The volumes of a node as operators see them: commands, status.
 *
 * Invariants:
 * - What a command refuses, it refuses before it changes anything.
 * - A volume that is being deleted is no export any more, nor are its snapshots, and their last session has
 *   ended before the files go.
 */
import { BlockferryError, errorText } from '../../io/errors.ts';
import type { HostedVolume } from '../../replicator/hosted-volume.ts';
import type { Container } from '../../volume/containers.ts';
import { forkOf } from '../../replicator/failover/fork.ts';
import { ReplicatedVolume } from '../../replicator/replicated-volume.ts';
import type { Refusal } from '../../volume/refusals.ts';
import { parseSize, type Volume, type VolumeStore } from '../../volume/store.ts';
import { volumeCheckStatus, type VolumeCheckStatus } from '../api/check-status.ts';
import { counted, refuseFenced, type CommandRoom } from './command-room.ts';
import { exportName } from '../exports/export-name.ts';
import { mergeStatusOf } from './merges.ts';
import { validateNodeName } from '../node-name.ts';
import type { NodeStatus, SpaceStatus, VolumeStatus } from '../status.ts';

interface VolumeCommandsOptions {
  readonly node: string;
  readonly store: VolumeStore;
  readonly room: CommandRoom;
  /** Puts over a volume what its role asks for. */
  readonly host: (volume: Volume) => HostedVolume;
  readonly space: () => SpaceStatus;
}

export class VolumeCommands {
  readonly node: string;
  private readonly store: VolumeStore;
  private readonly room: CommandRoom;
  private readonly host: (volume: Volume) => HostedVolume;
  private readonly space: () => SpaceStatus;
  private started = false;
  /** Called with each device that begins to serve a volume. */
  onAttached: ((device: HostedVolume) => void) | null = null;

  constructor(options: VolumeCommandsOptions) {
    this.node = options.node;
    this.store = options.store;
    this.room = options.room;
    this.host = options.host;
    this.space = options.space;
    for (const volume of this.store.list()) this.attach(volume);
  }

  /** Mirrors are sought from now on. */
  start(): void {
    this.started = true;
    for (const device of this.room.devices.values()) device.start();
  }

  /** Sorted. */
  private names(): string[] {
    return [...this.room.devices.keys()].toSorted();
  }

  status(): NodeStatus {
    return {
      node: this.node,
      volumes: this.names().map((name) => this.show(name)),
      damaged: this.store.damaged.map(({ id, reason }) => ({ id, reason })),
      space: this.space(),
    };
  }

  /** @throws BlockferryError VOLUME_NOT_FOUND */
  show(name: string): VolumeStatus {
    const device = this.room.require(name);
    const { volume } = device;
    const mirrors = device.mirrorStatuses();
    const position = device.position();
    const source = device.sourceStatus();
    return {
      name: volume.name,
      id: volume.id,
      size_bytes: volume.sizeBytes,
      allocated_bytes: volume.allocatedBytes,
      io: volume.io,
      role: device.role,
      source,
      refuses: volume.metadata.state.refuses,
      consistent_at: source?.consistent_at ?? null,
      lag_seconds: source?.lag_seconds ?? null,
      generation: position.generation,
      position,
      connections: this.room.connectionsOf(device),
      access: this.room.accessOf(name),
      failure: volume.failed
        ? (volume.failure ?? 'the disk failed')
        : (volume.unusable?.message ?? null),
      fenced: device instanceof ReplicatedVolume ? device.fenced : null,
      kept_for_return: forkOf(volume)?.position ?? null,
      snapshots: volume.snapshots.list().length,
      clone_of: this.originOf(volume),
      on: onOf(volume),
      merge: mergeStatusOf(volume),
      mirrors,
    };
  }

  /** Other commands go on meanwhile. @throws BlockferryError VOLUME_NOT_FOUND, BUSY */
  async check(name: string): Promise<VolumeCheckStatus> {
    const { volume } = this.room.require(name);
    return volumeCheckStatus(volume.id, volume.name, await this.store.check(volume));
  }

  /**
   * `mirrorOf`: the node whose volume this one is to be a mirror of; null for a volume that takes writes. `on`: the device, file
   * or export that it is to lie on, with the content that is there; null for the data directory. `refuses`: what it does not let
   * the node do that it is a mirror of.
   * @throws BlockferryError VOLUME_NAME_INVALID, SIZE_INVALID, NODE_NAME_INVALID, MIRROR_SELF, VOLUME_EXISTS,
   *   VOLUME_LIMIT, REQUEST_INVALID (both; `refuses` without `mirrorOf`), and with `on` the CONTAINER_ codes
   */
  create(
    name: string,
    size: string,
    {
      mirrorOf,
      on,
      refuses,
    }: { mirrorOf: string | null; on: string | null; refuses: readonly Refusal[] },
  ): Promise<VolumeStatus> {
    return this.room.command(name, async () => {
      if (mirrorOf !== null) this.checkSource(mirrorOf);
      if (mirrorOf !== null && on !== null) {
        const message = `a mirror lies in the data directory, not on ${on}`;
        throw new BlockferryError('REQUEST_INVALID', message);
      }
      if (mirrorOf === null && refuses.length > 0) {
        const message = 'only a mirror refuses something: say of which node it is one';
        throw new BlockferryError('REQUEST_INVALID', message);
      }
      const bytes = parseSize(size);
      const volume = await (on === null
        ? this.store.create(name, bytes, mirrorOf, refuses)
        : this.store.createOn(name, bytes, on));
      this.attach(volume).start();
      const as =
        (mirrorOf === null ? '' : `, a mirror that waits for node ${mirrorOf}`) +
        (on === null ? '' : `, on ${volume.container?.place.location ?? on}, with what that holds`);
      const message = `volume ${name} created, ${volume.sizeBytes} bytes${as}`;
      this.room.tell('volume-created', name, message);
      return this.show(volume.name);
    });
  }

  /**
   * A volume of its own with the content of a snapshot. It takes no space until it is written.
   * @throws BlockferryError VOLUME_NOT_FOUND, SNAPSHOT_NOT_FOUND and as `create`
   */
  clone(source: string, snapshot: string, name: string): Promise<VolumeStatus> {
    return this.room.commandOnAll([source, name], async () => {
      const { volume } = this.room.require(source);
      const made = await this.store.clone(volume, snapshot, name);
      this.attach(made).start();
      const of = exportName(source, snapshot);
      this.room.tell('volume-cloned', name, `volume ${name} created as a clone of ${of}`);
      return this.show(name);
    });
  }

  private originOf(volume: Volume): string | null {
    const origin = this.store.originNameOf(volume);
    return origin === null ? null : exportName(origin.volume, origin.snapshot);
  }

  /**
   * Removes a volume, its content and its snapshots. Mirrors keep theirs.
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_HAS_CLONES, VOLUME_HAS_MIRRORS, VOLUME_HAS_SNAPSHOTS,
   *   VOLUME_BUSY
   */
  delete(name: string, options: { force: boolean }): Promise<void> {
    return this.room.command(name, async () => {
      const device = this.room.require(name);
      this.store.refuseCloned(device.volume);
      if (!options.force) this.refuseUsed(name, device);
      const exported = this.room.exportsOf(name);
      this.room.devices.delete(name);
      try {
        await Promise.all(exported.map((each) => this.room.closeSessionsOf(each)));
        await device.close();
        await this.store.delete(device.volume);
      } catch (error) {
        this.reattach(name);
        throw error;
      }
      const { container } = device.volume;
      const kept = container === null ? '' : `; ${container.place.location} keeps what it holds`;
      this.room.tell('volume-deleted', name, `volume ${name} deleted${kept}`);
    });
  }

  /**
   * Grows a volume, or with `force` shrinks it. Clients see the new size when they attach again.
   * @throws BlockferryError VOLUME_NOT_FOUND, SIZE_INVALID, SHRINK_NEEDS_FORCE, VOLUME_BUSY,
   *   and what the mirrors refuse
   */
  resize(name: string, size: string, options: { force: boolean }): Promise<VolumeStatus> {
    return this.room.command(name, async () => {
      const device = this.room.requirePrimary(name, 'be resized');
      refuseFenced(device);
      const bytes = parseSize(size);
      const before = device.volume.sizeBytes;
      if (bytes < before) this.refuseShrink(name, device, bytes, options.force);
      if (bytes !== before) {
        await device.resize(bytes);
        const what = bytes < before ? 'shrunk' : 'grown';
        this.room.tell(
          'volume-resized',
          name,
          `volume ${name} ${what} from ${before} to ${bytes} bytes`,
        );
      }
      return this.show(name);
    });
  }

  /**
   * What the volume does not let its primary do, from now on: of one that takes writes, when it is a mirror again. Takes the place of
   * what was said before. @throws BlockferryError VOLUME_NOT_FOUND, METADATA_WRITE_FAILED
   */
  setPolicy(name: string, refuses: readonly Refusal[]): Promise<VolumeStatus> {
    return this.room.command(name, async () => {
      const { volume } = this.room.require(name);
      const { metadata } = volume;
      const before = metadata.state.refuses;
      metadata.append({ kind: 'source-policy', refuses });
      const status = await volume.commit();
      if (status !== 0) {
        metadata.append({ kind: 'source-policy', refuses: before });
        const message = `the metadata of ${name} cannot be written (errno ${status})`;
        throw new BlockferryError('METADATA_WRITE_FAILED', message);
      }
      this.room.secondary(name)?.tellPolicy();
      const what = refuses.length === 0 ? 'nothing' : refuses.join(', ');
      this.room.tell('volume-policy', name, `volume ${name} refuses its primary ${what}`);
      return this.show(name);
    });
  }

  /** Ships what can be shipped and closes every volume's replicator; tells of those that failed to. */
  async close(): Promise<void> {
    if (!this.started) return;
    const devices = [...this.room.devices.entries()];
    const results = await Promise.allSettled(devices.map(([, device]) => device.close()));
    for (const [index, result] of results.entries()) {
      const name = devices[index]?.[0] ?? '';
      if (result.status === 'rejected') {
        this.room.tell('volume-close-failed', name, `volume ${name}: ${errorText(result.reason)}`);
      }
    }
  }

  private refuseUsed(name: string, device: HostedVolume): void {
    const source = device.sourceStatus();
    if (source !== null && (source.state === 'receiving' || source.state === 'streaming')) {
      const message = `volume ${name} is receiving from node ${source.node} (--force deletes it)`;
      throw new BlockferryError('VOLUME_BUSY', message);
    }
    const mirrors = device.mirrorStatuses().length;
    if (mirrors > 0) {
      throw new BlockferryError(
        'VOLUME_HAS_MIRRORS',
        `volume ${name} has ${counted(mirrors, 'mirror')}`,
      );
    }
    const snapshots = device.volume.snapshots.list().length;
    if (snapshots > 0) {
      throw new BlockferryError(
        'VOLUME_HAS_SNAPSHOTS',
        `volume ${name} has ${counted(snapshots, 'snapshot')}`,
      );
    }
    this.refuseClients(name, device);
  }

  private refuseClients(name: string, device: HostedVolume): void {
    const clients = this.room.connectionsOf(device);
    if (clients > 0) {
      throw new BlockferryError(
        'VOLUME_BUSY',
        `volume ${name} is used by ${counted(clients, 'connection')}`,
      );
    }
  }

  private refuseShrink(name: string, device: HostedVolume, bytes: number, force: boolean): void {
    if (!force) {
      const message = `volume ${name} has ${device.volume.sizeBytes} bytes, more than ${bytes}`;
      throw new BlockferryError('SHRINK_NEEDS_FORCE', message);
    }
    // Force accepts the loss of what lies past the end, not an end that moves under a filesystem.
    this.refuseClients(name, device);
  }

  /** Ends a volume's device and its sessions, lets `change` make another of it, and serves what it is by its log then. */
  async rehost<T>(device: HostedVolume, change: () => Promise<T>, cut = false): Promise<T> {
    const { name } = device.volume;
    this.room.devices.delete(name);
    try {
      await this.room.closeSessionsOf(device, cut);
      await device.close();
      return await change();
    } finally {
      this.reattach(name);
    }
  }

  /** @throws BlockferryError NODE_NAME_INVALID, MIRROR_SELF */
  checkSource(node: string): void {
    validateNodeName(node);
    if (node !== this.node) return;
    throw new BlockferryError('MIRROR_SELF', `this node is called ${node} itself`);
  }

  /** What the store has under a name is served, in the role that its log says. */
  private reattach(name: string): void {
    const volume = this.store.find(name);
    if (volume !== null && !this.room.stopping) this.attach(volume).start();
  }

  private watch(volume: string, container: Container): void {
    const tell = (trouble: string | null): void => {
      const { location } = container.place;
      if (trouble === null) {
        this.room.tell('container-back', volume, `volume ${volume}: ${location} is in reach`);
      } else {
        const message = `volume ${volume}: ${location} is out of reach, and is tried again: ${trouble}`;
        this.room.tell('container-lost', volume, message);
      }
    };
    container.onTrouble = tell;
    if (container.trouble !== null) tell(container.trouble);
  }

  private attach(volume: Volume): HostedVolume {
    volume.onFailed = (reason) => {
      const message = `volume ${volume.name} refuses writes until the system is restarted: ${reason}`;
      this.room.tell('volume-failed', volume.name, message);
    };
    if (volume.container !== null) this.watch(volume.name, volume.container);
    const device = this.host(volume);
    this.room.devices.set(volume.name, device);
    this.onAttached?.(device);
    return device;
  }
}

function onOf({ container }: Volume): VolumeStatus['on'] {
  if (container === null) return null;
  const { place, trouble } = container;
  return { kind: place.kind, location: place.location, trouble };
}
