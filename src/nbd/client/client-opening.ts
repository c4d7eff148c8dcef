/**
 * From a URI to an open export: connects, runs the handshake machine on the connection, and hands the
 * connection over to what comes after.
 *
 * Invariants:
 * - The promise is settled once, within the time given; a connection that is not handed over is closed.
 * - Bytes behind the handshake reach the next handler, in the same call.
 * - For a URI with TLS nothing but the first words of the handshake goes in clear, and no answer of a server that did not
 *   prove who it is counts.
 */
import assert from 'node:assert';
import type { Clock, Timer } from '../../io/clock.ts';
import { BlockferryError, errorText } from '../../io/errors.ts';
import type {
  Connection,
  ConnectionHandler,
  Network,
  TlsClientContext,
  TlsClientTerms,
} from '../../io/network.ts';
import type { ExportInfo } from './client-export-info.ts';
import {
  ClientHandshake,
  type ClientWishes,
  type HandshakeOutcome,
  type HandshakeTerms,
} from './client-handshake.ts';
import { tlsTermsFor } from './client-tls.ts';
import { unreachable, unusable } from './client-unreachable.ts';
import type { NbdUri } from '../uri/uri.ts';

export interface OpeningOptions {
  readonly network: Network;
  readonly clock: Clock;
  /** Milliseconds for connecting and handshake together. */
  readonly connectMs: number;
  /** Ask for what tells data from holes. */
  readonly allocation?: boolean;
  /** For URIs with TLS that name no files of their own; without it servers are verified by the authorities that Node trusts. */
  readonly tls?: TlsClientContext | undefined;
}

/** To talk otherwise with a server that is more than an NBD server: see private-option.ts. */
export interface PrivateWish<P extends ConnectionHandler> {
  /** Data of the option, at most NBD_OPTION_BYTES_MAX bytes. */
  readonly data: Buffer;
  /** A server that does not know the option is of no use. */
  readonly required: boolean;
  /**
   * Makes what takes the connection over, from the data of the reply. It may send at once. What it throws ends the connection:
   * a BlockferryError.
   */
  accepted(connection: Connection, reply: Buffer): P;
}

/** Makes what takes the connection over after the handshake. */
export type ExportSuccessor<T extends ConnectionHandler> = (
  connection: Connection,
  terms: HandshakeTerms,
) => T;

export interface OpenedExport<T> {
  readonly kind: 'export';
  readonly next: T;
  readonly info: ExportInfo;
  readonly terms: HandshakeTerms;
}

export interface OpenedPrivately<P> {
  readonly kind: 'private';
  readonly next: P;
}

export type Opened<T, P> = OpenedExport<T> | OpenedPrivately<P>;

/** What there may be after the handshake. */
interface Successors<T extends ConnectionHandler, P extends ConnectionHandler> {
  readonly ofExport: ExportSuccessor<T>;
  readonly privately: PrivateWish<P> | null;
}

/**
 * @throws BlockferryError MIRROR_UNREACHABLE: no connection, or no answer in time. MIRROR_REFUSED: the
 *   server said no. PEER_REFUSED: it said no to the private option, and why. MIRROR_TLS: one side does not trust the other.
 *   TLS_INVALID: the files for TLS cannot be used. PROTOCOL: it does not keep to the protocol.
 */
export async function open<T extends ConnectionHandler, P extends ConnectionHandler>(
  uri: NbdUri,
  options: OpeningOptions,
  successors: Successors<T, P>,
): Promise<Opened<T, P>> {
  const tls = tlsTermsFor(uri, options.tls ?? null);
  const began = options.clock.now();
  let connection: Connection;
  try {
    connection = await options.network.connect(uri.address, options.connectMs);
  } catch (error) {
    throw unreachable(uri, options.connectMs, error);
  }
  const left = Math.max(1, options.connectMs - (options.clock.now() - began));
  return new Promise<Opened<T, P>>((resolve, reject) => {
    const handshake = new ClientHandshake(uri.exportName, uri.text, {
      allocation: options.allocation === true,
      tls: tls !== null,
      ...wishOf(successors.privately),
    });
    const opening = new Opening({ uri, connection, handshake, tls, successors }, resolve, reject);
    opening.deadline = options.clock.after(left, () => opening.late(options.connectMs));
    connection.start(opening);
  });
}

function wishOf(wish: PrivateWish<ConnectionHandler> | null): Pick<ClientWishes, 'privately'> {
  return wish === null ? {} : { privately: { data: wish.data, required: wish.required } };
}

/** As `open`, without a private option. */
export async function openExport<T extends ConnectionHandler>(
  uri: NbdUri,
  options: OpeningOptions,
  ofExport: ExportSuccessor<T>,
): Promise<OpenedExport<T>> {
  const opened = await open<T, never>(uri, options, { ofExport, privately: null });
  assert(opened.kind === 'export', 'nothing else was asked for');
  return opened;
}

