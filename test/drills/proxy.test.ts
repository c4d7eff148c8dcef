/**
 * The drill's link: bytes arrive whole and in order while it is open, and each fault does what it says and
 * nothing else. Shown with an echo server behind the proxy.
 */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { beforeEach, expect, test } from 'vitest';
import { FaultProxy } from '../../scripts/drill/proxy.ts';
import { seededRandom } from '../../scripts/drill/random.ts';
import type { Scope } from '../support/scope.ts';
import { testScope } from '../support/tools.ts';
import { sleep, waitUntil } from '../support/wait.ts';

const MIB = 1024 * 1024;

interface Caller {
  readonly socket: Socket;
  receivedBytes: number;
  readonly chunks: Buffer[];
  errorCode: string | null;
  closed: boolean;
}

let scope: Scope;
let proxy: FaultProxy;
let echoSockets: Socket[];

beforeEach(async () => {
  scope = testScope();
  echoSockets = [];
  const server = createServer((socket) => {
    echoSockets.push(socket);
    socket.on('error', () => undefined);
    socket.pipe(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  proxy = await FaultProxy.start({ listen: '127.0.0.1:0', target: `127.0.0.1:${port}` });
  scope.defer('close the server', () => {
    for (const socket of echoSockets) socket.destroy();
    server.close();
  });
  scope.defer('close the proxy', () => proxy.close());
});

async function call(): Promise<Caller> {
  const [host, port] = proxy.address.split(':');
  const socket = connect({ host: host!, port: Number(port) });
  const caller: Caller = { socket, receivedBytes: 0, chunks: [], errorCode: null, closed: false };
  socket.on('data', (chunk: Buffer) => {
    caller.receivedBytes += chunk.length;
    caller.chunks.push(chunk);
  });
  socket.on('error', (error: NodeJS.ErrnoException) => {
    caller.errorCode = error.code ?? 'unknown';
  });
  socket.on('close', () => {
    caller.closed = true;
  });
  scope.defer('hang up', () => {
    socket.destroy();
  });
  await waitUntil('an answer to the call', () => caller.closed || !socket.connecting);
  return caller;
}

test('an open link passes everything in order, and an orderly end after it', async () => {
  const caller = await call();
  const bytes = seededRandom(1).bytes(8 * MIB);
  caller.socket.end(bytes);
  await waitUntil('the end', () => caller.closed);
  expect(Buffer.concat(caller.chunks).equals(bytes)).toBe(true);
  expect(caller.errorCode).toBeNull();
  expect(proxy.bytesToTarget).toBe(bytes.length);
  await waitUntil('no connection left', () => proxy.connections === 0);
});

test('a cut link resets what is there and what comes, until it is restored', async () => {
  const caller = await call();
  caller.socket.write('hello');
  await waitUntil('the echo', () => caller.receivedBytes === 5);
  proxy.cut();
  await waitUntil('the reset', () => caller.closed);
  expect(caller.errorCode).toBe('ECONNRESET');
  const late = await call();
  await waitUntil('the refusal', () => late.closed);
  expect(proxy.refused).toBe(1);
  proxy.restore();
  const next = await call();
  next.socket.write('again');
  await waitUntil('the echo', () => next.receivedBytes === 5);
});

test('a half-open link is silent, keeps its connections, and goes on where it stopped', async () => {
  const caller = await call();
  caller.socket.write('hello');
  await waitUntil('the echo', () => caller.receivedBytes === 5);
  proxy.halfOpen();
  caller.socket.write('is anybody there');
  const late = await call();
  late.socket.write('or here');
  await sleep(300);
  expect(caller.receivedBytes).toBe(5);
  expect(late.receivedBytes).toBe(0);
  expect([caller.closed, late.closed]).toEqual([false, false]);
  proxy.restore();
  await waitUntil('the rest', () => caller.receivedBytes === 21 && late.receivedBytes === 7);
});

test('a half-open link hides the end of the other side until it is restored', async () => {
  const caller = await call();
  caller.socket.write('hello');
  await waitUntil('the echo', () => caller.receivedBytes === 5);
  proxy.halfOpen();
  for (const socket of echoSockets) socket.resetAndDestroy();
  await sleep(200);
  expect(caller.closed).toBe(false);
  proxy.restore();
  await waitUntil('the reset', () => caller.closed);
});

test('a half-open link holds a bounded number of bytes', async () => {
  const caller = await call();
  proxy.halfOpen();
  const bytes = Buffer.alloc(64 * MIB, 1);
  caller.socket.write(bytes);
  await sleep(500);
  // What left the caller is held by the proxy and by the kernel's buffers.
  expect(caller.socket.writableLength).toBeGreaterThan(32 * MIB);
  proxy.restore();
  await waitUntil('all of it', () => caller.receivedBytes === bytes.length, { timeoutMs: 20_000 });
});

test('a delayed link answers later', async () => {
  const caller = await call();
  proxy.delay(100);
  const startMs = performance.now();
  caller.socket.write('hello');
  await waitUntil('the echo', () => caller.receivedBytes === 5, { everyMs: 5 });
  expect(performance.now() - startMs).toBeGreaterThanOrEqual(195);
});

test('a throttled link passes no more than its rate', async () => {
  const caller = await call();
  proxy.throttle(MIB);
  const startMs = performance.now();
  caller.socket.write(Buffer.alloc(MIB, 1));
  await waitUntil('all of it', () => caller.receivedBytes === MIB, { everyMs: 5 });
  const elapsedMs = performance.now() - startMs;
  expect(elapsedMs).toBeGreaterThan(800);
  expect(elapsedMs).toBeLessThan(4000);
});
