/**
 * The server's side of the fixed newstyle handshake, as a pure machine: bytes in, effects out
 * (protocol section 3).
 *
 * Invariants:
 * - The split of the bytes into calls does not matter; options are answered strictly in order.
 * - Every option is consumed whole, also when it is refused. A longer one than
 *   NBD_OPTION_BYTES_MAX, more of them than NBD_OPTIONS_MAX, or replies beyond
 *   NBD_HANDSHAKE_REPLY_BYTES_MAX end the connection; nothing is allocated before that check.
 * - After `transmit` or `close` the machine takes no more bytes. What follows GO belongs to the
 *   transmission.
 */
import assert from 'node:assert';
import {
  NBD_HANDSHAKE_REPLY_BYTES_MAX,
  NBD_OPTIONS_MAX,
  NBD_OPTION_BYTES_MAX,
} from '../io/limits.ts';
import {
  nameOfOption,
  NBD_CLIENT_FLAG,
  NBD_CLIENT_FLAGS_BYTES,
  NBD_HANDSHAKE_FLAG,
  NBD_INFO,
  NBD_OPT,
  NBD_OPTION_HEADER_BYTES,
  NBD_OPTION_MAGIC,
  NBD_REP,
  type NbdOptionReply,
} from './constants.ts';
import {
  BLOCK_SIZES,
  transmissionFlagsOf,
  type ClientFacts,
  type ExportSource,
  type NbdExport,
} from './exports.ts';
import type { Negotiated } from './negotiated.ts';
import {
  decodeInfoRequest,
  decodeString,
  encodeExportName,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoString,
  encodeListEntry,
  encodeOptionError,
  encodeOptionReply,
  type InfoRequest,
} from './option-codec.ts';

export type HandshakeEffect =
  | { readonly kind: 'send'; readonly bytes: Buffer }
  /** The client chose. */
  | { readonly kind: 'transmit'; readonly negotiated: Negotiated }
  /** Close after what was sent. `fault` is false when the client did nothing wrong. */
  | { readonly kind: 'close'; readonly reason: string; readonly fault: boolean };

/** What one `feed` brought; bytes from `consumed` on are not of the handshake. */
export interface HandshakeStep {
  readonly effects: readonly HandshakeEffect[];
  readonly consumed: number;
}

/** What the machine waits for; `over` is after `transmit` or `close`. */
type State = 'client-flags' | 'option-header' | 'option-data' | 'over';

const SERVER_FLAGS: number =
  NBD_HANDSHAKE_FLAG.NBD_FLAG_FIXED_NEWSTYLE | NBD_HANDSHAKE_FLAG.NBD_FLAG_NO_ZEROES;
const EMPTY = Buffer.alloc(0);

export class Handshake {
  private readonly source: ExportSource;
  private readonly client: ClientFacts;
  private readonly stopping: () => boolean;
  private state: State = 'client-flags';
  /** Bytes of an incomplete unit, from earlier calls. */
  private pending = EMPTY;
  private pendingLength = 0;
  private option = 0;
  private optionLength = 0;
  private optionCount = 0;
  private replyBytes = 0;
  private zeroes = true;
  private effects: HandshakeEffect[] = [];

  /** `stopping` says whether the server is shutting down: then no export is given out any more. */
  constructor(source: ExportSource, client: ClientFacts, stopping: () => boolean) {
    this.source = source;
    this.client = client;
    this.stopping = stopping;
  }

  /** The bytes that open the conversation; the server does not wait for the client. */
  greeting(): Buffer {
    return encodeGreeting(SERVER_FLAGS);
  }

  /** Takes `bytes`, which are the caller's again when this returns. */
  feed(bytes: Buffer): HandshakeStep {
    let at = 0;
    this.effects = [];
    while (this.state !== 'over') {
      const need = this.unitBytes();
      const have = this.pendingLength + bytes.length - at;
      if (have < need) {
        this.keep(bytes.subarray(at), need);
        at = bytes.length;
        break;
      }
      const fresh = need - this.pendingLength;
      const unit = this.unit(bytes.subarray(at, at + fresh));
      at += fresh;
      this.take(unit);
    }
    return { effects: this.effects, consumed: at };
  }

  private unitBytes(): number {
    if (this.state === 'client-flags') return NBD_CLIENT_FLAGS_BYTES;
    if (this.state === 'option-header') return NBD_OPTION_HEADER_BYTES;
    return this.optionLength;
  }

  private keep(bytes: Buffer, need: number): void {
    if (this.pending.length < need) {
      const larger = Buffer.alloc(need);
      this.pending.copy(larger, 0, 0, this.pendingLength);
      this.pending = larger;
    }
    this.pendingLength += bytes.copy(this.pending, this.pendingLength);
  }

  /** The whole unit: in place if it came in one piece. */
  private unit(fresh: Buffer): Buffer {
    if (this.pendingLength === 0) return fresh;
    this.keep(fresh, this.pendingLength + fresh.length);
    const unit = this.pending.subarray(0, this.pendingLength);
    this.pending = EMPTY;
    this.pendingLength = 0;
    return unit;
  }

  private take(unit: Buffer): void {
    switch (this.state) {
      case 'client-flags':
        return this.takeClientFlags(unit);
      case 'option-header':
        return this.takeOptionHeader(unit);
      case 'option-data':
        this.state = 'option-header';
        return this.answer(unit);
      case 'over':
        assert.fail('nothing is taken after the end');
    }
  }

