/**
 * The client's side of the handshake, as a machine without I/O: bytes go in, bytes to send and an
 * outcome come out (protocol section 3).
 *
 * The way: greeting -> GO -> INFO... -> ACK. A server that does not know GO, or is not "fixed", is asked
 * with EXPORT_NAME. Oldstyle servers are refused by name. Who wants to know what is allocated asks for
 * structured replies and for the context before GO; a server that has neither is used without.
 *
 * Invariants:
 * - Nothing that the server says is believed unchecked: magics, the echoed option, types, lengths, sizes.
 * - One buffer of fixed size is all that a server can make this machine hold.
 * - After an outcome nothing is consumed: bytes behind it belong to the transmission.
 */
import assert from 'node:assert';
import { BlockferryError, type ErrorCode } from '../io/errors.ts';
import {
  NBD_CLIENT_INFOS_MAX,
  NBD_CLIENT_MESSAGE_CHARACTERS_MAX,
  NBD_STRING_BYTES_MAX,
} from '../io/limits.ts';
import {
  DEFAULT_BLOCK_SIZES,
  judgeBlockSizes,
  judgeExport,
  type BlockSizes,
  type ExportInfo,
} from './client-export-info.ts';
import { printable } from './client-text.ts';
import {
  NBD_CLIENT_FLAG,
  NBD_CLIENT_FLAGS_BYTES,
  NBD_EXPORT_NAME_PAD_BYTES,
  NBD_EXPORT_NAME_REPLY_BYTES,
  NBD_GREETING_BYTES,
  NBD_HANDSHAKE_FLAG,
  NBD_INFO,
  NBD_INIT_MAGIC,
  NBD_META,
  NBD_OLDSTYLE_MAGIC,
  NBD_OPT,
  NBD_OPTION_HEADER_BYTES,
  NBD_OPTION_MAGIC,
  NBD_OPTION_REPLY_HEADER_BYTES,
  NBD_OPTION_REPLY_MAGIC,
  NBD_REP,
  NBD_REP_FLAG_ERROR,
  nameOfOption,
  nameOfOptionReply,
  type Magic64,
  type NbdOption,
} from './constants.ts';

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

export type HandshakeOutcome =
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
const INFO_TYPE_BYTES = 2;
const INFO_EXPORT_BYTES = 12;
const INFO_BLOCK_SIZE_BYTES = 14;

export class ClientHandshake {
  private readonly exportName: string;
  private readonly server: string;
  private readonly wantsAllocation: boolean;
  /** The option that the server is to answer. */
  private asked: NbdOption = NBD_OPT.GO;
  private terms: HandshakeTerms = PLAIN_TERMS;
  private state: State = 'greeting';
  private readonly pending: Buffer = Buffer.alloc(REPLY_DATA_BYTES_MAX);
  private filled = 0;
  private needed: number = NBD_GREETING_BYTES;
  private noZeroes = false;
  private replyType = 0;
  private infos = 0;
  private exportSize: Magic64 | null = null;
  private exportFlags = 0;
  private blocks: BlockSizes = DEFAULT_BLOCK_SIZES;
  private send: Buffer[] = [];
  private outcome: HandshakeOutcome | null = null;

  /**
   * `exportName` has at most NBD_STRING_BYTES_MAX bytes; `server` names the other side in errors.
   * `allocation`: ask for what tells data from holes.
   */
  constructor(exportName: string, server: string, options: { allocation?: boolean } = {}) {
    assert(Buffer.byteLength(exportName) <= NBD_STRING_BYTES_MAX, 'the name was validated');
    this.exportName = exportName;
    this.server = server;
    this.wantsAllocation = options.allocation === true;
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
    return { consumed: at, send: this.send, outcome: this.outcome };
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
    if (!fixed) this.askExportName();
    else if (this.wantsAllocation) this.ask(NBD_OPT.STRUCTURED_REPLY, Buffer.alloc(0));
    else this.askGo();
  }

  private askContext(): void {
    const query = Buffer.from(NBD_META.BASE_ALLOCATION);
    const count = Buffer.alloc(8);
    count.writeUInt32BE(1, 0);
    count.writeUInt32BE(query.length, 4);
    this.ask(NBD_OPT.SET_META_CONTEXT, Buffer.concat([this.nameField(), count, query]));
  }

  private askGo(): void {
    const infos = Buffer.alloc(4);
    infos.writeUInt16BE(1, 0);
    infos.writeUInt16BE(NBD_INFO.BLOCK_SIZE, 2);
    this.ask(NBD_OPT.GO, Buffer.concat([this.nameField(), infos]));
  }

  /** The name of the export with its length. */
  private nameField(): Buffer {
    const name = Buffer.from(this.exportName);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(name.length, 0);
    return Buffer.concat([length, name]);
  }

  private ask(option: NbdOption, data: Buffer): void {
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
    if (length > REPLY_DATA_BYTES_MAX) {
      return this.protocolError(`an option reply claims ${length} bytes of data`);
    }
    this.expect('reply-data', length);
    if (length === 0) this.replyData();
  }

