/**
 * The options that are about exports, and those that say how to talk about them (protocol section 3).
 *
 * Invariants:
 * - A client hears no difference between an export that it may not use and one that is not there, but
 *   that NBD_OPT_INFO and NBD_OPT_GO tell it to start TLS where that is all that is missing.
 * - NBD_REP_ERR_TLS_REQD is never said after TLS began, nor where there is none (section 4).
 * - An INFO and a GO behind it are answered from the same facts, so alike.
 */
import { NBD_META_CONTEXTS_MAX, NBD_META_QUERIES_MAX } from '../../io/limits.ts';
import type { TlsPeer } from '../../io/network.ts';
import { nameOfOption, NBD_INFO, NBD_OPT, NBD_REP } from '../constants.ts';
import {
  BLOCK_SIZES,
  type ClientFacts,
  type ExportAccess,
  type ExportSource,
  type NbdExport,
  type TlsMode,
} from '../server/exports.ts';
import type { HandshakeOutput } from './handshake-output.ts';
import { areContextQueries, chosenContexts, listedContexts } from './meta-contexts.ts';
import { Negotiation } from './negotiation.ts';
import {
  decodeInfoRequest,
  decodeMetaRequest,
  decodeString,
  encodeExportName,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoString,
  encodeListEntry,
  encodeMetaContext,
  type InfoRequest,
  type MetaRequest,
  quoted,
} from './option-codec.ts';

type Refusal = Exclude<ExportAccess, { readonly kind: 'granted' }>;

const refusalText = (access: Refusal): string =>
  access.kind === 'denied' ? access.reason : access.kind;

export class ExportOptions {
  private readonly source: ExportSource;
  private readonly tls: TlsMode;
  private readonly output: HandshakeOutput;
  private readonly negotiation = new Negotiation();
  private client: ClientFacts;

  constructor(source: ExportSource, client: ClientFacts, tls: TlsMode, output: HandshakeOutput) {
    this.source = source;
    this.client = client;
    this.tls = tls;
    this.output = output;
  }

  /** From now on the client is `peer`, who has agreed on nothing. */
  secured(peer: TlsPeer): void {
    this.client = { ip: this.client.ip, tls: peer };
    this.negotiation.forget();
  }

  structuredReply(): void {
    if (this.negotiation.form === 'extended') {
      const text = 'extended headers are on, and say more';
      return this.output.refuse(NBD_REP.ERR_EXT_HEADER_REQD, text);
    }
    this.negotiation.form = 'structured';
    this.output.reply(NBD_REP.ACK);
  }

  extendedHeaders(): void {
    this.negotiation.form = 'extended';
    this.output.reply(NBD_REP.ACK);
  }

  /** There is no way to say no to this option but to close. `zeroes` is what the client flags ask for. */
  exportName(data: Buffer, zeroes: boolean): void {
    const { output, negotiation } = this;
    if (negotiation.form === 'extended') {
      return output.close('NBD_OPT_EXPORT_NAME after NBD_OPT_EXTENDED_HEADERS');
    }
    const name = decodeString(data);
    if (name === null) return output.close('malformed export name');
    const access = this.find(name);
    if (access.kind !== 'granted') {
      return output.close(`no export ${quoted(name)} for this client: ${refusalText(access)}`);
    }
    const negotiated = negotiation.result(name, access.export);
    output.send(encodeExportName(negotiated.device.sizeBytes, negotiated.flags, zeroes));
    output.transmit(negotiated);
  }

  list(): void {
    const exports = this.source.list(this.client);
    if (exports === null) {
      return this.output.refuse(NBD_REP.ERR_POLICY, 'exports are not listed here');
    }
    for (const { name, device } of exports) {
      this.output.reply(NBD_REP.SERVER, encodeListEntry(name, device.description));
      if (this.output.over) return;
    }
    this.output.reply(NBD_REP.ACK);
  }

