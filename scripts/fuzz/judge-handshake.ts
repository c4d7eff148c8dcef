/**
 * Judges the options of one connection: which answers the protocol's text (sections 3 and 4) leaves to a
 * server, seen from the bytes that went over the wire. Where the text leaves a choice, each is right.
 */
import {
  type ByteQueue,
  decodeInfo,
  decodeServer,
  decodeText,
  type OptionReply,
  takeOptionReply,
} from '../../test/wire/decoder.ts';
import { judgeContexts, judgeFlags, judgeInfos, metaExcuses } from './judge-answers.ts';
import {
  demand,
  exportOf,
  type Form,
  type JudgedExport,
  type JudgedSession,
  type ServerFacts,
} from './judge-facts.ts';
import { parseInfo, parseMeta, textOf } from './judge-options.ts';

export type HandshakeVerdict =
  /** Nothing more can be said before more bytes come. */
  | { readonly kind: 'waiting' }
  | { readonly kind: 'session'; readonly session: JudgedSession }
  | { readonly kind: 'tls' }
  /** What follows is no NBD. */
  | { readonly kind: 'elsewhere' }
  /** The server must close; it says nothing more. */
  | { readonly kind: 'over'; readonly why: string };

const WAITING: HandshakeVerdict = { kind: 'waiting' };
const ACK = 1;
const SERVER = 2;
const INFO = 3;
const UNSUP = 0x80000001;
const POLICY = 0x80000002;
const INVALID = 0x80000003;
const TLS_REQD = 0x80000005;
const UNKNOWN = 0x80000006;
const SHUTDOWN = 0x80000007;
const TOO_BIG = 0x80000009;
const EXT_HEADER_REQD = 0x8000000a;

const PRIVATE = 0x62660001;

const OPTION_BYTES_MAX = 65536;

interface Option {
  readonly number: number;
  readonly data: Buffer;
}

export class HandshakeJudge {
  private readonly facts: ServerFacts;
  private secured = false;
  private readonly stopping: () => boolean;
  private state: 'flags' | 'options' = 'flags';
  private zeroes = true;
  private fixed = true;
  private options = 0;
  private current: Option | null = null;
  /** Replies to the current option that were not the last. */
  private parts: OptionReply[] = [];
  private form: Form = 'simple';
  private selection: {
    readonly name: string;
    readonly contexts: ReadonlyMap<number, string>;
  } | null = null;
  /** The last answer to INFO, to be the same for GO. */
  private lastInfo: { readonly data: Buffer; readonly form: Form; readonly text: string } | null =
    null;

  constructor(facts: ServerFacts, stopping: () => boolean) {
    this.stopping = stopping;
    this.facts = facts;
  }

  /** TLS has begun: nothing is left of what was said but the client flags. */
  secure(): void {
    this.secured = true;
    this.form = 'simple';
    this.selection = null;
    this.lastInfo = null;
  }

  /** More options were sent than a server need take: it may close. */
  get pastLimits(): boolean {
    return this.options > this.facts.optionsMax;
  }

  /** The client waits for the answer to STARTTLS. */
  get startsTls(): boolean {
    return this.current?.number === 5;
  }

  /** An option is whole and not answered. */
  get unanswered(): string | null {
    return this.current === null ? null : `option ${this.current.number}`;
  }

  /** Takes both streams as far as they go. */
  advance(client: ByteQueue, server: ByteQueue): HandshakeVerdict {
    for (;;) {
      if (this.state === 'flags') {
        if (client.length < 4) return WAITING;
        const flags = client.take(4).readUInt32BE(0);
        if (flags > 3) return { kind: 'over', why: 'unknown client flags' };
        this.zeroes = (flags & 2) === 0;
        this.fixed = (flags & 1) !== 0;
        this.state = 'options';
      }
      if (this.current === null) {
        const verdict = this.takeOption(client);
        if (verdict !== null) return verdict;
        if (this.current === null) return WAITING;
      }
      const verdict = this.takeAnswer(this.current, server);
      if (verdict !== null) return verdict;
    }
  }

  private takeOption(client: ByteQueue): HandshakeVerdict | null {
    if (client.length < 16) return null;
    const header = client.peek(16);
    if (header.toString('latin1', 0, 8) !== 'IHAVEOPT') {
      return { kind: 'over', why: 'an option without its magic' };
    }
    const length = header.readUInt32BE(12);
    if (length > OPTION_BYTES_MAX) return { kind: 'over', why: `an option of ${length} bytes` };
    if (this.options >= this.facts.optionsMax) return { kind: 'over', why: 'too many options' };
    if (client.length < 16 + length) return null;
    const number = header.readUInt32BE(8);
    if (!this.fixed && number !== 1) {
      return { kind: 'over', why: 'an option without fixed newstyle' };
    }
    client.take(16);
    this.current = { number, data: Buffer.from(client.take(length)) };
    this.options++;
    this.parts = [];
    return null;
  }

