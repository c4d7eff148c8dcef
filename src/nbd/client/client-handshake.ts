/**
 * The client's side of the handshake, as a machine without I/O: bytes go in, bytes to send and an
 * outcome come out (protocol section 3).
 *
 * The way: greeting [-> STARTTLS] [-> private option] -> GO -> INFO... -> ACK. A server that does not know GO, or is
 * not "fixed", is asked with EXPORT_NAME. Oldstyle servers are refused by name. Who wants to know what is allocated
 * asks for structured replies and for the context before GO; a server that has neither is used without.
 *
 * Invariants:
 * - Nothing that the server says is believed unchecked: magics, the echoed option, types, lengths, sizes.
 * - One buffer of fixed size is all that a server can make this machine hold.
 * - After an outcome nothing is consumed: bytes behind it belong to the transmission, or to whoever speaks after an
 *   accepted private option.
 * - Where TLS is wanted nothing but STARTTLS and ABORT is said before it, there is no way around it, and no byte that came in clear
 *   counts as said under it.
 * - A private option that is refused ends the handshake. Only a server that does not know it, or has nothing of that kind under
 *   that name, is asked for the export, and only where the option is not required.
 * - Where it has nothing of that kind and no export that can be written, its first answer stands: one text, whether it has a
 *   read-only export of that name, one that is not for this client, or none.
 */
import assert from 'node:assert';
import { BlockferryError, type ErrorCode } from '../../io/errors.ts';
import {
  NBD_CLIENT_INFOS_MAX,
  NBD_CLIENT_MESSAGE_CHARACTERS_MAX,
  NBD_OPTION_BYTES_MAX,
  NBD_STRING_BYTES_MAX,
} from '../../io/limits.ts';
import type { ExportInfo, Judged } from './client-export-info.ts';
import { InfoReplies, judgedExport } from './client-info-replies.ts';
import { allocationData, encodeOption, goData } from './client-questions.ts';
import { refusalOf } from './client-refusals.ts';
import { printable } from './client-text.ts';
import {
  NBD_CLIENT_FLAG,
  NBD_CLIENT_FLAGS_BYTES,
  NBD_EXPORT_NAME_PAD_BYTES,
  NBD_EXPORT_NAME_REPLY_BYTES,
  NBD_GREETING_BYTES,
  NBD_HANDSHAKE_FLAG,
  NBD_INIT_MAGIC,
  NBD_META,
  NBD_OLDSTYLE_MAGIC,
  NBD_OPT,
  NBD_OPTION_MAGIC,
  NBD_OPTION_REPLY_HEADER_BYTES,
  NBD_OPTION_REPLY_MAGIC,
  NBD_REP,
  NBD_REP_FLAG_ERROR,
  nameOfOption,
  nameOfOptionReply,
  type Magic64,
  type NbdOption,
} from '../constants.ts';

/** What was agreed on besides the export. */
export interface HandshakeTerms {
  /** Replies come in chunks. */
  readonly structured: boolean;
  /** The id of base:allocation, or null when nobody asked or the server has none. */
  readonly allocationContext: number | null;
}

export const PLAIN_TERMS: HandshakeTerms = Object.freeze({
  structured: false,
  allocationContext: null,
});

/** What is asked for besides the export. */
export interface ClientWishes {
  /** What tells data from holes. */
  readonly allocation?: boolean;
  /** TLS, before all else. */
  readonly tls?: boolean;
  /** To talk otherwise. `required`: where the server does not know of it the handshake fails. */
  readonly privately?: { readonly data: Buffer; readonly required: boolean };
}

export type HandshakeOutcome =
  /** Become TLS, and call `secured`. */
  | { readonly kind: 'start-tls' }
  /** The private option was accepted with this data. */
  | { readonly kind: 'private'; readonly reply: Buffer }
  | { readonly kind: 'ready'; readonly info: ExportInfo; readonly terms: HandshakeTerms }
  /** `polite`: the server still listens, and gets ABORT before the connection ends. */
  | { readonly kind: 'failed'; readonly error: BlockferryError; readonly polite: boolean };

export interface HandshakeStep {
  /** Bytes of the input that were used. All of them, unless there is an outcome. */
  readonly consumed: number;
  /** To be sent, in this order. */
  readonly send: readonly Buffer[];
  readonly outcome: HandshakeOutcome | null;
}

/** What the next `needed` bytes are. */
type State =
  | 'greeting'
  /** Header of a reply to the option that was asked last. */
  | 'reply-header'
  /** Its data. */
  | 'reply-data'
  /** Size, flags and padding: the answer to EXPORT_NAME. */
  | 'export-name'
  | 'over';

