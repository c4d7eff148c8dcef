/**
 * A client that asks for a private talk first: the handshake machine, fed at every split, without I/O. What is accepted leaves
 * the bytes behind it alone; a server that does not know the option is asked for the export; everything else ends.
 */
import { describe, expect, it } from 'vitest';
import { NBD_OPTION_BYTES_MAX } from '../../src/io/limits.ts';
import {
  ClientHandshake,
  type ClientWishes,
  type HandshakeOutcome,
} from '../../src/nbd/client/client-handshake.ts';
import { goData } from '../../src/nbd/client/client-questions.ts';
import { ACK, FLAGS, GREETING, infoExport, optionReply } from './support/fake-server.ts';

const PRIVATE = 0x62660001;
const ASK = Buffer.from('may I?');
const REPLY = Buffer.from('you may');
const BEHIND = Buffer.from('frames');
const ACCEPTED = Buffer.concat([optionReply(PRIVATE, PRIVATE, REPLY), optionReply(PRIVATE, 1)]);
const GRANTED = Buffer.concat([infoExport(4096, FLAGS), ACK]);
const READ_ONLY = Buffer.concat([infoExport(4096, FLAGS | 2), ACK]);
const FLAGS_SENT = Buffer.from('00000003', 'hex');

const asked = (option: number, data: Buffer): Buffer => {
  const header = Buffer.from('49484156454f50540000000000000000', 'hex');
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
};
const ABORT = asked(2, Buffer.alloc(0));
const PRIVATE_SENT = asked(PRIVATE, ASK);
const GO_SENT = asked(7, goData('demo'));

interface Played {
  readonly sent: string;
  readonly outcome: HandshakeOutcome | null;
  readonly consumed: number;
}

function play(bytes: Buffer, cut: number, wishes: ClientWishes): Played {
  const machine = new ClientHandshake('demo', 'the server', wishes);
  const sent: Buffer[] = [];
  let consumed = 0;
  let outcome: HandshakeOutcome | null = null;
  for (const piece of [bytes.subarray(0, cut), bytes.subarray(cut)]) {
    if (outcome !== null) break;
    // Its memory is another's when the call returns.
    const lent = Buffer.from(piece);
    const step = machine.received(lent, lent.length);
    lent.fill(0xee);
    sent.push(...step.send);
    consumed += step.consumed;
    outcome = step.outcome;
  }
  return { sent: Buffer.concat(sent).toString('hex'), outcome, consumed };
}

/** The same at every split. */
function talk(required: boolean, ...said: readonly Buffer[]): Played {
  const bytes = Buffer.concat([GREETING, ...said]);
  const wishes = { privately: { data: ASK, required } };
  const whole = play(bytes, bytes.length, wishes);
  for (let cut = 0; cut < bytes.length; cut++) expect(play(bytes, cut, wishes)).toEqual(whole);
  return whole;
}

const hex = (...pieces: readonly Buffer[]): string => Buffer.concat(pieces).toString('hex');