  private takeClientFlags(unit: Buffer): void {
    const flags = unit.readUInt32BE(0);
    const unknown = (flags & ~SERVER_FLAGS) >>> 0;
    if (unknown !== 0) return this.close(`unknown client flags 0x${unknown.toString(16)}`);
    this.zeroes = (flags & NBD_CLIENT_FLAG.NBD_FLAG_C_NO_ZEROES) === 0;
    this.state = 'option-header';
  }

  private takeOptionHeader(unit: Buffer): void {
    const magicHigh = unit.readUInt32BE(0);
    const magicLow = unit.readUInt32BE(4);
    if (magicHigh !== NBD_OPTION_MAGIC.high || magicLow !== NBD_OPTION_MAGIC.low) {
      return this.close('wrong option magic');
    }
    this.option = unit.readUInt32BE(8);
    this.optionLength = unit.readUInt32BE(12);
    if (this.optionLength > NBD_OPTION_BYTES_MAX) {
      return this.close(`${nameOfOption(this.option)} of ${this.optionLength} bytes is too long`);
    }
    if (++this.optionCount > NBD_OPTIONS_MAX) {
      return this.close(`more than ${NBD_OPTIONS_MAX} options`);
    }
    this.state = 'option-data';
  }

  private answer(data: Buffer): void {
    switch (this.option) {
      case NBD_OPT.ABORT:
        this.reply(NBD_REP.ACK);
        return this.leave('client aborted the handshake');
      case NBD_OPT.EXPORT_NAME:
        return this.answerExportName(data);
    }
    if (this.stopping()) return this.refuse(NBD_REP.ERR_SHUTDOWN, 'server is stopping');
    switch (this.option) {
      case NBD_OPT.LIST:
        return this.answerList(data);
      case NBD_OPT.INFO:
      case NBD_OPT.GO:
        return this.answerInfo(data);
      default:
        return this.refuse(NBD_REP.ERR_UNSUP, `${nameOfOption(this.option)} is not supported`);
    }
  }

  private answerExportName(data: Buffer): void {
    if (this.stopping()) return this.leave('server is stopping');
    const name = decodeString(data);
    if (name === null) return this.close('malformed export name');
    const access = this.source.find(name, this.client);
    if (access.kind !== 'granted') return this.close(`no export ${JSON.stringify(name)}`);
    const flags = transmissionFlagsOf(access.export);
    this.send(encodeExportName(access.export.device.sizeBytes, flags, this.zeroes));
    this.transmit(access.export, flags);
  }

  private answerList(data: Buffer): void {
    if (data.length !== 0) return this.refuse(NBD_REP.ERR_INVALID, 'NBD_OPT_LIST takes no data');
    const exports = this.source.list(this.client);
    if (exports === null) return this.refuse(NBD_REP.ERR_POLICY, 'exports are not listed here');
    for (const { name, device } of exports) {
      this.reply(NBD_REP.SERVER, encodeListEntry(name, device.description));
      if (this.state === 'over') return;
    }
    this.reply(NBD_REP.ACK);
  }

  private answerInfo(data: Buffer): void {
    const request = decodeInfoRequest(data);
    if (request === null) {
      return this.refuse(NBD_REP.ERR_INVALID, `malformed ${nameOfOption(this.option)}`);
    }
    const access = this.source.find(request.name, this.client);
    if (access.kind !== 'granted') {
      return this.refuse(NBD_REP.ERR_UNKNOWN, `no export ${JSON.stringify(request.name)}`);
    }
    const flags = transmissionFlagsOf(access.export);
    this.reply(NBD_REP.INFO, encodeInfoExport(access.export.device.sizeBytes, flags));
    this.replyInfos(request, access.export);
    this.reply(NBD_REP.ACK);
    if (this.option === NBD_OPT.GO) this.transmit(access.export, flags);
  }

  /** Each info asked for, once; unknown ones are not errors. */
  private replyInfos(request: InfoRequest, exported: NbdExport): void {
    const { name, device } = exported;
    if (request.infos.includes(NBD_INFO.NAME)) {
      this.reply(NBD_REP.INFO, encodeInfoString(NBD_INFO.NAME, name));
    }
    if (request.infos.includes(NBD_INFO.DESCRIPTION) && device.description !== '') {
      this.reply(NBD_REP.INFO, encodeInfoString(NBD_INFO.DESCRIPTION, device.description));
    }
    if (request.infos.includes(NBD_INFO.BLOCK_SIZE)) {
      this.reply(NBD_REP.INFO, encodeInfoBlockSize(BLOCK_SIZES));
    }
  }

  private reply(type: NbdOptionReply, payload: Buffer = EMPTY): void {
    this.send(encodeOptionReply(this.option, type, payload));
  }

  private refuse(type: NbdOptionReply, text: string): void {
    this.send(encodeOptionError(this.option, type, text));
  }

  private send(bytes: Buffer): void {
    if (this.state === 'over') return;
    this.replyBytes += bytes.length;
    if (this.replyBytes > NBD_HANDSHAKE_REPLY_BYTES_MAX) return this.close('too much was asked');
    this.effects.push({ kind: 'send', bytes });
  }

  private transmit({ name, device }: NbdExport, flags: number): void {
    if (this.state === 'over') return;
    this.state = 'over';
    const negotiated: Negotiated = {
      exportName: name,
      device,
      flags,
      form: 'simple',
      contexts: [],
    };
    this.effects.push({ kind: 'transmit', negotiated });
  }

  private close(reason: string): void {
    assert(this.state !== 'over');
    this.state = 'over';
    this.effects.push({ kind: 'close', reason, fault: true });
  }

  private leave(reason: string): void {
    if (this.state === 'over') return;
    this.state = 'over';
    this.effects.push({ kind: 'close', reason, fault: false });
  }
}
