/**
 * TLS and rules for exports as operators set them up and change them: a node in this process with a configuration
 * file, met by nbdinfo, with certificates and keys made for the purpose. What changes with a reload, what does
 * not, and that a reload which fails changes nothing.
 */
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, test, type TestContext } from 'vitest';
import type { NodeFacts, ReloadReport, VolumeStatus } from '../../src/control/status.ts';
import {
  issue,
  makeCertificates,
  makePskFile,
  type Certificates,
} from '../support/certificates.ts';
import { run, start } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { codeOf, startLocalNode, type LocalNode } from './fixture.ts';

const KEY = 'c0ffee'.repeat(8);

class Ground {
  readonly dir: string;
  readonly certificates: Certificates;
  readonly psk: string;
  readonly toml: string;
  port = 0;
  local: LocalNode | null = null;

  constructor(dir: string) {
    this.dir = dir;
    this.certificates = makeCertificates(join(dir, 'pki'));
    this.psk = makePskFile(join(dir, 'psk'), { ann: KEY });
    this.toml = join(dir, 'node.toml');
  }

  get node(): LocalNode {
    if (this.local === null) throw new Error('not started');
    return this.local;
  }

  /** `[tls]` with everything there is, between `top` and `rest`. */
  configure(mode: string, rest = '', top = ''): void {
    const tls = `[tls]\nmode = "${mode}"\ncertificate = "pki/server-cert.pem"\nkey = "pki/server-key.pem"`;
    writeFileSync(
      this.toml,
      `${top}\n${tls}\nclient_ca = "pki/ca-cert.pem"\npsk_file = "psk"\n${rest}`,
    );
  }

  async start(): Promise<void> {
    const flags = { config: this.toml, nbd: ['127.0.0.1:0'] };
    this.local = await startLocalNode(scope, { flags });
    const [address] = this.local.node.nbdAddresses;
    this.port = address?.kind === 'tcp' ? address.port : 0;
    await this.local.client.call<VolumeStatus>('POST', '/v1/volumes', { name: 'demo', size: '1M' });
  }

  x509(directory: string, name = 'demo'): string {
    return `nbds://localhost:${this.port}/${name}?tls-certificates=${directory}`;
  }

  keyed(user: string, file = this.psk): string {
    return `nbds://${user}@localhost:${this.port}/demo?tls-psk-file=${file}`;
  }

  clear(name = 'demo'): string {
    return `nbd://localhost:${this.port}/${name}`;
  }

  reload(): Promise<ReloadReport> {
    return this.node.client.call<ReloadReport>('POST', '/v1/reload');
  }
}

/** A client that connects, waits for a file, and reads. */
const HELD = `
import nbd, os, sys, time
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(sys.argv[1])
print("open", flush=True)
while not os.path.exists(sys.argv[2]): time.sleep(0.02)
h.pread(512, 0)
print("read", flush=True)
`;

let scope: ReturnType<typeof testScope>;
let ground: Ground;

beforeEach((context: TestContext) => {
  requireTools(context, 'nbdinfo', 'python3-libnbd', 'openssl');
  scope = testScope();
  ground = new Ground(scope.tempDir('bf-tls-'));
});

/** Whether nbdinfo can open the export. */
async function opens(uri: string): Promise<boolean> {
  const result = await run('nbdinfo', ['--size', uri], { allowFailure: true });
  return result.code === 0 && result.stdout.trim() === String(2 ** 20);
}

function kinds(): string[] {
  return ground.node.node.events.recent().map(({ kind }) => kind);
}

