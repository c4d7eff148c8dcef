/*
 * Volumes over TLS with pre-shared keys that psktool made. Whoever has the key of a user comes in, over
 * both versions of TLS; a wrong key, an unknown user and clear text are refused; an export can be for some
 * users only; keys and certificates work side by side; a reload takes a user away. Judges: libnbd and QEMU
 * (both GnuTLS), nbdkit as a proxy, cmp.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { makeCertificates } from '../support/certificates.ts';
import { sizeOf } from '../support/nbdinfo.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run, start } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import type { Scope } from '../support/scope.ts';
import { pskQemu, pskUri, x509Uri, type TlsTarget } from '../support/tls-clients.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const MIB = 1024 * 1024;

interface World {
  readonly node: TestNode;
  readonly target: TlsTarget;
  /** The file of keys, alone in its directory, under the name that QEMU looks for. */
  readonly keys: string;
  readonly directory: string;
}

async function psktool(file: string, user: string): Promise<void> {
  await run('psktool', ['-u', user, '-p', file]);
}

async function serve(
  scope: Scope,
  users: readonly string[],
  flags: readonly string[],
): Promise<World> {
  const directory = scope.tempDir('bf-psk-');
  const keys = join(directory, 'keys.psk');
  for (const user of users) await psktool(keys, user);
  const node = await startNode(scope, {
    name: 'alpha',
    nbd: ['127.0.0.1:0'],
    flags: ['--tls-psk', keys, ...flags],
  });
  await node.createVolume('disk', '64M');
  return { node, keys, directory, target: { address: await node.tcpAddress(), export: 'disk' } };
}

async function opens(uri: string): Promise<boolean> {
  return (await sizeOf(uri)) !== null;
}

/** Certificates are for a name. */
const byName = (target: TlsTarget): TlsTarget => ({
  ...target,
  address: target.address.replace('127.0.0.1', 'localhost'),
});

it('copies with the key of a user', async (context) => {
  requireTools(context, 'psktool', 'nbdinfo', 'nbdcopy');
  const scope = testScope();
  const { target, keys } = await serve(scope, ['alice', 'bob'], ['--tls', 'required']);
  const dir = scope.tempDir();
  const [image, back] = [join(dir, 'image'), join(dir, 'back')];
  writeFileSync(image, Buffer.concat([randomBytes(8 * MIB), Buffer.alloc(56 * MIB)]));
  const copy = ['--connections=4', '--threads=4', '--flush'];
  await run('nbdcopy', [...copy, image, pskUri(target, 'alice', keys)]);
  await run('nbdcopy', [...copy, pskUri(target, 'bob', keys), back]);
  await run('cmp', [image, back]);
});

it.for(['TLS1.2', 'TLS1.3'])('serves QEMU over %s', async (version, context) => {
  requireTools(context, 'psktool', 'qemu-io');
  const { target, directory } = await serve(testScope(), ['alice'], ['--tls', 'required']);
  const priority = `NORMAL:-VERS-ALL:+VERS-${version}`;
  await qemuIo(pskQemu(target, 'alice', directory, priority), [
    'write -P 1 4095 3M',
    'write -z 1M 1M',
    'flush',
    'read -P 1 4095 512k',
    'read -P 0 1M 1M',
  ]);
});

it('serves nbdkit as a proxy', async (context) => {
  requireTools(context, 'psktool', 'nbdkit', 'nbdinfo', 'qemu-io');
  const scope = testScope();
  const { target, keys } = await serve(scope, ['alice'], ['--tls', 'required']);
  const socket = join(scope.tempDir(), 'proxy.sock');
  const port = target.address.split(':')[1] ?? '';
  const upstream = ['hostname=127.0.0.1', `port=${port}`, 'export=disk'];
  const tls = ['tls=require', `tls-psk=${keys}`, 'tls-username=alice'];
  start(scope, 'nbdkit', ['-f', '-U', socket, 'nbd', ...upstream, ...tls]);
  const uri = `nbd+unix:///?socket=${socket}`;
  await waitUntil('nbdkit', async () => await opens(uri));
  await qemuIo(uri, ['write -P 5 1000 3M', 'flush', 'read -P 5 1000 3M', 'read -P 0 4M 60M']);
});

it('refuses wrong keys, unknown users and clear text, and serves on', async (context) => {
  requireTools(context, 'psktool', 'nbdinfo');
  const scope = testScope();
  const { node, target, keys } = await serve(scope, ['alice'], ['--tls', 'required']);
  const others = join(scope.tempDir(), 'others.psk');
  await psktool(others, 'alice');
  await psktool(others, 'mallory');
  expect(await opens(pskUri(target, 'alice', others))).toBe(false);
  expect(await opens(pskUri(target, 'mallory', others))).toBe(false);
  expect(await opens(`nbd://${target.address}/disk`)).toBe(false);
  expect(await opens(pskUri(target, 'alice', keys))).toBe(true);
  expect(node.log).not.toContain(readFileSync(keys, 'utf8').trim().split(':')[1] ?? '');
  await node.stop();
});

it('has exports for some users, and certificates beside keys', async (context) => {
  requireTools(context, 'psktool', 'nbdinfo', 'openssl');
  const scope = testScope();
  const certificates = makeCertificates(join(scope.tempDir(), 'ca'));
  const config = join(scope.tempDir(), 'alpha.toml');
  writeFileSync(config, '[export.hers]\nsubjects = ["psk:alice"]\n');
  const { certificate, key } = certificates;
  const x509 = ['--tls-certificate', certificate, '--tls-key', key];
  const world = await serve(scope, ['alice', 'bob'], [...x509, '--config', config]);
  await world.node.createVolume('hers', '8M');
  const hers = { ...world.target, export: 'hers' };
  expect(await opens(pskUri(hers, 'alice', world.keys))).toBe(true);
  expect(await opens(pskUri(hers, 'bob', world.keys))).toBe(false);
  expect(await opens(`nbd://${hers.address}/hers`)).toBe(false);
  expect(await opens(x509Uri(byName(hers), certificates.anonymous))).toBe(false);
  for (const uri of [
    pskUri(world.target, 'bob', world.keys),
    x509Uri(byName(world.target), certificates.anonymous),
    `nbd://${hers.address}/disk`,
  ]) {
    expect(await opens(uri)).toBe(true);
  }
});

it('a user that a reload took away does not come back', async (context) => {
  requireTools(context, 'psktool', 'nbdinfo');
  const scope = testScope();
  const { node, target, keys } = await serve(scope, ['alice', 'bob'], ['--tls', 'required']);
  const before = join(scope.tempDir(), 'before');
  mkdirSync(before);
  const all = readFileSync(keys, 'utf8');
  writeFileSync(join(before, 'keys.psk'), all, { mode: 0o600 });
  const old = join(before, 'keys.psk');
  expect(await opens(pskUri(target, 'bob', old))).toBe(true);
  writeFileSync(keys, `${all.split('\n').find((line) => line.startsWith('alice:'))}\n`);
  await node.cli(['reload']);
  expect(await opens(pskUri(target, 'bob', old))).toBe(false);
  expect(await opens(pskUri(target, 'alice', old))).toBe(true);
  await node.stop();
});
