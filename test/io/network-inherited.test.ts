/**
 * A listening socket that the process was given serves like one of its own, under its real address, and its file
 * outlives it; any other descriptor is refused. Method: a child that inherits sockets of this process, and
 * descriptors of every wrong kind.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, existsSync, openSync } from 'node:fs';
import * as net from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';

import { BlockferryError } from '../../src/io/errors.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { builtModule } from './built.ts';
import { temporaryDirectory, until } from './wire.ts';

/** Answers each client with its `remoteIp`; closes its listener when told to, and goes. */
const CHILD = `
import { nodeNetwork } from ${JSON.stringify(builtModule('src/io/node-network.js'))};
const adopting = nodeNetwork.adopt(3, (connection) => {
  connection.start({ received() {}, drained() {}, ended() { connection.end(); }, closed() {} });
  connection.send(Buffer.from(String(connection.remoteIp)), () => {});
});
const listener = await adopting.catch((error) => ({ address: error.line ?? error.message }));
console.log(JSON.stringify(listener.address));
process.stdin.once('data', async () => { await listener.close(); process.exit(0); });
`;

/** Does what systemd does: makes the socket, puts it at descriptor 3, becomes the program. */
const GIVER = `
import json, os, socket, sys
family, kind, address, backlog, program = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
s = socket.socket(getattr(socket, family), getattr(socket, kind))
s.bind(tuple(address) if isinstance(address, list) else address)
if backlog > 0: s.listen(backlog)
s.set_inheritable(True)
os.dup2(s.fileno(), 3)
os.execv(program[0], program)
`;

interface Inheritor {
  readonly process: ChildProcess;
  /** What the child says its address is, or why it refused. */
  readonly address: unknown;
}

interface Given {
  readonly family: 'AF_INET' | 'AF_INET6' | 'AF_UNIX';
  readonly address: string | readonly [host: string, port: number];
  readonly kind?: 'SOCK_STREAM' | 'SOCK_DGRAM' | 'SOCK_SEQPACKET';
  readonly listens?: boolean;
}

async function inheritorOf(given: Given): Promise<Inheritor> {
  const { family, address, kind = 'SOCK_STREAM', listens = true } = given;
  const socket = [family, kind, JSON.stringify(address), listens ? '8' : '0'];
  const program = [process.execPath, '--input-type=module', '-e', CHILD];
  const child = spawn('/usr/bin/python3', ['-c', GIVER, ...socket, ...program], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
  await until(() => said.includes('\n') || child.exitCode !== null, 'the address');
  return { process: child, address: JSON.parse(said) };
}

async function greeting(target: net.NetConnectOpts): Promise<string> {
  const socket = net.connect(target);
  onTestFinished(() => void socket.destroy());
  let text = '';
  socket.on('data', (chunk: Buffer) => (text += chunk.toString()));
  await until(() => text !== '', 'the greeting');
  return text;
}

const portOf = ({ address }: Inheritor): number => (address as { port: number }).port;

describe('adopt', () => {
  it.each([
    ['AF_INET', '127.0.0.1'],
    ['AF_INET6', '::1'],
  ] as const)('serves on a TCP socket of %s', async (family, host) => {
    const child = await inheritorOf({ family, address: [host, 0] });
    expect(child.address).toEqual({ kind: 'tcp', host, port: portOf(child) });
    expect(await greeting({ host, port: portOf(child) })).toBe(host);
  });

  it('serves on a socket of both families', async () => {
    const child = await inheritorOf({ family: 'AF_INET6', address: ['::', 0] });
    expect(child.address).toEqual({ kind: 'tcp', host: '::', port: portOf(child) });
    expect(await greeting({ host: '127.0.0.1', port: portOf(child) })).toBe('127.0.0.1');
    expect(await greeting({ host: '::1', port: portOf(child) })).toBe('::1');
  });

  it('serves on a unix socket, and leaves its file when it closes', async () => {
    const path = join(temporaryDirectory(), 's');
    const child = await inheritorOf({ family: 'AF_UNIX', address: path });
    expect(child.address).toEqual({ kind: 'unix', path });
    expect(await greeting({ path })).toBe('null');
    child.process.stdin?.write('go');
    await until(() => child.process.exitCode === 0, 'the exit');
    expect(existsSync(path)).toBe(true);
  });

  it('names an abstract socket', async () => {
    const name = `blockferry-test-${process.pid}`;
    for (const padding of ['', '\0\0']) {
      const child = await inheritorOf({ family: 'AF_UNIX', address: `\0${name}${padding}` });
      expect(child.address).toEqual({ kind: 'unix', path: `@${name}` });
      child.process.kill('SIGKILL');
    }
  });

  it.each<[string, Given]>([
    ['bound only', { family: 'AF_INET', address: ['127.0.0.1', 0], listens: false }],
    [
      'of datagrams',
      { family: 'AF_INET', kind: 'SOCK_DGRAM', address: ['127.0.0.1', 0], listens: false },
    ],
    ['of packets', { family: 'AF_UNIX', kind: 'SOCK_SEQPACKET', address: '\0blockferry-packets' }],
  ])('refuses a socket that is %s', async (_what, given) => {
    const child = await inheritorOf(given);
    expect(child.address).toMatch(
      /^cannot listen on inherited descriptor 3: .*\[SOCKET_INVALID\]$/,
    );
  });

  it.each<[string, () => number | Promise<number>, RegExp]>([
    ['a descriptor that is not open', () => 1_000_000, /EBADF/],
    ['a file', () => opened('/etc/passwd'), /ENOTSOCK/],
    ['a connected socket', () => connected(), /does not listen/],
  ])('refuses %s', async (_what, descriptor, why) => {
    const number = await descriptor();
    const outcome: unknown = await nodeNetwork
      .adopt(number, () => {})
      .catch((error: unknown) => error);
    expect(outcome).toBeInstanceOf(BlockferryError);
    expect(outcome).toMatchObject({ code: 'SOCKET_INVALID' });
    expect((outcome as BlockferryError).line).toMatch(why);
    expect((outcome as BlockferryError).line).toContain(`descriptor ${number}`);
  });
});

function opened(path: string): number {
  const descriptor = openSync(path, 'r');
  onTestFinished(() => closeSync(descriptor));
  return descriptor;
}

async function connected(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  onTestFinished(() => void server.close());
  const { port } = server.address() as net.AddressInfo;
  const socket = net.connect(port, '127.0.0.1');
  onTestFinished(() => void socket.destroy());
  await new Promise<void>((resolve) => {
    socket.once('connect', resolve);
  });
  const { _handle: handle } = socket as unknown as { _handle: { fd: number } };
  return handle.fd;
}
