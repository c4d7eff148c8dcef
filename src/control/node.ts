/**
 * One running node: volumes, replicators, NBD server and control API, joined.
 *
 * Invariants:
 * - Parts open in the order of what they stand on and close in reverse, also when a start fails halfway:
 *   control stops, NBD drains, replicators ship what they can and persist, the store closes.
 * - A close that fails does not keep the others from closing.
 */
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { formatAddress } from '../io/address.ts';
import type { Clock } from '../io/clock.ts';
import type { Disk } from '../io/disk.ts';
import { BlockferryError, errorText } from '../io/errors.ts';
import { CONTROL_DRAIN_MS_MAX } from '../io/limits.ts';
import type { Address, Network } from '../io/network.ts';
import type { Random } from '../io/random.ts';
import { NbdServer } from '../nbd/server.ts';
import { ReplicatedVolume } from '../replicator/replicated-volume.ts';
import { VolumeStore } from '../volume/store.ts';
import { createExaminer } from '../workers/examiner-pool.ts';
import { createApi } from './api.ts';
import type { NodeConfig } from './config.ts';
import { EventLog } from './events.ts';
import { HeldNetwork } from './held-network.ts';
import { listenForControl } from './listen.ts';
import { leadsTo } from './own-address.ts';
import type { NodeFacts } from './status.ts';
import { VERSION } from './version.ts';
import { VolumeCommands } from './volumes.ts';

export interface NodeParts {
  readonly config: NodeConfig;
  readonly log: Logger;
  readonly clock: Clock;
  readonly random: Random;
  readonly disk: Disk;
  readonly network: Network;
}

interface Part {
  readonly name: string;
  close(): Promise<void>;
}

export class BlockferryNode {
  readonly events: EventLog;
  /** Where clients connect, with the ports that the system chose. */
  readonly nbdAddresses: Address[] = [];
  controlAddress: Address;
  private readonly parts: NodeParts;
  /** What is open, in the order it was opened. */
  private readonly open: Part[] = [];
  private stopped: Promise<void> | null = null;

  private constructor(parts: NodeParts) {
    this.parts = parts;
    this.controlAddress = parts.config.control;
    this.events = new EventLog({ clock: parts.clock, log: parts.log });
  }

  /**
   * Opens everything; when it resolves, clients are served.
   * @throws BlockferryError DATA_DIR_*, ADDRESS_*, METADATA_CORRUPT
   */
  static async start(parts: NodeParts): Promise<BlockferryNode> {
    const node = new BlockferryNode(parts);
    try {
      await node.openAll();
    } catch (error) {
      await node.closeAll();
      throw error;
    }
    return node;
  }

  /** Stops in order. Resolves when everything is closed; calling it again waits for the same stop. */
  stop(): Promise<void> {
    this.stopped ??= this.stopOnce();
    return this.stopped;
  }

  private async stopOnce(): Promise<void> {
    this.tell('node-stopping', `node ${this.parts.config.name} is stopping`);
    await this.closeAll();
    this.tell('node-stopped', `node ${this.parts.config.name} has stopped`);
  }

  private async openAll(): Promise<void> {
    const { config, clock, random, disk, log } = this.parts;
    const network = new HeldNetwork(this.parts.network);
    this.opened('waiting clients', async () => network.abandon());
    const examiner = createExaminer();
    this.opened('workers', () => examiner.close());
    const store = VolumeStore.open({ disk, clock, random, path: config.data });
    this.opened('store', () => store.close());
    const commands = new VolumeCommands({
      node: config.name,
      store,
      events: this.events,
      replicate: (volume) =>
        new ReplicatedVolume({ volume, clock, random, network, examiner, events: this.events }),
      isOurs: (address) => leadsTo(address, this.nbdAddresses),
    });
    this.opened('volumes', () => commands.close());
    const server = new NbdServer({ network, clock, exports: commands, log });
    this.opened('nbd', () => server.close());
    commands.servedBy(server);
    for (const address of config.nbd) this.nbdAddresses.push(await server.listen(address));
    await this.openControl(commands, () => {
      // Only now, with every address ours: a start that fails has touched neither volumes nor mirrors.
      commands.start();
      network.open();
    });
    this.tellStarted(commands, store);
  }

  private async openControl(commands: VolumeCommands, begin: () => void): Promise<void> {
    const { config, log, network } = this.parts;
    const start = deferred();
    const app = createApi({
      commands,
      events: this.events,
      log,
      facts: () => this.facts(),
      started: start.promise,
    });
    this.opened('control', () => {
      start.reject(new BlockferryError('SHUTTING_DOWN', 'the node did not start'));
      return this.closeControl(app, commands);
    });
    this.controlAddress = await listenForControl(app, { network, address: config.control });
    begin();
    start.resolve();
  }

  /** Lets commands under way end, but not for longer than CONTROL_DRAIN_MS_MAX. */
  private async closeControl(app: FastifyInstance, commands: VolumeCommands): Promise<void> {
    this.events.close();
    const timer = this.parts.clock.after(CONTROL_DRAIN_MS_MAX, () => {
      app.server.closeAllConnections();
    });
    await Promise.all([commands.stop(), app.close()]);
    timer.cancel();
  }

  private facts(): NodeFacts {
    return {
      name: this.parts.config.name,
      version: VERSION,
      pid: process.pid,
      nbd: this.nbdAddresses.map(formatAddress),
    };
  }

  private opened(name: string, close: () => Promise<void>): void {
    this.open.push({ name, close });
  }

  private async closeAll(): Promise<void> {
    for (let part = this.open.pop(); part !== undefined; part = this.open.pop()) {
      try {
        await part.close();
      } catch (error) {
        this.parts.log.error({ err: error }, `closing ${part.name} failed: ${errorText(error)}`);
      }
    }
  }

  private tellStarted(commands: VolumeCommands, store: VolumeStore): void {
    const { config } = this.parts;
    for (const { id, reason } of store.damaged) {
      this.tell('volume-damaged', `volume directory ${id} was left alone: ${reason}`);
    }
    const volumes = commands.list().length;
    const nbd = this.facts().nbd.join(', ');
    this.tell(
      'node-started',
      `node ${config.name} serves ${volumes} volume${volumes === 1 ? '' : 's'} of ${config.data} ` +
        `at ${nbd}; control at ${formatAddress(this.controlAddress)}`,
    );
  }

  private tell(kind: string, message: string): void {
    this.events.emit({ kind, volume: null, mirror: null, message });
  }
}

interface Deferred {
  readonly promise: Promise<void>;
  resolve(): void;
  reject(error: Error): void;
}

/** A promise that is settled from outside. Nobody has to wait for it: a rejection may go unheard. */
function deferred(): Deferred {
  let settle: { resolve: () => void; reject: (error: Error) => void } | null = null;
  const promise = new Promise<void>((resolve, reject) => {
    settle = { resolve, reject };
  });
  promise.catch(() => {});
  return {
    promise,
    resolve: () => settle?.resolve(),
    reject: (error) => settle?.reject(error),
  };
}
