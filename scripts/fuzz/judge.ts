/**
 * The oracle: follows one connection by its bytes alone, in both directions, and says when the server does
 * what it must not. The client may send anything at all; the judge knows what a server has to make of it.
 *
 * Invariants:
 * - `sent` comes before the `heard` that answers it.
 * - After `over` is set nothing of the client counts. What was asked before it is still answered, or the
 *   connection ends.
 */
import { ByteQueue, Malformed, takeGreeting } from '../../test/wire/decoder.ts';
import type { Content } from './content.ts';
import { demand, Fault, type JudgedSession, type ServerFacts } from './judge-facts.ts';
import { HandshakeJudge } from './judge-handshake.ts';
import { ReplyJudge } from './judge-replies.ts';
import type { JudgedRequest } from './judge-rules.ts';

export type JudgePhase = 'greeting' | 'options' | 'tls' | 'requests' | 'elsewhere' | 'over';

const PAYLOAD_BYTES_MAX = 33554432;

export interface JudgeOptions {
  readonly facts: ServerFacts;
  /** What an export holds; asked once, when it was opened. */
  readonly contentOf: (name: string) => Content;
  /** The server was told to stop. */
  readonly stopping: () => boolean;
  /** Whether a READ sees all changes that were sent before it, and none sent later. */
  readonly readsInOrder: boolean;
}

export class Judge {
  phase: JudgePhase = 'greeting';
  session: JudgedSession | null = null;
  /** Why the server has to end the connection; empty while it has not. */
  over = '';
  private readonly options: JudgeOptions;
  private readonly client = new ByteQueue();
  private readonly server = new ByteQueue();
  private readonly handshake: HandshakeJudge;
  private replies: ReplyJudge | null = null;
  /** The client ended its side, or the connection. */
  private clientLeft = false;
  private excused = false;

  constructor(options: JudgeOptions) {
    this.options = options;
    this.handshake = new HandshakeJudge(options.facts, options.stopping);
  }

  /** The client's bytes, in the order in which they are sent. */
  sent(bytes: Buffer): void {
    if (this.phase === 'over' || this.phase === 'elsewhere' || bytes.length === 0) return;
    if (this.phase === 'tls') return this.end('clear text where TLS was to begin');
    this.client.append(bytes);
    this.advance();
  }

  heard(bytes: Buffer): void {
    if (this.phase === 'elsewhere') return;
    this.server.append(bytes);
    this.advance();
  }

  /** The TLS handshake that STARTTLS began is done: everything before it is forgotten. */
  secured(): void {
    demand(this.phase === 'tls', 'TLS without STARTTLS');
    this.phase = 'options';
    this.handshake.secure();
  }

  /** The client sends no more. The server may close at any time. */
  left(): void {
    this.clientLeft = true;
  }

  /** From now on the server may close for reasons of its own: a limit, a timeout. */
  excuse(): void {
    this.excused = true;
  }

  /** The server closed the connection. */
  closed(): void {
    this.replies?.abandon();
    const inOptions = this.phase === 'options';
    const limits = inOptions && this.handshake.pastLimits;
    // Clear text behind STARTTLS, whether the server saw it before it answered or after.
    const behindTls = inOptions && this.handshake.startsTls && this.client.length > 0;
    const allowed =
      this.over !== '' ||
      this.clientLeft ||
      this.phase === 'elsewhere' ||
      this.excused ||
      limits ||
      behindTls ||
      this.options.stopping();
    demand(allowed, `closed the connection in phase ${this.phase} without a reason`);
  }

  /** Everything that can happen has happened, and the connection is open. */
  quiet(): void {
    if (this.phase === 'elsewhere') return;
    demand(this.over === '' || this.clientLeft, `does not close the connection: ${this.over}`);
    demand(this.phase !== 'greeting', 'does not greet');
    if (this.clientLeft) return;
    const unanswered = this.unanswered;
    demand(unanswered === null, `does not answer ${unanswered}`);
    const understood = this.server.length === 0 || this.replies?.isBlind === true;
    demand(understood, `${this.server.length} bytes that answer nothing`);
  }