describe('a node with certificates and keys', () => {
  test('serves every kind of client, and clear ones as the mode says', async () => {
    const { certificates } = ground;
    const every = (): Promise<boolean[]> =>
      Promise.all([
        opens(ground.x509(certificates.directory)),
        opens(ground.x509(certificates.anonymous)),
        opens(ground.keyed('ann')),
        opens(ground.clear()),
      ]);
    ground.configure('allowed');
    await ground.start();
    expect(await every()).toEqual([true, true, true, true]);
    const connected = ground.node.lines.filter((line) => line.includes('client connected'));
    const who = connected.map((line) => (JSON.parse(line) as { tls?: string }).tls);
    expect(new Set(who)).toEqual(new Set(['anonymous', 'psk:ann', 'x509:CN=host1', undefined]));
    ground.configure('required');
    await ground.reload();
    expect(await every()).toEqual([true, true, true, false]);
    expect(await ground.node.client.call<NodeFacts>('GET', '/v1/node')).toMatchObject({
      tls: 'required',
    });
    ground.configure('off');
    await ground.reload();
    expect(await every()).toEqual([false, false, false, true]);
  });

  test('keeps exports for those that are named', async () => {
    ground.configure('allowed', '[export.demo]\nsubjects = ["CN=host1", "psk:ann"]');
    await ground.start();
    const { directory, anonymous } = ground.certificates;
    expect(await opens(ground.x509(directory))).toBe(true);
    expect(await opens(ground.keyed('ann'))).toBe(true);
    expect(await opens(ground.x509(anonymous))).toBe(false);
    expect(await opens(ground.clear())).toBe(false);
    issue(directory, 'client', { subject: '/CN=host2', use: 'client' });
    expect(await opens(ground.x509(directory))).toBe(false);
    const facts = await ground.node.client.call<NodeFacts>('GET', '/v1/node');
    expect(facts.clients.denied).toBeGreaterThanOrEqual(2);
    const denied = ground.node.lines.filter((line) => line.includes('export denied'));
    expect(denied.some((line) => line.includes('host2'))).toBe(true);
    const volume = await ground.node.client.call<VolumeStatus>('GET', '/v1/volumes/demo');
    expect(volume.access).toEqual({ read_only: false, hidden: false, tls: 'required' });
  });

  test('that has none of them does not start', async () => {
    ground.configure('allowed');
    writeFileSync(ground.certificates.certificate, 'nothing');
    expect(await codeOf(ground.start())).toBe('TLS_INVALID');
  });
});

describe('a reload', () => {
  test('brings new certificates and keys to new clients; old ones go on', async () => {
    ground.configure('required');
    await ground.start();
    const go = join(ground.dir, 'go');
    const uri = ground.x509(ground.certificates.directory);
    const held = start(scope, '/usr/bin/python3', ['-c', HELD, uri, go]);
    await waitUntil('the client to be in', () => held.stdout.includes('open'));
    const next = makeCertificates(join(ground.dir, 'next'));
    for (const name of ['ca-cert.pem', 'server-cert.pem', 'server-key.pem']) {
      copyFileSync(join(next.directory, name), join(ground.certificates.directory, name));
    }
    const other = makePskFile(join(ground.dir, 'other'), { bob: KEY });
    copyFileSync(other, ground.psk);
    expect(await opens(ground.x509(next.directory))).toBe(false);
    expect(await ground.reload()).toEqual({ reloaded: true, restart_needed: [] });
    expect(await opens(ground.x509(next.directory))).toBe(true);
    expect(await opens(ground.x509(ground.certificates.anonymous))).toBe(false);
    expect(await opens(ground.keyed('bob', other))).toBe(true);
    writeFileSync(go, '');
    expect(await held.waitForExit(10_000)).toBe(true);
    expect(held.stdout).toContain('read');
    expect(kinds()).toContain('node-reloaded');
  });

  test.each<[string, (ground: Ground) => void, string]>([
    [
      'a broken certificate',
      (place) => {
        place.configure('allowed');
        writeFileSync(place.certificates.certificate, '');
      },
      'TLS_INVALID',
    ],
    [
      'a wrong key',
      (place) => {
        place.configure('allowed');
        copyFileSync(place.certificates.clientKey, place.certificates.key);
      },
      'TLS_INVALID',
    ],
    ['a file that is no TOML', ({ toml }) => writeFileSync(toml, '='), 'CONFIG_INVALID'],
    [
      'an unknown key',
      (place) => place.configure('off', '[export.demo]\nreadonly = true'),
      'CONFIG_INVALID',
    ],
  ])('with %s changes nothing, and says so', async (_what, spoil, code) => {
    ground.configure('required', '[export.demo]\nread_only = true');
    await ground.start();
    spoil(ground);
    expect(await codeOf(ground.reload())).toBe(code);
    expect(await opens(ground.keyed('ann'))).toBe(true);
    expect(await opens(ground.clear())).toBe(false);
    expect(kinds().at(-1)).toBe('reload-failed');
    const volume = await ground.node.client.call<VolumeStatus>('GET', '/v1/volumes/demo');
    expect(volume.access).toEqual({ read_only: true, hidden: false, tls: 'required' });
  });

  test('changes the rules for exports, and names what waits for a restart', async () => {
    ground.configure('allowed');
    await ground.start();
    const readOnly = async (): Promise<string> =>
      (await run('nbdinfo', ['--json', ground.clear()])).stdout;
    expect(await readOnly()).toContain('"is_read_only": false');
    ground.configure(
      'allowed',
      '[export."*"]\nread_only = true\n[limits]\nconnections = 7',
      'list = false\nlog_level = "warn"',
    );
    expect((await ground.reload()).restart_needed).toEqual(['log_level', 'limits']);
    expect(await readOnly()).toContain('"is_read_only": true');
    const list = await run('nbdinfo', ['--list', ground.clear('')], { allowFailure: true });
    expect(list.code).not.toBe(0);
    expect(await opens(ground.clear(''))).toBe(false);
  });
});
