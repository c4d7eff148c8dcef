/**
 * What volumes of a node may lie in, besides files of its data directory: block devices, files elsewhere, and exports of
 * other servers (src/volume/containers.ts).
 */
import { isAbsolute } from 'node:path';
import { isLoopback } from '../../io/address.ts';
import type { Clock } from '../../io/clock.ts';
import { openContainerFile, resolvedPath } from '../../io/container-file.ts';
import type { DiskFile } from '../../io/disk.ts';
import { BlockferryError } from '../../io/errors.ts';
import { CONTAINER_REPLY_MS_MAX } from '../../io/limits.ts';
import type { Address, Network, TlsClientContext } from '../../io/network.ts';
import { NbdClient } from '../../nbd/client/client.ts';
import { parseNbdUri } from '../../nbd/uri/uri.ts';
import type { Container, Containers, Place } from '../../volume/containers.ts';
import { ExportFile } from './export-file.ts';
import { unfitFor } from './export-wire.ts';

export interface ContainersOptions {
  readonly clock: Clock;
  readonly network: Network;
  readonly tls: () => TlsClientContext | undefined;
  /** The data directory: nothing in it is a container. */
  readonly data: string;
  /** Whether an export at this address is one of our own. */
  readonly isOurs: (address: Address) => boolean;
  /** The operator said that the network is trusted. */
  readonly insecure: boolean;
}

export class NodeContainers implements Containers {
  private readonly options: ContainersOptions;

  constructor(options: ContainersOptions) {
    this.options = options;
  }

  placeOf(location: string): Place {
    return location.includes('://') ? this.exportOf(location) : this.deviceOf(location);
  }

  async claim(place: Place): Promise<Container> {
    if (place.kind === 'device') return openDevice(place, false);
    const client = await this.connectTo(place);
    const why = unfitFor(client, 0);
    if (why === null) return new ExportContainer(place, this.fileOf(place), client);
    await client.close();
    const message = `${place.location} cannot hold a volume: ${why}`;
    throw new BlockferryError('CONTAINER_UNUSABLE', message);
  }

  open(place: Place, sizeBytes: number): Container {
    if (place.kind === 'nbd') {
      return new ExportContainer(place, this.fileOf(place, sizeBytes), null);
    }
    const container = openDevice(place, true);
    const capacity = container.file.sizeNow();
    if (capacity >= sizeBytes) return container;
    container.file.closeNow();
    const message = `${place.location} has ${capacity} bytes, and its volume ${sizeBytes}`;
    throw new BlockferryError('CONTAINER_TOO_SMALL', message);
  }

  private deviceOf(location: string): Place {
    if (!isAbsolute(location) || location.includes('\0')) {
      const message = `${JSON.stringify(location)} is neither an absolute path nor an NBD URI`;
      throw new BlockferryError('CONTAINER_INVALID', message);
    }
    const data = resolvedPath(this.options.data);
    if (`${resolvedPath(location)}/`.startsWith(`${data}/`)) {
      const message = `${location} lies in the data directory of this node`;
      throw new BlockferryError('CONTAINER_INVALID', message);
    }
    return { kind: 'device', location };
  }

  private exportOf(location: string): Place {
    const { text, address, tls } = parseNbdUri(location);
    const { insecure, isOurs } = this.options;
    if (isOurs(address)) {
      throw new BlockferryError('CONTAINER_INVALID', `${text} is an export of this node`);
    }
    if (!insecure && tls === null && !isLoopback(address)) {
      const message = `${text} is reached in clear, and is not on this machine`;
      throw new BlockferryError('CONTAINER_INSECURE', message);
    }
    return { kind: 'nbd', location: text };
  }

  private fileOf({ location }: Place, sizeBytes = 0): ExportFileParts {
    const { clock } = this.options;
    return { clock, path: location, sizeBytes, connect: () => this.connect(location) };
  }

  private connect(location: string): Promise<NbdClient> {
    const { clock, network, tls } = this.options;
    const replyMs = CONTAINER_REPLY_MS_MAX;
    return NbdClient.connect(parseNbdUri(location), { clock, network, replyMs, tls: tls() });
  }

  private async connectTo({ location }: Place): Promise<NbdClient> {
    try {
      return await this.connect(location);
    } catch (thrown) {
      if (!(thrown instanceof BlockferryError) || thrown.code === 'TLS_INVALID') throw thrown;
      throw new BlockferryError('CONTAINER_UNREACHABLE', thrown.message, { cause: thrown });
    }
  }
}

function openDevice(place: Place, patient: boolean): Container {
  const opened = openContainerFile(place.location, { patient });
  return { ...opened, place, canNow: true, trouble: null, onTrouble: null, onLost: null };
}

type ExportFileParts = Pick<
  ConstructorParameters<typeof ExportFile>[0],
  'clock' | 'path' | 'sizeBytes' | 'connect'
>;

class ExportContainer implements Container {
  readonly place: Place;
  readonly file: DiskFile;
  readonly canNow = false;
  trouble: string | null = null;
  onTrouble: ((trouble: string | null) => void) | null = null;
  onLost: ((reason: string) => void) | null = null;

  constructor(place: Place, parts: ExportFileParts, client: NbdClient | null) {
    this.place = place;
    this.file = new ExportFile({
      ...parts,
      client,
      troubled: (why) => this.note(why),
      lost: (reason) => this.onLost?.(reason),
    });
  }

  get identity(): string {
    return this.place.location;
  }

  /** Told once when it begins; why it goes on may change. */
  private note(why: string | null): void {
    const changed = (why === null) !== (this.trouble === null);
    this.trouble = why;
    if (changed) this.onTrouble?.(why);
  }
}
