/**
 * How two nodes begin a link inside the handshake of NBD: who becomes a peer, who stays a plain mirror on the same connection,
 * who is refused and what it learns, and how the lanes of a link come together. Method: a real server and real sockets; a
 * node that judges as the test says; servers that nobody here wrote (nbdkit, qemu-nbd, nbd-server) as plain mirrors.
 */
import { truncateSync, writeFileSync } from 'node:fs';
import { connect as connectSocket, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { BlockferryError } from '../../../src/io/errors.ts';
import { LINK_LANES_MS_MAX, LINKS_HALF_OPEN_MAX } from '../../../src/io/limits.ts';
import type { NbdClient } from '../../../src/nbd/client/client.ts';
import { parseNbdUri } from '../../../src/nbd/uri/uri.ts';
import type { ConnectedPeer } from '../../../src/replicator/link/connect-peer.ts';
import {
  decodeWelcome,
  encodeHello,
  encodeWelcome,
  type ControlMessage,
  type Hello,
} from '../../../src/replicator/link/messages.ts';
import { open, Wire } from '../../nbd-client/support/fake-server.ts';
import { flush, read, write } from '../../nbd-client/support/calls.ts';
import { nbdkit, nbdServer, qemuNbd } from '../../nbd-client/support/real-servers.ts';
import type { Scope } from '../../support/scope.ts';
import { requireTools, testScope } from '../../support/tools.ts';
import { waitUntil } from '../../support/wait.ts';
import {
  connect,
  connectLink,
  FACTS,
  HandshakeNode,
  Heard,
  HELLO,
  ID,
  MIB,
} from './support/handshake-node.ts';

const PRIVATE = 0x62660001;
/** Long before anything times out. */
const SOON = { timeoutMs: LINK_LANES_MS_MAX / 2 };
const COMMITTED: ControlMessage = { kind: 'run-committed', run: ID };
const ABORT: ControlMessage = { kind: 'run-abort', run: ID };

async function refusal(connecting: Promise<ConnectedPeer>): Promise<BlockferryError> {
  try {
    await connecting;
  } catch (error) {
    if (error instanceof BlockferryError) return error;
    throw error;
  }
  throw new Error('it was not refused');
}

/** Writes and reads back through a plain client. */
async function writesAndReads(client: NbdClient): Promise<void> {
  const bytes = Buffer.from('plain as ever'.repeat(100));
  expect(await write(client, bytes, 4096)).toBe(0);
  expect(await flush(client)).toBe(0);
  const back = Buffer.alloc(bytes.length);
  expect(await read(client, back, 4096)).toBe(0);
  expect(back.equals(bytes)).toBe(true);
}

const standing = (node: HandshakeNode, count = 1): Promise<unknown> =>
  waitUntil(`${count} links`, () => node.links.length === count);

it.each([1, 2, 16])('two nodes speak over %i lanes, both ways', async (lanes) => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const { link, welcome } = await connectLink(scope, node.uri(), { lanes });
  expect(welcome).toMatchObject({ ...FACTS, lanes });
  expect(link.laneCount).toBe(lanes);
  await standing(node);
  const [there] = node.links;
  expect(there?.hello).toEqual({ ...HELLO, lanes });
  expect(there?.link.laneCount).toBe(lanes);
  expect(node.asked.length).toBe(1);
  expect(node.acceptor.halfOpen).toBe(0);
  expect(node.server.counters).toMatchObject({ connections: lanes, handshakes: 0 });
  const [here, far] = [new Heard(), new Heard()];
  link.start(here);
  there?.link.start(far);
  link.sendControl(ABORT);
  there?.link.sendControl(COMMITTED);
  await waitUntil('the messages', () => here.controls.length + far.controls.length === 2);
  expect([here.controls, far.controls]).toEqual([[COMMITTED], [ABORT]]);
  link.end('enough');
  await waitUntil('both ends', () => here.error !== null && far.error !== null);
  await waitUntil('no connection', () => node.server.connections === 0);
});