  private replyData(): void {
    const length = this.needed;
    this.expect('reply-header', NBD_OPTION_REPLY_HEADER_BYTES);
    if (this.asked === NBD_OPT.STRUCTURED_REPLY) return this.structuredReply();
    if (this.asked === NBD_OPT.SET_META_CONTEXT) return this.contextReply(length);
    return this.goReply(length);
  }

  /** Refused or not known: the export is used without, and GO says what else there is to say. */
  private structuredReply(): void {
    if (this.replyType >= NBD_REP_FLAG_ERROR) return this.askGo();
    if (this.replyType !== NBD_REP.ACK) return this.wrongReply();
    this.terms = { structured: true, allocationContext: null };
    return this.askContext();
  }

  private contextReply(length: number): void {
    if (this.replyType >= NBD_REP_FLAG_ERROR || this.replyType === NBD_REP.ACK) return this.askGo();
    if (this.replyType !== NBD_REP.META_CONTEXT) return this.wrongReply();
    this.infos += 1;
    if (this.infos > NBD_CLIENT_INFOS_MAX) {
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
    this.infos += 1;
    if (this.infos > NBD_CLIENT_INFOS_MAX) return this.protocolError('it sends infos without end');
    if (length < INFO_TYPE_BYTES) return this.protocolError('an info has no type');
    switch (this.pending.readUInt16BE(0)) {
      case NBD_INFO.EXPORT:
        return this.infoExport(length);
      case NBD_INFO.BLOCK_SIZE:
        return this.infoBlockSize(length);
      default:
        // Names, descriptions and what later versions add: nothing depends on them.
        return undefined;
    }
  }

  private infoExport(length: number): void {
    if (length !== INFO_EXPORT_BYTES) return this.protocolError('INFO_EXPORT has a wrong length');
    this.exportSize = { high: this.pending.readUInt32BE(2), low: this.pending.readUInt32BE(6) };
    this.exportFlags = this.pending.readUInt16BE(10);
  }

  private infoBlockSize(length: number): void {
    if (length !== INFO_BLOCK_SIZE_BYTES) {
      return this.protocolError('INFO_BLOCK_SIZE has a wrong length');
    }
    const judged = judgeBlockSizes({
      minimum: this.pending.readUInt32BE(2),
      preferred: this.pending.readUInt32BE(6),
      maximum: this.pending.readUInt32BE(10),
    });
    if ('wrong' in judged) return this.protocolError(`it announces ${judged.wrong}`);
    this.blocks = judged.ok;
  }

  private acknowledged(length: number): void {
    if (length !== 0) return this.protocolError('an ACK carries data');
    if (this.exportSize === null)
      return this.protocolError('it did not say how large the export is');
    this.ready(this.exportSize);
  }

  private exportNameReply(): void {
    this.exportFlags = this.pending.readUInt16BE(8);
    this.ready({ high: this.pending.readUInt32BE(0), low: this.pending.readUInt32BE(4) });
  }

  private ready(size: Magic64): void {
    const judged = judgeExport(size, this.exportFlags, this.blocks);
    if ('wrong' in judged) return this.protocolError(`it announces ${judged.wrong}`);
    this.state = 'over';
    this.outcome = { kind: 'ready', info: judged.ok, terms: this.terms };
  }

  /** An error reply to GO, with a message of the server or none. */
  private refused(length: number): void {
    if (this.replyType === NBD_REP.ERR_UNSUP) return this.askExportName();
    const said = printable(
      this.pending.toString('utf8', 0, length),
      NBD_CLIENT_MESSAGE_CHARACTERS_MAX,
    );
    const why = this.reasonOf(this.replyType) + (said === '' ? '' : ` (it says: ${said})`);
    this.send.push(encodeOption(NBD_OPT.ABORT, Buffer.alloc(0)));
    this.fail(this.error('MIRROR_REFUSED', why), true);
  }

  private reasonOf(replyType: number): string {
    switch (replyType) {
      case NBD_REP.ERR_UNKNOWN:
        return `it has no export ${this.quotedName()}`;
      case NBD_REP.ERR_POLICY:
        return `its configuration forbids ${this.quotedName()}`;
      case NBD_REP.ERR_TLS_REQD:
        return 'it requires TLS, which is not available yet';
      case NBD_REP.ERR_SHUTDOWN:
        return 'it is shutting down';
      default:
        return `it refused ${this.quotedName()} with ${nameOfOptionReply(replyType)}`;
    }
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

function encodeOption(option: NbdOption, data: Buffer): Buffer {
  const bytes = Buffer.alloc(NBD_OPTION_HEADER_BYTES + data.length);
  bytes.writeUInt32BE(NBD_OPTION_MAGIC.high, 0);
  bytes.writeUInt32BE(NBD_OPTION_MAGIC.low, 4);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  data.copy(bytes, NBD_OPTION_HEADER_BYTES);
  return bytes;
}
