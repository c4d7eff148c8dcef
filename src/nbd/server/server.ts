/**
 * The NBD server: listeners, and the clients that came through them.
 *
 * Invariants:
 * - The limits of server-limits.ts hold (admission.ts).
 * - A client keeps the TLS context that it came under; a new one is for those who come after it.
 * - A client counts until its socket is closed and no device holds a request of it.
 * - `close` and `closeSessionsOf` end within NBD_DRAIN_MS_MAX and the closing of the sockets, whatever
 *   clients and devices do.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import type { BlockDevice } from '../../io/device.ts';
import { NBD_DRAIN_MS_MAX, NBD_HANDSHAKE_DRAIN_MS_MAX } from '../../io/limits.ts';
import type { Address, Connection, Listener, Network, SocketRights } from '../../io/network.ts';
import { Admission, type ClientCounters } from './admission.ts';
import {
  ServerConnection,
  type ServerConnectionEvents,
  type ServerTls,
} from './server-connection.ts';
import type { ExportSource } from './exports.ts';
import { type NbdLog, RateLimitedLog } from './server-log.ts';
import type { PrivateOption } from '../handshake/private-option.ts';
import { NBD_LIMITS_DEFAULT, type NbdLimits } from './server-limits.ts';
import { ServerShared } from './server-shared.ts';

export type { ClientFacts, ExportAccess, ExportSource, NbdExport, TlsMode } from './exports.ts';
export type { ServerTls } from './server-connection.ts';
export type { PrivateAnswer, PrivateOption, Successor } from '../handshake/private-option.ts';
export type { NbdLog } from './server-log.ts';

export interface NbdServerOptions {
  readonly network: Network;
  readonly clock: Clock;
  readonly exports: ExportSource;
  readonly log: NbdLog;
  /** NBD_LIMITS_DEFAULT if not given. */
  readonly limits?: NbdLimits;
  /** Off if not given. */
  readonly tls?: ServerTls;
  /** Answers the private option; without it there is none. */
  readonly privateOption?: PrivateOption;
}

/** What a server did since it was made, and who is there now. */
export interface NbdServerCounters extends Readonly<ClientCounters> {
  readonly connections: number;
  /** Of these, still in the handshake. */
  readonly handshakes: number;
}

export class NbdServer {
  private readonly network: Network;
  private readonly clock: Clock;
  private readonly exports: ExportSource;
  private readonly privateOption: PrivateOption | null;
  private readonly log: RateLimitedLog;
  private readonly shared: ServerShared;
  private readonly listeners: Listener[] = [];
  private readonly admission: Admission<ServerConnection>;
  private readonly counted: ClientCounters = { accepted: 0, refused: 0, failed: 0, denied: 0 };
  private readonly clientEvents: ServerConnectionEvents = {
    chose: (client) => this.admission.chose(client),
    failed: () => this.counted.failed++,
    denied: () => this.counted.denied++,
    gone: (client) => this.admission.left(client),
  };
  private tls: ServerTls;
  private stopping = false;
  private closing: Promise<void> | null = null;

  constructor(options: NbdServerOptions) {
    this.network = options.network;
    this.clock = options.clock;
    this.exports = options.exports;
    this.privateOption = options.privateOption ?? null;
    this.log = new RateLimitedLog(options.log, options.clock);
    const limits = options.limits ?? NBD_LIMITS_DEFAULT;
    this.shared = new ServerShared(options.clock, limits);
    this.admission = new Admission(limits);
    this.tls = options.tls ?? { mode: 'off' };
  }

  /** Clients, those in the handshake included. */
  get connections(): number {
    return this.admission.all.size;
  }

  get counters(): NbdServerCounters {
    const { connections, admission, counted } = this;
    return { connections, handshakes: admission.handshakes, ...counted };
  }

