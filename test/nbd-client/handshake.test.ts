/**
 * The client's side of the handshake, without any socket.
 *
 * Method: the machine is fed what a server would say, built by the test's own encoder, and what it
 * wants sent is compared with bytes taken from the specification. Every conversation is repeated with
 * the input cut at every byte. Then: each lie that a server can tell, and random bytes.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { BlockferryError } from '../../src/io/errors.ts';
import { ClientHandshake, type HandshakeOutcome } from '../../src/nbd/client/client-handshake.ts';
import {
  ACK,
  FLAGS,
  GREETING,
  infoBlockSize,
  infoExport,
  optionReply,
  u16,
  u32,
  u64,
} from './support/fake-server.ts';

interface Result {
  readonly sent: string;
  readonly outcome: HandshakeOutcome | null;
  readonly consumed: number;
}

/** Feeds `input` in two parts, in fresh memory that is wiped afterwards. */
function converse(input: Buffer, cut = input.length, name = 'vol0'): Result {
  const machine = new ClientHandshake(name, 'nbd://h');
  let sent = '';
  let consumed = 0;
  let outcome: HandshakeOutcome | null = null;
  for (const part of [input.subarray(0, cut), input.subarray(cut)]) {
    if (outcome !== null || part.length === 0) continue;
    const bytes = Buffer.from(part);
    const step = machine.received(bytes, bytes.length);
    bytes.fill(0xee);
    sent += Buffer.concat(step.send).toString('hex');
    consumed += step.consumed;
    outcome = step.outcome;
  }
  return { sent, outcome, consumed };
}

/** The same, whatever the cut. */
function converseAnyhow(input: Buffer, name?: string): Result {
  const whole = converse(input, input.length, name);
  for (let cut = 0; cut < input.length; cut += 1) {
    expect(converse(input, cut, name)).toEqual(whole);
  }
  return whole;
}

const infoOf = (result: Result): object => {
  if (result.outcome?.kind !== 'ready') throw new Error(JSON.stringify(result));
  return result.outcome.info;
};

const errorOf = (result: Result): BlockferryError => {
  if (result.outcome?.kind !== 'failed') throw new Error(JSON.stringify(result));
  return result.outcome.error;
};

const FLAGS_SENT = '00000003';
/** "GO vol0 asking BLOCK_SIZE" of the worked bytes in the specification's examples. */
const GO_SENT = '49484156454f5054000000070000000c00000004766f6c3000010003';
const EXPORT_NAME_SENT = '49484156454f50540000000100000004766f6c30';
const ABORT_SENT = '49484156454f50540000000200000000';
const MIB = 1024 * 1024;

const go = (...answers: readonly Buffer[]): Buffer => Buffer.concat([GREETING, ...answers]);
const unfixed = Buffer.concat([GREETING.subarray(0, 16), u16(0)]);

/** The header of an info, without the data that it claims. */
const claim = (length: number): Buffer =>
  Buffer.concat([Buffer.from('0003e889045565a9', 'hex'), u32(7), u32(3), u32(length)]);

