/**
 * Talks to a node over its control socket.
 *
 * Invariants: an answer is bounded in size and time; whatever goes wrong becomes one BlockferryError,
 * the node's own where it sent one.
 */
import { request, type IncomingMessage, type RequestOptions } from 'node:http';
import { formatAddress } from '../io/address.ts';
import { BlockferryError, ERROR_CATALOGUE, errorText, type ErrorCode } from '../io/errors.ts';
import { CONTROL_ANSWER_BYTES_MAX, CONTROL_REPLY_MS_MAX } from '../io/limits.ts';
import type { Address } from '../io/network.ts';

type Method = 'GET' | 'POST' | 'DELETE';

export class ControlClient {
  private readonly address: Address;

  constructor(address: Address) {
    this.address = address;
  }

  /** The JSON answer. Rejects with BlockferryError: CONTROL_UNREACHABLE or what the node refused. */
  async call<T>(
    method: Method,
    path: string,
    body?: unknown,
    /** 0: as long as it takes. */
    timeoutMs: number = CONTROL_REPLY_MS_MAX,
  ): Promise<T> {
    const response = await this.open(method, path, body, timeoutMs);
    const text = await this.readAll(response);
    if ((response.statusCode ?? 0) >= 400) throw this.refusal(response, text);
    try {
      return JSON.parse(text) as T;
    } catch (error) {
      throw this.unreachable('its answer is not JSON', error);
    }
  }

  /** Calls `line` for each line of an endless answer. Resolves when the node ends it. */
  async stream(path: string, line: (text: string) => void): Promise<void> {
    const response = await this.open('GET', path, undefined, 0);
    if ((response.statusCode ?? 0) >= 400) {
      throw this.refusal(response, await this.readAll(response));
    }
    response.setEncoding('utf8');
    let rest = '';
    try {
      for await (const chunk of response as AsyncIterable<string>) {
        const lines = (rest + chunk).split('\n');
        rest = lines.pop() ?? '';
        for (const text of lines) line(text);
      }
    } catch (error) {
      throw this.unreachable('it ended in the middle of the events', error);
    }
  }

  private open(
    method: Method,
    path: string,
    body: unknown,
    timeoutMs: number,
  ): Promise<IncomingMessage> {
    const payload = body === undefined ? null : Buffer.from(JSON.stringify(body));
    const options: RequestOptions = {
      method,
      path,
      agent: false,
      timeout: timeoutMs,
      headers:
        payload === null
          ? {}
          : { 'content-type': 'application/json', 'content-length': payload.length },
      ...(this.address.kind === 'unix'
        ? { socketPath: this.address.path }
        : { host: this.address.host, port: this.address.port }),
    };
    return new Promise((resolve, reject) => {
      const outgoing = request(options, resolve);
      outgoing.on('timeout', () => {
        outgoing.destroy(new Error(`no answer within ${timeoutMs / 1000} s`));
      });
      outgoing.on('error', (error) => reject(this.unreachable(errorText(error), error)));
      outgoing.end(payload ?? undefined);
    });
  }

  private async readAll(response: IncomingMessage): Promise<string> {
    const chunks: Buffer[] = [];
    let bytes = 0;
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        bytes += chunk.length;
        if (bytes > CONTROL_ANSWER_BYTES_MAX) throw new Error('its answer is too long');
        chunks.push(chunk);
      }
    } catch (error) {
      throw this.unreachable(errorText(error), error);
    }
    return Buffer.concat(chunks).toString('utf8');
  }

  private refusal(response: IncomingMessage, text: string): BlockferryError {
    const refused = refusalIn(text);
    if (refused === null) {
      return this.unreachable(`it answered HTTP ${response.statusCode ?? 0}`, undefined);
    }
    const { code, message } = refused;
    if (isErrorCode(code)) return new BlockferryError(code, message);
    return new BlockferryError('INTERNAL', `${message} (${code})`);
  }

  private unreachable(why: string, cause: unknown): BlockferryError {
    const where = formatAddress(this.address);
    return new BlockferryError('CONTROL_UNREACHABLE', `no node answers at ${where}: ${why}`, {
      cause,
    });
  }
}

function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERROR_CATALOGUE, code);
}

/** The `error` of an answer, or null when another program answered. */
function refusalIn(text: string): { code: string; message: string } | null {
  let body: { error?: { code?: unknown; message?: unknown } } | null;
  try {
    body = JSON.parse(text) as typeof body;
  } catch {
    return null;
  }
  const { code, message } = body?.error ?? {};
  return typeof code === 'string' && typeof message === 'string' ? { code, message } : null;
}

/** The path of a volume in the API. */
export function volumePath(name: string): string {
  return `/v1/volumes/${encodeURIComponent(name)}`;
}
