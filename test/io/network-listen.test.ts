/**
 * Listening and connecting fail with the code a script can match and one clear line, a stale unix socket
 * file is replaced and a live one is not. Method: real sockets, files in the way, a killed process.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import * as net from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';

import { formatAddress } from '../../src/io/address.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import type { Address } from '../../src/io/network.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { connectRecording, listenRecording, pauseFor, temporaryDirectory, until } from './wire.ts';

const unix = (path: string): Address => ({ kind: 'unix', path });
const tcp = (host: string, port: number): Address => ({ kind: 'tcp', host, port });

async function refusal(address: Address): Promise<BlockferryError> {
  const outcome = await nodeNetwork.listen(address, () => {}).catch((error: unknown) => error);
  expect(outcome).toBeInstanceOf(BlockferryError);
  return outcome as BlockferryError;
}

describe('listen', () => {
  it('says which port the system chose', async () => {
    const { listener } = await listenRecording('127.0.0.1:0');
    expect(listener.address).toMatchObject({ kind: 'tcp', host: '127.0.0.1' });
    expect(listener.address.kind === 'tcp' && listener.address.port).toBeGreaterThan(0);
    await connectRecording(listener);
  });

  it('names the address that is in use, in one line', async () => {
    const { listener } = await listenRecording('127.0.0.1:0');
    const error = await refusal(listener.address);
    expect(error.code).toBe('ADDRESS_IN_USE');
    expect(error.line).toContain(formatAddress(listener.address));
    expect(error.line).not.toContain('\n');
  });

  it.each([
    ['an address of another host', tcp('192.0.2.1', 0), 'does not have that address'],
    [
      'a name nobody knows',
      tcp('no-such-host.invalid', 0),
      'cannot listen on no-such-host.invalid:0',
    ],
    ['a directory that is not there', unix('/nonexistent/dir/s'), 'does not exist'],
  ])('refuses %s', async (_what, address, part) => {
    const error = await refusal(address);
    expect(error.code).toBe('ADDRESS_UNAVAILABLE');
    expect(error.line).toContain(part);
  });

  it('refuses to replace a live socket, and leaves it working', async () => {
    const path = join(temporaryDirectory(), 's');
    const { listener } = await listenRecording(`unix:${path}`);
    expect((await refusal(unix(path))).code).toBe('ADDRESS_IN_USE');
    await connectRecording(listener);
  });

  it('replaces the socket file of a killed process', async () => {
    const path = join(temporaryDirectory(), 's');
    const script = `require('node:net').createServer().listen(${JSON.stringify(path)})`;
    const child = spawn(process.execPath, ['-e', script]);
    await until(() => existsSync(path), 'the socket of the other process');
    expect((await refusal(unix(path))).code).toBe('ADDRESS_IN_USE');
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('exit', resolve));
    expect(existsSync(path)).toBe(true);
    const { listener } = await listenRecording(`unix:${path}`);
    await connectRecording(listener);
    await listener.close();
    expect(existsSync(path)).toBe(false);
  });

  it('never removes a file that is no socket', async () => {
    const path = join(temporaryDirectory(), 'precious');
    writeFileSync(path, 'content');
    expect((await refusal(unix(path))).code).toBe('ADDRESS_UNAVAILABLE');
    expect(readFileSync(path, 'utf8')).toBe('content');
  });
});

describe('connect', () => {
  it.each([
    ['ECONNREFUSED', async () => tcp('127.0.0.1', await freePort())],
    ['ECONNREFUSED', async () => tcp('localhost', await freePort())],
    ['ENOENT', async () => unix('/nonexistent/s')],
  ] as const)("rejects with the system's %s", async (code, address) => {
    const error: unknown = await nodeNetwork
      .connect(await address(), 1000)
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ code });
    expect((error as Error).message).toContain(code);
  });

  it('gives up after the time it was given', async () => {
    const address = await fullBacklog();
    const before = performance.now();
    await expect(nodeNetwork.connect(address, 150)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    expect(performance.now() - before).toBeGreaterThan(140);
    expect(performance.now() - before).toBeLessThan(5000);
  });
});

describe('a connection that was made', () => {
  it('outlives the time it had to be made', async () => {
    const { listener, accepted } = await listenRecording();
    const connection = await nodeNetwork.connect(listener.address, 60);
    await pauseFor(120);
    connection.send(Buffer.from('alive'), () => {});
    await until(() => accepted[0]?.heard.text === 'alive', 'the bytes');
    connection.destroy();
  });
});

/** A process that listens and was stopped: what its backlog does not hold stays unanswered. */
async function fullBacklog(): Promise<Address> {
  const script = `const s = require('node:net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 },
    () => console.log(s.address().port))`;
  const child = spawn(process.execPath, ['-e', script]);
  onTestFinished(() => void child.kill('SIGKILL'));
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  child.kill('SIGSTOP');
  const port = Number(line.toString());
  for (let filler = 0; filler < 8; filler += 1) {
    const socket = net.connect(port, '127.0.0.1').on('error', () => {});
    onTestFinished(() => void socket.destroy());
  }
  await pauseFor(50);
  return tcp('127.0.0.1', port);
}

async function freePort(): Promise<number> {
  const server = net.createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
