/**
 * Judges replies against the requests that are not answered yet: the right form, a cookie that waits for
 * it, chunks inside the request and over each other nowhere, DONE last, an error that the request
 * earned, and the bytes that the device holds.
 *
 * What a device holds is followed request by request, in the order in which they were sent: overlapping
 * changes are applied in that order, whatever the order of the answers. A READ among changes that are not
 * answered may see them or not, unless the device is known to keep the order there too.
 */
import {
  type ByteQueue,
  type Chunk,
  type ChunkContent,
  takeExtendedChunk,
  takeSimpleReply,
  takeStructuredChunk,
} from '../../test/wire/decoder.ts';
import type { Content } from './content.ts';
import { demand, type JudgedSession } from './judge-facts.ts';
import { blur, compare, judgePart, judgeWhole, nameOf, type Waiting } from './judge-read.ts';
import { type JudgedRequest, type Verdict, verdictOf } from './judge-rules.ts';
import { judgeStatus } from './judge-status.ts';

const LEGAL_ERRORS: ReadonlySet<number> = new Set([1, 5, 12, 22, 28, 75, 95, 108]);
const ESHUTDOWN = 108;
const FAST_ZERO = 0x10;
const PAYLOAD_BYTES_MAX = 33554432;

const changesContent = ({ command }: JudgedRequest): boolean =>
  command === 1 || command === 4 || command === 6;

export class ReplyJudge {
  private readonly session: JudgedSession;
  private readonly content: Content;
  private readonly stopping: () => boolean;
  private readonly readsInOrder: boolean;
  private readonly waiting = new Map<bigint, Waiting[]>();
  /** Requests so far that change the content, and those of them that are not answered. */
  private changes = 0;
  private changesWaiting = 0;
  /** The stream cannot be taken apart any more, by the client's own fault. */
  private blind = false;

  constructor(
    session: JudgedSession,
    content: Content,
    options: { readonly stopping: () => boolean; readonly readsInOrder: boolean },
  ) {
    this.session = session;
    this.content = content;
    this.stopping = options.stopping;
    this.readsInOrder = options.readsInOrder;
  }

  /** What the client sent may mean several things: nothing more can be judged. */
  get isBlind(): boolean {
    return this.blind;
  }

  get unanswered(): string | null {
    if (this.blind) return null;
    for (const [first] of this.waiting.values()) {
      if (first !== undefined) return nameOf(first.request);
    }
    return null;
  }

  /** The client sent all of a request. */
  sent(request: JudgedRequest): void {
    const verdict = verdictOf(request, this.session);
    const isRead = request.command === 0 && verdict.success;
    const entry: Waiting = {
      request,
      verdict,
      expected: isRead ? this.content.read(Number(request.offset), Number(request.length)) : null,
      covered: [],
      statuses: new Set(),
      contentChunks: 0,
      error: null,
      changes: this.changesWaiting === 0 ? this.changes : -1,
      ambiguous: false,
    };
    if (!this.readsInOrder) this.meet(entry);
    this.follow(request, verdict);
    const same = this.waiting.get(request.cookie) ?? [];
    same.push(entry);
    if (same.length > 1) this.confused(same);
    this.waiting.set(request.cookie, same);
  }

  /** Where a READ and a change are on their way together, either may come first. */
  private meet(entry: Waiting): void {
    const changes = changesContent(entry.request);
    if (entry.expected === null && !changes) return;
    for (const same of this.waiting.values()) {
      for (const other of same) {
        if (changes) blur(other, entry.request);
        else if (changesContent(other.request)) blur(entry, other.request);
      }
    }
  }

  /** Which of them a reply is for cannot be told; nor, in the simple form, how much data follows it. */
  private confused(same: readonly Waiting[]): void {
    for (const each of same) each.ambiguous = true;
    const lengths = new Set(same.map((each) => each.expected?.bytes.length ?? 0));
    if (this.session.form !== 'extended' && lengths.size > 1) this.blind = true;
  }

  /** Takes whole replies. */
  advance(server: ByteQueue): void {
    while (!this.blind && server.length >= 4) {
      const magic = server.peek(4).readUInt32BE(0);
      const chunk = this.takeChunk(server, magic);
      if (chunk === 'simple') {
        const reply = takeSimpleReply(server, (cookie) => this.dataBytesOf(cookie));
        if (reply === null) return;
        this.judgeSimple(reply.cookie, reply.error, reply.data);
      } else if (chunk === null) return;
      else this.judgeChunk(chunk);
    }
  }

  /** The connection is over: what was not answered may or may not have been done. */
  abandon(): void {
    for (const same of this.waiting.values()) {
      for (const { request, verdict } of same) if (verdict.success) this.mayHaveFailed(request);
    }
    this.waiting.clear();
  }

  private takeChunk(server: ByteQueue, magic: number): Chunk | 'simple' | null {
    const { form } = this.session;
    if (form === 'simple') return 'simple';
    if (form === 'extended') return takeExtendedChunk(server);
    return magic === 0x67446698 ? 'simple' : takeStructuredChunk(server);
  }

  private dataBytesOf(cookie: bigint): number {
    const same = this.waiting.get(cookie);
    demand(
      same !== undefined,
      `answers the cookie 0x${cookie.toString(16)}, which waits for nothing`,
    );
    return same[0]?.expected?.bytes.length ?? 0;
  }

