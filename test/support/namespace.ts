/**
 * A network namespace with one tap device: the only network that a user-mode Linux guest and its
 * server share. Nothing of it is routed anywhere.
 */
import { randomBytes } from 'node:crypto';
import { run } from './process.ts';
import type { Scope } from './scope.ts';

export interface TapNamespace {
  readonly name: string;
  /** Words that run a command inside: `ip netns exec NAME`. */
  readonly prefix: readonly string[];
  readonly tap: string;
  readonly host: string;
  readonly guest: string;
  readonly prefixLength: number;
}

async function ip(...args: readonly string[]): Promise<void> {
  await run('ip', args);
}

export async function tapNamespace(scope: Scope): Promise<TapNamespace> {
  const name = `bf-${randomBytes(4).toString('hex')}`;
  const namespace: TapNamespace = {
    name,
    prefix: ['ip', 'netns', 'exec', name],
    tap: 'tap0',
    host: '10.213.0.1',
    guest: '10.213.0.2',
    prefixLength: 30,
  };
  await ip('netns', 'add', name);
  scope.defer(`delete namespace ${name}`, async () => {
    await ip('netns', 'del', name);
  });
  await ip('-n', name, 'link', 'set', 'lo', 'up');
  await ip('-n', name, 'tuntap', 'add', 'dev', namespace.tap, 'mode', 'tap');
  const address = `${namespace.host}/${namespace.prefixLength}`;
  await ip('-n', name, 'addr', 'add', address, 'dev', namespace.tap);
  await ip('-n', name, 'link', 'set', namespace.tap, 'up');
  return namespace;
}