it('what a node says at once, before the other side is ready, is heard', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const far = new Heard();
  node.judgement = () => ({
    kind: 'accept',
    welcome: FACTS,
    accepted: (link, hello) => {
      node.links.push({ link, hello });
      link.start(far);
      for (let count = 0; count < 100; count++) link.sendControl(COMMITTED);
    },
    abandoned: () => {},
  });
  const { link } = await connectLink(scope, node.uri(), { lanes: 2 });
  await standing(node);
  await new Promise((resolve) => setTimeout(resolve, 50));
  const here = new Heard();
  link.start(here);
  await waitUntil('the messages', () => here.controls.length === 100);
});

it('the mirror may want fewer lanes than it is offered', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  node.lanes = 3;
  const { link, welcome } = await connectLink(scope, node.uri(), { lanes: 16 });
  expect([welcome.lanes, link.laneCount]).toEqual([3, 3]);
  await standing(node);
  expect(node.server.connections).toBe(3);
});

it('a stranger hears the same whatever the reason, and the log has it', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const heard = new Set<string>();
  for (const reason of ['no such volume', 'it is no secondary', 'another node is expected']) {
    node.judgement = () => ({ kind: 'refuse', known: false, reason });
    const error = await refusal(connect(scope, node.uri(), {}, { peerOnly: true }));
    expect(error.code).toBe('MIRROR_REFUSED');
    heard.add(error.message);
    expect(node.log.some((line) => line.includes(reason))).toBe(true);
  }
  expect(heard.size).toBe(1);
  const [text] = heard;
  expect(text).toMatch(/expects no such mirror of this node \(it says: there is nothing here for/);
  // A lane of no link is one of them.
  const lane = { token: 'f'.repeat(32), index: 1 };
  const strayed = await refusal(connect(scope, node.uri(), { lane }, { peerOnly: true }));
  expect(strayed.message).toBe(text);
  expect(node.server.counters.denied).toBe(4);
});

it('a volume that is no mirror of another node is a plain one, on the same connection', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  node.judgement = () => ({ kind: 'refuse', known: false, reason: 'it is no secondary' });
  const found = await connect(scope, node.uri());
  if (found.kind !== 'plain') throw new Error('there is no link');
  await writesAndReads(found.client);
  expect(node.server.connections).toBe(1);
});

it('the rightful node hears why', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  node.judgement = () => ({ kind: 'refuse', known: true, reason: 'it has 2 MiB, the mirror 1' });
  const error = await refusal(connect(scope, node.uri()));
  expect(error.code).toBe('PEER_REFUSED');
  expect(error.message).toContain('it has 2 MiB, the mirror 1');
  await waitUntil('no connection', () => node.server.connections === 0);
});

it('another version is refused as such by the one side, and by the other', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const old = { version: 99 } as unknown as Partial<Hello>;
  const error = await refusal(connect(scope, node.uri(), old));
  expect(error.code).toBe('PEER_REFUSED');
  expect(error.message).toMatch(/version 99 of the link, this one version 1/);
  const reply = Buffer.from('81a776657273696f6e07', 'hex');
  const path = await answering(scope, (socket) => {
    socket.write(optionReply(PRIVATE, reply));
    socket.write(optionReply(1));
  });
  const other = await refusal(connect(scope, parseNbdUri(`nbd+unix:///d?socket=${path}`)));
  expect(other.code).toBe('PEER_VERSION');
});

it('both sides name their features; a node that knows of none is asked without', async () => {
  const scope = testScope();
  const features = ['snapshots', 'of-a-later-version'];
  const node = await HandshakeNode.start(scope);
  const { welcome } = await connectLink(scope, node.uri(), { features, lanes: 2 });
  expect(welcome.features).toContain('snapshots');
  expect(node.asked[0]?.hello.features).toEqual(features);
  const first = await HandshakeNode.start(scope);
  first.old = true;
  const plainly = await connectLink(scope, first.uri(), { features, lanes: 2 });
  expect(plainly.welcome.features).toBeUndefined();
  expect(plainly.link.laneCount).toBe(2);
  expect(first.asked.map(({ hello }) => hello)).toEqual([{ ...HELLO, lanes: 2 }]);
});