describe('A private option', () => {
  it('that is accepted ends the handshake, and what is behind it is untouched', () => {
    const { sent, outcome, consumed } = talk(false, ACCEPTED, BEHIND);
    expect(sent).toBe(hex(FLAGS_SENT, PRIVATE_SENT));
    expect(outcome).toEqual({ kind: 'private', reply: REPLY });
    expect(consumed).toBe(GREETING.length + ACCEPTED.length);
  });

  it.each([
    ['does not know it', 0x80000001],
    ['has nothing of that kind', 0x80000006],
  ])('is followed by GO where the server %s, unless it is required', (_what, type) => {
    const refusal = optionReply(PRIVATE, type, Buffer.from('no'));
    const plain = talk(false, refusal, GRANTED, BEHIND);
    expect(plain.outcome).toMatchObject({ kind: 'ready', info: { sizeBytes: 4096 } });
    expect(plain.consumed).toBe(GREETING.length + refusal.length + GRANTED.length);
    const required = talk(true, refusal);
    expect(required.outcome).toMatchObject({ kind: 'failed', error: { code: 'MIRROR_REFUSED' } });
    expect(required.sent).toBe(hex(FLAGS_SENT, PRIVATE_SENT, ABORT));
  });

  it('that finds nothing for this client has the last word, unless there is an export to write', () => {
    const unknown = optionReply(PRIVATE, 0x80000006, Buffer.from('nothing\u001b'));
    const heard = new Set<string>();
    for (const [answer, sent] of [
      [optionReply(7, 0x80000006, Buffer.from('no export')), [GO_SENT, ABORT]],
      [optionReply(7, 0x80000002, Buffer.from('not yours')), [GO_SENT, ABORT]],
      [READ_ONLY, [GO_SENT]],
    ] as const) {
      const told = talk(false, unknown, answer);
      expect(told.outcome).toMatchObject({ kind: 'failed', error: { code: 'MIRROR_REFUSED' } });
      expect(told.sent).toBe(hex(FLAGS_SENT, PRIVATE_SENT, ...sent));
      heard.add(told.outcome?.kind === 'failed' ? told.outcome.error.message : '');
    }
    expect([...heard]).toHaveLength(1);
    expect([...heard][0]).toMatch(
      /no such mirror of this node \(it says: nothing.?\); check there/,
    );
    const needsTls = talk(false, unknown, optionReply(7, 0x80000005)).outcome;
    expect(needsTls?.kind === 'failed' && needsTls.error.message).toMatch(/requires TLS/);
    // A server that knows nothing of all this has just a read-only export.
    const other = talk(false, optionReply(PRIVATE, 0x80000001), READ_ONLY);
    expect(other.outcome).toMatchObject({ kind: 'ready', info: { readOnly: true } });
  });

  it.each([
    ['policy', 0x80000002, 'PEER_REFUSED', /refuses to be the mirror \(it says: why\)/],
    ['malformed', 0x80000003, 'MIRROR_REFUSED', /with NBD_REP_ERR_INVALID \(it says: why\)/],
    ['TLS', 0x80000005, 'MIRROR_REFUSED', /requires TLS: use nbds:/],
    ['shutdown', 0x80000007, 'MIRROR_REFUSED', /is shutting down/],
    ['an error of its own', 0x8000ffff, 'MIRROR_REFUSED', /NBD_REP_0x8000ffff/],
  ])('that is refused (%s) is never taken for an export', (_what, type, code, why) => {
    const { outcome, sent } = talk(false, optionReply(PRIVATE, type, Buffer.from('why\u001b')));
    expect(outcome).toMatchObject({ kind: 'failed', polite: true, error: { code } });
    expect(outcome?.kind === 'failed' && outcome.error.message).toMatch(why);
    expect(sent).toBe(hex(FLAGS_SENT, PRIVATE_SENT, ABORT));
  });

  it.each([
    ['an ACK without data before it', [optionReply(PRIVATE, 1)]],
    ['two replies', [optionReply(PRIVATE, PRIVATE, REPLY), ACCEPTED]],
    ['an info', [optionReply(PRIVATE, 3, REPLY)]],
    ['an ACK with data', [ACCEPTED.subarray(0, 27), optionReply(PRIVATE, 1, REPLY)]],
    ['the answer to GO', [GRANTED]],
    ['data without end', [optionReply(PRIVATE, PRIVATE, Buffer.alloc(NBD_OPTION_BYTES_MAX + 1))]],
  ])('that is answered with %s is a breach', (_what, said) => {
    const bytes = Buffer.concat([GREETING, ...said]);
    const { outcome } = play(bytes, bytes.length, { privately: { data: ASK, required: false } });
    expect(outcome).toMatchObject({ kind: 'failed', polite: false, error: { code: 'PROTOCOL' } });
  });

  it('may have as much data as an option', () => {
    const long = Buffer.alloc(NBD_OPTION_BYTES_MAX, 9);
    const said = [optionReply(PRIVATE, PRIVATE, long), optionReply(PRIVATE, 1)];
    const bytes = Buffer.concat([GREETING, ...said]);
    const { outcome } = play(bytes, 70, { privately: { data: long, required: true } });
    expect(outcome).toEqual({ kind: 'private', reply: long });
  });

  it('is not asked of a server that knows no options', () => {
    const unfixed = Buffer.from(GREETING);
    unfixed.writeUInt16BE(2, 16);
    const plain = play(unfixed, 5, { privately: { data: ASK, required: false } });
    expect(plain.sent).toBe(hex(Buffer.from('00000002', 'hex'), asked(1, Buffer.from('demo'))));
    const required = play(unfixed, 5, { privately: { data: ASK, required: true } });
    expect(required.outcome).toMatchObject({ kind: 'failed', error: { code: 'MIRROR_REFUSED' } });
  });
});
