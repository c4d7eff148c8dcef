/**
 * An NBD proxy that writes down what passes: the witness between a client and the disk under test.
 *
 * - The handshake passes through, but for options that would change the form of the requests and replies
 *   after it (TLS, structured replies, extended headers): those are answered "unsupported" here.
 * - A request is forwarded when it has come whole and its issue is in the log. A reply is forwarded when
 *   its acknowledgement is in the log (see request-log.ts for what follows from that).
 * - Bytes are not altered, requests and replies of a connection not reordered. Either side's end ends the
 *   other. What does not parse ends the connection, and `failure` says why.
 */
import type { Server, Socket } from 'node:net';
import { ByteQueue } from './byte-queue.ts';
import { Command, type RequestLogWriter } from './request-log.ts';
import { dial, listen, parseAddress, type SocketAddress, stopListening } from './sockets.ts';

const GREETING_BYTES = 18;
const CLIENT_FLAGS_BYTES = 4;
const OPTION_HEADER_BYTES = 16;
const OPTION_REPLY_HEADER_BYTES = 20;
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
const OPTION_EXPORT_NAME = 1;
const OPTION_STARTTLS = 5;
const OPTION_GO = 7;
const OPTION_STRUCTURED_REPLY = 8;
const OPTION_EXTENDED_HEADERS = 11;
const REPLY_ACK = 1;
const REPLY_ERROR_UNSUPPORTED = 0x80000001;
const CLIENT_FLAG_NO_ZEROES = 2;

const REQUEST_MAGIC = 0x25609513;
const REQUEST_BYTES = 28;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const REPLY_BYTES = 16;

const OPTION_BYTES_MAX = 1024 * 1024;
const PAYLOAD_BYTES_MAX = 64 * 1024 * 1024;
const BACKLOG_BYTES_MAX = 16 * 1024 * 1024;
const NO_BYTES = Buffer.alloc(0);

export interface RecorderCounters {
  connections: number;
  writes: number;
  writtenBytes: number;
  flushes: number;
  acknowledged: number;
  failed: number;
}

interface InFlight {
  readonly command: number;
  readonly length: number;
  /** Event of its issue, or 0 for commands that are not logged. */
  readonly event: number;
}

type Phase =
  'greeting' | 'client flags' | 'options' | 'option reply' | 'export name reply' | 'transmission';

class RecordedConnection {
  private phase: Phase = 'greeting';
  private readonly fromClient = new ByteQueue();
  private readonly fromServer = new ByteQueue();
  private noZeroes = false;
  private optionAsked = 0;
  private request: Buffer | null = null;
  private readonly inFlight = new Map<string, InFlight>();
  private replyDataBytes = 0;
  private readonly id: number;
  private readonly client: Socket;
  private readonly upstream: Socket;
  private readonly log: RequestLogWriter;
  private readonly counters: RecorderCounters;
  private readonly failed: (reason: string) => void;

  constructor(parts: {
    id: number;
    client: Socket;
    upstream: Socket;
    log: RequestLogWriter;
    counters: RecorderCounters;
    failed: (reason: string) => void;
  }) {
    this.id = parts.id;
    this.client = parts.client;
    this.upstream = parts.upstream;
    this.log = parts.log;
    this.counters = parts.counters;
    this.failed = parts.failed;
    this.listenTo(this.client, this.upstream, (chunk) => this.receivedFromClient(chunk));
    this.listenTo(this.upstream, this.client, (chunk) => this.receivedFromServer(chunk));
  }

  destroy(): void {
    this.client.destroy();
    this.upstream.destroy();
  }

  private listenTo(source: Socket, sink: Socket, received: (chunk: Buffer) => void): void {
    source.on('data', (chunk: Buffer) => {
      try {
        received(chunk);
      } catch (thrown) {
        this.failed(thrown instanceof Error ? thrown.message : String(thrown));
        this.destroy();
        return;
      }
      if (sink.writableLength > BACKLOG_BYTES_MAX) source.pause();
    });
    sink.on('drain', () => source.resume());
    source.on('end', () => sink.end());
    source.on('error', () => sink.destroy());
    source.on('close', () => sink.destroySoon());
  }

  private receivedFromClient(chunk: Buffer): void {
    this.fromClient.push(chunk);
    if (this.phase === 'transmission') this.transmit();
    else this.negotiate();
  }

  private receivedFromServer(chunk: Buffer): void {
    if (this.phase === 'transmission') {
      this.reply(chunk);
      return;
    }
    this.fromServer.push(chunk);
    this.negotiate();
  }

