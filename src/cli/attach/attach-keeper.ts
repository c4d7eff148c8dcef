/**
 * Keeps a device of the kernel attached: replaces connections that were lost, by ones to the same server or to the
 * next of a list. Meanwhile requests wait in the kernel.
 *
 * Invariants:
 * - A device is given connections to exports of its own size only, and one that takes writes to such as take them: the
 *   mirror that was not promoted is passed over.
 * - With several servers to choose from a device has one connection: never are there two servers behind it.
 * - Connections are the kernel's: they go on when this process ends. What it does can be taken up by another one.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import { ATTACH_POLL_MS, ATTACH_RETRY_MS } from '../../io/limits.ts';
import type { DeviceWaits, NbdDriver } from '../../io/kernel/nbd-driver.ts';
import { kernelFlags } from '../../nbd/client/kernel-export.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';
import type { KernelLink, OpenLink } from './attach-link.ts';

const SECTOR_BYTES = 512;
const PAGE_BYTES = 4096;
/** Between the kernel's giving a connection up and our hearing of it. */
const SLACK_MS = 2000;
const EBUSY = 16;
const EPERM = 1;

export interface KeeperOptions {
  readonly driver: NbdDriver;
  readonly open: OpenLink;
  readonly clock: Clock;
  /** Where the export is, first choice first. */
  readonly uris: readonly NbdUri[];
  readonly connections: number;
  readonly waits: DeviceWaits;
  readonly isAttached: (index: number) => boolean;
  /** A line for people: what was lost, and what was found. */
  readonly tell: (line: string) => void;
}

/** A device that is attached already, by a keeper that is gone. */
export interface KnownDevice {
  readonly index: number;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

export class Keeper {
  private readonly options: KeeperOptions;
  private device: KnownDevice | null = null;
  /** Position of the server in use. */
  private current = 0;
  /** Connections that died and were not replaced, or at least not more than that. */
  private lost = 0;
  private lastTrouble = '';
  /** When a connection was replaced last. */
  private replacedAt = -Infinity;

  constructor(options: KeeperOptions) {
    assert(options.uris.length > 0, 'there is a server');
    assert(options.uris.length === 1 || options.connections === 1, 'one server behind a device');
    this.options = options;
  }

  /** What the kernel shows of a device that this list of servers is behind. */
  get backend(): string {
    return this.uriAt(0).text;
  }

  get uri(): NbdUri {
    return this.uriAt(this.current);
  }

  /**
   * Attaches /dev/nbdN, or one that is free for null.
   * @throws BlockferryError ATTACH_SERVER, ATTACH_TLS, NBD_DEVICE_BUSY, NOT_ROOT, ATTACH_FAILED
   */
  async attach(index: number | null): Promise<KnownDevice> {
    const links = await this.firstLinks();
    const [first] = links;
    assert(first !== undefined, 'there is a connection');
    const { info } = first;
    try {
      const made = this.options.driver.connect(
        {
          index,
          sizeBytes: info.sizeBytes,
          blockBytes: Math.min(Math.max(info.minimumBlock, SECTOR_BYTES), PAGE_BYTES),
          flags: kernelFlags(info),
          backend: this.backend,
          ...this.options.waits,
        },
        links.map(({ socket }) => socket),
      );
      for (const link of links) link.handedOver();
      this.device = { index: made, sizeBytes: info.sizeBytes, readOnly: info.readOnly };
      return this.device;
    } catch (error) {
      for (const link of links) link.drop();
      throw refusedByKernel(error, index);
    }
  }

  /** Goes on with a device whose keeper is gone. Which of its connections are dead is found out by trying. */
  takeUp(device: KnownDevice): void {
    try {
      this.options.driver.setWaits(device.index, this.backend, this.options.waits);
    } catch (error) {
      throw refusedByKernel(error, device.index);
    }
    this.device = device;
    this.lost = this.options.connections;
  }

  /** Until the device is detached. */
  async keep(): Promise<void> {
    const { device } = this;
    assert(device !== null, 'a device is attached first');
    const { driver, isAttached } = this.options;
    while (isAttached(device.index)) {
      this.hear(device, driver.lostLinks());
      if (this.lost > 0) await this.replace(device);
      await this.pause(this.lost > 0 ? ATTACH_RETRY_MS : ATTACH_POLL_MS);
    }
  }

  /** A server whose new connection is of no use, since it lets requests wait (fenced, or stuck), is not the first to be tried again. */
  private hear(device: KnownDevice, lost: ReadonlyMap<number, number> | 'unknown'): void {
    const { clock, connections, tell, uris, waits } = this.options;
    const count = lost === 'unknown' ? connections : (lost.get(device.index) ?? 0);
    if (count === 0) return;
    tell(`/dev/nbd${device.index} lost a connection to ${this.uri.text}`);
    this.lost = Math.min(connections, this.lost + count);
    const soon = 2 * waits.requestSeconds * 1000 + SLACK_MS;
    if (clock.now() - this.replacedAt < soon) this.current = (this.current + 1) % uris.length;
  }