  private oldest(cookie: bigint): Waiting {
    const first = this.waiting.get(cookie)?.[0];
    demand(
      first !== undefined,
      `answers the cookie 0x${cookie.toString(16)}, which waits for nothing`,
    );
    return first;
  }

  private judgeSimple(cookie: bigint, error: number, data: Buffer): void {
    const entry = this.oldest(cookie);
    const { command } = entry.request;
    const structured = this.session.form === 'structured';
    const chunksOnly = structured && (command === 0 || command === 7);
    demand(!chunksOnly || entry.ambiguous, `a simple reply to ${nameOf(entry.request)}`);
    if (error === 0 && entry.expected !== null && !entry.ambiguous) compare(entry, 0, data);
    this.finish(entry, error);
  }

  private judgeChunk(chunk: Chunk): void {
    const entry = this.oldest(chunk.cookie);
    const { request } = entry;
    if (chunk.echoedOffset !== null && !entry.ambiguous) {
      demand(chunk.echoedOffset === request.offset, `echoes a wrong offset to ${nameOf(request)}`);
    }
    if (!entry.ambiguous) this.judgeContent(entry, chunk.content);
    if (!chunk.done) return;
    if (entry.error === null && !entry.ambiguous) judgeWhole(entry);
    this.finish(entry, entry.error ?? 0);
  }

  private judgeContent(entry: Waiting, content: ChunkContent): void {
    const { request } = entry;
    const what = nameOf(request);
    switch (content.kind) {
      case 'none':
        return undefined;
      case 'data':
        demand(content.data.length <= PAYLOAD_BYTES_MAX, `a chunk of ${content.data.length} bytes`);
        return judgePart(entry, content.offset, content.data.length, content.data);
      case 'hole':
        demand((request.flags & 4) === 0, `a hole in an answer that may not be in pieces: ${what}`);
        return judgePart(entry, content.offset, content.length, null);
      case 'status':
        return this.judgeStatus(entry, content);
      case 'error':
        demand(entry.error === null, `two errors for ${what}`);
        if (content.offset !== null) {
          const end = request.offset + request.length;
          const inside = content.offset >= request.offset && content.offset < end;
          demand(inside, `an error at ${content.offset} for ${what}`);
        }
        entry.error = content.error;
        return undefined;
    }
  }

  private judgeStatus(entry: Waiting, content: Extract<ChunkContent, { kind: 'status' }>): void {
    const { request, verdict } = entry;
    const what = nameOf(request);
    demand(request.command === 7 && verdict.success, `a status for ${what}`);
    demand(content.wide === (this.session.form === 'extended'), 'a status of the wrong width');
    demand(verdict.ids.includes(content.id), `a status of context ${content.id} for ${what}`);
    demand(!entry.statuses.has(content.id), `context ${content.id} comes twice for ${what}`);
    entry.statuses.add(content.id);
    // What it says can be held against the content only if nothing else was on its way.
    const known = entry.changes === this.changes ? this.content : null;
    judgeStatus(content, request, verdict.length, this.session, known);
  }

  private finish(entry: Waiting, error: number): void {
    const { request, verdict, ambiguous } = entry;
    const what = nameOf(request);
    if (error !== 0) demand(LEGAL_ERRORS.has(error), `the error ${error} for ${what}`);
    const excused = error === ESHUTDOWN && this.stopping();
    if (!ambiguous && !excused) {
      if (error === 0) demand(verdict.success, `success for ${what}`);
      else {
        const legal = [...verdict.errors].join(', ');
        demand(verdict.errors.has(error), `the error ${error} (legal: ${legal}) for ${what}`);
      }
    }
    if (verdict.success && (error !== 0 || ambiguous)) this.mayHaveFailed(request);
    if (changesContent(request)) this.changesWaiting--;
    // Only now it is known that it was fast enough to be done.
    const last = request.command === 6 && entry.changes + 1 === this.changes;
    if (last && error === 0 && !ambiguous)
      this.content.zero(Number(request.offset), Number(request.length));
    const same = this.waiting.get(request.cookie) ?? [];
    same.shift();
    if (same.length === 0) this.waiting.delete(request.cookie);
  }

  // What the device holds.

  private follow(request: JudgedRequest, verdict: Verdict): void {
    if (!changesContent(request)) return;
    this.changes++;
    this.changesWaiting++;
    if (!verdict.success) {
      // A device that fails may have done a part of it.
      if ([...verdict.errors].every((error) => this.isOfDevice(request, error))) {
        this.mayHaveFailed(request);
      }
      return;
    }
    const offset = Number(request.offset);
    const length = Number(request.length);
    if (request.command === 1) this.content.write(offset, request.payload ?? Buffer.alloc(0));
    else if (request.command === 6 && (request.flags & FAST_ZERO) === 0) {
      this.content.zero(offset, length);
    } else this.content.mayBeZero(offset, length);
  }

  /** The error is the device's, not that of a request that never got there. */
  private isOfDevice(request: JudgedRequest, error: number): boolean {
    const { exported } = this.session;
    const end = request.offset + request.length;
    return (
      end <= BigInt(exported.size) && exported.badRanges.some((range) => range.error === error)
    );
  }

  private mayHaveFailed({ command, offset, length }: JudgedRequest): void {
    if (command === 1) this.content.forget(Number(offset), Number(length));
    else if (command === 6 || command === 4) {
      // What was there before is not known any more: zeroes stand in its place.
      this.content.mayBeZero(Number(offset), Number(length));
    }
  }
}
