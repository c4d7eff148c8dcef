/**
 * One running node: volumes, replicators, NBD server and control API, joined.
 *
 * Invariants:
 * - Parts open in the order of what they stand on and close in reverse, also when a start fails halfway:
 *   control stops, NBD drains, replicators ship what they can and persist, the store closes.
 * - A reload takes effect whole, or not at all.
 * - A close that fails does not keep the others from closing.
 */
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { isDeepStrictEqual } from 'node:util';
import { formatAddress } from '../io/address.ts';
import type { Clock } from '../io/clock.ts';
import type { Disk } from '../io/disk.ts';
import { BlockferryError, errorText } from '../io/errors.ts';
import { CONTROL_DRAIN_MS_MAX } from '../io/limits.ts';
import type { Address, Network, TlsClientContext } from '../io/network.ts';
import type { Random } from '../io/random.ts';
import { loadTlsClientContext } from '../io/tls/tls-client.ts';
import type { EventKind } from '../replicator/event-kinds.ts';
import type { HostedVolume } from '../replicator/hosted-volume.ts';
import { SharedLimit } from '../replicator/pace/shared-limit.ts';
import { SlabPool } from '../replicator/staging/slab.ts';
import { SecondaryVolume } from '../replicator/intake/secondary.ts';
import { ReplicatedVolume } from '../replicator/replicated-volume.ts';
import { VolumeStore, type Volume } from '../volume/store.ts';
import { createExaminer } from '../workers/examiner-pool.ts';
import { createCompressor } from '../workers/compressor-pool.ts';
import type { Compressor } from '../workers/compressor.ts';
import type { Examiner } from '../workers/examiner.ts';
import type { Activation } from './config/activation.ts';
import { createApi } from './api/api.ts';
import { CommandRoom } from './commands/command-room.ts';
import type { NodeConfig } from './config/config.ts';
import { NodeContainers } from './containers/containers.ts';
import { SpaceWatch } from './disk-space.ts';
import { EventLog } from './events.ts';
import { HeldNetwork } from './exports/held-network.ts';
import { listenForControl, listenForHttp } from './api/listen.ts';
import { MergeCommands } from './commands/merges.ts';
import { MirrorCommands } from './commands/mirrors.ts';
import { NbdService } from './exports/nbd-service.ts';
import { leadsTo } from './commands/own-address.ts';
import { SnapshotCommands } from './commands/snapshots.ts';
import type { NodeFacts, ReloadReport } from './status.ts';
import { VERSION } from './version.ts';
import { FailoverCommands } from './commands/failover.ts';
import { VolumeCommands } from './commands/volumes.ts';

export interface NodeParts {
  readonly config: NodeConfig;
  /** The configuration as it is now, for a reload. Throws what `resolveConfig` does. */
  readonly reread: () => NodeConfig;
  /** Sockets that the process was started with. */
  readonly inherited: Activation;
  readonly log: Logger;
  readonly clock: Clock;
  readonly random: Random;
  readonly disk: Disk;
  readonly network: Network;
}

/** What only a restart changes, in the words of the file. */
const FIXED_KEYS = {
  name: 'name',
  data: 'data',
  nbd: 'nbd',
  control: 'control',
  http: 'http',
  logLevel: 'log_level',
  limits: 'limits',
  diskWarnPercent: 'limits',
  replication: 'replication',
} as const satisfies Partial<Record<keyof NodeConfig, string>>;

/** What the volumes of a node share. */
interface HostParts {
  readonly network: Network;
  readonly examiner: Examiner;
  readonly compressor: Compressor;
}

interface Part {
  readonly name: string;
  close(): Promise<void>;
}

export class BlockferryNode {
  readonly events: EventLog;
  controlAddress: Address;
  /** Where metrics are shown; null: nowhere. */
  httpAddress: Address | null = null;
  private readonly parts: NodeParts;
  /** What is open, in the order it was opened. */
  private readonly open: Part[] = [];
  private readonly started = deferred();
  private nbd: NbdService | null = null;
  /** For links that begin from now on. */
  private tlsClient: TlsClientContext | undefined;
  private stopped: Promise<void> | null = null;
  /** What the mirrors of all volumes may be sent. */
  private readonly nodeLimit: SharedLimit;
  /** Memory of what all volumes stage. */
  private readonly slabs: SlabPool;

  private constructor(parts: NodeParts) {
    this.parts = parts;
    this.controlAddress = parts.config.control;
    this.events = new EventLog({ clock: parts.clock, log: parts.log });
    const { bandwidthLimit, stagingMemoryBytes } = parts.config.replication;
    this.nodeLimit = new SharedLimit(bandwidthLimit, parts.clock.now());
    this.slabs = SlabPool.forQueues(stagingMemoryBytes);
  }

