/**
 * `npm run quickstart` without the npm: two nodes come up mirrored, a killed one is reported with the
 * command that brings it back, Ctrl-C stops both, and another run goes on with the same data. Real
 * processes on ports of their own.
 */
import { existsSync } from 'node:fs';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { ControlClient, volumePath } from '../../src/cli/client.ts';
import type { NodeFacts, VolumeStatus } from '../../src/control/status.ts';
import { start, type ManagedProcess } from '../support/process.ts';
import { BLOCKFERRY_BIN } from '../support/root.ts';
import type { Scope } from '../support/scope.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const SCRIPT = join(dirname(BLOCKFERRY_BIN), '..', 'dist', 'scripts', 'quickstart.js');

function listen(): Promise<Server> {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, '127.0.0.1', () => resolve(server));
  });
}

const portOf = (server: Server): number => (server.address() as AddressInfo).port;

/** Two ports that nobody uses, held together for a moment so that they differ. */
async function freePorts(): Promise<[number, number]> {
  const servers = [await listen(), await listen()] as const;
  const ports: [number, number] = [portOf(servers[0]), portOf(servers[1])];
  for (const server of servers) server.close();
  return ports;
}

interface Quickstart {
  readonly process: ManagedProcess;
  readonly ports: readonly [number, number];
  client(name: 'alpha' | 'beta'): ControlClient;
}

function quickstart(scope: Scope, dir: string, ports: readonly [number, number]): Quickstart {
  const flags = ['--alpha-port', String(ports[0]), '--beta-port', String(ports[1])];
  const child = start(scope, process.execPath, [SCRIPT, ...flags], { cwd: dir });
  // Its nodes are in groups of their own: they end with it only when it is asked to stop.
  scope.defer('stop quickstart', () => child.stop());
  const client = (name: string): ControlClient =>
    new ControlClient({ kind: 'unix', path: join(dir, '.blockferry', name, 'control.sock') });
  return { process: child, ports, client };
}

async function demoOf(client: ControlClient): Promise<VolumeStatus> {
  return await client.call<VolumeStatus>('GET', volumePath('demo'));
}

async function untilStreaming(running: Quickstart): Promise<VolumeStatus> {
  await waitUntil('the explanation', () => running.process.stdout.includes('Logs: '), {
    timeoutMs: 30_000,
    onTimeout: () => running.process.output,
  });
  return await waitUntil(
    'the mirror to stream',
    async () => {
      const status = await demoOf(running.client('alpha'));
      return status.mirrors[0]?.state === 'streaming' ? status : null;
    },
    { timeoutMs: 30_000 },
  );
}

async function ctrlC(running: Quickstart): Promise<void> {
  // As under npm: from the terminal, and passed on.
  running.process.signal('SIGINT');
  running.process.signal('SIGINT');
  expect(await running.process.waitForExit(15_000)).toBe(true);
  expect([running.process.exitCode, running.process.stderr]).toEqual([0, '']);
}

test('two nodes, mirrored, stopped by Ctrl-C, and again with the same data', async () => {
  const scope = testScope();
  const dir = scope.tempDir('bf-qs-');
  const ports = await freePorts();
  const first = quickstart(scope, dir, ports);
  const { id, size_bytes: size, mirrors } = await untilStreaming(first);
  expect(size).toBe(2 ** 30);
  expect(mirrors.map(({ uri }) => uri)).toEqual([`nbd://127.0.0.1:${ports[1]}/demo`]);
  for (const name of ['alpha', 'beta'] as const) {
    const { nbd } = await first.client(name).call<NodeFacts>('GET', '/v1/node');
    const port = ports[name === 'alpha' ? 0 : 1];
    expect(nbd).toEqual([`127.0.0.1:${port}`, `unix:.blockferry/${name}/nbd.sock`]);
  }
  await ctrlC(first);
  expect(existsSync(join(dir, '.blockferry', 'alpha', 'control.sock'))).toBe(false);
  expect(existsSync(join(dir, '.blockferry', 'beta', 'control.sock'))).toBe(false);

  const second = quickstart(scope, dir, ports);
  const again = await untilStreaming(second);
  expect([again.id, again.mirrors.length]).toEqual([id, 1]);
  await ctrlC(second);
});

test('a node that is killed is reported, and comes back by the command that is shown', async () => {
  const scope = testScope();
  const dir = scope.tempDir('bf-qs-');
  const running = quickstart(scope, dir, await freePorts());
  await untilStreaming(running);
  const facts = await running.client('beta').call<NodeFacts>('GET', '/v1/node');
  process.kill(facts.pid, 'SIGKILL');
  const [, command = ''] = await waitUntil('the report', () =>
    /beta ended by SIGKILL[^]*Start it again with:\n {2}(.*)\n/.exec(running.process.stdout),
  );
  await waitUntil('alpha to notice', async () => {
    const { mirrors } = await demoOf(running.client('alpha'));
    return mirrors[0]?.state !== 'streaming' && mirrors[0]?.last_error !== null;
  });
  const byHand = start(scope, 'bash', ['-c', `exec ${command}`], { cwd: dir });
  await untilStreaming(running);
  await ctrlC(running);
  expect(byHand.running).toBe(true);
  await byHand.stop();
});

test('with both nodes dead it goes on, until Ctrl-C', async () => {
  const scope = testScope();
  const running = quickstart(scope, scope.tempDir('bf-qs-'), await freePorts());
  await untilStreaming(running);
  for (const name of ['beta', 'alpha'] as const) {
    const facts = await running.client(name).call<NodeFacts>('GET', '/v1/node');
    process.kill(facts.pid, 'SIGKILL');
    await waitUntil('the report', () =>
      running.process.stdout.includes(`${name} ended by SIGKILL`),
    );
  }
  expect(await running.process.waitForExit(1000)).toBe(false);
  await ctrlC(running);
});

test.each([0, 1] as const)('a port in use is one line, and nothing stays behind', async (index) => {
  const scope = testScope();
  const dir = scope.tempDir('bf-qs-');
  const taken = await listen();
  scope.defer('free the port', () => void taken.close());
  const ports = await freePorts();
  ports[index] = portOf(taken);
  const running = quickstart(scope, dir, ports);
  expect(await running.process.waitForExit(30_000)).toBe(true);
  expect(running.process.exitCode).toBe(1);
  expect(running.process.stdout).toBe('');
  expect(running.process.stderr).toMatch(
    new RegExp(`^quickstart: cannot listen on 127.0.0.1:${ports[index]}: .*ADDRESS_IN_USE.*\n$`),
  );
  for (const name of ['alpha', 'beta']) {
    expect(existsSync(join(dir, '.blockferry', name, 'control.sock'))).toBe(false);
  }
});
