/**
 * What a server does around TLS: it starts it behind the answer and never on clear text, with the context that
 * the client came under; within the time of a handshake, and not past a stop; and it tells who came. Method: fake
 * network, where the test says when TLS is done. What the handshake makes of it is in tls-rules.
 */
import { describe, expect, it } from 'vitest';
import { NBD_HANDSHAKE_DRAIN_MS_MAX } from '../../src/io/limits.ts';
import type { TlsPeer, TlsServerContext } from '../../src/io/network.ts';
import type { ServerTls } from '../../src/nbd/server/server.ts';
import { NBD_LIMITS_DEFAULT } from '../../src/nbd/server/server-limits.ts';
import { type FakeConnection, FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { CLIENT_FLAGS, go, OPT, option, optionReplies, REP } from './support/wire.ts';

const GREETING_BYTES = 18;
const STARTTLS = option(OPT.starttls);
const ANN: TlsPeer = { kind: 'psk', identity: 'ann' };

const context = (): TlsServerContext => ({ kind: 'tls-server-context' });
const worldWith = (tls: ServerTls): Promise<FakeWorld> => FakeWorld.create(1 << 20, { tls });

/** A client whose STARTTLS was granted. */
function securing(world: FakeWorld): FakeConnection {
  const client = world.connect();
  client.write(CLIENT_FLAGS, STARTTLS);
  world.settle();
  expect(optionReplies(client.take().subarray(GREETING_BYTES)).map(({ type }) => type)).toEqual([
    REP.ack,
  ]);
  return client;
}

describe('TLS', () => {
  it('starts behind the answer, and the client goes on as who it proved to be', async () => {
    const given = context();
    const world = await worldWith({ mode: 'required', context: given });
    const client = securing(world);
    expect(client.tls?.context).toBe(given);
    client.tls?.secured(ANN);
    client.write(go('vol0'));
    world.settle();
    expect(world.server.connectionsOf(world.device)).toBe(1);
    expect(world.log).toContainEqual({
      level: 'info',
      fields: { peer: 'test', tls: 'psk:ann', export: 'vol0' },
      text: 'client connected',
    });
  });

  it.each<[string, TlsPeer, string]>([
    ['a certificate', { kind: 'x509', identity: 'CN=host1,O=x' }, 'x509:CN=host1,O=x'],
    ['nothing', { kind: 'anonymous', identity: '' }, 'anonymous'],
  ])('tells in the log of a client that showed %s', async (_what, peer, words) => {
    const world = await worldWith({ mode: 'allowed', context: context() });
    const client = securing(world);
    client.tls?.secured(peer);
    client.write(go());
    world.settle();
    client.die(null);
    expect(world.log.map(({ fields }) => fields['tls'])).toEqual([words, words]);
  });

  it('is not started where there is none', async () => {
    const world = await worldWith({ mode: 'off' });
    const client = world.connect();
    client.write(CLIENT_FLAGS, STARTTLS, go());
    world.settle();
    expect(client.tls).toBeNull();
    expect(world.server.connectionsOf(world.device)).toBe(1);
  });

  it.each([
    ['an option', go()],
    ['one byte', Buffer.from([0x16])],
  ])('is not started when %s came in clear behind STARTTLS', async (_what, more) => {
    const world = await worldWith({ mode: 'allowed', context: context() });
    const client = world.connect();
    client.write(Buffer.concat([CLIENT_FLAGS, STARTTLS, more]));
    world.settle();
    expect(client.tls).toBeNull();
    expect(client.over).toBe(true);
    expect(world.server.connectionsOf(world.device)).toBe(0);
    expect(world.log.map(({ text }) => text)).toEqual(['handshake failed']);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('that fails ends the connection, with a reason in the log', async () => {
    const world = await worldWith({ mode: 'allowed', context: context() });
    const client = securing(world);
    client.die(new Error('no shared cipher'));
    expect(world.log).toEqual([
      {
        level: 'warn',
        fields: { peer: 'test', reason: 'TLS: no shared cipher' },
        text: 'handshake failed',
      },
    ]);
    expect(world.server.counters).toMatchObject({ connections: 0, failed: 1 });
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('counts in the time of the handshake', async () => {
    const world = await worldWith({ mode: 'allowed', context: context() });
    const client = securing(world);
    world.clock.advance(NBD_LIMITS_DEFAULT.handshakeMs);
    expect(client.over).toBe(true);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('under way when the server stops is waited for no longer than a handshake', async () => {
    const world = await worldWith({ mode: 'allowed', context: context() });
    const [late, never] = [securing(world), securing(world)];
    const closing = world.server.close();
    late.tls?.secured(ANN);
    late.write(go());
    world.settle();
    expect(optionReplies(late.take()).map(({ type }) => type)).toEqual([REP.shutdown]);
    world.clock.advance(NBD_HANDSHAKE_DRAIN_MS_MAX);
    await closing;
    expect([late.over, never.over]).toEqual([true, true]);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });

  it('done after the connection was cut changes nothing', async () => {
    const world = await worldWith({ mode: 'allowed', context: context() });
    const client = securing(world);
    const secured = client.tls;
    world.clock.advance(NBD_LIMITS_DEFAULT.handshakeMs);
    secured?.secured(ANN);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
});

describe('new certificates', () => {
  it('are for clients that come after them; the others go on with what they came under', async () => {
    const [before, after] = [context(), context()];
    const world = await worldWith({ mode: 'required', context: before });
    const early = world.connect();
    const served = securing(world);
    served.tls?.secured(ANN);
    served.write(go());
    world.server.setTls({ mode: 'required', context: after });
    early.write(CLIENT_FLAGS, STARTTLS);
    world.settle();
    expect(early.tls?.context).toBe(before);
    expect(securing(world).tls?.context).toBe(after);
    expect(world.server.connectionsOf(world.device)).toBe(1);
  });

  it('may end TLS, or begin it', async () => {
    const world = await worldWith({ mode: 'off' });
    world.server.setTls({ mode: 'required', context: context() });
    const client = world.connect();
    client.write(CLIENT_FLAGS, go());
    world.settle();
    expect(world.server.connectionsOf(world.device)).toBe(0);
    world.server.setTls({ mode: 'off' });
    expect(world.transmit().over).toBe(false);
  });
});

describe('an export that is denied', () => {
  it('is unknown to the client, and named in the log with the reason', async () => {
    const world = await FakeWorld.create(1 << 20, {
      exports: {
        find: () => ({ kind: 'denied', reason: '10.0.0.1 is not in its list' }),
        list: () => [],
      },
    });
    const client = world.connect();
    client.write(CLIENT_FLAGS, go('secret'));
    world.settle();
    expect(optionReplies(client.take().subarray(GREETING_BYTES)).map(({ type }) => type)).toEqual([
      REP.unknown,
    ]);
    expect(world.log).toEqual([
      {
        level: 'warn',
        fields: { peer: 'test', export: '"secret"', reason: '10.0.0.1 is not in its list' },
        text: 'export denied',
      },
    ]);
    expect(world.server.counters.denied).toBe(1);
  });
});
