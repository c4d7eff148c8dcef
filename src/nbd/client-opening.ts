/**
 * From a URI to an open export: connects, runs the handshake machine on the connection, and hands the
 * connection over to what comes after.
 *
 * Invariants:
 * - The promise is settled once, within the time given; a connection that is not handed over is closed.
 * - Bytes behind the handshake reach the next handler, in the same call.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../io/clock.ts';
import { BlockferryError, errorText } from '../io/errors.ts';
import { NBD_CLIENT_MESSAGE_CHARACTERS_MAX } from '../io/limits.ts';
import type { Connection, ConnectionHandler, Network } from '../io/network.ts';
import type { ExportInfo } from './client-export-info.ts';
import { ClientHandshake, type HandshakeOutcome, type HandshakeTerms } from './client-handshake.ts';
import { printable } from './client-text.ts';
import type { NbdUri } from './uri.ts';

export interface OpeningOptions {
  readonly network: Network;
  readonly clock: Clock;
  /** Milliseconds for connecting and handshake together. */
  readonly connectMs: number;
  /** Ask for what tells data from holes. */
  readonly allocation?: boolean;
}

/** Makes what takes the connection over after the handshake. */
export type Successor<T extends ConnectionHandler> = (
  connection: Connection,
  terms: HandshakeTerms,
) => T;

export interface OpenedExport<T> {
  readonly next: T;
  readonly info: ExportInfo;
  readonly terms: HandshakeTerms;
}

/**
 * @throws BlockferryError MIRROR_UNREACHABLE: no connection, or no answer in time. MIRROR_REFUSED: the
 *   server said no. PROTOCOL: it does not keep to the protocol.
 */
export async function openExport<T extends ConnectionHandler>(
  uri: NbdUri,
  options: OpeningOptions,
  successor: Successor<T>,
): Promise<OpenedExport<T>> {
  const began = options.clock.now();
  let connection: Connection;
  try {
    connection = await options.network.connect(uri.address, options.connectMs);
  } catch (error) {
    throw unreachable(uri, options.connectMs, error);
  }
  const left = Math.max(1, options.connectMs - (options.clock.now() - began));
  return new Promise<OpenedExport<T>>((resolve, reject) => {
    const handshake = new ClientHandshake(uri.exportName, uri.text, {
      allocation: options.allocation === true,
    });
    const opening = new Opening({ uri, connection, handshake, successor }, resolve, reject);
    opening.deadline = options.clock.after(left, () => opening.late(options.connectMs));
    connection.start(opening);
  });
}

interface OpeningParts<T extends ConnectionHandler> {
  readonly uri: NbdUri;
  readonly connection: Connection;
  readonly handshake: ClientHandshake;
  readonly successor: Successor<T>;
}

class Opening<T extends ConnectionHandler> implements ConnectionHandler {
  deadline: Timer | null = null;
  private readonly uri: NbdUri;
  private readonly connection: Connection;
  private readonly successor: Successor<T>;
  private readonly resolve: (opened: OpenedExport<T>) => void;
  private readonly reject: (error: BlockferryError) => void;
  private readonly handshake: ClientHandshake;
  private next: T | null = null;
  private failed = false;

  constructor(
    parts: OpeningParts<T>,
    resolve: (opened: OpenedExport<T>) => void,
    reject: (error: BlockferryError) => void,
  ) {
    this.uri = parts.uri;
    this.connection = parts.connection;
    this.successor = parts.successor;
    this.handshake = parts.handshake;
    this.resolve = resolve;
    this.reject = reject;
  }

  received(buffer: Buffer, length: number): void {
    if (this.next !== null) return this.next.received(buffer, length);
    if (this.failed) return undefined;
    const step = this.handshake.received(buffer, length);
    for (const bytes of step.send) this.connection.send(bytes, nothing);
    if (step.outcome === null) return undefined;
    return this.settle(step.outcome, buffer, step.consumed, length);
  }

  drained(): void {
    this.next?.drained();
  }

  ended(): void {
    if (this.next !== null) return this.next.ended();
    this.fail(this.handshake.ended());
    return this.connection.destroy();
  }

  closed(error: Error | null): void {
    this.deadline?.cancel();
    if (this.next !== null) return this.next.closed(error);
    if (error === null) return this.fail(this.handshake.ended());
    const why = `the connection was lost in the handshake (${errorText(error)})`;
    return this.fail(unusable(this.uri, why, error));
  }

  late(connectMs: number): void {
    assert(this.next === null, 'the deadline ends with the handshake');
    this.fail(unusable(this.uri, `the handshake did not end within ${connectMs} ms`));
    this.connection.destroy();
  }

  private settle(outcome: HandshakeOutcome, buffer: Buffer, at: number, length: number): void {
    if (outcome.kind === 'failed') {
      this.fail(outcome.error);
      // The deadline stays, for a server that never takes the farewell.
      return outcome.polite ? this.connection.end() : this.connection.destroy();
    }
    this.deadline?.cancel();
    const next = this.successor(this.connection, outcome.terms);
    this.next = next;
    this.resolve({ next, info: outcome.info, terms: outcome.terms });
    // No server has anything to say before it is asked; the successor finds that out.
    if (at < length) next.received(buffer.subarray(at, length), length - at);
  }

  private fail(error: BlockferryError): void {
    if (this.failed) return;
    this.failed = true;
    this.reject(error);
  }
}

function nothing(): void {}

function unusable(uri: NbdUri, why: string, cause?: unknown): BlockferryError {
  return new BlockferryError('MIRROR_UNREACHABLE', `${uri.text} cannot be used: ${why}`, { cause });
}

const WHY_UNREACHABLE: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  ECONNREFUSED: 'nobody listens there',
  EHOSTUNREACH: 'there is no way to that host',
  ENETUNREACH: 'there is no way to that network',
  ENOENT: 'that socket does not exist',
  ENOTFOUND: 'the host name is not known',
};

function unreachable(uri: NbdUri, connectMs: number, error: unknown): BlockferryError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const text = printable(errorText(error), NBD_CLIENT_MESSAGE_CHARACTERS_MAX);
  const why =
    code === 'ETIMEDOUT' ? `no answer within ${connectMs} ms` : (WHY_UNREACHABLE[code] ?? text);
  return new BlockferryError('MIRROR_UNREACHABLE', `${uri.text} cannot be reached: ${why}`, {
    cause: error,
  });
}
