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
  /**
   * Where the next bytes should go instead of the shared buffer, so that a large payload lands in its place.
   * Asked after each `received`, which then gets this very buffer; null goes back to the shared one. The
   * memory is the connection's until it asks again or says `closed`. Where that cannot be had the bytes
   * come in the shared buffer all the same.
   */
  landing?(): Buffer | null;
  /** The backlog of unsent bytes fell to zero. */
  drained(): void;
  /** The peer will send no more. Sending is still possible. */
  ended(): void;
  /** Last call ever. `error` is null for an orderly close. */
  closed(error: Error | null): void;
}

/** Certificates and keys of a server, loaded and checked (`tls.ts`). Opaque to the protocol. */
export interface TlsServerContext {
  readonly kind: 'tls-server-context';
}

/** Whom a client trusts and what it has to show, loaded and checked (`tls-client.ts`). Opaque to the protocol. */
export interface TlsClientContext {
  readonly kind: 'tls-client-context';
  /**
   * For a connection to the server of this name or address. `user`: whose pre-shared key; null: the only one that there is.
   * @throws BlockferryError TLS_INVALID: there is no such key
   */
  toward(serverName: string, user: string | null): TlsClientTerms;
}

/** How a client secures one connection, and who must be at its other end. */
export interface TlsClientTerms {
  readonly kind: 'tls-client-terms';
}

/** Who proved to be at the other end of an encrypted connection. */
export interface TlsPeer {
  /** `anonymous`: encrypted, and the client showed nothing. */
  readonly kind: 'anonymous' | 'x509' | 'psk';
  /** Subject of the verified certificate in the order of RFC 4514 (`CN=a,O=b`; may be empty), or the PSK user; '' if anonymous. */
  readonly identity: string;
}

/** `ended`: the peer sends no more, bytes may still wait. `dead`: reset, or closed both ways. */
export type ConnectionHealth = 'open' | 'ended' | 'dead';

export interface Connection {
  /** Who is at the other end, for logs. */
  readonly peer: string;
  /** IP address of the peer without port or scope, IPv4-mapped IPv6 as IPv4; null on a unix socket. */
  readonly remoteIp: string | null;
  /** Bytes handed to `send` and not yet given to the kernel. At 0 all buffers that were sent are free again. */
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
  /** What the system knows of the peer now, also while paused; `open` where that cannot be asked. */
  health(): ConnectionHealth;
  /**
   * Becomes one end of a TLS connection: the server's with a context, the client's with terms. What was sent before goes in clear first. `secured` is
   * called once the handshake is done; from then on `received` and `send` are about plain bytes. A
   * failed handshake closes the connection (`closed`, with the reason). Called inside `received` or later.
   */
  startTls(how: TlsServerContext | TlsClientTerms, secured: (peer: TlsPeer) => void): void;
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

/** Rights of the file of a unix socket. What is absent stays as the system makes it. */
export interface SocketRights {
  /** Permission bits, 0 to 0o777. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
}

export interface Network {
  /**
   * Throws BlockferryError ADDRESS_IN_USE or ADDRESS_UNAVAILABLE. A stale unix socket file is replaced.
   * `rights` are in force before the first client is accepted.
   */
  listen(
    address: Address,
    accept: (connection: Connection) => void,
    rights?: SocketRights,
  ): Promise<Listener>;
  /** The same for a listening socket that the process inherited, e.g. from systemd. */
  adopt(descriptor: number, accept: (connection: Connection) => void): Promise<Listener>;
  /** Rejects with the system's error after at most `timeoutMs`. */
  connect(address: Address, timeoutMs: number): Promise<Connection>;
}
