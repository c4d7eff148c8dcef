/**
 * The private option of a server: who may ask and when, what is answered, and whose the connection is then. Whatever the
 * data says, a server without the option does not know it. Method: fake network and clock; the test answers the option
 * as a node would. The client splits its words at each byte.
 */
import { describe, expect, it } from 'vitest';
import {
  NBD_DRAIN_MS_MAX,
  NBD_HANDSHAKE_DRAIN_MS_MAX,
  NBD_OPTION_BYTES_MAX,
} from '../../src/io/limits.ts';
import type { Connection, ConnectionHandler, TlsPeer } from '../../src/io/network.ts';
import type { ClientFacts, NbdServerOptions, PrivateAnswer } from '../../src/nbd/server/server.ts';
import { NBD_LIMITS_DEFAULT } from '../../src/nbd/server/server-limits.ts';
import { FakeWorld, NOTHING_LEFT, type FakeConnection } from './support/fake-world.ts';
import { CLIENT_FLAGS, go, hex, OPT, option, optionReplies, REP } from './support/wire.ts';

const GREETING_BYTES = 18;
const PRIVATE = 0x62660001;
const ASK = Buffer.from('may I?');
const REPLY = Buffer.from('you may');
const BEHIND = Buffer.from('and now for something else');

/** Who asked and what came, as whoever accepted saw it. */
class Taker implements ConnectionHandler {
  readonly asked: { data: string; client: ClientFacts }[] = [];
  readonly events: string[] = [];
  connection: Connection | null = null;
  text = '';
  onStop: () => void = () => this.connection?.end();
  answer: (data: Buffer) => PrivateAnswer = () => this.acceptance(REPLY);

  readonly option = (data: Buffer, client: ClientFacts): PrivateAnswer => {
    this.asked.push({ data: data.toString(), client });
    return this.answer(data);
  };

  acceptance(reply: Buffer): PrivateAnswer {
    return {
      kind: 'accept',
      reply,
      purpose: 'test talk',
      takeOver: (connection) => {
        this.connection = connection;
        connection.send(Buffer.from('hello'), () => this.events.push('sent'));
        return { handler: this, stop: () => this.onStop() };
      },
    };
  }

  received(buffer: Buffer, length: number): void {
    this.text += buffer.toString('latin1', 0, length);
  }

  drained(): void {
    this.events.push('drained');
  }

  ended(): void {
    this.events.push('ended');
  }

  closed(error: Error | null): void {
    this.events.push(`closed ${error?.message ?? ''}`);
  }
}

const refusal = (as: 'unknown' | 'policy', text: string): PrivateAnswer => ({
  kind: 'refuse',
  as,
  text,
  denied: { name: 'vault', reason: 'for the log' },
});

async function setUp(
  options: Partial<NbdServerOptions> = {},
): Promise<{ world: FakeWorld; taker: Taker }> {
  const taker = new Taker();
  const world = await FakeWorld.create(1 << 20, { privateOption: taker.option, ...options });
  return { world, taker };
}

/** What came behind the greeting. */
const answered = (client: FakeConnection): Buffer => client.take().subarray(GREETING_BYTES);

/** The replies of an accepted option, and the first words of what follows. */
const ACCEPTED = Buffer.concat([
  hex('0003e889045565a9 62660001 62660001 00000007'),
  REPLY,
  hex('0003e889045565a9 62660001 00000001 00000000'),
  Buffer.from('hello'),
]);

function accepted(world: FakeWorld): FakeConnection {
  const client = world.connect();
  client.write(CLIENT_FLAGS, option(PRIVATE, ASK));
  world.settle();
  expect(answered(client)).toEqual(ACCEPTED);
  return client;
}

