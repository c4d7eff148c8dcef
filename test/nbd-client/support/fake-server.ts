/**
 * An NBD server made of one script, on a unix socket: it says exactly what a test wants said. Its
 * encoder is written from the specification and shares nothing with the sources under test.
 */
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { systemClock } from '../../../src/io/clock.ts';
import { nodeNetwork } from '../../../src/io/node-network.ts';
import { NbdClient, type NbdClientOptions } from '../../../src/nbd/client/client.ts';
import { parseNbdUri, type NbdUri } from '../../../src/nbd/uri/uri.ts';
import type { Scope } from '../../support/scope.ts';

export const GREETING: Buffer = Buffer.from('4e42444d4147494349484156454f50540003', 'hex');

/** HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_WRITE_ZEROES. */
export const FLAGS = 0x004d;

export const u16 = (value: number): Buffer => Buffer.from([value >>> 8, value & 255]);
export const u32 = (value: number): Buffer =>
  Buffer.from([value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]);
export const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};

export const optionReply = (option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer =>
  Buffer.concat([
    Buffer.from('0003e889045565a9', 'hex'),
    u32(option),
    u32(type),
    u32(data.length),
    data,
  ]);

export const infoExport = (size: number | bigint, flags: number): Buffer =>
  optionReply(7, 3, Buffer.concat([u16(0), u64(size), u16(flags)]));

export const infoBlockSize = (minimum: number, preferred: number, maximum: number): Buffer =>
  optionReply(7, 3, Buffer.concat([u16(3), u32(minimum), u32(preferred), u32(maximum)]));

export const ACK: Buffer = optionReply(7, 1);

export interface WireRequest {
  readonly flags: number;
  readonly command: number;
  readonly cookie: Buffer;
  readonly offset: number;
  readonly length: number;
  readonly payload: Buffer;
}

export const simpleReply = (cookie: Buffer, errno = 0, data: Buffer = Buffer.alloc(0)): Buffer =>
  Buffer.concat([u32(0x67446698), u32(errno), cookie, data]);

/** Bytes of one client, to be awaited piece by piece. */
export class Wire {
  readonly socket: Socket;
  private bytes: Buffer = Buffer.alloc(0);
  /** What came behind `bytes`; joined only when it is needed, or large requests would take for ever. */
  private later: Buffer[] = [];
  private laterBytes = 0;
  private ended = false;
  private wake: (() => void) | null = null;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.later.push(chunk);
      this.laterBytes += chunk.length;
      this.wake?.();
    });
    const over = (): void => {
      this.ended = true;
      this.wake?.();
    };
    socket.on('end', over);
    socket.on('close', over);
    socket.on('error', over);
  }

  /** Exactly `count` bytes; throws when the client leaves before. */
  async take(count: number): Promise<Buffer> {
    while (this.bytes.length + this.laterBytes < count) {
      if (this.ended) throw new Gone('the client left');
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
    if (this.bytes.length < count) {
      this.bytes = Buffer.concat([this.bytes, ...this.later]);
      this.later = [];
      this.laterBytes = 0;
    }
    const taken = this.bytes.subarray(0, count);
    this.bytes = this.bytes.subarray(count);
    return taken;
  }

  async request(): Promise<WireRequest> {
    const header = await this.take(28);
    if (header.readUInt32BE(0) !== 0x25609513) throw new Error('a request has a wrong magic');
    const command = header.readUInt16BE(6);
    const length = header.readUInt32BE(24);
    return {
      flags: header.readUInt16BE(4),
      command,
      cookie: header.subarray(8, 16),
      offset: Number(header.readBigUInt64BE(16)),
      length,
      payload: command === 1 ? await this.take(length) : Buffer.alloc(0),
    };
  }

  send(...pieces: readonly Buffer[]): void {
    this.socket.write(Buffer.concat(pieces));
  }

  /** The polite part: greeting, client flags, GO; the answers are given. Returns the option sent. */
  async handshake(...answers: readonly Buffer[]): Promise<Buffer> {
    this.send(GREETING);
    await this.take(4);
    const header = await this.take(16);
    const data = await this.take(header.readUInt32BE(12));
    this.send(...answers);
    return Buffer.concat([header, data]);
  }
}

/** The client went away while a script waited for it: the normal end of most scripts. */
export class Gone extends Error {}

export interface FakeServer {
  readonly uri: NbdUri;
  /** Sockets accepted so far. */
  readonly sockets: readonly Socket[];
  connect(options?: Partial<NbdClientOptions>): Promise<NbdClient>;
}

/** Runs `script` for each client. A script that throws anything but Gone fails the test. */
export async function fakeServer(
  scope: Scope,
  script: (wire: Wire) => Promise<void> | void,
): Promise<FakeServer> {
  const path = join(scope.tempDir('bf-fake-'), 's');
  const sockets: Socket[] = [];
  const failures: unknown[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    const wire = new Wire(socket);
    Promise.resolve(script(wire)).catch((thrown: unknown) => {
      if (!(thrown instanceof Gone)) failures.push(thrown);
      socket.destroy();
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  scope.defer('stop the fake server', async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
    if (failures.length > 0) throw failures[0];
  });
  const uri = parseNbdUri(`nbd+unix:///demo?socket=${path}`);
  return { uri, sockets, connect: (options) => open(scope, uri, options) };
}

/** A client that is cut when the scope ends. */
export async function open(
  scope: Scope,
  uri: NbdUri,
  options: Partial<NbdClientOptions> = {},
): Promise<NbdClient> {
  const client = await NbdClient.connect(uri, {
    network: nodeNetwork,
    clock: systemClock,
    // Servers of others are processes, which a busy machine lets wait.
    connectMs: 30_000,
    replyMs: 30_000,
    ...options,
  });
  scope.defer('cut the client', async () => {
    client.destroy();
    await client.close();
  });
  return client;
}