interface OpeningParts<T extends ConnectionHandler, P extends ConnectionHandler> {
  readonly uri: NbdUri;
  readonly connection: Connection;
  readonly handshake: ClientHandshake;
  readonly tls: TlsClientTerms | null;
  readonly successors: Successors<T, P>;
}

class Opening<
  T extends ConnectionHandler,
  P extends ConnectionHandler,
> implements ConnectionHandler {
  deadline: Timer | null = null;
  private readonly uri: NbdUri;
  private readonly connection: Connection;
  private readonly tls: TlsClientTerms | null;
  private readonly successors: Successors<T, P>;
  private readonly resolve: (opened: Opened<T, P>) => void;
  private readonly reject: (error: BlockferryError) => void;
  private readonly handshake: ClientHandshake;
  private next: T | P | null = null;
  private failed = false;
  /** TLS began, and the server has said nothing under it: it may not trust this side. */
  private untrusted = false;

  constructor(
    parts: OpeningParts<T, P>,
    resolve: (opened: Opened<T, P>) => void,
    reject: (error: BlockferryError) => void,
  ) {
    this.uri = parts.uri;
    this.connection = parts.connection;
    this.tls = parts.tls;
    this.successors = parts.successors;
    this.handshake = parts.handshake;
    this.resolve = resolve;
    this.reject = reject;
  }

  received(buffer: Buffer, length: number): void {
    if (this.next !== null) return this.next.received(buffer, length);
    if (this.failed) return undefined;
    this.untrusted = false;
    const step = this.handshake.received(buffer, length);
    this.say(step.send);
    if (step.outcome === null) return undefined;
    return this.settle(step.outcome, buffer, step.consumed, length);
  }

  landing(): Buffer | null {
    return this.next?.landing?.() ?? null;
  }

  drained(): void {
    this.next?.drained();
  }

  ended(): void {
    if (this.next !== null) return this.next.ended();
    this.fail(this.untrusted ? this.distrust() : this.handshake.ended());
    return this.connection.destroy();
  }

  closed(error: Error | null): void {
    this.deadline?.cancel();
    if (this.next !== null) return this.next.closed(error);
    if (this.untrusted || (error !== null && isOfTls(error)))
      return this.fail(this.distrust(error));
    if (error === null) return this.fail(this.handshake.ended());
    const why = `the connection was lost in the handshake (${errorText(error)})`;
    return this.fail(unusable(this.uri, why, error));
  }

  late(connectMs: number): void {
    assert(this.next === null, 'the deadline ends with the handshake');
    this.fail(unusable(this.uri, `the handshake did not end within ${connectMs} ms`));
    this.connection.destroy();
  }

  private say(words: readonly Buffer[]): void {
    for (const bytes of words) this.connection.send(bytes, nothing);
  }

  private settle(outcome: HandshakeOutcome, buffer: Buffer, at: number, length: number): void {
    if (outcome.kind === 'start-tls') return this.startTls();
    if (outcome.kind === 'failed') {
      this.fail(outcome.error);
      // The deadline stays, for a server that never takes the farewell.
      return outcome.polite ? this.connection.end() : this.connection.destroy();
    }
    const next =
      outcome.kind === 'private' ? this.takePrivate(outcome.reply) : this.takeExport(outcome);
    // What came first must be seen to be wrong first.
    if (next !== null && at < length) next.received(buffer.subarray(at, length), length - at);
  }

  private takeExport({ info, terms }: HandshakeOutcome & { readonly kind: 'ready' }): T {
    this.deadline?.cancel();
    const next = this.successors.ofExport(this.connection, terms);
    this.next = next;
    this.resolve({ kind: 'export', next, info, terms });
    return next;
  }

  /** Null when the reply is of no use. */
  private takePrivate(reply: Buffer): P | null {
    const { privately } = this.successors;
    assert(privately !== null, 'it was asked for');
    let next: P;
    try {
      next = privately.accepted(this.connection, reply);
    } catch (error) {
      if (!(error instanceof BlockferryError)) throw error;
      this.fail(error);
      this.connection.destroy();
      return null;
    }
    this.deadline?.cancel();
    this.next = next;
    this.resolve({ kind: 'private', next });
    return next;
  }

  private startTls(): void {
    assert(this.tls !== null, 'TLS was wished for');
    this.untrusted = true;
    this.connection.startTls(this.tls, () => {
      if (!this.failed) this.say(this.handshake.secured().send);
    });
  }

  /** With TLS 1.3 the client's part is done before the server has looked at what it showed. */
  private distrust(error: Error | null = null): BlockferryError {
    const why =
      error?.message ??
      'it closed the connection in TLS, as one does that does not trust this side';
    return new BlockferryError('MIRROR_TLS', `${this.uri.text}: ${why}`, { cause: error });
  }

  private fail(error: BlockferryError): void {
    if (this.failed) return;
    this.failed = true;
    this.reject(error);
  }
}

function nothing(): void {}

/** The other side may say that it does not trust ours when our part of TLS is done. */
function isOfTls(error: Error): boolean {
  return 'code' in error && typeof error.code === 'string' && error.code.startsWith('ERR_SSL_');
}