  /**
   * Opens everything; when it resolves, clients are served.
   * @throws BlockferryError DATA_DIR_*, ADDRESS_*, SOCKET_INVALID, TLS_INVALID, METADATA_CORRUPT
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

  /** Where NBD clients connect, with the ports that the system chose. */
  get nbdAddresses(): readonly Address[] {
    return this.nbd?.addresses ?? [];
  }

  /**
   * Reads the configuration again: certificates, keys and the rules for exports hold for connections that
   * follow, ours to mirrors too. Other changes wait for a restart, and are named.
   * @throws BlockferryError CONFIG_INVALID, TLS_INVALID, ...; then everything stays as it was
   */
  reload(): ReloadReport {
    try {
      if (this.nbd === null) throw new BlockferryError('BUSY', 'the node is still starting');
      const next = this.parts.reread();
      const tlsClient = this.loadTlsClient(next);
      this.nbd.apply(next);
      this.tlsClient = tlsClient;
      this.nodeLimit.set(next.replication.bandwidthLimit, this.parts.clock.now());
      const waiting = fixedKeysThatChanged(this.parts.config, next);
      const more = waiting.length === 0 ? '' : `; a restart is needed for: ${waiting.join(', ')}`;
      this.tell(
        'node-reloaded',
        `TLS, rules for exports and the bandwidth limit were read again${more}`,
      );
      return { reloaded: true, restart_needed: waiting };
    } catch (error) {
      this.tell('reload-failed', `what was in force stays in force: ${errorText(error)}`);
      throw error;
    }
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
    this.tlsClient = this.loadTlsClient(config);
    const network = new HeldNetwork(this.parts.network);
    this.opened('waiting clients', async () => network.abandon());
    const examiner = createExaminer();
    this.opened('workers', () => examiner.close());
    const compressor = createCompressor();
    this.opened('compressor', () => compressor.close());
    const containers = this.containers();
    const store = VolumeStore.open({ disk, clock, random, path: config.data, containers });
    this.opened('store', () => store.close());
    const room = new CommandRoom(this.events);
    const { data: path, diskWarnPercent: warnPercent } = config;
    const volumes = (): readonly Volume[] => store.list();
    const space = new SpaceWatch({ disk, clock, events: this.events, path, warnPercent, volumes });
    this.opened('space', async () => space.stop());
    const commands = new VolumeCommands({
      node: config.name,
      store,
      room,
      host: (volume) => this.host(volume, { network, examiner, compressor }),
      space: () => space.status,
    });
    this.opened('volumes', () => commands.close());
    const nbd = new NbdService({
      config,
      network,
      clock,
      random,
      compressor,
      log,
      exported: room,
      linkTarget: (volume) => room.linkTarget(volume, config.name),
    });
    this.opened('nbd', () => nbd.close());
    room.servedBy(nbd);
    this.nbd = nbd;
    await nbd.listen(this.parts.inherited);
    await this.openHttp(commands, nbd);
    await this.openControl({ room, commands, nbd });
    // Only now, with every address ours: a start that fails has touched neither volumes nor mirrors.
    commands.start();
    network.open();
    this.started.resolve();
    this.tellStarted(room, store);
    space.start();
  }

  /** What volumes may lie in, besides the data directory. */
  private containers(): NodeContainers {
    const { config, clock, network } = this.parts;
    const { data, insecure } = config;
    const isOurs = (address: Address): boolean => leadsTo(address, this.nbdAddresses);
    const tls = (): TlsClientContext | undefined => this.tlsClient;
    return new NodeContainers({ clock, network, tls, data, isOurs, insecure });
  }

  /** What a volume is by its log: one that takes writes, or a mirror of one of another node. */
  private host(volume: Volume, { network, examiner, compressor }: HostParts): HostedVolume {
    const { config, clock, random, disk } = this.parts;
    const parts = { node: config.name, volume, clock, random, examiner, events: this.events };
    return volume.metadata.state.source === null
      ? new ReplicatedVolume({
          ...parts,
          disk,
          network,
          compressor,
          tls: () => this.tlsClient,
          nodeLimit: this.nodeLimit,
          graceMs: config.replication.graceMs,
          stagingBytes: config.replication.stagingMemoryBytes,
          slabs: this.slabs,
          stagingDisk: { disk, sizeBytes: config.replication.stagingDiskBytes },
        })
      : new SecondaryVolume({ ...parts, disk });
  }