  /** The client said more than was answered when the handshake was cut: what came of it is not known. */
  get isLost(): boolean {
    const shaking = this.phase === 'greeting' || this.phase === 'options';
    return shaking && this.client.length > 0;
  }

  get unanswered(): string | null {
    return this.phase === 'options'
      ? this.handshake.unanswered
      : (this.replies?.unanswered ?? null);
  }

  /** Bytes that end what the client began to say, as far as they are known now; 0 between messages. */
  get missing(): number {
    const have = this.client.length;
    if (have === 0 || this.phase === 'over' || this.phase === 'elsewhere') return 0;
    if (this.phase === 'options') {
      if (have < 16) return 16 - have;
      return 16 + this.client.peek(16).readUInt32BE(12) - have;
    }
    if (this.session === null) return 0;
    const header = this.session.form === 'extended' ? 32 : 28;
    return have < header ? header - have : header + this.payloadBytes() - have;
  }

  private advance(): void {
    try {
      this.step();
    } catch (thrown) {
      if (thrown instanceof Malformed) throw new Fault(`sends ${thrown.message}`);
      throw thrown;
    }
  }

  private step(): void {
    if (this.phase === 'greeting') {
      const greeting = takeGreeting(this.server);
      if (greeting === null) return;
      demand(greeting.flags === 3, `greets with the flags ${greeting.flags}`);
      this.phase = 'options';
    }
    if (this.phase === 'options') {
      const verdict = this.handshake.advance(this.client, this.server);
      if (verdict.kind === 'over') this.end(verdict.why);
      else if (verdict.kind === 'tls') this.startTls();
      else if (verdict.kind === 'elsewhere') this.phase = 'elsewhere';
      else if (verdict.kind === 'session') this.begin(verdict.session);
    }
    if (this.phase === 'requests') while (this.takeRequest());
    this.replies?.advance(this.server);
  }

  private startTls(): void {
    this.phase = 'tls';
    if (this.client.length > 0) this.end('clear text behind STARTTLS');
  }

  private begin(session: JudgedSession): void {
    this.session = session;
    const content = this.options.contentOf(session.exported.name);
    this.replies = new ReplyJudge(session, content, this.options);
    this.phase = 'requests';
  }

  private end(why: string): void {
    this.over = why;
    this.phase = 'over';
  }

  /** Payload bytes of the request whose header is at hand. */
  private payloadBytes(): number {
    const extended = this.session?.form === 'extended';
    const header = this.client.peek(extended ? 32 : 28);
    if (!extended) return header.readUInt16BE(6) === 1 ? header.readUInt32BE(24) : 0;
    return (header.readUInt16BE(4) & 0x20) === 0 ? 0 : Number(header.readBigUInt64BE(24));
  }

  private takeRequest(): boolean {
    const extended = this.session?.form === 'extended';
    const bytes = extended ? 32 : 28;
    if (this.client.length < bytes) return false;
    const header = Buffer.from(this.client.peek(bytes));
    if (header.readUInt32BE(0) !== (extended ? 0x21e41c71 : 0x25609513)) {
      this.end('a request without its magic');
      return false;
    }
    const command = header.readUInt16BE(6);
    if (command === 2) {
      this.end('DISC');
      return false;
    }
    const payloadBytes = this.payloadBytes();
    if (payloadBytes > (extended ? 1 : 2) * PAYLOAD_BYTES_MAX) {
      this.end(`a payload of ${payloadBytes} bytes`);
      return false;
    }
    if (this.client.length < bytes + payloadBytes) return false;
    this.client.take(bytes);
    const request: JudgedRequest = {
      command,
      flags: header.readUInt16BE(4),
      cookie: header.readBigUInt64BE(8),
      offset: header.readBigUInt64BE(16),
      length: extended ? header.readBigUInt64BE(24) : BigInt(header.readUInt32BE(24)),
      payload: payloadBytes > 0 ? Buffer.from(this.client.take(payloadBytes)) : null,
    };
    this.replies?.sent(request);
    return true;
  }
}
