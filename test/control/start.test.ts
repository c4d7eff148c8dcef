/**
 * A start that cannot have all its addresses gives everything back, and lets nobody in. A start that can
 * lets in who came early. Real nodes in this process; the early client meets a fake network, which can hold
 * the moment.
 */
import { EventEmitter, once } from 'node:events';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { HeldNetwork } from '../../src/control/exports/held-network.ts';
import type { ConfigFlags } from '../../src/control/config/config.ts';
import { Serial } from '../../src/control/commands/serial.ts';
import { CONTROL_COMMANDS_WAITING_MAX, NBD_CONNECTIONS_MAX } from '../../src/io/limits.ts';
import type { Connection, Network } from '../../src/io/network.ts';
import { testScope } from '../support/tools.ts';
import { codeOf, startLocalNode } from './fixture.ts';

describe('a start that fails', () => {
  test.each(['nbd', 'control'] as const)('halfway, at %s, gives everything back', async (which) => {
    const scope = testScope();
    const dir = scope.tempDir('bf-start-');
    const taken = join(dir, 'taken.sock');
    const holder = createServer();
    await new Promise<void>((resolve) => {
      holder.listen(taken, resolve);
    });
    scope.defer('free the socket', () => void holder.close());
    const free = join(dir, 'free.sock');
    const good: ConfigFlags = { data: join(dir, 'data'), nbd: [`unix:${free}`] };
    const used = `unix:${taken}`;
    const bad = which === 'nbd' ? { nbd: [`unix:${free}`, used] } : { control: used };
    const start = startLocalNode(scope, { flags: { ...good, ...bad } });
    expect(await codeOf(start)).toBe('ADDRESS_IN_USE');
    expect(existsSync(free)).toBe(false);
    expect(existsSync(taken)).toBe(true);
    const { client } = await startLocalNode(scope, { flags: good });
    await client.call('GET', '/v1/status');
  });
});

/** A connection that only knows whether it was sent away. */
class Visitor {
  destroyed = false;
  readonly connection: Connection = {
    destroy: () => {
      this.destroyed = true;
    },
  } as unknown as Connection;
}

/** A listener at whose door tests knock. */
class FakeNetwork {
  knock: (connection: Connection) => void = () => {
    throw new Error('nobody listens');
  };
  readonly network: Network = {
    listen: (_address: unknown, accept: (connection: Connection) => void) => {
      this.knock = accept;
      return Promise.resolve({});
    },
  } as unknown as Network;
}

describe('a client that comes before the node is ready', () => {
  test('waits, and is let in once', async () => {
    const fake = new FakeNetwork();
    const held = new HeldNetwork(fake.network);
    const seen: Connection[] = [];
    await held.listen({ kind: 'unix', path: 'x' }, (connection) => seen.push(connection));
    const [early, late] = [new Visitor(), new Visitor()];
    fake.knock(early.connection);
    expect(seen).toEqual([]);
    held.open();
    fake.knock(late.connection);
    expect(seen).toEqual([early.connection, late.connection]);
    held.abandon();
    expect([early.destroyed, late.destroyed]).toEqual([false, false]);
  });

  test('is sent away when the start fails, or too many wait', async () => {
    const fake = new FakeNetwork();
    const held = new HeldNetwork(fake.network);
    await held.listen({ kind: 'unix', path: 'x' }, () => {
      throw new Error('let in');
    });
    const visitors = Array.from({ length: NBD_CONNECTIONS_MAX + 1 }, () => new Visitor());
    for (const { connection } of visitors) fake.knock(connection);
    expect(visitors.filter(({ destroyed }) => destroyed)).toEqual([visitors.at(-1)]);
    held.abandon();
    expect(visitors.every(({ destroyed }) => destroyed)).toBe(true);
  });
});

describe('commands on one volume', () => {
  test('run one after another, whatever becomes of them; other volumes do not wait', async () => {
    const serial = new Serial();
    const steps: string[] = [];
    const finish: (() => void)[] = [];
    const command = (name: string) => () =>
      new Promise<void>((resolve, reject) => {
        steps.push(`${name} begins`);
        finish.push(() => (name === 'a1' ? reject(new Error('no')) : resolve()));
      });
    const results = [
      serial.run('a', command('a1')),
      serial.run('a', command('a2')),
      serial.run('b', command('b1')),
    ];
    results[0]?.catch(() => steps.push('a1 failed'));
    await new Promise((resolve) => setImmediate(resolve));
    expect(steps).toEqual(['a1 begins', 'b1 begins']);
    finish[0]?.();
    await new Promise((resolve) => setImmediate(resolve));
    expect(steps).toEqual(['a1 begins', 'b1 begins', 'a2 begins', 'a1 failed']);
    for (const end of finish) end();
    await serial.idle();
    await Promise.all(results.slice(1));
  });

  test('are refused when too many wait, and taken again afterwards', async () => {
    const serial = new Serial();
    const hold = new EventEmitter();
    const gate = once(hold, 'release');
    const waiting = Array.from({ length: CONTROL_COMMANDS_WAITING_MAX }, () =>
      serial.run('a', () => gate),
    );
    expect(await codeOf(serial.run('a', () => gate))).toBe('BUSY');
    expect(await codeOf(serial.run('b', () => Promise.resolve()))).toBe('accepted');
    hold.emit('release');
    await Promise.all(waiting);
    expect(await codeOf(serial.run('a', () => gate))).toBe('accepted');
  });
});