describe('client handshake', () => {
  it('opens an export with GO and obeys its block sizes', () => {
    const result = converseAnyhow(
      go(infoExport(128 * MIB, 0x0d6d), infoBlockSize(512, 4096, MIB), ACK),
    );
    expect(result.sent).toBe(FLAGS_SENT + GO_SENT);
    expect(infoOf(result)).toEqual({
      sizeBytes: 128 * MIB,
      readOnly: false,
      canFlush: true,
      canFua: true,
      canWriteZeroes: true,
      canTrim: true,
      canMultiConn: true,
      minimumBlock: 512,
      preferredBlock: 4096,
      maximumPayload: MIB,
    });
  });

  it('assumes the defaults of the specification where the server does not say', () => {
    const info = infoOf(converseAnyhow(go(infoExport(2 ** 40 + 512, 3), ACK)));
    expect(info).toMatchObject({
      sizeBytes: 2 ** 40 + 512,
      readOnly: true,
      canFlush: false,
      canWriteZeroes: false,
      minimumBlock: 1,
      preferredBlock: 4096,
      maximumPayload: 32 * MIB,
    });
  });

  it('bounds a payload without limit, and rounds an odd one down to whole blocks', () => {
    const unlimited = converseAnyhow(
      go(infoExport(MIB, FLAGS), infoBlockSize(1, 4096, 0xffffffff), ACK),
    );
    expect(infoOf(unlimited)).toMatchObject({ maximumPayload: 32 * MIB });
    const odd = converseAnyhow(go(infoExport(MIB, FLAGS), infoBlockSize(4096, 4096, 10_000), ACK));
    expect(infoOf(odd)).toMatchObject({ maximumPayload: 8192 });
  });

  it('ignores infos it does not know, and leaves the bytes behind the handshake alone', () => {
    const name = optionReply(7, 3, Buffer.concat([u16(1), Buffer.from('real name')]));
    const later = optionReply(7, 3, u16(77));
    const input = go(name, later, infoExport(MIB, FLAGS), ACK);
    const result = converse(Buffer.concat([input, Buffer.from('more')]));
    expect(infoOf(result)).toMatchObject({ sizeBytes: MIB });
    expect(result.consumed).toBe(input.length);
  });

  it('sends names in UTF-8, and the empty name', () => {
    const sent = converse(go(), undefined, 'ü').sent;
    expect(sent).toContain('0000000a00000002c3bc00010003');
    expect(converse(go(), undefined, '').sent).toContain('000000080000000000010003');
  });

  it('falls back to EXPORT_NAME when the server does not know GO', () => {
    const answer = Buffer.concat([u64(MIB), u16(FLAGS)]);
    const result = converseAnyhow(go(optionReply(7, 0x80000001, Buffer.from('what?')), answer));
    expect(result.sent).toBe(FLAGS_SENT + GO_SENT + EXPORT_NAME_SENT);
    expect(infoOf(result)).toMatchObject({ sizeBytes: MIB, canFlush: true });
  });

  it('uses EXPORT_NAME and takes the padding of a server that is not "fixed"', () => {
    const answer = Buffer.concat([u64(MIB), u16(FLAGS), Buffer.alloc(124)]);
    const result = converseAnyhow(Buffer.concat([unfixed, answer]));
    expect(result.sent).toBe('00000000' + EXPORT_NAME_SENT);
    expect(infoOf(result)).toMatchObject({ sizeBytes: MIB });
    expect(result.consumed).toBe(18 + 134);
  });

  it('takes a close in answer to EXPORT_NAME for a no', () => {
    const machine = new ClientHandshake('vol0', 'nbd://h');
    machine.received(unfixed, unfixed.length);
    expect(machine.ended()).toMatchObject({ code: 'MIRROR_REFUSED' });
  });

  it.each([
    [0x80000002, /configuration forbids "vol0"/],
    [0x80000003, /refused "vol0" with NBD_REP_ERR_INVALID/],
    [0x80000005, /requires TLS/],
    [0x80000006, /has no export "vol0"/],
    [0x80000007, /shutting down/],
    [0xffffffff, /refused "vol0" with NBD_REP_0xffffffff/],
  ])('is refused with reply %i, in the words of the server, and says goodbye', (type, reason) => {
    const words = `no\u0000\u001b[31m way\r\n${'x'.repeat(1000)}`;
    const result = converseAnyhow(go(optionReply(7, type, Buffer.from(words))));
    const error = errorOf(result);
    expect(error.code).toBe('MIRROR_REFUSED');
    expect(error.message).toMatch(reason);
    expect(error.message).toMatch(/it says: no \[31m way x{100,}\.\.\./);
    expect(error.message).not.toMatch(/\p{Cc}/u);
    expect(error.message.length).toBeLessThan(320);
    expect(result.sent.endsWith(ABORT_SENT)).toBe(true);
  });

  const magic = GREETING.subarray(0, 8);
  const ready = infoExport(MIB, FLAGS);
  it.each<[string, Buffer, RegExp]>([
    ['something else', Buffer.from('HTTP/1.1 400 Bad Request\r\n'), /does not speak NBD/],
    ['half a magic', Buffer.concat([magic, Buffer.alloc(10)]), /does not speak NBD/],
    [
      'oldstyle',
      Buffer.concat([magic, Buffer.from('00420281861253'.padStart(16, '0'), 'hex'), u16(0)]),
      /oldstyle/,
    ],
    ['a wrong reply magic', go(Buffer.alloc(20)), /wrong magic/],
    ['another option', go(optionReply(6, 1)), /NBD_OPT_INFO, which was not asked/],
    ['an unknown reply', go(optionReply(7, 99)), /answered GO with NBD_REP_0x63/],
    ['a reply for LIST', go(optionReply(7, 2)), /answered GO with NBD_REP_SERVER/],
    ['4 GiB of info', go(claim(0xffffffff)), /claims 4294967295 bytes/],
    ['too long an info', go(claim(5000)), /claims 5000 bytes/],
    ['an info without a type', go(optionReply(7, 3, Buffer.alloc(1))), /has no type/],
    ['a short INFO_EXPORT', go(optionReply(7, 3, Buffer.alloc(11))), /INFO_EXPORT has a wrong/],
    ['a short INFO_BLOCK_SIZE', go(optionReply(7, 3, u32(0x30000))), /BLOCK_SIZE has a wrong/],
    ['an ACK with data', go(ready, optionReply(7, 1, u16(1))), /ACK carries data/],
    ['an ACK alone', go(ACK), /did not say how large/],
    ['size 0', go(infoExport(0, FLAGS), ACK), /export of 0 bytes/],
    ['size 2^53', go(infoExport(2n ** 53n, FLAGS), ACK), /export of 9007199254740992 bytes/],
    ['size 2^64-1', go(infoExport(2n ** 64n - 1n, FLAGS), ACK), /export of/],
    ['no HAS_FLAGS', go(infoExport(MIB, 0x6c), ACK), /without HAS_FLAGS/],
    ['minimum 0', go(ready, infoBlockSize(0, 4096, MIB)), /minimum block of 0/],
    ['minimum 3', go(ready, infoBlockSize(3, 4096, MIB)), /minimum block of 3/],
    ['minimum 128k', go(ready, infoBlockSize(131072, 131072, MIB)), /minimum block of 131072/],
    ['preferred 256', go(ready, infoBlockSize(1, 256, MIB)), /preferred block of 256/],
    ['preferred under minimum', go(ready, infoBlockSize(4096, 512, MIB)), /preferred block of 512/],
    ['maximum 0', go(ready, infoBlockSize(1, 4096, 0)), /maximum payload of 0/],
    ['infos without end', go(...Array.from({ length: 65 }, () => ready)), /infos without end/],
  ])('refuses %s', (_what, input, reason) => {
    const error = errorOf(converseAnyhow(input));
    expect(error.code).toBe('PROTOCOL');
    expect(error.message).toMatch(reason);
  });

  it('survives any bytes, and any change to a good conversation', () => {
    const good = go(infoBlockSize(1, 4096, MIB), infoExport(MIB, FLAGS), ACK);
    const changed = fc
      .array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 })
      .map((changes) => {
        const bytes = Buffer.from(good);
        for (const [at, value] of changes) bytes[at] = value;
        return bytes;
      });
    const garbage = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));
    const input = fc.oneof(
      changed,
      garbage,
      garbage.map((bytes) => Buffer.concat([GREETING, bytes])),
    );
    fc.assert(
      fc.property(input, fc.nat(300), (bytes, cut) => {
        const { outcome, consumed } = converse(bytes, Math.min(cut, bytes.length));
        expect(consumed).toBeLessThanOrEqual(bytes.length);
        if (outcome?.kind !== 'ready') return;
        expect(outcome.info.sizeBytes).toBeGreaterThan(0);
        expect(Number.isSafeInteger(outcome.info.sizeBytes)).toBe(true);
        expect(outcome.info.maximumPayload).toBeGreaterThanOrEqual(512);
        expect(outcome.info.maximumPayload % outcome.info.minimumBlock).toBe(0);
      }),
      { numRuns: 3000 },
    );
  });
});