describe('An accepted option', () => {
  it('is answered with data and an ACK, and all behind it belongs to who accepted, at any split', async () => {
    const words = Buffer.concat([CLIENT_FLAGS, option(PRIVATE, ASK), BEHIND]);
    for (let split = 0; split <= words.length; split++) {
      const { world, taker } = await setUp();
      const client = world.connect();
      client.write(words.subarray(0, split), words.subarray(split));
      world.settle();
      expect(answered(client)).toEqual(ACCEPTED);
      expect(taker.text).toBe(BEHIND.toString());
      expect(taker.asked).toEqual([
        { data: ASK.toString(), client: { ip: '127.0.0.1', tls: null } },
      ]);
      client.write(Buffer.from('!'));
      world.settle();
      expect(taker.text).toBe(`${BEHIND.toString()}!`);
      client.die(null);
      expect(taker.events).toEqual(['sent', 'closed ']);
      expect(world.leftovers()).toEqual(NOTHING_LEFT);
    }
  });

  it('byte by byte', async () => {
    const { world, taker } = await setUp();
    const client = world.connect();
    const words = Buffer.concat([CLIENT_FLAGS, option(PRIVATE, ASK), BEHIND]);
    client.write(...[...words].map((byte) => Buffer.from([byte])));
    world.settle();
    expect(answered(client)).toEqual(ACCEPTED);
    expect(taker.text).toBe(BEHIND.toString());
  });

  it('may come behind other options, which mean nothing for it', async () => {
    const { world } = await setUp();
    const client = world.connect();
    client.write(CLIENT_FLAGS, option(OPT.structuredReply), option(99), option(PRIVATE, ASK));
    world.settle();
    expect(answered(client).subarray(20, -ACCEPTED.length).length).toBeGreaterThan(0);
    expect(world.server.counters).toMatchObject({ connections: 1, handshakes: 0 });
  });

  it('counts as a connection, not as one in the handshake and not as one of a device', async () => {
    const { world } = await setUp();
    const client = accepted(world);
    expect(world.server.counters).toMatchObject({ connections: 1, handshakes: 0, failed: 0 });
    expect(world.server.connectionsOf(world.device)).toBe(0);
    expect(world.device.openedCount).toBe(0);
    client.die(null);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
    expect(world.server.counters).toMatchObject({ connections: 0, failed: 0, denied: 0 });
  });

  it('is no subject to the time of a handshake any more', async () => {
    const { world, taker } = await setUp();
    const client = accepted(world);
    world.clock.advance(10 * NBD_LIMITS_DEFAULT.handshakeMs);
    client.write(BEHIND);
    world.settle();
    expect(client.over).toBe(false);
    expect(taker.text).toBe(BEHIND.toString());
  });

  it('tells who accepted of the end of input and of losses, and the log of both', async () => {
    const { world, taker } = await setUp();
    const client = accepted(world);
    client.endInput();
    world.settle();
    expect(taker.events).toContain('ended');
    client.die(new Error('cable gone'));
    expect(taker.events.at(-1)).toBe('closed cable gone');
    expect(world.log).toEqual([
      { level: 'info', fields: { peer: 'test', purpose: 'test talk' }, text: 'peer connected' },
      {
        level: 'info',
        fields: { peer: 'test', purpose: 'test talk', reason: 'cable gone' },
        text: 'peer disconnected',
      },
    ]);
  });

  it('may have as long a reply as an option', async () => {
    const { world, taker } = await setUp();
    const long = Buffer.alloc(NBD_OPTION_BYTES_MAX, 7);
    taker.answer = () => taker.acceptance(long);
    const client = world.connect();
    client.write(CLIENT_FLAGS, option(PRIVATE, Buffer.alloc(NBD_OPTION_BYTES_MAX, 6)));
    world.settle();
    expect(answered(client).subarray(20, 20 + long.length)).toEqual(long);
  });
});

