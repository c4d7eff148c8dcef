/**
 * The NBD side of a node, as it was configured: listeners, TLS, and the volumes under the rules for exports.
 *
 * Invariants:
 * - An address that other machines reach is served only if every client has to encrypt, or the operator said
 *   that the network is trusted: also a socket that was inherited.
 * - `apply` changes all or nothing.
 */
import type { Clock } from '../../io/clock.ts';
import type { BlockDevice } from '../../io/device.ts';
import type { Address, Network } from '../../io/network.ts';
import { loadTlsServerContext } from '../../io/tls/tls.ts';
import type { Random } from '../../io/random.ts';
import {
  NbdServer,
  type NbdLog,
  type NbdServerCounters,
  type ServerTls,
} from '../../nbd/server/server.ts';
import type { Activation } from '../config/activation.ts';
import { refuseStrangers, type NodeConfig } from '../config/config.ts';
import type { TlsMode } from '../config/defaults.ts';
import type { Sessions } from '../commands/command-room.ts';
import type { VolumeAccess } from '../status.ts';
import type { TlsConfig } from '../config/tls-config.ts';
import { PeerAcceptor } from '../../replicator/link/accept-peer.ts';
import type { Compressor } from '../../workers/compressor.ts';
import { PeerLinks, type LinkTarget } from './peer-links.ts';
import { VolumeExports, type Exported } from './volume-exports.ts';

interface NbdServiceOptions {
  readonly config: NodeConfig;
  readonly network: Network;
  readonly clock: Clock;
  readonly log: NbdLog;
  readonly exported: Exported;
  readonly random: Random;
  /** Expands what primaries of other nodes compressed. */
  readonly compressor: Compressor;
  /** Volumes that links may be for. */
  readonly linkTarget: (volume: string) => LinkTarget | null;
}

export class NbdService implements Sessions {
  /** Where clients connect, with the ports that the system chose. */
  readonly addresses: Address[] = [];
  private readonly log: NbdLog;
  private readonly exports: VolumeExports;
  private readonly links: PeerAcceptor;
  private readonly server: NbdServer;
  private config: NodeConfig;

  /** @throws BlockferryError TLS_INVALID */
  constructor(options: NbdServiceOptions) {
    const { config, log } = options;
    this.config = config;
    this.log = log;
    this.exports = new VolumeExports(options.exported, config.exports);
    this.links = this.acceptLinks(options);
    this.server = new NbdServer({
      network: options.network,
      clock: options.clock,
      privateOption: this.links.option,
      exports: this.exports,
      log,
      limits: config.limits,
      tls: this.loadTls(config.tls),
    });
  }

  get tlsMode(): TlsMode {
    return this.config.tls.mode;
  }

  get counters(): NbdServerCounters {
    return this.server.counters;
  }

  /**
   * Takes the configured addresses, and inherited sockets in the place of the default ones.
   * @throws BlockferryError ADDRESS_*, SOCKET_INVALID, INSECURE_ADDRESS
   */
  async listen(inherited: Activation): Promise<void> {
    for (const descriptor of inherited.nbd) {
      const address = await this.server.adopt(descriptor);
      refuseStrangers(this.config, address);
      this.addresses.push(address);
    }
    if (inherited.nbd.length > 0 && this.config.nbdIsDefault) return;
    for (const { address, rights } of this.config.nbd) {
      this.addresses.push(await this.server.listen(address, rights));
    }
  }

  /**
   * TLS and the rules for exports as `next` has them, for handshakes that follow.
   * @throws BlockferryError TLS_INVALID or INSECURE_ADDRESS; then everything stays as it was
   */
  apply(next: NodeConfig): void {
    for (const address of this.addresses) refuseStrangers(next, address);
    const tls = this.loadTls(next.tls);
    this.server.setTls(tls);
    this.exports.setRules(next.exports);
    this.config = next;
  }

  connectionsOf(device: BlockDevice): number {
    return this.server.connectionsOf(device);
  }

  closeSessionsOf(device: BlockDevice, cut: boolean): Promise<void> {
    return this.server.closeSessionsOf(device, cut);
  }

  accessOf(name: string): VolumeAccess {
    const { readOnly, hidden, needsTls } = this.exports.describe(name);
    const { mode } = this.config.tls;
    return { read_only: readOnly, hidden, tls: needsTls ? 'required' : mode };
  }

  close(): Promise<void> {
    this.links.close();
    return this.server.close();
  }

  private acceptLinks({
    clock,
    random,
    compressor,
    linkTarget: find,
  }: NbdServiceOptions): PeerAcceptor {
    const judge = new PeerLinks({
      find,
      whyDenied: (volume, client) => this.exports.whyDenied(volume, client),
      asksProof: () => {
        const { mode, files } = this.config.tls;
        return mode !== 'off' && (files.clientCa !== undefined || files.pskFile !== undefined);
      },
    });
    return new PeerAcceptor({
      clock,
      random,
      compressor,
      judge: (hello, client) => judge.judge(hello, client),
    });
  }

  private loadTls({ mode, files }: TlsConfig): ServerTls {
    if (mode === 'off') return { mode };
    const context = loadTlsServerContext(files);
    for (const warning of context.warnings) this.log.warn({}, warning);
    return { mode, context };
  }
}
