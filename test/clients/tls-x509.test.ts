/*
 * Volumes over TLS with certificates. The clients check the server's; the server those of clients where
 * it is told to, and then an export can name the subjects that it is for. Data, maps and loads come through
 * as without TLS; whoever has the wrong CA, no certificate, an old version or no TLS at all is refused, and
 * nothing else suffers. New certificates come into force without a restart. Judges: libnbd and QEMU (both
 * GnuTLS), nbdkit as a proxy, nbd-client's listing, fio, cmp.
 */
import { randomBytes } from 'node:crypto';
import { copyFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { issue, makeCertificates, type Certificates } from '../support/certificates.ts';
import { fio } from '../support/fio.ts';
import { nbdinfoMap } from '../support/maps.ts';
import { listed, sizeOf } from '../support/nbdinfo.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run, start } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import { Scope } from '../support/scope.ts';
import { x509Qemu, x509Uri, type TlsTarget } from '../support/tls-clients.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const MIB = 1024 * 1024;

const shared = new Scope();
let ours: Certificates;
let strangers: Certificates;
beforeAll(() => {
  const dir = shared.tempDir('bf-ca-', tmpdir());
  ours = makeCertificates(join(dir, 'ours'));
  strangers = makeCertificates(join(dir, 'strangers'));
});
afterAll(async () => {
  await shared.close();
});

function serverFlags(mode: 'allowed' | 'required', certificates = ours): string[] {
  const { certificate, key } = certificates;
  return ['--tls', mode, '--tls-certificate', certificate, '--tls-key', key];
}

async function serve(
  scope: Scope,
  flags: readonly string[],
): Promise<{ node: TestNode; target: TlsTarget }> {
  const node = await startNode(scope, { name: 'alpha', nbd: ['127.0.0.1:0'], flags });
  await node.createVolume('disk', '64M');
  const port = (await node.tcpAddress()).split(':')[1];
  return { node, target: { address: `localhost:${port}`, export: 'disk' } };
}

async function refused(command: string, ...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run(command, args, { allowFailure: true });
  if (code === 0) throw new Error(`was not refused: ${command} ${args.join(' ')}\n${stdout}`);
  return stderr;
}

/** nbdkit in front, which speaks TLS to us and none to its clients. */
async function proxy(scope: Scope, target: TlsTarget, directory: string): Promise<string> {
  const socket = join(scope.tempDir(), 'proxy.sock');
  const [host = '', port = ''] = target.address.split(':');
  const upstream = [`hostname=${host}`, `port=${port}`, `export=${target.export}`];
  const tls = ['tls=require', `tls-certificates=${directory}`];
  start(scope, 'nbdkit', ['-f', '-U', socket, 'nbd', ...upstream, ...tls]);
  const uri = `nbd+unix:///?socket=${socket}`;
  await waitUntil('nbdkit', async () => (await run('nbdinfo', ['--size', uri])).code === 0);
  return uri;
}

describe('a client that trusts the CA of the server', () => {
  it('copies, maps and verifies as without TLS', async (context) => {
    requireTools(context, 'nbdinfo', 'nbdcopy', 'fio', 'openssl');
    const scope = testScope();
    const { node, target } = await serve(scope, serverFlags('required'));
    const uri = x509Uri(target, ours.anonymous);
    const { stdout } = await run('nbdinfo', ['--json', uri]);
    expect(JSON.parse(stdout)).toMatchObject({ TLS: true, structured: true });

    const dir = scope.tempDir();
    const [image, back] = [join(dir, 'image'), join(dir, 'back')];
    writeFileSync(image, Buffer.concat([randomBytes(20 * MIB), Buffer.alloc(44 * MIB)]));
    const copy = ['--connections=4', '--threads=4', '--flush'];
    await run('nbdcopy', [...copy, image, uri]);
    await run('nbdcopy', [...copy, uri, back]);
    await run('cmp', [image, back]);
    expect(await nbdinfoMap(uri)).toEqual([
      { start: 0, length: 20 * MIB, flags: 0 },
      { start: 20 * MIB, length: 44 * MIB, flags: 3 },
    ]);

    await node.stop();
  });

  it.for(['TLS1.2', 'TLS1.3'])('uses QEMU over %s', async (version, context) => {
    requireTools(context, 'qemu-io', 'qemu-img', 'openssl');
    const { target } = await serve(testScope(), serverFlags('allowed'));
    const priority = `NORMAL:-VERS-ALL:+VERS-${version}`;
    await qemuIo(x509Qemu(target, ours.anonymous, priority), [
      'write -P 1 511 65538',
      'write -f -P 2 1M 33M',
      'write -z -u 2M 1M',
      'discard 4M 1M',
      'flush',
      'read -P 1 511 65538',
      'read -P 2 1M 1M',
      'read -P 0 2M 1M',
      'read -P 2 3M 1M',
      'read -P 0 4M 1M',
      'read -P 2 5M 29M',
    ]);
  });

  it('is refused with a version from before TLS 1.2', async (context) => {
    requireTools(context, 'qemu-io', 'openssl');
    const { node, target } = await serve(testScope(), serverFlags('allowed'));
    const priority = 'NORMAL:-VERS-ALL:+VERS-TLS1.1';
    const commands = qemuIo(x509Qemu(target, ours.anonymous, priority), ['read 0 512']);
    await expect(commands).rejects.toThrow(/TLS/);
    await run('nbdinfo', ['--size', x509Uri(target, ours.anonymous)]);
    expect(node.log).toContain('unsupported protocol');
  });

  it('verifies four loads at once, through nbdkit that has a connection for each', async (context) => {
    requireTools(context, 'nbdkit', 'nbdinfo', 'fio', 'openssl');
    const scope = testScope();
    const { node, target } = await serve(scope, serverFlags('required'));
    const uri = await proxy(scope, target, ours.anonymous);
    const options = ['rw=randwrite', 'bsrange=512-512k', 'size=16m', 'iodepth=32'];
    const verify = ['numjobs=4', 'offset_increment=16m', 'verify=crc32c', 'verify_fatal=1'];
    const job = { uri, name: 'tls', options: [...options, ...verify], timeoutMs: 60_000 };
    const load = fio(job);
    const connected = waitUntil('four connections', async () => {
      return (await node.volume('disk')).connections >= 4;
    });
    await Promise.all([load, connected]);
    expect((await load).read.total_ios).toBeGreaterThan(100);
  });

  it('is served on a unix socket too', async (context) => {
    requireTools(context, 'nbdinfo', 'openssl');
    const { node } = await serve(testScope(), serverFlags('required'));
    const uri = `${node.uri('disk').replace('nbd+', 'nbds+')}&tls-certificates=${ours.anonymous}`;
    expect((await run('nbdinfo', ['--size', uri])).stdout.trim()).toBe(String(64 * MIB));
    await refused('nbdinfo', '--size', node.uri('disk'));
  });
});

describe('TLS that is required', () => {
  it('refuses clear text, and clients that do not know the CA, and serves on', async (context) => {
    requireTools(context, 'nbdinfo', 'nbd-client', 'qemu-img', 'openssl');
    const { node, target } = await serve(testScope(), serverFlags('required'));
    const clear = `nbd://${target.address}/disk`;
    expect(await refused('nbdinfo', clear)).toMatch(/not supported/); // libnbd's word for TLS_REQD
    await refused('nbdinfo', '--list', clear);
    expect(await refused('qemu-img', 'info', '-f', 'raw', clear)).toMatch(/TLS/i);
    const port = target.address.split(':')[1] ?? '';
    await refused('nbd-client', '-l', '127.0.0.1', port);

    const wrong = x509Uri(target, strangers.anonymous);
    expect(await refused('nbdinfo', '--size', wrong)).toMatch(/certificate/i);
    const otherHost = x509Uri({ ...target, address: `127.0.0.2:${port}` }, ours.anonymous);
    await refused('nbdinfo', '--size', otherHost);
    await run('nbdinfo', ['--size', x509Uri(target, ours.anonymous)]);
    await node.stop();
  });

  it('lists to nbd-client over TLS', async (context) => {
    requireTools(context, 'nbd-client', 'openssl');
    const { target } = await serve(testScope(), serverFlags('required'));
    const port = target.address.split(':')[1] ?? '';
    const tls = ['-x', '-A', ours.ca, '-H', 'localhost'];
    const { stdout } = await run('nbd-client', ['-l', '127.0.0.1', port, ...tls]);
    expect(stdout).toContain('disk');
  });

  it('is not there at a server without certificates', async (context) => {
    requireTools(context, 'nbdinfo', 'qemu-io', 'openssl');
    const { target } = await serve(testScope(), []);
    await refused('nbdinfo', x509Uri(target, ours.anonymous));
    await expect(qemuIo(x509Qemu(target, ours.anonymous), [])).rejects.toThrow(/TLS/);
    await run('nbdinfo', ['--size', `nbd://${target.address}/disk`]);
  });
});

function uriOf(target: TlsTarget, directory: string | null, name: string): string {
  if (directory === null) return `nbd://${target.address}/${encodeURIComponent(name)}`;
  return x509Uri({ ...target, export: name }, directory);
}

describe('certificates of clients', () => {
  it('open the exports that name their subjects, and no others', async (context) => {
    requireTools(context, 'nbdinfo', 'qemu-img', 'openssl');
    const scope = testScope();
    const config = join(scope.tempDir(), 'alpha.toml');
    writeFileSync(
      config,
      `[export."for host1"]\nsubjects = ["CN=host1"]\n
       [export.secret]\ntls = "required"\n
       [export.nobody]\nsubjects = ["CN=nobody"]\n`,
    );
    const flags = [...serverFlags('allowed'), '--tls-client-ca', ours.ca, '--config', config];
    const { node, target } = await serve(scope, flags);
    for (const name of ['for host1', 'secret', 'nobody']) await node.createVolume(name, '8M');
    const host1 = ours.directory;
    const host2 = scope.tempDir();
    const issued = issue(ours.directory, 'host2', { subject: '/O=x/CN=host2', use: 'client' });
    copyFileSync(ours.ca, join(host2, 'ca-cert.pem'));
    copyFileSync(issued.certificate, join(host2, 'client-cert.pem'));
    copyFileSync(issued.key, join(host2, 'client-key.pem'));
    const stranger = scope.tempDir();
    copyFileSync(ours.ca, join(stranger, 'ca-cert.pem'));
    copyFileSync(strangers.clientCertificate, join(stranger, 'client-cert.pem'));
    copyFileSync(strangers.clientKey, join(stranger, 'client-key.pem'));

    const table: Record<string, boolean[]> = {};
    for (const [who, directory] of [
      ['clear', null],
      ['anonymous', ours.anonymous],
      ['host1', host1],
      ['host2', host2],
      ['stranger', stranger],
    ] as const) {
      const row: boolean[] = [];
      for (const name of ['disk', 'secret', 'for host1', 'nobody']) {
        row.push((await sizeOf(uriOf(target, directory, name))) !== null);
      }
      table[who] = row;
    }
    expect(table).toEqual({
      clear: [true, false, false, false],
      anonymous: [true, true, false, false],
      host1: [true, true, true, false],
      host2: [true, true, false, false],
      stranger: [false, false, false, false],
    });

    const any = { ...target, export: '' };
    expect(await listed(`nbd://${target.address}`)).toEqual(['disk']);
    expect(await listed(x509Uri(any, ours.anonymous))).toEqual(['disk', 'secret']);
    expect(await listed(x509Uri(any, host1))).toEqual(['disk', 'for host1', 'secret']);
    await node.stop();
  });
});

const LIVING = `
import nbd, signal, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
h = nbd.NBD()
h.set_uri_allow_local_file(True)
h.connect_uri(sys.argv[1])
print("writes", flush=True)
count = 0
while not stop:
    count += 1
    h.pwrite(bytes([count % 256]) * 4096, 8192)
    assert h.pread(4096, 8192) == bytes([count % 256]) * 4096
    time.sleep(0.01)
h.pwrite(b"last", 0)
assert h.pread(4, 0) == b"last"
h.shutdown()
`;

it('new certificates are in force after a reload, and connections live on', async (context) => {
  requireTools(context, 'nbdinfo', 'python3-libnbd', 'openssl');
  const scope = testScope();
  const dir = scope.tempDir();
  const [certificate, key] = [join(dir, 'cert.pem'), join(dir, 'key.pem')];
  const install = (from: Certificates): void => {
    copyFileSync(from.certificate, certificate);
    copyFileSync(from.key, key);
  };
  install(ours);
  const { node, target } = await serve(
    scope,
    serverFlags('required', { ...ours, certificate, key }),
  );
  const [uri, later] = [ours, strangers].map((ca) => x509Uri(target, ca.anonymous)) as [
    string,
    string,
  ];
  // One client that was there before: its process writes and reads on over the same connection.
  const living = start(scope, '/usr/bin/python3', ['-c', LIVING, uri]);
  await waitUntil('the client', () => living.stdout.includes('writes'));
  install(strangers);
  node.process.signal('SIGHUP');
  await waitUntil('the new certificate', async () => {
    return (await sizeOf(later)) !== null;
  });
  await refused('nbdinfo', '--size', uri);
  expect(living.running).toBe(true);
  living.signal('SIGTERM');
  await waitUntil('the client to end', () => !living.running);
  expect(living.exitCode).toBe(0);

  // A certificate that cannot be loaded leaves the old one in force.
  writeFileSync(certificate, 'no certificate');
  const answer = await node.cli(['reload'], { allowFailure: true });
  expect(answer.code).toBe(1);
  await run('nbdinfo', ['--size', later]);
  await node.stop();
});
