/**
 * Where koffi cannot be loaded, connections are called open while they are, and inherited sockets are taken as
 * Node makes them. Method: the module of system calls is replaced by one that has none.
 */
import * as net from 'node:net';
import { expect, it, onTestFinished, vi } from 'vitest';

import { nodeNetwork } from '../../src/io/node-network.ts';
import { connectRecording, listenRecording, pauseFor, until } from './wire.ts';

vi.mock(import('../../src/io/syscalls.ts'), async (original) => ({
  ...(await original()),
  loadSyscalls: () => null,
}));

it('calls a connection open until it is destroyed', async () => {
  const { listener, accepted } = await listenRecording();
  const { connection } = await connectRecording(listener);
  await until(() => accepted.length === 1, 'the accept');
  accepted[0]!.connection.pause();
  connection.end();
  await pauseFor(20);
  expect(accepted[0]!.connection.health()).toBe('open');
  accepted[0]!.connection.destroy();
  expect(accepted[0]!.connection.health()).toBe('dead');
});

it('adopts a listening socket by what Node finds it to be, and refuses another', async () => {
  const server = net.createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  onTestFinished(() => void server.close());
  await expect(nodeNetwork.adopt(1_000_000, () => {})).rejects.toMatchObject({
    code: 'SOCKET_INVALID',
  });
});