  /** Null when the option was answered and the next may come. */
  private takeAnswer(option: Option, server: ByteQueue): HandshakeVerdict | null {
    if (option.number === 1) return this.judgeExportName(option, server);
    for (;;) {
      const reply = takeOptionReply(server);
      if (reply === null) return WAITING;
      demand(
        reply.option === option.number,
        `answers option ${reply.option}, not ${option.number}`,
      );
      if (reply.type === ACK || reply.type >= 0x80000000) {
        this.current = null;
        return this.judge(option, reply);
      }
      this.parts.push(reply);
      demand(this.parts.length <= 100_000, 'an option that is answered without end');
    }
  }

  private judgeExportName(option: Option, server: ByteQueue): HandshakeVerdict {
    const name = textOf(option.data);
    const exported = name === null ? null : exportOf(this.facts, name);
    const needsTls = !this.secured && (this.facts.tls === 'required' || exported?.tlsOnly === true);
    if (exported === null || needsTls || this.form === 'extended') {
      return { kind: 'over', why: 'EXPORT_NAME that cannot be granted' };
    }
    const length = this.zeroes ? 134 : 10;
    if (server.length < length) return WAITING;
    const answer = server.take(length);
    demand(answer.readBigUInt64BE(0) === BigInt(exported.size), 'EXPORT_NAME tells a wrong size');
    demand(
      answer.subarray(10).every((byte) => byte === 0),
      'EXPORT_NAME pads with something',
    );
    this.current = null;
    return this.session(exported, name ?? '', answer.readUInt16BE(8));
  }

  private judge(option: Option, last: OptionReply): HandshakeVerdict | null {
    if (last.type !== ACK) decodeText(last.data);
    else demand(last.data.length === 0, 'an ACK with data');
    if (option.number === 2) {
      this.expect(option, last, [ACK]);
      return { kind: 'over', why: 'ABORT' };
    }
    if (last.type === SHUTDOWN && this.stopping()) return null;
    if (!this.secured && this.facts.tls === 'required' && option.number !== 5) {
      return this.expect(option, last, [TLS_REQD]);
    }
    // What is agreed on may change what INFO says.
    if (option.number !== 6 && option.number !== 7) this.lastInfo = null;
    switch (option.number) {
      case 3:
        return this.judgeList(option, last);
      case 5:
        return this.judgeStartTls(option, last);
      case 6:
      case 7:
        return this.judgeInfo(option, last);
      case 8:
        return this.judgeStructured(option, last);
      case 9:
      case 10:
        return this.judgeMeta(option, last);
      case 11:
        return this.judgeExtended(option, last);
      case PRIVATE:
        return this.judgePrivate(option, last);
      default:
        return this.expect(option, last, [UNSUP]);
    }
  }

  /** The final reply is one of these, and nothing came before an error but what `parts` allows. */
  private expect(option: Option, last: OptionReply, types: readonly number[]): null {
    const said = `0x${last.type.toString(16)}`;
    const legal = types.map((type) => `0x${type.toString(16)}`).join(' or ');
    demand(types.includes(last.type), `answers option ${option.number} with ${said}, not ${legal}`);
    demand(last.type === ACK || this.parts.length === 0, 'an error behind other replies');
    return null;
  }

  /** Who may have it, and what its data says, is nothing that NBD knows. */
  private judgePrivate(option: Option, last: OptionReply): HandshakeVerdict | null {
    const refusals = this.facts.privately ? [INVALID, UNKNOWN, POLICY, UNSUP] : [UNSUP];
    if (!this.facts.privately || last.type !== ACK) return this.expect(option, last, refusals);
    const [part, ...more] = this.parts;
    demand(part?.type === PRIVATE && more.length === 0, 'accepts the private option without data');
    return { kind: 'elsewhere' };
  }

  private judgeList(option: Option, last: OptionReply): null {
    if (option.data.length > 0) return this.expect(option, last, [INVALID]);
    if (!this.facts.listing) return this.expect(option, last, [POLICY]);
    this.expect(option, last, [ACK]);
    const listed = this.parts.map((part) => {
      demand(part.type === SERVER, `LIST brings a reply of type ${part.type}`);
      return decodeServer(part.data);
    });
    const open = this.facts.exports.filter((each) => this.secured || !each.tlsOnly);
    for (const { name } of open) {
      const count = listed.filter((each) => each.name === name).length;
      demand(count === 1, `LIST tells of ${JSON.stringify(name)} ${count} times`);
    }
    for (const { name } of listed) {
      const known = this.facts.exports.some((each) => each.name === name);
      demand(known, `LIST tells of ${JSON.stringify(name)}`);
    }
    return null;
  }

