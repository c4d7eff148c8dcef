/**
 * One socket, in the form of `Connection`.
 *
 * Invariants:
 * - `sent` of every buffer is called once, before `closed`, and never from inside `send`.
 * - `closed` is called once, after all else, also when the end came before `start`.
 * - After `end` or `destroy` the handler hears nothing but `closed`, and what is still sent is dropped.
 *
 * Reads go to one buffer through the `onread` option of `net.Socket`, which a socket made by a server
 * does not have: its handle moves to a second socket that does. That uses `_handle`, which Node does
 * not document; where it is missing, the socket is read through its 'data' event.
 */
import assert from 'node:assert';
import * as net from 'node:net';

import {
  CONNECTION_KEEP_ALIVE_MS,
  CONNECTION_LINGER_MS,
  NBD_READ_BUFFER_BYTES,
  UNIX_SEND_BUFFER_BYTES,
} from './limits.ts';
import type {
  Connection,
  ConnectionHandler,
  ConnectionHealth,
  TlsClientTerms,
  TlsPeer,
  TlsServerContext,
} from './network.ts';
import { openSecureClient } from './tls/secure-client.ts';
import type { SecureOutcome } from './tls/secure-parts.ts';
import { openSecureSocket } from './tls/secure-socket.ts';
import { loadSyscalls, type Syscalls } from './syscalls.ts';
import { LoadedTlsClientTerms } from './tls/tls-client.ts';
import { LoadedTlsContext } from './tls/tls.ts';

/** Who is at the other end: for logs, and as `Connection.remoteIp`. */
export interface RemoteEnd {
  readonly peer: string;
  readonly ip: string | null;
}

interface Receiver {
  received(buffer: Buffer, length: number): void;
  landing(): Buffer | null;
}

/** A socket that reads into the shared buffer, and where to say who gets the bytes. */
export interface ReceivingSocket {
  readonly socket: net.Socket;
  receiver: Receiver | null;
}

/** For a socket whose bytes are TLS' business. */
const deaf: Receiver = { received() {}, landing: () => null };

/** Shared by all connections of this thread. Nobody is shown more than the bytes that were just read. */
let sharedReadBuffer: Buffer | null = null;

/** A socket, not reading yet, over the system's `handle` or still to be connected. */
export function createReceivingSocket(handle?: object): ReceivingSocket {
  sharedReadBuffer ??= Buffer.allocUnsafeSlow(NBD_READ_BUFFER_BYTES);
  const shared = sharedReadBuffer;
  let current: Buffer | null = null;
  let reading = false;
  // Node asks for each handle that it connects with, one for each address of a name, and after each read. Only
  // then does it keep the buffer that it has when told nothing: a handle without one reads elsewhere.
  const nextBuffer = (): Buffer | null => {
    const wanted = receiving?.receiver?.landing() ?? shared;
    if (reading && wanted === current) return null;
    current = wanted;
    return wanted;
  };
  const options = {
    handle,
    allowHalfOpen: true,
    // Any byte left after `write` counts as a backlog, so that 'drain' tells when it fell to zero.
    writableHighWaterMark: 0,
    onread: {
      buffer: nextBuffer as () => Buffer,
      callback(length: number): boolean {
        assert(receiving?.receiver, 'bytes came to a connection that was not started');
        assert(current !== null, 'bytes come into a buffer');
        reading = true;
        receiving.receiver.received(current, length);
        return true;
      },
    },
  };
  // Node asks for the first buffer while it makes the socket.
  let receiving: ReceivingSocket | null = null;
  receiving = { socket: new net.Socket(options), receiver: null };
  receiving.socket.pause();
  return receiving;
}

/** Moves a connection from the paused socket that a server made to one that reads into the shared buffer. */
export function adoptAccepted(socket: net.Socket, remote: RemoteEnd): SocketConnection {
  const owner = socket as unknown as HandleOwner;
  const handle = owner._handle;
  if (handle === null || handle === undefined) return new SocketConnection(socket, null, remote);
  owner._handle = null;
  const receiving = createReceivingSocket(handle);
  // It has no handle any more: this only takes it off the books of its server.
  socket.destroy();
  return new SocketConnection(receiving.socket, receiving, remote);
}

/** What Node does not document. The descriptor is -1 once the handle is closed. */
interface HandleOwner {
  _handle?: { readonly fd?: number } | null;
}

/**
 * The system's default for a unix socket holds less than one large reply: server and client would take turns.
 * TCP sizes its buffers by itself.
 */
function widenSendBuffer(socket: net.Socket): void {
  const descriptor = (socket as unknown as HandleOwner)._handle?.fd ?? -1;
  if (descriptor >= 0) loadSyscalls()?.setSendBuffer?.(descriptor, UNIX_SEND_BUFFER_BYTES);
}

let peerState: Syscalls['peerState'] | undefined;

export class SocketConnection implements Connection, Receiver {
  readonly peer: string;
  readonly remoteIp: string | null;
  /** The system's socket. */
  private readonly raw: net.Socket;
  /** What is read and written: `raw`, or TLS over it. */
  private socket: net.Socket;
  private readonly receiving: ReceivingSocket | null;
  private handler: ConnectionHandler | null = null;
  private failure: Error | null = null;
  private corks = 0;
  private paused = false;
  /** TLS has begun, and the other side has not proved itself yet. */
  private securing = false;
  /** `end` or `destroy` was called. */
  private leaving = false;
  private gone = false;
  private linger: NodeJS.Timeout | null = null;