  /** Moves the handshake on as far as the bytes that are here allow. */
  private negotiate(): void {
    for (;;) {
      const before = this.phase;
      const waiting = this.fromClient.length + this.fromServer.length;
      this.negotiateStep();
      if (this.phase === 'transmission') {
        this.transmit();
        const rest = this.fromServer.take(this.fromServer.length);
        if (rest !== null && rest.length > 0) this.reply(rest);
        return;
      }
      const left = this.fromClient.length + this.fromServer.length;
      if (this.phase === before && left === waiting) return;
    }
  }

  private negotiateStep(): void {
    switch (this.phase) {
      case 'greeting':
        if (this.pass(this.fromServer, this.client, GREETING_BYTES) !== null) {
          this.phase = 'client flags';
        }
        return;
      case 'client flags': {
        const flags = this.pass(this.fromClient, this.upstream, CLIENT_FLAGS_BYTES);
        if (flags === null) return;
        this.noZeroes = (flags.readUInt32BE(0) & CLIENT_FLAG_NO_ZEROES) !== 0;
        this.phase = 'options';
        return;
      }
      case 'options':
        this.passOption();
        return;
      case 'option reply':
        this.passOptionReply();
        return;
      case 'export name reply': {
        const bytes = this.noZeroes ? 10 : 134;
        if (this.pass(this.fromServer, this.client, bytes) !== null) this.phase = 'transmission';
        return;
      }
      case 'transmission':
    }
  }

  private pass(source: ByteQueue, sink: Socket, count: number): Buffer | null {
    const bytes = source.take(count);
    if (bytes !== null) sink.write(bytes);
    return bytes;
  }

  private passOption(): void {
    this.request ??= this.fromClient.take(OPTION_HEADER_BYTES);
    if (this.request === null) return;
    const option = this.request.readUInt32BE(8);
    const length = this.request.readUInt32BE(12);
    if (length > OPTION_BYTES_MAX) throw new Error(`option of ${length} bytes`);
    const data = this.fromClient.take(length);
    if (data === null) return;
    const header = this.request;
    this.request = null;
    if (
      option === OPTION_STARTTLS ||
      option === OPTION_STRUCTURED_REPLY ||
      option === OPTION_EXTENDED_HEADERS
    ) {
      this.client.write(unsupported(option));
      return;
    }
    this.upstream.write(Buffer.concat([header, data]));
    this.optionAsked = option;
    this.phase = option === OPTION_EXPORT_NAME ? 'export name reply' : 'option reply';
  }

  private passOptionReply(): void {
    this.request ??= this.fromServer.take(OPTION_REPLY_HEADER_BYTES);
    if (this.request === null) return;
    if (this.request.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) {
      throw new Error('option reply with a wrong magic');
    }
    const type = this.request.readUInt32BE(12);
    const length = this.request.readUInt32BE(16);
    if (length > OPTION_BYTES_MAX) throw new Error(`option reply of ${length} bytes`);
    const data = this.fromServer.take(length);
    if (data === null) return;
    this.client.write(Buffer.concat([this.request, data]));
    this.request = null;
    if (type === REPLY_ACK) {
      this.phase = this.optionAsked === OPTION_GO ? 'transmission' : 'options';
    } else if (type >= 0x80000000) {
      this.phase = 'options';
    }
  }

  /** Logs, then forwards, every request that has come whole. */
  private transmit(): void {
    const ready: Buffer[] = [];
    for (;;) {
      this.request ??= this.fromClient.take(REQUEST_BYTES);
      if (this.request === null) break;
      const header = this.request;
      const payload = this.payloadOf(header);
      if (payload === null) break;
      this.request = null;
      this.noteRequest(header, payload);
      ready.push(header);
      if (payload.length > 0) ready.push(payload);
    }
    if (ready.length === 0) return;
    this.log.commit();
    this.upstream.cork();
    for (const bytes of ready) this.upstream.write(bytes);
    this.upstream.uncork();
  }

  /** The bytes of a write, an empty buffer for other commands, null while they are still coming. */
  private payloadOf(header: Buffer): Buffer | null {
    if (header.readUInt32BE(0) !== REQUEST_MAGIC) throw new Error('request with a wrong magic');
    if (header.readUInt16BE(6) !== Command.WRITE) return NO_BYTES;
    const length = header.readUInt32BE(24);
    if (length > PAYLOAD_BYTES_MAX) throw new Error(`write of ${length} bytes`);
    return this.fromClient.take(length);
  }

