/**
 * A network whose listeners let nobody in before `open`.
 *
 * A node takes all its addresses before it seeks mirrors, so that a start that cannot have them changes
 * nothing; and serves nobody before its volumes are ready. A client that comes between waits a moment,
 * where a refusal would make a kernel client give up its device.
 *
 * Invariants: each connection is let in once or destroyed; at most NBD_CONNECTIONS_MAX wait.
 */
import { NBD_CONNECTIONS_MAX } from '../../io/limits.ts';
import type { Address, Connection, Listener, Network, SocketRights } from '../../io/network.ts';

type Accept = (connection: Connection) => void;

export class HeldNetwork implements Network {
  private readonly network: Network;
  private readonly held: { connection: Connection; accept: Accept }[] = [];
  private isOpen = false;

  constructor(network: Network) {
    this.network = network;
  }

  listen(address: Address, accept: Accept, rights?: SocketRights): Promise<Listener> {
    return this.network.listen(address, this.holding(accept), rights);
  }

  adopt(descriptor: number, accept: Accept): Promise<Listener> {
    return this.network.adopt(descriptor, this.holding(accept));
  }

  connect(address: Address, timeoutMs: number): Promise<Connection> {
    return this.network.connect(address, timeoutMs);
  }

  /** Lets in those who wait, and everyone after them. */
  open(): void {
    this.isOpen = true;
    for (const { connection, accept } of this.held.splice(0)) accept(connection);
  }

  /** The start failed: those who wait are sent away. */
  abandon(): void {
    for (const { connection } of this.held.splice(0)) connection.destroy();
  }

  private holding(accept: Accept): Accept {
    return (connection) => {
      if (this.isOpen) accept(connection);
      else if (this.held.length < NBD_CONNECTIONS_MAX) this.held.push({ connection, accept });
      else connection.destroy();
    };
  }
}
