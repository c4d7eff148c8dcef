/**
 * The record of what a client asked of a disk and what it was told: written by the recorder, read by the
 * oracle, and by nothing that it judges.
 *
 * A log is a directory of two append-only files. `payload` holds the bytes of writes. `requests` holds
 * records of 48 bytes, little-endian:
 *
 *   offset 0  u8   kind: 1 issue, 2 acknowledgement, 3 mark
 *          1  u8   NBD command
 *          2  u16  NBD command flags
 *          4  u32  connection
 *          8  f64  event: counts issues and acknowledgements of all connections in the order in which they
 *                  were seen; starts at 1
 *         16  f64  issue: byte offset · acknowledgement: NBD error · mark: its number
 *         24  f64  issue: length in bytes
 *         32  f64  issue: where its bytes begin in `payload` · acknowledgement: event of the issue
 *         40  f64  milliseconds since 1970
 *
 * An issue is in the file before the request goes to the server, an acknowledgement before the reply
 * goes to the client. So whatever is killed and when: every effect has its issue here, and whatever the
 * client believes has its acknowledgement here. A torn last record is ignored.
 */
import assert from 'node:assert';
import { closeSync, mkdirSync, openSync, readFileSync, writeSync, writevSync } from 'node:fs';
import { join } from 'node:path';

export const Command = Object.freeze({
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
} as const);

export const FLAG_FUA = 1;

const RECORD_BYTES = 48;
const KIND_ISSUE = 1;
const KIND_ACK = 2;
const KIND_MARK = 3;
/** Records gathered between two commits before the buffer is flushed by itself. */
const RECORDS_GATHERED_MAX = 1024;
/** Vectors of one writev (the system's own bound is 1024). */
const VECTORS_MAX = 512;

export interface Issue {
  readonly connection: number;
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly payload: Buffer | null;
}

export function logFiles(directory: string): { requests: string; payload: string } {
  return { requests: join(directory, 'requests'), payload: join(directory, 'payload') };
}

/** Appends to a new log. What was added is in the files after `commit`. */
export class RequestLogWriter {
  private readonly requestsFd: number;
  private readonly payloadFd: number;
  private readonly records = Buffer.alloc(RECORD_BYTES * RECORDS_GATHERED_MAX);
  private gathered = 0;
  private payloads: Buffer[] = [];
  private payloadBytes = 0;
  private event = 0;

  constructor(directory: string) {
    mkdirSync(directory, { recursive: true });
    const files = logFiles(directory);
    this.requestsFd = openSync(files.requests, 'wx');
    this.payloadFd = openSync(files.payload, 'wx');
  }

  /** The number of the last event. */
  get lastEvent(): number {
    return this.event;
  }

  /** Returns the event, to be named by the acknowledgement. The payload must not change until `commit`. */
  issue(issue: Issue): number {
    const event = ++this.event;
    const at = this.begin(KIND_ISSUE, issue.command, issue.flags, issue.connection, event);
    this.records.writeDoubleLE(issue.offset, at + 16);
    this.records.writeDoubleLE(issue.length, at + 24);
    this.records.writeDoubleLE(this.payloadBytes, at + 32);
    if (issue.payload !== null) {
      assert(issue.payload.length === issue.length, 'payload and length agree');
      this.payloads.push(issue.payload);
      this.payloadBytes += issue.payload.length;
    }
    return event;
  }

  acknowledge(issueEvent: number, error: number, connection: number): number {
    const event = ++this.event;
    const at = this.begin(KIND_ACK, 0, 0, connection, event);
    this.records.writeDoubleLE(error, at + 16);
    this.records.writeDoubleLE(0, at + 24);
    this.records.writeDoubleLE(issueEvent, at + 32);
    return event;
  }

  /** A place in the log that the drill can find again. Returns the event that it follows. */
  mark(number: number): number {
    const at = this.begin(KIND_MARK, 0, 0, 0, this.event);
    this.records.writeDoubleLE(number, at + 16);
    this.records.writeDoubleLE(0, at + 24);
    this.records.writeDoubleLE(0, at + 32);
    this.commit();
    return this.event;
  }

  /** Payload first: a record never points at bytes that are not there. */
  commit(): void {
    for (let index = 0; index < this.payloads.length; index += VECTORS_MAX) {
      writeVector(this.payloadFd, this.payloads.slice(index, index + VECTORS_MAX));
    }
    if (this.payloads.length > 0) this.payloads = [];
    const bytes = this.gathered * RECORD_BYTES;
    let written = 0;
    while (written < bytes) {
      written += writeSync(this.requestsFd, this.records, written, bytes - written);
    }
    this.gathered = 0;
  }

  close(): void {
    this.commit();
    closeSync(this.requestsFd);
    closeSync(this.payloadFd);
  }

