/**
 * Recorded conversations, written down as text, and what it means to repeat one.
 *
 * A line begins with who speaks: `C` the client, `S` the server, `-` goes on with the line before. Then
 * come bytes: hexadecimal digits, a text in quotation marks (`%22` is one in it), `L2"..."` and `L4"..."`
 * (the text behind its length in 2 or 4 bytes), `512*a5` (one byte repeated). `S closes` and `S open` tell how it ends, and `#`
 * begins a remark.
 */
import { expect } from 'vitest';
import type { FakeConnection, FakeWorld } from '../nbd/support/fake-world.ts';
import { hex, u16, u32 } from './encoder.ts';

export interface Turn {
  readonly client: Buffer;
  /** All that the server says before the client goes on. */
  readonly server: Buffer;
}

export interface Conversation {
  /** What the server says before it is spoken to. */
  readonly greeting: Buffer;
  readonly turns: readonly Turn[];
  readonly closes: boolean;
}

const TOKEN =
  /\s*(?:#.*$|L([24])"([^"]*)"|"([^"]*)"|(\d+)\*([0-9a-f]{2})(?![0-9a-f])|([0-9a-f]+))/y;

const textOf = (text: string): Buffer => Buffer.from(text.replaceAll('%22', '"'));

function bytesOf(text: string): Buffer {
  const parts: Buffer[] = [];
  const token = new RegExp(TOKEN);
  while (token.lastIndex < text.trimEnd().length) {
    const at = token.lastIndex;
    const found = token.exec(text);
    if (found === null) throw new Error(`what is this: ${text.slice(at)}`);
    const [, width, counted, plain, times, byte, digits] = found;
    if (counted !== undefined) {
      const bytes = textOf(counted);
      parts.push(width === '2' ? u16(bytes.length) : u32(bytes.length), bytes);
    } else if (plain !== undefined) parts.push(textOf(plain));
    else if (byte !== undefined) parts.push(Buffer.alloc(Number(times), hex(byte)));
    else if (digits !== undefined) parts.push(hex(digits));
  }
  return Buffer.concat(parts);
}

export function conversationOf(text: string): Conversation {
  const said: { who: 'C' | 'S'; bytes: Buffer }[] = [];
  let closes: boolean | null = null;
  for (const line of text.split('\n').map((each) => each.trim())) {
    if (line === '' || line.startsWith('#')) continue;
    if (line === 'S closes' || line === 'S open') {
      closes = line === 'S closes';
      continue;
    }
    const last = said.at(-1);
    const who = line[0] === '-' ? last?.who : line[0];
    if ((who !== 'C' && who !== 'S') || line[1] !== ' ') throw new Error(`who speaks: ${line}`);
    const bytes = bytesOf(line.slice(1));
    if (last?.who === who) last.bytes = Buffer.concat([last.bytes, bytes]);
    else said.push({ who, bytes });
  }
  if (closes === null) throw new Error('how does it end?');
  const nothing = Buffer.alloc(0);
  const greeting = said[0]?.who === 'S' ? said.shift()!.bytes : nothing;
  const turns: Turn[] = [];
  for (let at = 0; at < said.length; at += 2) {
    turns.push({ client: said[at]!.bytes, server: said[at + 1]?.bytes ?? nothing });
  }
  return { greeting, turns, closes };
}

/** All bytes of the client, in one piece. */
export const clientBytes = ({ turns }: Conversation): Buffer =>
  Buffer.concat(turns.map(({ client }) => client));

/** All bytes of the server, in one piece. */
export const serverBytes = ({ greeting, turns }: Conversation): Buffer =>
  Buffer.concat([greeting, ...turns.map(({ server }) => server)]);

export type World = () => Promise<FakeWorld>;

/** Hex in lines of 32 bytes, so that a difference can be read. */
const readable = (bytes: Buffer): string[] => bytes.toString('hex').match(/.{1,64}/g) ?? [];

function expectEnd(connection: FakeConnection, closes: boolean, when: string): void {
  expect(connection.over, when).toBe(closes);
}

/** Turn by turn, as it was recorded. */
export async function repeat(conversation: Conversation, world: World): Promise<void> {
  const opened = await world();
  const connection = opened.connect();
  opened.settle();
  expect(readable(connection.take())).toEqual(readable(conversation.greeting));
  for (const { client, server } of conversation.turns) {
    connection.write(client);
    opened.settle();
    expect(readable(connection.take()), `to ${client.toString('hex')}`).toEqual(readable(server));
  }
  expectEnd(connection, conversation.closes, 'at the end');
}

/** The client's bytes in these pieces, each when the server has nothing more to do. */
async function inPieces(
  conversation: Conversation,
  world: World,
  pieces: readonly Buffer[],
  when: string,
): Promise<void> {
  const opened = await world();
  const connection = opened.connect();
  const heard: Buffer[] = [];
  for (const piece of pieces) {
    connection.write(piece);
    opened.settle();
    heard.push(connection.take());
  }
  const bytes = Buffer.concat(heard);
  // Buffers are compared first: a failure is worth the hex, a pass is not.
  if (!bytes.equals(serverBytes(conversation))) {
    expect(readable(bytes), when).toEqual(readable(serverBytes(conversation)));
  }
  expectEnd(connection, conversation.closes, when);
}

/** The same answers however the client's bytes are cut: in two anywhere, into single bytes, not at all. */
export async function repeatInPieces(conversation: Conversation, world: World): Promise<void> {
  const bytes = clientBytes(conversation);
  await inPieces(conversation, world, [bytes], 'in one piece');
  const single = [...bytes].map((byte) => Buffer.from([byte]));
  await inPieces(conversation, world, single, 'byte by byte');
  for (let at = 1; at < bytes.length; at++) {
    const pieces = [bytes.subarray(0, at), bytes.subarray(at)];
    await inPieces(conversation, world, pieces, `cut at byte ${at} of ${bytes.length}`);
  }
}
