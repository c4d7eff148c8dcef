/**
 * The server's side of the fixed newstyle handshake, as a pure machine: bytes in, effects out
 * (protocol sections 3 and 4). This file has the stream of options, its bounds, and TLS; what the options
 * mean is in `export-options.ts`.
 *
 * Invariants:
 * - The split of the bytes into calls does not matter; options are answered strictly in order.
 * - Every option is consumed whole, also when it is refused. A longer one than
 *   NBD_OPTION_BYTES_MAX, more of them than allowed, or replies beyond
 *   NBD_HANDSHAKE_REPLY_BYTES_MAX end the connection; nothing is allocated before that check. TLS does
 *   not make these counts begin anew.
 * - After `transmit`, `hand-over` or `close` the machine takes no more bytes. What follows GO belongs to the
 *   transmission, and what follows an accepted private option to whoever accepted it.
 * - After `start-tls` nothing is kept of what the client said but its flags, and nothing is taken before
 *   `secured`: clear text behind STARTTLS never counts as said under TLS.
 */
import assert from 'node:assert';
import { NBD_OPTION_BYTES_MAX } from '../../io/limits.ts';
import type { TlsPeer } from '../../io/network.ts';
import {
  nameOfOption,
  NBD_CLIENT_FLAG,
  NBD_CLIENT_FLAGS_BYTES,
  NBD_HANDSHAKE_FLAG,
  NBD_OPT,
  NBD_OPTION_HEADER_BYTES,
  NBD_OPTION_MAGIC,
  NBD_REP,
} from '../constants.ts';
import { ExportOptions } from './export-options.ts';
import type { ClientFacts, ExportSource, TlsMode } from '../server/exports.ts';
import { type HandshakeEffect, HandshakeOutput } from './handshake-output.ts';
import { encodeGreeting } from './option-codec.ts';
import type { PrivateOption } from './private-option.ts';
import { UnitReader } from '../unit-reader.ts';

export type { HandshakeEffect } from './handshake-output.ts';

/** What one `feed` brought; bytes from `consumed` on are not of the handshake. */
export interface HandshakeStep {
  readonly effects: readonly HandshakeEffect[];
  readonly consumed: number;
}

export interface HandshakeOptions {
  readonly source: ExportSource;
  readonly client: ClientFacts;
  /** Of the listener that the client came through. */
  readonly tls: TlsMode;
  /** Whether the server is shutting down: then no export is given out any more. */
  readonly stopping: () => boolean;
  /** Options in this handshake. One more ends it. */
  readonly maxOptions: number;
  /** Without it there is none, as in any other server. */
  readonly privateOption?: PrivateOption | null;
}

/** What the machine waits for; `securing` is for `secured`. */
type State = 'client-flags' | 'option-header' | 'option-data' | 'securing';

const SERVER_FLAGS: number =
  NBD_HANDSHAKE_FLAG.NBD_FLAG_FIXED_NEWSTYLE | NBD_HANDSHAKE_FLAG.NBD_FLAG_NO_ZEROES;
const DATALESS: ReadonlySet<number> = new Set([
  NBD_OPT.LIST,
  NBD_OPT.STARTTLS,
  NBD_OPT.STRUCTURED_REPLY,
  NBD_OPT.EXTENDED_HEADERS,
]);

const PRIVATE_REFUSALS = {
  invalid: NBD_REP.ERR_INVALID,
  unknown: NBD_REP.ERR_UNKNOWN,
  policy: NBD_REP.ERR_POLICY,
} as const;

export class Handshake {
  private readonly tls: TlsMode;
  private readonly stopping: () => boolean;
  private readonly maxOptions: number;
  private readonly privateOption: PrivateOption | null;
  private readonly output = new HandshakeOutput();
  private readonly exports: ExportOptions;
  private readonly units = new UnitReader();
  private state: State = 'client-flags';
  private client: ClientFacts;
  private secure = false;
  private optionLength = 0;
  private optionCount = 0;
  private fixedNewstyle = false;
  private zeroes = true;
  /** Bytes of the present call behind the present unit. */
  private bytesBehind = 0;

  constructor(options: HandshakeOptions) {
    const { source, client, tls, stopping, maxOptions } = options;
    assert(client.tls === null, 'the handshake begins in clear');
    this.tls = tls;
    this.stopping = stopping;
    this.maxOptions = maxOptions;
    this.privateOption = options.privateOption ?? null;
    this.client = client;
    this.exports = new ExportOptions(source, client, tls, this.output);
  }

  /** The bytes that open the conversation; the server does not wait for the client. */
  greeting(): Buffer {
    return encodeGreeting(SERVER_FLAGS);
  }

  /** Takes `bytes`, which are the caller's again when this returns. */
  feed(bytes: Buffer): HandshakeStep {
    let at = 0;
    if (this.state === 'securing' && !this.output.over && bytes.length > 0)
      this.closeForClearText();
    while (this.state !== 'securing' && !this.output.over) {
      const need = this.unitBytes();
      const fresh = this.units.missing(need, bytes.length - at);
      if (fresh === null) {
        this.units.keep(bytes.subarray(at), need);
        at = bytes.length;
        break;
      }
      const unit = this.units.finish(bytes.subarray(at, at + fresh));
      at += fresh;
      this.bytesBehind = bytes.length - at;
      this.take(unit);
    }
    return { effects: this.output.take(), consumed: at };
  }

  /**
   * TLS is in place, as `start-tls` demanded. The client flags still hold; all else that was agreed in
   * clear is void (CVE-2021-3716).
   */
  secured(peer: TlsPeer): void {
    assert(this.state === 'securing', 'TLS was asked for');
    assert(!this.output.over);
    this.secure = true;
    this.client = { ip: this.client.ip, tls: peer };
    this.exports.secured(peer);
    this.state = 'option-header';
  }