  private begin(
    kind: number,
    command: number,
    flags: number,
    connection: number,
    event: number,
  ): number {
    if (this.gathered === RECORDS_GATHERED_MAX) this.commit();
    const at = this.gathered++ * RECORD_BYTES;
    this.records.writeUInt8(kind, at);
    this.records.writeUInt8(command, at + 1);
    this.records.writeUInt16LE(flags, at + 2);
    this.records.writeUInt32LE(connection, at + 4);
    this.records.writeDoubleLE(event, at + 8);
    this.records.writeDoubleLE(Date.now(), at + 40);
    return at;
  }
}

function writeVector(fd: number, buffers: Buffer[]): void {
  const expected = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
  const written = writevSync(fd, buffers);
  if (written === expected) return;
  const rest = Buffer.concat(buffers).subarray(written);
  let done = 0;
  while (done < rest.length) done += writeSync(fd, rest, done);
}

/** One thing that a client asked for, and what became of it. */
export interface LoggedRequest {
  readonly command: number;
  readonly flags: number;
  readonly connection: number;
  readonly offset: number;
  readonly length: number;
  /** Where the bytes of a write begin in the payload file. */
  readonly payloadPosition: number;
  readonly issueEvent: number;
  readonly issuedAtMs: number;
  /** Event of the reply, or Infinity when none was seen. */
  ackEvent: number;
  ackedAtMs: number;
  /** The NBD error of the reply; meaningless without one. */
  error: number;
}

export interface RequestLog {
  /** In the order of their issue. */
  readonly requests: LoggedRequest[];
  /** Event after which each mark was set, by its number. */
  readonly marks: ReadonlyMap<number, number>;
  readonly payloadPath: string;
}

export function readRequestLog(directory: string): RequestLog {
  const files = logFiles(directory);
  const bytes = readFileSync(files.requests);
  const requests: LoggedRequest[] = [];
  const byEvent = new Map<number, LoggedRequest>();
  const marks = new Map<number, number>();
  for (let at = 0; at + RECORD_BYTES <= bytes.length; at += RECORD_BYTES) {
    const kind = bytes.readUInt8(at);
    const event = bytes.readDoubleLE(at + 8);
    if (kind === KIND_MARK) {
      marks.set(bytes.readDoubleLE(at + 16), event);
    } else if (kind === KIND_ISSUE) {
      const request = decodeIssue(bytes, at);
      requests.push(request);
      byEvent.set(event, request);
    } else if (kind === KIND_ACK) {
      const request = byEvent.get(bytes.readDoubleLE(at + 32));
      if (request === undefined) throw new Error(`record at ${at}: reply without its request`);
      request.ackEvent = event;
      request.ackedAtMs = bytes.readDoubleLE(at + 40);
      request.error = bytes.readDoubleLE(at + 16);
    } else {
      throw new Error(`record at ${at}: unknown kind ${kind}`);
    }
  }
  return { requests, marks, payloadPath: files.payload };
}

function decodeIssue(bytes: Buffer, at: number): LoggedRequest {
  return {
    command: bytes.readUInt8(at + 1),
    flags: bytes.readUInt16LE(at + 2),
    connection: bytes.readUInt32LE(at + 4),
    offset: bytes.readDoubleLE(at + 16),
    length: bytes.readDoubleLE(at + 24),
    payloadPosition: bytes.readDoubleLE(at + 32),
    issueEvent: bytes.readDoubleLE(at + 8),
    issuedAtMs: bytes.readDoubleLE(at + 40),
    ackEvent: Infinity,
    ackedAtMs: Infinity,
    error: 0,
  };
}

/** The same requests; those that were answered after an event count as unanswered. */
export function answeredBy(log: RequestLog, event: number): RequestLog {
  const requests = log.requests.map((request) =>
    request.ackEvent <= event ? request : { ...request, ackEvent: Infinity, ackedAtMs: Infinity },
  );
  return { ...log, requests };
}

/** Whether a request changes content. */
export function isWriteClass(request: { readonly command: number }): boolean {
  return (
    request.command === Command.WRITE ||
    request.command === Command.WRITE_ZEROES ||
    request.command === Command.TRIM
  );
}

/** Distinct blocks of 4 KiB that write-class requests issued after event `from`, up to `to`, touched. */
export function blocksTouched(log: RequestLog, from: number, to: number): Set<number> {
  const blocks = new Set<number>();
  for (const request of log.requests) {
    if (request.issueEvent <= from || request.issueEvent > to || !isWriteClass(request)) continue;
    const end = request.offset + request.length;
    for (let block = Math.floor(request.offset / 4096); block * 4096 < end; block++) {
      blocks.add(block);
    }
  }
  return blocks;
}

/** Bytes of the writes that were issued after an event, each as often as it was written. */
export function bytesWritten(log: RequestLog, from: number): number {
  const writes = log.requests.filter(
    ({ command, issueEvent }) => command === Command.WRITE && issueEvent > from,
  );
  return writes.reduce((sum, { length }) => sum + length, 0);
}