  /** Loaded only where it is wanted. */
  private async openHttp(commands: VolumeCommands, nbd: NbdService): Promise<void> {
    const { config, network } = this.parts;
    if (config.http === null) return;
    const { createHttp } = await import('./api/http.ts');
    const app = createHttp({
      measure: () => ({
        facts: this.facts(nbd),
        status: commands.status(),
        events: this.events.counts,
      }),
      started: this.started.promise,
    });
    this.opened('http', () => {
      this.letNobodyWait();
      return app.close();
    });
    this.httpAddress = await listenForHttp(app, network, config.http);
  }

  private async openControl({
    room,
    commands,
    nbd,
  }: {
    room: CommandRoom;
    commands: VolumeCommands;
    nbd: NbdService;
  }): Promise<void> {
    const { config, clock, log, network, inherited } = this.parts;
    const isOurs = (address: Address): boolean => leadsTo(address, this.nbdAddresses);
    const { insecure } = config;
    const { address } = config.replication;
    const failover = new FailoverCommands({ room, clock, commands, isOurs, insecure, address });
    const app = createApi({
      commands,
      failover,
      mirrors: new MirrorCommands({
        room,
        isOurs: (address) => leadsTo(address, this.nbdAddresses),
        show: (volume) => commands.show(volume),
        insecure: config.insecure,
      }),
      snapshots: new SnapshotCommands(room, clock),
      merges: new MergeCommands(room),
      events: this.events,
      log,
      facts: () => this.facts(nbd),
      reload: () => this.reload(),
      started: this.started.promise,
    });
    this.opened('control', () => {
      this.letNobodyWait();
      return this.closeControl(app, room);
    });
    this.controlAddress = await listenForControl(app, { network, config, inherited });
  }

  /** Requests that came before the node was up are refused; later it changes nothing. */
  private letNobodyWait(): void {
    this.started.reject(new BlockferryError('SHUTTING_DOWN', 'the node did not start'));
  }

  /** Lets commands under way end, but not for longer than CONTROL_DRAIN_MS_MAX. */
  private async closeControl(app: FastifyInstance, room: CommandRoom): Promise<void> {
    this.events.close();
    const timer = this.parts.clock.after(CONTROL_DRAIN_MS_MAX, () => {
      app.server.closeAllConnections();
    });
    await Promise.all([room.stop(), app.close()]);
    timer.cancel();
  }

  /** @throws BlockferryError TLS_INVALID */
  private loadTlsClient({ tlsClient }: NodeConfig): TlsClientContext | undefined {
    if (tlsClient === null) return undefined;
    const context = loadTlsClientContext(tlsClient);
    for (const warning of context.warnings) this.parts.log.warn(warning);
    return context;
  }

  private facts(nbd: NbdService): NodeFacts {
    return {
      name: this.parts.config.name,
      version: VERSION,
      pid: process.pid,
      nbd: nbd.addresses.map(formatAddress),
      tls: nbd.tlsMode,
      clients: nbd.counters,
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

  private tellStarted(room: CommandRoom, store: VolumeStore): void {
    const { config } = this.parts;
    for (const { id, reason } of store.damaged) {
      this.tell('volume-damaged', `volume directory ${id} was left alone: ${reason}`);
    }
    const volumes = room.devices.size;
    const nbd = this.nbdAddresses.map(formatAddress).join(', ');
    const http = this.httpAddress === null ? '' : `; metrics at ${formatAddress(this.httpAddress)}`;
    this.tell(
      'node-started',
      `node ${config.name} serves ${volumes} volume${volumes === 1 ? '' : 's'} of ${config.data} ` +
        `at ${nbd}; control at ${formatAddress(this.controlAddress)}${http}`,
    );
  }

  private tell(kind: EventKind, message: string): void {
    this.events.emit({ kind, volume: null, mirror: null, message });
  }
}

/** The limit of bandwidth is in force at once. */
function withoutLimit(config: NodeConfig): NodeConfig {
  return { ...config, replication: { ...config.replication, bandwidthLimit: null } };
}

function fixedKeysThatChanged(from: NodeConfig, to: NodeConfig): string[] {
  const keys = Object.keys(FIXED_KEYS) as (keyof typeof FIXED_KEYS)[];
  const [before, after] = [withoutLimit(from), withoutLimit(to)];
  const changed = keys.filter((key) => !isDeepStrictEqual(before[key], after[key]));
  return [...new Set(changed.map((key) => FIXED_KEYS[key]))];
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
