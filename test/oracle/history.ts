/**
 * Made-up histories for the oracle's tests: requests with a content of one byte value a sector, issued and
 * answered in any interleaving, in a real log; and images put together from chosen requests.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { judge, type OracleMode, type Verdict } from '../../scripts/drill/oracle.ts';
import {
  answeredBy,
  Command,
  FLAG_FUA,
  readRequestLog,
  RequestLogWriter,
} from '../../scripts/drill/request-log.ts';

export interface MadeRequest {
  readonly event: number;
  readonly command: number;
  readonly offset: number;
  readonly length: number;
  readonly content: Buffer;
}

export interface MadeOptions {
  readonly fua?: boolean;
  /** Content of every byte, or the bytes themselves. */
  readonly content: number | Buffer;
}

export class History {
  readonly image: Buffer;
  private readonly directory: string;
  private readonly sizeBytes: number;
  private readonly log: RequestLogWriter;

  constructor(directory: string, sizeBytes: number) {
    this.directory = directory;
    this.sizeBytes = sizeBytes;
    this.image = Buffer.alloc(sizeBytes);
    this.log = new RequestLogWriter(join(directory, 'log'));
  }

  issueWrite(offset: number, length: number, options: MadeOptions): MadeRequest {
    const { content } = options;
    const payload = typeof content === 'number' ? Buffer.alloc(length, content) : content;
    return this.issue(Command.WRITE, offset, payload, options.fua === true);
  }

  issueZero(offset: number, length: number): MadeRequest {
    return this.issue(Command.WRITE_ZEROES, offset, Buffer.alloc(length), false);
  }

  issueTrim(offset: number, length: number): MadeRequest {
    return this.issue(Command.TRIM, offset, Buffer.alloc(length), false);
  }

  issueFlush(): MadeRequest {
    return this.issue(Command.FLUSH, 0, Buffer.alloc(0), false);
  }

  answer(request: MadeRequest, error = 0): void {
    this.log.acknowledge(request.event, error, 1);
  }

  /** Issued and answered before anything else happens. */
  write(offset: number, length: number, options: MadeOptions): MadeRequest {
    const request = this.issueWrite(offset, length, options);
    this.answer(request);
    return request;
  }

  zero(offset: number, length: number): MadeRequest {
    const request = this.issueZero(offset, length);
    this.answer(request);
    return request;
  }

  trim(offset: number, length: number): MadeRequest {
    const request = this.issueTrim(offset, length);
    this.answer(request);
    return request;
  }

  flush(): MadeRequest {
    const request = this.issueFlush();
    this.answer(request);
    return request;
  }

  /** Lets requests reach the image, in this order. */
  apply(...requests: MadeRequest[]): void {
    for (const request of requests) request.content.copy(this.image, request.offset);
  }

  /** Lets a part of a request reach the image, offsets relative to the request. */
  applyPart(request: MadeRequest, from: number, to: number): void {
    request.content.copy(this.image, request.offset + from, from, to);
  }

  /** The last event of the record. */
  get lastEvent(): number {
    return this.log.lastEvent;
  }

  /** `answeredUntil`: later answers count as none. */
  judge(mode: OracleMode = 'async', answeredUntil = Infinity): Verdict {
    this.log.commit();
    const imagePath = join(this.directory, 'image');
    writeFileSync(imagePath, this.image);
    const log = answeredBy(readRequestLog(join(this.directory, 'log')), answeredUntil);
    return judge({ log, imagePath, sizeBytes: this.sizeBytes, mode });
  }

  close(): void {
    this.log.close();
  }

  private issue(command: number, offset: number, content: Buffer, fua: boolean): MadeRequest {
    const event = this.log.issue({
      connection: 1,
      command,
      flags: fua ? FLAG_FUA : 0,
      offset,
      length: content.length,
      payload: command === Command.WRITE ? content : null,
    });
    return { event, command, offset, length: content.length, content };
  }
}

/** The rules that a verdict says were broken, each once. */
export function rulesBroken(verdict: Verdict): string[] {
  return [...new Set(verdict.violations.map((violation) => violation.rule))];
}
