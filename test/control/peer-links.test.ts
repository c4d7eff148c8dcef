/**
 * Who may begin a link, and what those who may not can learn: a real node, asked by hand over its unix socket with the
 * private option of the NBD handshake. The bytes of its answers are held against each other.
 */
import { once } from 'node:events';
import { connect } from 'node:net';
import { describe, expect, test } from 'vitest';
import { PeerLinks, type LinkTarget } from '../../src/control/exports/peer-links.ts';
import type { TlsPeer } from '../../src/io/network.ts';
import type { ClientFacts } from '../../src/nbd/server/server.ts';
import { encodeHello, LINK_VERSION, type Hello } from '../../src/replicator/link/messages.ts';
import type { Scope } from '../support/scope.ts';
import { testScope } from '../support/tools.ts';
import { startLocalNode, type LocalNode } from './fixture.ts';

const ID = 'a'.repeat(32);
const SIZE = 4 * 2 ** 20;
const OPT_PRIVATE = 0x62660001;
const REP_ERR_UNKNOWN = 0x80000006;
const REP_ERR_POLICY = 0x80000002;

function hello(changes: Partial<Hello> = {}): Hello {
  return {
    version: LINK_VERSION,
    node: 'alpha',
    volume: 'copy',
    volumeId: ID,
    sizeBytes: SIZE,
    generations: [{ number: 1, id: 'b'.repeat(32), firstEpoch: 1 }],
    epoch: 0,
    lane: null,
    lanes: 1,
    ...changes,
  };
}

/** The whole answer to the private option, as bytes: type and text of the first reply are taken out of it. */
async function ask(scope: Scope, node: LocalNode, data: Buffer) {
  const address = node.config.nbd[0]?.address;
  if (address?.kind !== 'unix') throw new Error('a unix socket');
  const socket = connect(address.path);
  scope.defer('end the client', () => void socket.destroy());
  await once(socket, 'connect');
  let got = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    got = Buffer.concat([got, chunk]);
  });
  const option = Buffer.alloc(4 + 16);
  option.writeUInt32BE(3, 0);
  option.write('IHAVEOPT', 4);
  option.writeUInt32BE(OPT_PRIVATE, 12);
  option.writeUInt32BE(data.length, 16);
  socket.write(Buffer.concat([option, data]));
  while (got.length < 18 + 20 || got.length < 18 + 20 + got.readUInt32BE(18 + 16)) {
    await once(socket, 'data');
  }
  const reply = got.subarray(18, 18 + 20 + got.readUInt32BE(18 + 16));
  return { reply, type: reply.readUInt32BE(12), text: reply.subarray(20).toString('utf8') };
}

async function beta(scope: Scope): Promise<LocalNode> {
  const node = await startLocalNode(scope, { flags: { name: 'beta' } });
  const create = (body: object): Promise<unknown> => node.client.call('POST', '/v1/volumes', body);
  await create({ name: 'copy', size: '4M', mirror_of: 'alpha' });
  await create({ name: 'plain', size: '4M' });
  return node;
}

describe('a stranger', () => {
  test('hears the same, whatever is there', async () => {
    const scope = testScope();
    const node = await beta(scope);
    const strange: Partial<Hello>[] = [
      { volume: 'nothing' },
      { volume: 'plain' },
      { volume: 'copy@snapshot' },
      { node: 'eve' },
      { node: 'beta' },
      { node: 'Alpha' },
      { node: 'eve', sizeBytes: SIZE * 2 },
      { lane: { token: 'c'.repeat(32), index: 1 }, lanes: 2 },
    ];
    const answers = [];
    for (const changes of strange)
      answers.push(await ask(scope, node, encodeHello(hello(changes))));
    for (const [index, { type, reply }] of answers.entries()) {
      expect(type, JSON.stringify(strange[index])).toBe(REP_ERR_UNKNOWN);
      expect(reply.equals(answers[0]?.reply ?? Buffer.alloc(0))).toBe(true);
    }
    const status = await node.client.call<object>('GET', '/v1/volumes/copy');
    expect(status).toMatchObject({ source: { state: 'waiting', volume_id: null } });
  });

  test('is told of in the log, with the reason', async () => {
    const scope = testScope();
    const node = await beta(scope);
    await ask(scope, node, encodeHello(hello({ node: 'eve' })));
    await ask(scope, node, encodeHello(hello({ volume: 'plain' })));
    const log = node.lines.join('');
    expect(log).toMatch(/mirror of node alpha, not eve/);
    expect(log).toMatch(/it is no secondary, and of another descent/);
  });
});

test('the rightful node hears why not', async () => {
  const scope = testScope();
  const node = await beta(scope);
  const { type, text } = await ask(scope, node, encodeHello(hello({ sizeBytes: SIZE * 2 })));
  expect(type).toBe(REP_ERR_POLICY);
  expect(text).toMatch(/copy: it has 4194304 bytes and the primary 8388608/);
});

describe('the judge', () => {
  const welcomed: string[] = [];
  const target = {
    judge: () => {
      welcomed.push('asked');
      return { kind: 'refused', text: 'asked' };
    },
    attach: () => undefined,
  } as unknown as LinkTarget;

  function judge(tls: TlsPeer | null, options: { proof: boolean; denied?: string }) {
    const links = new PeerLinks({
      find: (volume) => (volume === 'copy' ? target : null),
      whyDenied: () => options.denied ?? null,
      asksProof: () => options.proof,
    });
    const client: ClientFacts = { ip: '127.0.0.1', tls };
    const judgement = links.judge(hello(), client);
    return judgement.kind === 'refuse' ? [judgement.known, judgement.reason] : ['accepted'];
  }

  const asked = [true, 'asked'];
  const unproven = [false, 'TLS does not prove that it is alpha'];

  test.each<[string, TlsPeer | null, unknown[]]>([
    ['its certificate', { kind: 'x509', identity: 'CN=alpha,O=x' }, asked],
    ['its key', { kind: 'psk', identity: 'alpha' }, asked],
    ['the certificate of another', { kind: 'x509', identity: 'CN=eve' }, unproven],
    ['a subject that only holds the name', { kind: 'x509', identity: 'O=alpha' }, unproven],
    ['the key of another', { kind: 'psk', identity: 'eve' }, unproven],
    ['nothing, over TLS', { kind: 'anonymous', identity: '' }, unproven],
    ['nothing, in clear', null, unproven],
  ])('wants proof where clients can give it: %s', (_what, tls, expected) => {
    expect(judge(tls, { proof: true })).toEqual(expected);
  });

  test('takes the name for it where they cannot', () => {
    expect(judge(null, { proof: false })).toEqual(asked);
    expect(judge({ kind: 'anonymous', identity: '' }, { proof: false })).toEqual(asked);
  });

  test('asks nobody whom the rules for the export keep out', () => {
    welcomed.length = 0;
    const tls: TlsPeer = { kind: 'psk', identity: 'alpha' };
    expect(judge(tls, { proof: true, denied: 'not among its addresses' })).toEqual([
      false,
      'not among its addresses',
    ]);
    expect(welcomed).toEqual([]);
  });
});
