/**
 * Messages of the link, to bytes and back.
 *
 * Invariants:
 * - What a decode function returns holds to its schema: known members only, every number a safe integer in its range, every
 *   text and list within its bound. Anything else is LINK_PROTOCOL, or PEER_VERSION where the version alone is the reason.
 * - A decoded message shares no memory with the bytes it came from.
 * - No byte of a peer reaches the decoder of msgpack that was not seen to be plain data (plain-data.ts).
 * - What is encoded is never longer than LINK_MESSAGE_BYTES_MAX.
 */
import assert from 'node:assert';
import { Packr, Unpackr } from 'msgpackr';
import type { z } from 'zod';
import { BlockferryError } from '../../io/errors.ts';
import {
  LINK_GENERATIONS_MAX,
  LINK_MESSAGE_BYTES_MAX,
  LINK_TEXT_CHARACTERS_MAX,
} from '../../io/limits.ts';
import { printable } from '../../nbd/client/client-text.ts';
import { LINK_VERSION } from './link-version.ts';
import { messageSchemas } from './message-schemas.ts';
import type { ControlMessage, Generation, Hello, StreamCommand, Welcome } from './messages.ts';
import { isPlainData } from './plain-data.ts';

const FAULT_CHARACTERS_MAX = 200;

const packr = new Packr({ useRecords: false, variableMapSize: true });
const unpackr = new Unpackr({
  useRecords: false,
  mapsAsObjects: true,
  structuredClone: false,
  int64AsType: 'number',
});

export function encodeHello(hello: Hello): Buffer {
  return encode({ ...hello, generations: wireGenerations(hello.generations) });
}

export function encodeWelcome(welcome: Welcome): Buffer {
  return encode({ ...welcome, generations: wireGenerations(welcome.generations) });
}

/** Texts for people are cut to LINK_TEXT_CHARACTERS_MAX. */
export function encodeControl(message: ControlMessage): Buffer {
  const { kind } = message;
  if (kind === 'run-begin') {
    return encode({ ...message, generations: wireGenerations(message.generations) });
  }
  if (kind === 'handover-denied' || kind === 'handover-refused') {
    return encode({ ...message, message: cut(message.message) });
  }
  if (kind === 'failed') return encode({ ...message, message: cut(message.message) });
  if ((kind === 'run-committed' || kind === 'snapshots-held') && message.refused !== undefined) {
    return encode({ ...message, refused: cut(message.refused) });
  }
  if (kind === 'command-done' && message.error !== null) {
    return encode({ ...message, error: cut(message.error) });
  }
  return encode(message);
}

export function encodeCommand(command: StreamCommand): Buffer {
  return encode(command);
}

/** @throws BlockferryError PEER_VERSION, LINK_PROTOCOL */
export function decodeHello(bytes: Buffer): Hello {
  return versioned('hello', bytes, messageSchemas().hello);
}

/** @throws BlockferryError PEER_VERSION, LINK_PROTOCOL */
export function decodeWelcome(bytes: Buffer): Welcome {
  return versioned('welcome', bytes, messageSchemas().welcome);
}

/** @throws BlockferryError LINK_PROTOCOL */
export function decodeControl(bytes: Buffer): ControlMessage {
  return check('control message', unpack('control message', bytes), messageSchemas().control);
}

/** @throws BlockferryError LINK_PROTOCOL */
export function decodeCommand(bytes: Buffer): StreamCommand {
  return check('command', unpack('command', bytes), messageSchemas().command);
}

/** A hello of another version may have any other members: its version is looked at alone, and first. */
function versioned<T>(what: string, bytes: Buffer, schema: z.ZodType<T>): T {
  const value = unpack(what, bytes);
  const { version } = check(what, value, messageSchemas().version);
  if (version === LINK_VERSION) return check(what, value, schema);
  throw new BlockferryError(
    'PEER_VERSION',
    `the other node speaks version ${version} of the link, this one version ${LINK_VERSION}`,
  );
}

function unpack(what: string, bytes: Buffer): unknown {
  if (bytes.length > LINK_MESSAGE_BYTES_MAX) {
    throw malformed(what, `${bytes.length} bytes, at most ${LINK_MESSAGE_BYTES_MAX} are allowed`);
  }
  if (!isPlainData(bytes)) throw malformed(what, 'it is not plain msgpack');
  return unpackr.unpack(bytes);
}

function check<T>(what: string, value: unknown, schema: z.ZodType<T>): T {
  const outcome = schema.safeParse(value);
  if (outcome.success) return outcome.data;
  const [issue] = outcome.error.issues;
  const path = issue?.path.join('.') ?? '';
  throw malformed(what, `${path === '' ? '' : `${path}: `}${issue?.message ?? 'unknown'}`);
}

function malformed(what: string, why: string): BlockferryError {
  const text = printable(why, FAULT_CHARACTERS_MAX);
  return new BlockferryError('LINK_PROTOCOL', `the other node sent a malformed ${what} (${text})`);
}

type WireGeneration = readonly [number, string, number];

function wireGenerations(generations: readonly Generation[]): WireGeneration[] {
  assert(generations.length <= LINK_GENERATIONS_MAX, 'the generations fit a message');
  return generations.map(({ number, id, firstEpoch }) => [number, id, firstEpoch]);
}

function encode(value: object): Buffer {
  const bytes = packr.pack(value);
  assert(bytes.length <= LINK_MESSAGE_BYTES_MAX, 'a message is within its bound');
  return bytes;
}

/** Half of a character at the cut would not be text. */
function cut(text: string): string {
  return Buffer.from(text.slice(0, LINK_TEXT_CHARACTERS_MAX)).toString();
}