describe('A refused option', () => {
  it.each([
    ['unknown', REP.unknown],
    ['policy', REP.policy],
  ] as const)('as %s says so, is in the log, and the handshake goes on', async (as, type) => {
    const { world, taker } = await setUp();
    taker.answer = () => refusal(as, 'no');
    const client = world.connect();
    client.write(CLIENT_FLAGS, option(PRIVATE, ASK), go());
    world.settle();
    const replies = optionReplies(answered(client));
    expect(replies[0]).toMatchObject({ option: PRIVATE, type, payload: Buffer.from('no') });
    expect(replies.at(-1)).toMatchObject({ option: OPT.go, type: REP.ack });
    expect(world.server.connectionsOf(world.device)).toBe(1);
    expect(world.server.counters).toMatchObject({ denied: 1, failed: 0 });
    expect(world.log[0]).toEqual({
      level: 'warn',
      fields: { peer: 'test', export: '"vault"', reason: 'for the log' },
      text: 'export denied',
    });
  });

  it('may be asked again, as often as there are options in a handshake', async () => {
    const { world, taker } = await setUp();
    taker.answer = () => refusal('unknown', 'no');
    const client = world.connect();
    client.write(CLIENT_FLAGS);
    for (let count = 0; count <= NBD_LIMITS_DEFAULT.options; count++)
      client.write(option(PRIVATE, ASK));
    world.settle();
    expect(client.over).toBe(true);
    expect(taker.asked.length).toBe(NBD_LIMITS_DEFAULT.options);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
});

const typesFor = async (
  options: Partial<NbdServerOptions>,
  ...words: readonly Buffer[]
): Promise<{ types: number[]; taker: Taker; client: FakeConnection; world: FakeWorld }> => {
  const { world, taker } = await setUp(options);
  const client = world.connect();
  client.write(...words);
  world.settle();
  const types = optionReplies(answered(client)).map(({ type }) => type);
  return { types, taker, client, world };
};

describe('Who may not even ask', () => {
  const TLS_CONTEXT = { kind: 'tls-server-context' } as const;

  it('a client in clear where TLS is required', async () => {
    const { types, taker } = await typesFor(
      { tls: { mode: 'required', context: TLS_CONTEXT } },
      CLIENT_FLAGS,
      option(PRIVATE, ASK),
    );
    expect(types).toEqual([REP.tlsRequired]);
    expect(taker.asked).toEqual([]);
  });

  it('a client of a server that is stopping', async () => {
    const { world, taker } = await setUp();
    const client = world.connect();
    const closing = world.server.close();
    client.write(CLIENT_FLAGS, option(PRIVATE, ASK));
    world.settle();
    expect(optionReplies(answered(client)).map(({ type }) => type)).toEqual([REP.shutdown]);
    expect(taker.asked).toEqual([]);
    world.clock.advance(NBD_HANDSHAKE_DRAIN_MS_MAX);
    await closing;
  });

  it('a client that understands no replies to options', async () => {
    const { client, taker } = await typesFor({}, Buffer.alloc(4), option(PRIVATE, ASK));
    expect(client.over).toBe(true);
    expect(taker.asked).toEqual([]);
  });

  it('one whose data is longer than an option may be', async () => {
    const { client, taker, world } = await typesFor(
      {},
      CLIENT_FLAGS,
      option(PRIVATE, Buffer.alloc(NBD_OPTION_BYTES_MAX + 1)),
    );
    expect(client.over).toBe(true);
    expect(taker.asked).toEqual([]);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('anybody, where the server has no such option: it is as unknown as any other', async () => {
    const world = await FakeWorld.create();
    const client = world.connect();
    client.write(CLIENT_FLAGS, option(PRIVATE, ASK), option(99), go());
    world.settle();
    const replies = optionReplies(answered(client));
    expect(replies.slice(0, 2).map(({ type }) => type)).toEqual([REP.unsup, REP.unsup]);
    expect(replies.at(-1)).toMatchObject({ option: OPT.go, type: REP.ack });
    expect(world.server.connectionsOf(world.device)).toBe(1);
  });

  it('is told apart by what it proved under TLS', async () => {
    const ann: TlsPeer = { kind: 'psk', identity: 'ann' };
    const { world, taker } = await setUp({ tls: { mode: 'required', context: TLS_CONTEXT } });
    const client = world.connect();
    client.write(CLIENT_FLAGS, option(OPT.starttls));
    world.settle();
    client.tls?.secured(ann);
    client.write(option(PRIVATE, ASK));
    world.settle();
    expect(taker.asked).toEqual([{ data: ASK.toString(), client: { ip: '127.0.0.1', tls: ann } }]);
    expect(world.log.map(({ fields }) => fields['tls'])).toEqual(['psk:ann']);
  });
});

describe('The end of the server', () => {
  it('is told to who accepted, who may end in order', async () => {
    const { world } = await setUp();
    const client = accepted(world);
    const closing = world.server.close();
    world.settle();
    await closing;
    expect(client.over).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('waits longer for those than for handshakes, and then cuts them', async () => {
    const { world, taker } = await setUp();
    let asked = 0;
    taker.onStop = () => (asked += 1);
    const client = accepted(world);
    const closing = world.server.close();
    world.clock.advance(NBD_HANDSHAKE_DRAIN_MS_MAX);
    expect([client.over, asked]).toEqual([false, 1]);
    world.clock.advance(NBD_DRAIN_MS_MAX);
    await closing;
    expect(client.over).toBe(true);
    expect(taker.events.at(-1)).toBe('closed ');
    expect(world.log.at(-1)).toMatchObject({ level: 'warn', text: 'peer cut off' });
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('of the clients of a device leaves those alone', async () => {
    const { world } = await setUp();
    const client = accepted(world);
    await world.server.closeSessionsOf(world.device);
    world.settle();
    expect(client.over).toBe(false);
  });
});
