/**
 * Byte streams, as everything below the daemon sees them. `node-network.ts` is the real form; the
 * simulator passes its own. An address is `host:port`, `[v6]:port` or `unix:PATH`.
 */

export type Address =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

export interface ConnectionHandler {
  /**
   * Bytes came: `buffer[0 .. length)`. They are valid only during this call (the buffer is shared by
   * all connections of the thread), and all of them must be consumed or copied in it.
   */
  received(buffer: Buffer, length: number): void;
  /** The backlog of unsent bytes fell to zero. */
  drained(): void;
  /** The peer will send no more. Sending is still possible. */
  ended(): void;
  /** Last call ever. `error` is null for an orderly close. */
  closed(error: Error | null): void;
}

export interface Connection {
  /** Who is at the other end, for logs. */
  readonly peer: string;
  /** Bytes handed to `send` and not yet given to the kernel. */
  readonly backlogBytes: number;
  /** Begins reading; called once. */
  start(handler: ConnectionHandler): void;
  /** Queues bytes. The buffer is in use until `sent` is called; `sent` is called once, also on failure. */
  send(buffer: Buffer, sent: () => void): void;
  /** Between `cork` and `uncork`, sends are gathered into one system call. */
  cork(): void;
  uncork(): void;
  /** Stops and restarts delivery of bytes. One call of `received` may still come after `pause`. */
  pause(): void;
  resume(): void;
  /** Sends what is queued, then closes. */
  end(): void;
  /** Closes at once. */
  destroy(): void;
}

export interface Listener {
  /** With the port that the system chose, when 0 was asked for. */
  readonly address: Address;
  /** Stops accepting; connections live on. Removes the socket file of a unix address. */
  close(): Promise<void>;
}

export interface Network {
  /** Throws BlockferryError ADDRESS_IN_USE or ADDRESS_UNAVAILABLE. A stale unix socket file is replaced. */
  listen(address: Address, accept: (connection: Connection) => void): Promise<Listener>;
  /** Rejects with the system's error after at most `timeoutMs`. */
  connect(address: Address, timeoutMs: number): Promise<Connection>;
}
