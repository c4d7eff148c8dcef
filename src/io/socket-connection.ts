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

import { CONNECTION_KEEP_ALIVE_MS, CONNECTION_LINGER_MS, NBD_READ_BUFFER_BYTES } from './limits.ts';
import type { Connection, ConnectionHandler } from './network.ts';

interface Receiver {
  received(buffer: Buffer, length: number): void;
}

/** A socket that reads into the shared buffer, and where to say who gets the bytes. */
export interface ReceivingSocket {
  readonly socket: net.Socket;
  receiver: Receiver | null;
}

/** Shared by all connections of this thread. Nobody is shown more than the bytes that were just read. */
let sharedReadBuffer: Buffer | null = null;

/** A socket, not reading yet, over the system's `handle` or still to be connected. */
export function createReceivingSocket(handle?: object): ReceivingSocket {
  sharedReadBuffer ??= Buffer.allocUnsafeSlow(NBD_READ_BUFFER_BYTES);
  const buffer = sharedReadBuffer;
  const options = {
    handle,
    allowHalfOpen: true,
    // Any byte left after `write` counts as a backlog, so that 'drain' tells when it fell to zero.
    writableHighWaterMark: 0,
    onread: {
      buffer,
      callback(length: number): boolean {
        assert(receiving.receiver !== null, 'bytes came to a connection that was not started');
        receiving.receiver.received(buffer, length);
        return true;
      },
    },
  };
  const receiving: ReceivingSocket = { socket: new net.Socket(options), receiver: null };
  receiving.socket.pause();
  return receiving;
}

/** Moves a connection from the paused socket that a server made to one that reads into the shared buffer. */
export function adoptAccepted(socket: net.Socket, peer: string): SocketConnection {
  const owner = socket as unknown as { _handle?: object | null };
  const handle = owner._handle;
  if (handle === null || handle === undefined) return new SocketConnection(socket, null, peer);
  owner._handle = null;
  const receiving = createReceivingSocket(handle);
  // It has no handle any more: this only takes it off the books of its server.
  socket.destroy();
  return new SocketConnection(receiving.socket, receiving, peer);
}

export class SocketConnection implements Connection, Receiver {
  readonly peer: string;
  private readonly socket: net.Socket;
  private handler: ConnectionHandler | null = null;
  private failure: Error | null = null;
  /** `end` or `destroy` was called. */
  private leaving = false;
  private gone = false;
  private linger: NodeJS.Timeout | null = null;

  /** `socket` is paused and allows half-open; `receiving` is null when it has no `onread`. */
  constructor(socket: net.Socket, receiving: ReceivingSocket | null, peer: string) {
    this.peer = peer;
    this.socket = socket;
    socket.setNoDelay(true);
    socket.setKeepAlive(true, CONNECTION_KEEP_ALIVE_MS);
    if (receiving !== null) receiving.receiver = this;
    else socket.on('data', (chunk: Buffer) => this.received(chunk, chunk.length));
    socket.on('drain', () => this.drained());
    socket.on('end', () => this.ended());
    socket.on('finish', () => this.startLinger());
    socket.on('error', (error) => {
      this.failure ??= error;
    });
    socket.on('close', () => this.closed());
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
    this.socket.cork();
  }

  uncork(): void {
    this.socket.uncork();
  }

  pause(): void {
    if (!this.leaving) this.socket.pause();
  }

  resume(): void {
    if (!this.leaving) this.socket.resume();
  }

  end(): void {
    if (this.leaving) return;
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

  private drained(): void {
    if (!this.leaving) this.handler?.drained();
  }

  private ended(): void {
    if (!this.leaving) this.handler?.ended();
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
