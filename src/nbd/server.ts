/**
 * The NBD server: listeners, and the clients that came through them.
 *
 * Invariants:
 * - At most `limits.connections` clients; one more is closed at accept.
 * - A client counts until its socket is closed and no device holds a request of it.
 * - `close` and `closeSessionsOf` end within NBD_DRAIN_MS_MAX and the closing of the sockets, whatever
 *   clients and devices do.
 */
import assert from 'node:assert';
import type { Clock } from '../io/clock.ts';
import type { BlockDevice } from '../io/device.ts';
import { NBD_DRAIN_MS_MAX, NBD_HANDSHAKE_DRAIN_MS_MAX } from '../io/limits.ts';
import type { Address, Connection, Listener, Network } from '../io/network.ts';
import { ServerConnection } from './server-connection.ts';
import type { ExportSource } from './exports.ts';
import { type NbdLog, RateLimitedLog } from './server-log.ts';
import { NBD_LIMITS_DEFAULT, type NbdLimits } from './server-limits.ts';
import { ServerShared } from './server-shared.ts';

export type { ClientFacts, ExportAccess, ExportSource, NbdExport } from './exports.ts';
export type { NbdLog } from './server-log.ts';

export interface NbdServerOptions {
  readonly network: Network;
  readonly clock: Clock;
  readonly exports: ExportSource;
  readonly log: NbdLog;
  /** NBD_LIMITS_DEFAULT if not given. */
  readonly limits?: NbdLimits;
}

export class NbdServer {
  private readonly network: Network;
  private readonly clock: Clock;
  private readonly exports: ExportSource;
  private readonly log: RateLimitedLog;
  private readonly shared: ServerShared;
  private readonly listeners: Listener[] = [];
  private readonly clients = new Set<ServerConnection>();
  private stopping = false;
  private closing: Promise<void> | null = null;

  constructor(options: NbdServerOptions) {
    this.network = options.network;
    this.clock = options.clock;
    this.exports = options.exports;
    this.log = new RateLimitedLog(options.log, options.clock);
    this.shared = new ServerShared(options.clock, options.limits ?? NBD_LIMITS_DEFAULT);
  }

  /** Clients, those in the handshake included. */
  get connections(): number {
    return this.clients.size;
  }

  /** Memory in bytes: lent to requests and replies of all clients, and kept for reuse. */
  get bufferBytes(): { readonly lent: number; readonly kept: number } {
    const { buffers } = this.shared;
    return { lent: buffers.lentBytes, kept: buffers.keptBytes };
  }

  /** Clients that use `device`. */
  connectionsOf(device: BlockDevice): number {
    let count = 0;
    for (const client of this.clients) if (client.device === device) count++;
    return count;
  }

  /**
   * Accepts clients at `address`; may be called for several. Resolves with the address, with the port
   * that the system chose. Rejects as `Network.listen` does.
   */
  async listen(address: Address): Promise<Address> {
    assert(!this.stopping, 'the server is closed');
    const listener = await this.network.listen(address, (connection) => this.accept(connection));
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

  /** Ends the clients of one device in the same way. The caller takes care that no new ones come. */
  closeSessionsOf(device: BlockDevice): Promise<void> {
    return this.drain([...this.clients].filter((client) => client.device === device));
  }

  private async stop(): Promise<void> {
    this.stopping = true;
    const closed = this.listeners.map((listener) => listener.close());
    await Promise.all([...closed, this.drain([...this.clients])]);
  }

  private async drain(clients: readonly ServerConnection[]): Promise<void> {
    const cut = (those: readonly ServerConnection[]): void => {
      for (const client of those) if (this.clients.has(client)) client.cut('server is stopping');
    };
    const handshakes = this.clock.after(NBD_HANDSHAKE_DRAIN_MS_MAX, () =>
      cut(clients.filter((client) => client.device === null)),
    );
    const deadline = this.clock.after(NBD_DRAIN_MS_MAX, () => cut(clients));
    for (const client of clients) client.stop();
    await Promise.all(clients.map((client) => client.over));
    handshakes.cancel();
    deadline.cancel();
  }

  private accept(connection: Connection): void {
    if (this.stopping) return connection.destroy();
    const { connections } = this.shared.limits;
    if (this.clients.size >= connections) {
      this.log.warn({ peer: connection.peer }, `more than ${connections} connections`);
      return connection.destroy();
    }
    const client = new ServerConnection({
      connection,
      exports: this.exports,
      shared: this.shared,
      log: this.log,
      stopping: () => this.stopping,
      gone: (gone) => this.clients.delete(gone),
    });
    this.clients.add(client);
    client.begin();
  }
}
