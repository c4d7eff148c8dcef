/**
 * The judge of a mirror: does an image hold what a disk with a write cache must hold after a crash?
 *
 * Given are the record of a client's requests (request-log.ts) and the image of the mirror. Nothing of
 * blockferry is used. The image is cut into cells: blocks of 4 KiB, or sectors of 512 bytes where a
 * request does not cover a block whole or a block as a whole is no known version. Each cell has versions:
 * zeroes (the state before the first request), and what each request that covers it would leave there.
 * A version survives if the cell equals it. Version A is older than B only if A was answered before B was
 * issued; otherwise either may be the last.
 *
 *  R1 known    Every cell equals some version.
 *  R2 flush    If a surviving version was issued after a FLUSH was answered, then every write that was
 *              answered before that FLUSH was issued is there: its cell holds it, or a version that is not
 *              older. A write with FUA is such a FLUSH for itself.
 *  R3 sync     (synchronous mode) Every answered write is there.
 *
 * Where content leaves it open which version survives, the reading that excuses the image is taken: the
 * earliest issue for "a survivor was issued after", the latest answer for "is there". TRIM may leave what
 * was there or zeroes, so it can explain zeroes and demands nothing. A request without an answer, or that
 * failed, may be there in any part of its sectors and demands nothing.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import {
  Command,
  FLAG_FUA,
  isWriteClass,
  type LoggedRequest,
  type RequestLog,
} from './request-log.ts';

const BLOCK_BYTES = 4096;
const SECTOR_BYTES = 512;
const SECTORS_PER_BLOCK = BLOCK_BYTES / SECTOR_BYTES;
const IMAGE_CHUNK_BYTES = 4 * 1024 * 1024;
/** Violations described in full; the rest are counted. */
const VIOLATIONS_TOLD_MAX = 20;

export type OracleMode = 'async' | 'sync';

export interface Violation {
  readonly rule: 'known' | 'flush' | 'fua' | 'sync';
  /** Where the cell begins and how long it is, in bytes. */
  readonly offset: number;
  readonly length: number;
  readonly text: string;
}

export interface Verdict {
  readonly ok: boolean;
  /** At most VIOLATIONS_TOLD_MAX of them. */
  readonly violations: readonly Violation[];
  readonly violationCount: number;
  readonly cells: number;
  readonly versions: number;
  readonly writesAnswered: number;
  readonly flushesAnswered: number;
  /** Flushes and FUA writes that the survivors put in force. */
  readonly flushesInForce: number;
  /** Answered writes of which some cell is older now: the loss that the mode allows (or not). */
  readonly writesLost: number;
  /** Milliseconds from the oldest lost answer to the last answer of the log; 0 without loss. */
  readonly lossMs: number;
}

/** One cell: what its content allows to believe, see R2. */
interface Belief {
  /** The latest answer among the versions that it may be. Infinity: one was never answered. */
  readonly latestAck: number;
  /** The earliest issue among them. -Infinity: it may be the initial state. */
  readonly earliestIssue: number;
}

interface Cell extends Belief {
  readonly offset: number;
  readonly length: number;
}

/** Judges the image at `imagePath`, of which the first `sizeBytes` are the disk. */
export function judge(options: {
  log: RequestLog;
  imagePath: string;
  sizeBytes: number;
  mode: OracleMode;
}): Verdict {
  const trial = new Trial(options.log, options.sizeBytes, options.mode);
  const image = openSync(options.imagePath, 'r');
  const payload = openSync(options.log.payloadPath, 'r');
  try {
    const imageBytes = fstatSync(image).size;
    if (imageBytes < options.sizeBytes) {
      throw new Error(`image of ${imageBytes} bytes, disk of ${options.sizeBytes}`);
    }
    trial.lookAt(image, payload);
    return trial.verdict();
  } finally {
    closeSync(image);
    closeSync(payload);
  }
}

