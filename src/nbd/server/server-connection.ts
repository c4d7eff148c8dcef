/**
 * One client of the server, from accept to the end: first the handshake, then the transmission, or what it
 * asked for with the private option.
 *
 * Invariants:
 * - Everything is set up before the first byte goes out.
 * - `device.opened` when the transmission begins and `device.closed` when it is gone: each once.
 * - A client that does not finish the handshake, TLS included, in `limits.handshakeMs`, or does not take its
 *   last replies within NBD_DRAIN_MS_MAX of the end, is cut off.
 * - TLS begins when all that goes in clear was sent, and no byte that came in clear is left.
 * - After the private option was accepted, all that comes is given to whoever accepted it; here it is only counted,
 *   and ended when the server ends.
 * - `over` resolves once nothing of this client is left; after `cut`, once its socket is closed,
 *   even if a device still holds requests of it. `gone` is called when they too are answered.
 */
import assert from 'node:assert';
import type { Timer } from '../../io/clock.ts';
import type { BlockDevice } from '../../io/device.ts';
import { NBD_DRAIN_MS_MAX } from '../../io/limits.ts';
import type { Connection, ConnectionHandler, TlsPeer, TlsServerContext } from '../../io/network.ts';
import type { ExportSource, TlsMode } from './exports.ts';
import type { PrivateAcceptance } from '../handshake/handshake-output.ts';
import { Handshake, type HandshakeEffect } from '../handshake/handshake.ts';
import type { Negotiated } from '../handshake/negotiated.ts';
import type { PrivateOption, Successor } from '../handshake/private-option.ts';
import type { NbdLog } from './server-log.ts';
import type { ServerShared } from './server-shared.ts';
import { Transmission } from '../transmission/transmission.ts';

/** How a server encrypts. A context is there unless the mode is `off`. */
export type ServerTls =
  | { readonly mode: 'off' }
  | { readonly mode: Exclude<TlsMode, 'off'>; readonly context: TlsServerContext };

/** What its server hears of a client. */
export interface ServerConnectionEvents {
  /** Handshake and TLS are behind it. */
  chose(client: ServerConnection): void;
  /** Its handshake came to nothing through its own fault, or took too long. */
  failed(): void;
  /** An export was refused to it. */
  denied(): void;
  /** Called once, last. */
  gone(client: ServerConnection): void;
}

export interface ServerConnectionOptions {
  readonly connection: Connection;
  readonly exports: ExportSource;
  readonly privateOption: PrivateOption | null;
  readonly tls: ServerTls;
  readonly shared: ServerShared;
  readonly log: NbdLog;
  /** Whether the server is shutting down. */
  readonly stopping: () => boolean;
  readonly events: ServerConnectionEvents;
}

const ignoreSent = (): void => {};

export class ServerConnection implements ConnectionHandler {
  /** See the invariants above. */
  readonly over: Promise<void>;

  private readonly connection: Connection;
  private readonly shared: ServerShared;
  private readonly log: NbdLog;
  private readonly events: ServerConnectionEvents;
  private readonly tls: ServerTls;
  private readonly handshake: Handshake;
  private tlsPeer: TlsPeer | null = null;
  /** STARTTLS was granted, and the client has not proved anything yet. */
  private securing = false;
  private transmission: Transmission | null = null;
  private successor: Successor | null = null;
  /** The export that it uses, or what else it is for. */
  private purpose = '';
  private deadline: Timer | null = null;
  /** Why it ended; the first reason counts. */
  private reason: string | null = null;
  private fault = false;
  private wasCut = false;
  private socketClosed = false;
  private settle: () => void = ignoreSent;

  constructor(options: ServerConnectionOptions) {
    this.connection = options.connection;
    this.shared = options.shared;
    this.log = options.log;
    this.events = options.events;
    this.tls = options.tls;
    this.handshake = new Handshake({
      source: options.exports,
      client: { ip: options.connection.remoteIp, tls: null },
      tls: options.tls.mode,
      stopping: options.stopping,
      maxOptions: options.shared.limits.options,
      privateOption: options.privateOption,
    });
    this.over = new Promise((resolve) => {
      this.settle = resolve;
    });
  }

  /** The device that the client uses, or null before it chose one. */
  get device(): BlockDevice | null {
    return this.transmission?.device ?? null;
  }

  /** It has not come to what it wants yet. */
  get shakesHands(): boolean {
    return this.transmission === null && this.successor === null;
  }

  /** As `Connection.remoteIp`. */
  get remoteIp(): string | null {
    return this.connection.remoteIp;
  }

  begin(): void {
    this.deadline = this.shared.clock.after(this.shared.limits.handshakeMs, () => {
      this.note('handshake timed out', true);
      this.connection.destroy();
    });
    this.connection.start(this);
    this.connection.send(this.handshake.greeting(), ignoreSent);
  }

  /** Ends when requests in flight are answered; later ones are refused, and so are exports. */
  stop(): void {
    this.transmission?.stop();
    this.successor?.stop();
  }

  /** Closes the socket now. */
  cut(reason: string): void {
    this.note(reason, true);
    this.wasCut = true;
    if (this.socketClosed) this.settle();
    else this.connection.destroy();
  }