  /** Memory in bytes: lent to requests and replies of all clients, and kept for reuse. */
  get bufferBytes(): { readonly lent: number; readonly kept: number } {
    const { buffers } = this.shared;
    return { lent: buffers.lentBytes, kept: buffers.keptBytes };
  }

  /** Clients that use `device`. */
  connectionsOf(device: BlockDevice): number {
    let count = 0;
    for (const client of this.admission.all) if (client.device === device) count++;
    return count;
  }

  /**
   * Accepts clients at `address`; may be called for several. Resolves with the address, with the port
   * that the system chose. Rejects as `Network.listen` does.
   */
  listen(address: Address, rights?: SocketRights): Promise<Address> {
    return this.begin((accept) => this.network.listen(address, accept, rights));
  }

  /** Accepts clients at a listening socket that the process inherited; resolves and rejects as `listen`. */
  adopt(descriptor: number): Promise<Address> {
    return this.begin((accept) => this.network.adopt(descriptor, accept));
  }

  /** Clients that come from now on are served so. */
  setTls(tls: ServerTls): void {
    this.tls = tls;
  }

  private async begin(
    open: (accept: (connection: Connection) => void) => Promise<Listener>,
  ): Promise<Address> {
    assert(!this.stopping, 'the server is closed');
    const listener = await open((connection) => this.accept(connection));
    this.listeners.push(listener);
    // Closed while the listener was coming up: close has not seen it.
    if (this.stopping) await listener.close();
    return listener.address;
  }

  /**
   * Stops accepting and gives out no export any more; requests in flight get their answers, later ones
   * ESHUTDOWN; idle clients are disconnected. After NBD_DRAIN_MS_MAX what is left is cut off. A
   * device may hold requests of a client that was cut off even then; their answers are dropped.
   */
  close(): Promise<void> {
    this.closing ??= this.stop();
    return this.closing;
  }

  /**
   * Ends the clients of one device in the same way, or with `cut` at once, without an answer to what they wait for. The caller
   * takes care that no new ones come.
   */
  async closeSessionsOf(device: BlockDevice, cut = false): Promise<void> {
    const clients = [...this.admission.all].filter((client) => client.device === device);
    if (!cut) return await this.drain(clients);
    for (const client of clients) client.cut('its volume goes on elsewhere');
    await Promise.all(clients.map((client) => client.over));
  }

  private async stop(): Promise<void> {
    this.stopping = true;
    const closed = this.listeners.map((listener) => listener.close());
    await Promise.all([...closed, this.drain([...this.admission.all])]);
  }

  private async drain(clients: readonly ServerConnection[]): Promise<void> {
    const cut = (those: readonly ServerConnection[]): void => {
      for (const client of those)
        if (this.admission.all.has(client)) client.cut('server is stopping');
    };
    const handshakes = this.clock.after(NBD_HANDSHAKE_DRAIN_MS_MAX, () =>
      cut(clients.filter((client) => client.shakesHands)),
    );
    const deadline = this.clock.after(NBD_DRAIN_MS_MAX, () => cut(clients));
    for (const client of clients) client.stop();
    await Promise.all(clients.map((client) => client.over));
    handshakes.cancel();
    deadline.cancel();
  }

  private accept(connection: Connection): void {
    if (this.stopping) return connection.destroy();
    const refusal = this.admission.refusal(connection.remoteIp);
    if (refusal !== null) {
      this.counted.refused++;
      this.log.warn({ peer: connection.peer }, refusal);
      return connection.destroy();
    }
    this.counted.accepted++;
    const client = new ServerConnection({
      connection,
      exports: this.exports,
      privateOption: this.privateOption,
      tls: this.tls,
      shared: this.shared,
      log: this.log,
      stopping: () => this.stopping,
      events: this.clientEvents,
    });
    const oldest = this.admission.enter(client);
    oldest?.cut(`more than ${this.shared.limits.handshakes} handshakes, and this is the oldest`);
    client.begin();
  }
}