class Trial {
  private readonly requests: readonly LoggedRequest[];
  private readonly flushes: readonly LoggedRequest[];
  private readonly sizeBytes: number;
  private readonly mode: OracleMode;
  /** Versions of block n: `versionRequests[versionStarts[n] .. versionStarts[n + 1])`, in order of issue. */
  private readonly versionStarts: Uint32Array;
  private readonly versionRequests: Uint32Array;
  /** Belief about whole blocks; NaN where the block is judged by its sectors. */
  private readonly latestAck: Float64Array;
  private readonly earliestIssue: Float64Array;
  private readonly sectors = new Map<number, readonly (Belief | null)[]>();
  private readonly violations: Violation[] = [];
  private violationCount = 0;
  private cells = 0;
  private readonly scratch = Buffer.alloc(BLOCK_BYTES);

  constructor(log: RequestLog, sizeBytes: number, mode: OracleMode) {
    this.requests = log.requests.filter((request) => isWriteClass(request) && request.length > 0);
    this.flushes = log.requests.filter(
      (request) => request.command === Command.FLUSH && answered(request),
    );
    this.sizeBytes = sizeBytes;
    this.mode = mode;
    if (sizeBytes % SECTOR_BYTES !== 0) throw new Error(`disk of ${sizeBytes} bytes`);
    for (const request of this.requests) {
      if (request.offset % SECTOR_BYTES !== 0 || request.length % SECTOR_BYTES !== 0) {
        throw new Error(`request ${request.issueEvent} is not made of whole sectors`);
      }
    }
    const blocks = Math.ceil(sizeBytes / BLOCK_BYTES);
    [this.versionStarts, this.versionRequests] = indexByBlock(this.requests, blocks);
    this.latestAck = new Float64Array(blocks);
    this.earliestIssue = new Float64Array(blocks);
  }

  /** Finds out for every cell which versions it may be (R1). */
  lookAt(image: number, payload: number): void {
    const chunk = Buffer.alloc(IMAGE_CHUNK_BYTES);
    for (let start = 0; start < this.sizeBytes; start += chunk.length) {
      const length = Math.min(chunk.length, this.sizeBytes - start);
      readExactly(image, chunk, length, start);
      for (let at = 0; at < length; at += BLOCK_BYTES) {
        const content = chunk.subarray(at, Math.min(at + BLOCK_BYTES, length));
        this.lookAtBlock((start + at) / BLOCK_BYTES, content, payload);
      }
    }
  }

  verdict(): Verdict {
    let lastSurvivor = -Infinity;
    for (const cell of this.eachCell()) {
      if (cell.earliestIssue > lastSurvivor) lastSurvivor = cell.earliestIssue;
    }
    const inForce = this.flushes.filter((flush) => flush.ackEvent < lastSurvivor);
    // A later flush demands all that an earlier one does.
    const flushed = inForce.reduce(
      (latest, flush) => Math.max(latest, flush.issueEvent),
      -Infinity,
    );
    const lost = new Set<number>();
    for (const cell of this.eachCell()) this.demand(cell, { flushed, lastSurvivor, lost });
    return this.summary(lost, inForce.length, lastSurvivor);
  }

  private lookAtBlock(block: number, content: Buffer, payload: number): void {
    const offset = block * BLOCK_BYTES;
    const versions = this.versionsOf(block);
    const whole = versions.every((request) => covers(request, offset, content.length));
    const belief = whole ? this.believe(versions, offset, content, payload) : null;
    this.latestAck[block] = belief?.latestAck ?? NaN;
    this.earliestIssue[block] = belief?.earliestIssue ?? NaN;
    this.cells++;
    if (belief !== null) return;

    const beliefs: (Belief | null)[] = [];
    for (let at = 0; at < content.length; at += SECTOR_BYTES) {
      const sector = content.subarray(at, at + SECTOR_BYTES);
      const believed = this.believe(versions, offset + at, sector, payload);
      beliefs.push(believed);
      if (believed === null) this.unknown(offset + at, versions);
    }
    this.cells += SECTORS_PER_BLOCK - 1;
    this.sectors.set(block, beliefs);
  }