  /** INFO, or GO. */
  info(data: Buffer): void {
    const { option } = this.output;
    const request = decodeInfoRequest(data);
    if (request === null) return this.malformed();
    const access = this.find(request.name);
    if (access.kind !== 'granted') return this.refuse(request.name, access);
    const negotiated = this.negotiation.result(request.name, access.export);
    const { device, flags } = negotiated;
    this.output.reply(NBD_REP.INFO, encodeInfoExport(device.sizeBytes, flags));
    this.infos(request, access.export);
    this.output.reply(NBD_REP.ACK);
    if (option === NBD_OPT.GO) this.output.transmit(negotiated);
  }

  /** Each info asked for, once; unknown ones are not errors. */
  private infos({ infos }: InfoRequest, { name, device }: NbdExport): void {
    const { output } = this;
    if (infos.includes(NBD_INFO.NAME)) {
      output.reply(NBD_REP.INFO, encodeInfoString(NBD_INFO.NAME, name));
    }
    if (infos.includes(NBD_INFO.DESCRIPTION) && device.description !== '') {
      output.reply(NBD_REP.INFO, encodeInfoString(NBD_INFO.DESCRIPTION, device.description));
    }
    if (infos.includes(NBD_INFO.BLOCK_SIZE)) {
      output.reply(NBD_REP.INFO, encodeInfoBlockSize(BLOCK_SIZES));
    }
  }

  /** LIST_META_CONTEXT, or SET_META_CONTEXT, which makes any earlier selection void even if it fails. */
  metaContext(data: Buffer): void {
    const { output, negotiation } = this;
    if (output.option === NBD_OPT.SET_META_CONTEXT) negotiation.deselect();
    if (negotiation.form === 'simple') {
      const text = `${nameOfOption(output.option)} needs structured replies`;
      return output.refuse(NBD_REP.ERR_INVALID, text);
    }
    const request = decodeMetaRequest(data);
    if (request === 'malformed') return this.malformed();
    if (request === 'too-many') {
      return output.refuse(NBD_REP.ERR_TOO_BIG, `more than ${NBD_META_QUERIES_MAX} queries`);
    }
    if (!areContextQueries(request.queries)) {
      return output.refuse(NBD_REP.ERR_INVALID, 'a query without a namespace');
    }
    const access = this.find(request.name);
    if (access.kind !== 'granted') return this.refuse(request.name, access);
    if (output.option === NBD_OPT.SET_META_CONTEXT) this.setContexts(request, access.export);
    else this.listContexts(request, access.export);
  }

  private setContexts({ name, queries }: MetaRequest, { device }: NbdExport): void {
    const { output } = this;
    const chosen = chosenContexts(device.contexts(), queries);
    if (chosen.length > NBD_META_CONTEXTS_MAX) {
      return output.refuse(NBD_REP.ERR_TOO_BIG, `more than ${NBD_META_CONTEXTS_MAX} contexts`);
    }
    for (const { id, context } of this.negotiation.select(name, device, chosen)) {
      output.reply(NBD_REP.META_CONTEXT, encodeMetaContext(id, context.name));
    }
    output.reply(NBD_REP.ACK);
  }

  private listContexts({ queries }: MetaRequest, { device }: NbdExport): void {
    for (const context of listedContexts(device.contexts(), queries)) {
      this.output.reply(NBD_REP.META_CONTEXT, encodeMetaContext(0, context.name));
    }
    this.output.reply(NBD_REP.ACK);
  }

  private find(name: string): ExportAccess {
    const access = this.source.find(name, this.client);
    if (access.kind !== 'tls-required') return access;
    if (this.tls !== 'off' && this.client.tls === null) return access;
    return { kind: 'denied', reason: 'it needs TLS, which cannot be started' };
  }

  private refuse(name: string, access: Refusal): void {
    const { output } = this;
    const mayDemandTls = output.option === NBD_OPT.INFO || output.option === NBD_OPT.GO;
    if (access.kind === 'tls-required' && mayDemandTls) {
      return output.refuse(NBD_REP.ERR_TLS_REQD, `export ${quoted(name)} needs TLS`);
    }
    if (access.kind === 'denied') output.deny(name, access.reason);
    output.refuse(NBD_REP.ERR_UNKNOWN, `no export ${quoted(name)}`);
  }

  private malformed(): void {
    this.output.refuse(NBD_REP.ERR_INVALID, `malformed ${nameOfOption(this.output.option)}`);
  }
}
