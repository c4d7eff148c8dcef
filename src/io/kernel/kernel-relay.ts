/**
 * A socket for the kernel whose bytes this process carries to and from a connection that the kernel cannot speak on:
 * one with TLS.
 *
 * Invariants:
 * - Bytes go on in order, and a slow end stops the reading of the other one: what is on its way is bounded.
 * - When either side ends, both are closed, so that the kernel sees a lost connection.
 */
import { closeSync } from 'node:fs';
import { Socket } from 'node:net';

import { BlockferryError } from '../errors.ts';
import { ATTACH_RELAY_BYTES_MAX } from '../limits.ts';
import type { Connection, ConnectionHandler } from '../network.ts';
import { loadSyscalls } from '../syscalls.ts';

export class KernelRelay implements ConnectionHandler {
  /** For the kernel. */
  readonly descriptor: number;
  private readonly connection: Connection;
  private readonly near: Socket;
  private held = true;

  /** @throws BlockferryError ATTACH_UNSUPPORTED */
  constructor(connection: Connection) {
    const pair = loadSyscalls()?.socketPair?.() ?? -1;
    if (typeof pair === 'number') {
      throw new BlockferryError('ATTACH_UNSUPPORTED', 'no pair of sockets can be made here');
    }
    this.connection = connection;
    this.descriptor = pair[0];
    this.near = new Socket({ fd: pair[1], readable: true, writable: true });
    this.near.on('data', (bytes: Buffer) => {
      connection.send(bytes, () => {});
      if (connection.backlogBytes > ATTACH_RELAY_BYTES_MAX) this.near.pause();
    });
    this.near.on('drain', () => connection.resume());
    this.near.on('error', () => connection.destroy());
    this.near.on('close', () => connection.end());
  }

  /** The kernel has it. */
  handedOver(): void {
    if (!this.held) return;
    this.held = false;
    closeSync(this.descriptor);
    this.connection.resume();
  }

  /** Nobody wants it. */
  drop(): void {
    this.handedOver();
    this.near.destroy();
    this.connection.destroy();
  }

  received(buffer: Buffer, length: number): void {
    // The buffer is somebody else's after this call.
    if (!this.near.write(Buffer.from(buffer.subarray(0, length)))) this.connection.pause();
  }

  drained(): void {
    this.near.resume();
  }

  ended(): void {
    this.near.destroy();
  }

  closed(): void {
    this.near.destroy();
  }
}