  /** Compares one cell with each version, or returns null when it equals none. */
  private believe(
    versions: readonly LoggedRequest[],
    offset: number,
    content: Buffer,
    payload: number,
  ): Belief | null {
    const zero = isZero(content);
    let known = zero;
    let latestAck = -Infinity;
    let earliestIssue = zero ? -Infinity : Infinity;
    for (const request of versions) {
      if (!covers(request, offset, content.length)) continue;
      if (
        !(request.command === Command.WRITE ? this.wrote(request, offset, content, payload) : zero)
      ) {
        continue;
      }
      known = true;
      latestAck = Math.max(latestAck, answered(request) ? request.ackEvent : Infinity);
      earliestIssue = Math.min(earliestIssue, request.issueEvent);
    }
    return known ? { latestAck, earliestIssue } : null;
  }

  private wrote(request: LoggedRequest, offset: number, content: Buffer, payload: number): boolean {
    const position = request.payloadPosition + offset - request.offset;
    readExactly(payload, this.scratch, content.length, position);
    return this.scratch.compare(content, 0, content.length, 0, content.length) === 0;
  }

  /** Checks R2 and R3 for one cell, and notes what is lost there. */
  private demand(
    cell: Cell,
    given: { flushed: number; lastSurvivor: number; lost: Set<number> },
  ): void {
    let missing: LoggedRequest | null = null;
    let rule: Violation['rule'] = 'flush';
    const block = Math.floor(cell.offset / BLOCK_BYTES);
    const from = this.versionStarts[block] ?? 0;
    const to = this.versionStarts[block + 1] ?? 0;
    for (let index = from; index < to; index++) {
      const number = this.versionRequests[index] ?? 0;
      const request = this.requests[number];
      if (request === undefined || !covers(request, cell.offset, cell.length)) continue;
      if (request.command === Command.TRIM || !answered(request)) continue;
      // There if the cell may be a version that is not older than this one.
      if (cell.latestAck >= request.issueEvent) continue;
      given.lost.add(number);
      const flush = request.ackEvent < given.flushed;
      const fua = (request.flags & FLAG_FUA) !== 0 && request.ackEvent < given.lastSurvivor;
      if (this.mode !== 'sync' && !flush && !fua) continue;
      missing = request;
      rule = flush ? 'flush' : fua ? 'fua' : 'sync';
    }
    if (missing !== null) this.absent(cell, missing, rule, given);
  }

  private unknown(offset: number, versions: readonly LoggedRequest[]): void {
    const candidates = versions.filter((request) => covers(request, offset, SECTOR_BYTES)).length;
    this.violate({
      rule: 'known',
      offset,
      length: SECTOR_BYTES,
      text: `sector at ${offset} equals none of its ${candidates + 1} versions`,
    });
  }

  private absent(
    cell: Cell,
    missing: LoggedRequest,
    rule: Violation['rule'],
    given: { flushed: number; lastSurvivor: number },
  ): void {
    const because = {
      flush: `it was flushed (flush issued at event ${given.flushed}) and something issued later (event ${given.lastSurvivor}) survived`,
      fua: `it had FUA and something issued later (event ${given.lastSurvivor}) survived`,
      sync: 'it was acknowledged in synchronous mode',
      known: '',
    }[rule];
    const has =
      cell.latestAck === -Infinity
        ? 'the initial zeroes'
        : `a version answered at event ${cell.latestAck}`;
    this.violate({
      rule,
      offset: cell.offset,
      length: cell.length,
      text:
        `bytes ${cell.offset}..${cell.offset + cell.length - 1} hold ${has}, but a write issued at event ` +
        `${missing.issueEvent} and answered at ${missing.ackEvent} must be there: ${because}`,
    });
  }

  private violate(violation: Violation): void {
    this.violationCount++;
    if (this.violations.length < VIOLATIONS_TOLD_MAX) this.violations.push(violation);
  }

