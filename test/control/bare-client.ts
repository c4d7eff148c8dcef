/** An NBD client of a few lines: EXPORT_NAME, then simple requests, one at a time. For what no tool tells. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { Scope } from '../support/scope.ts';
import { waitUntil } from '../support/wait.ts';
import type { LocalNode } from './fixture.ts';

const GREETING_BYTES = 18;
const EXPORT_NAME_REPLY_BYTES = 8 + 2 + 124;
const REPLY_BYTES = 16;
const READ = 0;
const WRITE = 1;

export class BareClient {
  /** Resolves when the node, or the test, ended the connection. */
  readonly closed: Promise<unknown>;
  private readonly socket: Socket;
  private received = Buffer.alloc(0);
  private ended = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    this.closed = once(socket, 'close');
    socket.on('error', () => undefined);
    socket.on('close', () => (this.ended = true));
    socket.on('data', (chunk: Buffer) => (this.received = Buffer.concat([this.received, chunk])));
  }

  /** Null when the node has no such export for us. */
  static async attach(scope: Scope, node: LocalNode, name: string): Promise<BareClient | null> {
    const address = node.config.nbd[0]?.address;
    if (address?.kind !== 'unix') throw new Error('a unix socket');
    const socket = connect(address.path);
    scope.defer('end the client', () => void socket.destroy());
    const client = new BareClient(socket);
    await once(socket, 'connect');
    const bytes = Buffer.byteLength(name);
    const option = Buffer.alloc(20 + bytes);
    option.writeUInt32BE(1, 0);
    option.write('IHAVEOPT', 4);
    option.writeUInt32BE(1, 12);
    option.writeUInt32BE(bytes, 16);
    option.write(name, 20);
    socket.write(option);
    await client.take(GREETING_BYTES);
    const reply = await client.take(EXPORT_NAME_REPLY_BYTES);
    return reply === null ? null : client;
  }

  /** The bytes, or the error of the reply. */
  async read(offset: number, length: number): Promise<Buffer | number> {
    const error = await this.request(READ, offset, length, Buffer.alloc(0));
    if (error !== 0) return error;
    return (await this.take(length)) ?? -1;
  }

  /** The error of the reply; 0 when it was written, -1 when the connection ended instead. */
  async write(offset: number, data: Buffer): Promise<number> {
    return await this.request(WRITE, offset, data.length, data);
  }

  detach(): Promise<unknown> {
    this.socket.end();
    return this.closed;
  }

  private async request(
    type: number,
    offset: number,
    length: number,
    payload: Buffer,
  ): Promise<number> {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(0x25609513, 0);
    header.writeUInt16BE(type, 6);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeUInt32BE(length, 24);
    this.socket.write(Buffer.concat([header, payload]));
    const reply = await this.take(REPLY_BYTES);
    return reply?.readUInt32BE(4) ?? -1;
  }

  /** The next bytes; null when the connection ended before them. */
  private async take(length: number): Promise<Buffer | null> {
    await waitUntil('the node to answer', () => this.ended || this.received.length >= length);
    if (this.received.length < length) return null;
    const bytes = this.received.subarray(0, length);
    this.received = this.received.subarray(length);
    return bytes;
  }
}