/** A string and what may stand in front of it. Everything else is shorter. */
const REPLY_DATA_BYTES_MAX = NBD_STRING_BYTES_MAX + 8;
const CONTEXT_ID_BYTES = 4;

export class ClientHandshake {
  private readonly exportName: string;
  private readonly server: string;
  private readonly wishes: ClientWishes;
  /** Data of a reply. */
  private readonly dataBytesMax: number;
  /** The option that the server is to answer. */
  private asked: NbdOption = NBD_OPT.GO;
  private terms: HandshakeTerms = PLAIN_TERMS;
  private state: State = 'greeting';
  private readonly pending: Buffer;
  private filled = 0;
  private needed: number = NBD_GREETING_BYTES;
  private noZeroes = false;
  private replyType = 0;
  private readonly infos = new InfoReplies();
  private contexts = 0;
  private privateReply: Buffer | null = null;
  /** What the server said to the private option: that it has nothing of that kind here. */
  private strange: string | null = null;
  private secure = false;
  private send: Buffer[] = [];
  private outcome: HandshakeOutcome | null = null;

  /**
   * `exportName` has at most NBD_STRING_BYTES_MAX bytes, private data NBD_OPTION_BYTES_MAX; `server` names the other side
   * in errors.
   */
  constructor(exportName: string, server: string, wishes: ClientWishes = {}) {
    assert(Buffer.byteLength(exportName) <= NBD_STRING_BYTES_MAX, 'the name was validated');
    this.exportName = exportName;
    this.server = server;
    this.wishes = wishes;
    const { privately } = wishes;
    assert((privately?.data.length ?? 0) <= NBD_OPTION_BYTES_MAX, 'private data fits an option');
    this.dataBytesMax = privately === undefined ? REPLY_DATA_BYTES_MAX : NBD_OPTION_BYTES_MAX;
    this.pending = Buffer.alloc(this.dataBytesMax);
  }

  /** `buffer[0 .. length)` came from the server. */
  received(buffer: Buffer, length: number): HandshakeStep {
    this.send = [];
    let at = 0;
    while (at < length && this.outcome === null) {
      const end = Math.min(length, at + this.needed - this.filled);
      this.filled += buffer.copy(this.pending, this.filled, at, end);
      at = end;
      if (this.filled < this.needed) break;
      this.filled = 0;
      this.step();
    }
    // Somebody on the way may have put it there.
    if (this.outcome?.kind === 'start-tls' && at < length) {
      this.protocolError('it sent clear text behind STARTTLS');
    }
    return { consumed: at, send: this.send, outcome: this.outcome };
  }

  /** TLS is in place, as `start-tls` demanded, and the server proved who it is. */
  secured(): HandshakeStep {
    assert(this.outcome?.kind === 'start-tls', 'TLS was asked for');
    this.secure = true;
    this.outcome = null;
    this.send = [];
    this.askNext();
    return { consumed: 0, send: this.send, outcome: null };
  }

  /** The server closed the connection before there was an outcome. */
  ended(): BlockferryError {
    if (this.state === 'export-name') {
      // EXPORT_NAME knows no error reply: this is how it says no.
      return this.error('MIRROR_REFUSED', `it does not offer ${this.quotedName()}`);
    }
    return this.error('MIRROR_UNREACHABLE', 'it closed the connection in the handshake');
  }

  private step(): void {
    switch (this.state) {
      case 'greeting':
        return this.greeting();
      case 'reply-header':
        return this.replyHeader();
      case 'reply-data':
        return this.replyData();
      case 'export-name':
        return this.exportNameReply();
      case 'over':
        throw new assert.AssertionError({ message: 'nothing is consumed after the outcome' });
    }
  }

  private greeting(): void {
    if (!this.magicAt(0, NBD_INIT_MAGIC)) return this.protocolError('it does not speak NBD');
    if (this.magicAt(8, NBD_OLDSTYLE_MAGIC)) {
      return this.protocolError('it speaks the oldstyle protocol, which has no export names');
    }
    if (!this.magicAt(8, NBD_OPTION_MAGIC)) return this.protocolError('it does not speak NBD');
    const offered = this.pending.readUInt16BE(16);
    const fixed = (offered & NBD_HANDSHAKE_FLAG.NBD_FLAG_FIXED_NEWSTYLE) !== 0;
    this.noZeroes = (offered & NBD_HANDSHAKE_FLAG.NBD_FLAG_NO_ZEROES) !== 0;
    const flags = Buffer.alloc(NBD_CLIENT_FLAGS_BYTES);
    flags.writeUInt32BE(
      (fixed ? NBD_CLIENT_FLAG.NBD_FLAG_C_FIXED_NEWSTYLE : 0) |
        (this.noZeroes ? NBD_CLIENT_FLAG.NBD_FLAG_C_NO_ZEROES : 0),
    );
    this.send.push(flags);
    if (fixed) this.askNext();
    else this.askUnfixed();
  }