it.each([
  ['both know of XXH64', ['xxh64'], false],
  ['the primary does not', ['snapshots'], false],
  ['the mirror knows of no features', ['xxh64'], true],
])('what is said is proven, both ways, when %s', async (_, features, old) => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  node.old = old;
  const { link } = await connectLink(scope, node.uri(), { features, lanes: 2 });
  await standing(node);
  const [here, far] = [new Heard(), new Heard()];
  link.start(here);
  node.links[0]!.link.start(far);
  link.sendControl(ABORT);
  node.links[0]!.link.sendControl(COMMITTED);
  await waitUntil('the messages', () => here.controls.length + far.controls.length === 2);
  expect([here.error, far.error]).toEqual([null, null]);
});

it('a node without the option is a plain mirror, unless it must be a peer', async () => {
  const scope = testScope();
  const plain = await answering(scope, (socket) => socket.write(optionReply(0x80000001)));
  const uri = parseNbdUri(`nbd+unix:///d?socket=${plain}`);
  const error = await refusal(connect(scope, uri, {}, { peerOnly: true }));
  expect(error.code).toBe('MIRROR_REFUSED');
  expect(error.message).toMatch(/is not, or no more, a blockferry node/);
});

it('nbdkit goes on as a plain mirror on the same connection', async (context) => {
  requireTools(context, 'nbdkit');
  const scope = testScope();
  // It serves one connection, and none after it.
  const { uri, child } = await nbdkit(scope, ['--filter=exitlast'], ['memory', '1M']);
  const connected = await connect(scope, uri);
  if (connected.kind !== 'plain') throw new Error('nbdkit is no peer');
  await writesAndReads(connected.client);
  expect(child.running).toBe(true);
});

it('qemu-nbd goes on as a plain mirror', async (context) => {
  requireTools(context, 'qemu-nbd');
  const scope = testScope();
  const { uri } = await qemuNbd(scope, MIB, 'disk');
  const connected = await connect(scope, uri);
  if (connected.kind !== 'plain') throw new Error('qemu-nbd is no peer');
  await writesAndReads(connected.client);
});

it('nbd-server goes on as a plain mirror', async (context) => {
  requireTools(context, 'nbd-server');
  const scope = testScope();
  const image = join(scope.tempDir('bf-image-'), 'raw');
  writeFileSync(image, '');
  truncateSync(image, MIB);
  const { uri } = await nbdServer(scope, image, 'disk');
  const connected = await connect(scope, uri);
  if (connected.kind !== 'plain') throw new Error('nbd-server is no peer');
  await writesAndReads(connected.client);
});

it('a plain client of the node notices nothing', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  await writesAndReads(await open(scope, node.uri()));
  expect(node.asked).toEqual([]);
});

it.each([
  ['no msgpack', Buffer.from('hello'), 3],
  ['nothing', Buffer.alloc(0), 3],
  ['a hello that is cut', encodeHello(HELLO).subarray(0, -1), 3],
  ['64 KiB of lists', Buffer.alloc(65_536, 0x91), 3],
  ['an object that would be a function', Buffer.from('d4724091a16101', 'hex'), 3],
])('%s in the option is refused, and the handshake goes on', async (_what, data, type) => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const raw = await rawClient(scope, node);
  raw.ask(data);
  expect(await raw.reply()).toMatchObject({ type: 0x80000000 + type });
  raw.ask(encodeHello(HELLO));
  const { type: answer, payload } = await raw.reply();
  expect(answer).toBe(PRIVATE);
  expect(decodeWelcome(payload)).toMatchObject(FACTS);
  expect((await raw.reply()).type).toBe(1);
  await standing(node);
  expect(node.asked.length).toBe(1);
});