  private judgeStartTls(option: Option, last: OptionReply): HandshakeVerdict | null {
    if (this.facts.tls === 'none') return this.expect(option, last, [UNSUP, POLICY, INVALID]);
    if (option.data.length > 0 || this.secured) return this.expect(option, last, [INVALID]);
    this.expect(option, last, [ACK]);
    return { kind: 'tls' };
  }

  private judgeStructured(option: Option, last: OptionReply): null {
    const again = this.form === 'structured';
    if (option.data.length > 0) {
      return this.expect(option, last, [INVALID, ...this.extendedAlready()]);
    }
    if (this.form === 'extended') return this.expect(option, last, [EXT_HEADER_REQD]);
    this.expect(option, last, again ? [ACK, INVALID] : [ACK]);
    this.form = 'structured';
    return null;
  }

  private extendedAlready(): readonly number[] {
    return this.form === 'extended' ? [EXT_HEADER_REQD] : [];
  }

  private judgeExtended(option: Option, last: OptionReply): null {
    if (option.data.length > 0) return this.expect(option, last, [INVALID]);
    this.expect(option, last, this.form === 'extended' ? [ACK, INVALID] : [ACK]);
    this.form = 'extended';
    return null;
  }

  private judgeInfo(option: Option, last: OptionReply): HandshakeVerdict | null {
    const request = parseInfo(option.data);
    if (request === null) return this.expect(option, last, [INVALID]);
    const exported = exportOf(this.facts, request.name);
    if (exported === null) return this.expect(option, last, [UNKNOWN, ...this.enumeration()]);
    if (exported.tlsOnly && !this.secured) return this.expect(option, last, [TLS_REQD]);
    this.expect(option, last, [ACK]);
    const infos = this.parts.map((part) => {
      demand(part.type === INFO, `INFO brings a reply of type ${part.type}`);
      return decodeInfo(part.data);
    });
    const flags = judgeInfos(infos, request.infos, exported);
    this.compareInfo(option);
    return option.number === 7 ? this.session(exported, request.name, flags) : null;
  }

  /** With exports that only exist under TLS, a server may answer so for names that it does not know. */
  private enumeration(): readonly number[] {
    const hiding = this.facts.exports.some((each) => each.tlsOnly);
    return hiding && !this.secured ? [TLS_REQD] : [];
  }

  /** INFO, then the same as GO: the same answers. */
  private compareInfo(option: Option): void {
    const text = this.parts.map((part) => part.data.toString('hex')).join(' ');
    const { form, lastInfo } = this;
    if (option.number === 6) this.lastInfo = { data: option.data, form, text };
    else if (lastInfo?.form === form && lastInfo.data.equals(option.data)) {
      demand(lastInfo.text === text, 'GO is answered unlike INFO');
    }
  }

  private judgeMeta(option: Option, last: OptionReply): null {
    const setting = option.number === 10;
    // Whatever comes of it, an earlier selection is gone.
    if (setting) this.selection = null;
    const request = parseMeta(option.data);
    const refusals: number[] = [];
    if (this.form === 'simple') refusals.push(INVALID);
    if (request === null) refusals.push(INVALID, TOO_BIG);
    if (refusals.length > 0 || request === null) return this.expect(option, last, refusals);
    const excuses = metaExcuses(request);
    const exported = exportOf(this.facts, request.name);
    if (exported === null) {
      return this.expect(option, last, [UNKNOWN, ...this.enumeration(), ...excuses]);
    }
    if (exported.tlsOnly && !this.secured) {
      return this.expect(option, last, [UNKNOWN, TLS_REQD, ...excuses]);
    }
    if (last.type !== ACK) return this.expect(option, last, excuses);
    const contexts = judgeContexts(this.parts, request, exported, setting);
    if (setting) this.selection = { name: request.name, contexts };
    return null;
  }

  private session(exported: JudgedExport, name: string, flags: number): HandshakeVerdict {
    judgeFlags(exported, this.form, flags);
    const { selection, form } = this;
    const same = selection !== null && exportOf(this.facts, selection.name) === exported;
    const session: JudgedSession = {
      exported,
      form,
      flags,
      contexts: same ? selection.contexts : new Map<number, string>(),
      contextsCertain: !same || selection.name === name,
    };
    return { kind: 'session', session };
  }
}
