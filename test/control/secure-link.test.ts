/**
 * Links between two nodes under TLS, as the configuration files of both say: who is let in, by certificate and by key, and
 * that a reload changes it. Real nodes in this process; certificates of the node host1 made for the purpose.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import type { VolumeStatus } from '../../src/control/status.ts';
import { makeCertificates, makePskFile, type Certificates } from '../support/certificates.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

const KEY = 'c0ffee'.repeat(8);

let scope: Scope;
let dir: string;
let pki: Certificates;

beforeEach((context) => {
  requireTools(context, 'openssl');
  scope = testScope();
  dir = scope.tempDir('bf-secure-');
  pki = makeCertificates(join(dir, 'pki'));
});

/** Node beta with a mirror for node host1; everybody has to encrypt. Its port. */
async function beta(tls: string): Promise<number> {
  const config = join(dir, 'beta.toml');
  writeFileSync(config, `[tls]\nmode = "required"\n${tls}`);
  const flags = { config, name: 'beta', nbd: ['127.0.0.1:0'] };
  const { node, client } = await startLocalNode(scope, { flags });
  const copy = { name: 'copy', size: '4M', mirror_of: 'host1' };
  await client.call('POST', '/v1/volumes', copy);
  const [address] = node.nbdAddresses;
  return address?.kind === 'tcp' ? address.port : 0;
}

interface Primary extends LocalNode {
  readonly toml: string;
  add(uri: string): Promise<string>;
}

async function primary(name: string, tlsClient: string): Promise<Primary> {
  const toml = join(dir, `${name}.toml`);
  writeFileSync(toml, tlsClient);
  const local = await startLocalNode(scope, { flags: { config: toml, name } });
  await local.client.call('POST', '/v1/volumes', { name: 'demo', size: '4M' });
  const add = (uri: string): Promise<string> =>
    codeOf(local.client.call('POST', '/v1/volumes/demo/mirrors', { uri }));
  return { ...local, toml, add };
}

async function streams({ client }: LocalNode): Promise<void> {
  await waitUntil('the mirror to stream', async () => {
    const { mirrors } = await client.call<VolumeStatus>('GET', '/v1/volumes/demo');
    return mirrors[0]?.state === 'streaming' && mirrors[0].kind === 'blockferry';
  });
}

const x509Server = (): string =>
  `certificate = "${pki.certificate}"\nkey = "${pki.key}"\nclient_ca = "${pki.ca}"\n`;
const x509Client = (): string =>
  `[tls_client]\nca = "${pki.ca}"\ncertificate = "${pki.clientCertificate}"\nkey = "${pki.clientKey}"\n`;

describe('a link with certificates', () => {
  test('stands for the node that its certificate names', async () => {
    const port = await beta(x509Server());
    const host1 = await primary('host1', x509Client());
    expect(await host1.add(`nbd://localhost:${port}/copy`)).not.toBe('accepted');
    expect(await host1.add(`nbds://localhost:${port}/copy`)).toBe('accepted');
    await streams(host1);
  });

  test('is refused to a node that has the name, and no certificate of it', async () => {
    const port = await beta(x509Server());
    const host1 = await primary('host1', `[tls_client]\nca = "${pki.ca}"\n`);
    expect(await host1.add(`nbds://localhost:${port}/copy`)).toBe('MIRROR_REFUSED');
  });

  test('is refused to another node, whatever its certificate says', async () => {
    const port = await beta(x509Server());
    const other = await primary('other', x509Client());
    expect(await other.add(`nbds://localhost:${port}/copy`)).toBe('MIRROR_REFUSED');
  });

  test('begins after a reload that brought the files', async () => {
    const port = await beta(x509Server());
    const host1 = await primary('host1', '');
    const uri = `nbds://localhost:${port}/copy`;
    expect(await host1.add(uri)).not.toBe('accepted');
    writeFileSync(host1.toml, '[tls_client]\nca = "/nowhere"\n');
    expect(await codeOf(host1.client.call('POST', '/v1/reload'))).toBe('TLS_INVALID');
    writeFileSync(host1.toml, x509Client());
    await host1.client.call('POST', '/v1/reload');
    expect(await host1.add(uri)).toBe('accepted');
    await streams(host1);
  });
});

describe('a link with pre-shared keys', () => {
  test('stands for the user with the name of the node, and nobody else', async () => {
    const keys = makePskFile(join(dir, 'psk'), { host1: KEY, eve: KEY });
    const port = await beta(`psk_file = "${keys}"\n`);
    const host1 = await primary('host1', `[tls_client]\npsk_file = "${keys}"\n`);
    expect(await host1.add(`nbds://eve@localhost:${port}/copy`)).toBe('MIRROR_REFUSED');
    expect(await host1.add(`nbds://host1@localhost:${port}/copy`)).toBe('accepted');
    await streams(host1);
  });
});