it('a lane needs the token, an index that is missing, the same node and volume', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const first = await rawClient(scope, node);
  first.ask(encodeHello({ ...HELLO, lanes: 3 }));
  const { token } = decodeWelcome((await first.reply()).payload);
  expect((await first.reply()).type).toBe(1);
  expect(node.acceptor.halfOpen).toBe(1);
  const other = await rawClient(scope, node);
  const wrong: Partial<Hello>[] = [
    { lane: { token: 'f'.repeat(32), index: 1 } },
    { lane: { token, index: 3 } },
    { lane: { token, index: 15 } },
    { lane: { token, index: 1 }, node: 'west' },
    { lane: { token, index: 1 }, volume: 'other' },
    { lane: { token, index: 1 }, volumeId: 'f'.repeat(32) },
  ];
  for (const change of wrong) {
    other.ask(encodeHello({ ...HELLO, lanes: 3, ...change }));
    const { type, payload } = await other.reply();
    expect([type, payload.toString()]).toEqual([0x80000006, 'there is nothing here for this node']);
  }
  const right = { ...HELLO, lanes: 3, lane: { token, index: 1 } };
  other.ask(encodeHello(right));
  expect((await other.reply()).type).toBe(PRIVATE);
  const again = await rawClient(scope, node);
  again.ask(encodeHello(right));
  expect((await again.reply()).type).toBe(0x80000006);
  expect(node.links).toEqual([]);
  again.ask(encodeHello({ ...right, lane: { token, index: 2 } }));
  expect((await again.reply()).type).toBe(PRIVATE);
  await standing(node);
  const late = await rawClient(scope, node);
  late.ask(encodeHello(right));
  expect((await late.reply()).type).toBe(0x80000006);
});

it('a lane that is lost while others are awaited ends them all', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const first = await rawClient(scope, node);
  first.ask(encodeHello({ ...HELLO, lanes: 3 }));
  const { token } = decodeWelcome((await first.reply()).payload);
  const second = await rawClient(scope, node);
  second.ask(encodeHello({ ...HELLO, lanes: 3, lane: { token, index: 2 } }));
  expect((await second.reply()).type).toBe(PRIVATE);
  first.socket.destroy();
  await waitUntil('the second to end', () => second.socket.closed || second.ended, SOON);
  expect(node.acceptor.halfOpen).toBe(0);
  expect(node.abandoned).toBeGreaterThan(0);
  await waitUntil('no connection', () => node.server.connections === 0);
  expect(node.links).toEqual([]);
});

it('a primary that begins anew ends what it began before', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const first = await rawClient(scope, node);
  first.ask(encodeHello({ ...HELLO, lanes: 2 }));
  expect((await first.reply()).type).toBe(PRIVATE);
  const { welcome } = await connectLink(scope, node.uri(), { lanes: 2 });
  await waitUntil('the first to end', () => first.socket.closed || first.ended, SOON);
  expect(welcome.lanes).toBe(2);
  await standing(node);
  expect(node.acceptor.halfOpen).toBe(0);
  expect(node.abandoned).toBeGreaterThan(0);
});

it('another node that is heard for the same volume ends nothing of it', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const first = await rawClient(scope, node);
  first.ask(encodeHello({ ...HELLO, lanes: 2 }));
  const { token } = decodeWelcome((await first.reply()).payload);
  const other = await rawClient(scope, node);
  other.ask(encodeHello({ ...HELLO, node: 'west', lanes: 2 }));
  expect((await other.reply()).type).toBe(PRIVATE);
  expect(node.acceptor.halfOpen).toBe(2);
  const second = await rawClient(scope, node);
  second.ask(encodeHello({ ...HELLO, lanes: 2, lane: { token, index: 1 } }));
  expect((await second.reply()).type).toBe(PRIVATE);
  await standing(node);
});

it('links that wait for lanes are bounded', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  for (let count = 0; count <= LINKS_HALF_OPEN_MAX; count++) {
    const raw = await rawClient(scope, node);
    raw.ask(encodeHello({ ...HELLO, volume: `v${count}`, lanes: 2 }));
    const { type } = await raw.reply();
    expect(type).toBe(count < LINKS_HALF_OPEN_MAX ? PRIVATE : 0x80000002);
  }
  expect(node.acceptor.halfOpen).toBe(LINKS_HALF_OPEN_MAX);
  node.acceptor.close();
  await waitUntil('no link', () => node.server.connections === 1);
  expect(node.acceptor.halfOpen).toBe(0);
  expect(node.abandoned).toBeGreaterThan(0);
});

