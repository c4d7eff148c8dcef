/** A mirror: a real NBD server in this process over a device of the test, whose link can be cut. */
import { systemClock } from '../../../src/io/clock.ts';
import type { Connection, Network } from '../../../src/io/network.ts';
import { nodeNetwork } from '../../../src/io/node-network.ts';
import type { NbdExport } from '../../../src/nbd/server/exports.ts';
import { NbdServer } from '../../../src/nbd/server/server.ts';
import type { Scope } from '../../support/scope.ts';
import { MirrorDevice } from './mirror-device.ts';

/** Sockets that can be cut all at once, and a listener that can turn everybody away. */
export class CuttableNetwork implements Network {
  away = false;
  accepted = 0;
  /** Who comes waits here; null: nobody does. */
  waiting: (() => void)[] | null = null;
  private readonly connections = new Set<Connection>();

  listen: Network['listen'] = (address, accept) =>
    nodeNetwork.listen(address, (connection) => {
      this.accepted += 1;
      if (this.away) {
        connection.destroy();
        return;
      }
      this.connections.add(connection);
      if (this.waiting === null) accept(connection);
      else this.waiting.push(() => accept(connection));
    });

  adopt: Network['adopt'] = (descriptor, accept) => nodeNetwork.adopt(descriptor, accept);

  connect: Network['connect'] = (address, timeoutMs) => nodeNetwork.connect(address, timeoutMs);

  cut(): void {
    for (const connection of this.connections) connection.destroy();
    this.connections.clear();
  }
}

export class MirrorServer {
  readonly uri: string;
  device: MirrorDevice;
  private readonly network: CuttableNetwork;

  private constructor(uri: string, device: MirrorDevice, network: CuttableNetwork) {
    this.uri = uri;
    this.device = device;
    this.network = network;
  }

  static async start(scope: Scope, device: MirrorDevice): Promise<MirrorServer> {
    const path = `${scope.tempDir('bf-mirror-')}/s`;
    const network = new CuttableNetwork();
    const mirror = new MirrorServer(`nbd+unix:///m?socket=${path}`, device, network);
    const server = new NbdServer({
      network,
      clock: systemClock,
      exports: {
        find: () => ({ kind: 'granted', export: exportOf(mirror.device) }),
        list: () => [exportOf(mirror.device)],
      },
      log: { info: () => {}, warn: () => {} },
    });
    await server.listen({ kind: 'unix', path });
    scope.defer('mirror server', async () => {
      network.away = true;
      mirror.device.resume();
      network.cut();
      await server.close();
    });
    return mirror;
  }

  /** Connections tried so far. */
  get attempts(): number {
    return this.network.accepted;
  }

  /** Cuts every connection; new ones are welcome. */
  cut(): void {
    this.network.cut();
  }

  /** Cuts every connection and turns new ones away. */
  leave(): void {
    this.network.away = true;
    this.network.cut();
  }

  comeBack(): void {
    this.network.away = false;
  }

  /** New connections are made, and hear nothing until `letIn`. */
  keepWaiting(): void {
    this.network.waiting = [];
  }

  /** Connections that hear nothing yet. */
  get waitingCount(): number {
    return this.network.waiting?.length ?? 0;
  }

  letIn(): void {
    const { waiting } = this.network;
    this.network.waiting = null;
    for (const accept of waiting ?? []) accept();
  }

  /** The mirror's machine loses power and comes back; its disk lost any part of what was not flushed. */
  powerCut(survives: () => boolean): void {
    const { device } = this;
    this.network.cut();
    this.device = new MirrorDevice(device.sizeBytes, device.afterPowerCut(survives));
    // Nobody hears these answers, but the old sessions end.
    device.resume();
  }
}

function exportOf(device: MirrorDevice): NbdExport {
  return { name: 'm', device, readOnly: device.readOnly };
}
