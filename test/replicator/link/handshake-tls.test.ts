/**
 * A link over TLS: the mirror knows its primary by what TLS proved, on every lane. Method: a real server with certificates and
 * keys, real sockets, and a primary that is who it says, or is not.
 */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { TlsPeer } from '../../../src/io/network.ts';
import { loadTlsServerContext } from '../../../src/io/tls/tls.ts';
import { loadTlsClientContext, tlsClientDirectory } from '../../../src/io/tls/tls-client.ts';
import { parseNbdUri } from '../../../src/nbd/uri/uri.ts';
import { decodeWelcome, encodeHello, type Hello } from '../../../src/replicator/link/messages.ts';
import { provesNode } from '../../../src/replicator/link/node-identity.ts';
import { rejection } from '../../nbd-client/support/calls.ts';
import { makeCertificates, makePskFile } from '../../support/certificates.ts';
import type { Scope } from '../../support/scope.ts';
import { testScope } from '../../support/tools.ts';
import { waitUntil } from '../../support/wait.ts';
import { connect, connectLink, HandshakeNode, Heard, HELLO } from './support/handshake-node.ts';

/** A mirror that takes links of those nodes alone that prove their name. The client's certificate is for host1. */
async function secureNode(
  scope: Scope,
): Promise<{ node: HandshakeNode; directory: string; keys: string }> {
  const directory = scope.tempDir('bf-pki-');
  const made = makeCertificates(directory);
  const keys = makePskFile(join(scope.tempDir('bf-psk-'), 'keys.psk'), {
    north: 'ab'.repeat(32),
    west: 'cd'.repeat(32),
  });
  const context = loadTlsServerContext({
    certificate: made.certificate,
    key: made.key,
    clientCa: made.ca,
    pskFile: keys,
  });
  const node = await HandshakeNode.start(scope, { tls: { mode: 'required', context }, tcp: true });
  node.judgement = (hello, client) =>
    provesNode(client.tls, hello.node)
      ? node.welcome()
      : { kind: 'refuse', known: false, reason: 'it proves another name' };
  return { node, directory, keys };
}

it('carries frames for a primary that shows its certificate, or has its key', async () => {
  const scope = testScope();
  const { node, directory, keys } = await secureNode(scope);
  const byKey = parseNbdUri(
    node.uri(`tls-psk-file=${keys}`, 'nbds').text.replace('//', '//north@'),
  );
  const tls = loadTlsClientContext(tlsClientDirectory(directory));
  const links = [
    await connectLink(scope, node.uri('', 'nbds'), { node: 'host1', lanes: 4 }, { tls }),
    await connectLink(scope, byKey, { node: 'north', lanes: 4 }),
  ];
  await waitUntil('the links', () => node.links.length === 2);
  for (const [index, { link }] of links.entries()) {
    const [here, far] = [new Heard(), new Heard()];
    link.start(here);
    node.links[index]?.link.start(far);
    link.sendControl({ kind: 'run-abort', run: HELLO.volumeId });
    await waitUntil('the message', () => far.controls.length === 1);
  }
  expect(node.asked.map(({ client }) => client.tls)).toEqual([
    { kind: 'x509', identity: 'CN=host1' },
    { kind: 'psk', identity: 'north' },
  ]);
});

it('is refused to who proves another name, and to who shows nothing', async () => {
  const scope = testScope();
  const { node, directory } = await secureNode(scope);
  const uri = node.uri(`tls-certificates=${directory}`, 'nbds');
  const other = await rejection(connect(scope, uri, { node: 'north' }, { peerOnly: true }));
  expect(other.code).toBe('MIRROR_REFUSED');
  const anonymous = node.uri(`tls-certificates=${join(directory, 'anonymous')}`, 'nbds');
  const nobody = await rejection(connect(scope, anonymous, { node: 'host1' }, { peerOnly: true }));
  expect(nobody.code).toBe('MIRROR_REFUSED');
  const clear = await rejection(connect(scope, node.uri(), { node: 'host1' }));
  expect(clear.message).toMatch(/requires TLS: use nbds:/);
  expect(node.links).toEqual([]);
});

it('takes no lane of another client, although it shows the token', async () => {
  const { node } = await secureNode(testScope());
  const host1: TlsPeer = { kind: 'x509', identity: 'CN=host1' };
  const hello: Hello = { ...HELLO, node: 'host1', lanes: 2 };
  const first = node.acceptor.option(encodeHello(hello), { ip: '192.0.2.1', tls: host1 });
  if (first.kind !== 'accept') throw new Error('the first lane was refused');
  const { token } = decodeWelcome(first.reply);
  const further = (tls: TlsPeer | null): string =>
    node.acceptor.option(encodeHello({ ...hello, lane: { token, index: 1 } }), {
      ip: '192.0.2.2',
      tls,
    }).kind;
  expect(further(null)).toBe('refuse');
  expect(further({ kind: 'psk', identity: 'west' })).toBe('refuse');
  expect(further({ kind: 'psk', identity: 'CN=host1' })).toBe('refuse');
  expect(further({ kind: 'x509', identity: 'CN=host2' })).toBe('refuse');
  // Lanes may take different ways.
  expect(further(host1)).toBe('accept');
});

it.each([
  [null, false],
  [{ kind: 'anonymous', identity: '' }, false],
  [{ kind: 'anonymous', identity: 'north' }, false],
  [{ kind: 'psk', identity: 'north' }, true],
  [{ kind: 'psk', identity: 'North' }, false],
  [{ kind: 'psk', identity: 'CN=north' }, false],
  [{ kind: 'x509', identity: 'CN=north' }, true],
  [{ kind: 'x509', identity: 'CN=north,O=Example' }, true],
  [{ kind: 'x509', identity: 'CN=northern,O=Example' }, false],
  [{ kind: 'x509', identity: 'O=CN\\=north' }, false],
  [{ kind: 'x509', identity: 'CN=west,O=a\\,CN\\=north' }, false],
  [{ kind: 'x509', identity: '' }, false],
] as const)('%o proves to be north: %s', (client, proves) => {
  expect(provesNode(client, 'north')).toBe(proves);
});
