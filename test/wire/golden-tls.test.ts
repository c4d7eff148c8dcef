/**
 * STARTTLS, byte for byte: what is said before it, what is forgotten at it, and that nothing in clear behind
 * it counts. Method: recorded conversations as for the simple form (golden-simple.test.ts); TLS itself is
 * played by the network in memory, where the bytes under it are the plain ones. What a real client makes of
 * it: test/clients.
 */
import { describe, expect, it } from 'vitest';
import type { FakeConnection } from '../nbd/support/fake-world.ts';
import {
  type Conversation,
  conversationOf,
  repeat,
  repeatInPieces,
  type World,
} from './conversation.ts';
import { disk, tlsDisk } from './worlds.ts';

const HELLO = `
  S 4e42444d41474943 49484156454f5054 0003
  C 00000003`;

/** Conversations that TLS never begins in. */
const clear: readonly (readonly [string, World, string])[] = [
  [
    'STARTTLS where there is no TLS',
    disk,
    `${HELLO}
     C 49484156454f5054 00000005 00000000
     S 0003e889045565a9 00000005 80000002 L4"TLS is switched off here"
     C 49484156454f5054 00000005 00000001 00
     S 0003e889045565a9 00000005 80000002 L4"TLS is switched off here"
     S open`,
  ],
  [
    'what a server that requires TLS says before it',
    tlsDisk('required'),
    `${HELLO}
     C 49484156454f5054 00000003 00000000
     S 0003e889045565a9 00000003 80000005 L4"TLS is required here"
     C 49484156454f5054 00000006 00000006 00000000 0000
     S 0003e889045565a9 00000006 80000005 L4"TLS is required here"
     C 49484156454f5054 00000007 0000000a L4"vol1" 0000
     S 0003e889045565a9 00000007 80000005 L4"TLS is required here"
     C 49484156454f5054 00000008 00000000
     S 0003e889045565a9 00000008 80000005 L4"TLS is required here"
     C 49484156454f5054 00000063 00000000
     S 0003e889045565a9 00000063 80000005 L4"TLS is required here"
     C 49484156454f5054 00000002 00000000
     S 0003e889045565a9 00000002 00000001 00000000
     S closes`,
  ],
  [
    'EXPORT_NAME before TLS where it is required',
    tlsDisk('required'),
    `${HELLO}
     C 49484156454f5054 00000001 00000004 "vol0"
     S closes`,
  ],
  [
    'STARTTLS with data, and doing without it where it is allowed',
    tlsDisk('allowed'),
    `${HELLO}
     C 49484156454f5054 00000005 00000001 00
     S 0003e889045565a9 00000005 80000003 L4"NBD_OPT_STARTTLS takes no data"
     C 49484156454f5054 00000007 00000006 00000000 0000
     S 0003e889045565a9 00000007 00000003 0000000c 0000 0000000008000000 0d6d
     - 0003e889045565a9 00000007 00000001 00000000
     S open`,
  ],
];

/** STARTTLS, and the conversation under it. */
const BEFORE = conversationOf(`${HELLO}
  C 49484156454f5054 00000008 00000000
  S 0003e889045565a9 00000008 00000001 00000000
  C 49484156454f5054 0000000a 0000001f L4"vol0" 00000001 L4"base:allocation"
  S 0003e889045565a9 0000000a 00000004 00000013 00000001 "base:allocation"
  - 0003e889045565a9 0000000a 00000001 00000000
  C 49484156454f5054 00000005 00000000
  S 0003e889045565a9 00000005 00000001 00000000
  S open`);

/** Structured replies and contexts are forgotten: GO is answered and READ served in the simple form. */
const AFTER = conversationOf(`
  C 49484156454f5054 00000005 00000000
  S 0003e889045565a9 00000005 80000003 L4"TLS is on already"
  C 49484156454f5054 0000000a 0000000c L4"vol0" 00000000
  S 0003e889045565a9 0000000a 80000003 L4"NBD_OPT_SET_META_CONTEXT needs structured replies"
  C 49484156454f5054 00000007 00000006 00000000 0000
  S 0003e889045565a9 00000007 00000003 0000000c 0000 0000000008000000 0d6d
  - 0003e889045565a9 00000007 00000001 00000000
  C 25609513 0000 0000 0000000000000001 0000000000000004 00000008
  S 67446698 00000000 0000000000000001 0405060708090a0b
  S open`);

async function upToTls(conversation: Conversation): Promise<{
  readonly connection: FakeConnection;
  readonly settle: () => void;
}> {
  const world = await tlsDisk('allowed')();
  const connection = world.connect();
  for (const { client, server } of [
    { client: Buffer.alloc(0), server: conversation.greeting },
    ...conversation.turns,
  ]) {
    if (client.length > 0) connection.write(client);
    world.settle();
    expect(connection.take().toString('hex')).toBe(server.toString('hex'));
  }
  return { connection, settle: () => world.settle() };
}

describe('a client and TLS', () => {
  it.each(clear)('%s', async (_, world, text) => {
    await repeat(conversationOf(text), world);
    await repeatInPieces(conversationOf(text), world);
  });

  it('begins anew under TLS, however its bytes are cut', async () => {
    const bytes = Buffer.concat(AFTER.turns.map(({ client }) => client));
    const answers = Buffer.concat(AFTER.turns.map(({ server }) => server)).toString('hex');
    for (let at = 0; at < bytes.length; at++) {
      const { connection, settle } = await upToTls(BEFORE);
      connection.tls!.secured({ kind: 'anonymous', identity: '' });
      connection.write(bytes.subarray(0, at), bytes.subarray(at));
      settle();
      expect(connection.take().toString('hex'), `cut at ${at}`).toBe(answers);
      expect(connection.over).toBe(false);
    }
  });

  it('is cut off for clear text that came along with STARTTLS', async () => {
    const last = BEFORE.turns.at(-1)!.client;
    const go = AFTER.turns[2]!.client;
    for (let clearBytes = 1; clearBytes <= go.length; clearBytes++) {
      const early = { ...BEFORE, turns: BEFORE.turns.slice(0, -1) };
      const together = await upToTls(early);
      together.connection.write(Buffer.concat([last, go.subarray(0, clearBytes)]));
      together.settle();
      expect(together.connection.take().length, 'no answer').toBe(0);
      expect(together.connection.over).toBe(true);
      expect(together.connection.tls).toBe(null);
    }
  });
});