  private noteRequest(header: Buffer, payload: Buffer): void {
    const command = header.readUInt16BE(6);
    if (command === Command.DISC) return;
    const length = header.readUInt32BE(24);
    const cookie = header.toString('latin1', 8, 16);
    if (this.inFlight.has(cookie)) throw new Error('cookie used twice at one time');
    this.inFlight.set(cookie, { command, length, event: this.noteIssue(header, payload) });
  }

  /** Returns the event, or 0 for what is not logged. */
  private noteIssue(header: Buffer, payload: Buffer): number {
    const command = header.readUInt16BE(6);
    if (command === Command.WRITE) {
      this.counters.writes++;
      this.counters.writtenBytes += payload.length;
    } else if (command === Command.FLUSH) {
      this.counters.flushes++;
    } else if (command !== Command.TRIM && command !== Command.WRITE_ZEROES) {
      return 0;
    }
    return this.log.issue({
      connection: this.id,
      command,
      flags: header.readUInt16BE(4),
      offset: header.readUInt32BE(16) * 2 ** 32 + header.readUInt32BE(20),
      length: header.readUInt32BE(24),
      payload: command === Command.WRITE ? payload : null,
    });
  }

  /** Logs the replies that begin in this chunk, then forwards it. */
  private reply(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.replyDataBytes > 0) {
        const skipped = Math.min(this.replyDataBytes, chunk.length - at);
        this.replyDataBytes -= skipped;
        at += skipped;
        continue;
      }
      // A header that straddles chunks is put together in the queue; its bytes go on with their chunks,
      // so only the last part of it, forwarded after the commit below, completes the reply.
      const wanted = REPLY_BYTES - this.fromServer.length;
      const part = chunk.subarray(at, at + wanted);
      this.fromServer.push(part);
      at += part.length;
      const header = this.fromServer.take(REPLY_BYTES);
      if (header !== null) this.noteReply(header);
    }
    this.log.commit();
    this.client.write(chunk);
  }

  private noteReply(header: Buffer): void {
    if (header.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC) throw new Error('reply with a wrong magic');
    const error = header.readUInt32BE(4);
    const cookie = header.toString('latin1', 8, 16);
    const request = this.inFlight.get(cookie);
    if (request === undefined) throw new Error('reply to nothing');
    this.inFlight.delete(cookie);
    if (request.command === Command.READ && error === 0) this.replyDataBytes = request.length;
    if (error === 0) this.counters.acknowledged++;
    else this.counters.failed++;
    if (request.event !== 0) this.log.acknowledge(request.event, error, this.id);
  }
}

function unsupported(option: number): Buffer {
  const reply = Buffer.alloc(OPTION_REPLY_HEADER_BYTES);
  reply.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  reply.writeUInt32BE(option, 8);
  reply.writeUInt32BE(REPLY_ERROR_UNSUPPORTED, 12);
  return reply;
}

export class Recorder {
  /** Where clients connect. */
  readonly address: string;
  readonly counters: RecorderCounters = {
    connections: 0,
    writes: 0,
    writtenBytes: 0,
    flushes: 0,
    acknowledged: 0,
    failed: 0,
  };
  /** Why a connection was given up, if one was: the record is then not to be trusted. */
  failure: string | null = null;
  private readonly server: Server;
  private readonly target: SocketAddress;
  private readonly log: RequestLogWriter;
  private readonly live = new Set<RecordedConnection>();

  private constructor(
    server: Server,
    address: string,
    target: SocketAddress,
    log: RequestLogWriter,
  ) {
    this.server = server;
    this.address = address;
    this.target = target;
    this.log = log;
  }

  /** The log stays the caller's: close it after the recorder. */
  static async start(options: {
    listen: string;
    target: string;
    log: RequestLogWriter;
  }): Promise<Recorder> {
    let recorder: Recorder | null = null;
    const { server, bound } = await listen(parseAddress(options.listen), (socket) => {
      recorder?.accept(socket);
    });
    recorder = new Recorder(server, bound, parseAddress(options.target), options.log);
    return recorder;
  }

  get connections(): number {
    return this.live.size;
  }

  async close(): Promise<void> {
    for (const connection of this.live) connection.destroy();
    await stopListening(this.server);
  }

  private accept(client: Socket): void {
    const upstream = dial(this.target);
    const connection = new RecordedConnection({
      id: ++this.counters.connections,
      client,
      upstream,
      log: this.log,
      counters: this.counters,
      failed: (reason) => {
        this.failure ??= reason;
      },
    });
    this.live.add(connection);
    client.on('close', () => this.live.delete(connection));
  }
}