  /** There are no other options for such a server, and no refusals. */
  private askUnfixed(): void {
    if (this.wishes.tls === true) return this.refuse(NBD_OPT.STARTTLS, NBD_REP.ERR_UNSUP);
    if (this.wishes.privately?.required === true) {
      return this.refuse(NBD_OPT.BLOCKFERRY, NBD_REP.ERR_UNSUP);
    }
    return this.askExportName();
  }

  /** The first question, in clear and once more under TLS. */
  private askNext(): void {
    const { tls, privately } = this.wishes;
    if (tls === true && !this.secure) this.ask(NBD_OPT.STARTTLS);
    else if (privately !== undefined) this.ask(NBD_OPT.BLOCKFERRY, privately.data);
    else this.askForExport();
  }

  private askForExport(): void {
    if (this.wishes.allocation === true) this.ask(NBD_OPT.STRUCTURED_REPLY);
    else this.ask(NBD_OPT.GO, goData(this.exportName));
  }

  private ask(option: NbdOption, data?: Buffer): void {
    this.asked = option;
    this.send.push(encodeOption(option, data));
    this.expect('reply-header', NBD_OPTION_REPLY_HEADER_BYTES);
  }

  private askExportName(): void {
    this.send.push(encodeOption(NBD_OPT.EXPORT_NAME, Buffer.from(this.exportName)));
    const pad = this.noZeroes ? 0 : NBD_EXPORT_NAME_PAD_BYTES;
    this.expect('export-name', NBD_EXPORT_NAME_REPLY_BYTES + pad);
  }

  private replyHeader(): void {
    if (!this.magicAt(0, NBD_OPTION_REPLY_MAGIC)) {
      return this.protocolError('an option reply has a wrong magic number');
    }
    const option = this.pending.readUInt32BE(8);
    if (option !== this.asked) {
      return this.protocolError(`it answered ${nameOfOption(option)}, which was not asked`);
    }
    this.replyType = this.pending.readUInt32BE(12);
    const length = this.pending.readUInt32BE(16);
    if (length > this.dataBytesMax) {
      return this.protocolError(`an option reply claims ${length} bytes of data`);
    }
    this.expect('reply-data', length);
    if (length === 0) this.replyData();
  }

  private replyData(): void {
    const length = this.needed;
    this.expect('reply-header', NBD_OPTION_REPLY_HEADER_BYTES);
    if (this.asked === NBD_OPT.STARTTLS) return this.tlsReply(length);
    if (this.asked === NBD_OPT.BLOCKFERRY) return this.privateAnswer(length);
    if (this.asked === NBD_OPT.STRUCTURED_REPLY) return this.structuredReply();
    if (this.asked === NBD_OPT.SET_META_CONTEXT) return this.contextReply(length);
    return this.goReply(length);
  }

  private tlsReply(length: number): void {
    if (this.replyType >= NBD_REP_FLAG_ERROR) return this.refused(length);
    if (this.replyType !== NBD_REP.ACK) return this.wrongReply();
    if (length !== 0) return this.protocolError('an ACK carries data');
    this.outcome = { kind: 'start-tls' };
    return undefined;
  }

  private privateAnswer(length: number): void {
    const unknown = this.replyType === NBD_REP.ERR_UNKNOWN;
    const nothingThere = unknown || this.replyType === NBD_REP.ERR_UNSUP;
    if (nothingThere && this.wishes.privately?.required === false) {
      if (unknown) this.strange = this.textOf(length);
      return this.askForExport();
    }
    if (this.replyType >= NBD_REP_FLAG_ERROR) return this.refused(length);
    if (this.replyType === NBD_REP.BLOCKFERRY && this.privateReply === null) {
      this.privateReply = Buffer.from(this.pending.subarray(0, length));
      return undefined;
    }
    if (this.replyType !== NBD_REP.ACK || this.privateReply === null) return this.wrongReply();
    if (length !== 0) return this.protocolError('an ACK carries data');
    this.state = 'over';
    this.outcome = { kind: 'private', reply: this.privateReply };
    return undefined;
  }

  /** Refused or not known: the export is used without, and GO says what else there is to say. */
  private structuredReply(): void {
    if (this.replyType >= NBD_REP_FLAG_ERROR) return this.ask(NBD_OPT.GO, goData(this.exportName));
    if (this.replyType !== NBD_REP.ACK) return this.wrongReply();
    this.terms = { structured: true, allocationContext: null };
    return this.ask(NBD_OPT.SET_META_CONTEXT, allocationData(this.exportName));
  }

