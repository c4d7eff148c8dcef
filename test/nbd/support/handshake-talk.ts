/**
 * Conversations with the handshake machine alone. Each is held twice: with the client's bytes in as few
 * pieces as can be, and byte by byte, each byte in memory that is overwritten at once. Both must bring the
 * same effects in the same order.
 */
import { expect } from 'vitest';
import type { TlsPeer } from '../../../src/io/network.ts';
import type {
  ClientFacts,
  ExportAccess,
  ExportSource,
  TlsMode,
} from '../../../src/nbd/server/exports.ts';
import { Handshake, type HandshakeEffect } from '../../../src/nbd/handshake/handshake.ts';
import type { Negotiated } from '../../../src/nbd/handshake/negotiated.ts';
import { MapContext, MemoryDevice } from './memory-device.ts';
import { CLIENT_FLAGS, type OptionReply, optionReplies } from './wire.ts';

/** Everybody's is `vol0`, which is the default too. `safe` is for TLS only, `private` for one peer. */
export class TestExports implements ExportSource {
  readonly devices = new Map(
    ['vol0', 'other', 'private', 'safe'].map((name) => [name, new MemoryDevice(4096)]),
  );
  listable = true;
  readonly readOnly = new Set<string>();

  device(name = 'vol0'): MemoryDevice {
    return this.devices.get(name)!;
  }

  find(asked: string, client: ClientFacts): ExportAccess {
    const name = asked === '' ? 'vol0' : asked;
    const device = this.devices.get(name);
    if (device === undefined) return { kind: 'unknown' };
    if (name === 'safe' && client.tls === null) return { kind: 'tls-required' };
    if (name === 'private' && client.tls?.identity !== FRIEND.identity) {
      return { kind: 'denied', reason: 'not for everybody' };
    }
    return { kind: 'granted', export: { name, device, readOnly: this.readOnly.has(name) } };
  }

  list(client: ClientFacts): ReturnType<ExportSource['list']> {
    if (!this.listable) return null;
    return [...this.devices.keys()].flatMap((name) => {
      const access = this.find(name, client);
      return access.kind === 'granted' ? [access.export] : [];
    });
  }
}

export const FRIEND: TlsPeer = { kind: 'x509', identity: 'CN=friend' };
export const ANONYMOUS: TlsPeer = { kind: 'anonymous', identity: '' };

export interface Setting {
  readonly source?: ExportSource;
  readonly tls?: TlsMode;
  readonly stopping?: boolean;
  readonly maxOptions?: number;
  readonly flags?: Buffer;
}

/** What a client sends, or that TLS came up with it as this peer. */
export type Step = Buffer | TlsPeer;

export interface Outcome {
  /** All that was sent. */
  readonly bytes: Buffer;
  readonly effects: readonly HandshakeEffect[];
  /** Bytes taken, of all that were fed. */
  readonly consumed: number;
  readonly negotiated: Negotiated | null;
  readonly closed: { readonly reason: string; readonly fault: boolean } | null;
}

export const machine = (setting: Setting = {}): Handshake =>
  new Handshake({
    source: setting.source ?? new TestExports(),
    client: { ip: '127.0.0.1', tls: null },
    tls: setting.tls ?? 'allowed',
    stopping: () => setting.stopping ?? false,
    maxOptions: setting.maxOptions ?? 64,
  });

/** Says `flags` (FIXED_NEWSTYLE and NO_ZEROES unless the setting has others), then `steps`. */
export function talk(setting: Setting, ...steps: readonly Step[]): Outcome {
  const all = [setting.flags ?? CLIENT_FLAGS, ...steps];
  // Built once: a refusal must not depend on what an earlier conversation left in the source.
  const source = setting.source ?? new TestExports();
  const whole = play(machine({ ...setting, source }), all, 2 ** 30);
  expect(play(machine({ ...setting, source }), all, 1)).toEqual(whole);
  return whole;
}

/** The replies of a conversation that consists of options. */
export function ask(setting: Setting, ...steps: readonly Step[]): readonly OptionReply[] {
  return optionReplies(talk(setting, ...steps).bytes);
}

/** `[option, type]` of each reply. */
export const typesOf = (replies: readonly OptionReply[]): readonly (readonly [number, number])[] =>
  replies.map(({ option, type }) => [option, type]);

function play(handshake: Handshake, steps: readonly Step[], pieceBytes: number): Outcome {
  const effects: HandshakeEffect[] = [];
  let consumed = 0;
  const feed = (bytes: Buffer): void => {
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      const piece = Buffer.from(bytes.subarray(at, at + pieceBytes));
      const step = handshake.feed(piece);
      piece.fill(0xee);
      effects.push(...step.effects);
      consumed += step.consumed;
    }
  };
  let pending: Buffer[] = [];
  for (const step of steps) {
    if (Buffer.isBuffer(step)) {
      pending.push(step);
      continue;
    }
    feed(Buffer.concat(pending));
    pending = [];
    handshake.secured(step);
  }
  feed(Buffer.concat(pending));
  return { effects, consumed, ...summary(effects) };
}

function summary(
  effects: readonly HandshakeEffect[],
): Pick<Outcome, 'bytes' | 'negotiated' | 'closed'> {
  let negotiated: Negotiated | null = null;
  let closed: Outcome['closed'] = null;
  const sent: Buffer[] = [];
  for (const effect of effects) {
    if (effect.kind === 'send') sent.push(effect.bytes);
    if (effect.kind === 'transmit') negotiated = effect.negotiated;
    if (effect.kind === 'close') closed = { reason: effect.reason, fault: effect.fault };
  }
  return { bytes: Buffer.concat(sent), negotiated, closed };
}

export const contextNamed = (name: string): MapContext =>
  new MapContext(name, () => ({ end: Infinity, flags: 0 }));