  received(buffer: Buffer, length: number): void {
    if (this.transmission !== null) return this.transmission.received(buffer, 0, length);
    if (this.successor !== null) return this.successor.handler.received(buffer, length);
    if (this.reason !== null) return;
    const { effects, consumed } = this.handshake.feed(buffer.subarray(0, length));
    this.connection.cork();
    for (const effect of effects) this.apply(effect);
    this.connection.uncork();
    if (effects.at(-1)?.kind === 'start-tls') {
      assert(consumed === length, 'the handshake grants STARTTLS only when nothing is behind it');
      this.startTls();
    } else if (consumed < length) this.bytesBehind(buffer, consumed, length);
  }

  landing(): Buffer | null {
    if (this.successor !== null) return this.successor.handler.landing?.() ?? null;
    return this.transmission?.landing() ?? null;
  }

  drained(): void {
    // Each send of the server reports for itself; the backlog as a whole is of no interest to it.
    this.successor?.handler.drained();
  }

  ended(): void {
    if (this.transmission !== null) return this.transmission.ended();
    if (this.successor !== null) return this.successor.handler.ended();
    this.finish('client left during the handshake', false);
  }

  closed(error: Error | null): void {
    assert(!this.socketClosed, 'closed is the last call');
    this.socketClosed = true;
    this.deadline?.cancel();
    if (error === null) this.note('client closed the connection', false);
    else this.note(this.securing ? `TLS: ${error.message}` : error.message, this.securing);
    this.report();
    if (this.wasCut) this.settle();
    this.successor?.handler.closed(error);
    if (this.transmission === null) this.leave();
    else this.transmission.closed();
  }

  private apply(effect: HandshakeEffect): void {
    switch (effect.kind) {
      case 'send':
        return this.connection.send(effect.bytes, ignoreSent);
      case 'start-tls':
        // After everything that goes in clear: see `received`.
        return;
      case 'denied':
        // The client heard of a name that is none.
        this.events.denied();
        return this.log.warn(
          { ...this.who(), export: effect.exportName, reason: effect.reason },
          'export denied',
        );
      case 'transmit':
        return this.transmit(effect.negotiated);
      case 'hand-over':
        return this.handOver(effect.to);
      case 'close':
        return this.finish(effect.reason, effect.fault);
    }
  }

  private startTls(): void {
    assert(this.tls.mode !== 'off', 'the handshake offers TLS only where there is some');
    this.securing = true;
    this.connection.startTls(this.tls.context, (peer) => {
      this.securing = false;
      this.tlsPeer = peer;
      this.handshake.secured(peer);
    });
  }

  private transmit(negotiated: Negotiated): void {
    const { device, exportName } = negotiated;
    this.deadline?.cancel();
    this.deadline = null;
    this.purpose = exportName;
    this.transmission = new Transmission({
      connection: this.connection,
      negotiated,
      shared: this.shared,
      finished: (reason, fault) => this.finish(reason, fault),
      gone: () => {
        device.closed();
        this.leave();
      },
    });
    device.opened();
    this.events.chose(this);
    this.log.info({ ...this.who(), export: exportName }, 'client connected');
  }

  private handOver(to: PrivateAcceptance): void {
    this.deadline?.cancel();
    this.deadline = null;
    this.purpose = to.purpose;
    this.successor = to.takeOver(this.connection);
    this.events.chose(this);
    this.log.info({ ...this.who(), purpose: to.purpose }, 'peer connected');
  }

  /** What a client sent behind its last option without waiting for the answer. */
  private bytesBehind(buffer: Buffer, start: number, end: number): void {
    this.transmission?.received(buffer, start, end);
    this.successor?.handler.received(buffer.subarray(start, end), end - start);
  }

  private finish(reason: string, fault: boolean): void {
    this.note(reason, fault);
    this.deadline?.cancel();
    this.deadline = this.shared.clock.after(NBD_DRAIN_MS_MAX, () => this.connection.destroy());
    this.connection.end();
  }

  private note(reason: string, fault: boolean): void {
    if (this.reason !== null) return;
    this.reason = reason;
    this.fault = fault;
  }

  /** One line for a client that used an export, or that did wrong; a look at the list is no news. */
  private report(): void {
    const { reason, fault } = this;
    if (fault && this.shakesHands) this.events.failed();
    if (this.successor !== null) {
      const fields = { ...this.who(), purpose: this.purpose, reason };
      if (fault) this.log.warn(fields, 'peer cut off');
      else this.log.info(fields, 'peer disconnected');
      return;
    }
    const used = this.transmission !== null;
    const fields = { ...this.who(), ...(used ? { export: this.purpose } : {}), reason };
    if (fault) this.log.warn(fields, used ? 'client cut off' : 'handshake failed');
    else if (used) this.log.info(fields, 'client disconnected');
  }

  private who(): { readonly peer: string; readonly tls?: string } {
    const { peer } = this.connection;
    if (this.tlsPeer === null) return { peer };
    const { kind, identity } = this.tlsPeer;
    return { peer, tls: kind === 'anonymous' ? kind : `${kind}:${identity}` };
  }

  private leave(): void {
    this.settle();
    this.events.gone(this);
  }
}