it('a primary whose further lane is refused gets no link', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const token = 'a'.repeat(32);
  let asked = 0;
  const path = await answering(scope, (socket) => {
    asked += 1;
    if (asked > 2) return void socket.write(optionReply(0x80000006));
    const welcome = { ...FACTS, version: 1, token, lanes: 4 };
    socket.write(optionReply(PRIVATE, encodeWelcome(welcome)));
    socket.write(optionReply(1));
  });
  const uri = parseNbdUri(`nbd+unix:///d?socket=${path}`);
  const error = await refusal(connect(scope, uri, { lanes: 4 }));
  expect(error.code).toBe('MIRROR_REFUSED');
  expect(asked).toBe(4);
  await waitUntil('all to be closed', () => openSockets.every((socket) => socket.closed));
  expect(node.links).toEqual([]);
});

it('the end of the server ends links in order', async () => {
  const scope = testScope();
  const node = await HandshakeNode.start(scope);
  const { link } = await connectLink(scope, node.uri(), { lanes: 4 });
  await standing(node);
  const [here, far] = [new Heard(), new Heard()];
  link.start(here);
  node.links[0]?.link.start(far);
  await node.server.close();
  await waitUntil('both ends', () => here.error !== null && far.error !== null);
  expect(far.error?.message).toContain('the node is stopping');
  expect(node.server.connections).toBe(0);
});

// --- a server that says what the test wants, and a client that does ---

const optionReply = (type: number, data: Buffer = Buffer.alloc(0)): Buffer => {
  const header = Buffer.from(`0003e889045565a9${PRIVATE.toString(16)}`, 'hex');
  const rest = Buffer.alloc(8);
  rest.writeUInt32BE(type, 0);
  rest.writeUInt32BE(data.length, 4);
  return Buffer.concat([header, rest, data]);
};

const openSockets: Socket[] = [];

/** Greets, waits for the private option, and answers it. */
async function answering(scope: Scope, answer: (socket: Socket) => void): Promise<string> {
  const path = join(scope.tempDir('bf-answer-'), 's');
  openSockets.length = 0;
  const server = createServer((socket) => {
    openSockets.push(socket);
    socket.on('error', () => {});
    let bytes = 0;
    socket.on('data', (chunk: Buffer) => {
      const before = bytes;
      bytes += chunk.length;
      if (before < 20 && bytes >= 20) answer(socket);
    });
    socket.write(Buffer.from('4e42444d4147494349484156454f50540003', 'hex'));
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  scope.defer('stop answering', async () => {
    for (const socket of openSockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  });
  return path;
}

interface RawClient {
  readonly socket: Socket;
  readonly ended: boolean;
  ask(data: Buffer): void;
  reply(): Promise<{ type: number; payload: Buffer }>;
}

async function rawClient(scope: Scope, node: HandshakeNode): Promise<RawClient> {
  if (node.address.kind !== 'unix') throw new Error('over a unix socket');
  const socket = connectSocket(node.address.path);
  scope.defer('close the client', () => void socket.destroy());
  const wire = new Wire(socket);
  const state = { ended: false };
  socket.on('end', () => {
    state.ended = true;
  });
  await wire.take(18);
  socket.write(Buffer.from('00000003', 'hex'));
  return {
    socket,
    get ended() {
      return state.ended;
    },
    ask(data) {
      const header = Buffer.from(`49484156454f5054${PRIVATE.toString(16)}00000000`, 'hex');
      header.writeUInt32BE(data.length, 12);
      socket.write(Buffer.concat([header, data]));
    },
    async reply() {
      const header = await wire.take(20);
      expect(header.toString('hex', 0, 12)).toBe(`0003e889045565a9${PRIVATE.toString(16)}`);
      return { type: header.readUInt32BE(12), payload: await wire.take(header.readUInt32BE(16)) };
    },
  };
}
