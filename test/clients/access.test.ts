/*
 * Who gets to see what: exports that are read only, hidden, for some addresses only; a node that lists
 * nothing; sockets with the rights that the configuration gives them; the default export. What is kept
 * from a client looks like what is not there. Judges: nbdinfo and qemu-io over IPv4, IPv6 and unix sockets,
 * and the system, which refuses another user the socket.
 */
import { chmodSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { tapNamespace } from '../support/namespace.ts';
import { listed, sizeOf } from '../support/nbdinfo.ts';
import { startNode, type NodeOptions, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import type { Scope } from '../support/scope.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';

const TCP = ['127.0.0.1:0', '[::1]:0'];

async function serve(
  scope: Scope,
  config: string,
  volumes: readonly string[],
  options: Partial<NodeOptions> = {},
): Promise<TestNode> {
  const file = join(scope.tempDir(), 'alpha.toml');
  writeFileSync(file, config);
  const flags = ['--config', file];
  const node = await startNode(scope, { name: 'alpha', nbd: TCP, flags, ...options });
  for (const volume of volumes) await node.createVolume(volume, '8M');
  return node;
}

async function uris(node: TestNode, name: string): Promise<Record<string, string>> {
  return {
    ipv4: `nbd://${await node.tcpAddress()}/${name}`,
    ipv6: `nbd://${await node.tcpAddress('[::1]')}/${name}`,
    unix: node.uri(name),
  };
}

it('a read-only export is read, never written', async (context) => {
  requireTools(context, 'nbdinfo', 'qemu-io', 'python3-libnbd');
  const node = await serve(testScope(), '[export.frozen]\nread_only = true\n', ['disk', 'frozen']);
  await run('nbdinfo', ['--is', 'read-only', node.uri('frozen')]);
  const can = await run('nbdinfo', ['--can', 'write', node.uri('frozen')], { allowFailure: true });
  expect(can.code).toBe(2);
  await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0 0 8M', node.uri('frozen')]);
  await expect(qemuIo(node.uri('frozen'), ['write 0 512'])).rejects.toThrow(
    /read.?only|permitted|denied/i,
  );
  await run('/usr/bin/python3', ['-c', WRITES_TO_READ_ONLY, node.uri('frozen')]);
  await qemuIo(node.uri('disk'), ['write -P 1 0 8M', 'read -P 1 0 8M']);
  await node.stop();
});

const WRITES_TO_READ_ONLY = `
import errno, nbd, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
for offset in (0, h.get_size(), 1 << 40):
    for call in (lambda: h.pwrite(b"x" * 512, offset), lambda: h.zero(512, offset), lambda: h.trim(512, offset)):
        try:
            call()
            raise AssertionError("no error")
        except nbd.Error as e:
            assert e.errnum == errno.EPERM, (offset, e.errnum)
assert h.pread(512, 0) == bytes(512)
h.flush()
h.shutdown()
`;

it('a hidden export is not listed, and there for who knows its name', async (context) => {
  requireTools(context, 'nbdinfo');
  const node = await serve(testScope(), '[export.secret]\nhidden = true\n', ['disk', 'secret']);
  const { ipv4 = '' } = await uris(node, '');
  expect(await listed(ipv4)).toEqual(['disk']);
  expect(await sizeOf(node.uri('secret'))).toBe(8 << 20);
  // The default export is the only one that is listed: it gives no hidden one away.
  expect(await sizeOf(ipv4)).toBe(8 << 20);
  const { stdout } = await run('nbdinfo', ['--json', ipv4]);
  expect(stdout).not.toContain('secret');
  await node.request('DELETE', '/v1/volumes/disk');
  expect(await listed(ipv4)).toEqual([]);
  expect(await sizeOf(ipv4)).toBe(null);
});

it('a node that lists nothing tells no name', async (context) => {
  requireTools(context, 'nbdinfo', 'nbd-client');
  for (const config of ['list = false\n', '']) {
    const flags = config === '' ? { flags: ['--no-list'] } : {};
    const node = await serve(testScope(), config, ['disk'], flags);
    const { ipv4 = '' } = await uris(node, '');
    const { code, stdout } = await run('nbdinfo', ['--list', ipv4], { allowFailure: true });
    expect(code).not.toBe(0);
    expect(stdout).not.toContain('disk');
    const port = (await node.tcpAddress()).split(':')[1] ?? '';
    const old = await run('nbd-client', ['-l', '127.0.0.1', port], { allowFailure: true });
    expect(`${old.stdout}${old.stderr}`).not.toContain('disk');
    expect(await sizeOf(ipv4)).toBe(null);
    expect(await sizeOf(node.uri('disk'))).toBe(8 << 20);
    await node.stop();
  }
});

it('addresses decide who may have an export, as addresses and not as text', async (context) => {
  requireTools(context, 'nbdinfo');
  const rules: Record<string, { allow: string; opens: readonly string[] }> = {
    four: { allow: '["127.0.0.0/8"]', opens: ['ipv4'] },
    exact: { allow: '["127.0.0.1/32", "::2"]', opens: ['ipv4'] },
    other: { allow: '["127.0.0.0/31", "127.0.0.2"]', opens: ['ipv4'] },
    wrong: { allow: '["127.0.0.2/31", "10.0.0.0/8", "::/128", "2001:db8::/32"]', opens: [] },
    six: { allow: '["0:0:0:0:0:0:0:1"]', opens: ['ipv6'] },
    'six-all': { allow: '["::/0"]', opens: ['ipv6'] },
    socket: { allow: '["unix"]', opens: ['unix'] },
    mixed: { allow: '["unix", "::1/128", "127.0.0.0/8"]', opens: ['ipv4', 'ipv6', 'unix'] },
  };
  const tables = Object.entries(rules).map(
    ([name, { allow }]) => `[export.${name}]\nallow = ${allow}\n`,
  );
  const node = await serve(testScope(), tables.join(''), Object.keys(rules));
  const found: Record<string, string[]> = {};
  for (const name of Object.keys(rules)) {
    const opened: string[] = [];
    for (const [kind, uri] of Object.entries(await uris(node, name))) {
      if ((await sizeOf(uri)) !== null) opened.push(kind);
    }
    found[name] = opened;
  }
  const wanted = Object.entries(rules).map(([name, { opens }]) => [name, opens]);
  expect(found).toEqual(Object.fromEntries(wanted));
  for (const [kind, uri] of Object.entries(await uris(node, ''))) {
    const names = Object.keys(rules).filter((name) => rules[name]?.opens.includes(kind));
    expect(await listed(uri.replace('nbd+unix:///', 'nbd+unix://'))).toEqual(names.toSorted());
  }
  // Denied is told to the log; the client hears what it hears of a name that is none.
  const denied = await run('nbdinfo', [node.uri('six')], { allowFailure: true });
  const unknown = await run('nbdinfo', [node.uri('xis')], { allowFailure: true });
  expect(denied.stderr.replaceAll('six', 'NAME')).toBe(unknown.stderr.replaceAll('xis', 'NAME'));
  expect(node.log).toContain('is not among its addresses');
});

it('takes an IPv4 client of an IPv6 socket by its IPv4 address', async (context) => {
  requireTools(context, 'nbdinfo', 'ip');
  requireRoot(context, 'network namespaces');
  const scope = testScope();
  const { prefix, host } = await tapNamespace(scope);
  const config = `insecure = true\n[export.mapped]\nallow = ["${host}/32"]\n[export.six]\nallow = ["::/0"]\n`;
  const node = await serve(scope, config, ['mapped', 'six'], {
    nbd: ['[::]:10809'],
    prefix,
  });
  const [ip = '', ...words] = prefix;
  const opens = async (name: string, address: string): Promise<boolean> => {
    const uri = `nbd://${address}:10809/${name}`;
    const { code } = await run(ip, [...words, 'nbdinfo', '--size', uri], { allowFailure: true });
    return code === 0;
  };
  expect([await opens('mapped', host), await opens('six', host)]).toEqual([true, false]);
  expect([await opens('mapped', '[::1]'), await opens('six', '[::1]')]).toEqual([false, true]);
  await node.stop();
});

/** Exit code of nbdinfo as the user nobody. */
async function asked(socket: string, ...groups: readonly string[]): Promise<number | null> {
  const who = ['--reuid=65534', '--regid=65534', ...groups];
  const uri = `nbd+unix:///disk?socket=${socket}`;
  return (await run('setpriv', [...who, 'nbdinfo', '--size', uri], { allowFailure: true })).code;
}

it('a unix socket has the rights that it was given', async (context) => {
  requireTools(context, 'nbdinfo', 'setpriv');
  requireRoot(context, 'other users');
  const scope = testScope();
  const dir = scope.tempDir();
  chmodSync(dir, 0o755);
  const [open, shut] = [join(dir, 'open.sock'), join(dir, 'shut.sock')];
  const listeners = `nbd = [
    { address = "unix:${open}", mode = "0666" },
    { address = "unix:${shut}", mode = "0660", owner = "root", group = "disk" },
  ]\n`;
  const node = await serve(scope, listeners, ['disk'], { nbdElsewhere: true });
  expect(statSync(open).mode & 0o777).toBe(0o666);
  expect(statSync(shut).mode & 0o777).toBe(0o660);
  const diskGroup = (await run('getent', ['group', 'disk'])).stdout.split(':')[2];
  expect([statSync(shut).uid, statSync(shut).gid]).toEqual([0, Number(diskGroup)]);

  expect(await asked(open, '--clear-groups')).toBe(0);
  expect(await asked(shut, '--clear-groups')).not.toBe(0);
  expect(await asked(shut, `--groups=${diskGroup}`)).toBe(0);
  await node.stop();
});