  private unitBytes(): number {
    if (this.state === 'client-flags') return NBD_CLIENT_FLAGS_BYTES;
    if (this.state === 'option-header') return NBD_OPTION_HEADER_BYTES;
    return this.optionLength;
  }

  private take(unit: Buffer): void {
    if (this.state === 'client-flags') return this.takeClientFlags(unit);
    if (this.state === 'option-header') return this.takeOptionHeader(unit);
    assert(this.state === 'option-data');
    this.state = 'option-header';
    this.answer(unit);
  }

  private takeClientFlags(unit: Buffer): void {
    const flags = unit.readUInt32BE(0);
    const unknown = (flags & ~SERVER_FLAGS) >>> 0;
    if (unknown !== 0) return this.output.close(`unknown client flags 0x${unknown.toString(16)}`);
    this.fixedNewstyle = (flags & NBD_CLIENT_FLAG.NBD_FLAG_C_FIXED_NEWSTYLE) !== 0;
    this.zeroes = (flags & NBD_CLIENT_FLAG.NBD_FLAG_C_NO_ZEROES) === 0;
    this.state = 'option-header';
  }

  private takeOptionHeader(unit: Buffer): void {
    const { output } = this;
    const magicHigh = unit.readUInt32BE(0);
    const magicLow = unit.readUInt32BE(4);
    if (magicHigh !== NBD_OPTION_MAGIC.high || magicLow !== NBD_OPTION_MAGIC.low) {
      return output.close('wrong option magic');
    }
    const option = unit.readUInt32BE(8);
    const length = unit.readUInt32BE(12);
    if (length > NBD_OPTION_BYTES_MAX) {
      return output.close(`${nameOfOption(option)} of ${length} bytes is too long`);
    }
    if (++this.optionCount > this.maxOptions) {
      return output.close(`more than ${this.maxOptions} options`);
    }
    output.option = option;
    this.optionLength = length;
    this.state = 'option-data';
  }

  /** What comes before the meaning of an option: who may ask at all, and when. */
  private answer(data: Buffer): void {
    const { output } = this;
    const { option } = output;
    if (option === NBD_OPT.EXPORT_NAME) return this.answerExportName(data);
    // Such a client understands no reply to an option.
    if (!this.fixedNewstyle) return output.close(`${nameOfOption(option)} without fixed newstyle`);
    if (option === NBD_OPT.ABORT) {
      output.reply(NBD_REP.ACK);
      return output.leave('client aborted the handshake');
    }
    if (this.tls === 'required' && !this.secure && option !== NBD_OPT.STARTTLS) {
      return output.refuse(NBD_REP.ERR_TLS_REQD, 'TLS is required here');
    }
    if (this.stopping()) return output.refuse(NBD_REP.ERR_SHUTDOWN, 'server is stopping');
    if (option === NBD_OPT.STARTTLS && this.tls === 'off') {
      return output.refuse(NBD_REP.ERR_POLICY, 'TLS is switched off here');
    }
    if (DATALESS.has(option) && data.length !== 0) {
      return output.refuse(NBD_REP.ERR_INVALID, `${nameOfOption(option)} takes no data`);
    }
    this.dispatch(option, data);
  }

  private dispatch(option: number, data: Buffer): void {
    switch (option) {
      case NBD_OPT.LIST:
        return this.exports.list();
      case NBD_OPT.STARTTLS:
        return this.answerStartTls();
      case NBD_OPT.INFO:
      case NBD_OPT.GO:
        return this.exports.info(data);
      case NBD_OPT.STRUCTURED_REPLY:
        return this.exports.structuredReply();
      case NBD_OPT.LIST_META_CONTEXT:
      case NBD_OPT.SET_META_CONTEXT:
        return this.exports.metaContext(data);
      case NBD_OPT.EXTENDED_HEADERS:
        return this.exports.extendedHeaders();
      case NBD_OPT.BLOCKFERRY:
        return this.answerPrivate(data);
      default:
        return this.answerUnknown();
    }
  }

  private answerUnknown(): void {
    const { output } = this;
    output.refuse(NBD_REP.ERR_UNSUP, `${nameOfOption(output.option)} is not supported`);
  }

  private answerPrivate(data: Buffer): void {
    const { output } = this;
    if (this.privateOption === null) return this.answerUnknown();
    const answer = this.privateOption(data, this.client);
    if (answer.kind === 'refuse') {
      output.deny(answer.denied.name, answer.denied.reason);
      const type = PRIVATE_REFUSALS[answer.as];
      return output.refuse(type, answer.text);
    }
    assert(answer.reply.length <= NBD_OPTION_BYTES_MAX, 'a reply is as short as an option');
    output.reply(NBD_REP.BLOCKFERRY, answer.reply);
    output.reply(NBD_REP.ACK);
    output.handOver(answer);
  }

  private answerExportName(data: Buffer): void {
    if (this.stopping()) return this.output.leave('server is stopping');
    if (this.tls === 'required' && !this.secure) {
      return this.output.close('NBD_OPT_EXPORT_NAME before TLS');
    }
    this.exports.exportName(data, this.zeroes);
  }

  private answerStartTls(): void {
    if (this.secure) return this.output.refuse(NBD_REP.ERR_INVALID, 'TLS is on already');
    if (this.bytesBehind > 0) return this.closeForClearText();
    this.output.reply(NBD_REP.ACK);
    if (this.output.over) return;
    this.state = 'securing';
    this.output.startTls();
  }

  /** Somebody on the way may have put it there. */
  private closeForClearText(): void {
    this.output.close('clear text after NBD_OPT_STARTTLS');
  }
}
