/**
 * Sockets of systemd. The environment as sd_listen_fds(3) describes it, by plain calls; then a node that a parent
 * starts with sockets which the parent bound: real processes, real clients.
 */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ControlClient } from '../../src/cli/client.ts';
import { NO_ACTIVATION, takeActivation } from '../../src/control/config/activation.ts';
import type { NodeFacts, VolumeStatus } from '../../src/control/status.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import { run, start, type ManagedProcess } from '../support/process.ts';
import { BLOCKFERRY_BIN } from '../support/root.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const PID = 4711;
type Variables = Record<string, string | undefined>;

describe('the environment of an activated process', () => {
  test.each<[string, Variables, object]>([
    ['one socket', { LISTEN_PID: '4711', LISTEN_FDS: '1' }, { nbd: [3], control: null }],
    [
      'several, with names',
      { LISTEN_PID: '4711', LISTEN_FDS: '3', LISTEN_FDNAMES: 'blockferry.socket:control:' },
      { nbd: [3, 5], control: 4 },
    ],
    ['none', { LISTEN_PID: '4711', LISTEN_FDS: '0' }, NO_ACTIVATION],
    ['those of another process', { LISTEN_PID: '4712', LISTEN_FDS: '2' }, NO_ACTIVATION],
    ['no process named', { LISTEN_FDS: '2' }, NO_ACTIVATION],
    ['nothing', {}, NO_ACTIVATION],
  ])('says %s, and is cleared', (_what, variables, activation) => {
    const environment: Variables = { ...variables, PATH: '/bin' };
    expect(takeActivation(environment, PID)).toEqual(activation);
    expect(environment).toEqual({ PATH: '/bin' });
  });

  test.each<[string, Variables]>([
    ['no number', { LISTEN_FDS: 'two' }],
    ['a negative number', { LISTEN_FDS: '-1' }],
    ['too many', { LISTEN_FDS: '17' }],
    ['more names than sockets', { LISTEN_FDS: '1', LISTEN_FDNAMES: 'a:b' }],
    ['two for control', { LISTEN_FDS: '2', LISTEN_FDNAMES: 'control:control' }],
  ])('is refused with %s', (_what, variables) => {
    let thrown: unknown;
    try {
      takeActivation({ LISTEN_PID: '4711', ...variables }, PID);
    } catch (error) {
      thrown = error;
    }
    expect(thrown instanceof BlockferryError && thrown.code).toBe('SOCKET_INVALID');
  });
});

/** Binds what it is told, passes it on as systemd does, and becomes the program behind `--`. */
const PARENT = `
import os, socket, sys
split = sys.argv.index("--")
names, held = [], []
for spec in sys.argv[1:split]:
    name, kind, where = spec.split("=")
    if kind == "unix":
        s = socket.socket(socket.AF_UNIX); s.bind(where)
    elif kind == "tcp":
        host, port = where.rsplit(":", 1)
        s = socket.socket(socket.AF_INET); s.bind((host, int(port)))
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0))
    if kind != "udp": s.listen(16)
    names.append(name); held.append(os.dup2(s.fileno(), 100 + len(held), True))
for index, fd in enumerate(held): os.dup2(fd, 3 + index, True); os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(held))
os.environ["LISTEN_FDNAMES"] = ":".join(names)
os.execvp(sys.argv[split + 1], sys.argv[split + 1:])
`;

interface Ground {
  readonly dir: string;
  readonly nbd: string;
  readonly control: string;
}

function ground(scope: Scope): Ground {
  const dir = scope.tempDir('bf-activation-');
  return { dir, nbd: join(dir, 'nbd.sock'), control: join(dir, 'control.sock') };
}

function activate(
  scope: Scope,
  { dir }: Ground,
  sockets: readonly string[],
  flags: readonly string[] = [],
): ManagedProcess {
  const serve = [process.execPath, BLOCKFERRY_BIN, 'serve', '--data', join(dir, 'data'), ...flags];
  return start(scope, '/usr/bin/python3', ['-c', PARENT, ...sockets, '--', ...serve]);
}

async function facts(control: string): Promise<NodeFacts> {
  const client = new ControlClient({ kind: 'unix', path: control });
  return waitUntil('the node to answer', () => client.call<NodeFacts>('GET', '/v1/node'));
}

describe('a node that is started with sockets', () => {
  test('serves NBD and control there, in the place of the defaults, and leaves the files', async (context) => {
    requireTools(context, 'nbdinfo');
    const scope = testScope();
    const place = ground(scope);
    const sockets = [
      `blockferry.socket=unix=${place.nbd}`,
      `control=unix=${place.control}`,
      'blockferry.socket=tcp=127.0.0.1:0',
    ];
    const child = activate(scope, place, sockets);
    const { nbd, pid } = await facts(place.control);
    expect(pid).toBe(child.pid);
    expect(nbd).toEqual([`unix:${place.nbd}`, expect.stringMatching(/^127\.0\.0\.1:\d+$/)]);
    const client = new ControlClient({ kind: 'unix', path: place.control });
    await client.call<VolumeStatus>('POST', '/v1/volumes', { name: 'demo', size: '1M' });
    for (const uri of [`nbd+unix:///demo?socket=${place.nbd}`, `nbd://${nbd[1] ?? ''}/demo`]) {
      expect((await run('nbdinfo', ['--size', uri])).stdout.trim()).toBe(String(2 ** 20));
    }
    await child.stop();
    expect(child.exitCode).toBe(0);
    // They belong to who made them: the next start gets them again.
    expect(statSync(place.nbd).isSocket()).toBe(true);
    expect(statSync(place.control).isSocket()).toBe(true);
    expect(existsSync(join(place.dir, 'data', 'nbd.sock'))).toBe(false);
  });

  test('serves the addresses that were named, too', async () => {
    const scope = testScope();
    const place = ground(scope);
    const own = `unix:${join(place.dir, 'own.sock')}`;
    const flags = ['--nbd', own, '--control', `unix:${place.control}`];
    activate(scope, place, [`x=unix=${place.nbd}`], flags);
    expect((await facts(place.control)).nbd).toEqual([`unix:${place.nbd}`, own]);
  });

  test.each<[string, readonly string[], RegExp]>([
    ['a datagram socket', ['x=udp='], /descriptor 3: .*\[SOCKET_INVALID\]/],
    [
      'one that strangers reach',
      ['x=tcp=0.0.0.0:0'],
      /0\.0\.0\.0:\d+ is reachable.*\[INSECURE_ADDRESS\]/,
    ],
    ['two for control', ['control=unix=A', 'control=unix=B'], /two sockets.*\[SOCKET_INVALID\]/],
    [
      'a control socket that strangers reach',
      ['control=tcp=0.0.0.0:0'],
      /inherited control.*\[INSECURE_ADDRESS\]/,
    ],
  ])('refuses %s', async (_what, specs, line) => {
    const scope = testScope();
    const place = ground(scope);
    const sockets = specs.map((spec) => spec.replace(/[AB]$/, `${place.dir}/$&`));
    const flags = ['--control', `unix:${place.control}`];
    const child = activate(scope, place, sockets, flags);
    expect(await child.waitForExit(10_000)).toBe(true);
    expect(child.exitCode).toBe(1);
    expect(child.stderr).toMatch(line);
  });
});