  /** One round over the servers, beginning with the one in use: that a connection was lost does not say that the volume moved. */
  private async replace(device: KnownDevice): Promise<void> {
    const { uris, tell } = this.options;
    for (let step = 0; step < uris.length; step += 1) {
      const position = (this.current + step) % uris.length;
      const trouble = await this.replaceFrom(position, device);
      if (trouble === null) return;
      // Each trouble is told once, not at each try.
      if (trouble !== this.lastTrouble) tell(trouble);
      this.lastTrouble = trouble;
    }
  }

  /** Null: all that was lost is replaced. Else why this server is of no use now. */
  private async replaceFrom(position: number, device: KnownDevice): Promise<string | null> {
    const uri = this.uriAt(position);
    while (this.lost > 0) {
      let link: KernelLink;
      try {
        link = await this.options.open(uri);
      } catch (error) {
        return errorText(error);
      }
      const wrong = unfit(link, device);
      if (wrong !== null) {
        link.drop();
        return `${uri.text} ${wrong}`;
      }
      if (!this.offer(link, device)) return `/dev/nbd${device.index} is no longer attached`;
      this.lost -= 1;
      this.current = position;
      this.replacedAt = this.options.clock.now();
      this.lastTrouble = '';
      this.options.tell(`/dev/nbd${device.index} has a new connection to ${uri.text}`);
    }
    return null;
  }

  /** False: it was detached meanwhile. One that the kernel has no use for ends with our part of it. */
  private offer(link: KernelLink, device: KnownDevice): boolean {
    try {
      this.options.driver.offerSocket(device.index, this.backend, link.socket);
      link.handedOver();
      return true;
    } catch (error) {
      link.drop();
      if (!this.options.isAttached(device.index)) return false;
      throw refusedByKernel(error, device.index);
    }
  }

  /** Of the first server that can be written; if there is none, of the first that answers. */
  private async firstLinks(): Promise<readonly KernelLink[]> {
    let second: { link: KernelLink; position: number } | null = null;
    let failure: unknown = null;
    for (const [position, uri] of this.options.uris.entries()) {
      let link: KernelLink;
      try {
        link = await this.options.open(uri);
      } catch (error) {
        failure ??= error;
        continue;
      }
      if (!link.info.readOnly) {
        second?.link.drop();
        return await this.allLinks(link, position);
      }
      if (second === null) second = { link, position };
      else link.drop();
    }
    if (second === null) throw failure;
    return await this.allLinks(second.link, second.position);
  }

  private async allLinks(first: KernelLink, position: number): Promise<readonly KernelLink[]> {
    this.current = position;
    const { connections, open } = this.options;
    const links = [first];
    try {
      if (connections > 1 && !first.info.canMultiConn) {
        const what = `${this.uri.text} cannot be used over several connections`;
        throw new BlockferryError('ATTACH_SERVER', what);
      }
      while (links.length < connections) links.push(await open(this.uri));
      return links;
    } catch (error) {
      for (const link of links) link.drop();
      throw error;
    }
  }

  private uriAt(position: number): NbdUri {
    const uri = this.options.uris[position];
    assert(uri !== undefined, 'a position in the list');
    return uri;
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => void this.options.clock.after(ms, resolve));
  }
}

/** Why a server cannot take the place of the one that was lost, or null. */
function unfit({ info }: KernelLink, device: KnownDevice): string | null {
  if (info.sizeBytes !== device.sizeBytes) {
    return `has ${info.sizeBytes} bytes, and the device ${device.sizeBytes}`;
  }
  if (info.readOnly && !device.readOnly)
    return 'is read-only: it is a mirror that was not promoted';
  return null;
}

function refusedByKernel(error: unknown, index: number | null): unknown {
  if (!(error instanceof Error && 'errno' in error)) return error;
  const device = index === null ? 'a device' : `/dev/nbd${index}`;
  switch (error.errno) {
    case -EBUSY:
      return new BlockferryError('NBD_DEVICE_BUSY', `${device} is in use`, { cause: error });
    case -EPERM:
      return new BlockferryError('NOT_ROOT', `the kernel lets only root attach ${device}`, {
        cause: error,
      });
    default:
      return new BlockferryError(
        'ATTACH_FAILED',
        `the kernel refused ${device}: ${error.message}`,
        {
          cause: error,
        },
      );
  }
}