  private contextReply(length: number): void {
    if (this.replyType >= NBD_REP_FLAG_ERROR || this.replyType === NBD_REP.ACK)
      return this.ask(NBD_OPT.GO, goData(this.exportName));
    if (this.replyType !== NBD_REP.META_CONTEXT) return this.wrongReply();
    this.contexts += 1;
    if (this.contexts > NBD_CLIENT_INFOS_MAX) {
      return this.protocolError('it sends contexts without end');
    }
    if (length < CONTEXT_ID_BYTES) return this.protocolError('a context has no id');
    const name = this.pending.toString('utf8', CONTEXT_ID_BYTES, length);
    if (name === NBD_META.BASE_ALLOCATION) {
      this.terms = { structured: true, allocationContext: this.pending.readUInt32BE(0) };
    }
    return undefined;
  }

  private goReply(length: number): void {
    if (this.replyType >= NBD_REP_FLAG_ERROR) return this.refused(length);
    switch (this.replyType) {
      case NBD_REP.INFO:
        return this.info(length);
      case NBD_REP.ACK:
        return this.acknowledged(length);
      default:
        return this.wrongReply();
    }
  }

  private wrongReply(): void {
    const option = nameOfOption(this.asked).replace('NBD_OPT_', '');
    this.protocolError(`it answered ${option} with ${nameOfOptionReply(this.replyType)}`);
  }

  private info(length: number): void {
    const wrong = this.infos.info(this.pending, length);
    if (wrong !== null) this.protocolError(wrong);
  }

  private acknowledged(length: number): void {
    if (length !== 0) return this.protocolError('an ACK carries data');
    return this.ready(this.infos.judged());
  }

  private exportNameReply(): void {
    const size = { high: this.pending.readUInt32BE(0), low: this.pending.readUInt32BE(4) };
    this.ready(judgedExport(size, this.pending.readUInt16BE(8)));
  }

  private ready(judged: Judged<ExportInfo>): void {
    if ('wrong' in judged) return this.protocolError(judged.wrong);
    if (this.strange !== null && judged.ok.readOnly) {
      // Behind the answer to GO there is no ABORT.
      return this.fail(this.refusal(NBD_OPT.BLOCKFERRY, NBD_REP.ERR_UNKNOWN, this.strange), false);
    }
    this.state = 'over';
    this.outcome = { kind: 'ready', info: judged.ok, terms: this.terms };
  }

  /** An error reply, with a message of the server or none. */
  private refused(length: number): void {
    const { asked, replyType } = this;
    if (asked === NBD_OPT.GO && replyType === NBD_REP.ERR_UNSUP) return this.askExportName();
    if (
      this.strange !== null &&
      (replyType === NBD_REP.ERR_UNKNOWN || replyType === NBD_REP.ERR_POLICY)
    ) {
      return this.refuse(NBD_OPT.BLOCKFERRY, NBD_REP.ERR_UNKNOWN, this.strange);
    }
    return this.refuse(asked, replyType, this.textOf(length));
  }

  private refuse(asked: NbdOption, replyType: number, said = ''): void {
    this.send.push(encodeOption(NBD_OPT.ABORT));
    this.fail(this.refusal(asked, replyType, said), true);
  }

  private refusal(asked: NbdOption, replyType: number, said: string): BlockferryError {
    const { code, why } = refusalOf(asked, replyType, said, this.quotedName());
    return this.error(code, why);
  }

  /** What the server wrote into its reply, fit for a line. */
  private textOf(length: number): string {
    const text = this.pending.toString('utf8', 0, length);
    return printable(text, NBD_CLIENT_MESSAGE_CHARACTERS_MAX);
  }

  private quotedName(): string {
    return `"${printable(this.exportName, NBD_CLIENT_MESSAGE_CHARACTERS_MAX)}"`;
  }

  private expect(state: State, bytes: number): void {
    assert(bytes <= this.pending.length, 'what is expected fits');
    this.state = state;
    this.needed = bytes;
  }

  private magicAt(at: number, magic: Magic64): boolean {
    return (
      this.pending.readUInt32BE(at) === magic.high &&
      this.pending.readUInt32BE(at + 4) === magic.low
    );
  }

  private protocolError(what: string): void {
    this.fail(this.error('PROTOCOL', what), false);
  }

  private fail(error: BlockferryError, polite: boolean): void {
    this.state = 'over';
    this.outcome = { kind: 'failed', error, polite };
  }

  private error(code: ErrorCode, what: string): BlockferryError {
    return new BlockferryError(code, `${this.server} cannot be used: ${what}`);
  }
}