  private summary(lost: Set<number>, flushesInForce: number, lastSurvivor: number): Verdict {
    const done = this.requests.filter((request) => answered(request));
    const fuas = done.filter((one) => (one.flags & FLAG_FUA) !== 0 && one.ackEvent < lastSurvivor);
    let oldestLostMs = Infinity;
    for (const number of lost) {
      oldestLostMs = Math.min(oldestLostMs, this.requests[number]?.ackedAtMs ?? Infinity);
    }
    const lastMs = done.reduce((latest, request) => Math.max(latest, request.ackedAtMs), 0);
    return {
      ok: this.violationCount === 0,
      violations: this.violations,
      violationCount: this.violationCount,
      cells: this.cells,
      versions: this.versionRequests.length,
      writesAnswered: done.length,
      flushesAnswered: this.flushes.length,
      flushesInForce: flushesInForce + fuas.length,
      writesLost: lost.size,
      lossMs: lost.size === 0 ? 0 : lastMs - oldestLostMs,
    };
  }

  private versionsOf(block: number): LoggedRequest[] {
    const versions: LoggedRequest[] = [];
    const to = this.versionStarts[block + 1] ?? 0;
    for (let index = this.versionStarts[block] ?? 0; index < to; index++) {
      const request = this.requests[this.versionRequests[index] ?? 0];
      if (request !== undefined) versions.push(request);
    }
    return versions;
  }

  /** Every cell that equals a version, blocks that no request touched included. */
  private *eachCell(): Generator<Cell> {
    for (let block = 0; block < this.latestAck.length; block++) {
      const offset = block * BLOCK_BYTES;
      const beliefs = this.sectors.get(block);
      if (beliefs === undefined) {
        yield {
          offset,
          length: Math.min(BLOCK_BYTES, this.sizeBytes - offset),
          latestAck: this.latestAck[block] ?? NaN,
          earliestIssue: this.earliestIssue[block] ?? NaN,
        };
        continue;
      }
      for (const [index, belief] of beliefs.entries()) {
        if (belief === null) continue;
        yield { offset: offset + index * SECTOR_BYTES, length: SECTOR_BYTES, ...belief };
      }
    }
  }
}

function answered(request: LoggedRequest): boolean {
  return request.ackEvent !== Infinity && request.error === 0;
}

function covers(request: LoggedRequest, offset: number, length: number): boolean {
  return request.offset <= offset && offset + length <= request.offset + request.length;
}

/** For each block the numbers of the requests that touch it, as one array and where each block begins. */
function indexByBlock(
  requests: readonly LoggedRequest[],
  blocks: number,
): [starts: Uint32Array, numbers: Uint32Array] {
  const starts = new Uint32Array(blocks + 2);
  const eachBlock = (request: LoggedRequest, visit: (block: number) => void): void => {
    const end = Math.min(request.offset + request.length, blocks * BLOCK_BYTES);
    for (let block = Math.floor(request.offset / BLOCK_BYTES); block * BLOCK_BYTES < end; block++) {
      visit(block);
    }
  };
  // Counting sort: counts two places ahead, so that after filling, starts[n] is where block n begins.
  const add = (index: number, count: number): void => {
    starts[index] = (starts[index] ?? 0) + count;
  };
  for (const request of requests) eachBlock(request, (block) => add(block + 2, 1));
  for (let block = 2; block < starts.length; block++) add(block, starts[block - 1] ?? 0);
  const numbers = new Uint32Array(starts[blocks + 1] ?? 0);
  for (const [number, request] of requests.entries()) {
    eachBlock(request, (block) => {
      numbers[starts[block + 1] ?? 0] = number;
      add(block + 1, 1);
    });
  }
  return [starts, numbers];
}

const ZEROES = Buffer.alloc(BLOCK_BYTES);

function isZero(content: Buffer): boolean {
  return ZEROES.compare(content, 0, content.length, 0, content.length) === 0;
}

function readExactly(fd: number, into: Buffer, length: number, position: number): void {
  let done = 0;
  while (done < length) {
    const count = readSync(fd, into, done, length - done, position + done);
    if (count === 0) throw new Error(`file ends at ${position + done}`);
    done += count;
  }
}
