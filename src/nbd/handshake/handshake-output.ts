/**
 * What the handshake wants done, in order.
 *
 * Invariants:
 * - After `transmit`, `hand-over` or `close` nothing is added any more: it is `over`.
 * - Replies beyond NBD_HANDSHAKE_REPLY_BYTES_MAX in one handshake end it.
 */
import assert from 'node:assert';
import { NBD_HANDSHAKE_REPLY_BYTES_MAX } from '../../io/limits.ts';
import type { NbdOptionReply } from '../constants.ts';
import type { Negotiated } from './negotiated.ts';
import { encodeOptionError, encodeOptionReply, quoted } from './option-codec.ts';
import type { PrivateAnswer } from './private-option.ts';

export type PrivateAcceptance = Extract<PrivateAnswer, { readonly kind: 'accept' }>;

export type HandshakeEffect =
  | { readonly kind: 'send'; readonly bytes: Buffer }
  /** Become TLS behind what was sent, then call `Handshake.secured`. Always the last effect of its step. */
  | { readonly kind: 'start-tls' }
  /** For the log: the client asked for an export that it may not use. The name is quoted and cut. */
  | { readonly kind: 'denied'; readonly exportName: string; readonly reason: string }
  /** The client chose. */
  | { readonly kind: 'transmit'; readonly negotiated: Negotiated }
  /** The client asked for something else than NBD, and may have it. */
  | { readonly kind: 'hand-over'; readonly to: PrivateAcceptance }
  /** Close after what was sent. `fault` is false when the client did nothing wrong. */
  | { readonly kind: 'close'; readonly reason: string; readonly fault: boolean };

export class HandshakeOutput {
  /** The option that replies are about. */
  option = 0;
  private ended = false;
  private replyBytes = 0;
  private effects: HandshakeEffect[] = [];

  get over(): boolean {
    return this.ended;
  }

  /** What came together since the last call. */
  take(): readonly HandshakeEffect[] {
    const { effects } = this;
    this.effects = [];
    return effects;
  }

  reply(type: NbdOptionReply, payload?: Buffer): void {
    this.send(encodeOptionReply(this.option, type, payload));
  }

  refuse(type: NbdOptionReply, text: string): void {
    this.send(encodeOptionError(this.option, type, text));
  }

  send(bytes: Buffer): void {
    if (this.ended) return;
    this.replyBytes += bytes.length;
    if (this.replyBytes > NBD_HANDSHAKE_REPLY_BYTES_MAX) return this.close('too much was asked');
    this.effects.push({ kind: 'send', bytes });
  }

  deny(name: string, reason: string): void {
    if (!this.ended) this.effects.push({ kind: 'denied', exportName: quoted(name), reason });
  }

  startTls(): void {
    if (!this.ended) this.effects.push({ kind: 'start-tls' });
  }

  transmit(negotiated: Negotiated): void {
    this.end({ kind: 'transmit', negotiated });
  }

  handOver(to: PrivateAcceptance): void {
    this.end({ kind: 'hand-over', to });
  }

  /** The client broke a rule that leaves nothing to say. */
  close(reason: string): void {
    assert(!this.ended);
    this.end({ kind: 'close', reason, fault: true });
  }

  leave(reason: string): void {
    this.end({ kind: 'close', reason, fault: false });
  }

  private end(effect: HandshakeEffect): void {
    if (this.ended) return;
    this.ended = true;
    this.effects.push(effect);
  }
}
