/**
 * What commands on volumes stand on: the volumes that are open, their order, who uses them, and who is told.
 *
 * Invariants:
 * - Commands on one volume run one at a time; one on several volumes waits for each of them, and holds each up.
 * - What a command takes away or replaces under its clients is no export while the command runs, and its last
 *   session has ended before anything changes.
 * - Nothing begins after `stop`; what began before has ended when `stop` resolves.
 */
import assert from 'node:assert';
import type { BlockDevice } from '../../io/device.ts';
import { BlockferryError } from '../../io/errors.ts';
import type { EventKind } from '../../replicator/event-kinds.ts';
import type { HostedVolume } from '../../replicator/hosted-volume.ts';
import { Descendant } from '../../replicator/intake/descendant.ts';
import { SecondaryVolume } from '../../replicator/intake/secondary.ts';
import { ReplicatedVolume } from '../../replicator/replicated-volume.ts';
import type { EventSink } from '../../replicator/status.ts';
import { isHidden } from '../../volume/names.ts';
import { splitExportName } from '../exports/export-name.ts';
import { Serial } from './serial.ts';
import type { LinkTarget } from '../exports/peer-links.ts';
import type { VolumeAccess } from '../status.ts';
import type { Exported } from '../exports/volume-exports.ts';

/** The NBD server: who uses a device now, and who may use a volume. */
export interface Sessions {
  accessOf(name: string): VolumeAccess;
  connectionsOf(device: BlockDevice): number;
  /** `cut`: what waits for an answer gets none, as when the connection is lost; so a client that reconnects sends it again. */
  closeSessionsOf(device: BlockDevice, cut: boolean): Promise<void>;
}

/** Before there is a server. */
const NOBODY: VolumeAccess = Object.freeze({ read_only: false, hidden: false, tls: 'off' });

export class CommandRoom implements Exported {
  /** The volumes that are open, by name. */
  readonly devices = new Map<string, HostedVolume>();
  private readonly events: EventSink;
  private readonly serial = new Serial();
  /** Export names that nobody can attach at the moment. */
  private readonly withheld = new Set<string>();
  private sessions: Sessions | null = null;
  private ended = false;

  constructor(events: EventSink) {
    this.events = events;
  }

  /** The server that exports these volumes. */
  servedBy(sessions: Sessions): void {
    this.sessions = sessions;
  }

  /** Refuses new commands and waits for those under way. */
  async stop(): Promise<void> {
    this.ended = true;
    await this.serial.idle();
  }

  get stopping(): boolean {
    return this.ended;
  }

  /** Runs a command when those before it on the same volume are over. Throws BUSY, SHUTTING_DOWN. */
  command<T>(volume: string, run: () => Promise<T>): Promise<T> {
    return this.serial.run(volume, async () => {
      if (this.ended) throw new BlockferryError('SHUTTING_DOWN', 'the node is stopping');
      return await run();
    });
  }

  /** One command on several volumes. They are taken in one order, so that two such never wait for each other. */
  commandOnAll<T>(volumes: readonly string[], run: () => Promise<T>): Promise<T> {
    const [first, ...others] = [...new Set(volumes)].toSorted();
    assert(first !== undefined, 'there is a volume');
    if (others.length === 0) return this.command(first, run);
    return this.command(first, () => this.commandOnAll(others, run));
  }

  /** @throws BlockferryError VOLUME_NOT_FOUND */
  require(volume: string): HostedVolume {
    const device = this.devices.get(volume);
    if (device !== undefined) return device;
    throw new BlockferryError('VOLUME_NOT_FOUND', `there is no volume ${JSON.stringify(volume)}`);
  }

  /**
   * A volume whose content is decided on this node, to be told to `what` ("be resized").
   * @throws BlockferryError VOLUME_NOT_FOUND, VOLUME_IS_SECONDARY
   */
  requirePrimary(volume: string, what: string): ReplicatedVolume {
    const device = this.require(volume);
    if (device instanceof ReplicatedVolume) return device;
    const source = device.sourceStatus()?.node ?? 'another node';
    throw new BlockferryError(
      'VOLUME_IS_SECONDARY',
      `volume ${volume} is a mirror of a volume on ${source} and cannot ${what}`,
    );
  }

  /** What links may be for: a secondary, or what was one. Null: no such volume. `node`: the name of this one. */
  linkTarget(volume: string, node: string): LinkTarget | null {
    const device = this.devices.get(volume);
    if (device === undefined || device instanceof SecondaryVolume) return device ?? null;
    return device instanceof ReplicatedVolume
      ? new Descendant(device.volume, node, device.handover)
      : null;
  }

  /** Null: there is no secondary of that name. */
  secondary(volume: string): SecondaryVolume | null {
    const device = this.devices.get(volume);
    return device instanceof SecondaryVolume ? device : null;
  }

  tell(kind: EventKind, volume: string, message: string): void {
    this.events.emit({ kind, volume, mirror: null, message });
  }

  // ---- exports

  volumes(): Iterable<string> {
    return this.devices.keys();
  }

  /** Names of the snapshots of a volume, oldest first. */
  snapshotsOf(volume: string): string[] {
    const snapshots = this.devices.get(volume)?.volume.snapshots.list() ?? [];
    return snapshots.map(({ name }) => name);
  }

  find(name: string): BlockDevice | null {
    if (this.withheld.has(name)) return null;
    const { volume, snapshot } = splitExportName(name);
    const device = this.devices.get(volume) ?? null;
    if (snapshot === null || device === null) return device;
    return isHidden(snapshot) ? null : device.volume.snapshots.device(snapshot);
  }

  /** A volume and its snapshots. Throws VOLUME_NOT_FOUND. */
  exportsOf(volume: string): BlockDevice[] {
    const device = this.require(volume);
    const snapshots = this.snapshotsOf(volume).map((name) => device.volume.snapshots.device(name));
    return [device, ...snapshots.filter((snapshot) => snapshot !== null)];
  }

  // ---- those who use them

  accessOf(volume: string): VolumeAccess {
    return this.sessions?.accessOf(volume) ?? NOBODY;
  }

  connectionsOf(device: BlockDevice | null): number {
    return device === null ? 0 : (this.sessions?.connectionsOf(device) ?? 0);
  }

  async closeSessionsOf(device: BlockDevice, cut = false): Promise<void> {
    await this.sessions?.closeSessionsOf(device, cut);
  }

  /** Runs `change` while nobody uses the export, nor can begin to. The caller knows that its sessions may end. */
  async withhold<T>(name: string, change: () => Promise<T>): Promise<T> {
    const device = this.find(name);
    assert(!this.withheld.has(name), 'commands on a volume run one at a time');
    this.withheld.add(name);
    try {
      if (device !== null) await this.closeSessionsOf(device);
      return await change();
    } finally {
      this.withheld.delete(name);
    }
  }
}

/** What changes the content of a volume, or keeps it as of an epoch, is for the copy that goes on. Throws VOLUME_FENCED. */
export function refuseFenced({ fenced, volume }: ReplicatedVolume): void {
  if (fenced === null) return;
  throw new BlockferryError('VOLUME_FENCED', `volume ${volume.name} takes no writes: ${fenced}`);
}

/** `1 snapshot`, `2 snapshots`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}