  /** `socket` is paused and allows half-open; `receiving` is null when it has no `onread`. */
  constructor(socket: net.Socket, receiving: ReceivingSocket | null, remote: RemoteEnd) {
    this.peer = remote.peer;
    this.remoteIp = remote.ip;
    this.raw = socket;
    this.socket = socket;
    this.receiving = receiving;
    if (remote.ip === null) widenSendBuffer(socket);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, CONNECTION_KEEP_ALIVE_MS);
    if (receiving !== null) receiving.receiver = this;
    this.watch(socket, receiving === null);
  }

  get backlogBytes(): number {
    return this.socket.writableLength;
  }

  start(handler: ConnectionHandler): void {
    assert(this.handler === null, 'a connection is started once');
    this.handler = handler;
    if (this.gone) process.nextTick(() => handler.closed(this.failure));
    else this.socket.resume();
  }

  send(buffer: Buffer, sent: () => void): void {
    if (this.leaving || this.gone) process.nextTick(sent);
    else this.socket.write(buffer, () => sent());
  }

  cork(): void {
    this.corks += 1;
    this.socket.cork();
  }

  uncork(): void {
    this.corks -= 1;
    this.socket.uncork();
  }

  pause(): void {
    this.paused = true;
    if (!this.leaving) this.socket.pause();
  }

  resume(): void {
    this.paused = false;
    if (!this.leaving) this.socket.resume();
  }

  health(): ConnectionHealth {
    if (this.gone || this.raw.destroyed) return 'dead';
    if (peerState === undefined) peerState = loadSyscalls()?.peerState ?? null;
    if (peerState === null) return 'open';
    const descriptor = (this.raw as unknown as HandleOwner)._handle?.fd ?? -1;
    if (descriptor < 0) return 'open';
    const state = peerState(descriptor);
    return state === 'unknown' ? 'open' : state;
  }

  /** The system's socket, for one who speaks on it in the place of this program. Null: it is encrypted, or closed. */
  descriptor(): number | null {
    if (this.socket !== this.raw || this.raw.destroyed) return null;
    const descriptor = (this.raw as unknown as HandleOwner)._handle?.fd ?? -1;
    return descriptor < 0 ? null : descriptor;
  }

  startTls(how: TlsServerContext | TlsClientTerms, secured: (peer: TlsPeer) => void): void {
    assert(this.handler !== null, 'a connection is started before it is secured');
    assert(this.socket === this.raw, 'a connection is secured once');
    if (this.leaving || this.gone) return;
    // What was sent so far goes out in clear, and the handshake behind it: none of it may be held back.
    for (let corks = this.corks; corks > 0; corks -= 1) this.raw.uncork();
    // From here on TLS reads the socket; nothing that still comes this way may pass for plain bytes.
    if (this.receiving !== null) this.receiving.receiver = deaf;
    this.securing = true;
    this.socket = secureSocketOver(this.raw, how, {
      secured: (peer) => {
        this.securing = false;
        if (!this.leaving) secured(peer);
      },
      failed: (error) => {
        this.failure ??= error;
      },
    });
    for (let corks = this.corks; corks > 0; corks -= 1) this.socket.cork();
    this.watch(this.socket, true);
    if (this.paused) this.socket.pause();
    else this.socket.resume();
  }

  end(): void {
    if (this.leaving) return;
    // Nothing can be said to one that is not known yet.
    if (this.securing) return this.destroy();
    this.leaving = true;
    this.socket.end();
    // What the peer still sends is read and dropped: closing over unread bytes makes the system reset
    // the connection, and the peer may lose the last bytes that were sent to it.
    this.socket.resume();
  }

  destroy(): void {
    this.leaving = true;
    this.socket.destroy();
  }

  received(buffer: Buffer, length: number): void {
    if (this.leaving) return;
    assert(this.handler !== null, 'bytes came to a connection that was not started');
    this.handler.received(buffer, length);
  }

  /** The handler's memory stays in use until `closed` once it is asked no more. */
  landing(): Buffer | null {
    return this.leaving ? null : (this.handler?.landing?.() ?? null);
  }

  /** Events of a socket that has another one over it are heard no more, but for its errors. */
  private watch(socket: net.Socket, byData: boolean): void {
    const heard = (event: () => void) => () => {
      if (this.socket === socket) event();
    };
    if (byData) {
      socket.on('data', (chunk: Buffer) => {
        if (this.socket === socket) this.received(chunk, chunk.length);
      });
    }
    socket.on(
      'drain',
      heard(() => this.drained()),
    );
    socket.on(
      'end',
      heard(() => this.ended()),
    );
    socket.on(
      'finish',
      heard(() => this.startLinger()),
    );
    socket.on(
      'close',
      heard(() => this.closed()),
    );
    socket.on('error', (error) => {
      this.failure ??= error;
    });
  }

  private drained(): void {
    if (!this.leaving) this.handler?.drained();
  }

  private ended(): void {
    if (!this.leaving && !this.securing) this.handler?.ended();
  }

  /** All was sent, and the peer was told so. It has a moment to close its side. */
  private startLinger(): void {
    this.linger = setTimeout(() => this.socket.destroy(), CONNECTION_LINGER_MS);
    this.linger.unref();
  }

  private closed(): void {
    assert(!this.gone, 'a connection closes once');
    this.gone = true;
    if (this.linger !== null) clearTimeout(this.linger);
    this.handler?.closed(this.failure);
  }
}

function secureSocketOver(
  raw: net.Socket,
  how: TlsServerContext | TlsClientTerms,
  outcome: SecureOutcome,
): net.Socket {
  if (how.kind === 'tls-server-context') {
    assert(how instanceof LoadedTlsContext, 'a context comes from loadTlsServerContext');
    return openSecureSocket(raw, how, outcome);
  }
  assert(how instanceof LoadedTlsClientTerms, 'terms come from loadTlsClientContext');
  return openSecureClient(raw, how, outcome);
}
